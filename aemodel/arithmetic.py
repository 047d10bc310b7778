"""What the steps of a training are computed in: float32 as it stands, or bfloat16 and compiled code where they pay.

Whether they do depends on the machine and the network, so a short trial decides: a few steps each way on the same rows.
What is faster is used if it learns as well. Weights, their average and what is validated are float32 in any case.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from aemodel.config import TrainingJob
from aemodel.model.descent import LossFunction

log = logging.getLogger("aemodel")

#: Floating point operations of a training from which on a trial is worth its part of a second: some seconds of a core.
WORTH_A_TRIAL = 3e11
#: Seconds of training from which on compiling, which takes some fifteen, can pay: on two cores it made the default
#: network 1.2 times as fast at 1,024 rows a step, and neither that at 4,096 nor layers of relu at any.
WORTH_COMPILING = 180.0
#: Operations under which no machine trains as long: what that memory need not be kept free for.
COMPILED_WORK = 6e12
#: Steps that are not timed, since the first ones also compile and allocate; and those that are.
UNTIMED, TIMED = 3, 8
#: How much faster a way must be to be taken, and how far its loss may be from float32's.
LEAST_GAIN = 1.05
LARGEST_DIFFERENCE = 0.01


@dataclass(frozen=True)
class Arithmetic:
    """The plain value is eager float32."""

    bf16: bool = False
    compiled: bool = False

    def applied(self, loss: LossFunction) -> LossFunction:
        """`loss`, computed so."""
        if self.compiled:
            torch._dynamo.config.suppress_errors = True  # what cannot be compiled is computed as it stands
            torch._inductor.config.compile_threads = 1  # here: processes for it would hold hundreds of megabytes
            loss = torch.compile(loss, dynamic=False)
        if not self.bf16:
            return loss

        def short(*arguments: Any, **named: Any) -> Tensor:
            device = next(a for a in arguments if isinstance(a, Tensor)).device.type
            with torch.autocast(device, torch.bfloat16):
                return loss(*arguments, **named)

        return short

    @property
    def text(self) -> str:
        return ("bfloat16" if self.bf16 else "float32") + (", compiled" if self.compiled else "")


@dataclass(frozen=True)
class Timing:
    """`seconds` a step takes, and the `loss` that the trial's steps end at."""

    seconds: float
    loss: float


def chosen(job: TrainingJob, work: float, steps: int, gpu: bool, timed: Callable[[Arithmetic], Timing]) -> Arithmetic:
    """What a training of `work` floating point operations in `steps` is computed in.

    The job's word holds; where it leaves the choice, `timed` tells what a way of computing gives. On a GPU bfloat16
    needs no trial.
    """
    exact = Arithmetic()
    fixed = Arithmetic(job.precision == "bf16" or (job.precision == "auto" and gpu), job.compile is True)
    open_precision, open_compile = job.precision == "auto" and not gpu, job.compile == "auto"
    if work < WORTH_A_TRIAL or not (open_precision or open_compile):
        return fixed
    reference = timed(exact)
    best, known = fixed, reference if fixed == exact else timed(fixed)
    candidates: list[Callable[[Arithmetic], Arithmetic]] = []
    if open_precision:
        candidates.append(lambda best: replace(best, bf16=True))
    if open_compile:
        candidates.append(lambda best: replace(best, compiled=True))
    for candidate in candidates:
        way = candidate(best)
        if way.compiled and not best.compiled and steps * known.seconds < WORTH_COMPILING:
            continue
        found = timed(way)
        if known.seconds > LEAST_GAIN * found.seconds and _agrees(found, reference):
            best, known = way, found
    return best


def _agrees(found: Timing, reference: Timing) -> bool:
    return abs(found.loss - reference.loss) <= LARGEST_DIFFERENCE * abs(reference.loss)


class Trial:
    """Times some steps of a `model`, which is afterwards as it was before."""

    def __init__(
        self,
        model: nn.Module,
        loss_in: Callable[[Arithmetic], LossFunction],
        step: Callable[[LossFunction, int], Tensor],
        rate: float,
    ) -> None:
        """`step` gives the loss of the step of that number, computed by the function that it is handed."""
        self.model, self.loss_in, self.step, self.rate = model, loss_in, step, rate

    def __call__(self, arithmetic: Arithmetic) -> Timing:
        """A way that fails, in a compiler or a driver, takes for ever."""
        with _restored(self.model):
            try:
                return self._timed(arithmetic)
            except Exception as error:  # nothing is lost by it: another way is taken
                log.debug("%s cannot be used: %s", arithmetic, error)
                return Timing(float("inf"), float("inf"))

    def _timed(self, arithmetic: Arithmetic) -> Timing:
        loss, seconds, total = self.loss_in(arithmetic), [], float("nan")
        # Not ours: what it held of a large network was seen to stay when the trial was over.
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.rate, fused=True)
        for number in range(UNTIMED + TIMED):
            began = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            found = self.step(loss, number)
            if found.requires_grad:
                found.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total = float(found.detach())  # waits for a GPU
            seconds.append(time.perf_counter() - began)
        return Timing(min(seconds[UNTIMED:]), total)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    before = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
        model.zero_grad(set_to_none=True)

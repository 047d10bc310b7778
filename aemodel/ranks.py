"""How the ranks of a training average their gradients: by DDP, or, on one machine's processor, in shared memory.

gloo, which DDP uses there, sends gradients through sockets, by threads that take the cores from those of the steps: 1.4
ms for a network of 160 KB whose step takes 3. In shared memory every rank writes its own where all see it, tells the
others through a pipe, and adds up what they wrote, in the order of the ranks, so that all get the same bits. With what
they tell, ranks also agree to stop in the same step, for which Lightning sends a message before each batch; and what
little they add up between epochs goes through the pipes too.
"""

from __future__ import annotations

import itertools
import logging
import os
import select
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor, nn
from torch.distributed import ReduceOp

log = logging.getLogger("aemodel")

#: Places for one gradient each: a rank that is ahead writes its next while others still read its last. It is never
#: further ahead, as it waits for their next.
SLOTS = 2
VALUES = "values"
#: Bytes that a pipe takes all at once or not at all.
LONGEST = select.PIPE_BUF
#: Seconds for which a rank asks for the others again and again before it sleeps until they tell it: to be woken takes
#: longer than most of what they are late.
PATIENCE = 0.001


def strategy(world_size: int, on_one_cpu: bool) -> str | DDPStrategy:
    """Lightning's, for so many ranks, all of them `on_one_cpu` or not."""
    if world_size == 1:
        return "auto"
    # Buffers need not be sent around: they do not change, or are a rank's own count (of the sparse preset's latents).
    return (InMemory if on_one_cpu else DDPStrategy)(broadcast_buffers=False)


def needs_autograd(strategy: Strategy) -> bool:
    """Whether gradients are averaged as autograd brings them, by DDP's hooks: not of one rank, nor in memory."""
    in_memory = isinstance(strategy, InMemory) and strategy.in_memory
    return not (in_memory or isinstance(strategy, SingleDeviceStrategy))


class InMemory(DDPStrategy):
    """DDP whose gradients are averaged in memory, where there is room for it."""

    _mean: SharedMean | None = None
    #: Of this rank, by a signal, say. The others are told with its next gradients.
    asked_to_stop = False
    _agreed = False

    @property
    def in_memory(self) -> bool:
        """Known once a training is set up."""
        return self._mean is not None

    @property
    def agreed_to_stop(self) -> bool:
        """That some rank is to stop is known to all after the same step."""
        return self._agreed if self._mean is not None else self.asked_to_stop

    def configure_ddp(self) -> None:
        assert self.lightning_module is not None
        weights = [p for p in self.lightning_module.parameters() if p.requires_grad]
        made = made_for(weights, self.world_size) if self.global_rank == 0 else None
        try:
            folder = self.broadcast(made)
            if folder is not None:
                self._mean = SharedMean(folder, weights, self.global_rank, self.world_size, self.barrier)
        finally:
            if made is not None:  # what is open stays, and goes with the last rank
                shutil.rmtree(made, ignore_errors=True)
        if self._mean is None:
            super().configure_ddp()
        else:  # private, hence the test
            loop = self.lightning_module.trainer.fit_loop.epoch_loop
            loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def post_backward(self, closure_loss: Tensor) -> None:
        if self._mean is not None:
            self._agreed |= self._mean(self.asked_to_stop)
        super().post_backward(closure_loss)

    def reduce(self, tensor: Any, group: Any = None, reduce_op: ReduceOp | str | None = "mean") -> Any:
        """A small tensor's sum or mean over ranks, through the pipes; of anything else as Lightning does it."""
        known = group is None and reduce_op in ("mean", "sum", ReduceOp.SUM)
        if self._mean is None or not known or not isinstance(tensor, Tensor) or tensor.nbytes > LONGEST:
            return super().reduce(tensor, group, reduce_op)
        told = self._mean.peers.told(tensor.numpy().tobytes())
        total = torch.stack([torch.frombuffer(bytearray(m), dtype=tensor.dtype) for m in told]).sum(dim=0)
        return (total / self.world_size if reduce_op == "mean" else total).view(tensor.shape)

    def teardown(self) -> None:
        if self._mean is not None:
            self._mean.peers.close()
            self._mean = None
        super().teardown()


class Peers:
    """All ranks of a machine, each of which hears what each other tells, through a pipe."""

    def __init__(self, folder: Path, rank: int, ranks: int, barrier: Callable[[], None]) -> None:
        """`folder` is of `made_for`, and needed no longer when all ranks are through; `barrier` waits for them."""
        self.rank = rank
        others = [other for other in range(ranks) if other != rank]
        self._readers = [os.open(folder / f"{other}-{rank}", os.O_RDONLY | os.O_NONBLOCK) for other in others]
        barrier()  # a pipe can be opened for writing once it is for reading
        self._writers = [os.open(folder / f"{rank}-{other}", os.O_WRONLY | os.O_NONBLOCK) for other in others]
        barrier()

    def told(self, message: bytes) -> list[bytes]:
        """What all ranks tell at this point, each as many bytes, at most `LONGEST`: in their order, the own `message`
        among them. Raises ConnectionError when another rank is gone."""
        for writer in self._writers:
            os.write(writer, message)
        told = [_heard(reader, len(message)) for reader in self._readers]
        told.insert(self.rank, message)
        return told

    def close(self) -> None:
        for pipe in (*self._readers, *self._writers):
            os.close(pipe)


class SharedMean:
    """Replaces the gradients of `weights` by their mean over ranks, each of which calls this after as many steps."""

    def __init__(
        self, folder: Path, weights: Sequence[nn.Parameter], rank: int, ranks: int, barrier: Callable[[], None]
    ) -> None:
        """As `Peers`."""
        self.weights, size = list(weights), _size(weights)
        shared = torch.from_file(str(folder / VALUES), shared=True, size=SLOTS * ranks * size)
        self.mean = torch.empty(size)
        # Views are made once: to make them takes as long as to add up what they show.
        self._slots = [list(slot) for slot in shared.view(SLOTS, ranks, size)]
        self._own, self._means = [self._by_weight(slot[rank]) for slot in self._slots], self._by_weight(self.mean)
        self._turn = 0
        self.peers = Peers(folder, rank, ranks, barrier)  # all have opened what is shared when this returns

    def __call__(self, said: bool = False) -> bool:
        """Whether any rank `said` so. Raises ConnectionError when another rank is gone."""
        slot = self._turn % SLOTS
        self._turn += 1
        gradients = [w.grad for w in self.weights if w.grad is not None]
        assert len(gradients) == len(self.weights), "a weight has no part in the loss"
        torch._foreach_copy_(self._own[slot], gradients)
        all_said = self.peers.told(bytes([said]))
        first, second, *others = self._slots[slot]
        torch.lerp(first, second, 1 / 2, out=self.mean)
        for number, other in enumerate(others, 3):
            self.mean.lerp_(other, 1 / number)
        for weight, mean in zip(self.weights, self._means, strict=True):
            weight.grad = mean
        return any(map(any, all_said))

    def _by_weight(self, values: Tensor) -> list[Tensor]:
        """Views of `values` (size of all weights,), of the shapes of the weights."""
        parts = torch.split(values, [w.numel() for w in self.weights])
        return [part.view(w.shape) for part, w in zip(parts, self.weights, strict=True)]


def _heard(reader: int, size: int) -> bytes:
    """What the rank at the other end tells once it is as far."""
    until = time.perf_counter() + PATIENCE
    while True:
        try:
            told = os.read(reader, size)
            if not told:
                raise ConnectionError("another rank has ended")
            assert len(told) == size, "ranks are at different points"
            return told
        except BlockingIOError:
            if time.perf_counter() < until:
                os.sched_yield()
            else:
                select.select([reader], [], [])


def made_for(weights: Sequence[nn.Parameter], ranks: int) -> Path | None:
    """A folder with memory for gradients, as a file, and a pipe from each rank to each other; None where that cannot
    be."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="aemodel-ranks-"))
        try:
            with open(folder / VALUES, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, SLOTS * ranks * _size(weights) * 4)
            for writer, reader in itertools.permutations(range(ranks), 2):
                os.mkfifo(folder / f"{writer}-{reader}")
        except (OSError, AttributeError):  # no room, or a system without it
            shutil.rmtree(folder)
            raise
    except (OSError, AttributeError) as error:
        log.debug("gradients are averaged by gloo: %s", error)
        return None
    return folder


def _size(weights: Sequence[nn.Parameter]) -> int:
    return sum(w.numel() for w in weights)

"""How fast this machine is, measured in about two seconds, or in a few steps where these are long: the network's own
layers, and plain work on one core."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from aemodel.cost import Machine, Shape
from aemodel.dense import Dense
from aemodel.preflight.limits import memory_bytes

#: The seconds of `_plain_work` where the constants of `aemodel.cost` hold: not measured on the reference machine, but
#: set (Python 3.11) by how much longer the phases of runs took on one with AVX2 alone.
REFERENCE_SECONDS = 0.0068
#: Each measure is repeated for this long, in seconds, and the median counts: where others use the same cores, as on
#: most rented machines, the fastest is what a run never has for long.
LASTS = 0.2
ROWS = 4_096


def measured(shape: Shape) -> Machine:
    """This machine's speed at the work of `shape`: training with all cores, scoring with torch's own threads."""
    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    device, threads = "cuda" if gpus else "cpu", torch.get_num_threads()
    forward = _forward(shape)
    work = _plain_work()
    plain = [_usual(work)]  # again and again: a core that others share is fast for a second and slow for the next
    try:
        step = math.inf
        for number in {max(1, cores // shape.ranks), 1}:
            step = min(step, _with_threads(number, shape, device))
            plain.append(_usual(work))
        operations = 2.0 * ROWS * 512**2 / _usual(_product(threads))
    finally:
        torch.set_num_threads(threads)
    plain.append(_usual(work))
    slowness = statistics.mean(plain) / REFERENCE_SECONDS
    return Machine(cores, gpus, memory_bytes(), slowness, step, forward, operations)


def _with_threads(threads: int, shape: Shape, device: str) -> float:
    torch.set_num_threads(threads)
    step = _step(shape, device)
    ways = (False, True) if shape.bf16 else (False,)  # a training finds out by a trial as well
    return min(_usual(partial(step, bf16), synchronise=device == "cuda") for bf16 in ways)


def _step(shape: Shape, device: str) -> Callable[[bool], object]:
    network = _layers(shape).to(device)
    rows = torch.randn(shape.batch_size, shape.inputs, device=device)
    wanted = torch.randn(shape.batch_size, shape.width, device=device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step(bf16: bool) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            found = network(rows)
        (found.float() - wanted).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _forward(shape: Shape) -> float:
    """Seconds a row."""
    network, rows = _layers(shape), torch.randn(ROWS, shape.inputs)
    with torch.inference_mode():
        return _usual(lambda: network(rows)) / ROWS


def _layers(shape: Shape) -> nn.Sequential:
    """Encoder and decoder as the default preset has them, without what stands around them."""
    sizes = (shape.inputs, *shape.hidden, shape.latent_dim, *shape.hidden, shape.width)
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [Dense(before, after), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def _product(threads: int) -> Callable[[], Tensor]:
    torch.set_num_threads(threads)
    a, b = torch.randn(ROWS, 512), torch.randn(512, 512)
    return lambda: a @ b


def _plain_work() -> Callable[[], object]:
    """What most of a run's time goes to outside the network: numbers looked up on a curve, in float64, and as long
    Python's own work, which is held up much more where another machine's work shares a core."""
    rng = np.random.default_rng(0)
    values, knots = rng.normal(size=65_536), np.linspace(-3, 3, 257)
    source = "\n".join(f"def f{n}(a, b={n}):\n    return [a + b for _ in a] if a else {{'{n}': b}}" for n in range(100))

    def work() -> object:
        np.clip(np.interp(values, knots, knots), -1, 1).astype(np.float32)
        return compile(source, "work", "exec")

    return work


def _usual(call: Callable[[], object], synchronise: bool = False) -> float:
    """The median seconds of several calls after a first one."""
    call()
    if synchronise:
        torch.cuda.synchronize()
    took, ends = list[float](), time.perf_counter() + LASTS
    while not took or (time.perf_counter() < ends and len(took) < 1_000):
        began = time.perf_counter()
        call()
        if synchronise:
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return max(statistics.median(took), 1e-9)

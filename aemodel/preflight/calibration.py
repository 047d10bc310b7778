"""How fast this machine is, measured in about a second: the network's own layers, and plain work on one core."""

from __future__ import annotations

import os
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

#: The least seconds that `_plain_work` took on the reference machine.
REFERENCE_SECONDS = 0.00335
#: Each measure is repeated for this long, in seconds, and the fastest counts: other work only ever slows it down.
LASTS = 0.2
ROWS = 4_096


def measured(shape: Shape) -> Machine:
    """This machine's speed at the work of `shape`: training with all cores, scoring with torch's own threads."""
    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    device, threads = "cuda" if gpus else "cpu", torch.get_num_threads()
    forward = _forward(shape)
    try:
        step = min(_with_threads(n, shape, device) for n in {max(1, cores // shape.ranks), 1})
        operations = 2.0 * ROWS * 512**2 / _fastest(_product(threads))
    finally:
        torch.set_num_threads(threads)
    slowness = _fastest(_plain_work()) / REFERENCE_SECONDS
    return Machine(cores, gpus, memory_bytes(), slowness, step, forward, operations)


def _with_threads(threads: int, shape: Shape, device: str) -> float:
    torch.set_num_threads(threads)
    step = _step(shape, device)
    ways = (False, True) if shape.bf16 else (False,)  # a training finds out by a trial as well
    return min(_fastest(partial(step, bf16), synchronise=device == "cuda") for bf16 in ways)


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
        return _fastest(lambda: network(rows)) / ROWS


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
    """What most of a run's time goes to outside the network: numbers looked up on a curve, in float64."""
    rng = np.random.default_rng(0)
    values, knots = rng.normal(size=65_536), np.linspace(-3, 3, 257)
    return lambda: np.clip(np.interp(values, knots, knots), -1, 1).astype(np.float32)


def _fastest(call: Callable[[], object], synchronise: bool = False) -> float:
    """The least seconds of several calls."""
    best, ends = float("inf"), time.perf_counter() + LASTS
    for _ in range(1_000):
        began = time.perf_counter()
        call()
        if synchronise:
            torch.cuda.synchronize()
        now = time.perf_counter()
        best = min(best, now - began)
        if now > ends:
            break
    return max(best, 1e-9)

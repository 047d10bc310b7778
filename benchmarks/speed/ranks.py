"""What a second rank brings: two with half of the cores each, against one with half of them.

A rank alone leaves cores idle that its reading thread and the system then use, so it is measured on half of the cores
as well; and a cache and memory that it need not share, so two of it that have nothing to do with one another are
measured at once: what the machine gives two ranks, less what they do together. Steps of as many rows over all ranks are
the same training; steps of as many rows on each show what averaging costs when there is more between two of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from benchmarks.speed.measure import Measured, Method, in_turn
from benchmarks.speed.setting import Setting, ours
from benchmarks.speed.training import ARITHMETIC, PLAIN, Ground

BATCH = 4096
#: Times as many epochs as elsewhere: what is compared differs by less than one epoch from the next.
LONGER = 3


def baseline(method: str) -> str:
    """One rank, computing likewise."""
    return f"aemodel, 1 rank, {method.split(', ')[-1]}"


def measured(setting: Setting) -> Iterator[Measured]:
    """Rows a second over all ranks."""
    ground = Ground.made(setting)
    methods = [m for arithmetic in ("float32", "bfloat16") for m in _methods(ground, setting, arithmetic)]
    yield from in_turn(setting.chosen(methods), setting.repeats, setting.scratch)


def _methods(ground: Ground, setting: Setting, arithmetic: str) -> Iterator[Method]:
    threads = max(1, (os.cpu_count() or 1) // 2)

    def method(name: str, batch: int, command: str, *arguments: object) -> Method:
        slug = f"ranks-{name}-{arithmetic}".replace(", ", "-").replace(" ", "-")
        training = {"batch_size": batch, "max_epochs": LONGER * setting.epochs} | ARITHMETIC[arithmetic]
        job = setting.job(slug, ground.table, PLAIN, training)
        return ours(f"{name}, {arithmetic}", command, ground.plain, job, setting.run_folder(slug), *arguments)

    yield method("1 rank", BATCH, "train_alone", threads)
    yield method("1 rank on half of the cores", BATCH, "train_alone", threads, threads)
    yield method("2 trainings apart", BATCH, "train_apart", 2)
    yield method("2 ranks, as many rows a step", BATCH, "train", 2)
    yield method("2 ranks, twice as many rows a step", 2 * BATCH, "train", 2)

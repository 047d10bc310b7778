"""What a second rank brings: two with half of the cores each, against one with half of them."""

from __future__ import annotations

import os
from collections.abc import Iterator

from benchmarks.speed.measure import Measured, in_turn
from benchmarks.speed.setting import Setting, ours
from benchmarks.speed.training import PLAIN, Ground

BATCH = 4096
BASELINE = "aemodel, 1 rank"


def measured(setting: Setting) -> Iterator[Measured]:
    """Rows a second over all ranks, of steps of as many rows."""
    ground = Ground.made(setting)
    job = setting.job("ranks", ground.table, PLAIN, {"batch_size": BATCH, "max_epochs": setting.epochs})
    threads = max(1, (os.cpu_count() or 1) // 2)
    methods = [
        ours("1 rank", "train_alone", ground.plain, job, setting.run_folder("rank-1"), threads),
        ours("2 ranks", "train", ground.plain, job, setting.run_folder("ranks-2"), 2),
    ]
    yield from in_turn(setting.chosen(methods), setting.repeats, setting.scratch)

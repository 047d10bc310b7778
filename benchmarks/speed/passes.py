"""What is read before training, pass by pass: the bare scan, statistics, and the Gram matrix of what is encoded."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.speed import tables
from benchmarks.speed.measure import Measured, in_turn
from benchmarks.speed.setting import Setting, ours

BASELINE = "aemodel, scan"


def measured(setting: Setting) -> Iterator[Measured]:
    """Rows a second of each pass over the main table, decoding included."""
    job = setting.job("passes", tables.numbers(setting.scratch, setting.rows, setting.columns))
    methods = [ours(name, "one_pass", job, name) for name in ("scan", "statistics", "Gram matrix")]
    yield from in_turn(setting.chosen(methods), setting.repeats, setting.scratch)

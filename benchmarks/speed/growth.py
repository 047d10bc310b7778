"""Whole jobs on tables of more rows, of more columns and with levels: what each stage takes, and memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.speed import tables
from benchmarks.speed.measure import Measured, Method, in_turn
from benchmarks.speed.setting import Setting, ours

#: Rows of the tables that grow in columns, of the one with many columns, and of the one with levels.
COLUMN_ROWS, WIDE_ROWS, MIXED_ROWS = 100_000, 200_000, 500_000
WIDE_COLUMNS = 400
#: Sizes differ by orders of magnitude, and the large ones take minutes.
REPEATS = 1


@dataclass(frozen=True)
class Size:
    """A table's rows and columns, its id aside. `kind` is the family of tables that it grows in."""

    kind: str
    rows: int
    columns: int

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.rows:,} × {self.columns:,}"

    def table(self, scratch: Path) -> Path:
        if self.kind == "levels":
            return tables.mixed(scratch, self.rows)
        return tables.numbers(scratch, self.rows, self.columns)

    def method(self, setting: Setting) -> Method:
        """A job with all defaults that trains for one epoch."""
        name = f"{self.kind}-{self.rows}x{self.columns}".replace(" ", "-")
        job = setting.job(name, self.table(setting.scratch), training={"max_epochs": 1})
        return ours(self.name, "whole", job, setting.scratch / "works" / name)


def sizes(setting: Setting) -> list[Size]:
    """None is larger than the setting's tables, but where it says so."""
    few, wide, mixed = (min(rows, setting.rows) for rows in (COLUMN_ROWS, WIDE_ROWS, MIXED_ROWS))
    return [
        *(Size("by rows", rows, setting.columns) for rows in setting.growth_rows),
        *(Size("by columns", few, columns) for columns in setting.growth_columns),
        Size("wide", wide, WIDE_COLUMNS),
        Size("levels", mixed, tables.NUMERIC + tables.CATEGORICAL),
    ]


def measured(setting: Setting) -> Iterator[Measured]:
    """`preparing`, `one epoch`, `evaluating` and `scoring` in seconds."""
    by_method = {f"aemodel, {size.name}": size for size in sizes(setting)}
    methods = setting.chosen(size.method(setting) for size in by_method.values())
    for one in in_turn(methods, REPEATS, setting.scratch):
        size = by_method[one.method]
        yield replace(one, figures=one.figures | {"kind": size.kind, "rows": size.rows, "columns": size.columns})

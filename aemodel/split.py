"""Which rows are held out: decided row by row, before anything is fitted, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from aemodel import cells
from aemodel.config import SplitJob
from aemodel.errors import JobError, shown
from aemodel.files import digest
from aemodel.schema import Column, TableSchema, natural_kind

#: With fewer distinct rows than this, a split by content gives too few held-out rows that differ to measure by.
FEW_DISTINCT = 200


@dataclass(frozen=True)
class Place:
    """Where a batch of consecutive rows stands: file (path below the dataset's), row group, ordinal of its first."""

    path: str
    row_group: int
    begin: int

    def hashes(self, rows: int) -> np.ndarray:
        """uint64 of shape (rows,): the same on every machine, wherever the dataset lies."""
        group = np.uint64(int(digest([self.path, self.row_group])[:16], 16))
        with np.errstate(over="ignore"):
            return cells.mixed(cells.mixed(np.arange(self.begin, self.begin + rows, dtype=np.uint64)) + group)


@dataclass(frozen=True)
class Split:
    """By hash: rows of equal content fall on one side, so duplicates never stand on both.

    By place, which no job asks for: what a split by hash becomes for a table of few distinct rows.
    """

    by: str
    columns: tuple[Column, ...]
    holdout: float
    threshold: float | None = None

    def held_out(self, batch: pa.RecordBatch, place: Place | None = None) -> np.ndarray:
        """Boolean of shape (rows,). Only a split by place needs to be told the batch's."""
        if self.by == "place":
            assert place is not None
            return np.asarray(cells.unit_interval(place.hashes(batch.num_rows)) < self.holdout)
        read = [column.cells(batch.column(column.name)) for column in self.columns]
        if self.by == "time":
            assert self.threshold is not None and isinstance(read[0], np.ndarray)
            return np.asarray(read[0] >= self.threshold)
        return np.asarray(cells.unit_interval(cells.row_hash(read)) < self.holdout)

    def for_sample(self, sample: Sequence[pa.RecordBatch]) -> Split:
        """By those columns alone that differ among the sampled rows: one that is the date of a pull tells no rows
        apart, and with the next pull all would change sides. By place instead of by hash, where too many are equal."""
        if self.by != "hash":
            return self
        read = {c: [c.cells(b.column(c.name)) for b in sample] for c in self.columns}
        hashes = {c: _hashes([parts]) for c, parts in read.items()}
        differ = tuple(c for c, found in hashes.items() if (found != found[:1]).any())
        chosen = replace(self, columns=differ or self.columns)
        alike = _too_alike(_hashes([read[c] for c in chosen.columns]), self.holdout)
        return replace(self, by="place", columns=()) if alike else chosen


def _hashes(columns: Sequence[Sequence[pa.Array | np.ndarray]]) -> np.ndarray:
    """Of the rows of batches, of which each column has its cells in parts."""
    return np.concatenate([cells.row_hash(list(parts)) for parts in zip(*columns, strict=True)])


def still_held_out(before: Split, now: Split) -> bool:
    """Whether all rows that `now` holds out were held out by `before` too."""
    if now.by != before.by or len(now.columns) != len(before.columns):
        return False
    if not all(a.reads_like(b) for a, b in zip(now.columns, before.columns, strict=True)):
        return False
    if now.threshold is not None and before.threshold is not None:
        return now.threshold >= before.threshold
    return now.holdout <= before.holdout


def _too_alike(hashes: np.ndarray, holdout: float) -> bool:
    """Whether rows of these content hashes would be split badly: few of them differ, or a few weigh most.

    A small table of rows that all differ is not such a one: no other split would do better.
    """
    distinct, rows = len(np.unique(hashes)), len(hashes)
    share = float((cells.unit_interval(hashes) < holdout).mean())
    few = distinct < FEW_DISTINCT and 2 * distinct < rows
    return few or (distinct < rows and not holdout / 2 <= share <= 2 * holdout)


def check_column(job: SplitJob, types: pa.Schema) -> None:
    """Raises JobError where the column that a job splits by is of a type unfit for it."""
    if job.column is None:
        return
    kind = natural_kind(types.field(job.column).type)
    if kind in (None, "vector") or (job.by == "time" and kind in ("boolean", "categorical")):
        needs = "a column of times or numbers" if job.by == "time" else "a column of single values"
        raise JobError(
            f"dataset.split.column names {shown(job.column)}, which is {types.field(job.column).type}; "
            f"split by {job.by} needs {needs}"
        )


def split_for(job: SplitJob, schema: TableSchema, types: pa.Schema) -> Split:
    """The split that a job means, whose column was checked; one by time still wants its threshold."""
    if job.column is None:
        return Split("hash", schema.inputs, job.holdout)
    type_ = types.field(job.column).type
    kind = natural_kind(type_)
    assert kind is not None
    if job.by == "time":
        kind = "datetime" if kind == "datetime" else "numeric"
    elif kind not in ("numeric", "datetime"):
        kind = "categorical"
    return Split(job.by, (Column(job.column, kind, type=str(type_)),), job.holdout)


def time_threshold(values: np.ndarray, holdout: float) -> float:
    """The value from which on rows are held out, so that about `holdout` of them are: the latest ones."""
    known = values[~np.isnan(values)]
    return float(np.quantile(known, 1 - holdout, method="higher")) if len(known) else float("inf")

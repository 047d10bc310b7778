"""One streaming pass over the training rows: sketches that merge, in memory that does not grow with the rows.

Moments follow Chan, Golub and LeVeque (1979), so large means do not cancel small variances. Quantiles come from
a bottom-k sample of whole rows (Cohen and Kaplan, "Summarizing data using bottom-k sketches", 2007): each row
has a pseudo-random priority from its place in the data, and the rows of lowest priority are kept. It was
chosen over KLL because merging two is exact, the same rows are kept however the data is cut, it costs
next to nothing once full, and one sample serves every column. Level counts are exact up to `MAX_LEVELS`
distinct values, then pruned as by Misra and Gries (1982).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aemodel import cells
from aemodel.schema import Column

MAX_LEVELS = 65_536
SAMPLE_ROWS = 131_072
SAMPLE_CELLS = 8_388_608


@dataclass
class Moments:
    """Count, mean, sum of squared deviations, least and largest of each dimension, missing cells left aside."""

    count: np.ndarray
    mean: np.ndarray
    m2: np.ndarray
    least: np.ndarray
    largest: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """From float64 (rows, dimensions) with NaN where missing."""
        known = ~np.isnan(values)
        count = known.sum(axis=0).astype(np.float64)
        whole = bool(known.all())  # as most columns are: nothing need be put in for what is missing
        mean = (values if whole else np.where(known, values, 0.0)).sum(axis=0) / np.maximum(count, 1)
        centred = values - mean if whole else np.where(known, values - mean, 0.0)
        m2 = np.einsum("ij,ij->j", centred, centred)
        least = (values if whole else np.where(known, values, np.inf)).min(axis=0, initial=np.inf)
        largest = (values if whole else np.where(known, values, -np.inf)).max(axis=0, initial=-np.inf)
        return cls(count, mean, m2, least, largest)

    def merged(self, other: Moments) -> Moments:
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * share,
            self.m2 + other.m2 + delta**2 * self.count * share,
            np.minimum(self.least, other.least),
            np.maximum(self.largest, other.largest),
        )

    @property
    def variance(self) -> np.ndarray:
        return self.m2 / np.maximum(self.count, 1)


@dataclass
class Levels:
    """Frequent values of a categorical column with their counts, most frequent first once `settled`."""

    values: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    counts: np.ndarray = field(default_factory=lambda: np.array([], np.int64))
    pruned: bool = False
    _pending: list[tuple[pa.Array, np.ndarray]] = field(default_factory=list)

    def update(self, values: pa.Array) -> None:
        counted = pc.value_counts(values.drop_null())
        self._pending.append((counted.field("values"), counted.field("counts").to_numpy()))
        if sum(len(v) for v, _ in self._pending) > MAX_LEVELS:
            self.settle()

    def merge(self, other: Levels) -> None:
        self._pending += [(other.values, other.counts), *other._pending]
        self.pruned |= other.pruned
        if sum(len(v) for v, _ in self._pending) > MAX_LEVELS:
            self.settle()

    def settle(self) -> None:
        if not self._pending:
            return
        parts = [(self.values, self.counts), *self._pending]
        table = pa.table({"value": pa.chunked_array([v for v, _ in parts]), "n": np.concatenate([c for _, c in parts])})
        grouped = (
            table.group_by("value").aggregate([("n", "sum")]).sort_by([("n_sum", "descending"), ("value", "ascending")])
        )
        values, counts = grouped["value"].combine_chunks(), grouped["n_sum"].to_numpy()
        if len(values) > MAX_LEVELS:
            counts = counts[:MAX_LEVELS] - counts[MAX_LEVELS]
            kept = int((counts > 0).sum())
            values, counts, self.pruned = values.slice(0, kept), counts[:kept], True
        self.values, self.counts, self._pending = values, counts, []


class RowSample:
    """The rows of lowest priority: a uniform sample without replacement, the same however the data is cut."""

    def __init__(self, limit: int, width: int, below: np.uint64 | None = None) -> None:
        """Rows of `width` numbers, at most `limit`; none but such of a priority under `below`."""
        self.limit, self.below = limit, below
        self._priorities, self._rows, self._more = [np.empty(0, np.uint64)], [np.empty((0, width))], 0

    @classmethod
    def of_width(cls, width: int, below: np.uint64 | None = None) -> RowSample:
        return cls(max(1_024, min(SAMPLE_ROWS, SAMPLE_CELLS // max(1, width))), width, below)

    def wanted(self, priorities: np.ndarray) -> np.ndarray:
        """bool (rows,): which of the rows of these priorities may be among the lowest."""
        return np.ones(len(priorities), bool) if self.below is None else priorities < self.below

    def update(self, priorities: np.ndarray, rows: np.ndarray) -> None:
        """Rows (rows, width) that are wanted."""
        self._priorities.append(priorities)
        self._rows.append(rows)
        self._more += len(rows)
        if self._more > self.limit // 2:  # to choose among many at a time takes a fraction of the time
            self._settle()

    @property
    def priorities(self) -> np.ndarray:
        return self._settle()[0]

    @property
    def rows(self) -> np.ndarray:
        return self._settle()[1]

    def _settle(self) -> tuple[np.ndarray, np.ndarray]:
        if len(self._rows) > 1:
            priorities, rows = np.concatenate(self._priorities), np.concatenate(self._rows)
            if len(priorities) > self.limit:
                keep = np.sort(np.argpartition(priorities, self.limit)[: self.limit])
                priorities, rows = priorities[keep], rows[keep]
                self.below = priorities.max()
            self._priorities, self._rows, self._more = [priorities], [rows], 0
        return self._priorities[0], self._rows[0]


def row_priorities(fragment: int, row_group: int, rows: np.ndarray) -> np.ndarray:
    """uint64 pseudo-random priorities of rows (ordinals within a row group)."""
    place = (np.uint64(fragment) << np.uint64(48)) ^ (np.uint64(row_group) << np.uint64(32)) ^ rows.astype(np.uint64)
    with np.errstate(over="ignore"):
        return cells.mixed(cells.mixed(place + np.uint64(0x9E3779B97F4A7C15)))


@dataclass
class ColumnStatistics:
    """What one pass learns of one column. `moments` is None for a categorical, `levels` for the others."""

    column: Column
    rows: int = 0
    missing: int = 0
    nulled: int = 0
    moments: Moments | None = None
    levels: Levels | None = None

    def update(self, array: pa.Array) -> np.ndarray | None:
        """Count a batch; returns the column's numbers where it is numeric, for the row sample."""
        read = self.column.cells(array)
        self.rows += len(array)
        if not isinstance(read, np.ndarray):
            self.missing += read.null_count
            self.levels = self.levels or Levels()
            self.levels.update(read)
            return None
        unusable = np.isnan(read) if read.ndim == 1 else np.isnan(read).all(axis=1)
        self.missing += int(unusable.sum())
        self.nulled += int(unusable.sum()) - array.null_count if read.ndim == 1 else 0
        matrix = cells.calendar(read) if self.column.kind == "datetime" else read.reshape(len(read), -1)
        moments = Moments.of(matrix)
        self.moments = self.moments.merged(moments) if self.moments else moments
        return read if self.column.kind == "numeric" else None

    def merge(self, other: ColumnStatistics) -> None:
        self.rows += other.rows
        self.missing += other.missing
        self.nulled += other.nulled
        if other.moments:
            self.moments = self.moments.merged(other.moments) if self.moments else other.moments
        if other.levels:
            self.levels = self.levels or Levels()
            self.levels.merge(other.levels)


class Statistics:
    """Statistics of all input columns; `update` once a batch of training rows, or `merge` those of another part."""

    def __init__(self, columns: Sequence[Column], sampled_below: np.uint64 | None = None) -> None:
        """Only rows of a priority under `sampled_below` are sampled: the whole that this is a part of has enough."""
        self.columns = {c.name: ColumnStatistics(c) for c in columns}
        self.numeric = [c.name for c in columns if c.kind == "numeric"]
        self.sample = RowSample.of_width(len(self.numeric), sampled_below)
        self.rows = 0

    def update(self, batch: pa.RecordBatch, priorities: np.ndarray) -> None:
        if batch.num_rows == 0:
            return
        wanted = np.flatnonzero(self.sample.wanted(priorities))
        # Filled column by column: the numbers of all columns at once, and them stacked, would be as much again twice.
        rows, place = np.empty((len(wanted), len(self.numeric))), 0
        for name, column in self.columns.items():
            numbers = column.update(batch.column(name))
            if numbers is not None:
                rows[:, place] = numbers[wanted]
                place += 1
        self.sample.update(priorities[wanted], rows)
        self.rows += batch.num_rows

    def merge(self, other: Statistics) -> None:
        for name, column in self.columns.items():
            column.merge(other.columns[name])
        wanted = self.sample.wanted(other.sample.priorities)
        self.sample.update(other.sample.priorities[wanted], other.sample.rows[wanted])
        self.rows += other.rows

    def sampled(self, column: str) -> np.ndarray:
        """The sampled numbers of a numeric column, sorted, missing ones left out."""
        values = self.sample.rows[:, self.numeric.index(column)]
        return np.sort(values[~np.isnan(values)])

    def unusable(self) -> dict[str, str]:
        """The columns that cannot tell rows apart, with the reason."""
        reasons = {name: _unusable(column) for name, column in self.columns.items()}
        return {name: reason for name, reason in reasons.items() if reason}

    def summary(self) -> dict[str, Any]:
        """By column, for the report and as the base line of drift; plain JSON values."""
        return {name: self._summary(column) for name, column in self.columns.items()}

    def _summary(self, column: ColumnStatistics) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "kind": column.column.kind,
            "rows": column.rows,
            "missing": column.missing,
            "nulled": column.nulled,
        }
        if column.levels:
            column.levels.settle()
            entry["distinct"] = len(column.levels.values)
            top = zip(column.levels.values.slice(0, 20).to_pylist(), column.levels.counts[:20].tolist(), strict=True)
            entry["levels"] = dict(top)
        elif column.moments and column.moments.count[0]:
            m = column.moments
            whole = slice(None) if column.column.kind == "vector" else slice(1)  # the parts of a time are no range
            entry |= {"least": float(m.least[whole].min()), "largest": float(m.largest[whole].max())}
            entry |= {"mean": float(m.mean[0]), "std": float(np.sqrt(m.variance[0]))}
            if column.column.kind == "numeric":
                values = self.sampled(column.column.name)
                entry["quantiles"] = np.quantile(values, np.linspace(0, 1, 21)).tolist() if len(values) else []
        return entry


def _unusable(column: ColumnStatistics) -> str | None:
    if column.missing == column.rows:
        return "no usable values"
    if column.levels:
        column.levels.settle()
        return "constant" if len(column.levels.values) == 1 and not column.missing else None
    assert column.moments
    same = bool((column.moments.least == column.moments.largest)[column.moments.count > 0].all())
    return "constant" if same and not column.missing else None

"""A bounded sample of the rows of a stream, the same whatever batches and parts they come in."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

#: Cells that are kept at most, where rows are wide.
KEPT_CELLS = 16_777_216


class Reservoir:
    """Raw rows of lowest priority, up to a bound: with random priorities a uniform sample."""

    def __init__(self, schema: pa.Schema, most: int, cells: int, below: np.uint64 | None = None) -> None:
        """At most so many rows of so many `cells`; none but those of a priority under `below`, as the whole that this
        is a part of has enough."""
        self.schema, self.most, self.cells, self.below, self.seen = schema, most, cells, below, 0
        self.limit = max(1_024, min(most, KEPT_CELLS // max(1, cells)))
        self.batches: list[pa.RecordBatch] = []
        self.priorities: list[np.ndarray] = []

    def part(self) -> Reservoir:
        """An empty one for some of the rows, to be merged with this one in their order."""
        return Reservoir(self.schema, self.most, self.cells, self.below)

    def add(self, batch: pa.RecordBatch, wanted: np.ndarray, priorities: np.ndarray) -> None:
        """`wanted` and `priorities` have shape (rows,)."""
        self.seen += int(wanted.sum())
        self._keep(batch, wanted, priorities)

    def merge(self, other: Reservoir) -> None:
        self.seen += other.seen
        priorities, begin = np.concatenate([np.empty(0, np.uint64), *other.priorities]), 0
        for batch in other.batches:
            self._keep(batch, np.ones(batch.num_rows, bool), priorities[begin : begin + batch.num_rows])
            begin += batch.num_rows

    def table(self) -> pa.Table:
        if self.batches:
            self._prune()
        return pa.Table.from_batches(self.batches, self.schema)

    def _keep(self, batch: pa.RecordBatch, wanted: np.ndarray, priorities: np.ndarray) -> None:
        if self.below is not None:
            wanted = wanted & (priorities < self.below)
        if wanted.any():
            self.batches.append(batch if wanted.all() else batch.filter(pa.array(wanted)))
            self.priorities.append(priorities[wanted])
        if sum(map(len, self.priorities)) > 2 * self.limit:
            self._prune()

    def _prune(self) -> None:
        rows, priorities = pa.Table.from_batches(self.batches, self.schema), np.concatenate(self.priorities)
        if len(priorities) > self.limit:
            keep = np.sort(np.argpartition(priorities, self.limit)[: self.limit])
            rows, priorities = rows.take(pa.array(keep)), priorities[keep]
            self.below = priorities.max()
        self.batches, self.priorities = rows.to_batches(), [priorities]

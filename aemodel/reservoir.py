"""A bounded sample of the rows of a stream, the same whatever batches they come in."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

#: Cells that are kept at most, where rows are wide.
KEPT_CELLS = 16_777_216


class Reservoir:
    """Raw rows of lowest priority, up to a bound: with random priorities a uniform sample."""

    def __init__(self, schema: pa.Schema, most: int) -> None:
        self.schema, self.seen = schema, 0
        elements = sum(f.type.list_size if pa.types.is_fixed_size_list(f.type) else 1 for f in schema)
        self.limit = max(1_024, min(most, KEPT_CELLS // max(1, elements)))
        self.highest: int | None = None
        self.batches: list[pa.RecordBatch] = []
        self.priorities: list[np.ndarray] = []

    def add(self, batch: pa.RecordBatch, wanted: np.ndarray, priorities: np.ndarray) -> None:
        """`wanted` and `priorities` have shape (rows,)."""
        self.seen += int(wanted.sum())
        if self.highest is not None:
            wanted = wanted & (priorities < self.highest)
        self.batches.append(batch.filter(pa.array(wanted)))
        self.priorities.append(priorities[wanted])
        if sum(map(len, self.priorities)) > 2 * self.limit:
            self._prune()

    def _prune(self) -> None:
        rows, priorities = pa.Table.from_batches(self.batches, self.schema), np.concatenate(self.priorities)
        if len(priorities) > self.limit:
            keep = np.sort(np.argpartition(priorities, self.limit)[: self.limit])
            rows, priorities = rows.take(pa.array(keep)), priorities[keep]
            self.highest = priorities.max()
        self.batches, self.priorities = rows.to_batches(), [priorities]

    def table(self) -> pa.Table:
        if self.batches:
            self._prune()
        return pa.Table.from_batches(self.batches, self.schema)

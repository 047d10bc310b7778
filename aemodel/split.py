"""Which rows are held out: decided row by row, before anything is fitted, the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from aemodel import cells
from aemodel.config import SplitJob
from aemodel.errors import JobError, shown
from aemodel.schema import Column, TableSchema, natural_kind


@dataclass(frozen=True)
class Split:
    """By hash: rows of equal content fall on one side, so duplicates never stand on both."""

    by: str
    columns: tuple[Column, ...]
    holdout: float
    threshold: float | None = None

    def held_out(self, batch: pa.RecordBatch) -> np.ndarray:
        """Boolean of shape (rows,)."""
        read = [column.cells(batch.column(column.name)) for column in self.columns]
        if self.by == "time":
            assert self.threshold is not None and isinstance(read[0], np.ndarray)
            return np.asarray(read[0] >= self.threshold)
        return np.asarray(cells.unit_interval(cells.row_hash(read)) < self.holdout)


def split_for(job: SplitJob, schema: TableSchema, types: pa.Schema) -> Split:
    """The split that a job means; one by time still wants its threshold. Raises JobError for a column unfit for it."""
    if job.column is None:
        return Split("hash", schema.inputs, job.holdout)
    kind = natural_kind(types.field(job.column).type)
    if kind in (None, "vector") or (job.by == "time" and kind in ("boolean", "categorical")):
        needs = "a column of times or numbers" if job.by == "time" else "a column of single values"
        raise JobError(
            f"dataset.split.column names {shown(job.column)}, which is {types.field(job.column).type}; "
            f"split by {job.by} needs {needs}"
        )
    if job.by == "time":
        return Split("time", (Column(job.column, "datetime" if kind == "datetime" else "numeric"),), job.holdout)
    return Split(
        "group", (Column(job.column, kind if kind in ("numeric", "datetime") else "categorical"),), job.holdout
    )


def time_threshold(values: np.ndarray, holdout: float) -> float:
    """The value from which on rows are held out, so that about `holdout` of them are: the latest ones."""
    known = values[~np.isnan(values)]
    return float(np.quantile(known, 1 - holdout, method="higher")) if len(known) else float("inf")

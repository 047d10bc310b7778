"""Small synthetic tables, the same on every machine, and the steps that make real parts of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from aemodel import listing, snapshot
from aemodel.bundle import Bundle, Provenance, calibrated
from aemodel.config import DatasetJob, Job
from aemodel.model import build
from aemodel.prepared import Prepared
from aemodel.schema import TableSchema, decide
from aemodel.statistics import Statistics, row_priorities
from aemodel.transform import Scaling, Transform, fit

CARRIERS = ("AA", "DL", "UA", "WN")
#: What a version says of its columns, where a test does not ask.
NO_CARDS = pa.table({"column": pa.array([], pa.string())})
VECTOR = pa.list_(pa.field("element", pa.float32()), 3)
INPUTS = ("amount", "count", "price", "flag", "carrier", "colour", "day", "seen", "logged", "clock", "profile")


def mixed(rows: int = 300, seed: int = 0) -> pa.Table:
    """A key, a label and one column of every kind, correlated, with nulls, NaN and infinities among the numbers."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, len(CARRIERS), rows)
    hidden = rng.normal(size=rows) + group
    amount = np.exp(hidden / 2) * 100
    amount[rng.random(rows) < 0.02] = np.nan
    amount[rng.random(rows) < 0.02] = np.inf
    days = rng.integers(0, 365, rows)
    seconds = rng.integers(0, 86_400, rows)
    moments = [
        datetime(2024, 1, 1) + timedelta(days=int(d), seconds=int(s)) for d, s in zip(days, seconds, strict=True)
    ]
    absent = rng.random((4, rows)) < 0.1
    profile = (hidden[:, None] + rng.normal(size=(rows, 3))).astype(np.float32)
    return pa.table(
        {
            "row_id": pa.array(np.arange(rows)),
            "amount": pa.array(amount, mask=absent[0]),
            "count": pa.array((10 + 3 * group + rng.integers(0, 5, rows)).astype(np.int32)),
            "price": pa.array([Decimal(round(float(h) * 100)) / 100 for h in hidden], pa.decimal128(12, 2)),
            "flag": pa.array(hidden > 1, mask=absent[1]),
            "carrier": pa.array([CARRIERS[g] for g in group], pa.string(), mask=absent[2]),
            "colour": pa.array([("red", "green", "blue")[d % 3] for d in days]).dictionary_encode(),
            "day": pa.array([date(2024, 1, 1) + timedelta(days=int(d)) for d in days]),
            "seen": pa.array(moments, pa.timestamp("us"), mask=absent[3]),
            "logged": pa.array(moments, pa.timestamp("ms", tz="UTC")),
            "clock": pa.array([time(int(s) // 3600, int(s) // 60 % 60, int(s) % 60) for s in seconds], pa.time32("ms")),
            "profile": pa.FixedSizeListArray.from_arrays(pa.array(profile.ravel()), type=VECTOR),
            "label": pa.array([f"class-{g % 2}" for g in group]),
        }
    )


def write(table: pa.Table, path: Path, row_group_size: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def write_hive(table: pa.Table, folder: Path, column: str, row_group_size: int = 64) -> Path:
    """One `column=value` folder a value; the files themselves hold the other columns."""
    for value in pc.unique(table[column]).to_pylist():
        name = "__HIVE_DEFAULT_PARTITION__" if value is None else str(value)
        chosen = pc.is_null(table[column]) if value is None else pc.equal(table[column], value)
        rows = table.filter(chosen).drop_columns([column])
        write(rows, folder / f"{column}={name}" / "part-0.parquet", row_group_size)
    return folder


def as_remote(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Make `mock://…` a file system that is not the local one, with `root` at its top."""
    remote = pafs.SubTreeFileSystem(str(root), pafs.LocalFileSystem())
    for module in (listing, snapshot):
        monkeypatch.setattr(module, "filesystem_of", lambda uri: (remote, uri.removeprefix("mock://").rstrip("/")))


def plain(table: pa.Table) -> pa.Table:
    """Dictionaries by their values, as a snapshot reads them."""
    fields = [f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in table.schema]
    return table.cast(pa.schema(fields))


def only_batch(table: pa.Table) -> pa.RecordBatch:
    """The table's rows as one batch."""
    return table.combine_chunks().to_batches()[0]


def schema_of(table: pa.Table, job: DatasetJob | None = None) -> TableSchema:
    return decide(table.schema, [only_batch(table)], job or DatasetJob(uri="-", key=("row_id",), label="label"))


def statistics_of(schema: TableSchema, batches: Sequence[pa.RecordBatch]) -> Statistics:
    """Statistics of batches in order; a row's priority depends on its place alone."""
    statistics, begin = Statistics(schema.inputs), 0
    for batch in batches:
        statistics.update(batch, row_priorities(0, 0, np.arange(begin, begin + batch.num_rows)))
        begin += batch.num_rows
    return statistics


def transform_of(table: pa.Table, scaling: Scaling = "quantile", job: DatasetJob | None = None) -> Transform:
    """A transform fitted on all rows of a table; without a job, every column but `row_id` and `label` is an input."""
    table = plain(table)
    keys = tuple(n for n in ("row_id",) if n in table.column_names)
    label = "label" if "label" in table.column_names else None
    schema = schema_of(table, job or DatasetJob(uri="-", key=keys, label=label))
    return fit(statistics_of(schema, [only_batch(table)]), scaling)


def bundle_of(prepared: Prepared, job: Job) -> Bundle:
    """A bundle as it is before training, which is PCA; calibrated."""
    model = build(job.model, prepared.transform.layout, prepared.pca).eval()
    held_out, anchors = (prepared.transform.apply_all(t) for t in (prepared.held_out, prepared.anchors))
    made = calibrated(model, job.model, prepared.transform, held_out, anchors, Provenance("mixed", "s", "j", "c", 300))
    return replace(made, digest="d" * 64)

"""What a run knows before it trains: schema, split, statistics, transform, principal axes, held-out rows.

Two passes over the data: one for statistics (training rows only) and the held-out rows, one over encoded rows
for the Gram matrix, which training finds again in its cache. The result is a folder; ranks and later steps read it,
nobody changes it.
"""

from __future__ import annotations

import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aemodel import pca, release, split
from aemodel.bundle import Bundle
from aemodel.config import DatasetJob, Job, ModelJob, TrainingJob
from aemodel.errors import SchemaError, SnapshotError, redacted, shown
from aemodel.files import read_state, whole_folder, write_json
from aemodel.gather import EncodedRowGroups
from aemodel.layout import EncodedRows
from aemodel.model import PrincipalAxes
from aemodel.plan import TrainingGroup
from aemodel.reservoir import Reservoir
from aemodel.row_cache import RowCache
from aemodel.schema import Column, LeftOut, TableSchema, decide
from aemodel.snapshot import Snapshot
from aemodel.split import Place, Split
from aemodel.statistics import RowSample, Statistics, row_priorities
from aemodel.transform import Transform, fit, rare_levels

log = logging.getLogger("aemodel")

#: Held-out rows that are kept for validation, the gate and the report: a uniform sample where there are more.
HELD_OUT_ROWS = 65_536
#: Training rows that are kept: to measure overfitting by, and to hold the columns of later versions by.
ANCHOR_ROWS = 10_000
#: Row groups that are worked on at once.
AT_ONCE = 2

T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """`held_out` and `anchors` are raw rows (inputs, label, keys, what the split is by), uniform samples of each side;
    `num_held_out` counts all held-out rows."""

    schema: TableSchema
    split: Split
    transform: Transform
    pca: PrincipalAxes
    groups: tuple[TrainingGroup, ...]
    held_out: pa.Table
    anchors: pa.Table
    num_held_out: int
    held_out_is_training: bool
    statistics: dict[str, Any]
    nulled: dict[str, int]

    @property
    def num_training(self) -> int:
        return sum(g.rows for g in self.groups)

    def save(self, folder: Path) -> None:
        with whole_folder(folder) as partial:
            write_json(partial / "transform.json", self.transform.to_json())
            write_json(partial / "statistics.json", self.statistics)
            pca.save(self.pca, partial / "pca.safetensors")
            pq.write_table(self.held_out, partial / "held_out.parquet")
            pq.write_table(self.anchors, partial / "anchors.parquet")
            state = {
                "schema": asdict(self.schema),
                "split": asdict(self.split),
                "groups": [[g.fragment, g.row_group, g.rows] for g in self.groups],
                "num_held_out": self.num_held_out,
                "held_out_is_training": self.held_out_is_training,
                "nulled": self.nulled,
            }
            write_json(partial / "prepared.json", state)

    @classmethod
    def load(cls, folder: Path) -> Prepared:
        state = read_state(folder / "prepared.json")
        return cls(
            schema=_schema_from(state["schema"]),
            split=Split(**{**state["split"], "columns": tuple(Column(**c) for c in state["split"]["columns"])}),
            transform=Transform.from_json(read_state(folder / "transform.json")),
            pca=pca.load(folder / "pca.safetensors"),
            groups=tuple(TrainingGroup(*g) for g in state["groups"]),
            held_out=pq.read_table(folder / "held_out.parquet", partitioning=None),
            anchors=pq.read_table(folder / "anchors.parquet", partitioning=None),
            num_held_out=state["num_held_out"],
            held_out_is_training=state["held_out_is_training"],
            statistics=read_state(folder / "statistics.json"),
            nulled=state["nulled"],
        )


def table_schema(snapshot: Snapshot, job: DatasetJob) -> TableSchema:
    """The schema of a pinned dataset, from its types and a sample. Raises SnapshotError, JobError or SchemaError."""
    if snapshot.num_rows == 0:
        raise SnapshotError(f"{shown(redacted(snapshot.uri))} holds no rows: there is nothing to learn from")
    read = [name for name in snapshot.schema.names if name not in job.exclude]  # which may be one that cannot be
    schema = decide(snapshot.schema, snapshot.sample(read), job)
    split.check_column(job.split, snapshot.schema)
    return schema


def prepare(
    job: Job,
    snapshot: Snapshot,
    schema: TableSchema,
    chosen: Split | None = None,
    parent: Bundle | None = None,
    cache: Path | None = None,
) -> Prepared:
    """Fit everything that is fitted before training. Raises SnapshotError or SchemaError.

    `chosen`: what `choose_split` gave, for a run that follows on a version; the columns that `parent`, the version that
    training will start from, has fitted stay as they are. `cache`: the folder
    of the training's row cache; what is in it is of an earlier try.
    """
    if parent is not None:
        schema = release.arranged(schema, parent)
    chosen = chosen or choose_split(job.dataset, snapshot, schema)
    statistics, groups, held_out, anchors = _first_pass(snapshot, schema, chosen)
    _check_sides(chosen, groups, held_out.seen, snapshot.num_rows)
    schema = _usable(schema, snapshot.schema, statistics, parent)
    transform = fit(statistics, job.model.effective_scaling)
    if parent is not None:
        transform = release.kept_transform(transform, parent)
    _tell(schema, transform, statistics.rows, held_out.seen)
    kept = _fresh_cache(cache, transform, job.training) if cache else None
    axes, nulled = _second_pass(EncodedRowGroups(snapshot, chosen, transform, kept), groups, job.model)
    return Prepared(
        schema,
        chosen,
        transform,
        _of_width(axes, job.model, parent, transform.layout.width),
        tuple(groups),
        held_out.table() if held_out.seen else _first_rows(snapshot, held_out.schema),
        anchors.table(),
        held_out.seen,
        held_out.seen == 0,
        statistics.summary(),
        {name: int(n) for name, n in zip(schema.names, nulled, strict=True)},
    )


def _fresh_cache(folder: Path, transform: Transform, job: TrainingJob) -> RowCache:
    shutil.rmtree(folder, ignore_errors=True)  # another parent may have been fitted otherwise
    return RowCache.on_disk(folder, transform.layout, job.cache_disk_share, 1)


def _check_sides(chosen: Split, groups: Sequence[TrainingGroup], num_held_out: int, rows: int) -> None:
    """Rows on either side of the split, where it can be mended. Raises SchemaError."""
    if num_held_out == 0 and chosen.by in ("group", "time"):
        raise SchemaError(
            f"dataset.split by {chosen.by} of {shown(chosen.columns[0].name)} holds no row out: "
            "choose a column of more values, or raise split.holdout"
        )
    if not groups:
        raise SchemaError(f"none of {rows} rows is left to train on; add rows or lower split.holdout")


def _usable(schema: TableSchema, types: pa.Schema, statistics: Statistics, parent: Bundle | None) -> TableSchema:
    """The schema, and the statistics, less the columns that say nothing; the parent's stay. Raises SchemaError."""
    reasons = {**rare_levels(statistics), **statistics.unusable()}
    if all(reasons.get(name) == "constant" for name in schema.names):
        if statistics.rows == 1:
            raise SchemaError("there is one row to train on, and nothing to learn from one; add rows")
        raise SchemaError(
            f"all {statistics.rows:,} training rows are equal in all columns that are inputs: there is nothing to learn"
        )
    if parent is not None:
        reasons = {k: v for k, v in reasons.items() if k not in parent.input_columns}
    schema = schema.without(reasons, types)
    for name in reasons:
        del statistics.columns[name]
    return schema


def _tell(schema: TableSchema, transform: Transform, training: int, held_out: int) -> None:
    log.info(
        "inputs: %d columns in %d dimensions, %d left out; %s training rows, %s held out",
        len(schema.inputs),
        transform.layout.width,
        len(schema.left_out),
        f"{training:,}",
        f"{held_out:,}",
    )


def _second_pass(
    read: EncodedRowGroups, groups: Sequence[TrainingGroup], job: ModelJob
) -> tuple[PrincipalAxes, np.ndarray]:
    """The principal axes, and how many cells of each column could not be used, (columns,)."""
    layout = read.transform.layout
    nulled = np.zeros(len(layout.blocks), np.int64)

    def encoded() -> Iterator[EncodedRows]:
        chosen = spread(groups, pca.GRAM_ROWS)
        for group, rows in zip(chosen, _some_at_once(read.decoded, [(g,) for g in chosen]), strict=True):
            np.add(nulled, rows.nulled, out=nulled)
            read.keep(group, rows)
            yield rows

    return pca.principal_axes(layout, encoded(), job.most_latents), nulled


def _of_width(axes: PrincipalAxes, job: ModelJob, parent: Bundle | None, dimensions: int) -> PrincipalAxes:
    """As many axes as there will be latents; the log says so where that is not the job's own number."""
    width = axes.axes.shape[1]
    if job.latent_dim == "auto":
        width = parent.model.latent_dim if parent else pca.automatic_width(axes.variance, width)
        log.info("latent_dim is %d", width)
        return replace(axes, axes=axes.axes[:, :width])
    if width < job.latent_dim:
        log.info("latent_dim is reduced to %d: as many as the inputs' %d dimensions would copy them", width, dimensions)
    return axes


def _first_pass(
    snapshot: Snapshot, schema: TableSchema, chosen: Split
) -> tuple[Statistics, list[TrainingGroup], Reservoir, Reservoir]:
    whole, kept = Statistics(schema.inputs), _kept_columns(snapshot, schema, chosen)
    types = pa.schema([snapshot.schema.field(n) for n in kept])
    cells = len(kept) + sum(column.size - 1 for column in schema.inputs)
    held_out, anchors = Reservoir(types, HELD_OUT_ROWS, cells), Reservoir(types, ANCHOR_ROWS, cells)
    groups = []

    def measured(fragment: int, group: int) -> tuple[Statistics, Reservoir, Reservoir]:
        part, begin, some_held, some = Statistics(schema.inputs, whole.sample.below), 0, held_out.part(), anchors.part()
        for batch in snapshot.read(fragment, group, kept):
            held = chosen.held_out(batch, Place(snapshot.fragments[fragment].path, group, begin))
            priorities = row_priorities(fragment, group, np.arange(begin, begin + batch.num_rows))
            part.update(batch.filter(pa.array(~held)), priorities[~held])
            some_held.add(batch, held, priorities)
            some.add(batch, ~held, priorities)
            begin += batch.num_rows
        return part, some_held, some

    places = [(fragment, group) for fragment, group, _ in snapshot.row_groups()]
    for (fragment, group), (part, some_held, some) in zip(places, _some_at_once(measured, places), strict=True):
        whole.merge(part)
        held_out.merge(some_held)
        anchors.merge(some)
        if part.rows:
            groups.append(TrainingGroup(fragment, group, part.rows))
    return whole, groups, held_out, anchors


def _some_at_once(work: Callable[..., T], calls: Iterable[tuple[Any, ...]]) -> Iterator[T]:
    """What `work` gives for each of the calls, in order, while the next ones are under way: it is all decoding and
    arithmetic, which let other threads run."""
    waiting = deque[Future[T]]()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for arguments in calls:
            waiting.append(pool.submit(work, *arguments))
            if len(waiting) > AT_ONCE:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _kept_columns(snapshot: Snapshot, schema: TableSchema, chosen: Split) -> list[str]:
    kept = {*schema.names, *schema.keys, *([schema.label] if schema.label else []), *(c.name for c in chosen.columns)}
    return [n for n in snapshot.schema.names if n in kept]


def _first_rows(snapshot: Snapshot, types: pa.Schema) -> pa.Table:
    """For a table too small to hold a row out: its own rows, so that every later step has some to look at."""
    return pa.Table.from_batches(snapshot.sample(types.names, rows=1_024), types)


def choose_split(job: DatasetJob, snapshot: Snapshot, schema: TableSchema, before: Split | None = None) -> Split:
    """What the job means, made to fit the rows. Where it is by their content, it is by the columns that `before`, the
    split of the version that a run follows on, was by, if they can still be read: a row stays on its side."""
    if before and job.split.column is None and before.by in ("hash", "place") and _readable(before, snapshot, schema):
        return replace(before, holdout=job.split.holdout)
    return _for_rows(_with_threshold(split.split_for(job.split, schema, snapshot.schema), snapshot), snapshot)


def _readable(before: Split, snapshot: Snapshot, schema: TableSchema) -> bool:
    types = {(field.name, str(field.type)) for field in snapshot.schema}
    return all((c.name, c.type) in types or any(c.reads_like(i) for i in schema.inputs) for c in before.columns)


def _for_rows(chosen: Split, snapshot: Snapshot) -> Split:
    """The split, by place where too few rows differ for one by content."""
    if chosen.by != "hash":
        return chosen
    names = {c.name for c in chosen.columns}
    fitting = chosen.for_sample(snapshot.sample([n for n in snapshot.schema.names if n in names]))
    if fitting.by != chosen.by:
        log.info("too many rows are alike to be held out by content: each is, or is not, by its place in the files")
    return fitting


def _with_threshold(chosen: Split, snapshot: Snapshot) -> Split:
    if chosen.by != "time":
        return chosen
    column, sample = chosen.columns[0], RowSample.of_width(1)
    for fragment, group, _ in snapshot.row_groups():
        begin = 0
        for batch in snapshot.read(fragment, group, [column.name]):
            values = np.asarray(column.cells(batch.column(0)))
            priorities = row_priorities(fragment, group, np.arange(begin, begin + len(values)))
            wanted = sample.wanted(priorities)
            sample.update(priorities[wanted], values[wanted, None])
            begin += len(values)
    threshold = split.time_threshold(sample.rows[:, 0], chosen.holdout)
    if not np.isfinite(threshold):
        raise SchemaError(f"dataset.split.column {shown(column.name)} holds no values to split by; choose another")
    return replace(chosen, threshold=threshold)


def spread(groups: Sequence[TrainingGroup], rows: int) -> list[TrainingGroup]:
    """Row groups evenly over the table, about `rows` rows in all."""
    total = sum(g.rows for g in groups)
    return list(groups[:: max(1, total // rows)])


def _schema_from(state: dict[str, Any]) -> TableSchema:
    return TableSchema(
        tuple(Column(**c) for c in state["inputs"]),
        tuple(LeftOut(**c) for c in state["left_out"]),
        tuple(state["keys"]),
        state["label"],
    )

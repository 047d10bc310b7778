"""What a run of a job would meet, planned from footers and a second of measuring: figures, and advice on row groups."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aemodel.arithmetic import COMPILED_WORK, WORTH_A_TRIAL
from aemodel.columns import columns_of
from aemodel.config import Job
from aemodel.cost import (
    DECODE_CELL,
    PREPARE_GROUP,
    Estimate,
    Machine,
    Shape,
    estimate,
    prepare_bytes,
    score_bytes,
    train_bytes,
)
from aemodel.destination import carried_columns, check_output
from aemodel.errors import JobError, SnapshotError, redacted, shown
from aemodel.launch import device_count
from aemodel.plan import WINDOW_ROWS
from aemodel.preflight.footers import Footers, InputColumn, RowGroup, footers_of
from aemodel.preflight.limits import allowed_bytes, rounded_up, size_text
from aemodel.schedule import global_batch_size, schedule_for
from aemodel.snapshot import Snapshot, open_snapshot

#: The share of the memory that one row group may take.
GROUP_SHARE = 1 / 8
#: A few tiny row groups cost nothing worth a word.
MANY_TINY = 16
#: Training of less than this many seconds is not worth another device; of more, on GPUs, another machine.
WORTH_A_GPU, WORTH_MACHINES = 600.0, 3_600.0


@dataclass(frozen=True)
class Advice:
    """A row group that will hurt, and why."""

    path: str
    row_group: int
    reason: str


@dataclass(frozen=True)
class Findings:
    """`too_large` and `too_small`: row groups; `good_rows`: what to write them with instead. `unknown_levels`:
    categorical columns whose levels footers do not tell."""

    name: str
    uri: str
    files: int
    compressed_bytes: int
    kinds: tuple[tuple[str, int], ...]
    unknown_levels: int
    left_out: tuple[str, ...]
    too_large: tuple[Advice, ...]
    too_small: tuple[Advice, ...]
    good_rows: int
    allowed_bytes: int
    devices: str
    shape: Shape
    machine: Machine
    estimate: Estimate

    @property
    def fits(self) -> bool:
        return self.estimate.peak_bytes <= self.allowed_bytes


def look(job: Job, measure: Callable[[Shape], Machine]) -> Findings:
    """Open the doors that a run would open, short of reading data, and plan it. Raises InputError as a run does."""
    snapshot = open_snapshot(job.dataset.uri)
    if snapshot.num_rows == 0:
        raise SnapshotError(f"{shown(redacted(snapshot.uri))} holds no rows: there is nothing to learn from")
    footers = footers_of(snapshot, job.dataset)
    check_output(job, snapshot, job.model.most_latents)
    shape = shape_of(job, footers, carried_columns(job, snapshot), device_count(job.training.devices))
    return planned(job, snapshot, footers, shape, measure(shape))


def check_memory(job: Job, snapshot: Snapshot, scoring_alone: bool = False) -> None:
    """Raises JobError where a run, or scoring alone, would take more than the job's `memory_limit`."""
    if job.memory_limit is None:
        return
    footers, carried = footers_of(snapshot, job.dataset), carried_columns(job, snapshot)
    refuse_beyond(job, shape_of(job, footers, carried, device_count(job.training.devices)), scoring_alone)


def refuse_beyond(job: Job, shape: Shape, scoring_alone: bool = False) -> None:
    """`check_memory`, of a table of known shape."""
    needed = _needed(shape, scoring_alone)
    limit, what = job.memory_limit_bytes, "scoring" if scoring_alone else "a run"
    if job.memory_limit is not None and needed > limit:
        rows = good_rows(shape, limit)
        groups, size = max(shape.groups, -(-shape.rows // rows)), int(rows * shape.row_bytes)
        smaller = replace(shape, groups=groups, group_rows=rows, group_bytes=size)
        others = {
            "set training.compile to false": replace(shape, compiles=False),
            f"write row groups of about {rows:,} rows": smaller if rows < shape.group_rows else shape,
        }
        ways = ["raise it", *(way for way, other in others.items() if _needed(other, scoring_alone) < needed)]
        enough = size_text(rounded_up(needed))
        raise JobError(
            f"memory_limit is {job.memory_limit}, and {what} needs about {enough}: {', or '.join(ways)}; "
            "`aemodel preflight` tells more"
        )


def _needed(shape: Shape, scoring_alone: bool) -> int:
    return score_bytes(shape) if scoring_alone else max(prepare_bytes(shape), train_bytes(shape), score_bytes(shape))


def planned(job: Job, snapshot: Snapshot, footers: Footers, shape: Shape, machine: Machine) -> Findings:
    """All that is said of a run, from what is known."""
    allowed, expected = allowed_bytes(job, machine.memory_bytes), estimate(shape, machine)
    return Findings(
        name=job.name,
        uri=redacted(snapshot.uri),
        files=len(snapshot.fragments),
        compressed_bytes=sum(g.compressed for g in footers.groups),
        kinds=tuple(Counter(str(c.kind) for c in footers.inputs).most_common()),
        unknown_levels=sum(c.kind == "categorical" and c.levels is None for c in footers.inputs),
        left_out=footers.left_out,
        too_large=too_large(footers.groups, shape, allowed),
        too_small=too_small(footers.groups, shape),
        good_rows=good_rows(shape, allowed),
        allowed_bytes=allowed,
        devices=devices_worth(shape, machine, expected),
        shape=shape,
        machine=machine,
        estimate=expected,
    )


def shape_of(job: Job, footers: Footers, carried: Sequence[str], ranks: int) -> Shape:
    """The table and the network in figures; what the footers leave open is taken at its largest."""
    inputs, rows = footers.inputs, sum(g.rows for g in footers.groups)
    values, width = sum(c.values for c in inputs), sum(c.width for c in inputs)
    training = max(1, round(rows * (1 - job.dataset.split.holdout)))
    batch = min(-(-global_batch_size(job.training, training, width) // ranks), max(1, training // ranks))
    schedule = schedule_for(job.training, batch, max(1, training // (batch * ranks)))
    largest = max(footers.groups, key=lambda g: (g.rows, g.decoded))
    latents = max(1, min(job.model.most_latents, width - 1))
    output = columns_of(job.output, job.model, latents, width)
    shape = Shape(
        rows=rows,
        groups=len(footers.groups),
        columns=len(inputs),
        categorical=sum(c.kind == "categorical" for c in inputs),
        values=values,
        width=width,
        inputs=values + sum(c.has_nulls + _embedding(c) for c in inputs),
        carried=len(carried),
        carried_row_bytes=sum(footers.decoded[name] for name in carried) / rows,
        latent_dim=latents,
        features=len(output.features) + len(output.wide),
        hidden=job.model.hidden_for(width),
        holdout=job.dataset.split.holdout,
        decoded_bytes=sum(g.decoded for g in footers.groups),
        group_rows=largest.rows,
        group_bytes=max(g.decoded for g in footers.groups),
        batch_size=batch,
        steps_per_epoch=schedule.steps_per_epoch,
        max_epochs=schedule.max_epochs,
        check_epochs=schedule.check_epochs,
        ranks=ranks,
        threads=os.cpu_count() or 1,
        cache_bytes=int(job.training.cache_disk_share * shutil.disk_usage(Path()).free),
    )
    work = 6.0 * shape.weights * training * schedule.max_epochs
    compiles = job.training.compile is True or (job.training.compile == "auto" and work >= COMPILED_WORK)
    bf16 = job.training.precision == "bf16" or (job.training.precision == "auto" and work >= WORTH_A_TRIAL)
    return replace(shape, bf16=bf16, compiles=compiles)


def _embedding(column: InputColumn) -> int:
    """Dimensions in which the default preset embeds a categorical."""
    return min(50, round(1.6 * column.width**0.56)) if column.kind == "categorical" else 0


def too_large(groups: tuple[RowGroup, ...], shape: Shape, allowed: int) -> tuple[Advice, ...]:
    """Row groups that take much of the memory."""
    found = []
    for group in groups:
        encoded = group.rows * shape.encoded_row_bytes
        held = shape.ranks * (group.decoded + 2 * encoded)
        if held > GROUP_SHARE * allowed:
            found.append(Advice(group.path, group.index, f"takes {size_text(held)} of memory while it is read"))
    return tuple(found)


def too_small(groups: tuple[RowGroup, ...], shape: Shape) -> tuple[Advice, ...]:
    """Row groups that take longer to find than to read, if they are many."""
    cells = max(1, shape.values + shape.categorical)
    tiny = [g for g in groups if g.rows * cells * DECODE_CELL < PREPARE_GROUP]
    if len(tiny) < MANY_TINY:
        return ()
    return tuple(Advice(g.path, g.index, f"{g.rows:,} rows: longer to find than to read") for g in tiny)


def good_rows(shape: Shape, allowed: int) -> int:
    """Rows of a row group that does not hurt: a power of two, at most a quarter of a window of them."""
    row = shape.ranks * (shape.decoded_bytes / max(1, shape.rows) + 2 * shape.encoded_row_bytes)
    most = min(WINDOW_ROWS // 4, GROUP_SHARE * allowed / max(1.0, row))
    return int(2 ** (max(1, int(most)).bit_length() - 1))


def devices_worth(shape: Shape, machine: Machine, expected: Estimate) -> str:
    """What to train on, in words."""
    if not machine.gpus:
        return "one CPU is enough" if expected.train < WORTH_A_GPU else "one GPU would pay"
    if shape.ranks == 1 and expected.train < WORTH_A_GPU:
        return "one GPU is enough"
    if shape.ranks > 1 and expected.train < WORTH_A_GPU:
        return f"one GPU is enough; the job starts {shape.ranks} ranks"
    return "more machines would pay" if expected.train > WORTH_MACHINES else "all GPUs of one machine"

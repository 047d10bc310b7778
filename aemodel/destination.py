"""Where a job's table goes, and what it carries over from the input: checked before any work is done."""

from __future__ import annotations

from aemodel.columns import columns_of
from aemodel.config import Job
from aemodel.errors import SchemaError, TableError, shown
from aemodel.pca import MAX_WIDTH
from aemodel.publish import Table
from aemodel.snapshot import Snapshot


def check_output(job: Job, snapshot: Snapshot, latent_dim: int) -> Table:
    """The table that the job publishes to. Raises TableError if it may not lie there or a column exists already,
    SchemaError if a key cannot be carried to it."""
    carried_columns(job, snapshot)
    table = Table.open(job.output_uri, snapshot)
    written = columns_of(job.output, job.model, latent_dim, MAX_WIDTH).all
    taken = [n for n in written if n in snapshot.schema.names]
    if taken:
        raise TableError(
            f"the output column {shown(taken[0])} exists in the dataset already; "
            f"set output.prefix to another than '{job.output.prefix}'"
        )
    return table


def carried_columns(job: Job, snapshot: Snapshot) -> tuple[str, ...]:
    """The input columns that go to the output: the keys, or all; hive partitions stay in the path.

    Raises SchemaError for a key that is not there, or whose values the files' common type would change: they could
    not be joined by it.
    """
    missing = [k for k in job.dataset.key if k not in snapshot.schema.names]
    if missing:
        raise SchemaError(f"dataset.key names {shown(missing[0])}, which is not a column of the dataset")
    changed = [k for k in job.dataset.key if k in snapshot.inexact]
    if changed:
        raise SchemaError(
            f"dataset.key {shown(changed[0])} is {snapshot.inexact[changed[0]]}, which would change its values; "
            "write it alike in all files"
        )
    everything = job.output.columns == "all" or not job.dataset.key
    names = snapshot.schema.names if everything else job.dataset.key
    return tuple(n for n in names if n not in snapshot.partition_columns)

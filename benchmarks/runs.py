"""Run folders as the pipeline makes them, without a registry."""

from __future__ import annotations

from pathlib import Path

from aemodel.bundle import Bundle, Provenance
from aemodel.config import Job
from aemodel.files import write_json
from aemodel.prepared import Prepared, choose_split, prepare, table_schema
from aemodel.row_cache import CACHE
from aemodel.schema import TableSchema
from aemodel.snapshot import open_snapshot
from aemodel.split import Split


def prepare_folder(
    job: Job, folder: Path, before: Split | None = None, parent: Bundle | None = None
) -> tuple[Prepared, TableSchema]:
    """Pin the job's dataset and fit what is fitted before training, after a version split like `before`;
    `aemodel.worker` goes on from the folder."""
    snapshot = open_snapshot(job.dataset.uri)
    schema = table_schema(snapshot, job.dataset)
    chosen = choose_split(job.dataset, snapshot, schema, before)
    prepared = prepare(job, snapshot, schema, chosen, parent, folder / CACHE)
    prepared.save(folder / "prepared")
    snapshot.save(folder / "snapshot.json")
    write_job(job, folder, snapshot.num_rows)
    return prepared, schema


def write_job(job: Job, folder: Path, rows: int) -> None:
    """What a run folder says of its job; `rows` are the dataset's."""
    write_json(folder / "job.json", job.model_dump(mode="json"))
    write_json(folder / "provenance.json", vars(Provenance(job.name, "", "", "", rows)))

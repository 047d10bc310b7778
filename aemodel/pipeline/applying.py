"""The steps that write a table with a registered version: score, publish."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from aemodel import bundle, memory
from aemodel.config import Job
from aemodel.contract import Contract
from aemodel.destination import carried_columns, check_output
from aemodel.errors import PublishError, shown
from aemodel.files import digest, write_json
from aemodel.kept import LATENTS
from aemodel.membership import Membership
from aemodel.part import check_part, link_part, write_part
from aemodel.pipeline.references import MEMBERSHIP, SNAPSHOT, PublishedTable, StagedTable, code_version
from aemodel.preflight import check_memory
from aemodel.publish import CARDS, MANIFEST, Manifest, Part, Table
from aemodel.registry import Registry, Version
from aemodel.scoring import Scorer, StrangeRow, Strangest, score_fragments
from aemodel.snapshot import Snapshot, open_snapshot

log = logging.getLogger("aemodel")

#: The strangest rows of a table that its manifest names.
NUM_STRANGEST = 5


def champion_version(job: Job, work: Path) -> Version | None:
    """The version that the job's alias names now; everything afterwards uses its number."""
    return Registry(job.registry, work).resolve(job.name, job.registry.alias)


def score(job: Job, version: str, work: Path, run_folder: str | None = None) -> StagedTable:
    """Score every row of the job's dataset with a version and stage the table. Readers see nothing of it yet.

    The rows are those that the run in `run_folder` pinned, so what came since waits for the next run; pinned anew
    without one.
    """
    memory.keep_freed()
    registry = Registry(job.registry, work)
    folder = registry.fetch(Version(job.name, version))
    contract = Contract.from_tags(registry.tags_of(Version(job.name, version)))
    known = Membership.load(folder / "kept" / MEMBERSHIP) if job.output.in_training else None
    scorer = Scorer(bundle.load(folder / "bundle"), job.output, version, contract, known)
    snapshot = Snapshot.load(Path(run_folder) / SNAPSHOT) if run_folder else open_snapshot(job.dataset.uri)
    scorer.check_columns(snapshot.schema)
    carried = carried_columns(job, snapshot)
    table = check_output(job, snapshot, scorer.bundle.model.latent_dim)
    check_memory(job, snapshot, scoring_alone=run_folder is None)
    memory.give_back()  # what evaluating took
    recipe = digest([scorer.bundle.digest, job.name, version, scorer.columns.all, carried, code_version()])
    key = digest([snapshot.digest, recipe])
    if table.holds(key):
        return StagedTable(str(table.root), key, False, snapshot.num_rows, 0.0)
    began = time.perf_counter()
    with table.lock():
        staging = table.begin(key)
        strangest = Strangest(NUM_STRANGEST, snapshot.schema.names, scorer.columns)
        parts = _parts(table, staging, scorer, snapshot, carried, strangest, recipe)
        _write_cards(folder / "kept" / LATENTS, staging / CARDS, scorer)
        found = tuple(asdict(r) for r in strangest.rows())
        manifest = Manifest(key, job.name, version, snapshot.digest, recipe, tuple(parts), strangest=found)
        write_json(staging / MANIFEST, asdict(manifest))
    seconds = time.perf_counter() - began
    log.info("scored %s rows with version %s in %.1f s", f"{manifest.rows:,}", version, seconds)
    for name in scorer.unlike_training():
        text = "most of what %s holds is unknown to version %s and counts as missing or other: have its values changed?"
        log.warning(text, shown(name), version)
    return StagedTable(str(table.root), key, True, manifest.rows, seconds)


def _parts(
    table: Table,
    staging: Path,
    scorer: Scorer,
    snapshot: Snapshot,
    carried: tuple[str, ...],
    strangest: Strangest,
    recipe: str,
) -> list[Part]:
    """Write, or link, all files of the table; each is read back while the next ones are scored."""
    sources = [digest([f.path, f.size, f.footer, recipe]) for f in snapshot.fragments]
    fresh, schema = [], scorer.table_schema(snapshot.schema, carried)
    for index, (fragment, source) in enumerate(zip(snapshot.fragments, sources, strict=True)):
        kept = table.reusable(source, fragment.path)
        if kept is not None:
            link_part(kept, staging / fragment.path)
        elif fragment.num_rows:
            fresh.append(index)
        else:
            write_part(staging / fragment.path, [], schema)

    def check(index: int) -> None:
        rows, fragment = snapshot.read_fragment(index, list(carried)), snapshot.fragments[index]
        check_part(staging / fragment.path, rows, fragment.num_rows, scorer.columns.numbers)

    stream = score_fragments(scorer, snapshot, fresh, carried, strangest)
    with closing(stream) as scored, ThreadPoolExecutor(1, "checking") as checker:
        checks = []
        for index, batches in groupby(scored, key=lambda item: item[0]):
            write_part(staging / snapshot.fragments[index].path, (batch for _, batch in batches), schema)
            checks.append(checker.submit(check, index))
        for checked in checks:
            checked.result()
    return [
        Part(f.path, f.num_rows, source, (staging / f.path).stat().st_size)
        for f, source in zip(snapshot.fragments, sources, strict=True)
    ]


def _write_cards(kept: Path, target: Path, scorer: Scorer) -> None:
    """The version's cards, under the names that the feature columns have in this table, and with their lineage."""
    cards = pq.read_table(kept, partitioning=None)
    cards = cards.set_column(0, "column", pa.array(scorer.columns.features))
    cards = cards.replace_schema_metadata(scorer.lineage)
    write_part(target, cards.to_batches(), cards.schema)


def publish(staged: StagedTable) -> PublishedTable:
    """Switch readers to a staged table at once. Again, or after a crash, it finds its own commit and does nothing."""
    table = Table(Path(staged.root))
    with table.lock():
        if not table.holds(staged.key):
            staging = table.staging(staged.key)
            if not (staging / MANIFEST).exists():
                raise PublishError(f"what was staged for {shown(table.root)} is gone; score again")
            table.commit(Manifest.load(staging / MANIFEST))
        else:
            table.discard(staged.key)
        current = table.current
        assert current is not None
    strangest = tuple(StrangeRow.from_json(r) for r in current.strangest)
    return PublishedTable(
        str(table.path),
        current.table_version,
        current.rows,
        staged.changed,
        current.model,
        current.model_version,
        strangest,
    )

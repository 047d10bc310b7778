"""The step that writes a run's report."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aemodel import bundle, card
from aemodel.config import Job
from aemodel.errors import redacted
from aemodel.evaluation import Evaluation
from aemodel.files import read_state, write_bytes
from aemodel.gate import Verdict
from aemodel.kept import LATENTS
from aemodel.pipeline.references import RegisteredVersion
from aemodel.prepared import Prepared
from aemodel.registry import Registry
from aemodel.report import Report, render
from aemodel.scoring import Scorer, Strangest

#: Held-out rows that the report draws, and how many of the strangest it lists.
DRAWN_ROWS = 5_000
LISTED_ROWS = 10


def write_report(run: RegisteredVersion, job: Job, work: Path, seconds: dict[str, float]) -> Path:
    """The run's HTML page, in its folder and logged to its MLflow run."""
    folder = Path(run.folder)
    prepared, trained = Prepared.load(folder / "prepared"), bundle.load(folder / "bundle")
    scorer = Scorer(trained, job.output.model_copy(update={"anomaly": True}), run.version)
    drawn = _drawn(prepared.held_out)
    rows = drawn.combine_chunks().to_batches()
    strangest = Strangest(LISTED_ROWS, prepared.held_out.column_names, scorer.columns)
    scored = []
    for batch in rows:
        scored.append(scorer.score(batch))
        strangest.add(batch, scored[-1])
    table = pa.Table.from_batches(scored, scorer.schema)
    label = prepared.schema.label
    labels = tuple(_as_text(v) for v in drawn.column(label).to_pylist()) if label else None
    page = render(
        Report(
            name=job.name,
            version=run.version,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            dataset=redacted(job.dataset.uri),
            num_training=prepared.num_training,
            num_held_out=prepared.num_held_out,
            held_out_is_training=prepared.held_out_is_training,
            schema=prepared.schema,
            statistics=prepared.statistics,
            nulled=prepared.nulled,
            evaluation=Evaluation.from_json(read_state(folder / "evaluation.json")),
            verdict=Verdict.from_json(read_state(folder / "verdict.json")),
            journal=_journal(folder),
            latents=np.stack([table.column(n).to_numpy() for n in scorer.columns.features], axis=1),
            ranks=table.column(scorer.columns.error_rank).to_numpy(),
            label_name=label,
            labels=labels,
            strangest=strangest.rows(),
            cards=card.from_table(pq.read_table(folder / LATENTS, partitioning=None)),
            seconds=seconds,
        )
    )
    write_bytes(folder / "report.html", page.encode())
    Registry(job.registry, work).log_file(run.run_id, folder / "report.html")
    return folder / "report.html"


def _drawn(held_out: pa.Table) -> pa.Table:
    """As many rows as are drawn, from all over the held-out ones, which stand in the order of the files."""
    chosen = np.random.default_rng(0).permutation(held_out.num_rows)[:DRAWN_ROWS]
    return held_out.take(pa.array(np.sort(chosen)))


def _as_text(value: object) -> str | None:
    return None if value is None else str(value)


def _journal(folder: Path) -> tuple[dict[str, Any], ...]:
    path = folder / "metrics.jsonl"
    if not path.exists():
        return ()
    return tuple(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())

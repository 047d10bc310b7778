"""The steps that make a model version: prepare, train, evaluate and register, report."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from aemodel import bundle, launch, release
from aemodel import contract as contracts
from aemodel.bundle import Bundle
from aemodel.config import Job
from aemodel.contract import Contract
from aemodel.errors import TrainingError, redacted
from aemodel.evaluation import Evaluation, Verdict, decide, evaluate
from aemodel.files import digest, read_json, whole_folder, write_bytes, write_json
from aemodel.layout import EncodedRows
from aemodel.loader import EncodedRowGroups
from aemodel.model import PrincipalAxes
from aemodel.pipeline.applying import check_output
from aemodel.pipeline.references import PreparedRun, RegisteredVersion, TrainedRun, code_version, locked
from aemodel.prepared import Prepared, prepare, spread, table_schema
from aemodel.registry import ROLLED_BACK_TAG, Registry, Version
from aemodel.report import Report, render
from aemodel.schema import TableSchema
from aemodel.scoring import Scorer, Strangest
from aemodel.snapshot import Snapshot, open_snapshot

log = logging.getLogger("aemodel")

#: Held-out rows that the report draws, and how many of the strangest it lists.
DRAWN_ROWS = 5_000
LISTED_ROWS = 10
#: Training rows that the gap between training and held-out rows is measured by.
COMPARED_ROWS = 20_000


def prepare_run(job: Job, work: Path) -> PreparedRun:
    """Pin the input, open every door, fit what is fitted before training. Raises InputError, leaving nothing behind."""
    snapshot = open_snapshot(job.dataset.uri)
    schema = table_schema(snapshot, job.dataset)
    check_output(job, snapshot, job.model.most_latents)
    registry = Registry(job.registry, work)
    key, folder = _place(job, snapshot, work)
    with locked(folder):
        log.info(
            "input: %s rows, %d files, %.1f MB in %s",
            f"{snapshot.num_rows:,}",
            len(snapshot.fragments),
            snapshot.num_bytes / 1e6,
            redacted(job.dataset.uri),
        )
        if not (folder / "prepared").exists():
            parent = _parent(job, registry, schema, folder)
            prepare(job, snapshot, schema, parent).save(folder / "prepared")
        # The pin is of this run: the same files may have been copied or touched since the last.
        snapshot.save(folder / "snapshot.json")
        write_json(folder / "job.json", job.model_dump(mode="json"))
    return PreparedRun(str(folder), key, snapshot.num_rows)


def is_learned(job: Job, work: Path) -> bool:
    """Whether a run of this job on the present data has got as far as its verdict."""
    return (_place(job, open_snapshot(job.dataset.uri), work)[1] / "verdict.json").exists()


def _place(job: Job, snapshot: Snapshot, work: Path) -> tuple[str, Path]:
    """A run's key, which says what it is made of, and its folder."""
    key = digest([snapshot.digest, job.training_digest, job.name, code_version()])
    return key, work / "runs" / f"{job.name}-{key[:12]}"


def _parent(job: Job, registry: Registry, schema: TableSchema, folder: Path) -> Bundle | None:
    """The champion, copied into the run, if training may start from it; why not stays in the run as well."""
    champion = registry.resolve(job.name, job.registry.alias)
    if champion is None:
        return None
    source = registry.fetch(champion)
    parent = bundle.load(source)
    cold = "the job says so" if job.training.start == "cold" else release.obstacle(parent, job.model, schema)
    write_json(folder / "cold.json", cold)
    if cold:
        log.info("training from scratch, not from version %s: %s", champion.number, cold)
        return None
    with whole_folder(folder / "parent") as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True)
    log.info("training goes on from version %s, whose columns are to keep their meaning", champion.number)
    return parent


def train(run: PreparedRun, job: Job, work: Path) -> TrainedRun:
    """Train under torchrun, or take up a cut-short training, or find it done. Metrics go to MLflow as they come."""
    folder = Path(run.folder)
    with locked(folder):
        if not (folder / "result.json").exists():
            _train(run, folder, job, Registry(job.registry, work))
        result = read_json(folder / "result.json")
    return TrainedRun(run.folder, run.key, result["rows_per_second_first"], result["rows_per_second"])


def _train(run: PreparedRun, folder: Path, job: Job, registry: Registry) -> None:
    provenance = bundle.Provenance(
        job.name, Snapshot.load(folder / "snapshot.json").digest, job.training_digest, code_version(), run.rows
    )
    write_json(folder / "provenance.json", vars(provenance))
    run_id = _start_run(run.key, folder, job, registry)

    def on_events(events: list[dict[str, Any]]) -> None:
        _tell(events)
        registry.log_metrics(run_id, [metric for event in events for metric in _metrics(event)])

    try:
        launch.train(folder, launch.device_count(job.training.devices), on_events)
    except TrainingError:
        registry.finish(run_id, failed=True)
        raise


def _metrics(event: dict[str, Any]) -> list[tuple[str, float, int]]:
    name = {"epoch": "train_loss", "held_out": "held_out_loss"}.get(event["event"])
    metrics = [(name, event["loss"], event["step"])] if name else []
    speed = event.get("rows_per_second")
    return metrics + ([("rows_per_second", speed, event["step"])] if speed else [])


def _tell(events: list[dict[str, Any]]) -> None:
    """One line for the last epoch and one for the last look at the held-out rows, however many passed meanwhile."""
    last = {event["event"]: event for event in events}
    if event := last.get("epoch"):
        speed = f", {event['rows_per_second']:,.0f} rows/s" if "rows_per_second" in event else ""
        text = "epoch %d: step %d of %d, loss %.4f%s"
        figures = (event["epoch"] + 1, event["step"], event["total_steps"], event["loss"], speed)
        log.info(text, *figures, extra={"event": event})
    if event := last.get("held_out"):
        log.info("step %d: held-out loss %.4f", event["step"], event["loss"], extra={"event": event})
    if event := last.get("step"):
        log.debug("step %d", event["step"], extra={"event": event})


def _start_run(key: str, folder: Path, job: Job, registry: Registry) -> str:
    snapshot = Snapshot.load(folder / "snapshot.json")
    params = {
        f"{section}.{k}": v for section in ("model", "training") for k, v in getattr(job, section).model_dump().items()
    }
    tags = {"aemodel.snapshot": snapshot.digest, "aemodel.job": job.training_digest, "aemodel.code": code_version()}
    run_id = registry.start_run(job.name, key, params, tags)
    registry.log_dataset(run_id, job.name, job.dataset.uri, snapshot.digest, snapshot.num_rows, snapshot.schema.names)
    return run_id


def evaluate_and_register(run: TrainedRun, job: Job, work: Path) -> RegisteredVersion:
    """Measure on the held-out rows, let the gate decide, register the version once, promote it if it passed."""
    folder, registry = Path(run.folder), Registry(job.registry, work)
    with locked(folder):
        trained, prepared = bundle.load(folder / "bundle"), Prepared.load(folder / "prepared")
        held_out = prepared.encoded_held_out(trained.transform)
        found, learned = evaluate(trained, prepared.pca, held_out, _training_rows(folder, prepared))
        write_json(folder / "evaluation.json", found.to_json())
        run_id = _start_run(run.key, folder, job, registry)
        champion = registry.resolve(job.name, job.registry.alias)
        tags = {f"aemodel.{k}": v for k, v in vars(trained.provenance).items()}
        tags = {k: str(v) for k, v in tags.items()} | {"aemodel.bundle": trained.digest}
        tags |= {"aemodel.r2": f"{found.r2:.6f}", "aemodel.r2_pca": f"{found.r2_pca:.6f}"}
        version = registry.register(run_id, job.name, run.key, trained, folder / "bundle", job.output.prefix, tags)
        verdict, contract = _judged(job, registry, folder, prepared, found, learned.latents, champion, version)
        write_json(folder / "verdict.json", asdict(verdict))
        gate = "passed" if verdict.passed else "; ".join(verdict.reasons)[:4_000]
        registry.set_tags(version, {"aemodel.gate": gate} | contract.to_tags())
        figures = {"r2": found.r2, "r2_pca": found.r2_pca, "effective_rank": found.latents.effective_rank}
        registry.log_metrics(run_id, [(name, value, 0) for name, value in figures.items()])
        if verdict.passed and not registry.promote(version, champion):
            raise TrainingError(
                f"another run moved the alias {job.registry.alias!r} meanwhile; run again to compare with it"
            )
        if not verdict.passed:
            registry.challenge(version)
        registry.finish(run_id)
    alias = job.registry.alias if verdict.passed else None
    return RegisteredVersion(
        run.folder,
        run.key,
        version.name,
        version.number,
        run_id,
        verdict.passed,
        verdict.reasons,
        alias,
        found.r2,
        found.r2_pca,
    )


def _training_rows(folder: Path, prepared: Prepared) -> EncodedRows:
    """Some rows that were trained on, from all over the table."""
    read = EncodedRowGroups(Snapshot.load(folder / "snapshot.json"), prepared.split, prepared.transform, cache_bytes=0)
    groups = spread(prepared.groups, COMPARED_ROWS)
    return EncodedRows.concatenated([read(group) for group in groups])[:COMPARED_ROWS]


def _judged(
    job: Job,
    registry: Registry,
    folder: Path,
    prepared: Prepared,
    found: Evaluation,
    latents: np.ndarray,
    champion: Version | None,
    version: Version,
) -> tuple[Verdict, Contract]:
    """The gate's verdict, and what became of the champion's columns, both on the run's held-out rows."""
    tags = registry.tags_of(version)
    if rolled_back := tags.get(ROLLED_BACK_TAG):
        reason = f"version {version.number} was rolled back by hand ({rolled_back}): promote it by hand"
        return Verdict(False, (reason,), ()), Contract.from_tags(tags) or contracts.first(
            version.number, latents.shape[1]
        )
    judged = replace(found, rows=0) if prepared.held_out_is_training else found
    if champion is None or champion == version:
        known = Contract.from_tags(tags) or contracts.first(version.number, latents.shape[1])
        return decide(job.gate, judged), known
    theirs = bundle.load(registry.fetch(champion))
    pca = _same_width_pca(theirs, prepared)
    measured, reconstruction = evaluate(theirs, pca, prepared.encoded_held_out(theirs.transform))
    before = Contract.from_tags(registry.tags_of(champion))
    origins = before.origins if before else (champion.number,) * theirs.model.latent_dim
    cold = read_json(folder / "cold.json") if (folder / "cold.json").exists() else "there was no champion yet"
    contract = contracts.compared(
        version.number, latents, champion.number, theirs.digest, reconstruction.latents, origins, cold
    )
    return decide(job.gate, judged, measured, contract), contract


def _same_width_pca(champion: Bundle, prepared: Prepared) -> PrincipalAxes:
    """Stands in where only the champion's own figures are wanted: its linear space differs from this run's."""
    width = champion.transform.layout.width
    return replace(prepared.pca, mean=np.zeros(width), axes=np.zeros((width, 1)), variance=np.zeros(1))


def write_report(run: RegisteredVersion, job: Job, work: Path, seconds: dict[str, float]) -> Path:
    """The run's HTML page, in its folder and logged to its MLflow run."""
    folder = Path(run.folder)
    prepared, trained = Prepared.load(folder / "prepared"), bundle.load(folder / "bundle")
    scorer = Scorer(trained, job.output.prefix, run.version)
    rows = prepared.held_out.slice(0, DRAWN_ROWS).combine_chunks().to_batches()
    strangest = Strangest(LISTED_ROWS, prepared.held_out.column_names, scorer.columns)
    scored = []
    for batch in rows:
        scored.append(scorer.score(batch))
        strangest.add(batch, scored[-1])
    table = pa.Table.from_batches(scored, scorer.schema)
    label = prepared.schema.label
    labels = (
        tuple(_as_text(v) for v in prepared.held_out.column(label).slice(0, DRAWN_ROWS).to_pylist()) if label else None
    )
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
            evaluation=Evaluation.from_json(read_json(folder / "evaluation.json")),
            verdict=_verdict(folder),
            journal=_journal(folder),
            latents=np.stack([table.column(n).to_numpy() for n in scorer.columns.features], axis=1),
            ranks=table.column(scorer.columns.error_rank).to_numpy(),
            label_name=label,
            labels=labels,
            strangest=strangest.rows(),
            seconds=seconds,
        )
    )
    write_bytes(folder / "report.html", page.encode())
    Registry(job.registry, work).log_file(run.run_id, folder / "report.html")
    return folder / "report.html"


def _as_text(value: object) -> str | None:
    return None if value is None else str(value)


def _verdict(folder: Path) -> Verdict:
    state = read_json(folder / "verdict.json")
    return Verdict(state["passed"], tuple(state["reasons"]), tuple(state["notes"]))


def _journal(folder: Path) -> tuple[dict[str, Any], ...]:
    path = folder / "metrics.jsonl"
    if not path.exists():
        return ()
    return tuple(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())

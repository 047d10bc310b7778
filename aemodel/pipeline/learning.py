"""The steps that learn: prepare, train."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from aemodel import bundle, launch, memory, release
from aemodel.bundle import Bundle
from aemodel.config import Job
from aemodel.destination import check_output
from aemodel.errors import BundleFormatError, TrainingError, redacted, shown
from aemodel.files import digest, read_state, whole_folder, write_json
from aemodel.membership import Membership
from aemodel.pipeline.references import MEMBERSHIP, SNAPSHOT, PreparedRun, TrainedRun, code_version, locked
from aemodel.preflight import check_memory
from aemodel.prepared import choose_split, prepare, table_schema
from aemodel.registry import Registry
from aemodel.release import Lineage
from aemodel.row_cache import CACHE
from aemodel.schema import TableSchema
from aemodel.snapshot import Snapshot, open_snapshot
from aemodel.split import Split, still_held_out

log = logging.getLogger("aemodel")


def prepare_run(job: Job, work: Path) -> PreparedRun:
    """Pin the input, open every door, fit what is fitted before training. Raises InputError, leaving nothing behind."""
    memory.keep_freed()
    snapshot = open_snapshot(job.dataset.uri)
    schema = table_schema(snapshot, job.dataset)
    check_output(job, snapshot, job.model.most_latents)
    check_memory(job, snapshot)
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
        if snapshot.ignored:
            names = ", ".join(shown(name) for name in snapshot.ignored[:3])
            log.info("ignored: %s%s", names, f" and {n} more" if (n := len(snapshot.ignored) - 3) > 0 else "")
        if not (folder / "prepared").exists():
            chosen, parent = _following(job, registry, snapshot, schema, folder)
            prepare(job, snapshot, schema, chosen, parent, folder / CACHE).save(folder / "prepared")
        # The pin is of this run: the same files may have been copied or touched since the last.
        snapshot.save(folder / SNAPSHOT)
        write_json(folder / "job.json", job.model_dump(mode="json"))
    return PreparedRun(str(folder), key, snapshot.num_rows)


def is_learned(job: Job, work: Path) -> bool:
    """Whether a run of this job on the present data has got as far as its verdict."""
    return (_place(job, open_snapshot(job.dataset.uri), work)[1] / "verdict.json").exists()


def _place(job: Job, snapshot: Snapshot, work: Path) -> tuple[str, Path]:
    """A run's key, which says what it is made of, and its folder."""
    key = digest([snapshot.digest, job.training_digest, job.name, code_version()])
    return key, work / "runs" / f"{job.name}-{key[:12]}"


def _following(
    job: Job, registry: Registry, snapshot: Snapshot, schema: TableSchema, folder: Path
) -> tuple[Split, Bundle | None]:
    """Which rows are held out; and the champion, copied into the run with what it keeps, if training may start from it.

    Why not, where it may not, stays in the run as well; its columns are then what the new ones are turned to.
    """
    champion = registry.resolve(job.name, job.registry.alias)
    if champion is None:
        return choose_split(job.dataset, snapshot, schema), None
    source = registry.fetch(champion)
    known = Membership.load(source / "kept" / MEMBERSHIP)
    chosen, parent = choose_split(job.dataset, snapshot, schema, known.split), None
    if job.training.start == "cold":
        cold: str | None = "the job says so"
    elif not still_held_out(known.split, chosen) or (chosen.by == "place" and not known.unchanged_in(snapshot)):
        cold = "dataset.split holds out rows that the champion was trained on"
    else:
        try:
            parent = bundle.load(source / "bundle")
            cold = release.obstacle(parent, job.model, schema)
        except BundleFormatError as error:
            cold = str(error)
    with whole_folder(folder / "champion") as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True)
    Lineage(champion.number, cold).save(folder / "lineage.json")
    if cold:
        log.info("training from scratch, not from version %s: %s", champion.number, cold)
        return chosen, None
    log.info("training goes on from version %s, whose columns are to keep their meaning", champion.number)
    return chosen, parent


def train(run: PreparedRun, job: Job, work: Path) -> TrainedRun:
    """Train in processes of their own, or go on, or find it done. Metrics go to MLflow as they come."""
    folder = Path(run.folder)
    with locked(folder):
        if not (folder / "result.json").exists():
            _train(run, folder, job, Registry(job.registry, work))
        result = read_state(folder / "result.json")
    return TrainedRun(run.folder, run.key, result["rows_per_second_first"], result["rows_per_second"])


def _train(run: PreparedRun, folder: Path, job: Job, registry: Registry) -> None:
    provenance = bundle.Provenance(
        job.name, Snapshot.load(folder / SNAPSHOT).digest, job.training_digest, code_version(), run.rows
    )
    write_json(folder / "provenance.json", vars(provenance))
    run_id = mlflow_run(run.key, folder, job, registry)

    def on_events(events: list[dict[str, Any]]) -> None:
        _tell(events)
        registry.log_metrics(run_id, [metric for event in events for metric in _metrics(event)])

    memory.give_back()  # what preparing took; the ranks want it now
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
    if event := last.get("resumed"):
        log.info("training goes on from step %d of %d", event["step"], event["total_steps"], extra={"event": event})
    if event := last.get("epoch"):
        speed = f", {event['rows_per_second']:,.0f} rows/s" if "rows_per_second" in event else ""
        text = "epoch %d: step %d of %d, loss %.4f%s"
        figures = (event["epoch"] + 1, event["step"], event["total_steps"], event["loss"], speed)
        log.info(text, *figures, extra={"event": event})
    if event := last.get("held_out"):
        log.info("step %d: held-out loss %.4f", event["step"], event["loss"], extra={"event": event})
    if event := last.get("step"):
        log.debug("step %d", event["step"], extra={"event": event})


def mlflow_run(key: str, folder: Path, job: Job, registry: Registry) -> str:
    """The id of the MLflow run that a run's figures go to, with its parameters and its dataset."""
    snapshot = Snapshot.load(folder / SNAPSHOT)
    params = {
        f"{section}.{k}": v for section in ("model", "training") for k, v in getattr(job, section).model_dump().items()
    }
    tags = {"aemodel.snapshot": snapshot.digest, "aemodel.job": job.training_digest, "aemodel.code": code_version()}
    run_id = registry.start_run(job.name, key, params, tags)
    registry.log_dataset(run_id, job.name, job.dataset.uri, snapshot.digest, snapshot.num_rows, snapshot.schema.names)
    return run_id

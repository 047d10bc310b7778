"""The order of the steps, once, for the command line and for Prefect; and what a run has to say at its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aemodel import memory
from aemodel.config import Job
from aemodel.errors import NoVersion, SchemaError, shown
from aemodel.pipeline.applying import champion_version, publish, score
from aemodel.pipeline.judging import as_judged, evaluate_and_register
from aemodel.pipeline.learning import is_learned, prepare_run, train
from aemodel.pipeline.references import PublishedTable, RegisteredVersion, StagedTable, TrainedRun
from aemodel.pipeline.reporting import write_report

log = logging.getLogger("aemodel")
T = TypeVar("T")
#: Runs one step; Prefect's flows give one that makes a task of it.
Call = Callable[..., Any]


@dataclass(frozen=True)
class Outcome:
    """What a run did. Fields of stages that did not run are None; `changed` is False where the table stood already.

    `held_out_is_training`: `r2` and `r2_pca` are of the training rows, of which there were too few to hold any out.
    """

    model: str
    model_version: str
    table: str | None = None
    table_version: int | None = None
    rows: int | None = None
    changed: bool | None = None
    r2: float | None = None
    r2_pca: float | None = None
    held_out_is_training: bool | None = None
    gate: dict[str, Any] | None = None
    alias: str | None = None
    report: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    train_rows_per_second: dict[str, float] | None = None
    score_rows_per_second: float | None = None
    peak_memory_mb: float = 0.0
    strangest: tuple[dict[str, Any], ...] = ()
    prefix: str = "ae_"

    @property
    def refused(self) -> bool:
        return self.gate is not None and not self.gate["passed"]

    @property
    def verdict(self) -> str:
        """The gate's, in words; empty where nothing was judged or learned."""
        if self.gate is None:
            return ""
        reasons = "; ".join(self.gate["reasons"])
        if self.refused:
            return f"REFUSED: {reasons}"
        return f"passed, not judged: {reasons}" if reasons else "passed"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _directly(step: Callable[..., T], *references: Any) -> T:
    return step(*references)


class _Timed:
    """Calls steps and keeps the seconds each took."""

    def __init__(self, call: Call) -> None:
        self.call, self.seconds = call, dict[str, float]()

    def __call__(self, name: str, step: Callable[..., T], *references: Any) -> T:
        began = time.perf_counter()
        try:
            return self.call(step, *references)
        finally:
            self.seconds[name] = round(time.perf_counter() - began, 3)


def run(job: Job, work: Path, call: Call = _directly) -> Outcome:
    """All steps. A version that the gate refuses is registered and not promoted; the champion, if any, scores."""
    with memory.watched() as peak:
        step = _Timed(call)
        learned = _learn(job, work, step)
        version = learned["version"]
        scoring = version.version if version.passed else _champion_number(job, work)
        applied = {}
        if scoring:
            try:
                applied = _apply(job, work, step, scoring, version.folder)
            except SchemaError as error:
                if version.passed:
                    raise
                # A refused version took over from a champion that the new data no longer suits: the refusal is told.
                log.warning("the table stays as it is: %s", error)
        return _outcome(job, step, peak, learned, applied)


def run_train(job: Job, work: Path, call: Call = _directly) -> Outcome:
    """Learn and register, without writing a table."""
    with memory.watched() as peak:
        step = _Timed(call)
        return _outcome(job, step, peak, _learn(job, work, step), {})


def run_score(job: Job, work: Path, call: Call = _directly) -> Outcome:
    """Score with the version that the job's alias names, pinned at the start."""
    with memory.watched() as peak:
        step = _Timed(call)
        scoring = _champion_number(job, work)
        if scoring is None:
            raise NoVersion(
                f"no version of {shown(job.name)} has the alias {shown(job.registry.alias)}: train one first "
                "(aemodel train), or check the job's name and registry"
            )
        return _outcome(job, step, peak, {}, _apply(job, work, step, scoring))


def run_report(job: Job, work: Path, call: Call = _directly) -> Outcome:
    """The report once more, of a run that is done. Raises NoVersion if there is none on the present data."""
    if not is_learned(job, work):
        raise NoVersion(f"no finished run of {shown(job.name)} on the present data: run or train it first")
    with memory.watched() as peak:
        step = _Timed(call)
        prepared = step("prepare", prepare_run, job, work)
        trained = step("train", train, prepared, job, work)
        version = step("look", as_judged, trained, job, work)
        report = step("report", write_report, version, job, work, dict(step.seconds))
        return _outcome(job, step, peak, {"trained": trained, "version": version, "report": report}, {})


def _learn(job: Job, work: Path, step: _Timed) -> dict[str, Any]:
    prepared = step("prepare", prepare_run, job, work)
    trained = step("train", train, prepared, job, work)
    version = step("evaluate", evaluate_and_register, trained, job, work)
    report = step("report", write_report, version, job, work, dict(step.seconds))
    return {"trained": trained, "version": version, "report": report}


def _apply(job: Job, work: Path, step: _Timed, version: str, run_folder: str | None = None) -> dict[str, Any]:
    staged = step("score", score, job, version, work, run_folder)
    return {"staged": staged, "published": step("publish", publish, staged)}


def _champion_number(job: Job, work: Path) -> str | None:
    champion = champion_version(job, work)
    return champion.number if champion else None


def _outcome(job: Job, step: _Timed, peak: memory.Peak, learned: dict[str, Any], applied: dict[str, Any]) -> Outcome:
    version: RegisteredVersion | None = learned.get("version")
    trained: TrainedRun | None = learned.get("trained")
    staged: StagedTable | None = applied.get("staged")
    published: PublishedTable | None = applied.get("published")
    scored_with = published.model_version if published else ""
    return Outcome(
        model=job.name,
        model_version=version.version if version else scored_with,
        table=published.path if published else None,
        table_version=published.table_version if published else None,
        rows=published.rows if published else None,
        changed=published.changed if published else None,
        r2=version.r2 if version else None,
        r2_pca=version.r2_pca if version else None,
        held_out_is_training=version.held_out_is_training if version else None,
        gate={"passed": version.passed, "reasons": list(version.reasons)} if version else None,
        alias=version.alias if version else None,
        report=str(learned["report"]) if learned else None,
        seconds={**step.seconds, "total": round(sum(step.seconds.values()), 3)},
        train_rows_per_second=(
            {"first_epoch": trained.rows_per_second_first, "steady": trained.rows_per_second} if trained else None
        ),
        score_rows_per_second=staged.rows / staged.seconds if staged and staged.seconds else None,
        peak_memory_mb=round(peak.megabytes, 1),
        strangest=tuple(asdict(r) for r in published.strangest) if published else (),
        prefix=job.output.prefix,
    )

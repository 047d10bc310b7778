"""The order of the steps, with steps that only say that they were called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aemodel.config import Job
from aemodel.errors import NoVersion, SchemaError
from aemodel.job_file import parse_job
from aemodel.pipeline import (
    Outcome,
    PreparedRun,
    PublishedTable,
    RegisteredVersion,
    StagedTable,
    TrainedRun,
    run,
    run_report,
    run_score,
    run_train,
)
from aemodel.registry import Registry, Version
from aemodel.scoring import StrangeRow
from tests import tables

JOB = parse_job({"name": "m", "dataset": {"uri": "-"}}, "job")
STRANGE = StrangeRow(9.0, 1.0, ("a",), (None,), (("a", "1"),))


class Steps:
    """Runs no step, gives what each would, and remembers which were asked for and with what."""

    def __init__(self, passed: bool = True) -> None:
        alias = "champion" if passed else None
        reasons = () if passed else ("too low",)
        self.gives: dict[str, Any] = {
            "prepare_run": PreparedRun("/run", "key", 10),
            "train": TrainedRun("/run", "key", 1.0, 2.0),
            "evaluate_and_register": RegisteredVersion(
                "/run", "key", "m", "7", "id", passed, reasons, alias, 0.9, 0.8, False
            ),
            "write_report": Path("/run/report.html"),
            "score": StagedTable("/features", "key", True, 10, 2.0),
            "publish": PublishedTable("/features/current", 3, 10, True, "m", "7", (STRANGE,)),
        }
        self.asked: dict[str, tuple[Any, ...]] = {}

    def __call__(self, step: Callable[..., Any], *references: Any) -> Any:
        self.asked[step.__name__] = references
        return self.gives[step.__name__]


def _with_champion(work: Path, number: int) -> None:
    registry = Registry(JOB.registry, work)
    registry.client.create_registered_model("m")
    made = [registry.client.create_model_version("m", "file:///nowhere", None) for _ in range(number)]
    assert registry.promote(Version("m", str(made[-1].version)), None)


def test_a_whole_run_takes_the_steps_in_order_and_scores_with_its_own_version(work: Path) -> None:
    steps = Steps()
    outcome = run(JOB, work, steps)
    assert list(steps.asked) == list(steps.gives)
    assert steps.asked["score"][1] == "7"
    assert outcome.model_version == "7" and outcome.alias == "champion" and outcome.table_version == 3
    assert outcome.score_rows_per_second == 5.0 and outcome.train_rows_per_second == {"first_epoch": 1.0, "steady": 2.0}
    assert set(outcome.seconds) == {"prepare", "train", "evaluate", "report", "score", "publish", "total"}


def test_after_a_refusal_the_champion_scores(work: Path) -> None:
    _with_champion(work, 2)
    steps = Steps(passed=False)
    outcome = run(JOB, work, steps)
    assert outcome.refused and outcome.model_version == "7"
    assert steps.asked["score"][1] == "2"


def test_after_a_refusal_without_a_champion_no_table_is_written(work: Path) -> None:
    steps = Steps(passed=False)
    outcome = run(JOB, work, steps)
    assert outcome.refused and outcome.table is None and "score" not in steps.asked


def test_after_a_refusal_a_champion_that_the_data_no_longer_suits_writes_nothing_and_the_refusal_is_told(
    work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _with_champion(work, 1)

    def call(step: Callable[..., Any], *references: Any) -> Any:
        if step.__name__ == "score":
            raise SchemaError("column 'a' is gone")
        return Steps(passed=False)(step, *references)

    outcome = run(JOB, work, call)
    assert outcome.refused and outcome.table is None
    assert "the table stays as it is: column 'a' is gone" in caplog.text


def test_training_alone_writes_no_table(work: Path) -> None:
    steps = Steps()
    outcome = run_train(JOB, work, steps)
    assert list(steps.asked)[-1] == "write_report" and outcome.rows is None and outcome.strangest == ()


def test_scoring_alone_takes_the_champion_and_learns_nothing(work: Path) -> None:
    _with_champion(work, 1)
    steps = Steps()
    outcome = run_score(JOB, work, steps)
    assert list(steps.asked) == ["score", "publish"] and steps.asked["score"][1] == "1"
    assert outcome.gate is None and outcome.r2 is None and outcome.report is None and not outcome.refused


def test_scoring_without_a_champion_is_refused(work: Path) -> None:
    with pytest.raises(NoVersion, match="no version of 'm' has the alias 'champion': train one first"):
        run_score(JOB, work, Steps())


def test_a_report_needs_a_finished_run_on_the_present_data(tmp_path: Path) -> None:
    tables.write(tables.mixed(60), tmp_path / "rows" / "a.parquet")
    job: Job = parse_job({"name": "m", "dataset": {"uri": str(tmp_path / "rows")}}, "job")
    steps = Steps()
    with pytest.raises(NoVersion, match="no finished run of 'm' on the present data: run or train it first"):
        run_report(job, tmp_path / "work", steps)
    assert not steps.asked


def test_an_outcome_is_plain_json(work: Path) -> None:
    outcome = run(JOB, work, Steps())
    read = json.loads(json.dumps(outcome.to_json(), allow_nan=False))
    assert read["gate"] == {"passed": True, "reasons": []} and read["strangest"][0]["reasons"] == ["a"]
    assert set(read) == set(Outcome.__dataclass_fields__)

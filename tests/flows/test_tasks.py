"""Which failures are worth another try, and when training comes from the cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from prefect.states import Failed

from aemodel.errors import (
    AemodelError,
    JobError,
    PublishError,
    RegistryError,
    SnapshotError,
    TrackingServerError,
    TrainingDiverged,
    TrainingError,
)
from flows.tasks import TASKS, worth_another_try
from flows.train import train
from tests.flows.conftest import Done
from tests.flows.runs import last_task_runs


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (RegistryError("the server is restarting"), True),
        (TrainingError("a rank was lost"), True),
        (PublishError("a file is gone"), True),
        (ConnectionError("reset"), True),
        (TrainingDiverged("nan"), False),
        (JobError("no such key"), False),
        (SnapshotError("no such path"), False),
        (TrackingServerError("no answer"), False),
        (ValueError("a bug"), False),
    ],
)
def test_only_what_may_be_over_the_next_time_is_tried_again(error: Exception, again: bool) -> None:
    task = next(iter(TASKS.values()))
    assert worth_another_try(task, None, Failed(data=error)) is again  # type: ignore[arg-type]


def test_every_error_says_whether_it_is_transient() -> None:
    def kinds(kind: type[AemodelError]) -> list[type[AemodelError]]:
        return [kind, *(k for s in kind.__subclasses__() for k in kinds(s))]

    assert all(not kind.transient for kind in kinds(AemodelError) if kind.exit_code == 2)


def test_a_training_is_cached_for_its_own_work_folder_and_while_its_result_is_there(done: Done, tmp_path: Path) -> None:
    other = train(done.job, str(tmp_path / "other"))
    assert last_task_runs()["train"].state_name == "Completed", "nothing was trained there yet"
    (result,) = (tmp_path / "other" / "runs").glob("orders-*/result.json")
    result.unlink()
    train(done.job, str(tmp_path / "other"))
    assert last_task_runs()["train"].state_name == "Completed" and result.exists(), "a lost result is made anew"

    shutil.rmtree(tmp_path / "other")
    again = train(done.job, done.work)
    assert last_task_runs()["train"].state_name == "Cached"
    assert again.report.startswith(done.work) and again.model_version == other.model_version == "1"

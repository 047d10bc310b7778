"""The whole job as a flow, under a real embedded Prefect server."""

from __future__ import annotations

import os
from typing import Any

import pytest

from aemodel.errors import SnapshotError
from flows.pipeline import pipeline
from tests.flows.conftest import Done
from tests.flows.runs import last_task_runs


def test_the_pipeline_trains_registers_and_publishes_as_tasks(done: Done) -> None:
    assert set(done.task_runs) == {"prepare", "train", "evaluate and register", "report", "score", "publish"}
    assert done.outcome.model_version == "1" and done.outcome.alias == "champion"
    assert (done.root / "features" / "current").is_symlink()


def test_again_training_comes_from_the_cache_and_nothing_is_written(done: Done) -> None:
    current = os.readlink(done.root / "features" / "current")
    outcome = pipeline(done.job, done.work)
    assert outcome.changed is False and os.readlink(done.root / "features" / "current") == current
    assert last_task_runs()["train"].state_name == "Cached"


def test_bad_input_fails_at_once_without_a_retry(done: Done) -> None:
    gone = done.job.model_copy(
        update={"dataset": done.job.dataset.model_copy(update={"uri": str(done.root / "nowhere")})}
    )
    state = pipeline(gone, done.work, return_state=True)
    with pytest.raises(SnapshotError, match="no such file or folder"):
        state.result()
    assert last_task_runs()["prepare"].run_count == 1


@pytest.mark.parametrize("wrong", [{"job": {}}, {"job": {"dataset": {"uri": "x"}, "modle": {}}}])
def test_wrong_parameters_are_refused_before_anything_runs(wrong: dict[str, Any]) -> None:
    from prefect.exceptions import ParameterTypeError

    with pytest.raises(ParameterTypeError):
        pipeline.validate_parameters(wrong)

"""The flows under a real embedded Prefect server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun
from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort

from aemodel.config import Job, load_job
from aemodel.errors import GateRefused, SnapshotError
from flows.pipeline import pipeline
from flows.score import score
from flows.train import train
from tests.integration.house import JOB, write_orders


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flows")
    write_orders(root / "orders", rows=400)
    (root / "job.yaml").write_text(JOB.format(root=root).replace("max_epochs: 4", "max_epochs: 1"))
    return root


@pytest.fixture(scope="module")
def job(root: Path) -> Job:
    return load_job(root / "job.yaml")


def _task_runs() -> dict[str, TaskRun]:
    """Those of the last flow run, by task."""
    with get_client(sync_client=True) as client:
        (last,) = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
        found = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[last.id])),
            sort=TaskRunSort.EXPECTED_START_TIME_DESC,
            limit=50,
        )
    return {run.name.rsplit("-", 1)[0]: run for run in found}


def test_the_pipeline_trains_registers_and_publishes_as_tasks(root: Path, job: Job) -> None:
    state = pipeline(job, str(root / "work"), return_state=True)
    assert state.is_completed()
    runs = _task_runs()
    assert set(runs) == {"prepare", "train", "evaluate and register", "report", "score", "publish"}
    assert (root / "features" / "current").is_symlink()


def test_again_training_comes_from_the_cache_and_nothing_is_written(root: Path, job: Job) -> None:
    current = os.readlink(root / "features" / "current")
    state = pipeline(job, str(root / "work"), return_state=True)
    outcome = state.result()
    assert outcome.changed is False and os.readlink(root / "features" / "current") == current
    assert _task_runs()["train"].state_name == "Cached"


def test_a_lost_work_folder_is_trained_anew_though_the_cache_remembers_it(root: Path, job: Job, tmp_path: Path) -> None:
    outcome = train(job, str(tmp_path / "other_work"))
    assert outcome.model_version == "1" and outcome.gate["passed"]
    assert list((tmp_path / "other_work" / "runs").glob("orders-*/result.json"))


def test_score_alone_uses_the_registered_version(root: Path, job: Job) -> None:
    outcome = score(job, str(root / "work"))
    assert outcome.model_version == "1" and outcome.rows == 400 and outcome.r2 is None


def test_a_run_leaves_a_summary_and_a_table_of_the_strangest_rows(root: Path, job: Job) -> None:
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/filter", json={}).json()
    summaries = [str(a["data"]) for a in found if a["key"] == "orders-summary"]
    assert any("PCA of the same width" in text for text in summaries)
    assert any("order_id" in str(a["data"]) for a in found if a["key"] == "orders-strangest")


def test_bad_input_fails_at_once_without_a_retry(root: Path, job: Job) -> None:
    gone = job.model_copy(update={"dataset": job.dataset.model_copy(update={"uri": str(root / "nowhere")})})
    state = pipeline(gone, str(root / "work"), return_state=True)
    with pytest.raises(SnapshotError, match="no such file or folder"):
        state.result()
    assert _task_runs()["prepare"].run_count == 1


def test_a_refused_gate_fails_the_flow_after_the_version_is_registered(root: Path, job: Job) -> None:
    strict = Job.model_validate({**job.model_dump(), "gate": {"min_gain_over_pca": 0.9}})
    state = pipeline(strict, str(root / "work"), return_state=True)
    assert state.is_failed()
    with pytest.raises(GateRefused, match="the gate refused version 1 of orders: .* asks for"):
        state.result()


def test_the_environment_is_laid_over_the_parameters(root: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEMODEL_DATASET__URI", str(root / "elsewhere"))
    with pytest.raises(SnapshotError, match="elsewhere"):
        pipeline(job, str(root / "work"))


@pytest.mark.parametrize("wrong", [{"job": {}}, {"job": {"dataset": {"uri": "x"}, "modle": {}}}])
def test_wrong_parameters_are_refused_before_anything_runs(wrong: dict[str, Any]) -> None:
    from prefect.exceptions import ParameterTypeError

    with pytest.raises(ParameterTypeError):
        pipeline.validate_parameters(wrong)

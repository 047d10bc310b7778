from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aemodel import launch
from aemodel.config import Job
from aemodel.errors import JobError, TrainingError
from aemodel.files import read_json, write_json
from aemodel.job_file import load_job
from aemodel.pipeline import prepare_run, train
from aemodel.pipeline.learning import is_learned
from aemodel.registry import Registry
from aemodel.release import Lineage
from tests.integration.house import House


@pytest.fixture
def job(copy: House) -> Job:
    return load_job(copy.job)


def _changed(job: Job, section: str, **values: Any) -> Job:
    return job.model_copy(update={section: getattr(job, section).model_copy(update=values)})


def _lineage(folder: str) -> Lineage:
    lineage = Lineage.load(Path(folder) / "lineage.json")
    assert lineage is not None
    return lineage


def test_a_run_is_the_same_wherever_its_data_lies_and_whatever_the_gate_says(house: House, copy: House) -> None:
    job = load_job(copy.job)
    here = prepare_run(job, copy.work)
    assert Path(here.folder).name == Path(house.first["report"]).parent.name and here.rows == 1_200
    assert prepare_run(_changed(job, "gate", min_gain_over_pca=0.5), copy.work) == here
    assert is_learned(job, copy.work)
    other = _changed(job, "training", seed=1)
    assert prepare_run(other, copy.work).key != here.key and not is_learned(other, copy.work)


def test_bad_input_leaves_no_run_behind(copy: House, job: Job) -> None:
    before = set((copy.work / "runs").iterdir())
    with pytest.raises(JobError, match="dataset.label names 'nobody'"):
        prepare_run(_changed(job, "dataset", label="nobody"), copy.work)
    assert set((copy.work / "runs").iterdir()) == before


def test_a_new_run_follows_on_the_champion_or_says_why_not(copy: House, job: Job) -> None:
    on = prepare_run(_changed(job, "training", seed=1), copy.work)
    assert _lineage(on.folder) == Lineage("1", None)
    assert (Path(on.folder) / "champion" / "bundle").is_dir() and (Path(on.folder) / "champion" / "kept").is_dir()
    cold = prepare_run(_changed(job, "training", seed=2, start="cold"), copy.work)
    assert _lineage(cold.folder) == Lineage("1", "the job says so")
    other = prepare_run(_changed(job, "model", hidden=(8,)), copy.work)
    assert _lineage(other.folder).cold


def test_of_a_champion_of_another_release_s_format_the_columns_are_kept(copy: House, job: Job) -> None:
    (manifest,) = (copy.work / "models" / "orders" / "1").rglob("bundle.json")
    write_json(manifest, {**read_json(manifest), "format_version": 1})
    fresh = prepare_run(_changed(job, "training", seed=1), copy.work)
    lineage = _lineage(fresh.folder)
    assert lineage.version == "1" and "has format 1, this release reads" in str(lineage.cold)
    assert (Path(fresh.folder) / "champion" / "kept").is_dir()


def test_a_run_starts_anew_where_it_would_hold_out_what_the_champion_was_trained_on(copy: House, job: Job) -> None:
    split = job.dataset.split
    more = prepare_run(_changed(job, "dataset", split=split.model_copy(update={"holdout": 0.4})), copy.work)
    assert _lineage(more.folder).cold == "dataset.split holds out rows that the champion was trained on"
    fewer = prepare_run(_changed(job, "dataset", split=split.model_copy(update={"holdout": 0.05})), copy.work)
    assert _lineage(fewer.folder).cold is None


def test_a_finished_training_is_found_and_nothing_is_started(
    copy: House, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "train", lambda *_: pytest.fail("torchrun was started"))
    prepared = prepare_run(job, copy.work)
    trained = train(prepared, job, copy.work)
    assert (trained.folder, trained.key) == (prepared.folder, prepared.key) and trained.rows_per_second > 0


def test_what_the_ranks_say_goes_to_mlflow_by_step(copy: House, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def ranks(folder: Path, devices: int, on_events: Callable[[list[dict[str, Any]]], None]) -> None:
        epoch = {"event": "epoch", "epoch": 0, "step": 3, "total_steps": 6, "loss": 0.5, "rows_per_second": 10.0}
        on_events([epoch, {"event": "held_out", "step": 3, "loss": 0.4}, {"event": "step", "step": 4}])
        on_events([{**epoch, "step": 6, "loss": 0.25}])
        write_json(folder / "result.json", {"rows_per_second_first": 1.0, "rows_per_second": 2.0})

    monkeypatch.setattr(launch, "train", ranks)
    other = _changed(job, "training", seed=1)
    prepared = prepare_run(other, copy.work)
    assert train(prepared, other, copy.work).rows_per_second == 2.0
    registry = Registry(job.registry, copy.work)
    run = registry.start_run("orders", prepared.key, {}, {})
    told = {n: registry.client.get_metric_history(run, n) for n in ("train_loss", "held_out_loss", "rows_per_second")}
    assert [(m.step, m.value) for m in told["train_loss"]] == [(3, 0.5), (6, 0.25)]
    assert [(m.step, m.value) for m in told["held_out_loss"]] == [(3, 0.4)] and len(told["rows_per_second"]) == 2
    assert registry.client.get_run(run).data.params["training.seed"] == "1"


def test_a_training_that_goes_on_says_from_where(
    copy: House, job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def ranks(folder: Path, devices: int, on_events: Callable[[list[dict[str, Any]]], None]) -> None:
        on_events([{"event": "resumed", "epoch": 1, "step": 3, "total_steps": 6}])
        write_json(folder / "result.json", {"rows_per_second_first": 1.0, "rows_per_second": 2.0})

    monkeypatch.setattr(launch, "train", ranks)
    other = _changed(job, "training", seed=2)
    with caplog.at_level(logging.INFO, "aemodel"):
        train(prepare_run(other, copy.work), other, copy.work)
    assert "training goes on from step 3 of 6" in caplog.messages


def test_a_training_that_fails_is_a_failed_run_in_mlflow(
    copy: House, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ranks(*_: Any) -> None:
        raise TrainingError("a rank was lost")

    monkeypatch.setattr(launch, "train", ranks)
    other = _changed(job, "training", seed=1)
    prepared = prepare_run(other, copy.work)
    with pytest.raises(TrainingError, match="a rank was lost"):
        train(prepared, other, copy.work)
    registry = Registry(job.registry, copy.work)
    run = registry.start_run("orders", prepared.key, {}, {})
    assert registry.client.get_run(run).info.status == "FAILED"

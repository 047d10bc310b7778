"""One rank in this process: a prepared run folder in, a bundle and a result out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from aemodel import bundle, worker
from aemodel.bundle import Bundle
from aemodel.config import Job
from aemodel.contract import same_place
from aemodel.evaluation import measure
from aemodel.files import read_json, write_json
from aemodel.kept import Kept
from aemodel.layout import EncodedRows
from aemodel.prepared import Prepared
from aemodel.release import Lineage
from aemodel.schedule import LOOKED_AT_ROWS
from aemodel.snapshot import Snapshot, open_snapshot
from tests import tables


def _prepared(folder: Path, job: Job, snapshot: Snapshot, prepared: Prepared) -> Path:
    """A run folder as the parent leaves it for the ranks; two epochs."""
    job = job.model_copy(update={"training": job.training.model_copy(update={"max_epochs": 2, "batch_size": 64})})
    folder.mkdir()
    write_json(folder / "job.json", job.model_dump(mode="json"))
    write_json(folder / "provenance.json", {"name": "m", "snapshot": "s", "job": "j", "code": "c", "rows": 300})
    snapshot.save(folder / "snapshot.json")
    prepared.save(folder / "prepared")
    return folder


@pytest.fixture
def run(mixed_job: Job, mixed_snapshot: Snapshot, mixed_prepared: Prepared, tmp_path: Path) -> Path:
    return _prepared(tmp_path / "run", mixed_job, mixed_snapshot, mixed_prepared)


def _features(trained: Bundle, prepared: Prepared) -> np.ndarray:
    return measure(trained, trained.transform.apply_all(prepared.anchors)).features


def test_a_run_ends_with_a_bundle_a_result_and_a_journal(run: Path, mixed_prepared: Prepared) -> None:
    worker.run(run, 0, 1, 1)
    result = read_json(run / "result.json")
    assert result["world_size"] == 1 and result["batch_size"] == 64 and result["rows_per_second"] > 0
    assert not (run / "cache").exists()
    assert '"event": "epoch"' in (run / "metrics.jsonl").read_text()
    trained = bundle.load(run / "bundle")
    assert trained.provenance.name == "m" and not any(p.requires_grad for p in trained.model.parameters())
    features = _features(trained, mixed_prepared)
    assert np.abs(features.mean(axis=0)).max() < 0.05 and features.var(axis=0).mean() == pytest.approx(1, abs=0.05)


def test_a_run_that_follows_on_a_version_keeps_its_columns(
    run: Path, mixed_bundle: Bundle, mixed_prepared: Prepared
) -> None:
    before = _features(mixed_bundle, mixed_prepared)
    bundle.save(mixed_bundle, run / "champion" / "bundle")
    Kept(mixed_prepared.anchors, before.astype(np.float32), mixed_prepared.held_out, tables.NO_CARDS).save(
        run / "champion" / "kept"
    )
    Lineage("1", None).save(run / "lineage.json")
    worker.run(run, 0, 1, 1)
    assert min(same_place(before, _features(bundle.load(run / "bundle"), mixed_prepared))) > 0.97


def test_a_run_from_scratch_is_turned_towards_the_columns_that_it_takes_over_from(
    run: Path, mixed_bundle: Bundle, mixed_prepared: Prepared
) -> None:
    # The champion's columns in another order and of other signs: a training from scratch cannot know of that.
    before = -_features(mixed_bundle, mixed_prepared)[:, ::-1]
    bundle.save(mixed_bundle, run / "champion" / "bundle")
    Kept(mixed_prepared.anchors, before.astype(np.float32), mixed_prepared.held_out, tables.NO_CARDS).save(
        run / "champion" / "kept"
    )
    Lineage("1", "the job says so").save(run / "lineage.json")
    worker.run(run, 0, 1, 1)
    assert min(same_place(before, _features(bundle.load(run / "bundle"), mixed_prepared))) > 0.9


def test_a_training_is_watched_on_a_bounded_number_of_rows_evenly_over_all() -> None:
    def rows(count: int) -> EncodedRows:
        return EncodedRows(np.arange(count, dtype=np.float32)[:, None], np.zeros((count, 0), np.int32))

    few, many = rows(100), rows(5 * LOOKED_AT_ROWS)
    assert worker.looked_at(few) is few
    seen = worker.looked_at(many).values[:, 0]
    assert len(seen) == LOOKED_AT_ROWS and seen[0] == 0 and seen[-1] == 5 * LOOKED_AT_ROWS - 1
    assert np.diff(seen).min() >= 4 and np.diff(seen).max() <= 6


def test_an_error_meant_for_a_person_is_left_for_the_parent_with_its_exit_code(
    mixed_job: Job, mixed_snapshot: Snapshot, mixed_prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(mixed_snapshot.uri, tmp_path / "rows")
    snapshot = open_snapshot(str(tmp_path / "rows"))
    run = _prepared(tmp_path / "run", mixed_job, snapshot, mixed_prepared)
    shutil.copy(tmp_path / "rows" / "a.parquet", tmp_path / "rows" / "b.parquet")
    monkeypatch.setattr(worker, "die_with_parent", lambda: None)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(SystemExit) as stopped:
        worker.main(run)
    left = read_json(run / "error-0.json")
    assert stopped.value.code == left["exit_code"] == 2
    assert "b.parquet" in left["message"] and "changed" in left["message"] and "\n" not in left["message"]
    assert not (run / "result.json").exists()

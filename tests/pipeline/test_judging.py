"""A trained run of the house, judged once more."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from aemodel.config import Job
from aemodel.errors import NoVersion, TrainingError
from aemodel.files import read_json
from aemodel.job_file import load_job
from aemodel.pipeline import RegisteredVersion, TrainedRun, evaluate_and_register
from aemodel.pipeline.judging import _both_held_out, _label, as_judged
from aemodel.registry import CHALLENGER, PROMOTED_TAG, ROLLED_BACK_TAG, Registry, Version
from aemodel.schema import Column
from aemodel.split import Split
from tests.integration.house import House

FIRST = Version("orders", "1")


@pytest.fixture
def job(copy: House) -> Job:
    return load_job(copy.job)


@pytest.fixture
def trained(copy: House, house: House) -> TrainedRun:
    (folder,) = (copy.work / "runs").glob("orders-*/")
    tags = Registry(load_job(copy.job).registry, copy.work).tags_of(FIRST)
    return TrainedRun(str(folder), tags["aemodel.key"], 1.0, 1.0)


def _judged(trained: TrainedRun, job: Job, copy: House, **gate: Any) -> RegisteredVersion:
    """As at first, before any version was promoted."""
    registry = Registry(job.registry, copy.work)
    registry.client.delete_registered_model_alias("orders", job.registry.alias)
    return evaluate_and_register(trained, job.model_copy(update={"gate": job.gate.model_copy(update=gate)}), copy.work)


def test_a_label_of_another_type_is_compared_only_where_it_can_be_read_as_it_is_now() -> None:
    prepared: Any = SimpleNamespace(schema=SimpleNamespace(label="y"))
    words, numbers, small = (
        pa.table({"y": pa.array(c, t)}) for c, t in ((["yes"], None), ([1], None), ([2], pa.int8()))
    )
    label = _label(prepared, small, numbers)
    assert label is not None and label.cells.to_pylist() == [2, 1]
    assert _label(prepared, words, numbers) is None and _label(prepared, pa.table({"x": [1]}), numbers) is None


def test_a_run_is_registered_once_however_often_it_is_judged(copy: House, job: Job, trained: TrainedRun) -> None:
    judged = _judged(trained, job, copy)
    assert (judged.name, judged.version, judged.passed, judged.alias) == ("orders", "1", True, "champion")
    assert judged.r2 == pytest.approx(copy.first["r2"]) and judged.r2_pca == pytest.approx(copy.first["r2_pca"])
    registry = Registry(job.registry, copy.work)
    assert len(registry.client.search_model_versions("name = 'orders'")) == 1
    rules = [r["name"] for r in read_json(Path(trained.folder) / "verdict.json")["rules"]]
    assert "R² against PCA" in rules and "latent health" in rules and "R² against the champion" not in rules


def test_a_refused_run_is_the_challenger_and_its_tags_say_by_which_rule(
    copy: House, job: Job, trained: TrainedRun
) -> None:
    judged = _judged(trained, job, copy, min_gain_over_pca=0.9)
    assert not judged.passed and judged.alias is None and "the gate asks for +0.9" in judged.reasons[0]
    registry = Registry(job.registry, copy.work)
    assert registry.resolve("orders", CHALLENGER) == FIRST
    tags = registry.tags_of(FIRST)
    assert tags["aemodel.gate"] == judged.reasons[0]
    assert tags["aemodel.gate.R2_against_PCA"].startswith("failed: ")
    assert tags["aemodel.gate.latent_health"].startswith("passed: ")


def test_the_champion_is_not_judged_again(copy: House, job: Job, trained: TrainedRun) -> None:
    before = (Path(trained.folder) / "verdict.json").read_bytes()
    stricter = job.model_copy(update={"gate": job.gate.model_copy(update={"min_gain_over_pca": 0.9})})
    again = evaluate_and_register(trained, stricter, copy.work)
    assert (again.version, again.passed, again.alias) == ("1", True, "champion")
    assert (Path(trained.folder) / "verdict.json").read_bytes() == before
    assert Registry(job.registry, copy.work).resolve("orders", CHALLENGER) is None


def test_what_a_person_promoted_though_the_gate_refused_it_stays(copy: House, job: Job, trained: TrainedRun) -> None:
    _judged(trained, job, copy, min_gain_over_pca=0.9)
    registry = Registry(job.registry, copy.work)
    registry.promote(FIRST, None)
    registry.set_tags(FIRST, {PROMOTED_TAG: "good enough"})
    again = evaluate_and_register(trained, job, copy.work)
    assert again.passed and again.alias == "champion"
    assert again.reasons == ("promoted by hand (good enough) though the gate refused it",)


def test_looking_at_a_judged_run_changes_nothing(copy: House, job: Job, trained: TrainedRun) -> None:
    refused = _judged(trained, job, copy, min_gain_over_pca=0.9)
    registry = Registry(job.registry, copy.work)
    registry.set_tags(FIRST, {"aemodel.gate": "by hand"})
    seen = as_judged(trained, job, copy.work)
    assert (seen.passed, seen.reasons, seen.r2) == (False, refused.reasons, refused.r2)
    assert seen.alias is None and registry.tags_of(FIRST)["aemodel.gate"] == "by hand"


def test_a_run_whose_version_was_deleted_cannot_be_looked_at(copy: House, job: Job, trained: TrainedRun) -> None:
    Registry(job.registry, copy.work).client.delete_model_version("orders", "1")
    with pytest.raises(NoVersion, match="has no version in the registry any more: run or train it again"):
        as_judged(trained, job, copy.work)


def test_a_gate_that_judged_nothing_says_so(copy: House, job: Job, trained: TrainedRun) -> None:
    judged = _judged(trained, job, copy, enabled=False)
    tag = Registry(job.registry, copy.work).tags_of(FIRST)["aemodel.gate"]
    assert judged.passed and tag == f"not judged: {judged.reasons[0]}"


def test_a_disabled_gate_lets_everything_pass(copy: House, job: Job, trained: TrainedRun) -> None:
    assert _judged(trained, job, copy, enabled=False, min_gain_over_pca=0.9).passed


def test_a_version_that_was_rolled_back_by_hand_is_refused(copy: House, job: Job, trained: TrainedRun) -> None:
    Registry(job.registry, copy.work).set_tags(FIRST, {ROLLED_BACK_TAG: "odd scores"})
    judged = _judged(trained, job, copy, enabled=False)
    assert judged.reasons == ("version 1 was rolled back by hand (odd scores): promote it by hand",)


def test_an_alias_that_another_run_moves_meanwhile_must_be_compared_with_anew(
    copy: House, job: Job, trained: TrainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Registry, "promote", lambda *_: False)
    with pytest.raises(TrainingError, match="another run moved the alias 'champion' meanwhile; run again"):
        _judged(trained, job, copy)


@pytest.mark.parametrize(("before", "now"), [(0.1, 0.3), (0.3, 0.1), (0.2, 0.2)])
def test_versions_are_compared_on_rows_that_neither_was_trained_on(before: float, now: float) -> None:
    column = Column("a", "numeric", type="double")
    rows = pa.table({"a": pa.array(np.arange(4_000.0))})
    splits = [Split("hash", (column,), share) for share in (before, now)]
    held = [rows.filter(pa.array(split.held_out(rows.to_batches()[0]))) for split in splits]
    schema = SimpleNamespace(inputs=(column,))
    prepared = SimpleNamespace(held_out_is_training=False, split=splits[1], held_out=held[1], schema=schema)
    tables = _both_held_out(prepared, SimpleNamespace(held_out=held[0]), splits[0])  # type: ignore[arg-type]
    compared = [value for table in tables for value in table["a"].to_pylist()]
    assert len(compared) == len(set(compared)) > 200, "each once, though both have kept it"
    assert set(compared) == set(held[0]["a"].to_pylist()) & set(held[1]["a"].to_pylist())


def test_rows_split_by_other_columns_or_by_place_are_told_apart_or_left_out() -> None:
    rows = pa.table({"a": pa.array(np.arange(400.0)), "b": pa.array(np.arange(400.0))})
    both = Split("hash", (Column("a", "numeric", type="double"), Column("b", "numeric", type="double")), 0.2)
    kept = SimpleNamespace(held_out=rows)
    schema = SimpleNamespace(inputs=both.columns)
    lacking = rows.drop_columns(["b"])
    prepared = SimpleNamespace(held_out_is_training=False, split=both, held_out=lacking, schema=schema)
    (theirs,) = _both_held_out(prepared, kept, both)  # type: ignore[arg-type]
    assert theirs.equals(rows.filter(pa.array(both.held_out(rows.to_batches()[0]))))
    narrow = rows.set_column(1, "b", rows["b"].cast(pa.float32()))
    prepared.held_out = narrow
    assert _both_held_out(prepared, kept, both) == [theirs], "of another type the same rows may hash otherwise"  # type: ignore[arg-type]
    placed = Split("place", (), 0.2)
    assert _both_held_out(prepared, kept, placed) == [theirs]  # type: ignore[arg-type]
    prepared.split = placed
    assert _both_held_out(prepared, kept, placed) == [prepared.held_out]  # type: ignore[arg-type]
    assert _both_held_out(prepared, kept, Split("place", (), 0.1)) == []  # type: ignore[arg-type]

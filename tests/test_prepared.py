from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from aemodel.config import DatasetJob, Job
from aemodel.errors import JobError, SchemaError, SnapshotError
from aemodel.gather import EncodedRowGroups
from aemodel.job_file import parse_job
from aemodel.prepared import Prepared, choose_split, prepare, table_schema
from aemodel.row_cache import RowCache
from aemodel.snapshot import Snapshot, open_snapshot
from aemodel.split import still_held_out
from tests import tables


def _prepared(table: pa.Table, folder: Path, **dataset: object) -> Prepared:
    tables.write(table, folder / "a.parquet")
    job = parse_job({"name": "t", "dataset": {"uri": str(folder), **dataset}, "model": {"latent_dim": 2}}, "job")
    snapshot = open_snapshot(str(folder))
    return prepare(job, snapshot, table_schema(snapshot, job.dataset))


def test_training_and_held_out_rows_are_all_rows(mixed_prepared: Prepared, mixed_snapshot: Snapshot) -> None:
    assert mixed_prepared.num_training + mixed_prepared.num_held_out == mixed_snapshot.num_rows
    assert mixed_prepared.held_out.num_rows == mixed_prepared.num_held_out


def test_nothing_is_fitted_on_held_out_rows(tmp_path: Path) -> None:
    """The split by time holds out the last rows; what only they hold is unknown to the transform."""
    n = 400
    table = pa.table(
        {
            "t": np.arange(n) + np.arange(n) % 2,
            "x": np.where(np.arange(n) < 360, np.arange(n) % 10, 1e6).astype(float),
            "c": ["old" if i < 360 else "new" for i in range(n)],
            "d": [str(i % 3) for i in range(n)],
        }
    )
    split = {"by": "time", "column": "t", "holdout": 0.1}
    prepared = _prepared(table, tmp_path, split=split, columns={"t": {"kind": "numeric"}})
    assert prepared.statistics["x"]["largest"] == 9
    assert "c" not in prepared.schema.names, "constant among the training rows"
    assert min(prepared.held_out["t"].to_pylist()) >= 359


def test_training_finds_what_was_encoded_and_nothing_of_an_earlier_try(
    tmp_path: Path, mixed_job: Job, mixed_snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "0-9.rows").write_bytes(b"of another transform")
    prepared = prepare(mixed_job, mixed_snapshot, table_schema(mixed_snapshot, mixed_job.dataset), cache=cache)
    decoded = EncodedRowGroups(mixed_snapshot, prepared.split, prepared.transform)
    encoded = [decoded(g) for g in prepared.groups]
    monkeypatch.setattr(Snapshot, "read", None)  # whoever decodes fails
    kept = RowCache.on_disk(cache, prepared.transform.layout, 0.5, 1)
    for group, rows in zip(prepared.groups, encoded, strict=True):
        found = kept.load(group)
        assert found is not None
        np.testing.assert_array_equal(found.values, rows.values)
        np.testing.assert_array_equal(found.codes, rows.codes)
    assert len(list(cache.iterdir())) == len(prepared.groups)


@pytest.mark.parametrize("change", ["none", "gained", "excluded", "another pull", "wider integers"])
def test_a_row_stays_on_its_side_in_a_retrain_whatever_becomes_of_columns_that_say_nothing(
    tmp_path: Path, change: str
) -> None:
    x = np.arange(400)
    table = pa.table({"k": [1] * 400, "n": pa.nulls(400, pa.string()), "x": x * 1.0, "y": x % 7})
    first = _prepared(table, tmp_path)
    assert "k" not in first.schema.names
    if change == "gained":
        table = table.append_column("z", pa.array(x % 5))
    if change == "another pull":
        table = table.set_column(0, "k", pa.array([2] * 400))
    if change == "wider integers":
        table = table.set_column(3, "y", pa.array(x % 7, pa.int8()))
    tables.write(table, tmp_path / "a.parquet")
    dataset = {"uri": str(tmp_path), "exclude": ["k"] if change == "excluded" else []}
    job = parse_job({"name": "t", "dataset": dataset, "model": {"latent_dim": 2}}, "job")
    snapshot = open_snapshot(str(tmp_path))
    schema = table_schema(snapshot, job.dataset)
    chosen = choose_split(job.dataset, snapshot, schema, first.split)
    again = prepare(job, snapshot, schema, chosen)
    assert again.held_out["x"].equals(first.held_out["x"]) and 20 < first.num_held_out < 80
    assert still_held_out(first.split, chosen)


@pytest.mark.parametrize("change", ["gone", "float"])
def test_a_split_that_cannot_be_read_as_it_was_is_chosen_anew(tmp_path: Path, change: str) -> None:
    table = pa.table({"x": np.arange(400) / 7, "y": np.arange(400) % 7, "z": np.arange(400) % 5})
    first = _prepared(table, tmp_path)
    later = table.drop_columns(["x"]) if change == "gone" else table.set_column(0, "x", table["x"].cast(pa.float32()))
    tables.write(later, tmp_path / "a.parquet")
    snapshot = open_snapshot(str(tmp_path))
    job = parse_job({"name": "t", "dataset": {"uri": str(tmp_path)}}, "job")
    chosen = choose_split(job.dataset, snapshot, table_schema(snapshot, job.dataset), first.split)
    assert not still_held_out(first.split, chosen)


def test_a_constant_column_is_left_out_with_the_reason(tmp_path: Path) -> None:
    table = pa.table({"k": [1] * 100, "x": np.arange(100) % 7, "y": np.arange(100) % 5})
    prepared = _prepared(table, tmp_path)
    assert [(c.name, c.reason) for c in prepared.schema.left_out] == [("k", "constant")]


def test_a_table_too_small_to_hold_rows_out_still_has_rows_to_look_at(tmp_path: Path) -> None:
    table = pa.table({"x": [1.0, 2.0, 4.0], "y": [3.0, 1.0, 2.0]})
    prepared = _prepared(table, tmp_path, split={"holdout": 0.0001})
    assert prepared.held_out_is_training and prepared.held_out.num_rows == 3 and prepared.num_held_out == 0


def test_a_single_group_can_neither_be_held_out_nor_trained_on_and_the_message_says_what_to_do(tmp_path: Path) -> None:
    table = pa.table({"g": ["one"] * 50, "x": np.arange(50) % 7, "y": np.arange(50) % 5})
    messages = set()
    for seed in range(60):
        named = table.set_column(0, "g", pa.array([f"g{seed}"] * 50))
        with pytest.raises(SchemaError) as raised:
            _prepared(named, tmp_path / str(seed), split={"by": "group", "column": "g"})
        messages.add(str(raised.value))
    assert messages == {
        "none of 50 rows is left to train on; add rows or lower split.holdout",
        "dataset.split by group of 'g' holds no row out: choose a column of more values, or raise split.holdout",
    }


def test_groups_stay_on_one_side(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 60, 600)
    table = pa.table({"g": group, "x": rng.normal(size=600), "y": rng.normal(size=600)})
    prepared = _prepared(table, tmp_path, split={"by": "group", "column": "g"})
    held = set(prepared.held_out["g"].to_pylist())
    assert 0 < len(held) < 60
    assert sum(int((group == g).sum()) for g in held) == prepared.num_held_out


def test_duplicates_stand_on_one_side(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    once = {"x": rng.normal(size=300), "y": rng.normal(size=300)}
    prepared = _prepared(pa.table({k: np.tile(v, 3) for k, v in once.items()}), tmp_path)
    held = prepared.held_out["x"].to_pylist()
    assert held and all(held.count(v) == 3 for v in held)


def _of_few_contents(rows: int = 5_000) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table({"a": rng.random(rows) < 0.5, "b": rng.choice(["x", "y"], rows)})


def test_a_table_of_few_contents_has_its_share_of_held_out_rows_and_keeps_its_columns(tmp_path: Path) -> None:
    prepared = _prepared(_of_few_contents(), tmp_path)
    assert prepared.split.by == "place" and prepared.schema.names == ("a", "b")
    assert 0.08 < prepared.num_held_out / 5_000 < 0.12


def test_rows_held_out_by_place_are_not_read_for_training(tmp_path: Path) -> None:
    prepared = _prepared(_of_few_contents(), tmp_path / "data")
    prepared.save(tmp_path / "prepared")
    again = Prepared.load(tmp_path / "prepared")
    read = EncodedRowGroups(open_snapshot(str(tmp_path / "data")), again.split, again.transform)
    assert sum(len(read(g)) for g in again.groups) == 5_000 - prepared.num_held_out


def test_rows_that_are_all_equal_are_refused_as_such(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="all [0-9]+ training rows are equal in all columns that are inputs"):
        _prepared(pa.table({"a": [1] * 200, "b": ["x"] * 200}), tmp_path)


def test_a_column_that_pyarrow_cannot_read_is_none_where_it_is_excluded(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=200)
    nulls = pa.array([[1.0, 2.0], None] * 100, pa.list_(pa.float64(), 2))
    snapshot = open_snapshot(
        str(tables.write(pa.table({"k": np.arange(200), "x": x, "v": nulls}), tmp_path / "t.parquet"))
    )
    with pytest.raises(SnapshotError, match="lists of any length.*dataset.exclude"):
        table_schema(snapshot, DatasetJob(uri=snapshot.uri))
    job = parse_job({"name": "t", "dataset": {"uri": snapshot.uri, "key": ["k"], "exclude": ["v"]}}, "job")
    assert prepare(job, snapshot, table_schema(snapshot, job.dataset)).schema.names == ("x",)


def test_a_table_of_one_row_is_refused_as_such(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="there is one row to train on, and nothing to learn from one; add rows"):
        _prepared(pa.table({"a": [1], "b": ["x"]}), tmp_path)


def test_it_reads_back_as_it_was_saved(mixed_prepared: Prepared, tmp_path: Path) -> None:
    mixed_prepared.save(tmp_path / "prepared")
    again = Prepared.load(tmp_path / "prepared")
    assert again.schema == mixed_prepared.schema and again.split == mixed_prepared.split
    assert again.groups == mixed_prepared.groups and again.nulled == mixed_prepared.nulled
    a, b = (p.transform.apply_all(p.held_out) for p in (again, mixed_prepared))
    np.testing.assert_array_equal(a.values, b.values)
    np.testing.assert_array_equal(a.codes, b.codes)


def test_cells_that_cannot_be_used_are_counted_by_column(mixed_prepared: Prepared, mixed_job: Job) -> None:
    assert mixed_prepared.nulled["amount"] > 0 and mixed_prepared.nulled["count"] == 0


def test_an_automatic_width_follows_the_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(500, 2))
    columns = {f"c{i}": hidden @ rng.normal(size=2) + 0.01 * rng.normal(size=500) for i in range(8)}
    tables.write(pa.table(columns), tmp_path / "a.parquet")
    job = parse_job({"name": "t", "dataset": {"uri": str(tmp_path)}, "model": {"latent_dim": "auto"}}, "job")
    snapshot = open_snapshot(str(tmp_path))
    assert prepare(job, snapshot, table_schema(snapshot, job.dataset)).pca.axes.shape == (8, 2)


def test_a_split_by_a_time_without_values_is_refused(tmp_path: Path) -> None:
    table = pa.table({"t": pa.nulls(60, pa.timestamp("s")), "x": np.arange(60) % 7, "y": np.arange(60) % 5})
    with pytest.raises(SchemaError, match="'t' holds no values to split by; choose another"):
        _prepared(table, tmp_path, split={"by": "time", "column": "t"})


def test_a_split_by_a_column_of_the_wrong_type_is_refused_at_the_door(mixed_snapshot: Snapshot) -> None:
    job = parse_job({"dataset": {"uri": "x", "split": {"by": "time", "column": "carrier"}}}, "job")
    with pytest.raises(JobError, match="split by time needs a column of times or numbers"):
        table_schema(mixed_snapshot, job.dataset)

"""What is said of a run before it runs: real Parquet files, and no page of theirs read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aemodel import preflight
from aemodel.config import Job
from aemodel.cost import Machine, Shape, score_bytes
from aemodel.errors import JobError
from aemodel.job_file import parse_job
from aemodel.preflight import Findings, calibration, limits
from aemodel.preflight.footers import Footers, footers_of
from aemodel.prepared import prepare, table_schema
from aemodel.snapshot import Snapshot, open_snapshot
from tests import tables
from tests.integration.house import aemodel

GIGABYTE = 10**9


def machine(memory: int = 16 * GIGABYTE, gpus: int = 0, step: float = 6e-3) -> Callable[[Shape], Machine]:
    return lambda _: Machine(2, gpus, memory, slowness=1.0, step=step, forward=2e-6, operations=1e11)


def job(folder: Path, **dataset: Any) -> Job:
    return parse_job({"dataset": {"uri": str(folder), **dataset}, "output": {"uri": str(folder) + "-features"}}, "job")


def footers(table: pa.Table, folder: Path, row_group_size: int = 4_096, **dataset: Any) -> Footers:
    tables.write(table, folder / "part.parquet", row_group_size)
    return footers_of(open_snapshot(str(folder)), job(folder, **dataset).dataset)


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    folder = tmp_path / "orders"
    for i in range(2):
        tables.write(tables.mixed(300, i), folder / f"{i}.parquet", row_group_size=100)
    return folder


def found(folder: Path, measure: Callable[[Shape], Machine] | None = None, **dataset: Any) -> Findings:
    return preflight.look(job(folder, **{"key": ["row_id"], "label": "label"} | dataset), measure or machine())


def test_the_table_is_counted_from_its_footers(orders: Path) -> None:
    seen = found(orders)
    assert (seen.shape.rows, seen.files, seen.shape.groups, seen.shape.group_rows) == (600, 2, 6, 100)
    assert dict(seen.kinds) == {"numeric": 3, "boolean": 1, "categorical": 2, "datetime": 4, "vector": 1}
    assert seen.compressed_bytes == sum(
        sum(m.row_group(g).column(c).total_compressed_size for c in range(m.num_columns))
        for m in (pq.read_metadata(p) for p in orders.iterdir())
        for g in range(m.num_row_groups)
    )
    assert seen.shape.carried == 1 and {"row_id", "label"} <= set(seen.left_out)


def test_no_data_is_read(orders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a page was read")

    monkeypatch.setattr(Snapshot, "read", refuse)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", refuse)
    monkeypatch.setattr(pq.ParquetFile, "read", refuse)
    assert found(orders).shape.rows == 600


def test_the_expected_shape_is_near_the_one_that_is_prepared(mixed_snapshot: Snapshot, mixed_job: Job) -> None:
    seen = preflight.look(mixed_job, machine())
    layout = prepare(mixed_job, mixed_snapshot, table_schema(mixed_snapshot, mixed_job.dataset)).transform.layout
    assert (seen.shape.values, seen.shape.categorical) == (layout.num_values, layout.num_codes)
    assert abs(seen.shape.width - layout.width) <= 4


@pytest.mark.parametrize("levels", [2, 5, 30, 100, 900])
def test_levels_are_told_by_the_width_of_a_dictionary_s_codes(levels: int, tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(0, levels, 20_000)
    table = pa.table({"c": [f"level {v}" for v in drawn], "x": drawn.astype(float)})
    column = footers(table, tmp_path / "t", 20_000).inputs[0]
    assert column.levels is not None and levels / 2 <= column.levels <= 2 * levels


def test_without_a_dictionary_a_categorical_is_taken_at_its_largest_and_that_is_said(tmp_path: Path) -> None:
    table = pa.table({"c": [f"v{i % 7}" for i in range(500)], "x": np.random.default_rng(0).normal(size=500)})
    (tmp_path / "t").mkdir()
    pq.write_table(table, tmp_path / "t" / "p.parquet", use_dictionary=False)
    seen = preflight.look(job(tmp_path / "t"), machine())
    assert seen.unknown_levels == 1 and seen.shape.width == 66 + 1
    assert "1 categorical column without a dictionary: taken to be 66 dimensions" in preflight.rendered(seen)


def test_constants_and_identifiers_are_no_inputs(tmp_path: Path) -> None:
    rows = 2_000
    table = pa.table(
        {
            "id": [f"id-{i}" for i in range(rows)],
            "same": [7] * rows,
            "holes": pa.array([7, None] * (rows // 2)),
            "x": np.random.default_rng(0).normal(size=rows),
        }
    )
    seen = footers(table, tmp_path / "t", 1_000)
    assert [c.name for c in seen.inputs] == ["holes", "x"] and set(seen.left_out) == {"id", "same"}
    assert [c.width for c in seen.inputs] == [2, 1]
    kept = footers(table, tmp_path / "t", 1_000, columns={"id": {"kind": "categorical"}})
    assert "id" in [c.name for c in kept.inputs]


def test_dots_in_names_and_lists_of_one_length_are_understood(tmp_path: Path) -> None:
    vector = [[float(i), float(-i), 1.0] for i in range(300)]
    table = pa.table(
        {"a.b": np.random.default_rng(0).normal(size=300), "v": vector, "s": [{"x": i} for i in range(300)]}
    )
    seen = footers(table, tmp_path / "t")
    assert [(c.name, c.width) for c in seen.inputs] == [("a.b", 1), ("v", 3)] and seen.left_out == ("s",)


def test_a_column_that_is_named_like_a_part_of_another_is_not_taken_for_it(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=300)
    vector = [[float(i), float(-i), 1.0, 2.0 * i] for i in range(300)]
    seen = footers(pa.table({"v": vector, "v.list.element": numbers, "v.list": numbers}), tmp_path / "t")
    assert [(c.name, c.width) for c in seen.inputs] == [("v", 4), ("v.list.element", 1), ("v.list", 1)]
    assert dict(seen.decoded) == {"v": 8 * 4 * 300, "v.list.element": 8 * 300, "v.list": 8 * 300}


@pytest.mark.parametrize(
    ("column", "least", "most"),
    [
        (pa.array(["some text of a length"] * 300), 300 * 21, 300 * 30),
        (pa.array([{"t": "some text of a length"}] * 300), 300 * 21, 300 * 30),
        (pa.array([["one text", "another"]] * 300), 600 * 7, 600 * 13),
        (pa.array([[1.0, 2.0]] * 300), 600 * 8, 600 * 8),
        (pa.array([True, False, None] * 100), 37, 38),
        (pa.array(np.arange(300, dtype=np.float16)), 600, 600),
    ],
)
def test_columns_of_any_type_take_the_bytes_that_arrow_takes_for_them(
    column: pa.Array, least: int, most: int, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).normal(size=300)
    assert least <= footers(pa.table({"x": x, "c": column}), tmp_path / "t").decoded["c"] <= most


def test_what_hidden_layers_give_is_counted_where_it_is_written(orders: Path) -> None:
    narrow = preflight.look(job(orders, key=["row_id"]), machine()).shape
    asked = job(orders, key=["row_id"])
    asked = asked.model_copy(update={"output": asked.output.model_copy(update={"wide": True})})
    wide = preflight.look(asked, machine()).shape
    assert wide.features == narrow.features + sum(wide.hidden)
    assert score_bytes(wide) > score_bytes(narrow)


def test_partition_columns_are_inputs_without_chunks(tmp_path: Path) -> None:
    table = pa.table({"month": np.arange(400) % 4, "x": np.random.default_rng(0).normal(size=400)})
    seen = found(tables.write_hive(table, tmp_path / "t", "month"), key=[], label=None)
    assert dict(seen.kinds) == {"numeric": 2} and seen.shape.carried == 1


def test_large_row_groups_are_named_with_what_to_write_instead(orders: Path) -> None:
    small = found(orders, machine(memory=100_000))
    assert len(small.too_large) == 6 and not small.fits and 1 <= small.good_rows < 100
    text = preflight.rendered(small)
    assert "too large  6 row groups" in text and "0.parquet, row group 0: takes" in text and "and 3 more" in text
    assert "MORE THAN THE" in text


def test_tiny_row_groups_count_only_if_there_are_many(orders: Path) -> None:
    assert not found(orders).too_small
    for i in range(2):
        tables.write(tables.mixed(300, i), orders / f"{i}.parquet", row_group_size=10)
    seen = found(orders)
    assert len(seen.too_small) == 60 and seen.good_rows >= 1_024
    assert "too small  60 row groups" in preflight.rendered(seen) and "and 57 more" in preflight.rendered(seen)


def test_the_schedule_is_the_one_of_training(orders: Path) -> None:
    seen = found(orders)
    assert (seen.shape.batch_size, seen.shape.steps_per_epoch, seen.shape.max_epochs) == (64, 8, 188)
    assert "batches of 64, 8 steps an epoch, at most 188 epochs; 1 rank: one CPU is enough" in preflight.rendered(seen)


def test_the_memory_that_a_refusal_names_is_enough(orders: Path) -> None:
    snapshot = open_snapshot(str(orders))
    limited = job(orders).model_copy(update={"memory_limit": "0.5GB"})
    for alone in (False, True):
        with pytest.raises(JobError) as refused:
            preflight.check_memory(limited, snapshot, scoring_alone=alone)
        named = re.search(r"needs about ([\d.]+) (MB|GB)", str(refused.value))
        assert named
        enough = limited.model_copy(update={"memory_limit": named[1] + named[2]})
        preflight.check_memory(enough, snapshot, scoring_alone=alone)


def test_only_what_would_lower_the_need_is_advised(orders: Path) -> None:
    shape = found(orders).shape
    limited = job(orders).model_copy(update={"memory_limit": "0.5GB"})
    large = replace(shape, rows=10**8, decoded_bytes=10**11, group_rows=10**7, group_bytes=10**10, compiles=True)
    with pytest.raises(JobError, match=r"raise it, or write row groups of about [\d,]+ rows; "):
        preflight.refuse_beyond(limited, large, scoring_alone=True)
    with pytest.raises(JobError, match=r"raise it, or set training\.compile to false, or write row groups"):
        preflight.refuse_beyond(limited, large)
    fine = replace(large, group_rows=128, group_bytes=128_000)
    with pytest.raises(JobError, match=r": raise it; "):
        preflight.refuse_beyond(limited, fine, scoring_alone=True)


def test_a_run_that_would_take_more_memory_than_the_job_allows_is_refused_with_what_it_needs(orders: Path) -> None:
    snapshot = open_snapshot(str(orders))
    limited = job(orders).model_copy(update={"memory_limit": "0.5GB"})
    with pytest.raises(JobError, match=r"memory_limit is 0\.5GB, and a run needs about 1\.\d GB: raise it"):
        preflight.check_memory(limited, snapshot)
    with pytest.raises(JobError, match=r"memory_limit is 0\.5GB, and scoring needs about \d+ MB: raise it"):
        preflight.check_memory(limited, snapshot, scoring_alone=True)
    preflight.check_memory(job(orders).model_copy(update={"memory_limit": "3GB"}), snapshot)
    assert not preflight.look(limited, machine()).fits


@pytest.mark.parametrize(
    ("gpus", "step", "words"),
    [
        (0, 0.01, "one CPU is enough"),
        (0, 1.0, "one GPU would pay"),
        (1, 0.01, "one GPU is enough"),
        (8, 1.0, "all GPUs of one machine"),
        (8, 10.0, "more machines would pay"),
    ],
)
def test_devices_follow_from_how_long_training_takes(orders: Path, gpus: int, step: float, words: str) -> None:
    assert found(orders, machine(gpus=gpus, step=step)).devices == words


def test_the_memory_that_a_job_may_take_is_the_machine_s(orders: Path) -> None:
    assert limits.allowed_bytes(job(orders), 5) == 5 and limits.memory_bytes() > 0


def test_the_machine_is_measured_at_the_network_s_own_shape(orders: Path) -> None:
    shape = found(orders).shape
    small, large = (preflight.measured(replace(shape, hidden=hidden)) for hidden in ((8,), (1_024, 1_024)))
    assert 0 < small.step < large.step and 0 < small.forward < large.forward
    assert small.slowness > 0 and small.operations > 1e6 and small.memory_bytes > 0


def test_of_calls_the_usual_one_counts_and_neither_the_first_nor_a_lucky_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now, takes = 0.0, iter([9.0, 0.01, 0.05, 0.05, 0.05, 0.2])

    def call() -> None:
        nonlocal now
        now += next(takes)

    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert calibration._usual(call) == pytest.approx(0.05)


def test_the_command_prints_what_was_found(orders: Path, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(f"dataset: {{uri: {orders}, key: row_id, label: label}}\n")
    done = aemodel("preflight", tmp_path / "job.yaml")
    assert done.code == 0 and not done.errors
    for word in ("600 rows, 2 files, 6 row groups", "memory", "batches of 64", "prepare", "train", "score", "in all"):
        assert word in done.output
    assert not (tmp_path / ".aemodel").exists()


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("dataset: {uri: missing}", "'missing'"),
        ("dataset: {url: rows}", "unknown key 'dataset.url'"),
        ("dataset: {uri: none}", "holds no rows"),
        ("dataset: {uri: label, label: label}", "no column is left to learn from"),
        ("dataset: {uri: rows, key: nothing}", "dataset.key names 'nothing'"),
        ("{dataset: {uri: rows}, output: {uri: rows}}", "output.uri"),
        ("{dataset: {uri: scored}}", "exists in the dataset already"),
        ("dataset: {uri: broken}", "not a readable Parquet file"),
    ],
)
def test_what_cannot_run_is_one_line_and_two(
    written: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=100)
    tables.write(pa.table({"x": x}), tmp_path / "rows" / "p.parquet")
    tables.write(pa.table({"x": pa.array([], pa.float64())}), tmp_path / "none" / "p.parquet")
    tables.write(pa.table({"label": x}), tmp_path / "label" / "p.parquet")
    tables.write(pa.table({"x": x, "ae_error": x}), tmp_path / "scored" / "p.parquet")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "p.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "job.yaml").write_text(written + "\n")
    done = aemodel("preflight", "job.yaml")
    assert done.code == 2 and not done.output
    assert done.errors.startswith("aemodel: ") and done.errors.count("\n") == 1 and told in done.errors

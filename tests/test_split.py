from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aemodel.config import DatasetJob, SplitJob
from aemodel.errors import JobError
from aemodel.schema import Column
from aemodel.split import FEW_DISTINCT, Place, Split, check_column, split_for, still_held_out, time_threshold
from tests import tables


def split_of(table: pa.Table, **job: Any) -> Split:
    split = SplitJob.model_validate(job)
    names = [n for n in ("row_id",) if n in table.column_names]
    return split_for(split, tables.schema_of(table, DatasetJob(uri="-", key=tuple(names))), table.schema)


def test_rows_of_equal_content_fall_on_one_side_whatever_their_key_and_place() -> None:
    table = tables.plain(tables.mixed(200))
    again = table.set_column(0, "row_id", pa.array(np.arange(1000, 1200))).take(pa.array(np.arange(200)[::-1]))
    split = split_of(table, holdout=0.3)
    first = split.held_out(tables.only_batch(table))
    np.testing.assert_array_equal(first, split.held_out(tables.only_batch(again))[::-1])
    assert 0 < first.sum() < 200


def test_a_row_s_side_does_not_depend_on_its_batch() -> None:
    table = tables.plain(tables.mixed(200))
    split = split_of(table)
    parts = [split.held_out(b) for b in table.combine_chunks().to_batches(max_chunksize=7)]
    np.testing.assert_array_equal(np.concatenate(parts), split.held_out(tables.only_batch(table)))


@pytest.mark.parametrize("holdout", [0.05, 0.1, 0.5])
def test_about_the_share_that_the_job_says_is_held_out(holdout: float) -> None:
    table = pa.table({"x": np.random.default_rng(0).normal(size=20_000)})
    share = split_of(table, holdout=holdout).held_out(tables.only_batch(table)).mean()
    assert abs(share - holdout) < 0.01


def test_more_held_out_rows_hold_those_of_a_smaller_share() -> None:
    table = pa.table({"x": np.random.default_rng(0).normal(size=1000)})
    few, many = (split_of(table, holdout=h).held_out(tables.only_batch(table)) for h in (0.1, 0.3))
    assert (many | ~few).all()


@pytest.mark.parametrize("column", ["carrier", "count", "day", "flag"])
def test_a_group_is_never_on_both_sides(column: str) -> None:
    table = tables.plain(tables.mixed(300))
    held = split_of(table, by="group", column=column, holdout=0.4).held_out(tables.only_batch(table))
    values = np.array([str(v) for v in table[column].to_pylist()])
    assert not set(values[held]) & set(values[~held])


def test_by_time_the_latest_rows_are_held_out_and_rows_without_a_time_are_not() -> None:
    moments = [datetime(2024, 1, 1) + timedelta(hours=h) for h in range(100)]
    table = pa.table({"t": pa.array([*moments, None]), "x": np.arange(101.0)})
    split = split_of(table, by="time", column="t", holdout=0.1)
    threshold = time_threshold(np.asarray(split.columns[0].cells(tables.only_batch(table)["t"])), split.holdout)
    held = replace(split, threshold=threshold).held_out(tables.only_batch(table))
    np.testing.assert_array_equal(np.flatnonzero(held), np.arange(90, 100))


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=200), st.floats(0.01, 0.5))
def test_a_threshold_holds_out_no_more_than_the_share_but_for_equal_times(values: list[int], holdout: float) -> None:
    times = np.array(values, np.float64)
    threshold = time_threshold(np.append(times, np.nan), holdout)
    assert (times > threshold).sum() <= holdout * len(times)
    assert (times >= threshold).any()


def test_without_any_time_nothing_is_held_out() -> None:
    assert time_threshold(np.array([np.nan, np.nan]), 0.1) == np.inf


@pytest.mark.parametrize(
    ("by", "column", "needs"),
    [
        ("time", "carrier", "which is string; split by time needs a column of times or numbers"),
        ("time", "flag", "which is bool; split by time needs a column of times or numbers"),
        ("group", "profile", "split by group needs a column of single values"),
    ],
)
def test_a_column_that_a_split_cannot_use_is_refused(by: str, column: str, needs: str) -> None:
    with pytest.raises(JobError, match=rf"dataset\.split\.column names '{column}', .*{needs}"):
        check_column(SplitJob(by=by, column=column), tables.plain(tables.mixed(50)).schema)  # type: ignore[arg-type]


def coded(distinct: int, rows: int) -> pa.RecordBatch:
    """Rows of `distinct` contents, each as often as the others."""
    return pa.record_batch({"x": np.random.default_rng(0).permutation(np.arange(rows) % distinct).astype(float)})


def fitting(batch: pa.RecordBatch, **job: Any) -> Split:
    return split_of(pa.table(batch), **job).for_sample([batch])


@pytest.mark.parametrize(
    ("batch", "by"),
    [
        (coded(4, 50_000), "place"),
        (coded(FEW_DISTINCT - 1, 50_000), "place"),
        (coded(FEW_DISTINCT * 2, 50_000), "hash"),
        (coded(60, 60), "hash"),
        (pa.record_batch({"x": np.r_[np.full(9_000, 2.0), np.arange(1_000)]}), "place"),
    ],
    ids=["four contents", "few contents", "enough contents", "a small table of rows that differ", "one weighs most"],
)
def test_rows_too_much_alike_are_split_by_place(batch: pa.RecordBatch, by: str) -> None:
    assert fitting(batch).by == by


@pytest.mark.parametrize("by", ["group", "time"])
def test_a_split_that_the_job_asks_for_by_a_column_stays(by: str) -> None:
    batch = coded(4, 1_000)
    assert fitting(batch, by=by, column="x").by == by


def test_by_place_about_the_share_is_held_out_and_each_row_the_same_in_whatever_batch() -> None:
    batch = coded(4, 20_000)
    split = fitting(batch, holdout=0.2)
    whole = split.held_out(batch, Place("m=1/a.parquet", 3, 0))
    assert abs(whole.mean() - 0.2) < 0.01
    parts = [split.held_out(batch.slice(i, 7_000), Place("m=1/a.parquet", 3, i)) for i in (0, 7_000, 14_000)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("place", [Place("a.parquet", 1, 0), Place("b.parquet", 0, 0)])
def test_by_place_other_row_groups_and_files_hold_out_other_rows(place: Place) -> None:
    batch = coded(4, 1_000)
    split = fitting(batch)
    assert (split.held_out(batch, place) != split.held_out(batch, Place("a.parquet", 0, 0))).any()


A, B = (Column("a", "numeric", type="double"),), (Column("b", "numeric", type="double"),)
SHORT, LONG = (Column("a", "numeric", type="int8"),), (Column("a", "numeric", type="int64"),)


@pytest.mark.parametrize(
    ("before", "now", "still"),
    [
        (Split("hash", A, 0.2), Split("hash", A, 0.2), True),
        (Split("hash", A, 0.2), Split("hash", A, 0.1), True),
        (Split("hash", A, 0.2), Split("hash", A, 0.3), False),
        (Split("hash", A, 0.2), Split("hash", A + B, 0.2), False),
        (Split("hash", A, 0.2), Split("hash", (Column("a", "categorical"),), 0.2), False),
        (Split("hash", A, 0.2), Split("hash", (Column("a", "numeric", type="float"),), 0.2), False),
        (Split("hash", SHORT, 0.2), Split("hash", LONG, 0.2), True),
        (Split("group", A, 0.2), Split("group", (Column("a", "numeric", type="float"),), 0.2), False),
        (Split("hash", A, 0.2), Split("time", A, 0.2, 1.0), False),
        (Split("time", A, 0.2, 1.0), Split("time", A, 0.2, 1.0), True),
        (Split("time", A, 0.2, 1.0), Split("time", A, 0.2, 3.0), True),
        (Split("time", A, 0.2, 1.0), Split("time", A, 0.2, 0.5), False),
        (Split("time", A, 0.2, 1.0), Split("time", B, 0.2, 1.0), False),
        (Split("time", A, 0.2, 1.0), Split("hash", A, 0.2), False),
        (Split("place", (), 0.2), Split("place", (), 0.2), True),
        (Split("place", (), 0.2), Split("group", A, 0.2), False),
    ],
)
def test_whether_what_is_held_out_was_held_out_before(before: Split, now: Split, still: bool) -> None:
    assert still_held_out(before, now) is still

from __future__ import annotations

import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aemodel import statistics as module
from aemodel.schema import Column
from aemodel.statistics import Levels, Moments, RowSample, Statistics, row_priorities
from tests import tables

TABLE = tables.plain(tables.mixed(200))
SCHEMA = tables.schema_of(TABLE)
CUTS = st.lists(st.integers(0, TABLE.num_rows), max_size=6).map(lambda cuts: sorted({0, *cuts, TABLE.num_rows}))


def parts_of(cuts: list[int]) -> list[Statistics]:
    """Statistics of each part alone, with the priorities that its rows have in the whole."""
    parts = []
    for begin, end in itertools.pairwise(cuts):
        part = Statistics(SCHEMA.inputs)
        batch = tables.only_batch(TABLE.slice(begin, end - begin))
        part.update(batch, row_priorities(0, 0, np.arange(begin, end)))
        parts.append(part)
    return parts


def assert_equal(found: Statistics, expected: Statistics) -> None:
    assert found.rows == expected.rows
    for name, column in expected.columns.items():
        other = found.columns[name]
        assert (other.rows, other.missing, other.nulled) == (column.rows, column.missing, column.nulled)
        if column.levels:
            assert other.levels
            column.levels.settle()
            other.levels.settle()
            assert other.levels.values.equals(column.levels.values)
            np.testing.assert_array_equal(other.levels.counts, column.levels.counts)
        else:
            assert column.moments and other.moments
            for field in ("count", "least", "largest"):
                np.testing.assert_array_equal(getattr(other.moments, field), getattr(column.moments, field))
            np.testing.assert_allclose(other.moments.mean, column.moments.mean, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(other.moments.m2, column.moments.m2, rtol=1e-6, atol=1e-9)
    order, expected_order = np.argsort(found.sample.priorities), np.argsort(expected.sample.priorities)
    np.testing.assert_array_equal(found.sample.rows[order], expected.sample.rows[expected_order])


@given(CUTS, st.booleans())
def test_merged_parts_are_the_whole_however_it_is_cut(cuts: list[int], backwards: bool) -> None:
    merged = Statistics(SCHEMA.inputs)
    for part in parts_of(cuts)[:: -1 if backwards else 1]:
        merged.merge(part)
    assert_equal(merged, tables.statistics_of(SCHEMA, [tables.only_batch(TABLE)]))


@given(CUTS)
def test_batches_of_any_size_give_the_same(cuts: list[int]) -> None:
    batches = [tables.only_batch(TABLE.slice(a, b - a)) for a, b in itertools.pairwise(cuts)]
    whole = tables.statistics_of(SCHEMA, [tables.only_batch(TABLE)])
    assert_equal(tables.statistics_of(SCHEMA, batches), whole)


def test_a_batch_without_rows_changes_nothing() -> None:
    empty = tables.only_batch(TABLE).slice(0, 0)
    whole = tables.statistics_of(SCHEMA, [tables.only_batch(TABLE)])
    assert_equal(tables.statistics_of(SCHEMA, [empty, tables.only_batch(TABLE), empty]), whole)


def test_moments_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).normal(size=(100, 3)) * [1, 10, 100] + [0, 5, 1e6]
    values[::7, 1] = np.nan
    moments = Moments.of(values)
    np.testing.assert_array_equal(moments.count, (~np.isnan(values)).sum(axis=0))
    np.testing.assert_allclose(moments.mean, np.nanmean(values, axis=0))
    np.testing.assert_allclose(moments.variance, np.nanvar(values, axis=0))
    np.testing.assert_array_equal(moments.least, np.nanmin(values, axis=0))
    np.testing.assert_array_equal(moments.largest, np.nanmax(values, axis=0))


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40), st.integers(0, 40))
def test_a_large_mean_does_not_cancel_a_small_variance(values: list[float], cut: int) -> None:
    matrix = np.array(values)[:, None] + 1e9
    merged = Moments.of(matrix[:cut]).merged(Moments.of(matrix[cut:]))
    np.testing.assert_allclose(merged.variance, matrix.var(axis=0), rtol=1e-6, atol=1e-6)


def test_numbers_as_large_as_any_that_are_read_have_finite_moments() -> None:
    half = Moments.of(np.array([[1e100], [-1e100]]))
    merged = half.merged(Moments.of(np.array([[1e100], [np.nan]])))
    assert np.isfinite(merged.variance).all() and np.isfinite(merged.mean).all()


def test_what_was_nulled_is_told_from_what_was_null() -> None:
    table = pa.table({"x": [1.0, None, np.nan, np.inf, 5.0]})
    statistics = Statistics([Column("x", "numeric")])
    statistics.update(tables.only_batch(table), row_priorities(0, 0, np.arange(5)))
    column = statistics.columns["x"]
    assert (column.rows, column.missing, column.nulled) == (5, 3, 2)


def test_levels_are_counted_most_frequent_first_and_equal_ones_by_name() -> None:
    levels = Levels()
    levels.update(pa.array(["b", "a", "b", None, "c", "a"]))
    levels.settle()
    assert levels.values.to_pylist() == ["a", "b", "c"]
    assert levels.counts.tolist() == [2, 2, 1]


def test_beyond_their_bound_frequent_levels_survive_and_memory_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LEVELS", 50)
    levels, rng = Levels(), np.random.default_rng(0)
    for _ in range(40):
        rare = [f"rare-{i}" for i in rng.integers(0, 100_000, 60)]
        levels.update(pa.array(rare + ["often"] * 20 + ["frequent"] * 10))
    levels.settle()
    assert levels.pruned
    assert len(levels.values) <= 50
    assert levels.values.to_pylist()[:2] == ["often", "frequent"]
    assert 0 < levels.counts[0] <= 800


@given(CUTS)
def test_a_bounded_sample_keeps_the_same_rows_however_the_data_is_cut(cuts: list[int]) -> None:
    priorities = row_priorities(3, 1, np.arange(TABLE.num_rows))
    rows = np.arange(TABLE.num_rows, dtype=np.float64)[:, None]
    sample = RowSample(20, 1)
    for begin, end in itertools.pairwise(cuts):
        wanted = sample.wanted(priorities[begin:end])
        sample.update(priorities[begin:end][wanted], rows[begin:end][wanted])
    assert sorted(sample.rows[:, 0]) == sorted(np.argsort(priorities)[:20])
    assert not sample.wanted(priorities[np.argsort(priorities)[20:]]).any()


def test_priorities_differ_between_rows_row_groups_and_files() -> None:
    places = [(f, g) for f in range(4) for g in range(4)]
    drawn = np.concatenate([row_priorities(f, g, np.arange(500)) for f, g in places])
    assert len(np.unique(drawn)) == len(drawn)
    half = (drawn < np.uint64(2**63)).mean()
    assert abs(half - 0.5) < 0.03


def test_sampled_numbers_are_sorted_and_known() -> None:
    statistics = tables.statistics_of(SCHEMA, [tables.only_batch(TABLE)])
    values = statistics.sampled("amount")
    amount = TABLE["amount"]
    expected = amount.filter(pc.is_finite(amount)).to_numpy()
    np.testing.assert_array_equal(values, np.sort(expected))


@pytest.mark.parametrize(
    ("array", "kind", "reason"),
    [
        (pa.array([1.0, 1.0, 1.0]), "numeric", "constant"),
        (pa.array(["a", "a", "a"]), "categorical", "constant"),
        (pa.array([[1.0, 2.0]] * 3), "vector", "constant"),
        (pa.nulls(3, pa.float64()), "numeric", "no usable values"),
        (pa.array([np.nan, np.inf, None]), "numeric", "no usable values"),
        (pa.nulls(3, pa.string()), "categorical", "no usable values"),
        (pa.array([1.0, 1.0, None]), "numeric", None),
        (pa.array(["a", "a", None]), "categorical", None),
        (pa.array([1.0, 1.0, 2.0]), "numeric", None),
        (pa.array([[1.0, 2.0], [1.0, 3.0], [1.0, 2.0]]), "vector", None),
    ],
)
def test_a_column_that_cannot_tell_rows_apart_is_unusable(array: pa.Array, kind: str, reason: str | None) -> None:
    size = 2 if kind == "vector" else 1
    statistics = Statistics([Column("x", kind, size)])  # type: ignore[arg-type]
    statistics.update(pa.record_batch({"x": array}), row_priorities(0, 0, np.arange(3)))
    assert statistics.unusable() == ({"x": reason} if reason else {})


def test_the_summary_is_json_with_what_a_base_line_needs() -> None:
    summary = tables.statistics_of(SCHEMA, [tables.only_batch(TABLE)]).summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["carrier"]["distinct"] == 4
    assert sum(summary["carrier"]["levels"].values()) + summary["carrier"]["missing"] == 200
    assert len(summary["amount"]["quantiles"]) == 21
    assert summary["amount"]["quantiles"][0] == summary["amount"]["least"]
    assert summary["count"]["mean"] == pytest.approx(TABLE["count"].to_numpy().mean())

from __future__ import annotations

import json
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aemodel.errors import SchemaError
from aemodel.layout import MISSING, OTHER
from aemodel.model import Batch, Linear
from aemodel.schema import Column
from aemodel.statistics import Statistics, row_priorities
from aemodel.transform import CLIP, Scaling, Transform, fit, rare_levels
from tests import tables

SCALINGS: tuple[Scaling, ...] = ("quantile", "standard", "minmax")
TABLE = tables.plain(tables.mixed())
BATCH = tables.only_batch(TABLE)
FITTED = {scaling: tables.transform_of(TABLE, scaling) for scaling in SCALINGS}

ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)
MODERATE = st.floats(-1e6, 1e6)


def linear_of(transform: Transform, batch: pa.RecordBatch) -> np.ndarray:
    return Linear(transform.layout)(Batch.of(transform.apply(batch)))[0].numpy().astype(np.float64)


def fitted_on(array: pa.Array, kind: str, scaling: Scaling = "quantile", size: int = 1) -> Transform:
    statistics = Statistics([Column("x", kind, size)])  # type: ignore[arg-type]
    statistics.update(pa.record_batch({"x": array}), row_priorities(0, 0, np.arange(len(array))))
    assume(not statistics.unusable())
    return fit(statistics, scaling)


def encoded(transform: Transform, array: pa.Array) -> np.ndarray:
    return transform.apply(pa.record_batch({"x": array})).values


def test_vectors_are_encoded_alike_however_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = FITTED["quantile"].apply(BATCH)
    assert len(BATCH) > 50 and sum(expected.nulled) > 0
    monkeypatch.setattr("aemodel.transform.VECTOR_CELLS", 40)
    found = FITTED["quantile"].apply(BATCH)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.codes, expected.codes)
    assert found.nulled == expected.nulled


@given(st.lists(MODERATE, min_size=2, max_size=60), st.sampled_from(SCALINGS))
def test_numbers_come_back_in_original_units(values: list[float], scaling: Scaling) -> None:
    transform = fitted_on(pa.array(values), "numeric", scaling)
    scores = encoded(transform, pa.array(values))
    back = transform.columns[0].decoded(scores).to_numpy()
    span = max(values) - min(values)
    inside = np.abs(scores[:, 0]) < CLIP
    np.testing.assert_allclose(back[inside], np.array(values)[inside], atol=2e-3 * span + 1e-9 * max(map(abs, values)))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_numbers_for_distances_go_back_into_original_units(scaling: Scaling) -> None:
    transform = FITTED[scaling]
    back = transform.original(transform.numbers(transform.apply(BATCH)))
    for name in ("count", "price"):
        expected = np.array(BATCH.column(name).to_pylist(), np.float64)
        np.testing.assert_allclose(back[name].to_numpy(), expected, atol=1e-3 * np.ptp(expected))
    assert back["amount"].null_count > 0 and "carrier" not in back
    assert back["seen"].type == pa.timestamp("us")


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_mixed_table_comes_back_through_the_linear_space(scaling: Scaling) -> None:
    back = FITTED[scaling].invert(linear_of(FITTED[scaling], BATCH))
    assert back.schema.names == list(tables.INPUTS)
    for name in ("flag", "carrier", "colour"):
        assert back.column(name).equals(BATCH.column(name))
    for name in ("count", "price"):
        expected = np.array(BATCH.column(name).to_pylist(), np.float64)
        np.testing.assert_allclose(back.column(name).to_numpy(), expected, atol=1e-3 * np.ptp(expected))
    usable = np.asarray(pc.fill_null(pc.is_finite(BATCH.column("amount")), False))
    assert back.column("amount").is_null().to_pylist() == (~usable).tolist()
    amounts = back.column("amount").to_numpy(False)[usable]
    expected = BATCH.column("amount").to_numpy(False)[usable]
    np.testing.assert_allclose(amounts, expected, atol=1e-3 * np.ptp(expected))
    profile = np.array(BATCH.column("profile").to_pylist())
    np.testing.assert_allclose(np.array(back.column("profile").to_pylist()), profile, atol=1e-4)


@pytest.mark.parametrize("name", ["day", "seen", "logged"])
def test_moments_come_back_within_seconds_and_missing_ones_as_null(name: str) -> None:
    back = FITTED["quantile"].invert(linear_of(FITTED["quantile"], BATCH)).column(name)
    expected = BATCH.column(name).cast(pa.timestamp("us", tz="UTC" if name == "logged" else None))
    assert back.is_null().equals(expected.is_null())
    known = np.asarray(expected.is_valid())
    distance = (back.cast(pa.int64()).to_numpy(False) - expected.cast(pa.int64()).to_numpy(False))[known]
    assert np.abs(distance).max() < 10e6


@pytest.mark.parametrize("scaling", SCALINGS)
@given(fitted=st.lists(ANY_FLOAT, min_size=2, max_size=30), given_=st.lists(ANY_FLOAT, min_size=1, max_size=30))
def test_any_number_is_encoded_finite_and_clipped_or_missing(
    scaling: Scaling, fitted: list[float], given_: list[float]
) -> None:
    transform = fitted_on(pa.array(fitted), "numeric", scaling)
    values = encoded(transform, pa.array(given_))[:, 0]
    usable = np.abs(np.nan_to_num(np.array(given_), nan=np.inf)) <= 1e100
    np.testing.assert_array_equal(np.isnan(values), ~usable)
    assert (np.abs(values[usable]) <= CLIP).all()


@given(
    amount=ANY_FLOAT,
    count=st.integers(-(2**31), 2**31 - 1),
    seen=st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)),
    carrier=st.text() | st.none(),
    profile=st.lists(st.floats(width=32) | st.none(), min_size=3, max_size=3) | st.none(),
)
def test_any_row_is_finite_in_the_linear_space(
    amount: float, count: int, seen: datetime, carrier: str | None, profile: list[float | None] | None
) -> None:
    row = {
        "amount": pa.array([amount]),
        "count": pa.array([count], pa.int32()),
        "seen": pa.array([seen], pa.timestamp("us")),
        "carrier": pa.array([carrier], pa.string()),
        "profile": pa.array([profile], tables.VECTOR),
    }
    for transform in FITTED.values():
        assert np.isfinite(linear_of(transform, pa.record_batch(row))).all()


@given(st.lists(MODERATE, min_size=3, max_size=60))
def test_larger_numbers_have_larger_or_equal_scores(values: list[float]) -> None:
    transform = fitted_on(pa.array(values), "numeric")
    probe = np.sort(np.concatenate([values, np.linspace(min(values) - 10, max(values) + 10, 50)]))
    scores = encoded(transform, pa.array(probe))[:, 0]
    assert (np.diff(scores) >= -1e-5).all()


def test_a_skewed_column_becomes_normal_and_its_extremes_stay_apart() -> None:
    values = np.exp(np.random.default_rng(0).normal(size=5000) * 2)
    transform = fitted_on(pa.array(values), "numeric")
    scores = encoded(transform, pa.array(values))[:, 0]
    np.testing.assert_allclose(np.quantile(scores, [0.1, 0.5, 0.9]), [-1.28, 0, 1.28], atol=0.06)
    assert (scores.mean(), scores.std()) == (pytest.approx(0, abs=1e-3), pytest.approx(1, abs=1e-2))
    largest = values.max()
    probes = encoded(transform, pa.array([largest, largest * 1.5]))[:, 0]
    assert probes[0] < probes[1]


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_state_that_went_through_json_encodes_identically(scaling: Scaling) -> None:
    state = json.dumps(FITTED[scaling].to_json(), allow_nan=False)
    again = Transform.from_json(json.loads(state))
    assert again.columns == FITTED[scaling].columns
    assert json.dumps(again.to_json()) == state
    first, second = FITTED[scaling].apply(BATCH), again.apply(BATCH)
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.codes, second.codes)
    np.testing.assert_array_equal(again.layout.center, FITTED[scaling].layout.center)
    np.testing.assert_array_equal(again.layout.scale, FITTED[scaling].layout.scale)


@given(st.lists(st.none() | ANY_FLOAT, min_size=2, max_size=30))
def test_any_fitted_state_is_json(values: list[float | None]) -> None:
    for scaling in SCALINGS:
        transform = fitted_on(pa.array(values, pa.float64()), "numeric", scaling)
        assert Transform.from_json(json.loads(json.dumps(transform.to_json(), allow_nan=False))).columns


def test_what_was_present_and_cannot_be_used_is_counted_by_column() -> None:
    batch = pa.record_batch(
        {
            "amount": pa.array([1.0, None, np.nan, np.inf, 1e300]),
            "carrier": pa.array(["AA", None, "unheard of", "DL", "another"]),
            "profile": pa.array([[1, 2, 3], None, [np.nan, None, 3], [1, 2, 3], [np.inf, 1, 1]], tables.VECTOR),
        }
    )
    rows = FITTED["quantile"].apply(batch)
    counted = dict(zip(tables.INPUTS, rows.nulled, strict=True))
    assert {k: v for k, v in counted.items() if v} == {"amount": 3, "carrier": 2, "profile": 2}
    block = next(b for b in FITTED["quantile"].layout.blocks if b.column == "carrier")
    codes = rows.codes[:, block.code]
    assert (codes[1], codes[2], codes[4]) == (MISSING, OTHER, OTHER)
    assert min(codes[0], codes[3]) > OTHER


def test_a_column_that_the_batch_lacks_is_missing_throughout_and_not_counted() -> None:
    transform = FITTED["quantile"]
    rows = transform.apply(BATCH.select(["count", "colour"]))
    blocks = {b.column: b for b in transform.layout.blocks}
    assert np.isnan(rows.values[:, slice(*blocks["profile"].values)]).all()
    assert not np.isnan(rows.values[:, slice(*blocks["count"].values)]).any()
    assert (rows.codes[:, blocks["carrier"].code] == MISSING).all()
    assert sum(rows.nulled) == 0


def test_more_columns_than_inputs_and_another_order_do_not_matter() -> None:
    shuffled = BATCH.select(BATCH.schema.names[::-1])
    first, second = (FITTED["quantile"].apply(b) for b in (BATCH, shuffled))
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.codes, second.codes)


def test_a_batch_without_rows_is_encoded_to_none() -> None:
    assert len(FITTED["quantile"].apply(BATCH.slice(0, 0))) == 0


def test_a_type_that_cannot_be_read_as_the_column_s_kind_is_refused() -> None:
    with pytest.raises(SchemaError, match="column 'amount' is string, which cannot be read as numeric"):
        FITTED["quantile"].apply(pa.record_batch({"amount": pa.array(["cheap"])}))


def test_levels_by_frequency_get_codes_and_rare_ones_share_other() -> None:
    levels = ["a"] * 500 + ["b"] * 300 + ["c"] * 195 + [f"rare-{i}" for i in range(5)]
    transform = fitted_on(pa.array(levels), "categorical")
    assert transform.columns[0].vocabulary == ("a", "b", "c")
    codes = transform.apply(pa.record_batch({"x": pa.array(["a", "b", "c", "rare-1", None])})).codes[:, 0]
    assert codes.tolist() == [2, 3, 4, OTHER, MISSING]
    assert transform.columns[0].named_levels(codes).to_pylist() == ["a", "b", "c", "(other)", None]


def test_in_a_small_table_every_level_counts() -> None:
    assert fitted_on(pa.array(["a", "b", "a"]), "categorical").columns[0].vocabulary == ("a", "b")


def test_a_column_without_a_frequent_level_is_named() -> None:
    statistics = Statistics([Column("x", "categorical"), Column("y", "categorical")])
    batch = pa.record_batch({"x": [f"{i}" for i in range(2000)], "y": ["a", "b"] * 1000})
    statistics.update(batch, row_priorities(0, 0, np.arange(2000)))
    assert rare_levels(statistics) == {"x": "no value occurs 10 times"}


@pytest.mark.parametrize("scaling", ["quantile", "standard"])
def test_every_column_has_a_total_variance_of_about_one(scaling: Scaling) -> None:
    layout = FITTED[scaling].layout
    variance = linear_of(FITTED[scaling], BATCH).var(axis=0)
    by_column = np.bincount(layout.column_of_dimension(), variance)
    np.testing.assert_allclose(by_column, 1, atol=0.06)


def test_minmax_puts_training_values_in_the_unit_interval_and_leaves_them_unscaled() -> None:
    layout = FITTED["minmax"].layout
    x = linear_of(FITTED["minmax"], BATCH)
    assert (x >= 0).all() and (x <= 1).all()
    assert (layout.center == 0).all() and (layout.scale == 1).all()


def test_a_nearly_constant_column_is_not_blown_up() -> None:
    table = pa.table(
        {"x": [0.0] * 999 + [1.0], "y": ["a"] * 999 + ["b"], "z": np.random.default_rng(0).normal(size=1000)}
    )
    transform = tables.transform_of(table)
    assert np.abs(linear_of(transform, tables.only_batch(table))).max() <= 32


def test_a_boolean_comes_back_as_a_boolean() -> None:
    array = pa.array([True, False, None, True])
    transform = fitted_on(array, "boolean")
    back = transform.invert(linear_of(transform, pa.record_batch({"x": array}))).column(0)
    assert back.equals(array)

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aemodel import cells

FLOATS = st.floats(allow_nan=True, allow_infinity=True)
OPTIONAL_FLOATS = st.lists(st.none() | FLOATS, min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([1, None, -3], pa.int8()), [1, np.nan, -3]),
        (pa.array([2**63], pa.uint64()), [2.0**63]),
        (pa.array([1.5, None], pa.float32()), [1.5, np.nan]),
        (pa.array([True, False, None]), [1, 0, np.nan]),
        (pa.array([Decimal("1.25"), None], pa.decimal128(10, 2)), [1.25, np.nan]),
        (pa.array([timedelta(seconds=2)], pa.duration("ms")), [2]),
        (pa.array([None, None], pa.null()), [np.nan, np.nan]),
        (pa.array([np.nan, np.inf, -np.inf, 1e101, -1e101, 1e100]), [np.nan] * 5 + [1e100]),
    ],
)
def test_numbers_of_every_type_read_as_float64_with_nan_where_unusable(array: pa.Array, expected: list[float]) -> None:
    read = cells.numbers(array)
    assert read.dtype == np.float64
    np.testing.assert_array_equal(read, expected)


@given(
    st.sampled_from(["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32"]),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 99),
    st.booleans(),
)
def test_a_part_of_a_column_of_any_type_reads_as_arrow_casts_it(
    kind: str, start: int, rows: int, seed: int, with_null: bool
) -> None:
    drawn = np.frombuffer(np.random.default_rng(seed).bytes(16 * 8), np.dtype(kind))[:16]
    finite = np.nan_to_num(drawn, nan=0, posinf=1, neginf=-1)
    part = pa.array(finite, mask=np.arange(16) == (3 if with_null else 99)).slice(start, rows)
    expected = [np.nan if v is None else v for v in part.cast(pa.float64(), safe=False).to_pylist()]
    np.testing.assert_array_equal(cells.numbers(part), expected)


@given(OPTIONAL_FLOATS)
def test_numbers_are_finite_or_missing_and_their_squares_finite(values: list[float | None]) -> None:
    read = cells.numbers(pa.array(values, pa.float64()))
    assert not np.isinf(read).any()
    assert np.isfinite(np.nan_to_num(read) ** 2).all()


def test_numbers_do_not_write_into_the_table() -> None:
    array = pa.array([1.0, np.inf])
    cells.numbers(array)
    assert array.to_pylist() == [1.0, np.inf]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_moment_is_the_same_seconds_in_every_unit(unit: str) -> None:
    array = pa.array([datetime(1970, 1, 2), None], pa.timestamp(unit))
    np.testing.assert_array_equal(cells.seconds(array), [86_400.0, np.nan])


def test_a_moment_with_a_zone_is_read_in_utc() -> None:
    naive = pa.array([datetime(2024, 6, 1, 12)], pa.timestamp("us"))
    zoned = pa.array([datetime(2024, 6, 1, 12)], pa.timestamp("us", tz="America/New_York"))
    np.testing.assert_array_equal(cells.seconds(naive), cells.seconds(zoned))


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_a_date_is_the_start_of_its_day(kind: pa.DataType) -> None:
    array = pa.array([date(1970, 1, 3), date(1, 1, 1), date(9999, 12, 31)], kind)
    np.testing.assert_array_equal(cells.seconds(array), [172_800.0, -62_135_596_800.0, 253_402_214_400.0])


@pytest.mark.parametrize("kind", [pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")])
def test_a_time_is_seconds_since_midnight(kind: pa.DataType) -> None:
    np.testing.assert_array_equal(cells.seconds(pa.array([time(1, 0, 5), None], kind)), [3605.0, np.nan])


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array(["a", None]), ["a", None]),
        (pa.array(["a", None], pa.large_string()), ["a", None]),
        (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
        (pa.array([1, None]), ["1", None]),
        (pa.array([True, None]), ["true", None]),
        (pa.array([date(2024, 1, 2)]), ["2024-01-02"]),
    ],
)
def test_levels_are_written_alike_whatever_the_type(array: pa.Array, expected: list[str | None]) -> None:
    assert cells.strings(array).type == pa.string()
    assert cells.strings(array).to_pylist() == expected


@given(st.lists(st.none() | st.integers(-(2**53), 2**53), min_size=1, max_size=20))
def test_a_whole_float_is_the_level_of_its_integer(values: list[int | None]) -> None:
    floats = pa.array([None if v is None else float(v) for v in values], pa.float64())
    assert cells.strings(floats).equals(cells.strings(pa.array(values, pa.int64())))


@given(OPTIONAL_FLOATS, FLOATS)
def test_the_level_of_a_float_does_not_depend_on_the_rows_beside_it(values: list[float | None], other: float) -> None:
    alone = cells.strings(pa.array(values, pa.float64()))
    beside = cells.strings(pa.array([*values, other], pa.float64()))
    assert beside.slice(0, len(values)).equals(alone)


def test_floats_that_are_not_numbers_have_no_level() -> None:
    array = pa.array([3.0, np.nan, np.inf, -np.inf, None, -0.0, 2.5])
    assert cells.strings(array).to_pylist() == ["3", None, None, None, None, "0", "2.5"]


def test_large_floats_of_different_size_are_different_levels() -> None:
    assert len(set(cells.strings(pa.array([1e300, 2e300, -1e300])).to_pylist())) == 3


LISTS = [[1.0, 2.0], None, [3.0, None], [np.inf, 5.0], [6.0, 7.0]]
READ = [[1, 2], [np.nan, np.nan], [3, np.nan], [np.nan, 5], [6, 7]]


@pytest.mark.parametrize("kind", [pa.list_(pa.float64(), 2), pa.list_(pa.float64()), pa.large_list(pa.float32())])
@pytest.mark.parametrize("part", [slice(0, 5), slice(1, 4), slice(4, 5), slice(2, 2)])
def test_vectors_are_a_matrix_with_nan_where_missing(kind: pa.DataType, part: slice) -> None:
    array = pa.array(LISTS, kind)[part]
    np.testing.assert_array_equal(cells.vectors(array, 2), np.reshape(READ[part], (-1, 2)))


@pytest.mark.parametrize("kind", [pa.list_(pa.float64(), 3), pa.list_(pa.float64())])
def test_vectors_of_another_length_are_refused(kind: pa.DataType) -> None:
    with pytest.raises(ValueError, match=r"vectors of 3 .*numbers where 2 are expected"):
        cells.vectors(pa.array([[1.0, 2.0, 3.0]], kind), 2)


def test_equal_rows_have_equal_hashes_whatever_their_types() -> None:
    first = [cells.numbers(pa.array([1, 2], pa.int32())), cells.strings(pa.array(["x", "y"]))]
    second = [cells.numbers(pa.array([1.0, 2.0])), cells.strings(pa.array(["x", "y"]).dictionary_encode())]
    np.testing.assert_array_equal(cells.row_hash(first), cells.row_hash(second))


def test_a_row_s_hash_does_not_depend_on_the_batch_it_is_read_in() -> None:
    texts = pa.array(["b", None, "a", "b", "c"])
    numbers = np.array([1.0, 2.0, np.nan, 4.0, 5.0])
    whole = cells.row_hash([texts, numbers])
    parts = [cells.row_hash([texts.slice(i, 1), numbers[i : i + 1]]) for i in range(5)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_null_and_nan_of_any_kind_hash_alike_and_so_do_both_zeros() -> None:
    payload = np.array([0x7FF8000000000001], np.uint64).view(np.float64)
    column = np.concatenate([payload, [np.nan, -np.nan, 0.0, -0.0], cells.numbers(pa.array([None], pa.float64()))])
    hashes = cells.row_hash([column])
    assert len(set(hashes[[0, 1, 2, 5]].tolist())) == 1
    assert hashes[3] == hashes[4] != hashes[0]


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=30, unique_by=lambda v: v + 0.0))
def test_different_rows_have_different_hashes(values: list[float]) -> None:
    assert len(np.unique(cells.row_hash([np.array(values)]))) == len(values)


def test_the_place_of_a_value_counts() -> None:
    a, b = np.array([1.0]), np.array([2.0])
    assert cells.row_hash([a, b]) != cells.row_hash([b, a])
    assert cells.row_hash([np.array([[1.0, 2.0]])]) != cells.row_hash([np.array([[2.0, 1.0]])])
    assert cells.row_hash([pa.array(["x"]), pa.array(["y"])]) != cells.row_hash([pa.array(["y"]), pa.array(["x"])])


def test_a_hash_is_the_same_on_every_machine() -> None:
    columns = [np.array([1.5, np.nan]), pa.array(["x", None]), np.array([[1.0, 2.0], [3.0, 4.0]])]
    assert cells.row_hash(columns).tolist() == KNOWN


KNOWN = [9991110139149827136, 10762953171630173750]


def test_hashes_are_uniform_in_the_unit_interval() -> None:
    unit = cells.unit_interval(cells.row_hash([np.arange(20_000.0)]))
    assert (unit >= 0).all() and (unit < 1).all()
    counts, _ = np.histogram(unit, 20, (0, 1))
    assert np.abs(counts - 1000).max() < 160


def test_the_largest_hash_stays_below_one() -> None:
    assert cells.unit_interval(np.array([2**64 - 1], np.uint64))[0] < 1


@given(st.floats(-1e11, 1e11))
def test_a_calendar_has_seconds_and_three_points_on_circles(moment: float) -> None:
    parts = cells.calendar(np.array([moment, np.nan]))
    assert parts.shape == (2, cells.CALENDAR_PARTS)
    assert parts[0, 0] == moment
    np.testing.assert_allclose(np.hypot(parts[0, 1::2], parts[0, 2::2]), 1)
    assert np.isnan(parts[1]).all()


def test_the_same_hour_of_another_day_has_the_same_place_on_the_day() -> None:
    parts = cells.calendar(np.array([3600.0, 3600.0 + 5 * cells.DAY, 3600.0 + cells.WEEK]))
    np.testing.assert_allclose(parts[0, 1:3], parts[1, 1:3], atol=1e-9)
    np.testing.assert_allclose(parts[0, 3:5], parts[2, 3:5], atol=1e-9)
    assert not np.allclose(parts[0, 3:5], parts[1, 3:5])

from __future__ import annotations

import numpy as np
import pyarrow as pa

from aemodel.leaks import determined
from tests import tables

rng = np.random.default_rng(0)
A, B = rng.normal(size=2_000), rng.normal(size=2_000)
CITY = rng.integers(0, 40, 2_000)


def found(columns: dict[str, object]) -> list[tuple[str, str]]:
    table = pa.table(columns)
    transform = tables.transform_of(table)
    named = determined(transform.layout, transform.apply(tables.only_batch(table)))
    assert all(0.999 < one.r2 <= 1 + 1e-9 for one in named)
    return [(one.column, one.by) for one in named]


def test_a_number_that_another_gives_away_is_named_and_one_that_is_only_near_is_not() -> None:
    near = B + 0.1 * rng.normal(size=2_000)
    assert found({"a": A, "b": B, "twice_a": 2 * A + 1, "near_b": near}) == [("twice_a", "a")]


def test_of_columns_of_levels_that_say_the_same_the_later_is_named() -> None:
    city = [f"c{i}" for i in CITY]
    assert found({"x": A, "city": city, "upper": [c.upper() for c in city]}) == [("upper", "city")]


def test_what_is_coarser_is_given_away_by_what_is_finer_wherever_it_stands() -> None:
    columns = {"country": [f"n{i % 5}" for i in CITY], "x": A, "city": [f"c{i}" for i in CITY]}
    assert found(columns) == [("country", "city")]


def test_a_number_or_a_truth_that_a_level_stands_for_is_named() -> None:
    height = rng.normal(size=40)[CITY]
    assert found({"city": [f"c{i}" for i in CITY], "height": height, "large": CITY > 20}) == [
        ("height", "city"),
        ("large", "city"),
    ]


def test_levels_that_occur_once_give_nothing_away() -> None:
    table = pa.table({"x": A, "name": [f"c{i}" for i in CITY]})
    transform = tables.transform_of(table)
    rows = transform.apply(tables.only_batch(table))
    rows.codes[:, 0] = np.arange(2_000)
    assert determined(transform.layout, rows) == ()


def test_a_flag_that_a_time_gives_away_is_named_by_it() -> None:
    when = np.repeat(np.arange(2), 1_000) * 86_400 * 365
    stamp = pa.array(when, pa.timestamp("s"))
    assert ("late", "when") in found({"when": stamp, "x": A, "late": when > 0})


def test_a_handful_of_rows_says_nothing() -> None:
    assert found({"a": A[:10], "twice_a": 2 * A[:10]}) == []

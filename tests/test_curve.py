from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aemodel.curve import MOST_IN_CELL, Curve

NUMBER = st.floats(-1e100, 1e100)


def _along(x: np.ndarray, y: np.ndarray, values: np.ndarray) -> np.ndarray:
    """numpy's, with the mean slope of the outer fifth beyond the ends."""
    found, reach = np.interp(values, x, y), max(1, len(x) // 5)
    below, above = values < x[0], values > x[-1]
    found[below] = y[0] + (values[below] - x[0]) * ((y[reach] - y[0]) / (x[reach] - x[0]))
    found[above] = y[-1] + (values[above] - x[-1]) * ((y[-1] - y[-1 - reach]) / (x[-1] - x[-1 - reach]))
    return found


@given(st.integers(2, 300), st.sampled_from([0.0, 1.0, 3.0, 12.0]), st.floats(-1e9, 1e9), st.integers(0, 99))
def test_it_is_the_line_through_its_points(knots: int, skew: float, shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.unique(np.exp(skew * rng.normal(size=knots)) + shift)
    if len(x) < 2:
        return
    y = np.cumsum(rng.random(len(x)))
    values = np.concatenate([x, rng.uniform(x[0], x[-1], 200), [x[0] - 1, x[-1] + 1], np.nextafter(x, -np.inf)])
    np.testing.assert_allclose(Curve(x, y)(values), _along(x, y, values), rtol=1e-9, atol=1e-9)


@given(st.lists(NUMBER, min_size=2, max_size=50, unique=True), st.lists(NUMBER, min_size=1, max_size=50))
def test_larger_numbers_never_come_before_smaller_ones(knots: list[float], values: list[float]) -> None:
    x, given_values = np.sort(knots), np.sort(values)
    found = Curve(x, np.linspace(-3, 3, len(x)))(given_values)
    assert not np.isnan(found).any() and (np.diff(found) >= -1e-9).all()


def test_knots_that_lie_close_together_are_looked_for_one_by_one() -> None:
    spread, close = np.linspace(0, 1, 257), np.concatenate([np.linspace(0, 1e-6, 256), [1.0]])
    assert Curve(spread, spread).depth <= 1 and Curve(close, spread).depth > MOST_IN_CELL
    values = np.linspace(-0.1, 1.1, 999)
    for x in (spread, close):
        np.testing.assert_allclose(Curve(x, spread)(values), _along(x, spread, values), atol=1e-9)


def test_nan_stays_nan() -> None:
    for x in (np.array([0.0, 1.0]), np.concatenate([np.linspace(0, 1e-6, 256), [1.0]])):
        assert np.isnan(Curve(x, x)(np.array([np.nan, 0.5]))).tolist() == [True, False]

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aemodel import neighbours
from aemodel.neighbours import FARTHEST, FINE_WEIGHT, PROJECTED, Neighbours, _compressed, kth_distance

RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(size=(600, 3)) * [1, 10, 100]
OTHERS = RNG.normal(size=(600, 2)).astype(np.float32)
HELD_OUT = RNG.normal(size=(400, 3)) * [1, 10, 100], RNG.normal(size=(400, 2)).astype(np.float32)
KNOWN = neighbours.fit(NUMBERS, OTHERS, HELD_OUT)


def test_the_nearest_row_is_given_in_units_of_the_numbers_themselves() -> None:
    rng = np.random.default_rng(0)
    numbers, others = rng.normal(50, 9, (40, 3)), rng.normal(size=(40, 2))
    known = neighbours.fit(numbers, others, (numbers, others))
    near = known.nearest(numbers[:1], others[:1])
    assert near is not None
    np.testing.assert_allclose(near, numbers[:1], rtol=1e-4)
    wide = rng.normal(size=(40, 300))
    assert neighbours.fit(wide, others, (wide, others)).nearest(wide, others) is None


def test_held_out_rows_lie_at_a_distance_of_one_on_average_at_either_scale() -> None:
    fresh = RNG.normal(size=(3_000, 3)) * [1, 10, 100], RNG.normal(size=(3_000, 2)).astype(np.float32)
    known = neighbours.fit(NUMBERS, OTHERS, fresh)
    scales = known._of(torch.from_numpy(known.units(*fresh)))[0] / known.usual
    np.testing.assert_allclose(scales.mean(axis=0), 1, rtol=1e-5)
    total = known.distances(*fresh).total
    np.testing.assert_allclose(total, scales[:, 0] + FINE_WEIGHT * scales[:, 1] ** 2, rtol=1e-5)


def test_the_farther_away_the_larger_in_units_of_each_column() -> None:
    origin = np.zeros((4, 3))
    origin[:, 1] = [0, 20, 60, 150]
    total = KNOWN.distances(origin, np.zeros((4, 2), np.float32)).total
    assert (np.diff(total) > 0).all()
    origin[:, 1], origin[:, 2] = 0, [0, 200, 600, 1500]
    np.testing.assert_allclose(KNOWN.distances(origin, np.zeros((4, 2), np.float32)).total, total, rtol=0.25)


def test_the_offset_names_the_dimension_that_is_far() -> None:
    row = np.zeros((1, 3))
    row[0, 2] = 1e4
    offset = KNOWN.distances(row, np.zeros((1, 2), np.float32)).offset
    assert offset.shape == (1, 5) and offset.argmax() == 2


def test_a_strange_training_row_does_not_hide_its_like_from_the_small_samples() -> None:
    numbers = NUMBERS.copy()
    numbers[0] = [50, 0, 0]
    known = neighbours.fit(numbers, OTHERS, HELD_OUT)
    assert known.distances(numbers[:1], OTHERS[:1]).total[0] > 5


@given(st.floats(-1e300, 1e300), st.booleans())
def test_any_number_and_a_missing_one_have_a_finite_distance(value: float, missing: bool) -> None:
    row = np.array([[value, np.nan if missing else value, 0.0]])
    found = KNOWN.distances(row, np.zeros((1, 2), np.float32))
    assert np.isfinite(found.total).all() and np.isfinite(found.offset).all()
    assert np.abs(KNOWN.units(row, OTHERS[:1])[:, :3]).max() <= FARTHEST


def test_wide_rows_are_projected_and_still_told_apart() -> None:
    wide = RNG.normal(size=(400, PROJECTED + 50))
    known = neighbours.fit(wide, np.empty((400, 0), np.float32), (wide, np.empty((400, 0), np.float32)))
    assert known.fine.shape[1] == PROJECTED
    near, far = known.distances(np.stack([wide[0], wide[0] * 6]), np.empty((2, 0), np.float32)).total
    assert far > 2 * near


def test_it_survives_being_written_as_arrays() -> None:
    again = Neighbours.from_arrays(KNOWN.to_arrays())
    a, b = again.distances(NUMBERS, OTHERS), KNOWN.distances(NUMBERS, OTHERS)
    np.testing.assert_array_equal(a.total, b.total)


@pytest.mark.parametrize("rows", [1, 3])
def test_few_training_rows_are_enough(rows: int) -> None:
    known = neighbours.fit(NUMBERS[:rows], OTHERS[:rows], (NUMBERS[:rows], OTHERS[:rows]))
    assert np.isfinite(known.distances(NUMBERS, OTHERS).total).all()
    assert np.isfinite(kth_distance(NUMBERS, NUMBERS[:rows])).all()


def test_differences_are_compressed_by_asinh() -> None:
    values = torch.tensor([-1e4, -3.0, -1e-4, 0.0, 1e-6, 0.5, 20.0, 1e6])
    torch.testing.assert_close(_compressed(values), torch.asinh(values), rtol=1e-6, atol=1e-9)


def test_projected_rows_that_lie_farther_than_any_number_are_the_farthest() -> None:
    rng = np.random.default_rng(0)
    numbers, none = rng.normal(size=(300, 4_096)).astype(np.float32), np.zeros((300, 0), np.float32)
    known = neighbours.fit(numbers, none, (numbers, none))
    wild = np.concatenate([numbers[:50], rng.choice([-1e3, 1e3], size=(50, 4_096)).astype(np.float32)])
    total = known.distances(wild, np.zeros((100, 0), np.float32)).total
    assert total[50:].min() > 3 * total[:50].max()

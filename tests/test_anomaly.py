from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aemodel.anomaly import CAP, Calibration, calibrate
from aemodel.model import Batch, reconstruct
from aemodel.pca import Projection, principal_axes
from tests import tables

RNG = np.random.default_rng(0)
ERRORS = RNG.gamma(1.0, [0.1, 1.0, 10.0, 0.5], (2000, 4))
LATENTS = RNG.normal(size=(2000, 3)) @ RNG.normal(size=(3, 3)) + 5
HELD_OUT = calibrate(ERRORS, LATENTS)

ANY_ERROR = st.floats(0, 1e30)
ANY_LATENT = st.floats(-1e15, 1e15)


@given(
    arrays(np.float32, (5, 4), elements=st.floats(0, 2.0**100, width=32)),
    arrays(np.float64, (5, 3), elements=ANY_LATENT),
)
def test_a_score_is_finite_and_its_rank_in_the_unit_interval(errors: np.ndarray, latents: np.ndarray) -> None:
    score = HELD_OUT.score(errors, latents)
    rank = HELD_OUT.rank(score)
    assert score.dtype == rank.dtype == np.float32
    assert np.isfinite(score).all() and (score >= 0).all()
    assert ((rank >= 0) & (rank <= 1)).all()


@given(
    arrays(np.float64, st.tuples(st.integers(1, 8), st.just(3)), elements=st.floats(0, 1e6)),
    st.integers(1, 3),
    st.data(),
)
def test_any_held_out_rows_give_a_finite_calibration(errors: np.ndarray, k: int, data: st.DataObject) -> None:
    latents = data.draw(arrays(np.float64, (len(errors), k), elements=st.floats(-1e6, 1e6)))
    calibration = calibrate(errors, latents)
    for values in vars(calibration).values():
        assert np.isfinite(values).all()
    assert (np.diff(calibration.quantiles) >= 0).all()
    assert np.isfinite(calibration.score(errors + 1, latents - 1)).all()


@given(st.lists(st.floats(0, 1e6, width=32), min_size=2, max_size=50))
def test_a_stranger_row_never_ranks_lower(scores: list[float]) -> None:
    rank = HELD_OUT.rank(np.sort(np.array(scores, np.float32)))
    assert (np.diff(rank) >= 0).all()


def test_ranks_of_held_out_rows_are_uniform() -> None:
    rank = HELD_OUT.rank(HELD_OUT.score(ERRORS, LATENTS))
    np.testing.assert_allclose(np.quantile(rank, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.01)
    assert (rank.min(), rank.max()) == (0, 1)


def test_scores_beyond_the_held_out_ones_rank_at_the_ends() -> None:
    ends = np.array([0.0, 1e9], np.float32)
    assert HELD_OUT.rank(ends).tolist() == [0, 1]


def test_a_larger_error_makes_a_row_stranger_up_to_the_cap() -> None:
    usual = np.repeat(HELD_OUT.column_error[None], 4, axis=0)
    usual[:, 1] *= [1, 5, CAP, 1000 * CAP]
    score = HELD_OUT.score(usual, np.repeat(HELD_OUT.latent_mean[None], 4, axis=0))
    np.testing.assert_allclose(score, [4, 8, 3 + CAP, 3 + CAP], rtol=1e-6)


def test_each_column_counts_in_its_own_units() -> None:
    np.testing.assert_allclose(HELD_OUT.relative(ERRORS).mean(axis=0), 1)


def test_a_row_that_is_reconstructed_well_but_lies_where_no_row_lies_is_strange() -> None:
    errors = np.zeros((2, 4))
    latents = HELD_OUT.latent_mean + np.array([[0, 0, 0], [30, -30, 30]])
    near, far = HELD_OUT.rank(HELD_OUT.score(errors, latents))
    assert near < 0.05
    assert far == 1


def test_the_distance_of_latents_is_mahalanobis() -> None:
    covariance = np.cov(LATENTS.T)
    difference = LATENTS[:50] - LATENTS.mean(axis=0)
    expected = np.sqrt(np.einsum("ij,jk,ik->i", difference, np.linalg.inv(covariance), difference))
    np.testing.assert_allclose(HELD_OUT.score(np.zeros((50, 4)), LATENTS[:50]), expected, rtol=1e-4)


def test_reasons_are_the_columns_that_deviate_most_in_falling_order() -> None:
    errors = HELD_OUT.column_error * np.array([[1, 9, 4, 2], [3, 1, 1e9, 2]])
    assert HELD_OUT.reasons(errors, 3).tolist() == [[1, 2, 3], [2, 0, 3]]


@given(arrays(np.float64, st.tuples(st.integers(1, 6), st.just(4)), elements=st.floats(0, 100)), st.integers(1, 6))
def test_reasons_are_distinct_columns_that_deviate_at_all(errors: np.ndarray, count: int) -> None:
    found = HELD_OUT.reasons(errors, count)
    assert found.shape == (len(errors), count)
    relative = HELD_OUT.relative(errors)
    for row, indices in zip(relative, found, strict=True):
        named = indices[indices >= 0]
        assert len(set(named.tolist())) == len(named) == min(count, int((row > 0).sum()))
        assert (np.diff(row[named]) <= 0).all()
        assert (indices[len(named) :] == -1).all()


def test_a_column_that_is_always_right_does_not_make_noise_a_reason() -> None:
    errors = ERRORS.copy()
    errors[:, 0] = 1e-14
    calibration = calibrate(errors, LATENTS)
    probe = np.median(errors, axis=0)[None].copy()
    probe[0, 0] = 1e-9
    assert calibration.reasons(probe, 1)[0, 0] != 0
    assert calibration.relative(probe)[0, 0] < 1e-3


@pytest.mark.parametrize("column", ["amount", "price", "carrier", "profile"])
def test_the_reasons_name_the_column_that_was_perturbed(column: str) -> None:
    table = tables.plain(tables.mixed())
    transform = tables.transform_of(table)
    rows = transform.apply(tables.only_batch(table))
    model = Projection(transform.layout, principal_axes(transform.layout, [rows], 12))
    usual = reconstruct(model, [Batch.of(rows)])
    calibration = calibrate(usual.errors, usual.features)
    block = next(b for b in transform.layout.blocks if b.column == column)
    whole = np.flatnonzero(~np.isnan(rows.values).any(axis=1))[:20]
    values, codes = rows.values[whole].copy(), rows.codes[whole].copy()
    if block.code is None:
        values[:, slice(*block.values)] += 9 * (-1) ** np.arange(block.values[1] - block.values[0])
    else:
        codes[:, block.code] = 1
    changed = reconstruct(model, [Batch.of(type(rows)(values, codes))])
    reasons = calibration.reasons(changed.errors, 3)
    assert (reasons == transform.layout.columns.index(column)).any(axis=1).mean() > 0.9
    before = calibration.score(usual.errors, usual.features)[whole]
    assert (calibration.score(changed.errors, changed.features) > before).mean() > 0.9


def test_a_calibration_of_one_row_is_usable() -> None:
    one = calibrate(ERRORS[:1], LATENTS[:1])
    assert isinstance(one, Calibration)
    assert one.rank(one.score(ERRORS[1:3], LATENTS[1:3])).shape == (2,)

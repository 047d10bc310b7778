from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aemodel.anomaly import CAP, WEIGHT, Calibration, Evidence, calibrate
from aemodel.bundle import Provenance, calibrated
from aemodel.config import ModelJob
from aemodel.pca import Projection, principal_axes
from tests import tables

RNG = np.random.default_rng(0)
ERRORS = RNG.gamma(1.0, [0.1, 1.0, 10.0, 0.5], (2000, 4))
LATENTS = RNG.normal(size=(2000, 3)) @ RNG.normal(size=(3, 3)) + 5
FAR = RNG.gamma(5.0, 0.2, 2000)
OFFSETS = RNG.gamma(1.0, [1.0, 0.1, 1.0, 2.0], (2000, 4))
SEEN = Evidence(ERRORS, LATENTS, FAR, OFFSETS)
HELD_OUT = calibrate(SEEN, LATENTS[:500])

ANY_ERROR = st.floats(0, 1e30)
ANY_LATENT = st.floats(-1e15, 1e15)


def ordinary(rows: int = 1, **changed: np.ndarray) -> Evidence:
    """Rows that are in the middle of everything, but for what is changed."""
    parts = {
        "errors": np.repeat(HELD_OUT.column_error[None], rows, axis=0),
        "features": np.repeat(HELD_OUT.latent_mean[None], rows, axis=0),
        "far": np.ones(rows),
        "offsets": np.zeros((rows, 4)),
    }
    return Evidence(**parts | changed)


@given(
    arrays(np.float32, (5, 4), elements=st.floats(0, 2.0**100, width=32)),
    arrays(np.float64, (5, 3), elements=ANY_LATENT),
)
def test_a_score_is_finite_and_its_rank_in_the_unit_interval(errors: np.ndarray, latents: np.ndarray) -> None:
    score = HELD_OUT.score(ordinary(5, errors=errors.astype(np.float64), features=latents))
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
    rows = Evidence(errors, latents, np.ones(len(errors)), errors)
    calibration = calibrate(rows, latents)
    for values in vars(calibration).values():
        assert np.isfinite(values).all()
    assert (np.diff(calibration.quantiles) >= 0).all()
    assert np.isfinite(calibration.score(Evidence(errors + 1, latents - 1, rows.far, errors))).all()


@given(st.lists(st.floats(0, 1e6, width=32), min_size=2, max_size=50))
def test_a_stranger_row_never_ranks_lower(scores: list[float]) -> None:
    rank = HELD_OUT.rank(np.sort(np.array(scores, np.float32)))
    assert (np.diff(rank) >= 0).all()


def test_ranks_of_held_out_rows_are_uniform() -> None:
    rank = HELD_OUT.rank(HELD_OUT.score(SEEN))
    np.testing.assert_allclose(np.quantile(rank, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.01)
    assert (rank.min(), rank.max()) == (0, 1)


def test_scores_beyond_the_held_out_ones_rank_at_the_ends() -> None:
    ends = np.array([0.0, 1e9], np.float32)
    assert HELD_OUT.rank(ends).tolist() == [0, 1]


def test_the_farther_from_the_training_rows_the_stranger() -> None:
    score = HELD_OUT.score(ordinary(3, far=np.array([0.5, 1.0, 4.0])))
    np.testing.assert_allclose(score, [0.5, 1.0, 4.0])


def test_errors_count_from_where_they_exceed_ordinary_ones_and_one_wild_cell_does_not_decide() -> None:
    errors = np.repeat(HELD_OUT.column_error[None], 4, axis=0)
    errors[:, 1] *= [1, 5, CAP, 1000 * CAP]
    score = HELD_OUT.score(ordinary(4, errors=errors))
    limit = HELD_OUT.ordinary[0]
    assert 8 < limit < 3 + CAP
    np.testing.assert_allclose(score[:2], [1, 1])
    np.testing.assert_allclose(score[2:], 1 + WEIGHT * ((3 + CAP) / limit - 1), rtol=1e-6)


def test_each_column_counts_in_its_own_units() -> None:
    np.testing.assert_allclose(HELD_OUT.deviations(SEEN).mean(axis=0), 2)


def test_a_row_that_is_reconstructed_well_but_lies_where_no_row_lies_is_strange() -> None:
    latents = HELD_OUT.latent_mean + np.array([[0, 0, 0], [60, -60, 60]])
    near, far = HELD_OUT.rank(HELD_OUT.score(ordinary(2, features=latents)))
    assert near < 0.7
    assert far > 0.995


def test_whitened_features_measure_mahalanobis_distances() -> None:
    covariance = np.cov(LATENTS.T)
    difference = LATENTS[:50] - LATENTS.mean(axis=0)
    expected = np.sqrt(np.einsum("ij,jk,ik->i", difference, np.linalg.inv(covariance), difference))
    np.testing.assert_allclose(np.linalg.norm(HELD_OUT.whitened(LATENTS[:50]), axis=1), expected, rtol=1e-4)


def test_the_k_nearest_distance_is_to_the_fifth_training_row() -> None:
    z = HELD_OUT.whitened(LATENTS[:500])
    expected = np.sort(np.linalg.norm(z[:20, None] - z[None], axis=2), axis=1)[:, 4]
    np.testing.assert_allclose(HELD_OUT.knn(LATENTS[:20]), expected, rtol=1e-3, atol=1e-3)


def test_reasons_are_the_columns_that_deviate_most_in_falling_order() -> None:
    errors = HELD_OUT.column_error * np.array([[1, 9, 4, 2], [3, 1, 1e9, 2]])
    assert HELD_OUT.reasons(ordinary(2, errors=errors), 3).tolist() == [[1, 2, 3], [2, 0, 3]]
    offsets = HELD_OUT.column_offset * np.array([[0, 0, 9, 0]])
    assert HELD_OUT.reasons(ordinary(1, offsets=offsets), 1).tolist() == [[2]]


@given(arrays(np.float64, st.tuples(st.integers(1, 6), st.just(4)), elements=st.floats(0, 100)), st.integers(1, 6))
def test_reasons_are_distinct_columns_that_deviate_at_all(errors: np.ndarray, count: int) -> None:
    rows = ordinary(len(errors), errors=errors)
    found = HELD_OUT.reasons(rows, count)
    assert found.shape == (len(errors), count)
    for row, indices in zip(HELD_OUT.deviations(rows), found, strict=True):
        named = indices[indices >= 0]
        assert len(set(named.tolist())) == len(named) == min(count, int((row > 0).sum()))
        assert (np.diff(row[named]) <= 0).all()
        assert (indices[len(named) :] == -1).all()


def test_a_column_that_is_always_right_does_not_make_noise_a_reason() -> None:
    errors = ERRORS.copy()
    errors[:, 0] = 1e-14
    calibration = calibrate(Evidence(errors, LATENTS, FAR, OFFSETS), LATENTS)
    probe = np.median(errors, axis=0)[None].copy()
    probe[0, 0] = 1e-9
    rows = ordinary(1, errors=probe)
    assert calibration.reasons(rows, 1)[0, 0] != 0
    assert calibration.deviations(rows)[0, 0] < 1e-3


@pytest.mark.parametrize("column", ["amount", "price", "carrier", "profile"])
def test_the_reasons_name_the_column_that_was_perturbed(column: str) -> None:
    table = tables.plain(tables.mixed())
    transform = tables.transform_of(table)
    rows = transform.apply(tables.only_batch(table))
    model = Projection(transform.layout, principal_axes(transform.layout, [rows], 12))
    made = calibrated(model, ModelJob(), transform, rows, rows, Provenance("x", "s", "j", "c", 1))
    usual, _ = made.evidence(rows)
    block = next(b for b in transform.layout.blocks if b.column == column)
    whole = np.flatnonzero(~np.isnan(rows.values).any(axis=1))[:20]
    values, codes = rows.values[whole].copy(), rows.codes[whole].copy()
    if block.code is None:
        values[:, slice(*block.values)] += 9 * (-1) ** np.arange(block.values[1] - block.values[0])
    else:
        codes[:, block.code] = 1
    changed, _ = made.evidence(type(rows)(values, codes))
    reasons = made.calibration.reasons(changed, 3)
    assert (reasons == transform.layout.columns.index(column)).any(axis=1).mean() > 0.9
    before = made.calibration.score(usual)[whole]
    assert (made.calibration.score(changed) > before).mean() > 0.9


def test_a_calibration_of_one_row_is_usable() -> None:
    one = calibrate(Evidence(ERRORS[:1], LATENTS[:1], FAR[:1], OFFSETS[:1]), LATENTS[:1])
    assert isinstance(one, Calibration)
    assert one.rank(one.score(Evidence(ERRORS[1:3], LATENTS[1:3], FAR[1:3], OFFSETS[1:3]))).shape == (2,)


def test_a_column_deviates_by_distance_where_that_part_is_the_larger() -> None:
    rows = ordinary(2, errors=np.zeros((2, 4)))
    rows.offsets[:] = 0
    rows.offsets[0, 1] = 1
    assert HELD_OUT.by_distance(rows).tolist() == [[False, True, False, False], [False] * 4]

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aemodel import frame


def _latents(seed: int, k: int, rows: int = 400) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, k)) * rng.uniform(0.5, 3, k) + rng.normal(size=k)


@given(st.integers(0, 100), st.integers(1, 6))
def test_first_columns_have_mean_zero_and_mean_variance_one_and_keep_distances(seed: int, k: int) -> None:
    z = _latents(seed, k)
    f = frame.first(z)(z)
    np.testing.assert_allclose(f.mean(axis=0), 0, atol=1e-9)
    assert f.var(axis=0).mean() == pytest.approx(1)
    ratio = np.linalg.norm(f[1:] - f[:-1], axis=1) / np.linalg.norm(z[1:] - z[:-1], axis=1)
    np.testing.assert_allclose(ratio, ratio[0])


@given(st.integers(0, 100), st.integers(2, 5))
def test_a_turned_copy_is_turned_back_to_the_columns_it_came_from(seed: int, k: int) -> None:
    reference = frame.first(_latents(seed, k))(_latents(seed, k))
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(k, k)))[0]
    found = frame.aligned((reference @ turn) * 7 + 3, reference)
    np.testing.assert_allclose(found((reference @ turn) * 7 + 3), reference, atol=1e-8)


@pytest.mark.parametrize("k", [3, 5])
def test_more_or_fewer_latents_take_over_the_columns_that_both_have(k: int) -> None:
    z = _latents(0, 5)
    reference = frame.first(z)(z)
    wide = np.concatenate([reference, _latents(1, 2)], axis=1)[:, : k + 2] if k == 5 else reference[:, :3]
    found = frame.aligned(wide, reference)
    shared = min(wide.shape[1], 5)
    r = [abs(np.corrcoef(found(wide)[:, i], reference[:, i])[0, 1]) for i in range(shared)]
    assert found.matrix.shape == (wide.shape[1],) * 2 and min(r) > 0.9


def test_new_columns_stand_behind_the_parents_which_stay_as_they_are() -> None:
    old, new = _latents(0, 3), _latents(1, 2)
    parent = frame.first(old)
    both = np.concatenate([old, new], axis=1)
    f = frame.extended(parent, both)(both)
    np.testing.assert_allclose(f[:, :3], parent(old))
    np.testing.assert_allclose(f[:, 3:].mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(f[:, 3:].std(axis=0) / new.std(axis=0), parent.matrix[0, 0])


def test_latents_that_do_not_vary_are_left_at_nothing() -> None:
    assert (frame.first(np.ones((5, 2)))(np.ones((5, 2))) == 0).all()


@given(st.integers(0, 100), st.integers(1, 6))
def test_feature_columns_lead_back_to_their_latents(seed: int, k: int) -> None:
    z = _latents(seed, k)
    turned = frame.aligned(z, _latents(seed + 1, k))
    np.testing.assert_allclose(turned.latents(turned(z)), z, atol=1e-8)

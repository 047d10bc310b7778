import numpy as np
import pytest

from aemodel.card.surrogate import MOST_TERMS, few_terms, ridge


def _terms(rows: int = 800, width: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width))


def test_the_terms_a_column_is_made_of_are_found_with_their_signs_largest_first() -> None:
    x = _terms()
    y = 2.0 * x[:, [4]] - 3.0 * x[:, [7]] + 0.2 * np.random.default_rng(1).normal(size=(800, 1))
    (found,) = few_terms(x * np.linspace(0.1, 9, 12) + 5, y)
    assert found.dimensions == (7, 4) and found.r2 > 0.97
    np.testing.assert_allclose(found.weights, np.array([-3, 2]) / np.sqrt(13.04), atol=0.05)


def test_what_depends_on_many_terms_or_on_none_in_a_straight_line_is_not_explained() -> None:
    x = _terms(width=40)
    many, curved = few_terms(x, np.stack([x.sum(axis=1), x[:, 0] ** 2], axis=1))
    assert len(many.dimensions) == MOST_TERMS and many.r2 < 0.3
    assert curved.r2 < 0.1


def test_r2_is_that_of_rows_the_terms_were_not_fitted_on() -> None:
    x, noise = _terms(rows=40, width=300), np.random.default_rng(1).normal(size=(40, 1))
    assert few_terms(x, noise)[0].r2 < 0.1
    assert ridge(x, noise)[1][0] < 0.1


def test_a_term_and_its_opposite_are_named_once() -> None:
    x = _terms()
    (found,) = few_terms(np.column_stack([x[:, 0], -x[:, 0], x[:, 1]]), x[:, [0]] + 0.5 * x[:, [1]])
    assert len(found.dimensions) == 2 and 2 in found.dimensions


def test_a_term_never_stands_with_a_sign_that_it_does_not_have_alone() -> None:
    x = _terms()
    a, b = x[:, 0], 0.9 * x[:, 0] + 0.3 * x[:, 1]  # b rises with y alone, and falls beside a
    (found,) = few_terms(np.column_stack([a, b]), (3 * a - b)[:, None])
    assert found.dimensions == (0,) and found.weights[0] > 0


def test_a_term_that_helps_only_beside_others_does_not_stand_in_a_name() -> None:
    """x₁ takes away the noise of x₀, and says nothing of y by itself: the ends of y do not differ in it."""
    x = _terms(rows=4_000)
    (found,) = few_terms(np.column_stack([x[:, 0] + x[:, 1], x[:, 1]]), x[:, [0]])
    assert found.dimensions == (0,)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_constant_columns_and_a_handful_of_rows_have_no_r2_and_no_warning(rows: int) -> None:
    x = _terms(rows=rows)
    x[:, 0] = 1.0
    constant, _ = few_terms(x, np.stack([np.ones(rows), x[:, 1]], axis=1))
    assert constant.dimensions == () and np.isnan(constant.r2)
    assert np.isnan(ridge(x, np.ones((rows, 1)))[1]).all()


@pytest.mark.parametrize("width", [5, 600])
def test_ridge_recovers_a_linear_column_whichever_side_is_longer(width: int) -> None:
    x = _terms(rows=1_000, width=5) @ np.random.default_rng(2).normal(size=(5, width))
    weights, r2 = ridge(x, x[:, [0, 3]] * 2 + 1)
    assert weights.shape == (width, 2) and (r2 > 0.999).all()

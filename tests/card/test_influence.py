"""Measures against networks whose answers are known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from aemodel.bundle import Bundle
from aemodel.card.influence import nested_gains, robustness, total_indices
from aemodel.layout import Layout
from aemodel.model import Batch, Residual
from aemodel.transform import Transform
from tests import tables


@pytest.fixture
def transform() -> Transform:
    rng = np.random.default_rng(0)
    return tables.transform_of(pa.table({n: rng.normal(size=3_000) for n in "abc"}), "standard")


@pytest.fixture
def batch(transform: Transform) -> Batch:
    rng = np.random.default_rng(1)
    return Batch.of(transform.apply(tables.only_batch(pa.table({n: rng.normal(size=3_000) for n in "abc"}))))


class _Product(Residual):
    """f_0 = 0.6 a + 0.8 b, f_1 = a · c, f_2 = 0."""

    def encode_linear(self, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        a, b, c = x.T
        return torch.stack([0.6 * a + 0.8 * b, a * c, 0 * a], dim=1)


def _built(layout: Layout, kind: type[Residual] = Residual) -> Residual:
    return kind(layout, 3, [8], 0.0, torch.eye(3), torch.zeros(3)).eval().requires_grad_(False)


def test_total_indices_are_those_of_a_sum_and_of_a_product(transform: Transform, batch: Batch) -> None:
    """Of a sum: the squared weights. Of a product of independent centred inputs: one for both."""
    found = total_indices(_built(transform.layout, _Product), transform.layout, batch)
    np.testing.assert_allclose(found, [[0.36, 0.64, 0], [1, 0, 1], [0, 0, 0]], atol=0.08)


def test_a_categorical_column_is_swapped_as_one_and_a_vector_too(mixed_bundle: Bundle) -> None:
    layout = mixed_bundle.transform.layout
    rows = tables.plain(tables.mixed(2_000, seed=3))
    batch = Batch.of(mixed_bundle.transform.apply_all(rows))
    found = total_indices(mixed_bundle.model, layout, batch)
    x, axes = mixed_bundle.model.linear(batch)[0], mixed_bundle.model.linear_axes
    assert axes is not None
    for name in ("carrier", "profile", "amount"):  # of a linear model: the variance of what the column adds
        at = layout.blocks[layout.columns.index(name)].dimensions
        expected = (x[:, at] @ axes[at]).var(dim=0) / mixed_bundle.model.encode_linear(x, batch).var(dim=0)
        np.testing.assert_allclose(found[:, layout.columns.index(name)], expected.detach(), rtol=0.2, atol=0.005)


def test_each_principal_axis_gains_the_column_that_it_is(transform: Transform, batch: Batch) -> None:
    gains = nested_gains(_built(transform.layout), batch)
    np.testing.assert_allclose(gains, np.eye(3), atol=1e-5)


def test_gains_do_not_depend_on_the_frame(transform: Transform, batch: Batch) -> None:
    model = _built(transform.layout)
    model.frame_center.fill_(2.0)
    model.frame_matrix.copy_(torch.diag(torch.tensor([0.1, 5.0, -2.0])))
    np.testing.assert_allclose(nested_gains(model, batch), np.eye(3), atol=1e-4)


def test_a_column_that_does_not_vary_has_no_gain(transform: Transform) -> None:
    values = torch.randn(500, 3)
    values[:, 1] = 0.5
    gains = nested_gains(_built(transform.layout), Batch(values, torch.zeros(500, 0, dtype=torch.int32)))
    assert np.isnan(gains[:, 1]).all() and np.isfinite(gains[:, [0, 2]]).all()


def test_noise_costs_a_sum_little_and_a_product_more_and_draws_no_random_number_of_others(
    transform: Transform, batch: Batch
) -> None:
    model, before = _built(transform.layout, _Product), torch.random.get_rng_state()
    found = robustness(model, transform.layout, batch)
    assert 0.8 < found[0] < 0.92, "a cell is swapped in 15 % of the cases"
    assert 0.6 < found[1] < found[0] and np.isnan(found[2])
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(robustness(model, transform.layout, batch), found)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aemodel import pca
from aemodel.errors import SchemaError
from aemodel.layout import Block, EncodedRows, Layout
from aemodel.model import Batch, Linear
from aemodel.pca import Projection, automatic_width, principal_axes
from tests import tables

TABLE = tables.plain(tables.mixed())
TRANSFORM = tables.transform_of(TABLE)
LAYOUT = TRANSFORM.layout
ROWS = TRANSFORM.apply(tables.only_batch(TABLE))
X = Linear(LAYOUT)(Batch.of(ROWS))[0].numpy().astype(np.float64)


def test_axes_are_those_of_the_covariance_by_falling_variance() -> None:
    found = principal_axes(LAYOUT, [ROWS], 5)
    variance, axes = np.linalg.eigh(np.cov(X.T, bias=True))
    np.testing.assert_allclose(found.mean, X.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.variance, np.maximum(variance[::-1], 0), atol=1e-4)
    np.testing.assert_allclose(np.abs((found.axes * axes[:, ::-1][:, :5]).sum(axis=0)), 1, atol=1e-3)
    np.testing.assert_allclose(found.axes.T @ found.axes, np.eye(5), atol=1e-9)


def test_signs_depend_on_the_axis_alone() -> None:
    found = principal_axes(LAYOUT, [ROWS], 8)
    assert ((found.axes**3).sum(axis=0) > 0).all()
    half = principal_axes(LAYOUT, [ROWS[np.arange(0, 300, 2)]], 1)
    assert float(found.axes[:, 0] @ half.axes[:, 0]) > 0.9


def test_parts_give_the_axes_of_the_whole() -> None:
    whole = principal_axes(LAYOUT, [ROWS], 3)
    parts = principal_axes(LAYOUT, [ROWS[slice(0, 100)], ROWS[slice(100, 101)], ROWS[slice(101, 300)]], 3)
    np.testing.assert_allclose(parts.axes, whole.axes, atol=1e-3)
    np.testing.assert_allclose(parts.variance, whole.variance, atol=1e-4)


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (4, 4), (10_000, LAYOUT.width - 1)])
def test_there_are_no_more_axes_than_asked_for_and_fewer_than_dimensions(asked: int, given: int) -> None:
    assert principal_axes(LAYOUT, [ROWS], asked).axes.shape == (LAYOUT.width, given)


def test_a_single_dimension_has_one_axis() -> None:
    layout = Layout((Block("x", "numeric", (0, 1)),), 1, 0, 1, np.zeros(1), np.ones(1))
    rows = EncodedRows(np.array([[1.0], [3.0]], np.float32), np.zeros((2, 0), np.int32))
    found = principal_axes(layout, [rows], 4)
    assert found.axes.tolist() == [[1.0]]
    assert found.variance.tolist() == [1.0]


def test_what_the_projection_loses_is_the_variance_of_the_other_axes() -> None:
    found = principal_axes(LAYOUT, [ROWS], 6)
    projection = Projection(LAYOUT, found)
    x = torch.tensor(X, dtype=torch.float32)
    lost = (projection.decode(projection.encode_linear(x, Batch.of(ROWS))) - x).square().sum(dim=1).mean()
    assert float(lost) == pytest.approx(found.variance[6:].sum(), rel=1e-3)


def test_rows_beyond_enough_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pca, "GRAM_ROWS", 300)
    parts = iter([ROWS, ROWS])
    principal_axes(LAYOUT, parts, 3)
    assert len(list(parts)) == 1


def test_too_many_dimensions_are_refused_with_the_remedy() -> None:
    width = pca.MAX_WIDTH + 1
    layout = Layout((Block("v", "vector", (0, width)),), width, 0, width, np.zeros(width), np.ones(width))
    with pytest.raises(SchemaError, match=r"the inputs take 8193 dimensions, more than 8192: exclude columns"):
        principal_axes(layout, [], 4)


def test_saved_axes_are_the_same_axes(tmp_path: Path) -> None:
    found = principal_axes(LAYOUT, [ROWS], 5)
    pca.save(found, tmp_path / "pca.safetensors")
    loaded = pca.load(tmp_path / "pca.safetensors")
    for name in ("mean", "axes", "variance"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(found, name))


def test_the_automatic_width_is_the_least_that_explains_enough_of_the_largest() -> None:
    variance = np.array([5.0, 4.0, 0.5, 0.25, 0.25, 100.0])
    assert automatic_width(variance, 5) == 3
    assert automatic_width(variance, 1) == 1
    assert automatic_width(np.ones(40), 40) == 38

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aemodel.config import ModelJob
from aemodel.layout import MISSING, OTHER, EncodedRows, Layout
from aemodel.model import Autoencoder, Batch, Linear, PrincipalAxes, Residual, SwapNoise, Vanilla, build, reconstruct
from aemodel.model.noise import VECTOR_NOISE
from aemodel.pca import Projection, principal_axes
from aemodel.transform import Scaling, Transform
from tests import tables

TABLE = tables.plain(tables.mixed())
TRANSFORMS: dict[str, Transform] = {s: tables.transform_of(TABLE, s) for s in ("quantile", "standard", "minmax")}  # type: ignore[arg-type]
ROWS = {name: transform.apply(tables.only_batch(TABLE)) for name, transform in TRANSFORMS.items()}
PRESETS = ("residual", "plain", "variational", "contractive", "sparse", "vanilla")


def axes_of(scaling: str, latent_dim: int = 4) -> PrincipalAxes:
    return principal_axes(TRANSFORMS[scaling].layout, [ROWS[scaling]], latent_dim)


def built(preset: str, **job: Any) -> tuple[Autoencoder, Layout, Batch]:
    torch.manual_seed(0)
    model_job = ModelJob.model_validate({"preset": preset, "latent_dim": 4, "hidden": [8], **job})
    scaling = model_job.effective_scaling
    layout = TRANSFORMS[scaling].layout
    return build(model_job, layout, axes_of(scaling)), layout, Batch.of(ROWS[scaling])


def stirred(model: Autoencoder) -> Autoencoder:
    """The model with every parameter moved, so that no layer is still zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def test_residual_starts_exactly_at_the_pca_reconstruction() -> None:
    model, layout, batch = built("residual", hidden=[16, 16])
    model.eval()
    projection = Projection(layout, axes_of("quantile"))
    for found, expected in zip(model.squared_errors(batch), projection.squared_errors(batch), strict=True):
        assert torch.equal(found, expected)
    x, _ = model.linear(batch)
    z = model.encode_linear(x, batch)
    assert torch.equal(model.decode(z), projection.decode(z))


def test_training_moves_residual_below_pca_and_leaves_the_axes() -> None:
    model, _, batch = built("residual", hidden=[32])
    assert isinstance(model, Residual)
    before, axes = float(model.loss(batch, batch).total.detach()), model.axes.clone()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(batch, batch).total.backward()
        optimizer.step()
    assert float(model.loss(batch, batch).total.detach()) < 0.9 * before
    assert torch.equal(model.axes, axes)


@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_vanilla_s_loss_is_half_the_squared_distance_plus_half_lambda_of_the_squared_weights(l2: float) -> None:
    model, _, batch = built("vanilla", l2=l2)
    assert isinstance(model, Vanilla)
    stirred(model)
    complete = ~batch.values.isnan().any(dim=1)
    batch = Batch(batch.values[complete], batch.codes[complete])
    x = model.linear(batch)[0].numpy().astype(np.float64)
    w1, b1, w2, b2 = (p.detach().numpy().astype(np.float64) for p in model.parameters())
    z = np.maximum(x @ w1.T + b1, 0)
    out = 1 / (1 + np.exp(-(z @ w2.T + b2)))
    expected = 0.5 * ((x - out) ** 2).sum(axis=1).mean() + l2 / 2 * ((w1**2).sum() + (w2**2).sum())
    assert float(model.loss(batch, batch).total.detach()) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(model.encode(batch).detach().numpy(), z, rtol=1e-4, atol=1e-5)
    assert len(x) > 100


@pytest.mark.parametrize("preset", ["residual", "plain"])
def test_the_loss_is_of_the_columns_squared_errors(preset: str) -> None:
    model, layout, batch = built(preset)
    loss = stirred(model).eval().loss(batch, batch)
    by_column, z, x = model.squared_errors(batch)
    torch.testing.assert_close(loss.by_column, by_column.mean(dim=0))
    paid = model.code(x, batch).penalty + model.unread(z, x)
    torch.testing.assert_close(loss.total, model.objective(by_column.mean(dim=0)) + paid)
    assert preset != "plain" or float(loss.total) == pytest.approx(float(by_column.mean()))
    assert by_column.shape == (len(batch.values), len(layout.blocks))
    assert torch.equal(z, model.encode(batch))
    assert x.shape[1] == layout.width


@pytest.mark.parametrize("preset", PRESETS)
def test_a_missing_value_adds_nothing_to_the_loss_and_gets_no_gradient(preset: str) -> None:
    model, layout, batch = built(preset)
    stirred(model).eval()
    block = next(b for b in layout.blocks if b.column == "profile")
    dimension = block.values[0]
    values = batch.values.clone()
    values[:, dimension] = float("nan")
    holed = Batch(values, batch.codes)
    decode = model.decode
    shift = torch.zeros(layout.width, requires_grad=True)
    model.decode = lambda z: decode(z) + shift  # type: ignore[method-assign]
    torch.manual_seed(0)
    loss = model.loss(holed, holed)
    loss.total.backward()
    assert shift.grad is not None
    assert shift.grad[dimension] == 0
    assert (shift.grad[[i for i in range(layout.width) if i != dimension]] != 0).all()
    with torch.no_grad():
        shift[dimension] = 100.0
    torch.manual_seed(0)
    torch.testing.assert_close(model.loss(holed, holed).total, loss.total)
    assert model.loss(batch, batch).total > loss.total + 1
    assert torch.equal(model.squared_errors(holed)[0].isfinite().all(), torch.tensor(True))


def test_that_a_value_is_missing_is_itself_reconstructed() -> None:
    model, layout, batch = built("residual")
    flag = next(b.flag for b in layout.blocks if b.column == "amount")
    x, _ = model.linear(batch)
    assert len(x[:, flag].unique()) == 2
    assert int(model.column_of[flag]) == layout.columns.index("amount")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_row_of_nulls_and_rows_at_the_edges_have_finite_latents_and_errors(preset: str) -> None:
    model, layout, _ = built(preset)
    stirred(model).eval()
    values = torch.tensor([float("nan"), 10.0, -10.0])[:, None].expand(3, layout.num_values).clone()
    codes = torch.full((3, layout.num_codes), MISSING, dtype=torch.int32)
    by_column, z, x = model.squared_errors(Batch(values, codes))
    assert z.isfinite().all() and by_column.isfinite().all() and x.isfinite().all()
    assert model.loss(Batch(values, codes), Batch(values, codes)).total.isfinite()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_row_s_latents_do_not_depend_on_the_rows_beside_it(preset: str) -> None:
    model, _, batch = built(preset)
    stirred(model).eval()
    alone = torch.cat([model.encode(Batch(batch.values[i : i + 1], batch.codes[i : i + 1])) for i in range(5)])
    torch.testing.assert_close(alone, model.encode(batch)[:5])


def test_the_linear_space_holds_values_flags_and_one_level_a_categorical() -> None:
    layout = TRANSFORMS["quantile"].layout
    batch = Batch.of(ROWS["quantile"])
    x, observed = Linear(layout)(batch)
    raw = x.numpy() / layout.scale + layout.center
    for block in layout.categorical:
        one_hot = raw[:, slice(*block.levels)]
        np.testing.assert_allclose(one_hot.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(one_hot.argmax(axis=1), batch.codes[:, block.code])
    for block in layout.flags:
        np.testing.assert_allclose(raw[:, block.flag], ~observed[:, block.values[0]], atol=1e-5)
    assert (x[:, : layout.num_values][~observed] == 0).all()


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(("offset", "factor"), [(0.0, 1.0), (0.5, 1.0), (0.0, 2.0)])
def test_values_that_lie_as_the_linear_space_does_are_taken_as_they_are(
    offset: float, factor: float, complete: bool
) -> None:
    layout = Layout((), 2, 0, 2, np.array([0.0, offset]), np.array([1.0, factor]))
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0 if complete else torch.nan]])
    x, _ = Linear(layout)(Batch(values, torch.zeros(2, 0, dtype=torch.int32), complete))
    expected = (values - torch.tensor([0.0, offset])) * torch.tensor([1.0, factor])
    assert torch.equal(x, expected.nan_to_num())
    identity = complete and (offset, factor) == (0.0, 1.0)
    assert (x.data_ptr() == values.data_ptr()) is identity
    assert bool(values.isnan().any()) is not complete, "the batch is as it was"


def test_a_level_without_a_dimension_counts_as_other_in_the_linear_space() -> None:
    layout = TRANSFORMS["quantile"].layout
    block = layout.categorical[0]
    batch = Batch.of(ROWS["quantile"][np.arange(2)])
    beyond, other = batch.codes.clone(), batch.codes.clone()
    beyond[:, block.code], other[:, block.code] = block.levels[1] - block.levels[0] + 3, OTHER
    linear = Linear(layout)
    assert torch.equal(linear(Batch(batch.values, beyond))[0], linear(Batch(batch.values, other))[0])


def test_a_model_is_as_wide_as_the_axes_that_there_are() -> None:
    table = pa.table({"x": [1.0, 2.0, 4.0], "y": [3.0, 1.0, 2.0]})
    transform = tables.transform_of(table)
    pca = principal_axes(transform.layout, [transform.apply(tables.only_batch(table))], 16)
    for preset in ("residual", "plain"):
        assert build(ModelJob.model_validate({"preset": preset}), transform.layout, pca).latent_dim == 1


def test_plain_latents_are_linear_and_its_decoder_mirrors_its_encoder() -> None:
    model, layout, batch = built("plain", hidden=[16, 8])
    shapes = [tuple(p.shape) for p in model.parameters() if p.ndim == 2]
    assert shapes == [(16, layout.width), (8, 16), (4, 8), (8, 4), (16, 8), (layout.width, 16)]
    assert (model.encode(batch) < 0).any()


@pytest.mark.parametrize("preset", ["residual", "plain"])
def test_dropout_acts_in_training_and_not_in_evaluation(preset: str) -> None:
    model, _, batch = built(preset, dropout=0.5)
    stirred(model)
    assert not torch.equal(model.train().encode(batch), model.encode(batch))
    assert torch.equal(model.eval().encode(batch), model.encode(batch))


def numbered(layout: Layout, rows: int) -> Batch:
    """Every cell tells its row and its place: row + place / 1000."""
    row = torch.arange(rows, dtype=torch.float32)
    values = row[:, None] + torch.arange(layout.num_values) / 1000
    return Batch(values, row[:, None].int().expand(rows, layout.num_codes).clone())


@pytest.mark.parametrize("noise", [0.05, 0.2, 0.4])
def test_swap_noise_replaces_its_share_of_cells(noise: float) -> None:
    torch.manual_seed(0)
    layout = TRANSFORMS["quantile"].layout
    batch = numbered(layout, 4000)
    noisy = SwapNoise(layout, noise)(batch)
    values = (noisy.values != batch.values).double().mean(dim=0)
    codes = (noisy.codes != batch.codes).double().mean(dim=0)
    expected = torch.full_like(values, noise)
    (vector,) = [b for b in layout.blocks if b.kind == "vector"]
    expected[slice(*vector.values)] = min(0.5, VECTOR_NOISE * noise)
    assert (values - expected).abs().max() < 0.04 and codes.sub(noise).abs().max() < 0.04
    by_row = (noisy.values != batch.values).double().mean(dim=1)
    assert by_row.std() > noise / 3  # the level is drawn by row


def test_swapped_cells_come_whole_from_the_same_column_of_another_row() -> None:
    torch.manual_seed(0)
    layout = TRANSFORMS["quantile"].layout
    batch = numbered(layout, 500)
    noisy = SwapNoise(layout, 0.4)(batch)
    donor = (noisy.values - torch.arange(layout.num_values) / 1000).round()
    torch.testing.assert_close(noisy.values, donor + torch.arange(layout.num_values) / 1000)
    for block in layout.blocks:
        donors = donor[:, slice(*block.values)]
        together = (donors == donors[:, :1]).all() if donors.numel() else torch.tensor(True)
        assert bool(together) == (block.kind != "vector"), block.column
    assert noisy.codes.min() >= 0 and noisy.codes.max() < 500
    swapped = donor != torch.arange(500)[:, None]
    row = int(swapped.sum(dim=1).argmax())
    assert len(donor[row][swapped[row]].unique()) > 3  # each cell has a donor of its own


def test_swap_noise_carries_missing_cells_too() -> None:
    torch.manual_seed(0)
    layout = TRANSFORMS["quantile"].layout
    batch = numbered(layout, 400)
    batch.values[:200, 0] = float("nan")
    noisy = SwapNoise(layout, 0.4)(batch)
    assert noisy.values[200:, 0].isnan().any()
    assert not noisy.values[:200, 0].isnan().all()


def test_no_noise_changes_nothing_and_noise_leaves_its_input() -> None:
    layout = TRANSFORMS["quantile"].layout
    batch = numbered(layout, 50)
    before = batch.values.clone()
    none = SwapNoise(layout, 0.0)(batch)
    assert torch.equal(none.values, before) and torch.equal(none.codes, batch.codes)
    SwapNoise(layout, 0.4)(batch)
    assert torch.equal(batch.values, before)


def test_noise_in_gives_the_clean_rows_out() -> None:
    model, layout, batch = built("residual")
    stirred(model).eval()
    noisy = SwapNoise(layout, 0.4)(batch)
    x, _ = model.linear(batch)
    out = model.decode(model.encode_linear(model.linear(noisy)[0], noisy))
    squared = (out - x).square()
    squared[:, : layout.num_values] *= ~batch.values.isnan()
    expected = torch.zeros(model.num_columns).index_add_(0, model.column_of, squared.mean(dim=0)).mean()
    torch.testing.assert_close(model.loss(batch, noisy).by_column.mean(), expected)


@settings(max_examples=10)
@given(st.integers(1, 300))
def test_what_is_measured_does_not_depend_on_how_the_rows_are_cut(size: int) -> None:
    model, _, batch = built("residual")
    stirred(model).eval()
    rows = len(batch.values)
    cut = [Batch(batch.values[i : i + size], batch.codes[i : i + size]) for i in range(0, rows, size)]
    whole, parts = reconstruct(model, [batch]), reconstruct(model, cut)
    np.testing.assert_allclose(parts.errors, whole.errors, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(parts.features, whole.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(parts.variation, whole.variation, rtol=1e-6)


def test_r2_is_one_minus_error_over_variation_by_column() -> None:
    layout = TRANSFORMS["quantile"].layout
    projection = Projection(layout, axes_of("quantile", layout.width))
    batch = Batch.of(ROWS["quantile"])
    found = reconstruct(projection, [batch])
    x, observed = projection.linear(batch)
    known = np.concatenate([observed.numpy(), np.ones((len(x), layout.width - layout.num_values), bool)], axis=1)
    masked = np.where(known, x.numpy().astype(np.float64), np.nan)
    variation = np.bincount(layout.column_of_dimension(), np.nanvar(masked, axis=0) * known.sum(axis=0))
    np.testing.assert_allclose(found.variation, variation, rtol=1e-4)
    np.testing.assert_allclose(found.r2, 1 - found.errors.sum(axis=0) / variation, rtol=1e-3, atol=1e-3)


def test_r2_is_unknown_where_the_rows_do_not_vary() -> None:
    rows = EncodedRows(np.repeat(ROWS["quantile"].values[:1], 10, 0), np.repeat(ROWS["quantile"].codes[:1], 10, 0))
    projection = Projection(TRANSFORMS["quantile"].layout, axes_of("quantile"))
    assert np.isnan(reconstruct(projection, [Batch.of(rows)]).r2).all()


@pytest.mark.parametrize("scaling", ["quantile", "standard", "minmax"])
def test_any_scaling_can_be_learned_by_the_linear_presets(scaling: Scaling) -> None:
    job = ModelJob.model_validate({"preset": "plain", "scaling": scaling, "latent_dim": 4, "hidden": [8]})
    model = build(job, TRANSFORMS[scaling].layout, axes_of(scaling))
    assert model.loss(Batch.of(ROWS[scaling]), Batch.of(ROWS[scaling])).total.isfinite()

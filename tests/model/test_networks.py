from __future__ import annotations

import numpy as np
import pytest
import torch

from aemodel.model import Autoencoder, Batch, Contractive, Residual, Sparse, Variational
from aemodel.model.networks import DEAD_AFTER, DEPARTURE, EASY, READABLE, VECTOR_DEPARTURE, VECTOR_READABLE
from tests.model.test_autoencoder import PRESETS, built, stirred


def _descend(model: Autoencoder, batch: Batch, steps: int = 150, **how: object) -> list[float]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model.loss(batch, batch, **how)  # type: ignore[arg-type]
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.by_column.mean()))
    return losses


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_learns_to_reconstruct(preset: str) -> None:
    model, _, batch = built(preset)
    losses = _descend(model.train(), batch)
    assert losses[-1] < 0.9 * losses[0] and np.isfinite(losses).all()


def test_residual_pays_for_what_g_adds_in_units_of_the_straight_part() -> None:
    model, layout, batch = built("residual")
    assert isinstance(model, Residual)
    x = model.linear(batch)[0]
    assert float(model.code(x, batch).penalty.detach()) == 0, "g starts at nothing"
    with torch.no_grad():
        straight = (x - model.mean) @ model.axes
        model.g[-1].bias.copy_(straight.std(dim=0, correction=0))  # g adds one standard deviation everywhere
    assert float(model.code(x, batch).penalty.detach()) == pytest.approx(model.departure, rel=1e-4)
    vectors = 1 / len(layout.blocks)
    assert model.departure == pytest.approx(DEPARTURE * (1 - vectors) + VECTOR_DEPARTURE * vectors)


def test_residual_pays_little_for_small_departures_of_all_and_much_for_a_large_one_of_any() -> None:
    model, _, batch = built("residual")
    assert isinstance(model, Residual)
    x = model.linear(batch)[0]
    std = ((x - model.mean) @ model.axes).std(dim=0, correction=0)
    with torch.no_grad():
        model.g[-1].bias.copy_(std * (1 / model.latent_dim) ** 0.5)
        spread = float(model.code(x, batch).penalty)
        model.g[-1].bias.zero_()
        model.g[-1].bias[0] = std[0]
        concentrated = float(model.code(x, batch).penalty)
    assert concentrated == pytest.approx(model.latent_dim * spread, rel=1e-3)


def test_residual_learns_most_from_the_columns_that_it_restores_worst() -> None:
    model, _, __ = built("residual")
    by_column = torch.tensor([0.6, 0.2, 0.0], requires_grad=True)
    model.objective(by_column).backward()
    assert by_column.grad is not None
    torch.testing.assert_close(by_column.grad, torch.tensor([0.6, 0.2, EASY]) / (0.8 + EASY))


def test_variational_latents_are_drawn_in_training_and_are_their_means_afterwards() -> None:
    model, _, batch = built("variational")
    assert isinstance(model, Variational)
    x = model.linear(batch)[0]
    draws = torch.stack([model.code(x, batch).z for _ in range(400)])
    mean = model.encode_linear(x, batch)
    assert torch.equal(mean, model.encode_linear(x, batch))
    assert (draws.std(dim=0) > 0.05).all() and float((draws.mean(dim=0) - mean).abs().max()) < 0.06
    with torch.no_grad():
        model.encoder[-1].weight.zero_()
        model.log_variance.bias.zero_()
    model.encoder[-1].bias.data.zero_()
    assert float(model.code(x, batch).penalty.detach()) == pytest.approx(0, abs=1e-6), "a standard normal costs nothing"


def test_contraction_measures_the_slope_of_the_latents() -> None:
    model, _, batch = built("contractive", hidden=[])
    assert isinstance(model, Contractive)
    x = model.linear(batch)[0]
    penalty = float(np.mean([float(model.code(x, batch).penalty.detach()) for _ in range(300)]))
    exact = float(model.encoder[0].weight.detach().square().sum()) * 0.01 / model.latent_dim
    assert penalty == pytest.approx(exact, rel=0.05)
    model.code(x, batch).penalty.backward()
    assert model.encoder[0].weight.grad is not None and model.encoder[0].weight.grad.abs().sum() > 0


def test_sparse_rows_keep_their_strongest_latents_only() -> None:
    model, _, batch = built("sparse")
    assert isinstance(model, Sparse) and model.latent_dim == 4 and model.active == 1
    model.active = 3
    z = stirred(model).encode_linear(model.linear(batch)[0], batch)
    assert ((z > 0).sum(dim=1) <= 3).all() and (z >= 0).all() and (z > 0).any()


def test_a_dead_latent_is_brought_back_by_what_the_living_leave_over() -> None:
    model, _, batch = built("sparse", latent_dim=8)
    assert isinstance(model, Sparse)
    with torch.no_grad():
        model.encoder[-1].bias[0] = -50.0
    x = model.linear(batch)[0]
    for _ in range(DEAD_AFTER):
        assert float(model.code(x, batch).penalty) == 0
    model.code(x, batch)
    penalty = model.code(x, batch).penalty
    assert float(penalty) > 0
    penalty.backward()
    weight = model.decoder.weight.grad
    assert weight is not None and weight[:, 0].abs().sum() > 0, "only a latent's direction can bring it back"


@pytest.mark.parametrize("preset", ["residual", "plain", "variational", "contractive", "sparse"])
def test_hidden_layers_stand_side_by_side(preset: str) -> None:
    model, _, batch = built(preset, hidden=[8, 6])
    hidden = stirred(model).eval().hidden_layers(batch)
    assert hidden.shape == (len(batch.values), 14) and hidden.isfinite().all()
    assert float(hidden.std(dim=0).min()) >= 0 and float(hidden.std()) > 0


def test_the_founding_network_has_no_other_hidden_layer() -> None:
    model, _, batch = built("vanilla")
    assert model.hidden_layers(batch).shape == (len(batch.values), 0)


def test_nested_training_makes_prefixes_reconstruct() -> None:
    errors = {}
    for nested in (False, True):
        model, _, batch = built("plain", hidden=[16])
        _descend(model.train(), batch, 300, nested=nested)
        with torch.no_grad():
            x = model.linear(batch)[0]
            z = model.encode_linear(x, batch)
            z[:, 1:] = 0
            errors[nested] = float((model.decode(z) - x).square().mean())
    assert errors[True] < 0.9 * errors[False]


def test_the_worst_rows_are_left_out_when_told_so() -> None:
    model, _, batch = built("plain")
    model = stirred(model).eval()
    by_column, _, _ = model.squared_errors(batch)
    by_row = by_column.sum(dim=1)
    kept = by_row <= by_row.kthvalue(len(by_row) - int(0.1 * len(by_row))).values
    loss = model.loss(batch, batch, trim=0.1)
    torch.testing.assert_close(loss.by_column, by_column[kept].mean(dim=0))
    assert float(loss.total) < float(model.loss(batch, batch).total)


def test_residual_pays_for_products_of_its_axes_that_no_straight_line_reads_from_the_latents() -> None:
    model, layout, batch = built("residual")
    assert isinstance(model, Residual)
    x = model.linear(batch)[0]
    scores = (x - model.mean) @ model.axes
    scores = (scores / scores.std(dim=0, correction=0)).clamp(-3, 3)
    k = model.latent_dim
    assert model.readout.out_features == k * (k + 1) // 2
    products = torch.stack([scores[:, i] * scores[:, j] for i in range(k) for j in range(i + 1)], dim=1)
    with torch.no_grad():
        model.readout.bias.copy_(products.mean(dim=0))
    constant = float(model.unread(scores, x).detach())
    assert constant == pytest.approx(model.readable, rel=1e-3), "a constant explains nothing"
    design = torch.cat([scores, torch.ones(len(scores), 1)], dim=1)
    best = torch.linalg.lstsq(design, products).solution
    with torch.no_grad():
        model.readout.weight.copy_(best[:-1].T)
        model.readout.bias.copy_(best[-1])
    share = ((design @ best - products).square().mean(dim=0) / products.var(dim=0, correction=0)).mean()
    paid = float(model.unread(scores, x).detach())
    assert paid == pytest.approx(model.readable * float(share), rel=1e-3)
    assert paid < constant
    vectors = 1 / len(layout.blocks)
    assert model.readable == pytest.approx(READABLE * (1 - vectors) + VECTOR_READABLE * vectors)

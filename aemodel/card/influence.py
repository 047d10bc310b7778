"""How feature columns and inputs depend on one another, by running the network."""

from __future__ import annotations

import numpy as np
import torch

from aemodel.layout import Block, Layout
from aemodel.model import Autoencoder, Batch, SwapNoise, reconstruct

#: What one of these measures may cost: passes × rows × (dimensions of the linear space + those of hidden layers).
COST = 100_000_000
HIDDEN = 2_000
LEAST_ROWS = 250
NOISE = 0.15


@torch.inference_mode()
def total_indices(model: Autoencoder, layout: Layout, batch: Batch) -> np.ndarray:
    """(k, columns): E[(f(x) − f(x with a column of another row))²] / (2 Var f); 0 where f does not vary.

    The total effect index by Jansen's estimator ("Analysis of variance designs for model output", 1999).
    """
    batch = batch[: affordable_rows(len(layout.blocks), layout.width)]
    features = model.encode(batch)
    rng = np.random.default_rng(0)
    # In one array: small ones, made one by one among the large ones of each pass, keep the heap from using what those
    # leave for the next, and it grew by gigabytes where there are thousands of columns.
    squares = torch.empty(features.shape[1], len(layout.blocks), dtype=torch.float64)
    for place, block in enumerate(layout.blocks):
        shift = int(rng.integers(1, max(2, len(features))))
        moved = features - model.encode(_with_column_of(batch, _shifted(batch, shift), block))
        squares[:, place] = moved.double().square().mean(dim=0)
    variance = features.double().var(dim=0, correction=0)[:, None]
    return torch.where(variance > 1e-12, squares / (2 * variance.clamp(min=1e-12)), 0.0).numpy()


def _shifted(batch: Batch, shift: int) -> Batch:
    """Every row in the place of the one `shift` before it; a random pairing, as the rows are in random order."""
    return Batch(batch.values.roll(shift, dims=0), batch.codes.roll(shift, dims=0))


def _with_column_of(batch: Batch, other: Batch, block: Block) -> Batch:
    """`batch` with one source column of `other`."""
    if block.code is not None:
        codes = batch.codes.clone()
        codes[:, block.code] = other.codes[:, block.code]
        return Batch(batch.values, codes)
    values, at = batch.values.clone(), slice(*block.values)
    values[:, at] = other.values[:, at]
    return Batch(values, batch.codes)


@torch.inference_mode()
def nested_gains(model: Autoencoder, batch: Batch) -> np.ndarray:
    """(k, columns): R² decoded from feature columns 0 … j less that from 0 … j−1, those behind them at their mean.

    NaN for a source column that does not vary.
    """
    batch = batch[: affordable_rows(model.latent_dim + 1, len(model.column_of))]
    measured, (x, observed) = reconstruct(model, [batch]), model.linear(batch)
    mean, errors = measured.features.mean(axis=0, dtype=np.float64), []
    for known in range(model.latent_dim + 1):
        features = np.where(np.arange(model.latent_dim) < known, measured.features, mean)
        z = torch.from_numpy(model.frame.latents(features)).float()
        errors.append(model.decoded_errors(z, x, observed).sum(dim=0, dtype=torch.float64).numpy())
    varies = np.isfinite(measured.r2)
    return -np.diff(np.stack(errors), axis=0) / np.where(varies, measured.variation, np.nan)


@torch.inference_mode()
def robustness(model: Autoencoder, layout: Layout, batch: Batch) -> np.ndarray:
    """(k,): correlation of the feature columns with those of the same rows under swap noise; NaN where constant."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        noisy = SwapNoise(layout, NOISE)(batch)
    clean, disturbed = (model.encode(b).double() for b in (batch, noisy))
    clean, disturbed = clean - clean.mean(dim=0), disturbed - disturbed.mean(dim=0)
    together = (clean * disturbed).mean(dim=0)
    size = (clean.square().mean(dim=0) * disturbed.square().mean(dim=0)).sqrt()
    return torch.where(size > 1e-12, together / size, torch.nan).numpy()


def affordable_rows(passes: int, width: int) -> int:
    """As many as so many passes through a network of this width take some seconds with; where it takes thousands, as
    many as say something."""
    return max(LEAST_ROWS, COST // (max(1, passes) * (width + HIDDEN)))

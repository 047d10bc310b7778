"""What all networks share: latents, reconstruction, loss, feature columns; and how a network is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from aemodel.frame import Frame
from aemodel.layout import Layout
from aemodel.model.batch import Batch, Linear
from aemodel.model.squared_error import difference, mean_squared_error, squared_error


@dataclass(frozen=True)
class Loss:
    """`total` is what is descended; `by_column` (columns,) is each source column's share of unexplained variance."""

    total: Tensor
    by_column: Tensor


@dataclass(frozen=True)
class Code:
    """Latents (rows, latent_dim) of a training batch, and what the network pays for them."""

    z: Tensor
    penalty: Tensor | float = 0.0


@dataclass(frozen=True)
class Reconstruction:
    """`errors` (rows, columns): squared, by source column. `features` (rows, k). `variation` (columns,): the sum of
    squared deviations of the same rows from their own mean, so R² = 1 − errors.sum(0) / variation."""

    errors: np.ndarray
    features: np.ndarray
    variation: np.ndarray

    @property
    def r2(self) -> np.ndarray:
        """By source column; NaN where these rows do not vary."""
        varies = self.variation > 1e-6 * len(self.errors)
        ratio = self.errors.sum(axis=0, dtype=np.float64) / np.where(varies, self.variation, 1.0)
        return np.where(varies, 1 - ratio, np.nan)


class Autoencoder(nn.Module, ABC):
    """What the presets share. Subclasses give `encode_linear` and `decode`.

    `frame_center` (k,) and `frame_matrix` (k, k) turn latents into feature columns, see `aemodel.frame`.
    """

    column_of: Tensor
    frame_center: Tensor
    frame_matrix: Tensor

    def __init__(self, layout: Layout, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.num_columns = len(layout.blocks)
        self.linear = Linear(layout)
        self.register_buffer("column_of", torch.tensor(layout.column_of_dimension()), persistent=False)
        self.register_buffer("frame_center", torch.zeros(latent_dim))
        self.register_buffer("frame_matrix", torch.eye(latent_dim))

    @abstractmethod
    def encode_linear(self, x: Tensor, batch: Batch) -> Tensor:
        """Latents (rows, latent_dim) of a batch, given also as `x` (rows, width) in the linear space."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Latents (rows, latent_dim) to a reconstruction in the linear space (rows, width)."""

    @property
    def device(self) -> torch.device:
        """Where batches must lie."""
        return self.column_of.device

    @property
    def linear_axes(self) -> Tensor | None:
        """(width, latent_dim): what a latent adds up from x in a straight line; None where it has no such part."""
        return None

    def encode(self, batch: Batch) -> Tensor:
        """Feature columns, float32 (rows, latent_dim)."""
        return self.features(self.encode_linear(self.linear(batch)[0], batch))

    def features(self, z: Tensor) -> Tensor:
        """Latents (rows, latent_dim) as feature columns, float32, in the frame of this version."""
        return (z.float() - self.frame_center) @ self.frame_matrix

    @property
    def frame(self) -> Frame:
        return Frame(self.frame_center.double().cpu().numpy(), self.frame_matrix.double().cpu().numpy())

    @frame.setter
    def frame(self, frame: Frame) -> None:
        self.frame_center.copy_(torch.from_numpy(frame.center))
        self.frame_matrix.copy_(torch.from_numpy(frame.matrix))

    def code(self, x: Tensor, batch: Batch) -> Code:
        """As `encode_linear`, in training: some networks draw their latents at random, or pay for them."""
        return Code(self.encode_linear(x, batch))

    def unread(self, z: Tensor, x: Tensor) -> Tensor | float:
        """What is paid for latents z (rows, latent_dim) of clean rows x (rows, width); by most networks nothing."""
        return 0.0

    def hidden_layers(self, batch: Batch) -> Tensor:
        """What the encoder's hidden layers give (rows, sum of their sizes); none where there are no such layers."""
        return batch.values.new_empty(len(batch.values), 0)

    def loss(self, clean: Batch, noisy: Batch, nested: bool = False, trim: float = 0.0) -> Loss:
        """`noisy` goes in, `clean` is to come out; the same batch twice is plain reconstruction.

        `nested`: half the rows are decoded from a prefix of their latents, of a length drawn at random, so that the
        first ones learn to carry most (Rippel et al., "Learning ordered representations with nested dropout", 2014).
        `trim`: the share of rows, those of the largest error, that are not learned from.
        """
        x, observed = self.linear(clean)
        seen = x if noisy is clean else self.linear(noisy)[0]
        code = self.code(seen, noisy)
        z = _shortened(code.z) if nested else code.z
        decoded = self.decode(z)
        if trim:
            by_column = self.by_column(_trimmed(squared_error(decoded, x, observed), trim).mean(dim=0))
        else:
            by_column = self.by_column(mean_squared_error(decoded, x, observed))
        return Loss(self.objective(by_column) + (code.penalty + self.unread(code.z, x)), by_column.detach())

    def objective(self, by_column: Tensor) -> Tensor:
        """The mean over source columns, so that a column counts once however many dimensions it takes."""
        return by_column.mean()

    def by_column(self, errors: Tensor) -> Tensor:
        """Errors (width,) summed by source column."""
        if self.num_columns == len(errors):  # each is a number
            return errors
        return errors.new_zeros(self.num_columns).index_add_(0, self.column_of, errors)

    def squared_errors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Squared error by source column (rows, columns), latents (rows, latent_dim), x (rows, width)."""
        x, observed = self.linear(batch)
        z = self.encode_linear(x, batch)
        return self.decoded_errors(z, x, observed), z, x

    def decoded_errors(self, z: Tensor, x: Tensor, observed: Tensor | None) -> Tensor:
        """Squared error by source column (rows, columns) of what latents z are decoded to, where x is observed."""
        squared = difference(self.decode(z), x, observed).square_()
        if self.num_columns == squared.shape[1]:  # each is a number
            return squared
        return squared.new_zeros(len(x), self.num_columns).index_add_(1, self.column_of, squared)

    def column_moments(self, x: Tensor, observed: Tensor) -> Tensor:
        """float64 (3, width): count, sum and sum of squares of the observed cells in each dimension of x."""
        known = torch.ones_like(x, dtype=torch.float64)
        known[:, : observed.shape[1]] = observed
        wide = x.double() * known
        return torch.stack([known.sum(dim=0), wide.sum(dim=0), wide.square().sum(dim=0)])


@torch.inference_mode()
def reconstruct(model: Autoencoder, batches: Iterable[Batch]) -> Reconstruction:
    """Run batches through a model in evaluation mode and keep what is measured of them."""
    errors, features, moments = [], [], []
    for batch in batches:
        by_column, z, x = model.squared_errors(batch)
        errors.append(by_column.cpu().numpy())
        features.append(model.features(z).cpu().numpy())
        moments.append(model.column_moments(x, ~batch.values.isnan()))
    count, total, squares = (torch.stack(m).sum(dim=0) for m in zip(*moments, strict=True))
    about_mean = squares - total.square() / count.clamp(min=1)
    by_column = torch.zeros(model.num_columns, dtype=torch.float64, device=about_mean.device)
    variance = by_column.index_add_(0, model.column_of, about_mean.clamp(min=0))
    return Reconstruction(np.concatenate(errors), np.concatenate(features), variance.cpu().numpy())


def _shortened(z: Tensor) -> Tensor:
    """z (rows, k) with all behind a random prefix set to zero, in about half the rows."""
    rows, k = z.shape
    length = torch.randint(1, k + 1, (rows, 1), device=z.device)
    whole = torch.rand(rows, 1, device=z.device) < 0.5
    return z * (whole | (torch.arange(k, device=z.device) < length))


def _trimmed(squared: Tensor, share: float) -> Tensor:
    """Squared errors (rows, width) without those rows, `share` of them, whose error is largest."""
    rows = len(squared)
    kept = rows - int(share * rows)
    by_row = squared.detach().sum(dim=1)
    chosen = by_row <= by_row.kthvalue(max(1, kept)).values
    return squared * (chosen * (rows / chosen.sum()))[:, None]

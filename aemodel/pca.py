"""The linear part: principal axes of the encoded training rows, from their Gram matrix; also what to be better than."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from aemodel.errors import SchemaError
from aemodel.layout import EncodedRows, Layout
from aemodel.model import Autoencoder, Batch, Linear, PrincipalAxes

#: Rows from which the Gram matrix is taken; more change the axes by less than training does.
GRAM_ROWS = 1_000_000
#: Rows of which products are added up at once, and dimensions of them.
BLOCK_ROWS, BLOCK_CELLS = 16_384, 16_777_216
#: The Gram matrix takes 8·width² bytes and its axes some times width³ operations.
MAX_WIDTH = 8_192
#: What `latent_dim: auto` keeps of the variance that the largest allowed width explains.
AUTO_SHARE = 0.95


class Projection(Autoencoder):
    """PCA as a model: what every other model is measured against, in the same code."""

    axes: Tensor
    mean: Tensor

    def __init__(self, layout: Layout, pca: PrincipalAxes) -> None:
        super().__init__(layout, pca.axes.shape[1])
        self.register_buffer("axes", torch.tensor(pca.axes, dtype=torch.float32))
        self.register_buffer("mean", torch.tensor(pca.mean, dtype=torch.float32))
        self.eval()

    def encode_linear(self, x: Tensor, batch: Batch) -> Tensor:
        return (x - self.mean) @ self.axes

    def decode(self, z: Tensor) -> Tensor:
        return self.mean + z @ self.axes.T


@torch.inference_mode()
def principal_axes(layout: Layout, rows: Iterable[EncodedRows], latent_dim: int) -> PrincipalAxes:
    """Axes by falling variance, at most `latent_dim` and fewer than the width, signs fixed by Σw³ > 0.

    A sign that depends on the axis alone makes `ae_03` of two retrains point the same way.
    """
    if layout.width > MAX_WIDTH:
        raise SchemaError(
            f"the inputs take {layout.width} dimensions, more than {MAX_WIDTH}: exclude columns, or name fewer vectors"
        )
    linear = Linear(layout)
    count, total = 0, torch.zeros(layout.width, dtype=torch.float64)
    gram = torch.zeros(layout.width, layout.width, dtype=torch.float64)
    block = min(BLOCK_ROWS, max(1, BLOCK_CELLS // layout.width))
    for part in rows:
        for start in range(0, len(part), block):
            x, _ = linear(Batch.of(part[start : start + block]))
            total += x.sum(dim=0, dtype=torch.float64)
            gram += x.T @ x  # float32 products of bounded values, summed over blocks in float64
        count += len(part)
        if count >= GRAM_ROWS:
            break
    mean = total / max(1, count)
    variance, axes = torch.linalg.eigh(gram / max(1, count) - torch.outer(mean, mean))
    kept = max(1, min(latent_dim, layout.width - 1))
    axes = axes.flip(1)[:, :kept]
    signs = torch.sign((axes**3).sum(dim=0))
    axes = axes * torch.where(signs == 0, 1.0, signs)
    return PrincipalAxes(mean.numpy(), axes.numpy(), variance.flip(0).clamp(min=0).numpy())


def automatic_width(variance: np.ndarray, most: int) -> int:
    """The fewest axes that explain AUTO_SHARE of what `most` of them explain; `variance` (axes,) falls."""
    explained = np.cumsum(variance[:most])
    return int(np.searchsorted(explained, AUTO_SHARE * explained[-1])) + 1


def save(pca: PrincipalAxes, path: Path) -> None:
    save_file({k: np.ascontiguousarray(v) for k, v in vars(pca).items()}, path)


def load(path: Path) -> PrincipalAxes:
    return PrincipalAxes(**load_file(path))

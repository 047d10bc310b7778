"""The networks, one a preset.

- `residual`: z = Wᵀ(x−μ) + g(x), x̂ = μ + Wz + h(z). W holds the principal axes and stays; the last layers of g
  and h start at zero, so training starts exactly at PCA and can only add to it.
- `plain`: an encoder and a decoder of relu layers around a linear latent.
- `variational`, `contractive`: `plain` with a latent that is drawn at random, or that may not change fast.
- `sparse`: relu latents of which only the strongest of a row are kept, and a linear decoder.
- `vanilla`: the founding text's: z = relu(W₁x + b₁), x̂ = sigmoid(W₂z + b₂), mean of ½‖x−x̂‖² + λ/2‖W‖².
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aemodel.config import ModelJob
from aemodel.dense import Dense, ReluLayers
from aemodel.layout import Layout
from aemodel.model.autoencoder import Autoencoder, Code
from aemodel.model.batch import Batch
from aemodel.model.squared_error import mean_squared_error

#: Residual: what g may not do for nothing is move a latent far from its linear part. Dearer, a linear probe loses less
#: against PCA on tables where it loses (flights, diamonds) and gains less where it gains (adult, MNIST), and columns
#: move less between retrains; this is between. It is the square of each latent's departure that is paid for: a little
#: is nearly free for all of them, much is dear for any (adult's probe lost .0003 by that, flights' won .005). The
#: elements of a vector have no meaning of their own to stay near: columns count as much of this as they are no vectors.
DEPARTURE, VECTOR_DEPARTURE = 0.8, 0.02
#: Residual: the weight of what a straight line cannot read from the latents (see `Residual.unread`), and the leading
#: axes whose products it is to read. A decoder of layers leaves g free to hide what bends; who uses the columns in a
#: linear model cannot find it there. Adult's probe won .001 by it, magic's .014, credit default's .002, letters lost
#: .005 of .015. kNN on MNIST loses .002 at the weight of tables.
READABLE, VECTOR_READABLE = 0.5, 0.1
READABLE_AXES = 16
#: Residual: the unexplained share of a column under which it counts no less.
EASY = 0.02
#: Variational: weight of the divergence, in units of a column's share of the loss.
DIVERGENCE = 0.02
#: Contractive: weight of the squared slope of the latents.
CONTRACTION = 0.01
#: Sparse: the share of latents that a row keeps, the batches after which an unused latent is dead, and the weight of
#: the loss that revives it.
ACTIVE_SHARE = 0.25
DEAD_AFTER = 50
REVIVAL = 1 / 32


class Residual(Autoencoder):
    axes: Tensor
    mean: Tensor
    pairs: Tensor

    def __init__(
        self, layout: Layout, latent_dim: int, hidden: Sequence[int], dropout: float, axes: Tensor, mean: Tensor
    ) -> None:
        """`axes` (width, latent_dim) are the principal axes, `mean` (width,) the mean of the training rows."""
        super().__init__(layout, latent_dim)
        self.register_buffer("axes", axes.clone())
        self.register_buffer("mean", mean.clone())
        sizes = [min(50, round(1.6 * b.num_levels**0.56)) for b in layout.categorical]
        self.embeddings = nn.ModuleList(
            nn.Embedding(b.num_levels, size) for b, size in zip(layout.categorical, sizes, strict=True)
        )
        for weight in self.embeddings.parameters():
            nn.init.normal_(weight, std=0.5)
        features = layout.num_values + len(layout.flags) + sum(sizes)
        vectors = sum(b.kind == "vector" for b in layout.blocks) / len(layout.blocks)
        self.departure = DEPARTURE + vectors * (VECTOR_DEPARTURE - DEPARTURE)
        self.readable = READABLE + vectors * (VECTOR_READABLE - READABLE)
        self.g = _perceptron(features, hidden, latent_dim, dropout)
        self.h = _perceptron(latent_dim, hidden, layout.width, dropout)
        scores = min(latent_dim, READABLE_AXES)
        one, other = torch.tril_indices(scores, scores)
        self.register_buffer("pairs", one * scores + other, persistent=False)
        self.readout = _zero(Dense(latent_dim, len(one)))

    @property
    def linear_axes(self) -> Tensor:
        return self.axes

    def encode_linear(self, x: Tensor, batch: Batch) -> Tensor:
        return self._straight(x) + self.g(self._inputs(batch)).float()

    def code(self, x: Tensor, batch: Batch) -> Code:
        straight, added = self._straight(x), self.g(self._inputs(batch)).float()
        departure = added.square().mean(dim=0) / _variance(straight.detach()).clamp(min=1e-6)
        return Code(straight + added, self.departure * departure.square().mean())

    def unread(self, z: Tensor, x: Tensor) -> Tensor:
        """The unexplained share of the products of the leading principal scores, squares among them, mean over
        products: what stands in z of curves and of columns together is to be found by a straight line."""
        scores = self._straight(x)[:, :READABLE_AXES]
        scores = (scores / _variance(scores).sqrt().clamp(min=1e-3)).clamp(-3, 3)
        products = (scores[:, :, None] * scores[:, None, :]).flatten(1).index_select(1, self.pairs)
        with torch.autocast(x.device.type, enabled=False):
            missed = mean_squared_error(self.readout(z.float()), products)
        # They are of the size of their deviations, so that little is lost by the shorter way.
        variance = products.square().mean(dim=0) - products.mean(dim=0).square()
        return self.readable * (missed / variance.clamp(min=1e-3)).mean()

    def objective(self, by_column: Tensor) -> Tensor:
        """Columns count by the part of them that is missed: what is left to learn is there."""
        weight = by_column.detach().clamp(min=EASY)
        return (by_column * weight).sum() / weight.sum()

    def hidden_layers(self, batch: Batch) -> Tensor:
        return _activations(self.g, self._inputs(batch), nn.SiLU)

    def _straight(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # the axes stay exact whatever the precision
            return (x - self.mean) @ self.axes

    def _inputs(self, batch: Batch) -> Tensor:
        """What g sees: numbers, missing flags, learned embeddings of the levels."""
        values, flags = self.linear.raw(batch)
        codes = batch.codes.long()
        learned = [embedding(codes[:, i]) for i, embedding in enumerate(self.embeddings)]
        return torch.cat([values, flags, *learned], dim=1)

    def decode(self, z: Tensor) -> Tensor:
        added = self.h(z)
        with torch.autocast(z.device.type, enabled=False):
            return self.mean + z.float() @ self.axes.T + added.float()


class Plain(Autoencoder):
    def __init__(self, layout: Layout, latent_dim: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__(layout, latent_dim)
        self.encoder = _relu_layers(layout.width, hidden, latent_dim, dropout)
        self.decoder = _relu_layers(latent_dim, tuple(reversed(hidden)), layout.width, dropout)

    def encode_linear(self, x: Tensor, batch: Batch) -> Tensor:
        return cast(Tensor, self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        return cast(Tensor, self.decoder(z))

    def hidden_layers(self, batch: Batch) -> Tensor:
        return _activations(self.encoder, self.linear(batch)[0], nn.ReLU)


class Variational(Plain):
    """Auto-encoding variational Bayes (Kingma and Welling, 2014); the feature columns are the means."""

    def __init__(self, layout: Layout, latent_dim: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__(layout, latent_dim, hidden, dropout)
        self.log_variance = Dense(layout.width, latent_dim)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, -4.0)

    def code(self, x: Tensor, batch: Batch) -> Code:
        mean, log_variance = self.encoder(x).float(), self.log_variance(x).float().clamp(-10, 10)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return Code(z, DIVERGENCE / self.num_columns * divergence)


class Contractive(Plain):
    """Contractive auto-encoders (Rifai et al., 2011); the norm of the Jacobian is estimated along one direction a
    row, drawn at random (Hutchinson, 1990)."""

    def code(self, x: Tensor, batch: Batch) -> Code:
        x = x.detach().requires_grad_(True)
        with torch.enable_grad():
            z = self.encoder.by_layer(x).float()
            direction = torch.randn_like(z)
            (slope,) = torch.autograd.grad((z * direction).sum(), x, create_graph=torch.is_grad_enabled())
        return Code(z, CONTRACTION / self.latent_dim * slope.square().sum(dim=1).mean())


class Sparse(Autoencoder):
    """Top-k autoencoder with an auxiliary loss for dead latents (Gao et al., "Scaling and evaluating sparse
    autoencoders", 2024), behind hidden layers."""

    idle: Tensor

    def __init__(self, layout: Layout, latent_dim: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__(layout, latent_dim)
        self.active = max(1, round(ACTIVE_SHARE * latent_dim))
        self.encoder = _relu_layers(layout.width, hidden, latent_dim, dropout)
        self.decoder = Dense(latent_dim, layout.width)
        self.register_buffer("idle", torch.zeros(latent_dim), persistent=False)

    def encode_linear(self, x: Tensor, batch: Batch) -> Tensor:
        return _strongest(F.relu(self.encoder(x)), self.active)

    def decode(self, z: Tensor) -> Tensor:
        return cast(Tensor, self.decoder(z))

    def code(self, x: Tensor, batch: Batch) -> Code:
        before = self.encoder(x)
        z = _strongest(F.relu(before), self.active)
        self.idle = torch.where((z > 0).any(dim=0), 0, self.idle + 1)
        dead = self.idle > DEAD_AFTER
        if not dead.any():
            return Code(z)
        # Dead latents learn to explain what the living leave over.
        missed = (x - self.decode(z)).detach().float()
        revived = _strongest(F.softplus(before) * dead, self.active)
        explained = F.linear(revived, self.decoder.weight).float()
        return Code(z, REVIVAL * (missed - explained).square().mean() / missed.square().mean().clamp(min=1e-6))

    def hidden_layers(self, batch: Batch) -> Tensor:
        return _activations(self.encoder, self.linear(batch)[0], nn.ReLU)


class Vanilla(Autoencoder):
    def __init__(self, layout: Layout, latent_dim: int, l2: float) -> None:
        super().__init__(layout, latent_dim)
        self.l2 = l2
        self.encoder = Dense(layout.width, latent_dim)
        self.decoder = Dense(latent_dim, layout.width)

    def encode_linear(self, x: Tensor, batch: Batch) -> Tensor:
        return F.relu(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.decoder(z))

    def objective(self, by_column: Tensor) -> Tensor:
        weights = self.encoder.weight.square().sum() + self.decoder.weight.square().sum()
        return by_column.sum() / 2 + self.l2 / 2 * weights


@dataclass(frozen=True)
class PrincipalAxes:
    """`mean` (width,) and `axes` (width, up to latent_dim) of the encoded training rows, by falling variance."""

    mean: np.ndarray
    axes: np.ndarray
    variance: np.ndarray


#: How the presets that need nothing but the layout are made.
_PERCEPTRONS: dict[str, type[Plain] | type[Sparse]] = {
    "plain": Plain,
    "variational": Variational,
    "contractive": Contractive,
    "sparse": Sparse,
}


def build(job: ModelJob, layout: Layout, pca: PrincipalAxes) -> Autoencoder:
    """A freshly initialised network; its width is that of `pca.axes`, which may be narrower than the job's."""
    latent_dim, hidden = pca.axes.shape[1], job.hidden_for(layout.width)
    if job.preset == "vanilla":
        return Vanilla(layout, latent_dim, job.l2)
    if job.preset != "residual":
        return _PERCEPTRONS[job.preset](layout, latent_dim, hidden, job.dropout)
    axes, mean = torch.tensor(pca.axes, dtype=torch.float32), torch.tensor(pca.mean, dtype=torch.float32)
    return Residual(layout, latent_dim, hidden, job.dropout, axes, mean)


def _variance(x: Tensor) -> Tensor:
    """Of each column of x (rows, columns): torch's own, down the rows, takes ten times as long."""
    return (x - x.mean(dim=0)).square().mean(dim=0)


def _perceptron(inputs: int, hidden: Sequence[int], outputs: int, dropout: float) -> nn.Sequential:
    """SiLU layers with layer norm; the last layer starts at zero."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [Dense(inputs, size), nn.LayerNorm(size), nn.SiLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
        inputs = size
    return nn.Sequential(*layers, _zero(Dense(inputs, outputs)))


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _relu_layers(inputs: int, hidden: Sequence[int], outputs: int, dropout: float) -> ReluLayers:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [Dense(inputs, size), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
        inputs = size
    return ReluLayers(*layers, Dense(inputs, outputs))


def _activations(layers: nn.Sequential, inputs: Tensor, activation: type[nn.Module]) -> Tensor:
    """What the hidden layers give, side by side: (rows, sum of their sizes)."""
    found = []
    for layer in layers:
        inputs = layer(inputs)
        if isinstance(layer, activation):
            found.append(inputs)
    return torch.cat(found, dim=1) if found else inputs.new_empty(len(inputs), 0)


def _strongest(z: Tensor, count: int) -> Tensor:
    """Each row's `count` largest latents, the others zero."""
    values, places = z.topk(count, dim=1)
    return torch.zeros_like(z).scatter_(1, places, values)

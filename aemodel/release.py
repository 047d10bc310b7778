"""A retrain that keeps the columns' meaning: the parent's transform is kept, its weights are where training starts.

New input columns are appended with zero weights, new latents behind the parent's. So the new network is at first
exactly the parent, and training (see `aemodel.learner`) holds the parent's latents where they were. Where that is
not possible a network is trained from scratch, and its latents are turned to the champion's columns (`framed`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from aemodel import frame
from aemodel.bundle import Bundle
from aemodel.config import ModelJob
from aemodel.files import read_state, write_json
from aemodel.frame import Frame
from aemodel.kept import Kept
from aemodel.layout import Block, Layout
from aemodel.model import Autoencoder, Plain, Residual
from aemodel.schema import TableSchema
from aemodel.transform import Transform, layout_of

#: Presets whose network can be grown by inputs and latents without changing what it computes.
CAN_GO_ON = ("residual", "plain", "contractive")


@dataclass(frozen=True)
class Lineage:
    """Which version a run follows on; `cold`: why training does not go on from it, None where it does."""

    version: str
    cold: str | None

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Lineage | None:
        """None where a run follows on none."""
        return cls(**read_state(path)) if path.exists() else None


def framed(latents: np.ndarray, parent: Bundle | None, on_anchors: np.ndarray | None, kept: Kept | None) -> Frame:
    """The frame of a trained network's latents (rows, k) of training rows.

    With `parent`, from which training went on, its frame; with what a champion `kept` and the latents `on_anchors` of
    its anchor rows, the one that turns these to the champion's columns; else a new one.
    """
    if parent is not None:
        return frame.extended(parent.model.frame, latents)
    if kept is not None and on_anchors is not None:
        return frame.aligned(on_anchors, kept.reference)
    return frame.first(latents)


def obstacle(parent: Bundle, job: ModelJob, schema: TableSchema) -> str | None:
    """Why a job on this table cannot go on from `parent`; None where it can."""
    if job.preset != parent.job.preset:
        return f"the preset is {job.preset}, the champion's {parent.job.preset}"
    if job.preset not in CAN_GO_ON:
        return f"preset {job.preset} always starts anew"
    if job.hidden not in ("auto", parent.job.hidden) or job.effective_scaling != parent.job.effective_scaling:
        return "hidden or scaling are not the champion's"
    if job.latent_dim != "auto" and job.latent_dim < parent.model.latent_dim:
        return f"latent_dim is {job.latent_dim}, the champion's {parent.model.latent_dim}"
    present = {c.name: c for c in schema.inputs}
    for column in (c.column for c in parent.transform.columns):
        found = present.get(column.name)
        if found is None or (found.kind, found.size) != (column.kind, column.size):
            return f"the champion's input {column.name} is {'gone' if found is None else 'of another kind'}"
    return None


def arranged(schema: TableSchema, parent: Bundle) -> TableSchema:
    """The schema with the parent's inputs first, in the parent's order."""
    order = {c.column.name: i for i, c in enumerate(parent.transform.columns)}
    return replace(schema, inputs=tuple(sorted(schema.inputs, key=lambda c: order.get(c.name, len(order)))))


def kept_transform(fitted: Transform, parent: Bundle) -> Transform:
    """`fitted` with the parent's columns as the parent fitted them."""
    kept = {c.column.name: c for c in parent.transform.columns}
    columns = tuple(kept.get(c.column.name, c) for c in fitted.columns)
    return Transform(columns, fitted.scaling, layout_of(columns, fitted.scaling))


@torch.no_grad()
def transplant(parent: Bundle, model: Autoencoder, layout: Layout) -> None:
    """Give `model`, freshly built for `layout`, the parent's weights. Its first latents are then the parent's."""
    maps = _Maps.of(parent.transform.layout, layout)
    old, width = parent.model, maps.dimensions
    k = old.latent_dim
    model.frame_center[:k] = old.frame_center
    model.frame_matrix[:k, :k] = old.frame_matrix
    if isinstance(model, Residual) and isinstance(old, Residual):
        fresh = model.axes[:, k:].clone()
        model.axes.zero_()
        model.axes[width.new, :k] = old.axes[width.old]
        model.axes[:, k:] = _orthogonal(fresh, model.axes[:, :k])
        model.mean[width.new] = old.mean[width.old]
        for mine, theirs in maps.codes:
            model.embeddings[mine].load_state_dict(old.embeddings[theirs].state_dict())
        _copy_layers(model.g, old.g, maps.features(model, old), _first(k))
        _copy_layers(model.h, old.h, _first(k), width)
        _copy_layers(
            nn.Sequential(model.readout), nn.Sequential(old.readout), _first(k), _first(old.readout.out_features)
        )
    else:
        assert isinstance(model, Plain) and isinstance(old, Plain)
        _copy_layers(model.encoder, old.encoder, width, _first(k))
        _copy_layers(model.decoder, old.decoder, _first(k), width)


@dataclass(frozen=True)
class _Places:
    """Pairs of indices: where a thing is in the new network, where it was in the old."""

    new: Tensor
    old: Tensor


@dataclass(frozen=True)
class _Maps:
    dimensions: _Places
    values: _Places
    flags: _Places
    codes: list[tuple[int, int]]

    @classmethod
    def of(cls, old: Layout, new: Layout) -> _Maps:
        mine = {b.column: b for b in new.blocks}
        pairs = [(mine[b.column], b) for b in old.blocks]

        def places(indices: list[tuple[list[int], list[int]]]) -> _Places:
            flat = [[i for side in part for i in side] for part in zip(*indices, strict=True)] or [[], []]
            return _Places(torch.tensor(flat[0], dtype=torch.long), torch.tensor(flat[1], dtype=torch.long))

        def values(block: Block) -> list[int]:
            return list(range(*block.values))

        def flag(layout: Layout, block: Block) -> list[int]:
            return [] if block.flag is None else [block.flag - layout.num_values]

        return cls(
            places([(a.dimensions, b.dimensions) for a, b in pairs]),
            places([(values(a), values(b)) for a, b in pairs]),
            places([(flag(new, a), flag(old, b)) for a, b in pairs]),
            [(a.code, b.code) for a, b in pairs if a.code is not None and b.code is not None],
        )

    def features(self, model: Residual, old: Residual) -> _Places:
        """Of g's inputs: values, flags, then the embeddings of each categorical column."""
        new_at, old_at = _embedding_starts(model), _embedding_starts(old)
        sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        for side, net, at in ((0, model, new_at), (1, old, old_at)):
            values = (self.values.new, self.values.old)[side]
            flags = (self.flags.new, self.flags.old)[side] + net.linear.num_values
            sides[side].extend([values, flags])
            for pair in self.codes:
                start, stop = at[pair[side]], at[pair[side] + 1]
                sides[side].append(torch.arange(start, stop))
        return _Places(torch.cat(sides[0]), torch.cat(sides[1]))


def _embedding_starts(model: Residual) -> np.ndarray:
    first = model.linear.num_values + len(model.linear.flag_values)
    return first + np.cumsum([0, *(w.shape[1] for w in model.embeddings.parameters())])


def _first(count: int) -> _Places:
    return _Places(torch.arange(count), torch.arange(count))


def _copy_layers(new: nn.Sequential, old: nn.Sequential, inputs: _Places, outputs: _Places) -> None:
    """Copy layer by layer; inputs that the old network had not weigh zero, outputs that it had not stay fresh."""
    linear = [i for i, layer in enumerate(old) if isinstance(layer, nn.Linear)]
    for index, (mine, theirs) in enumerate(zip(new, old, strict=True)):
        if not isinstance(mine, nn.Linear) or not isinstance(theirs, nn.Linear):
            mine.load_state_dict(theirs.state_dict())
            continue
        columns = inputs if index == linear[0] else _first(theirs.in_features)
        rows = outputs if index == linear[-1] else _first(theirs.out_features)
        mine.weight[rows.new] = 0.0
        mine.weight[rows.new[:, None], columns.new[None, :]] = theirs.weight[rows.old[:, None], columns.old[None, :]]
        mine.bias[rows.new] = theirs.bias[rows.old]


def _orthogonal(fresh: Tensor, kept: Tensor) -> Tensor:
    """`fresh` axes less what lies along `kept` ones, orthonormal: what new latents start with."""
    if fresh.shape[1] == 0:
        return fresh
    basis = torch.linalg.qr(kept).Q
    return torch.linalg.qr(fresh - basis @ (basis.T @ fresh)).Q

"""Encoded rows as tensors, and their expansion to the linear space of `aemodel.layout`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from aemodel.layout import OTHER, EncodedRows, Layout


@dataclass(frozen=True)
class Batch:
    """`values` float32 (rows, num_values), NaN where missing; `codes` integer (rows, num_codes).

    `complete` says that no value is missing, which spares some passes over the rows; it need not be known.
    """

    values: Tensor
    codes: Tensor
    complete: bool = False

    @classmethod
    def of(cls, rows: EncodedRows) -> Batch:
        complete = not np.isnan(rows.values).any()
        return cls(torch.from_numpy(rows.values), torch.from_numpy(rows.codes), complete)

    @staticmethod
    def concatenated(*parts: Batch) -> Batch:
        values, codes = torch.cat([p.values for p in parts]), torch.cat([p.codes for p in parts])
        return Batch(values, codes, all(p.complete for p in parts))

    def __getitem__(self, rows: Tensor | slice) -> Batch:
        if isinstance(rows, slice):
            return Batch(self.values[rows], self.codes[rows], self.complete)
        return Batch(self.values.index_select(0, rows), self.codes.index_select(0, rows), self.complete)

    def pinned(self) -> Batch:
        """In memory that a device can read by itself."""
        return Batch(self.values.pin_memory(), self.codes.pin_memory(), self.complete)

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        values = self.values.to(device, non_blocking=non_blocking)
        return Batch(values, self.codes.to(device, non_blocking=non_blocking), self.complete)


class Linear(nn.Module):
    """Encoded rows to the linear space of `aemodel.layout`."""

    offset: Tensor
    scale: Tensor
    flag_values: Tensor
    levels: Tensor
    offsets: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.num_values = layout.num_values
        self.num_levels = sum(b.levels[1] - b.levels[0] for b in layout.categorical)
        offset = torch.tensor(-layout.center * layout.scale, dtype=torch.float32)
        self.register_buffer("offset", offset, persistent=False)
        #: Whether the encoded values are the linear space already, as those of standardised numbers are.
        self.is_identity = not layout.center.any() and bool((layout.scale == 1).all())
        self.register_buffer("scale", torch.tensor(layout.scale, dtype=torch.float32), persistent=False)
        flagged = torch.tensor([b.values[0] for b in layout.flags], dtype=torch.long)
        self.register_buffer("flag_values", flagged, persistent=False)
        sizes = [b.levels[1] - b.levels[0] for b in layout.categorical]
        starts = np.cumsum([0, *sizes])[:-1]
        self.register_buffer("levels", torch.tensor(sizes, dtype=torch.int32), persistent=False)
        self.register_buffer("offsets", torch.tensor(starts, dtype=torch.long), persistent=False)

    def raw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(values with 0 where missing, missing flags as 0 and 1)."""
        if batch.complete:
            return batch.values, batch.values.new_zeros(len(batch.values), len(self.flag_values))
        missing = batch.values.isnan()
        flags = missing[:, self.flag_values].to(batch.values.dtype)
        return batch.values.masked_fill(missing, 0.0), flags

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """x (rows, width) and the observed mask (rows, num_values), False where a value is missing; None if none is.
        `x` may be the batch's own values: it is not to be changed."""
        values, flags = self.raw(batch)
        parts = [values, flags] if len(self.flag_values) else [values]
        if self.num_levels:
            codes = torch.where(batch.codes < self.levels, batch.codes, OTHER).long() + self.offsets
            one_hot = values.new_zeros(len(values), self.num_levels)
            parts.append(one_hot.scatter_(1, codes, 1.0))
        raw = torch.cat(parts, dim=1) if len(parts) > 1 else values
        x = raw if self.is_identity else (raw * self.scale).add_(self.offset)  # as addcmul, which takes twice as long
        if batch.complete:
            return x, None
        observed = ~batch.values.isnan()
        # A missing value contributes nothing: its place is the centre.
        x[:, : self.num_values] *= observed
        return x, observed

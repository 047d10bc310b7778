"""Encoded rows as tensors, and their expansion to the linear space of `aemodel.layout`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from aemodel.layout import OTHER, EncodedRows, Layout


@dataclass(frozen=True)
class Batch:
    """`values` float32 (rows, num_values), NaN where missing; `codes` integer (rows, num_codes)."""

    values: Tensor
    codes: Tensor

    @classmethod
    def of(cls, rows: EncodedRows, device: torch.device | str = "cpu") -> Batch:
        return cls(torch.from_numpy(rows.values).to(device), torch.from_numpy(rows.codes).to(device))

    @staticmethod
    def concatenated(*parts: Batch) -> Batch:
        return Batch(torch.cat([p.values for p in parts]), torch.cat([p.codes for p in parts]))

    def __getitem__(self, rows: Tensor | slice) -> Batch:
        return Batch(self.values[rows], self.codes[rows])

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        return Batch(
            self.values.to(device, non_blocking=non_blocking), self.codes.to(device, non_blocking=non_blocking)
        )


class Linear(nn.Module):
    """Encoded rows to the linear space of `aemodel.layout`."""

    center: Tensor
    scale: Tensor
    flag_values: Tensor
    levels: Tensor
    offsets: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.num_values = layout.num_values
        self.num_levels = sum(b.levels[1] - b.levels[0] for b in layout.categorical)
        self.register_buffer("center", torch.tensor(layout.center, dtype=torch.float32), persistent=False)
        self.register_buffer("scale", torch.tensor(layout.scale, dtype=torch.float32), persistent=False)
        flagged = torch.tensor([b.values[0] for b in layout.flags], dtype=torch.long)
        self.register_buffer("flag_values", flagged, persistent=False)
        sizes = [b.levels[1] - b.levels[0] for b in layout.categorical]
        starts = np.cumsum([0, *sizes])[:-1]
        self.register_buffer("levels", torch.tensor(sizes, dtype=torch.int32), persistent=False)
        self.register_buffer("offsets", torch.tensor(starts, dtype=torch.long), persistent=False)

    def raw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(values with 0 where missing, missing flags as 0 and 1)."""
        missing = batch.values.isnan()
        flags = missing[:, self.flag_values].to(batch.values.dtype)
        return batch.values.masked_fill(missing, 0.0), flags

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """x (rows, width) and the observed mask (rows, num_values), False where a value is missing."""
        values, flags = self.raw(batch)
        parts = [values, flags]
        if self.num_levels:
            codes = torch.where(batch.codes < self.levels, batch.codes, OTHER).long() + self.offsets
            one_hot = values.new_zeros(len(values), self.num_levels)
            parts.append(one_hot.scatter_(1, codes, 1.0))
        observed = ~batch.values.isnan()
        x = (torch.cat(parts, dim=1) - self.center) * self.scale
        # A missing value contributes nothing: its place is the centre.
        x[:, : self.num_values] *= observed
        return x, observed

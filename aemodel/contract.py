"""Do the feature columns still mean what they meant? Pure arithmetic on the latents of the same rows.

A column keeps its name's meaning if it correlates with the parent version's column in the same place at 0.98 or
more; down to 0.95 it is a warning; below, it is another column. A change of sign is a change of meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

KEPT = 0.98
WARNED = 0.95


@dataclass(frozen=True)
class Contract:
    """`parent`: the version compared with. `r`: the correlation of each of its columns with the new one in its place,
    the smaller of two: with the parent on today's held-out rows, and, on the anchor rows, with the column as it was
    when it got its meaning.

    `origins`: for each new column the version in which it first had its present meaning. `cold`: why the new version
    was not trained on from the parent, None if it was.
    """

    parent: str
    parent_digest: str
    r: tuple[float, ...]
    origins: tuple[str, ...]
    cold: str | None = None

    @property
    def changed(self) -> tuple[int, ...]:
        """The parent's latents whose place now holds something else."""
        return tuple(i for i, r in enumerate(self.r) if r < WARNED)

    @property
    def warned(self) -> tuple[int, ...]:
        return tuple(i for i, r in enumerate(self.r) if WARNED <= r < KEPT)

    def to_tags(self) -> dict[str, str]:
        """As tags of a model version, which are strings."""
        return {
            "aemodel.parent": self.parent,
            "aemodel.parent_bundle": self.parent_digest,
            "aemodel.column_r": ",".join(f"{r:.4f}" for r in self.r),
            "aemodel.column_origin": ",".join(self.origins),
        }

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> Contract | None:
        """None for a version without such tags, as one registered by hand."""
        if "aemodel.column_origin" not in tags:
            return None
        r = tuple(float(text) for text in tags["aemodel.column_r"].split(",") if text)
        origins = tuple(tags["aemodel.column_origin"].split(","))
        return cls(tags["aemodel.parent"], tags["aemodel.parent_bundle"], r, origins)


def first(version: str, latent_dim: int) -> Contract:
    """Of a version that has no parent: every column begins with it."""
    return Contract("", "", (), (version,) * latent_dim)


def compared(
    version: str,
    latent_dim: int,
    r: Sequence[float],
    parent: str,
    digest: str,
    origins: Sequence[str],
    cold: str | None,
) -> Contract:
    """From how a version's `latent_dim` columns correlate with the parent's (`r`), whose `origins` are known."""
    kept = {i: origins[i] for i in range(min(len(r), len(origins))) if r[i] >= WARNED}
    return Contract(parent, digest, tuple(r), tuple(kept.get(i, version) for i in range(latent_dim)), cold)


def same_place(old: np.ndarray, new: np.ndarray) -> tuple[float, ...]:
    """Correlations of `old` (rows, k) with `new` (rows, k' ≥ k or less) column by column.

    A column that is constant in both is unchanged (1); one that is missing in `new` or constant in one is gone (0).
    """
    return tuple(_correlation(old[:, i], new[:, i]) if i < new.shape[1] else 0.0 for i in range(old.shape[1]))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64) - a.mean(dtype=np.float64), b.astype(np.float64) - b.mean(dtype=np.float64)
    norm_a, norm_b = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if norm_a < 1e-9 and norm_b < 1e-9:
        return 1.0
    return float(a @ b / (norm_a * norm_b)) if norm_a > 0 and norm_b > 0 else 0.0

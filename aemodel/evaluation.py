"""What a model is worth on held-out rows, against PCA of the same width, and against another version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from aemodel.bundle import Bundle
from aemodel.layout import EncodedRows, Layout
from aemodel.leaks import Determined, determined
from aemodel.loader import HeldOutLoader
from aemodel.model import Autoencoder, PrincipalAxes, Reconstruction, reconstruct
from aemodel.pca import Projection
from aemodel.probe import Target

#: With fewer held-out rows R² is chance, and the gate does not judge by it.
ENOUGH_ROWS = 20


@dataclass(frozen=True)
class ColumnScore:
    """Held-out R² of one source column; None where the held-out rows do not vary."""

    column: str
    kind: str
    r2: float | None
    r2_pca: float | None


@dataclass(frozen=True)
class LatentHealth:
    """`dead`: spread under 5 % of the median or .5 % of the largest. `duplicates`: pairs with |r| > 0.95."""

    std: tuple[float, ...]
    dead: tuple[int, ...]
    duplicates: tuple[tuple[int, int], ...]
    effective_rank: float


@dataclass(frozen=True)
class Probed:
    """How well a label is read off these features, and off those `compared` with, on the same rows."""

    label: str
    measure: str
    score: float
    compared: float
    noise: float


@dataclass(frozen=True)
class Evaluation:
    """`r2_training`: the same measure on training rows; `probe`: against PCA. None where they were not taken."""

    rows: int
    r2: float
    r2_pca: float
    columns: tuple[ColumnScore, ...]
    latents: LatentHealth
    r2_training: float | None = None
    determined: tuple[Determined, ...] = ()
    probe: Probed | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Evaluation:
        columns = tuple(ColumnScore(**c) for c in state["columns"])
        health = state["latents"]
        pairs = tuple((int(a), int(b)) for a, b in health["duplicates"])
        latents = LatentHealth(tuple(health["std"]), tuple(health["dead"]), pairs, health["effective_rank"])
        determined = tuple(Determined(**d) for d in state["determined"])
        probe = Probed(**state["probe"]) if state["probe"] else None
        return cls(
            state["rows"], state["r2"], state["r2_pca"], columns, latents, state["r2_training"], determined, probe
        )


@dataclass(frozen=True)
class Label:
    """A label's cells, of the rows that something is measured on."""

    name: str
    cells: pa.Array


def measure(bundle: Bundle, rows: EncodedRows) -> Reconstruction:
    return _reconstructed(bundle.model, bundle.transform.layout, rows)


def _reconstructed(model: Autoencoder, layout: Layout, rows: EncodedRows) -> Reconstruction:
    return reconstruct(model, HeldOutLoader(rows, 0, 1, layout.rows_at_once))


def evaluate(
    bundle: Bundle,
    pca: PrincipalAxes,
    held_out: EncodedRows,
    training: EncodedRows | None = None,
    label: Label | None = None,
) -> tuple[Evaluation, Reconstruction]:
    """Measure `bundle` and PCA of its width on the same encoded rows, and, to see the gap, on rows trained on."""
    layout = bundle.transform.layout
    learned = measure(bundle, held_out)
    linear = _reconstructed(Projection(layout, pca), layout, held_out)
    columns = tuple(
        ColumnScore(block.column, block.kind, _known(a), _known(b))
        for block, a, b in zip(layout.blocks, learned.r2, linear.r2, strict=True)
    )
    seen = None if training is None else _mean(measure(bundle, training).r2)
    found = Evaluation(
        len(held_out),
        _mean(learned.r2),
        _mean(linear.r2),
        columns,
        latent_health(learned.features),
        seen,
        determined(layout, held_out),
        probed(label, learned.features, linear.features) if label else None,
    )
    return found, learned


def latent_health(latents: np.ndarray) -> LatentHealth:
    """From latents (rows, k). Effective rank after Roy and Vetterli, "The effective rank", 2007."""
    std = latents.std(axis=0, dtype=np.float64)
    # By the median alone most latents could be dead and none would be: so by the largest too.
    dead = np.flatnonzero(std < max(0.05 * np.median(std), 0.005 * std.max(initial=0), 1e-9))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.abs(np.nan_to_num(np.corrcoef(latents.T.astype(np.float64)))).reshape(len(std), -1)
    pairs = np.argwhere(np.triu(correlation > 0.95, k=1))
    singular = np.linalg.svd(latents.astype(np.float64) - latents.mean(axis=0), compute_uv=False)
    share = singular[singular > 0] / max(singular.sum(), 1e-300)
    rank = float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0
    return LatentHealth(_floats(std), tuple(dead.tolist()), tuple((int(a), int(b)) for a, b in pairs), rank)


def probed(label: Label, features: np.ndarray, compared: np.ndarray) -> Probed | None:
    """Probe two sets of features (rows, k) of the same rows for a label; None where it cannot be probed."""
    target = Target.of(label.cells)
    if target is None:
        return None
    return Probed(label.name, target.measure, target.score(features), target.score(compared), target.noise)


def shared_r2(a: dict[str, float], b: dict[str, float]) -> tuple[float, float, int]:
    """Mean R² of two models over the columns that both have a figure for, and how many these are."""
    pairs = [(a[c], b[c]) for c in a if c in b and np.isfinite(a[c]) and np.isfinite(b[c])]
    if not pairs:
        return float("nan"), float("nan"), 0
    mine, other = np.mean(np.array(pairs, np.float64), axis=0)
    return float(mine), float(other), len(pairs)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean of the known ones; 0 where none is."""
    known = np.asarray(values)[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)

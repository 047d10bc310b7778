"""What a model is worth on held-out rows, against PCA of the same width, and whether it may be promoted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from aemodel.bundle import Bundle
from aemodel.config import GateJob
from aemodel.contract import Contract
from aemodel.layout import EncodedRows, Layout
from aemodel.loader import HeldOutLoader
from aemodel.model import PrincipalAxes, Reconstruction, reconstruct
from aemodel.pca import Projection

#: With fewer held-out rows R² is chance, and the gate does not judge by it.
ENOUGH_ROWS = 20
#: Two figures closer than this are equal: float32 sums of the same model differ by as much.
ROUNDING = 1e-4
#: Two trainings that differ only in the seed differ by as much; a nightly retrain is not refused for it.
SEED_NOISE = 0.005
#: From here on a column is named as given away by another, and how many rows that is judged by.
DETERMINED_R2 = 0.999
DETERMINED_ROWS = 20_000


@dataclass(frozen=True)
class ColumnScore:
    """Held-out R² of one source column; None where the held-out rows do not vary."""

    column: str
    kind: str
    r2: float | None
    r2_pca: float | None


@dataclass(frozen=True)
class LatentHealth:
    """`dead`: standard deviation under 5 % of the median. `duplicates`: pairs with |r| > 0.95."""

    std: tuple[float, ...]
    dead: tuple[int, ...]
    duplicates: tuple[tuple[int, int], ...]
    effective_rank: float


@dataclass(frozen=True)
class Determined:
    """A column that another one gives away: `r2` of the straight line between their encoded values."""

    column: str
    by: str
    r2: float


@dataclass(frozen=True)
class Evaluation:
    """`r2_training`: the same measure on training rows; None where it was not taken."""

    rows: int
    r2: float
    r2_pca: float
    columns: tuple[ColumnScore, ...]
    latents: LatentHealth
    r2_training: float | None = None
    determined: tuple[Determined, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Evaluation:
        columns = tuple(ColumnScore(**c) for c in state["columns"])
        health = state["latents"]
        pairs = tuple((int(a), int(b)) for a, b in health["duplicates"])
        latents = LatentHealth(tuple(health["std"]), tuple(health["dead"]), pairs, health["effective_rank"])
        determined = tuple(Determined(**d) for d in state["determined"])
        return cls(state["rows"], state["r2"], state["r2_pca"], columns, latents, state["r2_training"], determined)


@dataclass(frozen=True)
class Verdict:
    """`reasons` say what failed; `notes` what was compared."""

    passed: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


def evaluate(
    bundle: Bundle, pca: PrincipalAxes, held_out: EncodedRows, training: EncodedRows | None = None
) -> tuple[Evaluation, Reconstruction]:
    """Measure `bundle` and PCA of its width on the same encoded rows, and, to see the gap, on rows trained on."""
    layout = bundle.transform.layout
    learned = reconstruct(bundle.model, HeldOutLoader(held_out, 0, 1))
    linear = reconstruct(Projection(layout, pca), HeldOutLoader(held_out, 0, 1))
    columns = tuple(
        ColumnScore(block.column, block.kind, _known(a), _known(b))
        for block, a, b in zip(layout.blocks, learned.r2, linear.r2, strict=True)
    )
    seen = None if training is None else _mean(reconstruct(bundle.model, HeldOutLoader(training, 0, 1)).r2)
    found = Evaluation(
        len(held_out),
        _mean(learned.r2),
        _mean(linear.r2),
        columns,
        latent_health(learned.latents),
        seen,
        determined(layout, held_out),
    )
    return found, learned


def determined(layout: Layout, rows: EncodedRows) -> tuple[Determined, ...]:
    """Numeric columns that an earlier one predicts almost exactly: they add nothing, or leak."""
    blocks = [b for b in layout.blocks if b.kind == "numeric"]
    if len(blocks) < 2 or len(rows) < ENOUGH_ROWS:
        return ()
    values = np.nan_to_num(rows.values[:DETERMINED_ROWS, [b.values[0] for b in blocks]].astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = np.nan_to_num(np.corrcoef(values.T)) ** 2
    earlier = np.tril(r2, k=-1)
    best = earlier.argmax(axis=1)
    return tuple(
        Determined(blocks[i].column, blocks[best[i]].column, float(earlier[i, best[i]]))
        for i in np.flatnonzero(earlier.max(axis=1) > DETERMINED_R2)
    )


def latent_health(latents: np.ndarray) -> LatentHealth:
    """From latents (rows, k). Effective rank after Roy and Vetterli, "The effective rank", 2007."""
    std = latents.std(axis=0, dtype=np.float64)
    dead = np.flatnonzero(std < 0.05 * np.median(std))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.abs(np.nan_to_num(np.corrcoef(latents.T.astype(np.float64)))).reshape(len(std), -1)
    pairs = np.argwhere(np.triu(correlation > 0.95, k=1))
    singular = np.linalg.svd(latents.astype(np.float64) - latents.mean(axis=0), compute_uv=False)
    share = singular[singular > 0] / max(singular.sum(), 1e-300)
    rank = float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0
    return LatentHealth(_floats(std), tuple(dead.tolist()), tuple((int(a), int(b)) for a, b in pairs), rank)


def shared_r2(a: Evaluation, b: Evaluation) -> tuple[float, float, int]:
    """Mean R² of two evaluations over the columns that both have a figure for, and how many these are."""
    theirs = {c.column: c.r2 for c in b.columns}
    pairs = [(c.r2, theirs[c.column]) for c in a.columns if c.r2 is not None and theirs.get(c.column) is not None]
    if not pairs:
        return float("nan"), float("nan"), 0
    mine, other = np.mean(np.array(pairs, np.float64), axis=0)
    return float(mine), float(other), len(pairs)


def decide(
    job: GateJob, new: Evaluation, champion: Evaluation | None = None, contract: Contract | None = None
) -> Verdict:
    """Not below PCA by the job's margin, no collapsed latents, not below the champion on the same rows, and no column
    of the champion's with another meaning unless the job allows it."""
    if not job.enabled:
        return Verdict(True, (), ("the gate is disabled by the job",))
    if new.rows < ENOUGH_ROWS:
        return Verdict(True, (), (f"{new.rows} held-out rows are too few to judge by",))
    reasons, notes = [], []
    gain = new.r2 - new.r2_pca
    notes.append(f"held-out R² {new.r2:.4f} against PCA {new.r2_pca:.4f} of the same width ({gain:+.4f})")
    # A release keeps its axes, and PCA taken anew may suit newer rows or more columns better: what it must not
    # be below is the champion. A margin that the job asks for holds for every version.
    released = contract is not None and bool(contract.r) and contract.cold is None
    judged_by_pca = not released or job.min_gain_over_pca > 0
    if judged_by_pca and not gain >= job.min_gain_over_pca - ROUNDING:  # also when either is not a number
        reasons.append(
            f"held-out R² {new.r2:.4f} is {gain:+.4f} from PCA's {new.r2_pca:.4f}, "
            f"the gate asks for {job.min_gain_over_pca:+.4f}"
        )
    if 2 * len(new.latents.dead) > len(new.latents.std):
        reasons.append(f"{len(new.latents.dead)} of {len(new.latents.std)} latents are dead: the encoder has collapsed")
    if champion is not None:
        mine, theirs, columns = shared_r2(new, champion)
        notes.append(
            f"champion's R² on the same rows {theirs:.4f}, this version's {mine:.4f} ({columns} shared columns)"
        )
        if columns and mine < theirs - SEED_NOISE:
            reasons.append(f"held-out R² {mine:.4f} is below the champion's {theirs:.4f} on the same rows")
    if contract is not None and contract.r:
        mean, least = float(np.mean(contract.r)), min(contract.r)
        notes.append(f"columns correlate with version {contract.parent}'s at {mean:.4f}, the least at {least:.4f}")
        notes += [f"trained from scratch: {contract.cold}"] if contract.cold else []
        notes += [f"columns {_listed(contract.warned)} have moved a little"] if contract.warned else []
        if contract.changed and job.on_change == "refuse":
            reasons.append(
                f"columns {_listed(contract.changed)} would mean something else than in version {contract.parent} "
                f"(r down to {least:.2f}): set gate.on_change to new_columns to allow it"
            )
    return Verdict(not reasons, tuple(reasons), tuple(notes))


def _listed(latents: Sequence[int]) -> str:
    return ", ".join(f"{i:02d}" for i in latents[:8]) + (" …" if len(latents) > 8 else "")


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean of the known ones; 0 where none is."""
    known = np.asarray(values)[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)

"""Whether a version may be promoted: rules, each with the figures that it was judged by. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aemodel.config import GateJob
from aemodel.contract import Contract
from aemodel.evaluation import ENOUGH_ROWS, Evaluation, Probed

#: Two figures closer than this are equal: float32 sums of the same model differ by as much.
ROUNDING = 1e-4
#: Two trainings that differ only in the seed differ by as much; a nightly retrain is not refused for it.
SEED_NOISE = 0.005
#: Latents that say less than this share of what as many independent ones of equal spread could have collapsed.
LEAST_RANK = 1 / 6


@dataclass(frozen=True)
class Rule:
    """One thing that a version must fulfil, and the figures that say whether it does."""

    name: str
    passed: bool
    figures: str


@dataclass(frozen=True)
class Verdict:
    """`rules` were judged; `notes` say what else there is to know."""

    rules: tuple[Rule, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return all(rule.passed for rule in self.rules)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What the rules that failed say."""
        return tuple(rule.figures for rule in self.rules if not rule.passed)

    @property
    def text(self) -> str:
        """In a line: passed, not judged and why not, or what the rules that failed say."""
        if not self.rules:
            return f"not judged: {'; '.join(self.notes)}"
        return "passed" if self.passed else "; ".join(self.reasons)

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Verdict:
        return cls(tuple(Rule(**r) for r in state["rules"]), tuple(state["notes"]))


@dataclass(frozen=True)
class Comparison:
    """A version and the champion on the same rows, held out for both: mean R² over the `columns` that both have.

    `behind`: how far the champion's R² lies below that of the best version before it, the differences added up.
    """

    version: str
    rows: int
    columns: int
    r2: float
    r2_champion: float
    probe: Probed | None = None
    behind: float = 0.0

    @property
    def left_behind(self) -> float:
        """`behind` of the version that is compared, should it take over."""
        return max(0.0, self.behind + self.r2_champion - self.r2) if self.columns else 0.0


def decide(
    job: GateJob, found: Evaluation, champion: Comparison | None = None, contract: Contract | None = None
) -> Verdict:
    """Judge by every rule that applies; a version passes if it fulfils them all."""
    if not job.enabled:
        return Verdict((), ("the gate is disabled by the job",))
    if contract is not None and not contract.r:  # of a version that follows on none
        contract = None
    goes_on = contract is not None and contract.cold is None
    notes, rules = [], []
    if champion is not None and champion.rows < ENOUGH_ROWS:
        notes.append(f"only {champion.rows} rows were held out of version {champion.version} too: not compared on them")
        champion = None
    if found.rows < ENOUGH_ROWS:
        notes.append(f"{found.rows} held-out rows are too few to judge by")
    else:
        against_pca = list(_against_pca(job, found))
        # A release keeps its axes, and PCA taken anew may suit newer rows or more columns better: what it must not
        # be below is the champion. A margin that the job asks for holds for every version.
        if goes_on and champion is not None and job.min_gain_over_pca <= 0:
            notes += [f"{r.figures}: no rule for a version that goes on" for r in against_pca if not r.passed]
        else:
            rules += against_pca
        rules.append(_health(found))
        rules += _against_champion(champion) if champion is not None else []
    if contract is not None:
        rules.append(_columns(job, contract))
        notes += [f"trained from scratch: {contract.cold}"] if contract.cold else []
        notes += [f"columns {_listed(contract.warned)} have moved a little"] if contract.warned else []
        allowed = contract.changed if job.on_change != "refuse" else ()
        notes += [f"columns {_listed(allowed)} mean something else from here on"] if allowed else []
    return Verdict(tuple(rules), tuple(notes))


def refused(reason: str) -> Verdict:
    """Of a version that a person has taken back."""
    return Verdict((Rule("by hand", False, reason),))


def _against_pca(job: GateJob, found: Evaluation) -> Iterator[Rule]:
    gain = found.r2 - found.r2_pca
    better = gain >= job.min_gain_over_pca - ROUNDING  # not so when either is not a number
    text = f"held-out R² {found.r2:.4f} is {gain:+.4f} from PCA's {found.r2_pca:.4f} of the same width"
    yield Rule("R² against PCA", better, f"{text}, the gate asks for {job.min_gain_over_pca:+.4f}")
    if found.probe is not None:
        yield _probe("probe against PCA", found.probe, "PCA's")


def _against_champion(champion: Comparison) -> Iterator[Rule]:
    if champion.columns:
        text = (
            f"R² {champion.r2:.4f} is {champion.r2 - champion.r2_champion:+.4f} from version {champion.version}'s "
            f"on the same {champion.rows:,} held-out rows ({champion.columns} shared columns)"
        )
        if champion.behind > 0:
            text += f", which is {-champion.behind:+.4f} from the best before it"
        # The noise is allowed once, not at every retrain: a hundred small losses would be a large one.
        enough = champion.r2 >= champion.r2_champion + champion.behind - SEED_NOISE  # not so when one is not a number
        yield Rule("R² against the champion", enough, text)
    if champion.probe is not None:
        yield _probe("probe against the champion", champion.probe, f"version {champion.version}'s")


def _probe(name: str, probe: Probed, whose: str) -> Rule:
    text = (
        f"{probe.label} can be read off the features with {probe.measure} {probe.score:.4f}, "
        f"off {whose} with {probe.compared:.4f}, noise {probe.noise:.3f}"
    )
    return Rule(name, probe.score >= probe.compared - probe.noise, text)


def _health(found: Evaluation) -> Rule:
    health, k = found.latents, len(found.latents.std)
    text = f"{len(health.dead)} of {k} latents are dead, {len(health.duplicates)} pairs alike, effective rank "
    collapsed = 2 * len(health.dead) > k or not health.effective_rank >= LEAST_RANK * k
    return Rule(
        "latent health",
        not collapsed,
        text + f"{health.effective_rank:.1f}" + (": the encoder has collapsed" if collapsed else ""),
    )


def _columns(job: GateJob, contract: Contract) -> Rule:
    mean, least = float(np.mean(contract.r)), min(contract.r)
    if contract.changed and job.on_change == "refuse":
        text = (
            f"columns {_listed(contract.changed)} would mean something else than in version {contract.parent} "
            f"(r down to {least:.2f}): set gate.on_change to new_columns to allow it"
        )
        return Rule("column contract", False, text)
    text = f"columns correlate with version {contract.parent}'s at {mean:.4f}, the least at {least:.4f}"
    return Rule("column contract", True, text)


def _listed(latents: Sequence[int]) -> str:
    return ", ".join(f"{i:02d}" for i in latents[:8]) + (" …" if len(latents) > 8 else "")

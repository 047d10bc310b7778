"""What a run takes, in seconds and bytes: pure functions of the table's shape and the machine's speed.

The constants are those of one machine, two virtual cores with AVX-512; `Machine` says how much slower or faster
another is. `python -m benchmarks.preflight` compares them with real runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from aemodel.cost.memory import prepare_bytes, score_bytes, train_bytes
from aemodel.cost.seconds import (
    DECODE_CELL,
    PREPARE_GROUP,
    START,
    decode_seconds,
    evaluate_seconds,
    prepare_seconds,
    score_seconds,
    step_seconds,
    train_seconds,
)
from aemodel.cost.shape import Machine, Shape

__all__ = [
    "DECODE_CELL",
    "PREPARE_GROUP",
    "Estimate",
    "Machine",
    "Shape",
    "estimate",
    "prepare_bytes",
    "score_bytes",
    "train_bytes",
]


@dataclass(frozen=True)
class Estimate:
    """Seconds and bytes to expect. `train` holds `max_epochs` epochs; early stopping may end it sooner."""

    start: float
    prepare: float
    step: float
    first_epoch: float
    epoch: float
    train: float
    evaluate: float
    score: float
    prepare_bytes: int
    train_bytes: int
    score_bytes: int

    @property
    def total(self) -> float:
        """Seconds of a whole run."""
        return self.start + self.prepare + self.train + self.evaluate + self.score

    @property
    def peak_bytes(self) -> int:
        return max(self.prepare_bytes, self.train_bytes, self.score_bytes)


def estimate(shape: Shape, machine: Machine) -> Estimate:
    """What a run of this shape takes on this machine."""
    step = step_seconds(shape, machine)
    epoch = shape.steps_per_epoch * step
    decoding = decode_seconds(shape, machine)
    first = epoch + decoding * shape.not_encoded
    later = epoch + decoding * shape.uncached
    return Estimate(
        start=machine.slowness * START,
        prepare=prepare_seconds(shape, machine),
        step=step,
        first_epoch=first,
        epoch=later,
        train=train_seconds(shape, machine, first, later),
        evaluate=evaluate_seconds(shape, machine),
        score=score_seconds(shape, machine),
        prepare_bytes=prepare_bytes(shape),
        train_bytes=train_bytes(shape),
        score_bytes=score_bytes(shape),
    )

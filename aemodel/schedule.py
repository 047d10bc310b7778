"""How many rows a step takes, and how many steps a training: pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aemodel.config import TrainingJob

#: Steps of an epoch that a batch is chosen for. On two cores, a million rows of 64 columns and 1,500 steps, 4,096 rows
#: a step rather than 1,024 left a tenth less unexplained, with 1.3 to 1.5 times as many rows a second.
STEPS_PER_EPOCH = 200
#: Optimiser steps that `max_epochs: auto` aims at; measured on the benchmark tables, more add little.
TARGET_STEPS = 1_500
MAX_AUTO_EPOCHS = 200
#: The largest batch that the learning rates were tuned with, and the largest that is chosen for large tables.
TUNED_BATCH, LARGEST_BATCH = 1_024, 4_096
WARM_UP_STEPS = 100
STEPS_PER_CHECK = 100
#: Held-out rows that a training is watched on; four times as many took a sixteenth of its time.
LOOKED_AT_ROWS = 16_384


@dataclass(frozen=True)
class Schedule:
    """`batch_size` is one rank's; the learning rate is multiplied by `rate_factor`."""

    batch_size: int
    steps_per_epoch: int
    max_epochs: int
    rate_factor: float = 1.0

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.max_epochs

    @property
    def warm_up(self) -> int:
        """Steps until the learning rate is reached."""
        return min(WARM_UP_STEPS, self.total_steps // 10)

    @property
    def check_epochs(self) -> int:
        """Epochs between two looks at the held-out rows."""
        return min(self.max_epochs, -(-STEPS_PER_CHECK // self.steps_per_epoch))


def global_batch_size(job: TrainingJob, rows: int, width: int) -> int:
    """The rows of one optimiser step over all ranks. Auto: a power of two near rows / STEPS_PER_EPOCH, from 64 to 1024;
    up to 4096 where an epoch has no fewer steps for it.

    Rows of many dimensions are fewer than their width asks for: near width / 3, up to 256, where rows / 10 allow it.
    """
    if job.batch_size != "auto":
        return job.batch_size
    wanted = max(rows / STEPS_PER_EPOCH, min(width / 3, 256, rows / 10))
    tuned = min(TUNED_BATCH, max(64, 2 ** round(math.log2(max(1, wanted)))))
    spared = 2 ** int(math.log2(max(1, rows // STEPS_PER_EPOCH)))
    return int(max(tuned, min(LARGEST_BATCH, spared)))


def schedule_for(job: TrainingJob, batch_size: int, steps_per_epoch: int, world_size: int = 1) -> Schedule:
    """Epochs as the job says, or enough of them for TARGET_STEPS.

    A batch that was chosen, and is larger than the learning rates were tuned with, has the rate raised by the square
    root of how much, as suits Adam (Malladi et al., "On the SDEs and scaling rules for adaptive gradient
    algorithms", 2022).
    """
    auto = min(MAX_AUTO_EPOCHS, -(-TARGET_STEPS // steps_per_epoch))
    factor = math.sqrt(max(1.0, batch_size * world_size / TUNED_BATCH)) if job.batch_size == "auto" else 1.0
    return Schedule(batch_size, steps_per_epoch, auto if job.max_epochs == "auto" else job.max_epochs, factor)

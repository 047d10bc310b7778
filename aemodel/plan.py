"""Which rank reads which rows in which step of which epoch: pure functions, the same on every rank.

The training rows of all row groups, in an order shuffled by epoch, form one ring. An epoch starts at a random
place of the ring; rank r takes the r-th run of `steps × batch_size` rows from there. So every rank has the
same number of steps whatever the row groups' sizes, no row is read twice in an epoch, fewer than
`world_size × batch_size` are left over, and those differ from epoch to epoch. A rank's run is cut into windows
that fit in memory; rows are shuffled within a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aemodel.errors import SchemaError

#: Rows that are shuffled together: enough to mix many row groups, few enough to hold in memory.
WINDOW_ROWS = 196_608


@dataclass(frozen=True)
class TrainingGroup:
    """A row group and how many of its rows are training rows."""

    fragment: int
    row_group: int
    rows: int


@dataclass(frozen=True)
class Extent:
    """Training rows `start` to `stop` (ordinals among a row group's training rows)."""

    group: TrainingGroup
    start: int
    stop: int


@dataclass(frozen=True)
class Window:
    """What a rank holds and shuffles at once: `steps` whole batches."""

    extents: tuple[Extent, ...]
    steps: int
    seed: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(e.stop - e.start for e in self.extents)

    def order(self) -> np.ndarray:
        """The permutation in which the window's rows are used."""
        return np.random.default_rng(self.seed).permutation(self.rows)


@dataclass(frozen=True)
class Plan:
    groups: tuple[TrainingGroup, ...]
    world_size: int
    batch_size: int
    seed: int

    @property
    def num_rows(self) -> int:
        return sum(g.rows for g in self.groups)

    @property
    def steps(self) -> int:
        """Steps in an epoch, the same on every rank."""
        return self.num_rows // (self.world_size * self.batch_size)

    def windows(self, epoch: int, rank: int, window_rows: int = WINDOW_ROWS) -> list[Window]:
        """What `rank` reads in `epoch`, in order."""
        assert 0 <= rank < self.world_size
        rng = np.random.default_rng((self.seed, epoch))
        groups = [self.groups[i] for i in rng.permutation(len(self.groups))]
        ends = np.cumsum([g.rows for g in groups])
        offset = int(rng.integers(max(1, self.num_rows)))
        first = offset + rank * self.steps * self.batch_size
        steps_each = max(1, window_rows // self.batch_size)
        windows = []
        for step in range(0, self.steps, steps_each):
            steps = min(steps_each, self.steps - step)
            start = first + step * self.batch_size
            extents = _ring(groups, ends, start, start + steps * self.batch_size)
            windows.append(Window(tuple(extents), steps, (self.seed, epoch, rank, step)))
        return windows


def plan_for(groups: Sequence[TrainingGroup], world_size: int, batch_size: int, seed: int) -> Plan:
    """A plan whose batch is no larger than a rank's share. Raises SchemaError if there are fewer rows than ranks."""
    rows = sum(g.rows for g in groups)
    if rows < world_size:
        raise SchemaError(
            f"{rows} training rows for {world_size} ranks; set training.devices to {max(1, rows)} or less"
        )
    return Plan(tuple(g for g in groups if g.rows), world_size, min(batch_size, rows // world_size), seed)


def _ring(groups: Sequence[TrainingGroup], ends: np.ndarray, start: int, stop: int) -> list[Extent]:
    """The extents of ring positions `start` to `stop`; positions past the end go on at the beginning."""
    total = int(ends[-1])
    start, stop = start % total, start % total + (stop - start)
    if stop > total:
        return _ring(groups, ends, start, total) + _ring(groups, ends, 0, stop - total)
    extents = []
    index = int(np.searchsorted(ends, start, side="right"))
    while start < stop:
        begin = int(ends[index]) - groups[index].rows
        end = min(stop, int(ends[index]))
        extents.append(Extent(groups[index], start - begin, end - begin))
        start, index = end, index + 1
    return extents

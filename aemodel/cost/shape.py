"""What the cost of a run depends on: the table and the network in figures, and the machine."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from aemodel.pca import GRAM_ROWS
from aemodel.prepared import ANCHOR_ROWS, HELD_OUT_ROWS
from aemodel.reservoir import KEPT_CELLS
from aemodel.snapshot import BATCH_CELLS, BATCH_ROWS


@dataclass(frozen=True)
class Shape:
    """All that the cost depends on. `values` and `categorical`: encoded numbers and codes of a row; `width`: dimensions
    of the linear space; `inputs`: what the network's first layer sees; `groups`: row groups; `decoded_bytes`: all
    columns, decoded; `carried`, `carried_row_bytes`: those that are written out; `features`: new columns of numbers;
    `group_rows`, `group_bytes`: of the largest row group; `batch_size`: of one rank; `threads`: that score batches at
    once; `cache_bytes`: of the disk, that encoded rows may take; `bf16`, `compiles`: the job allows it and trains long
    enough for it."""

    rows: int
    groups: int
    columns: int
    categorical: int
    values: int
    width: int
    inputs: int
    carried: int
    carried_row_bytes: float
    latent_dim: int
    features: int
    hidden: tuple[int, ...]
    holdout: float
    decoded_bytes: int
    group_rows: int
    group_bytes: int
    batch_size: int
    steps_per_epoch: int
    max_epochs: int
    check_epochs: int
    ranks: int
    threads: int
    cache_bytes: int
    bf16: bool = False
    compiles: bool = False

    @property
    def held_out(self) -> int:
        """Held-out rows that are kept."""
        return min(self._most_kept(HELD_OUT_ROWS), round(self.rows * self.holdout))

    @property
    def anchors(self) -> int:
        """Training rows that are kept."""
        return min(self._most_kept(ANCHOR_ROWS), self.training_rows)

    @property
    def training_rows(self) -> int:
        return max(1, round(self.rows * (1 - self.holdout)))

    @property
    def cells(self) -> int:
        """Numbers and codes of a row: the elements of a vector are cells of their own."""
        return self.values + self.categorical

    @property
    def encoded_row_bytes(self) -> int:
        return 4 * self.cells

    @property
    def row_bytes(self) -> float:
        """Of a decoded row."""
        return self.group_bytes / self.group_rows

    @property
    def batch_rows(self) -> int:
        """Rows that are read at once, where they are not wide."""
        return min(BATCH_ROWS, self.group_rows)

    @property
    def rows_at_once(self) -> float:
        """Rows that are read at once."""
        return min(self.batch_rows, BATCH_CELLS / max(1, self.cells))

    @property
    def batch_bytes(self) -> float:
        """Of what is read at once."""
        return self.row_bytes * self.rows_at_once

    @property
    def weights(self) -> int:
        """Of the network, about."""
        return self.encoder_weights + _weights(self.latent_dim, *self.hidden, self.width)

    @property
    def encoder_weights(self) -> int:
        return _weights(self.inputs, *self.hidden, self.latent_dim)

    @property
    def not_encoded(self) -> float:
        """The share of the training rows that the first epoch decodes: what the Gram matrix was made of is in the
        cache."""
        return max(self.uncached, 1 - GRAM_ROWS / max(GRAM_ROWS, self.training_rows))

    @property
    def uncached(self) -> float:
        """The share of the training rows that is decoded anew in each epoch, from 0 to 1."""
        encoded = self.training_rows * self.encoded_row_bytes
        return max(0.0, 1 - self.cache_bytes / max(1, encoded))

    def _most_kept(self, rows: int) -> int:
        """Rows of a reservoir."""
        return min(rows, max(1_024, KEPT_CELLS // max(1, self.cells)))


@dataclass(frozen=True)
class Machine:
    """`slowness`: of one core at plain work, 1 on the reference machine; `step` and `forward`: seconds that the bare
    layers of the network take for a training step and, by row, for scoring; `operations`: of a matmul, a second."""

    cores: int
    gpus: int
    memory_bytes: int
    slowness: float
    step: float
    forward: float
    operations: float


def _weights(*sizes: int) -> int:
    return sum(a * b for a, b in pairwise(sizes))

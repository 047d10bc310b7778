"""What a run takes, in seconds and bytes: pure functions of the table's shape and the machine's speed.

The constants are those of one machine, two virtual cores with AVX-512; `Machine` says how much slower or faster
another is. `python -m benchmarks.preflight` compares them with real runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from aemodel.layout import AT_ONCE_DIMENSIONS, AT_ONCE_ROWS
from aemodel.part import GROUP_ROWS
from aemodel.pca import BLOCK_CELLS, BLOCK_ROWS, GRAM_ROWS
from aemodel.plan import WINDOW_ROWS
from aemodel.prepared import ANCHOR_ROWS, AT_ONCE, HELD_OUT_ROWS
from aemodel.reservoir import KEPT_CELLS
from aemodel.schedule import LOOKED_AT_ROWS
from aemodel.snapshot import BATCH_CELLS, BATCH_ROWS
from aemodel.statistics import SAMPLE_CELLS, SAMPLE_ROWS

MICROSECOND, MEGABYTE = 1e-6, 2**20

# Seconds on the reference machine; a cell is a row of an input column, a dimension a row of one of the linear space.
#: Start the command: its libraries, what is known of an earlier run.
START = 5.5
#: Prepare: open registry and files, then by row group (read overhead) and cell (split, statistics);
#: of the rows that the Gram matrix is made of, by cell (encoding) and dimension.
PREPARE_START, PREPARE_GROUP, PREPARE_CELL = 2.5, 0.003, 0.022 * MICROSECOND
GRAM_CELL, GRAM_DIMENSION = 0.03 * MICROSECOND, 0.012 * MICROSECOND
#: The eigenvectors of a width × width matrix take this many width³ operations.
EIGEN_OPERATIONS = 10
#: Training: start the ranks and load their libraries.
TRAIN_START = 8.0
#: A step beyond the network's layers: Lightning, optimiser and average; by row of the batch, cell and dimension.
STEP_START, STEP_ROW, STEP_CELL, STEP_DIMENSION = 1e-3, 0.5e-6, 0.009 * MICROSECOND, 0.0093 * MICROSECOND
#: The first epoch, as far as preparing has not, and a later one as far as it does not fit the cache, decode and encode
#: their rows: what the steps beside it leave visible of that.
DECODE_CELL = 0.045 * MICROSECOND
#: A look at held-out rows, by dimension.
CHECK_DIMENSION = 0.015 * MICROSECOND
#: Evaluate, register, report: at least, by input column, by dimension of a held-out row.
EVALUATE_START, EVALUATE_COLUMN, EVALUATE_DIMENSION = 1.8, 0.009, 0.1 * MICROSECOND
#: Scoring: load the model, then by row, cell, dimension, and column written (carried or new).
SCORE_START, SCORE_GROUP = 0.3, 0.001
SCORE_ROW, SCORE_CELL, SCORE_DIMENSION, WRITE_CELL = (
    0.35 * MICROSECOND,
    0.042 * MICROSECOND,
    0.019 * MICROSECOND,
    0.056 * MICROSECOND,
)

# Bytes.
#: Private memory of the command's own process, and of a rank, once libraries are loaded.
PARENT_BYTES, RANK_BYTES = 500 * MEGABYTE, 480 * MEGABYTE
#: What is computed of a row that is scored, and lives at once, by dimension and by cell.
SCORE_DIMENSION_BYTES, SCORE_CELL_BYTES = 17, 21
#: Of a scored row that waits to be written, by latent: two copies.
SCORED_BYTES = 8
#: Copies of a Gram matrix while its eigenvectors are looked for, and of the rows that it is made of.
GRAM_COPIES, BLOCK_COPIES = 6, 3
#: Of a page and of a column's dictionary, decompressed, as writers make them.
PAGE_BYTES = MEGABYTE
#: Of a column: what is fitted of it, in all forms that it is held in, and what reading it takes beside its page.
COLUMN_BYTES = 330_000
#: What the heap takes of what is held of it at once, where many threads take and free.
HEAP = 1.15
#: What a compiler holds, in the process that it compiles for.
COMPILER_BYTES = 250 * MEGABYTE
#: Windows of encoded rows: the one in use, and the next one.
WINDOW_COPIES = 2
#: Weights, gradients, two moments, moving average, the best of it, and the larger part of a checkpoint in writing.
WEIGHT_COPIES = 7


@dataclass(frozen=True)
class Shape:
    """All that the cost depends on. `values` and `categorical`: encoded numbers and codes of a row; `width`: dimensions
    of the linear space; `inputs`: what the network's first layer sees; `carried`: input columns that are written out;
    `groups`: row groups; `decoded_bytes`: all columns, decoded; `group_rows`, `group_bytes`: of the largest row group;
    `batch_size`: of one rank; `threads`: that score batches at
    once; `cache_bytes`: of the disk, that encoded rows may take; `bf16`, `compiles`: the job allows it and trains
    long enough for it."""

    rows: int
    groups: int
    columns: int
    categorical: int
    values: int
    width: int
    inputs: int
    carried: int
    latent_dim: int
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
        return min(HELD_OUT_ROWS, round(self.rows * self.holdout))

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
    def batch_bytes(self) -> float:
        """Of what is read at once."""
        return self.row_bytes * min(self.batch_rows, BATCH_CELLS / max(1, self.cells))

    @property
    def weights(self) -> int:
        """Of the network, about."""
        ways = (self.inputs, *self.hidden, self.latent_dim), (self.latent_dim, *self.hidden, self.width)
        return sum(a * b for sizes in ways for a, b in pairwise(sizes))


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
    first = epoch + decoding * not_encoded(shape)
    later = epoch + decoding * uncached(shape)
    return Estimate(
        start=machine.slowness * START,
        prepare=prepare_seconds(shape, machine),
        step=step,
        first_epoch=first,
        epoch=later,
        train=train_seconds(shape, machine, first, later),
        evaluate=machine.slowness
        * (EVALUATE_START + EVALUATE_COLUMN * shape.columns + EVALUATE_DIMENSION * shape.held_out * shape.width),
        score=score_seconds(shape, machine),
        prepare_bytes=prepare_bytes(shape),
        train_bytes=train_bytes(shape),
        score_bytes=score_bytes(shape),
    )


def prepare_seconds(shape: Shape, machine: Machine) -> float:
    """Statistics of all rows and the Gram matrix of a sample."""
    plain = PREPARE_START + PREPARE_GROUP * shape.groups + PREPARE_CELL * shape.rows * shape.cells
    sampled = min(GRAM_ROWS, shape.training_rows)
    plain += sampled * (GRAM_CELL * shape.cells + GRAM_DIMENSION * shape.width)
    products = 2.0 * sampled * shape.width**2 + EIGEN_OPERATIONS * float(shape.width) ** 3
    return machine.slowness * plain + products / machine.operations


def step_seconds(shape: Shape, machine: Machine) -> float:
    """One optimiser step: noise, loss and optimiser around the layers. On a GPU those cost next to nothing a cell."""
    rows = 0 if machine.gpus else shape.batch_size
    by_row = STEP_ROW + STEP_CELL * shape.cells + STEP_DIMENSION * shape.width
    return machine.step + machine.slowness * (STEP_START + rows * by_row)


def decode_seconds(shape: Shape, machine: Machine) -> float:
    """Reading all training rows once; the ranks share them."""
    by_group = PREPARE_GROUP * shape.groups + DECODE_CELL * shape.rows * shape.cells
    return machine.slowness * by_group / shape.ranks


def not_encoded(shape: Shape) -> float:
    """The share of the training rows that the first epoch decodes: what the Gram matrix was made of is in the cache."""
    return max(uncached(shape), 1 - GRAM_ROWS / max(GRAM_ROWS, shape.training_rows))


def uncached(shape: Shape) -> float:
    """The share of the training rows that is decoded anew in each epoch, from 0 to 1."""
    encoded = shape.training_rows * shape.encoded_row_bytes
    return max(0.0, 1 - shape.cache_bytes / max(1, encoded))


def train_seconds(shape: Shape, machine: Machine, first: float, later: float) -> float:
    """Start, epochs with their looks at held-out rows, and the calibration on held-out and kept training rows."""
    checks = 1 + shape.max_epochs / max(1, shape.check_epochs)
    looks = checks * CHECK_DIMENSION * min(LOOKED_AT_ROWS, shape.held_out) * shape.width / shape.ranks
    measured = (shape.held_out + min(ANCHOR_ROWS, shape.training_rows)) * _score_row(shape, machine)
    return machine.slowness * (TRAIN_START + looks) + measured + first + (shape.max_epochs - 1) * later


def score_seconds(shape: Shape, machine: Machine) -> float:
    """All rows, scored, written and read back."""
    written = WRITE_CELL * (shape.carried + shape.latent_dim)
    row = _score_row(shape, machine) + machine.slowness * written
    return machine.slowness * (SCORE_START + SCORE_GROUP * shape.groups) + shape.rows * row


def _score_row(shape: Shape, machine: Machine) -> float:
    by_row = SCORE_ROW + SCORE_CELL * shape.cells + SCORE_DIMENSION * shape.width
    return machine.forward + machine.slowness * by_row


def train_bytes(shape: Shape) -> int:
    """At the peak of training, summed over the processes of this machine."""
    window = min(WINDOW_ROWS, shape.training_rows) * shape.encoded_row_bytes
    group = shape.group_rows * shape.encoded_row_bytes
    scored = SCORE_DIMENSION_BYTES * shape.width + SCORE_CELL_BYTES * shape.cells
    kept = shape.held_out * (shape.encoded_row_bytes + 4 * shape.width + scored)
    rank = RANK_BYTES + WINDOW_COPIES * window + group + shape.group_bytes
    rank += kept + 4 * WEIGHT_COPIES * shape.weights + COMPILER_BYTES * shape.compiles
    gram = 16 * shape.width**2
    return PARENT_BYTES + gram + shape.ranks * rank


def prepare_bytes(shape: Shape) -> int:
    """At the peak of preparing: what is read, by as many threads as read at once, what is sampled of row groups that
    wait to be added up, and of the whole; then row groups that wait encoded, and what the Gram matrix is made by."""
    readers, waiting = min(AT_ONCE, shape.groups), min(AT_ONCE + 2, shape.groups)
    cells = min(BATCH_CELLS, shape.batch_rows * shape.cells)
    reading = readers * (_page_bytes(shape) + 2 * shape.batch_bytes + 16 * cells)
    numbers = 8 * shape.values * min(SAMPLE_ROWS, SAMPLE_CELLS / max(1, shape.values), shape.training_rows)
    held = min(_most_kept(shape, HELD_OUT_ROWS), shape.rows * shape.holdout)
    anchors = min(_most_kept(shape, ANCHOR_ROWS), shape.training_rows)
    kept = shape.row_bytes * (held + anchors)
    of_a_group = min(numbers, 8 * shape.values * shape.group_rows)
    of_a_group += shape.row_bytes * (min(held, shape.group_rows * shape.holdout) + min(2 * anchors, shape.group_rows))
    statistics = reading + waiting * of_a_group + 3 * (numbers + kept)
    encoding = readers * (_page_bytes(shape) + 2 * shape.batch_bytes + 4 * cells)
    block = 4 * BLOCK_COPIES * min(shape.width * min(BLOCK_ROWS, shape.group_rows), BLOCK_CELLS)
    gram = 8 * GRAM_COPIES * shape.width**2 + block
    products = encoding + waiting * shape.group_rows * shape.encoded_row_bytes + gram + kept + numbers
    return round(PARENT_BYTES + HEAP * max(statistics, products))


def score_bytes(shape: Shape) -> int:
    """At the peak of scoring: batches that wait, what each thread makes of its part, and what is read and written."""
    waiting = min((shape.threads + 3) * shape.batch_bytes, shape.decoded_bytes)
    waiting += (shape.threads + 3) * SCORED_BYTES * shape.batch_rows * shape.latent_dim
    rows = min(AT_ONCE_ROWS, shape.batch_rows)
    measured = SCORE_DIMENSION_BYTES * min(AT_ONCE_DIMENSIONS, rows * shape.width)
    measured += SCORE_CELL_BYTES * min(AT_ONCE_DIMENSIONS, rows * shape.cells)
    computed = shape.threads * (measured + 4 * min(BATCH_CELLS, shape.batch_rows * shape.cells))
    written = min(GROUP_ROWS, shape.rows) * 8 * (shape.carried + shape.latent_dim)
    held = waiting + computed + written + _page_bytes(shape) + COLUMN_BYTES * shape.columns + 4 * shape.weights
    return round(PARENT_BYTES + HEAP * held)


def _page_bytes(shape: Shape) -> int:
    """Of the pages that are read at once, one a column."""
    return 2 * min(shape.group_bytes, PAGE_BYTES * shape.columns)


def _most_kept(shape: Shape, rows: int) -> float:
    """Rows of a reservoir."""
    return min(rows, max(1_024, KEPT_CELLS / max(1, shape.cells)))

"""How long a run takes, phase by phase."""

from __future__ import annotations

from aemodel.card.influence import affordable_rows
from aemodel.cost.shape import Machine, Shape
from aemodel.pca import GRAM_ROWS
from aemodel.schedule import LOOKED_AT_ROWS

MICROSECOND = 1e-6

# Seconds on the reference machine; a cell is a row of an input column, a dimension a row of one of the linear space.
#: Start the command: its libraries, what is known of an earlier run.
START = 5.5
#: Prepare: open registry and files, then by input column (fitted and written), row group (read overhead) and cell
#: (split, statistics); of the rows that the Gram matrix is made of, by cell (encoding) and dimension.
PREPARE_START, PREPARE_COLUMN, PREPARE_GROUP, PREPARE_CELL = 2.5, 0.0025, 0.003, 0.022 * MICROSECOND
GRAM_CELL, GRAM_DIMENSION = 0.03 * MICROSECOND, 0.012 * MICROSECOND
#: The eigenvectors of a width × width matrix take this many width³ operations.
EIGEN_OPERATIONS = 10
#: Training: start the ranks and load their libraries.
TRAIN_START = 8.0
#: Of a step, the network's layers as part of it: what lies in a processor's cache when they run alone does not then.
AMONG_OTHERS = 1.1
#: A step beyond the network's layers: Lightning, optimiser and average; by row of the batch, cell and dimension.
STEP_START, STEP_ROW, STEP_CELL, STEP_DIMENSION = 1e-3, 0.5e-6, 0.009 * MICROSECOND, 0.0093 * MICROSECOND
#: The first epoch, as far as preparing has not, and a later one as far as it does not fit the cache, decode and encode
#: their rows: what the steps beside it leave visible of that.
DECODE_CELL = 0.045 * MICROSECOND
#: A look at held-out rows, by dimension.
CHECK_DIMENSION = 0.015 * MICROSECOND
#: Evaluate, register, report: at least, by input column, by dimension of a held-out row.
EVALUATE_START, EVALUATE_COLUMN, EVALUATE_DIMENSION = 1.8, 0.005, 0.1 * MICROSECOND
#: Scoring: load the model, at least and by input column, then by row group, row, cell, dimension, and column written
#: (carried or new).
SCORE_START, SCORE_COLUMN, SCORE_GROUP = 0.3, 0.001, 0.001
SCORE_ROW, SCORE_CELL, SCORE_DIMENSION, WRITE_CELL = (
    0.35 * MICROSECOND,
    0.042 * MICROSECOND,
    0.019 * MICROSECOND,
    0.056 * MICROSECOND,
)


def prepare_seconds(shape: Shape, machine: Machine) -> float:
    """Statistics of all rows and the Gram matrix of a sample."""
    plain = PREPARE_START + PREPARE_COLUMN * shape.columns + PREPARE_GROUP * shape.groups
    plain += PREPARE_CELL * shape.rows * shape.cells
    sampled = min(GRAM_ROWS, shape.training_rows)
    plain += sampled * (GRAM_CELL * shape.cells + GRAM_DIMENSION * shape.width)
    products = 2.0 * sampled * shape.width**2 + EIGEN_OPERATIONS * float(shape.width) ** 3
    return machine.slowness * plain + products / machine.operations


def step_seconds(shape: Shape, machine: Machine) -> float:
    """One optimiser step: noise, loss and optimiser around the layers. On a GPU those cost next to nothing a cell."""
    rows = 0 if machine.gpus else shape.batch_size
    by_row = STEP_ROW + STEP_CELL * shape.cells + STEP_DIMENSION * shape.width
    return (1.0 if machine.gpus else AMONG_OTHERS) * machine.step + machine.slowness * (STEP_START + rows * by_row)


def decode_seconds(shape: Shape, machine: Machine) -> float:
    """Reading all training rows once; the ranks share them."""
    by_group = PREPARE_GROUP * shape.groups + DECODE_CELL * shape.rows * shape.cells
    return machine.slowness * by_group / shape.ranks


def train_seconds(shape: Shape, machine: Machine, first: float, later: float) -> float:
    """Start, epochs with their looks at held-out rows, and the calibration on held-out and kept training rows."""
    checks = 1 + shape.max_epochs / max(1, shape.check_epochs)
    looks = checks * CHECK_DIMENSION * min(LOOKED_AT_ROWS, shape.held_out) * shape.width / shape.ranks
    measured = (shape.held_out + shape.anchors) * _score_row(shape, machine)
    return machine.slowness * (TRAIN_START + looks) + measured + first + (shape.max_epochs - 1) * later


def evaluate_seconds(shape: Shape, machine: Machine) -> float:
    """Figures of the held-out rows, and what drives the latents: a pass through the encoder for each input column."""
    plain = EVALUATE_START + EVALUATE_COLUMN * shape.columns + EVALUATE_DIMENSION * shape.held_out * shape.width
    passes = 2.0 * shape.columns * affordable_rows(shape.columns, shape.width) * shape.encoder_weights
    return machine.slowness * plain + passes / machine.operations


def score_seconds(shape: Shape, machine: Machine) -> float:
    """All rows, scored, written and read back."""
    written = WRITE_CELL * (shape.carried + shape.features)
    row = _score_row(shape, machine) + machine.slowness * written
    plain = SCORE_START + SCORE_COLUMN * shape.columns + SCORE_GROUP * shape.groups
    return machine.slowness * plain + shape.rows * row


def _score_row(shape: Shape, machine: Machine) -> float:
    by_row = SCORE_ROW + SCORE_CELL * shape.cells + SCORE_DIMENSION * shape.width
    return machine.forward + machine.slowness * by_row

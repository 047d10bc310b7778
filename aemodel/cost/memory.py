"""How many bytes a run takes at the peak of each phase, summed over its processes on this machine."""

from __future__ import annotations

from aemodel.cost.shape import Shape
from aemodel.layout import AT_ONCE_DIMENSIONS, AT_ONCE_ROWS
from aemodel.part import GROUP_BYTES, GROUP_ROWS
from aemodel.pca import BLOCK_CELLS, BLOCK_ROWS
from aemodel.plan import WINDOW_ROWS
from aemodel.prepared import AT_ONCE
from aemodel.snapshot import BATCH_CELLS
from aemodel.statistics import SAMPLE_CELLS, SAMPLE_ROWS

MEGABYTE = 2**20

#: Private memory of the command's own process, and of a rank, once libraries are loaded.
PARENT_BYTES, RANK_BYTES = 500 * MEGABYTE, 480 * MEGABYTE
#: What the heap takes of what is held of it at once: arrays that are read and sampled, most of a size; and of many
#: sizes, that training steps or several threads take and free.
READING_HEAP, HEAP = 1.15, 1.5
#: Of a column, what is fitted of it, in all forms that it is held in.
COLUMN_BYTES = 65_000
#: What is computed of a row that is measured, and lives at once, by dimension and by cell.
MEASURED_DIMENSION_BYTES, MEASURED_CELL_BYTES = 17, 21
#: Of a scored row that waits to be written, by feature column: two copies.
SCORED_BYTES = 8
#: Of a page and of a column's dictionary, decompressed, as writers make them.
PAGE_BYTES = MEGABYTE
#: Batches of a file that is read back: of the input, of the output, and while they are cut alike.
CHECKED_COPIES = 3
#: Copies of a Gram matrix while its eigenvectors are looked for, and of the rows that it is made of.
GRAM_COPIES, BLOCK_COPIES = 6, 3
#: What a compiler holds, in the process that it compiles for.
COMPILER_BYTES = 250 * MEGABYTE
#: Windows of encoded rows: the one in use, and the next one.
WINDOW_COPIES = 2
#: Of what a step computes of its rows: of their dimensions, in and out, and of each hidden layer, both ways.
STEP_COPIES, HIDDEN_COPIES = 4, 8
#: Weights, gradients, two moments, moving average, the best of it, and the larger part of a checkpoint in writing.
WEIGHT_COPIES = 7


def prepare_bytes(shape: Shape) -> int:
    """What is read, by as many threads as read at once, what is sampled of row groups that wait to be added up, and of
    the whole; then row groups that wait encoded, and what the Gram matrix is made by."""
    readers, waiting = min(AT_ONCE, shape.groups), min(AT_ONCE + 2, shape.groups)
    cells = min(BATCH_CELLS, shape.batch_rows * shape.cells)
    reading = readers * (_page_bytes(shape) + 2 * shape.batch_bytes + 16 * cells)
    numbers = 8 * shape.values * min(SAMPLE_ROWS, SAMPLE_CELLS / max(1, shape.values), shape.training_rows)
    kept = shape.row_bytes * (shape.held_out + shape.anchors)
    held_of_group = min(shape.held_out, shape.group_rows * shape.holdout)
    of_a_group = min(numbers, 8 * shape.values * shape.group_rows)
    of_a_group += shape.row_bytes * (held_of_group + min(2 * shape.anchors, shape.group_rows))
    statistics = reading + waiting * of_a_group + 3 * (numbers + kept)
    encoding = readers * (_page_bytes(shape) + 2 * shape.batch_bytes + 4 * cells)
    block = 4 * BLOCK_COPIES * min(shape.width * min(BLOCK_ROWS, shape.group_rows), BLOCK_CELLS)
    gram = 8 * GRAM_COPIES * shape.width**2 + block
    products = encoding + waiting * shape.group_rows * shape.encoded_row_bytes + gram + kept + numbers
    return round(PARENT_BYTES + READING_HEAP * max(statistics, products))


def train_bytes(shape: Shape) -> int:
    """Rows that are kept, and beside them those of the steps, in each rank; in the first, once that has ended, what
    the kept rows are measured with."""
    fixed = RANK_BYTES + COLUMN_BYTES * shape.columns + COMPILER_BYTES * shape.compiles
    fixed += 4 * WEIGHT_COPIES * shape.weights
    loaded = shape.row_bytes * (shape.held_out + shape.anchors) + shape.encoded_row_bytes * shape.held_out
    steps = WINDOW_COPIES * min(WINDOW_ROWS, shape.training_rows) * shape.encoded_row_bytes
    steps += 4 * shape.batch_size * (STEP_COPIES * (shape.inputs + shape.width) + HIDDEN_COPIES * sum(shape.hidden))
    if shape.not_encoded:
        steps += shape.group_rows * shape.encoded_row_bytes + shape.group_bytes
    measured = shape.anchors * (shape.encoded_row_bytes + 16 * shape.values + 8 * shape.width)
    measured += 16 * shape.columns * shape.held_out + _measured_bytes(shape)
    first, other = (fixed + HEAP * (loaded + beside) for beside in (max(steps, measured), steps))
    return round(PARENT_BYTES + first + (shape.ranks - 1) * other)


def score_bytes(shape: Shape) -> int:
    """Batches that wait, what each thread makes of its part, and what is read, written and read back."""
    waiting = min((shape.threads + 3) * shape.batch_bytes, shape.decoded_bytes)
    new = SCORED_BYTES * min(BATCH_CELLS, shape.batch_rows * shape.features)
    waiting += (shape.threads + 3) * new
    computed = shape.threads * (_measured_bytes(shape) + 4 * min(BATCH_CELLS, shape.batch_rows * shape.cells))
    batch = shape.carried_row_bytes * shape.rows_at_once + new
    row = shape.carried_row_bytes + SCORED_BYTES * shape.features
    written = min(GROUP_BYTES + batch, min(GROUP_ROWS, shape.rows) * row) + CHECKED_COPIES * batch
    held = waiting + computed + written + _page_bytes(shape) + 4 * shape.weights
    return round(PARENT_BYTES + COLUMN_BYTES * shape.columns + HEAP * held)


def _measured_bytes(shape: Shape) -> int:
    """Of rows that are measured at once."""
    rows = min(AT_ONCE_ROWS, shape.batch_rows)
    by_dimension = MEASURED_DIMENSION_BYTES * min(AT_ONCE_DIMENSIONS, rows * shape.width)
    return by_dimension + MEASURED_CELL_BYTES * min(AT_ONCE_DIMENSIONS, rows * shape.cells)


def _page_bytes(shape: Shape) -> int:
    """Of the pages that are read at once, one a column."""
    return 2 * min(shape.group_bytes, PAGE_BYTES * shape.columns)

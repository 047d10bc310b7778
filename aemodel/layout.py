"""How encoded rows are laid out, and what a model may know of the columns behind them.

Encoded rows are compact: one float32 per number, one int32 code per categorical cell. A model expands them to
the *linear space* of `width` dimensions, in which reconstruction is measured and principal axes are taken:

    [ values … | missing flags … | one-hot levels … ]      x = (raw − center) × scale

The scale gives every source column a total variance of one, so that a column counts once, however many
dimensions it takes. Within a column, errors are squared differences: of normal scores for numbers, of the unit
circle for times, and the quadratic (Brier) score for levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aemodel.config import Kind

MISSING, OTHER, FIRST_LEVEL = 0, 1, 2
#: Levels of a categorical column, by frequency, that have a dimension of their own; the rest share "other".
LINEAR_LEVELS = 64
#: Rows that a network and distances are computed of at once, and dimensions of them: what is made of more leaves the
#: processor's cache, and where rows are wide takes much memory.
AT_ONCE_ROWS, AT_ONCE_DIMENSIONS = 4_096, 4_194_304


@dataclass(frozen=True)
class Block:
    """The dimensions of one source column."""

    column: str
    kind: Kind
    values: tuple[int, int] = (0, 0)
    flag: int | None = None
    code: int | None = None
    num_levels: int = 0
    levels: tuple[int, int] = (0, 0)

    @property
    def dimensions(self) -> list[int]:
        """Indices in the linear space."""
        flag = [] if self.flag is None else [self.flag]
        return [*range(*self.values), *flag, *range(*self.levels)]


@dataclass(frozen=True)
class Layout:
    """`center` and `scale` have shape (width,)."""

    blocks: tuple[Block, ...]
    num_values: int
    num_codes: int
    width: int
    center: np.ndarray
    scale: np.ndarray

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(b.column for b in self.blocks)

    @property
    def rows_at_once(self) -> int:
        """How many rows of this width are computed of at once."""
        return min(AT_ONCE_ROWS, max(1, AT_ONCE_DIMENSIONS // max(1, self.width)))

    @property
    def flags(self) -> list[Block]:
        return [b for b in self.blocks if b.flag is not None]

    @property
    def categorical(self) -> list[Block]:
        return [b for b in self.blocks if b.code is not None]

    def column_of_dimension(self) -> np.ndarray:
        """int64 of shape (width,): the index of the block that a dimension belongs to."""
        owner = np.full(self.width, -1)
        for index, block in enumerate(self.blocks):
            owner[block.dimensions] = index
        assert (owner >= 0).all()
        return owner

    def cell_of_value(self) -> np.ndarray:
        """int64 of shape (num_values,): which cell of a row a value belongs to; the unit that noise replaces.

        The parts of a time are one cell; the elements of a vector are one each.
        """
        cells, count = np.zeros(self.num_values, np.int64), 0
        for block in self.blocks:
            start, stop = block.values
            if block.kind == "vector":
                cells[start:stop] = count + np.arange(stop - start)
                count += stop - start
            elif stop > start:
                cells[start:stop] = count
                count += 1
        return cells


@dataclass(frozen=True)
class EncodedRows:
    """`values` float32 (rows, num_values), NaN where missing; `codes` int32 (rows, num_codes).

    `nulled`: cells by column that were present in the input and could not be used.
    """

    values: np.ndarray
    codes: np.ndarray
    nulled: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.codes.nbytes

    def __getitem__(self, rows: np.ndarray | slice) -> EncodedRows:
        return EncodedRows(self.values[rows], self.codes[rows])

    @staticmethod
    def concatenated(parts: Sequence[EncodedRows]) -> EncodedRows:
        nulled = tuple(int(n) for n in np.sum([p.nulled for p in parts], axis=0)) if parts[0].nulled else ()
        return EncodedRows(np.concatenate([p.values for p in parts]), np.concatenate([p.codes for p in parts]), nulled)

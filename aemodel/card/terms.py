"""The dimensions of the linear space in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aemodel.errors import plain
from aemodel.layout import FIRST_LEVEL, Block
from aemodel.transform import ColumnTransform, Transform

#: The parts of a time beside itself, as `aemodel.cells.calendar` gives them.
CALENDAR = ("day_sin", "day_cos", "week_sin", "week_cos", "year_sin", "year_cos")
MISSING, OTHER = "(missing)", "(other)"


@dataclass(frozen=True)
class Term:
    """A dimension: the input it belongs to, and `text` such as `age`, `sex=Male`, `scan[3]`, `placed.day_sin`."""

    input: str
    text: str


def terms(transform: Transform) -> tuple[Term, ...]:
    """The dimensions of the linear space, in order (width,)."""
    found: dict[int, Term] = {}
    for column, block in zip(transform.columns, transform.layout.blocks, strict=True):
        texts = _texts(column, block)
        found |= {d: Term(block.column, text) for d, text in zip(block.dimensions, texts, strict=True)}
    return tuple(found[d] for d in range(transform.layout.width))


def _texts(column: ColumnTransform, block: Block) -> Iterator[str]:
    """One for each of the block's dimensions, in their order."""
    name, size = plain(block.column), block.values[1] - block.values[0]
    if block.kind == "categorical":
        named = column.vocabulary[: len(block.dimensions) - FIRST_LEVEL]
        yield from (f"{name}={plain(level, 40)}" for level in (MISSING, OTHER, *named))
    elif block.kind == "vector":
        yield from (f"{name}[{i}]" for i in range(size))
    elif block.kind == "datetime":
        yield from (name, *(f"{name}.{part}" for part in CALENDAR))
    else:
        yield name
    if block.flag is not None:
        yield f"{name}={MISSING}"

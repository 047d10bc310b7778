"""A latent card, and a table of them: one row a feature column, so that it can be joined and queried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class Loading:
    """`weight`: by how much the feature column rises with the term, one dimension of the linear space."""

    input: str
    term: str
    weight: float


@dataclass(frozen=True)
class Share:
    """`share`: Jansen's total index, the part of the feature column's variance that an input takes part in."""

    input: str
    share: float


@dataclass(frozen=True)
class Gain:
    """`r2`: by how much R² of an input rises when this feature column is decoded beside those before it."""

    input: str
    r2: float


@dataclass(frozen=True)
class Change:
    """What is decoded one standard deviation below and above the mean, as text.

    `change` from low to high: in the units of a number, in days of a time, as a share of a level, a boolean or missing
    cells; of a vector the root mean square over its elements.
    """

    input: str
    term: str
    low: str
    high: str
    change: float


@dataclass(frozen=True)
class Cell:
    name: str
    text: str


@dataclass(frozen=True)
class Exemplar:
    """A row at one end of a feature column: its `value` there, and its cells, those of the keys first."""

    value: float
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class LatentCard:
    """Lists hold the largest first. None where the rows do not vary, or are too few to say."""

    column: str
    name: str
    surrogate_r2: float | None
    nonlinear_share: float | None
    robustness: float | None
    std: float
    nested_gain: float
    loadings: tuple[Loading, ...]
    drivers: tuple[Share, ...]
    gains: tuple[Gain, ...]
    traversal: tuple[Change, ...]
    exemplars_low: tuple[Exemplar, ...]
    exemplars_high: tuple[Exemplar, ...]


def _list_of(**fields: pa.DataType) -> pa.DataType:
    return pa.list_(pa.struct(list(fields.items())))


_TEXT, _NUMBER = pa.string(), pa.float64()
_EXEMPLARS = _list_of(value=_NUMBER, cells=_list_of(name=_TEXT, text=_TEXT))
SCHEMA = pa.schema(
    {
        "column": _TEXT,
        "name": _TEXT,
        "surrogate_r2": _NUMBER,
        "nonlinear_share": _NUMBER,
        "robustness": _NUMBER,
        "std": _NUMBER,
        "nested_gain": _NUMBER,
        "loadings": _list_of(input=_TEXT, term=_TEXT, weight=_NUMBER),
        "drivers": _list_of(input=_TEXT, share=_NUMBER),
        "gains": _list_of(input=_TEXT, r2=_NUMBER),
        "traversal": _list_of(input=_TEXT, term=_TEXT, low=_TEXT, high=_TEXT, change=_NUMBER),
        "exemplars_low": _EXEMPLARS,
        "exemplars_high": _EXEMPLARS,
    }
)


def as_table(cards: Sequence[LatentCard]) -> pa.Table:
    return pa.Table.from_pylist([asdict(c) for c in cards], schema=SCHEMA)


def from_table(table: pa.Table) -> tuple[LatentCard, ...]:
    return tuple(_card(row) for row in table.to_pylist())


def _card(row: dict[str, Any]) -> LatentCard:
    lists = {
        "loadings": tuple(Loading(**e) for e in row["loadings"]),
        "drivers": tuple(Share(**e) for e in row["drivers"]),
        "gains": tuple(Gain(**e) for e in row["gains"]),
        "traversal": tuple(Change(**e) for e in row["traversal"]),
        "exemplars_low": _exemplars(row["exemplars_low"]),
        "exemplars_high": _exemplars(row["exemplars_high"]),
    }
    return LatentCard(**(row | lists))


def _exemplars(entries: list[dict[str, Any]]) -> tuple[Exemplar, ...]:
    return tuple(Exemplar(e["value"], tuple(Cell(**c) for c in e["cells"])) for e in entries)

"""Why a row is strange: the columns that deviate most, what they hold, and what was expected there, as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from aemodel.anomaly import Evidence
from aemodel.bundle import Bundle
from aemodel.columns import NUM_REASONS
from aemodel.layout import EncodedRows

#: From this rank on a row is strange enough to be told what was expected instead.
EXPLAINED_RANK = 0.99
#: Columns of a strange row that are looked at for reasons: some hold what was expected and explain nothing.
CANDIDATES = 3 * NUM_REASONS
#: Significant digits of an expected number, which is not meant to be exact.
EXPECTED_DIGITS = 4
#: What arithmetic leaves over where nothing is.
ROUNDED_AWAY = 1e-12


@dataclass(frozen=True)
class Strange:
    """Rows that are strange enough to be explained: their `places` (rows,) among those that they were found in, their
    inputs encoded, and as latents `z`."""

    places: np.ndarray
    rows: EncodedRows
    evidence: Evidence
    z: torch.Tensor

    @classmethod
    def among(cls, rows: EncodedRows, evidence: Evidence, z: torch.Tensor, rank: np.ndarray) -> Strange:
        places = np.flatnonzero(rank >= EXPLAINED_RANK)
        return cls(places, rows[places], evidence[places], z[places])

    @classmethod
    def joined(cls, parts: Sequence[Strange], starts: Sequence[int]) -> Strange:
        """Of consecutive parts of a batch, that begin at these rows of it."""
        return cls(
            np.concatenate([p.places + start for p, start in zip(parts, starts, strict=True)]),
            EncodedRows.concatenated([p.rows for p in parts]),
            Evidence.concatenated([p.evidence for p in parts]),
            torch.cat([p.z for p in parts]),
        )

    def __getitem__(self, chosen: np.ndarray) -> Strange:
        return Strange(self.places[chosen], self.rows[chosen], self.evidence[chosen], self.z[chosen])


def explained(bundle: Bundle, strange: Strange, batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """The columns that make each strange row of `batch` so, as indices (rows, 3), -1 where none is left; and texts
    (rows, 6): what these columns hold, then what was expected there."""
    candidates = bundle.calibration.reasons(strange.evidence, CANDIDATES)
    present = set(batch.schema.names)
    inputs = batch.select([name for name in bundle.input_columns if name in present]).take(pa.array(strange.places))
    held, expected, same = _told(bundle, strange, inputs, candidates)
    telling = (candidates >= 0) & ~same
    telling[:, 0] |= ~telling.any(axis=1)
    place = np.where(telling, np.cumsum(telling, axis=1) - 1, NUM_REASONS)
    reasons = np.full((len(candidates), NUM_REASONS), -1)
    texts = np.full((len(candidates), 2 * NUM_REASONS), None, object)
    for reason in range(NUM_REASONS):
        row, at = np.nonzero(place == reason)
        reasons[row, reason] = candidates[row, at]
        texts[row, reason], texts[row, reason + NUM_REASONS] = held[row, at], expected[row, at]
    return reasons, texts


def _told(
    bundle: Bundle, strange: Strange, inputs: pa.RecordBatch, candidates: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_cells`, of the first candidates, and of the others where one of the first explains nothing."""
    held, expected = np.full(candidates.shape, None, object), np.full(candidates.shape, None, object)
    same = np.ones(candidates.shape, bool)
    first, rest = slice(None, NUM_REASONS), slice(NUM_REASONS, None)
    rows = np.arange(len(candidates))
    for columns in (first, rest):
        if len(rows) and candidates[rows, columns].size:
            found = _cells(bundle, strange[rows], inputs.take(pa.array(rows)), candidates[rows, columns])
            held[rows, columns], expected[rows, columns], same[rows, columns] = found
        rows = np.flatnonzero(same[:, first].any(axis=1))
    return held, expected, same


def _cells(
    bundle: Bundle, strange: Strange, inputs: pa.RecordBatch, candidates: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each candidate column (rows, candidates): the text of what it holds, of what was expected, and whether that
    is the same.

    A network may reproduce a number that no training row comes near: what was expected is then the nearest row's
    number, as it deviates from that more than from its reconstruction.
    """
    decoded = bundle.transform.invert(bundle.model.decode(strange.z).float().cpu().numpy())
    near, far = bundle.nearest_numbers(strange.rows), bundle.calibration.by_distance(strange.evidence)
    nearest, extremes = {} if near is None else bundle.transform.original(near), bundle.extremes()
    held = dict(zip(inputs.schema.names, inputs.columns, strict=True))
    given, expected = np.full(candidates.shape, None, object), np.full(candidates.shape, None, object)
    same = np.zeros(candidates.shape, bool)
    for column in np.unique(candidates[candidates >= 0]):
        row, at = np.nonzero(candidates == column)
        named = bundle.transform.columns[column].column
        whole = named.type.startswith(("int", "uint"))
        here = held[named.name].take(pa.array(row)) if named.name in held else pa.nulls(len(row))
        rounded = _texts(here, whole, EXPECTED_DIGITS)
        made = _within(decoded.column(int(column)).take(pa.array(row)), extremes.get(named.name))
        wanted = _texts(made, whole, EXPECTED_DIGITS)
        if named.name in nearest:
            rather = np.flatnonzero(far[row, column] | (rounded == wanted))
            wanted[rather] = _texts(nearest[named.name].take(pa.array(row[rather])), whole, EXPECTED_DIGITS)
        given[row, at], expected[row, at], same[row, at] = _texts(here), wanted, rounded == wanted
    return given, expected, same


def _within(made: pa.Array, extremes: pa.Array | None) -> pa.Array:
    """A decoder may leave what occurs: what is expected of a number is then the least or the largest that does."""
    number = pa.types.is_integer(made.type) or pa.types.is_floating(made.type)
    if extremes is None or not number:
        return made
    low, high = extremes[0].cast(pa.float64()), extremes[1].cast(pa.float64())
    above = pc.max_element_wise(made.cast(pa.float64(), safe=False), low, skip_nulls=False)
    return pc.min_element_wise(above, high, skip_nulls=False)


def _texts(array: pa.Array, whole: bool = False, digits: int = 6) -> np.ndarray:
    """`as_text` of every cell."""
    try:
        cells = array.to_pylist()
    except Exception:  # some cell of it is none of Python's
        return np.array([as_text(cell, whole, digits) for cell in array], object)
    if pa.types.is_floating(array.type):  # most are: what `_text` says of them, in half the time
        form = _form(whole, digits)
        texts = ["missing" if cell is None or cell != cell else _number(cell, form) for cell in cells]
    else:
        texts = [_text(cell, whole, digits) for cell in cells]
    return np.array(texts, object)


def as_text(value: pa.Scalar, whole: bool = False, digits: int = 6) -> str:
    """A cell for people, at most 60 characters; `whole` rounds a number, others have so many significant `digits`."""
    try:
        cell = value.as_py()
    except Exception:  # a moment beyond Python's datetime, an unknown zone: a text for people may not end a run
        cell = _without_python(value)
    return _text(cell, whole, digits)


def _text(cell: Any, whole: bool, digits: int) -> str:
    if cell is None or cell != cell:
        return "missing"
    if isinstance(cell, float):
        return _number(cell, _form(whole, digits))
    if isinstance(cell, list) and all(v is None or isinstance(v, int | float) for v in cell):
        parts = ["missing" if v is None or v != v else _number(v, ".3g") for v in cell[:4]]
        return "[" + ", ".join(parts) + (", …]" if len(cell) > 4 else "]")
    text = cell.isoformat(" ", "seconds") if isinstance(cell, datetime) else str(cell)
    return text if len(text) <= 60 else text[:59] + "…"


def _form(whole: bool, digits: int) -> str:
    return ".0f" if whole else f".{digits}g"


def _number(value: float, form: str) -> str:
    text = format(0.0 if -ROUNDED_AWAY < value < ROUNDED_AWAY else value, form)
    return "0" if text == "-0" else text


def _without_python(value: pa.Scalar) -> str:
    try:
        return str(value.cast(pa.string()).as_py())
    except pa.ArrowException:
        return f"({value.type})"

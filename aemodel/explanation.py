"""Why a row is strange: the columns that deviate most, what they hold, and what was expected there, as text."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
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


def explained(
    bundle: Bundle, batch: pa.RecordBatch, rows: EncodedRows, evidence: Evidence, z: torch.Tensor, rank: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The columns that make each row strange, as indices (rows, 3), -1 where none is left; and texts (rows, 6), None
    for ordinary rows: what these columns hold, then what was expected there."""
    reasons = bundle.calibration.reasons(evidence, NUM_REASONS)
    texts = np.full((len(reasons), 2 * NUM_REASONS), None, object)
    strange = np.flatnonzero(rank >= EXPLAINED_RANK)
    if len(strange) == 0:
        return reasons, texts
    candidates = bundle.calibration.reasons(evidence[strange], CANDIDATES)
    expectations = _Expectations.of(bundle, batch, rows, z, strange)
    for place, row in enumerate(strange):
        cells = [expectations.cell(place, int(row), int(column)) for column in candidates[place] if column >= 0]
        telling = [cell for cell in cells if not cell.as_expected] or cells[:1]
        reasons[row] = -1
        for reason, cell in enumerate(telling[:NUM_REASONS]):
            reasons[row, reason] = cell.column
            texts[row, [reason, reason + NUM_REASONS]] = cell.held, cell.expected
    return reasons, texts


@dataclass(frozen=True)
class _Cell:
    column: int
    held: str
    expected: str
    as_expected: bool


@dataclass(frozen=True)
class _Expectations:
    """`decoded` and `nearest` have a row for each strange one: its reconstruction, and numbers of the training row
    nearest to it."""

    bundle: Bundle
    held: dict[str, pa.Array]
    decoded: pa.RecordBatch
    nearest: dict[str, pa.Array]

    @classmethod
    def of(
        cls, bundle: Bundle, batch: pa.RecordBatch, rows: EncodedRows, z: torch.Tensor, strange: np.ndarray
    ) -> _Expectations:
        transform = bundle.transform
        decoded = transform.invert(bundle.model.decode(z[strange]).float().cpu().numpy())
        near = bundle.nearest_numbers(rows[strange])
        held = dict(zip(batch.schema.names, batch.columns, strict=True))
        return cls(bundle, held, decoded, {} if near is None else transform.original(near))

    def cell(self, place: int, row: int, column: int) -> _Cell:
        """A network may reproduce a number that no training row comes near: then the nearest row's is what was
        expected, as the number deviates from that."""
        named = self.bundle.transform.columns[column].column
        whole = named.type.startswith(("int", "uint"))
        held = self.held[named.name][row] if named.name in self.held else pa.scalar(None)
        rounded = as_text(held, whole, EXPECTED_DIGITS)
        expected = as_text(self.decoded.column(column)[place], whole, EXPECTED_DIGITS)
        if rounded == expected and named.name in self.nearest:
            expected = as_text(self.nearest[named.name][place], whole, EXPECTED_DIGITS)
        return _Cell(column, as_text(held), expected, rounded == expected)


def as_text(value: pa.Scalar, whole: bool = False, digits: int = 6) -> str:
    """A cell for people, at most 60 characters; `whole` rounds a number, others have so many significant `digits`."""
    try:
        cell = value.as_py()
    except Exception:  # a moment beyond Python's datetime, an unknown zone: a text for people may not end a run
        cell = _without_python(value)
    if cell is None or cell != cell:
        return "missing"
    if isinstance(cell, float):
        return f"{cell:.0f}" if whole else f"{cell:.{digits}g}"
    if isinstance(cell, list) and all(isinstance(v, int | float) for v in cell):
        return "[" + ", ".join(f"{v:.3g}" for v in cell[:4]) + (", …]" if len(cell) > 4 else "]")
    text = cell.isoformat(" ", "seconds") if isinstance(cell, datetime) else str(cell)
    return text if len(text) <= 60 else text[:59] + "…"


def _without_python(value: pa.Scalar) -> str:
    try:
        return str(value.cast(pa.string()).as_py())
    except pa.ArrowException:
        return f"({value.type})"

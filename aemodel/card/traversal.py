"""What a feature column stands for: what the decoder changes when it alone goes from low to high."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch

from aemodel.bundle import Bundle
from aemodel.card.latent import Change
from aemodel.card.terms import Term, terms
from aemodel.explanation import as_text
from aemodel.layout import Block
from aemodel.transform import ColumnTransform

LISTED_CHANGES = 8
SECONDS_A_DAY = 86_400.0


def traversals(bundle: Bundle, features: np.ndarray) -> tuple[tuple[Change, ...], ...]:
    """For each feature column (rows, k) the largest changes from one standard deviation below its mean to one above,
    the others at their mean."""
    mean, std = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    ends = np.concatenate([mean - np.diag(std), mean + np.diag(std)])
    z = torch.from_numpy(bundle.model.frame.latents(ends)).float()
    low, high = np.split(bundle.model.decode(z).numpy().astype(np.float64), 2)
    named = terms(bundle.transform)
    return tuple(_largest(bundle, named, *pair) for pair in zip(low, high, strict=True))


def _largest(bundle: Bundle, named: Sequence[Term], low: np.ndarray, high: np.ndarray) -> tuple[Change, ...]:
    """Between two points of the linear space (width,), by their distance in it, where columns can be compared."""
    layout = bundle.transform.layout
    raw_low, raw_high = (point / layout.scale + layout.center for point in (low, high))
    found: list[tuple[float, Change]] = []
    for column, block in zip(bundle.transform.columns, layout.blocks, strict=True):
        for dimensions, change in _changes(column, block, named, raw_low, raw_high):
            found.append((float(np.linalg.norm((high - low)[dimensions])), change))
    told = [(size, change) for size, change in found if change.low != change.high]
    return tuple(change for _, change in sorted(told, key=lambda e: -e[0])[:LISTED_CHANGES])


def _changes(
    column: ColumnTransform, block: Block, named: Sequence[Term], low: np.ndarray, high: np.ndarray
) -> Iterator[tuple[list[int], Change]]:
    """What changes in a source column between two raw points (width,), and in which dimensions."""
    values = list(range(*block.values))
    if block.kind == "boolean":
        shares = (float(raw[values[0]] * column.std[0] + column.mean[0]) for raw in (low, high))
        yield values, _of_share(named[values[0]], *shares)
    elif values:
        told = values[:1] if block.kind == "datetime" else values
        yield told, _of_values(column, block.column, low[values], high[values])
    for d in block.dimensions[len(values) :]:  # the missing flag, or the levels: shares as they are
        yield [d], _of_share(named[d], float(low[d]), float(high[d]))


def _of_share(term: Term, low: float, high: float) -> Change:
    low, high = min(max(low, 0.0), 1.0), min(max(high, 0.0), 1.0)
    return Change(term.input, term.text, f"{low:.0%}", f"{high:.0%}", high - low)


def _of_values(column: ColumnTransform, name: str, low: np.ndarray, high: np.ndarray) -> Change:
    """Of encoded values (dimensions,) at either end."""
    ends = column.decoded(np.stack([low, high]))
    moved = (high - low) * np.array(column.std)
    if column.column.kind == "numeric":
        change = ends[1].as_py() - ends[0].as_py()
    else:
        change = moved[0] / SECONDS_A_DAY if column.column.kind == "datetime" else np.sqrt(np.square(moved).mean())
    return Change(name, name, _text(column, ends[0]), _text(column, ends[1]), float(change))


def _text(column: ColumnTransform, value: pa.Scalar) -> str:
    type_ = column.column.type
    text = as_text(value, whole=type_.startswith(("int", "uint")))
    if type_.startswith(("date", "time32", "time64")):  # decoded as moments
        day, _, clock = text.partition(" ")
        return day if type_.startswith("date") else clock
    return text

"""The card of every feature column of a version, from rows that were held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from aemodel.bundle import Bundle
from aemodel.card import influence
from aemodel.card.latent import Cell, Change, Exemplar, Gain, LatentCard, Loading, Share
from aemodel.card.surrogate import Surrogate, few_terms, ridge
from aemodel.card.terms import Term, terms
from aemodel.card.traversal import traversals
from aemodel.columns import OutputColumns
from aemodel.explanation import as_text
from aemodel.model import Batch

#: Rows that cards are written from; more change little.
ROWS = 4_000
#: With fewer no name and no share is told.
ENOUGH_ROWS = 40
#: From this R² on a few terms may stand as a column's name.
NAMED_R2 = 0.5
NONLINEAR = "nonlinear"
LISTED_INPUTS, LISTED_LOADINGS = 50, 24
EXEMPLARS, EXEMPLAR_CELLS = 3, 12


@dataclass(frozen=True)
class _Measured:
    """`features` (rows, k), `weights` (width, k), `drivers` and `gains` (k, columns), and one entry a latent of the
    others; NaN where it cannot be said."""

    features: np.ndarray
    weights: np.ndarray
    nonlinear: np.ndarray
    drivers: np.ndarray
    gains: np.ndarray
    robustness: np.ndarray
    surrogates: tuple[Surrogate, ...]
    traversals: tuple[tuple[Change, ...], ...]


@torch.inference_mode()
def cards(bundle: Bundle, rows: pa.Table, columns: OutputColumns) -> tuple[LatentCard, ...]:
    """A card for each feature column, from raw rows: the bundle's inputs, and what else tells a row from others."""
    rows = rows.take(pa.array(np.random.default_rng(0).permutation(rows.num_rows)[:ROWS]))
    measured, named = _measured(bundle, rows), terms(bundle.transform)
    return tuple(_card(j, column, measured, named, bundle, rows) for j, column in enumerate(columns.features))


def _measured(bundle: Bundle, rows: pa.Table) -> _Measured:
    model, layout = bundle.model, bundle.transform.layout
    batch = Batch.of(bundle.transform.apply_all(rows))
    features, x = model.encode(batch).numpy(), model.linear(batch)[0].numpy()
    axes = model.linear_axes
    if axes is not None:  # the linear part is known exactly
        weights = (axes @ model.frame_matrix).numpy()
        varies = np.where(features.var(axis=0) > 1e-12, features.var(axis=0), np.nan)
        nonlinear = (features - x @ weights).var(axis=0) / varies
    else:
        weights, r2 = ridge(x, features)
        nonlinear = 1 - r2
    return _Measured(
        features,
        weights,
        nonlinear,
        influence.total_indices(model, layout, batch),
        influence.nested_gains(model, batch),
        influence.robustness(model, layout, batch),
        few_terms(x, features),
        traversals(bundle, features),
    )


def _card(
    j: int, column: str, measured: _Measured, named: tuple[Term, ...], bundle: Bundle, rows: pa.Table
) -> LatentCard:
    inputs, values = bundle.input_columns, measured.features[:, j]
    drivers, gains, weights = measured.drivers[j], measured.gains[j], measured.weights[:, j]
    told = len(values) >= ENOUGH_ROWS
    by_influence = _largest(drivers)
    # Keys and labels first, then what drives the column.
    cells = [n for n in rows.column_names if n not in inputs] + [inputs[c] for c in by_influence]
    _, order = np.unique(values, return_index=True)  # rows that are alike are one example
    return LatentCard(
        column=column,
        name=_name(measured.surrogates[j], named) if told else NONLINEAR,
        surrogate_r2=_known(measured.surrogates[j].r2) if told else None,
        nonlinear_share=_known(measured.nonlinear[j]) if told else None,
        robustness=_known(measured.robustness[j]) if told else None,
        std=float(values.std(dtype=np.float64)),
        nested_gain=float(np.nan_to_num(gains).sum() / max(1, np.isfinite(gains).sum())),
        loadings=tuple(
            Loading(named[d].input, named[d].text, float(weights[d]))
            for d in _largest(np.abs(weights))[:LISTED_LOADINGS]
        ),
        drivers=tuple(Share(inputs[c], float(drivers[c])) for c in by_influence[:LISTED_INPUTS]),
        gains=tuple(Gain(inputs[c], float(gains[c])) for c in _largest(gains)[:LISTED_INPUTS]),
        traversal=measured.traversals[j],
        exemplars_low=_exemplars(rows, values, order[:EXEMPLARS], cells[:EXEMPLAR_CELLS]),
        exemplars_high=_exemplars(rows, values, order[::-1][:EXEMPLARS], cells[:EXEMPLAR_CELLS]),
    )


def _name(surrogate: Surrogate, named: tuple[Term, ...]) -> str:
    """Such as `+capital_gain −marital_status=Never-married`, where so few terms explain the column."""
    if not surrogate.r2 >= NAMED_R2:
        return NONLINEAR
    signed = zip(surrogate.dimensions, surrogate.weights, strict=True)
    return " ".join(f"{'+' if weight > 0 else '−'}{named[d].text}" for d, weight in signed)


def _exemplars(rows: pa.Table, values: np.ndarray, chosen: np.ndarray, cells: list[str]) -> tuple[Exemplar, ...]:
    taken = rows.select(cells).take(pa.array(chosen))
    return tuple(
        Exemplar(float(values[row]), tuple(Cell(name, as_text(taken.column(name)[i])) for name in cells))
        for i, row in enumerate(chosen)
    )


def _largest(values: np.ndarray) -> list[int]:
    """Places of the known values, the largest first."""
    order = np.argsort(-values, kind="stable")
    return [int(i) for i in order if np.isfinite(values[i])]


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

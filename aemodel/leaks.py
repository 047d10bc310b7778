"""Columns that another column gives away: they add nothing, or leak what was to be found out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from aemodel.layout import EncodedRows, Layout

#: From here on a column is named as given away, and how many rows that is judged by, at least and at most.
DETERMINED_R2 = 0.999
FEWEST_ROWS, MOST_ROWS = 20, 20_000
#: Columns of levels that are looked at: their pairs take a second.
MOST_CATEGORICAL = 50


@dataclass(frozen=True)
class Determined:
    """A column that another one gives away, at this `r2`."""

    column: str
    by: str
    r2: float


def determined(layout: Layout, rows: EncodedRows) -> tuple[Determined, ...]:
    """In the order of the columns; of two that say the same the later is named.

    Single values are predicted by the straight line on another's encoded ones, or by their means at a column's levels;
    columns of levels by the shares at another's levels. Vectors are not looked at.
    """
    single = [i for i, b in enumerate(layout.blocks) if b.kind in ("numeric", "boolean", "datetime")]
    levels = [i for i, b in enumerate(layout.blocks) if b.code is not None][:MOST_CATEGORICAL]
    if len(rows) < FEWEST_ROWS:
        return ()
    at = [layout.blocks[i].values[0] for i in single]
    values = np.nan_to_num(rows.values[:MOST_ROWS, at].astype(np.float64))
    members = {i: _members(rows.codes[:MOST_ROWS, layout.blocks[i].code]) for i in levels}
    r2 = np.zeros((len(layout.blocks), len(layout.blocks)))  # of the first, predicted by the second
    if single:
        with np.errstate(invalid="ignore", divide="ignore"):
            r2[np.ix_(single, single)] = np.nan_to_num(np.corrcoef(values.T).reshape(len(single), -1)) ** 2
    for j, groups in members.items():
        r2[single, j] = _of_values(groups, values)
        for i, target in members.items():
            r2[i, j] = _of_levels(groups, target)
    np.fill_diagonal(r2, 0)
    given = (r2 > DETERMINED_R2) & (np.tril(np.ones_like(r2, bool)) | (r2.T <= DETERMINED_R2))
    best = np.where(given, r2, 0).argmax(axis=1)
    names = layout.columns
    return tuple(Determined(names[i], names[best[i]], float(r2[i, best[i]])) for i in np.flatnonzero(given.any(axis=1)))


def _members(codes: np.ndarray) -> csr_matrix:
    """(rows, levels): 1 where a row has a level."""
    _, place = np.unique(codes, return_inverse=True)
    return csr_matrix((np.ones(len(codes)), (np.arange(len(codes)), place)))


def _of_values(groups: csr_matrix, values: np.ndarray) -> np.ndarray:
    """(columns,): the share of the variance of values (rows, columns) that lies between groups (rows, groups)."""
    about = values - values.mean(axis=0)
    size = np.asarray(groups.sum(axis=0)).ravel()[:, None]
    within = groups.T @ about**2 - (groups.T @ about) ** 2 / size
    total = np.square(about).sum(axis=0)
    return _share(np.where(size > 1, within * size / np.maximum(size - 1, 1), total / len(about)).sum(axis=0), total)


def _of_levels(groups: csr_matrix, target: csr_matrix) -> float:
    """As `_of_values`, of all levels (rows, levels) of a target together."""
    size, together = np.asarray(groups.sum(axis=0)).ravel(), (groups.T @ target).power(2)
    within = size - np.asarray(together.sum(axis=1)).ravel() / size
    shares = np.asarray(target.mean(axis=0)).ravel()
    total = groups.shape[0] * (1 - np.square(shares).sum())
    alone = total / groups.shape[0]
    return float(_share(np.where(size > 1, within * size / np.maximum(size - 1, 1), alone).sum(), np.asarray(total)))


def _share(within: np.ndarray, total: np.ndarray) -> np.ndarray:
    """A group of one row explains nothing: its row counts as one that nothing is known of."""
    return np.asarray(np.where(total > 1e-9, 1 - within / np.maximum(total, 1e-9), 0.0))

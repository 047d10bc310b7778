"""Linear models of feature columns: of all dimensions, or of the few that a name can be made of.

Each is fitted on the first half of the rows and measured on the second; the rows are in random order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Weight of the squared norm in ridge regression, a row.
RIDGE = 1e-3
MOST_TERMS = 3
#: A term that explains less than this share of the variance says nothing.
LEAST_GAIN = 0.01
#: A term must correlate at least this much with the column by itself; else its ends do not differ in it.
LEAST_ALONE = 0.1
#: A term of which the chosen ones leave less than this share is one of them again (a sex that is not the other).
LEAST_FREE = 0.05
#: Terms that are tried for a place before it stays empty.
TRIED = 20


@dataclass(frozen=True)
class Surrogate:
    """A linear model of a feature column from a few `dimensions`, largest weight first; `weights` in standard
    deviations of either side. `r2` on rows that it was not fitted on, NaN where these do not vary."""

    dimensions: tuple[int, ...]
    weights: tuple[float, ...]
    r2: float


def ridge(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression (Hoerl and Kennard, 1970) of y (rows, k) on x (rows, width).

    Weights (width, k), and R² (k,) on the other half.
    """
    half = (len(x) + 1) // 2
    a, b = x[:half] - x[:half].mean(axis=0), y[:half] - y[:half].mean(axis=0)
    rows, width = a.shape
    if width <= rows:
        weights = np.linalg.solve(a.T @ a + RIDGE * rows * np.eye(width), a.T @ b)
    else:  # the same weights, by way of the smaller matrix
        weights = a.T @ np.linalg.solve(a @ a.T + RIDGE * rows * np.eye(rows), b)
    left = (y[half:] - y[:half].mean(axis=0)) - (x[half:] - x[:half].mean(axis=0)) @ weights
    return weights, _r2(left, y[half:])


def few_terms(x: np.ndarray, y: np.ndarray) -> tuple[Surrogate, ...]:
    """For each feature column of y (rows, k) the terms of x (rows, width) that explain most, chosen one by one.

    Forward selection by orthogonal least squares (Chen, Billings and Luo, 1989). A term enters only if every weight
    has the sign of its term's own correlation, and that is not slight, so that rows at the high end do differ that way.
    """
    half = (len(x) + 1) // 2
    center, scale = x[:half].mean(axis=0), x[:half].std(axis=0)
    varies = scale > 1e-6
    a = np.where(varies, (x - center) / np.where(varies, scale, 1.0), 0.0)
    b = y - y[:half].mean(axis=0)
    return tuple(_few_terms(a, column, half) for column in b.T)


def _few_terms(a: np.ndarray, b: np.ndarray, half: int) -> Surrogate:
    chosen: list[int] = []
    while len(chosen) < MOST_TERMS:
        found = _next(a[:half], b[:half], chosen)
        if found is None:
            break
        chosen.append(found)
    weights = np.linalg.lstsq(a[:half, chosen], b[:half], rcond=None)[0]
    r2 = float(_r2((b[half:] - a[half:, chosen] @ weights)[:, None], b[half:, None])[0])
    order = np.argsort(-np.abs(weights), kind="stable")
    scaled = weights[order] / (b[:half].std() or 1.0)
    return Surrogate(tuple(chosen[i] for i in order), tuple(scaled.tolist()), r2)


def _next(a: np.ndarray, b: np.ndarray, chosen: list[int]) -> int | None:
    """The dimension that explains most of what the chosen ones leave of b; None where none explains enough."""
    basis = np.linalg.qr(a[:, chosen]).Q
    size = np.square(a).sum(axis=0)
    free = size - np.square(basis.T @ a).sum(axis=0)
    along = a.T @ (b - basis @ (basis.T @ b))
    usable = free > LEAST_FREE * size
    gain = np.where(usable, np.square(along) / np.where(usable, free, 1.0), 0.0)
    alone = a.T @ b / np.sqrt(np.maximum(size, 1e-12) * max(float(np.square(b).sum()), 1e-12))
    for candidate in np.argsort(-gain, kind="stable")[:TRIED]:
        if gain[candidate] <= LEAST_GAIN * np.square(b).sum():
            return None
        together = [*chosen, int(candidate)]
        weights = np.linalg.lstsq(a[:, together], b, rcond=None)[0]
        if (alone[together] * np.sign(weights) >= LEAST_ALONE).all():
            return int(candidate)
    return None


def _r2(left: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(k,) of what is left of y, both (rows, k); NaN where y does not vary."""
    total = np.square(y - y.mean(axis=0)).sum(axis=0, dtype=np.float64) if len(y) else np.zeros(y.shape[1])
    varies = total > 1e-12
    return np.where(varies, 1 - np.square(left).sum(axis=0) / np.where(varies, total, 1.0), np.nan)

"""How strange a row is, where that stands among held-out rows, and which columns make it so.

Three things make a row strange, and the score is their sum:

- it lies far from the training rows (`aemodel.neighbours`), in units of what is usual;
- its columns do not fit together: Σ_c min((r_c/σ_c)², cap), r_c the reconstruction error in source column c and σ_c
  its root mean square over held-out rows, so that a column that is never reconstructed well does not drown the
  others, and one wild cell does not decide alone;
- its latents lie where no row's do: their Mahalanobis distance.

The second and third count from where they exceed all but the strangest hundredth of the held-out rows: below that
they are noise. The reasons are the columns in which the row deviates most: from its reconstruction, and, where they
hold numbers, from the nearest training row; each in units of what is usual in that column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from aemodel.neighbours import Neighbours, kth_distance, product

CAP = 25.0
NUM_QUANTILES = 1_001
#: Where errors and Mahalanobis distances begin to count, and how much one of twice that size then does.
ORDINARY = 0.99
WEIGHT = 0.1
#: Training rows that the k-nearest distance is measured against.
KNN_ROWS = 4_096


@dataclass(frozen=True)
class Evidence:
    """What is measured of rows: squared `errors` (rows, columns), `features` (rows, k), the distance `far` (rows,) from
    the training rows and the squared `offsets` (rows, columns) from the nearest one, zero but in columns of numbers."""

    errors: np.ndarray
    features: np.ndarray
    far: np.ndarray
    offsets: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Evidence:
        return Evidence(self.errors[rows], self.features[rows], self.far[rows], self.offsets[rows])

    @classmethod
    def concatenated(cls, parts: Sequence[Evidence]) -> Evidence:
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


@dataclass(frozen=True)
class Calibration:
    """From held-out rows: `column_error` and `column_offset` (columns,), `latent_mean` (k,), `whitening` (k, k),
    `ordinary` (2,): the largest folded error and Mahalanobis distance that do not count, `quantiles` rising;
    `references` (rows, k): whitened features of training rows."""

    column_error: np.ndarray
    column_offset: np.ndarray
    latent_mean: np.ndarray
    whitening: np.ndarray
    ordinary: np.ndarray
    quantiles: np.ndarray
    references: np.ndarray

    def score(self, rows: Evidence) -> np.ndarray:
        """float32 (rows,); never infinite."""
        beyond = np.maximum(self.terms(rows) / self.ordinary - 1, 0)
        return np.asarray(rows.far + WEIGHT * beyond.sum(axis=1), np.float32)

    def terms(self, rows: Evidence) -> np.ndarray:
        """(rows, 2): the folded error and the Mahalanobis distance of the latents."""
        relative = torch.from_numpy(rows.errors * _inverse(self.column_error, rows.errors))
        folded = relative.clamp_(max=CAP).sum(dim=1).numpy()  # numpy takes three times as long
        white = self.whitened(rows.features)
        return np.stack([folded, np.sqrt(np.einsum("ij,ij->i", white, white))], axis=1)

    def whitened(self, features: np.ndarray) -> np.ndarray:
        """Features (rows, k) uncorrelated and of variance one among held-out rows."""
        like = features.dtype  # millions of cells are not made wider for it
        return product(features - self.latent_mean.astype(like), self.whitening.astype(like))

    def knn(self, features: np.ndarray) -> np.ndarray:
        """float32 (rows,): the distance of whitened features (rows, k) to the fifth nearest training row."""
        return kth_distance(self.whitened(features), self.references)

    def rank(self, score: np.ndarray) -> np.ndarray:
        """float32 (rows,) in [0, 1]: the share of held-out rows that are less strange."""
        levels = np.linspace(0, 1, len(self.quantiles))
        return np.interp(score, self.quantiles, levels).astype(np.float32)

    def deviations(self, rows: Evidence) -> np.ndarray:
        """(rows, columns): how much each column makes a row strange."""
        found = rows.errors * _inverse(self.column_error, rows.errors)
        found += rows.offsets * _inverse(self.column_offset, rows.offsets)
        return found

    def by_distance(self, rows: Evidence) -> np.ndarray:
        """bool (rows, columns): whether a column deviates more from the nearest training row than from what it was
        reconstructed to."""
        return np.asarray(rows.offsets / self.column_offset > rows.errors / self.column_error)

    def reasons(self, rows: Evidence, count: int) -> np.ndarray:
        """int64 (rows, count): indices of the columns that deviate most, the strangest first; -1 where none is left."""
        left, every = self.deviations(rows), np.arange(len(rows.errors))
        found = np.full((len(left), count), -1)
        for place in range(min(count, left.shape[1])):  # a third of the time of a partial sort
            largest = left.argmax(axis=1)
            found[:, place] = np.where(left[every, largest] > 0, largest, -1)
            left[every, largest] = 0
        return found


def calibrate(rows: Evidence, training: np.ndarray) -> Calibration:
    """From held-out rows, and features (rows, k) of training rows."""
    features = rows.features.astype(np.float64)
    mean = features.mean(axis=0)
    covariance = np.cov(features.T).reshape(features.shape[1], -1) if len(features) > 1 else np.eye(features.shape[1])
    variance, axes = np.linalg.eigh(covariance)
    variance = np.maximum(variance, 1e-6 * max(float(variance.max()), 1e-12))
    unranked = Calibration(
        _usual(rows.errors), _usual(rows.offsets), mean, axes / np.sqrt(variance), np.ones(2), np.zeros(1), training
    )
    references = unranked.whitened(training[:KNN_ROWS]).astype(np.float32)
    # Both are some of units each: where all is restored without an error, one that is not is not infinitely strange.
    ordinary = np.maximum(np.quantile(unranked.terms(rows), ORDINARY, axis=0), 1.0)
    unranked = replace(unranked, ordinary=ordinary, references=references)
    return replace(unranked, quantiles=np.quantile(unranked.score(rows), np.linspace(0, 1, NUM_QUANTILES)))


def _inverse(usual: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Of the type of what it is multiplied with, so that millions of cells are not made wider for it."""
    return (1 / usual).astype(like.dtype)


def _usual(squared: np.ndarray) -> np.ndarray:
    """The mean by column; a column that is always right must not make noise a reason."""
    usual = squared.mean(axis=0, dtype=np.float64)
    return np.asarray(np.maximum(usual, 1e-6 + 1e-3 * usual.mean()))


def evidence(
    errors: np.ndarray,
    features: np.ndarray,
    neighbours: Neighbours,
    numbers: np.ndarray,
    others: np.ndarray,
    column_of: np.ndarray,
) -> Evidence:
    """Put together what a network measures of rows with their neighbours; `column_of` (dimensions,) is the source
    column of a dimension of the linear space, `numbers` and `others` as in `Neighbours.distances`."""
    distances = neighbours.distances(numbers, others)
    count = numbers.shape[1]  # a level that is not the nearest row's is no deviation: the network has it in its error
    offsets = distances.offset[:, :count]
    if len(column_of) > errors.shape[1]:  # else each column is a number
        fold = np.zeros((count, errors.shape[1]), np.float32)
        fold[np.arange(count), column_of[:count]] = 1
        offsets = product(offsets, fold)
    return Evidence(errors, features, distances.total, offsets)

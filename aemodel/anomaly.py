"""How strange a row is, where that stands among held-out rows, and which columns make it so. Pure arithmetic.

The score is Σ_c min((r_c/σ_c)², cap) + the Mahalanobis distance of the latents: r_c is the row's reconstruction
error in source column c, σ_c its root mean square over held-out rows. So a column that is never reconstructed
well does not drown the others, one wild cell does not decide alone, and a row that is reconstructed well but lies
where no row lies is still found. The per-column terms, uncapped, are the reasons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CAP = 25.0
NUM_QUANTILES = 1_001


@dataclass(frozen=True)
class Calibration:
    """From held-out rows: `column_error` (columns,), `latent_mean` (k,), `whitening` (k, k), `quantiles` rising."""

    column_error: np.ndarray
    latent_mean: np.ndarray
    whitening: np.ndarray
    quantiles: np.ndarray

    def relative(self, errors: np.ndarray) -> np.ndarray:
        """Squared errors (rows, columns) in units of each column's usual squared error."""
        return np.asarray(errors / self.column_error)

    def score(self, errors: np.ndarray, latents: np.ndarray) -> np.ndarray:
        """float32 (rows,) from squared errors (rows, columns) and latents (rows, k); never infinite."""
        folded = np.minimum(self.relative(errors), CAP).sum(axis=1)
        distance = np.linalg.norm((latents - self.latent_mean) @ self.whitening, axis=1)
        return np.asarray(folded + distance, np.float32)

    def rank(self, score: np.ndarray) -> np.ndarray:
        """float32 (rows,) in [0, 1]: the share of held-out rows that are less strange."""
        levels = np.linspace(0, 1, len(self.quantiles))
        return np.interp(score, self.quantiles, levels).astype(np.float32)

    def reasons(self, errors: np.ndarray, count: int) -> np.ndarray:
        """int64 (rows, count): indices of the columns that deviate most, the strangest first; -1 where none is left."""
        relative = self.relative(errors)
        count_known = min(count, relative.shape[1])
        top = np.argpartition(-relative, count_known - 1, axis=1)[:, :count_known]
        order = np.argsort(-np.take_along_axis(relative, top, axis=1), axis=1, kind="stable")
        found = np.take_along_axis(top, order, axis=1)
        found = np.where(np.take_along_axis(relative, found, axis=1) > 0, found, -1)
        return np.pad(found, ((0, 0), (0, count - count_known)), constant_values=-1)


def calibrate(errors: np.ndarray, latents: np.ndarray) -> Calibration:
    """From held-out rows: squared errors (rows, columns), latents (rows, k)."""
    errors, latents = errors.astype(np.float64), latents.astype(np.float64)
    usual = errors.mean(axis=0)
    floor = 1e-6 + 1e-3 * usual.mean()  # a column that is always right must not make noise a reason
    mean = latents.mean(axis=0)
    covariance = np.cov(latents.T).reshape(latents.shape[1], -1) if len(latents) > 1 else np.eye(latents.shape[1])
    variance, axes = np.linalg.eigh(covariance)
    variance = np.maximum(variance, 1e-6 * max(float(variance.max()), 1e-12))
    whitening = axes / np.sqrt(variance)
    unranked = Calibration(np.maximum(usual, floor), mean, whitening, np.zeros(1))
    quantiles = np.quantile(unranked.score(errors, latents), np.linspace(0, 1, NUM_QUANTILES))
    return Calibration(unranked.column_error, mean, whitening, quantiles)

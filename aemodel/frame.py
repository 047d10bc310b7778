"""The frame that latents are written in: f = (z − centre) · matrix, frozen when a column first appears.

A first version's columns have mean zero and one common scale, so that a column that explains more keeps the larger
spread and distances between rows stay what they were. A retrain keeps the frame; a redesign turns its own latents
into the frame of the columns that they take over from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Frame:
    """`center` (k,) and `matrix` (k, k), both float64; the matrix is a rotation times one scale."""

    center: np.ndarray
    matrix: np.ndarray

    def __call__(self, latents: np.ndarray) -> np.ndarray:
        """Latents (rows, k) as feature columns (rows, k)."""
        return np.asarray((latents - self.center) @ self.matrix)

    def latents(self, features: np.ndarray) -> np.ndarray:
        """Feature columns (rows, k) as latents (rows, k)."""
        return np.asarray(features @ np.linalg.inv(self.matrix) + self.center)


def identity(latent_dim: int) -> Frame:
    """The latents as the network has them."""
    return Frame(np.zeros(latent_dim), np.eye(latent_dim))


def first(latents: np.ndarray) -> Frame:
    """From a network's latents (rows, k) of training rows: mean zero, mean variance one."""
    center, k = latents.mean(axis=0, dtype=np.float64), latents.shape[1]
    return Frame(center, np.eye(k) / _scale(latents))


def extended(parent: Frame, latents: np.ndarray) -> Frame:
    """The parent's frame for its columns, its scale for those behind them: latents (rows, k) of training rows."""
    known, k = len(parent.center), latents.shape[1]
    center = np.concatenate([parent.center, latents[:, known:].mean(axis=0, dtype=np.float64)])
    matrix = np.eye(k) * (np.linalg.norm(parent.matrix) / np.sqrt(known))
    matrix[:known, :known] = parent.matrix
    return Frame(center, matrix)


def aligned(latents: np.ndarray, reference: np.ndarray) -> Frame:
    """The rotation of latents (rows, k) that comes nearest to the columns `reference` (rows, k') of the same rows.

    Orthogonal Procrustes (Schönemann, 1966) on the columns that both have; columns beyond them take what is left.
    """
    shared = min(latents.shape[1], reference.shape[1])
    target = reference[:, :shared].astype(np.float64)
    scale = _scale(latents) / max(_scale(target), 1e-12)
    z = latents - latents.mean(axis=0, dtype=np.float64)
    left, _, right = np.linalg.svd(z.T @ (target - target.mean(axis=0)))
    rotation = np.concatenate([left[:, :shared] @ right, left[:, shared:]], axis=1)
    matrix = rotation / scale
    offset = np.concatenate([target.mean(axis=0), np.zeros(latents.shape[1] - shared)])
    return Frame(latents.mean(axis=0, dtype=np.float64) - offset @ np.linalg.inv(matrix), matrix)


def _scale(latents: np.ndarray) -> float:
    """The root of the mean variance over columns; 1 where nothing varies."""
    return float(np.sqrt(latents.var(axis=0, dtype=np.float64).mean())) or 1.0

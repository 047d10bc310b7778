"""How far a row lies from the training rows, in units of the columns themselves: what no network needs to learn.

The distance to the nearest of a few reference rows, at two scales. Small random samples see what is far from
everything and are not fooled by strange rows among the references (Sugiyama and Borgwardt, "Rapid distance-based
outlier detection via sampling", 2013), each in a few dimensions drawn at random (Lazarevic and Kumar, "Feature bagging
for outlier detection", 2005); many references see what is far from its own kind. Where strange rows are
among the references, the second sees nothing, and must not outvote the first: it counts by its square, so little
where it is ordinary and much where it is large.

    coarse   nearest of 16, sum of absolute differences in 16 dimensions, mean over samples
    fine     nearest of up to 4,096, Euclidean, of differences that are compressed where they are large
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from aemodel.dense import dense

COARSE_ROWS, COARSE_DIMENSIONS, COARSE_SAMPLES = 16, 16, 32
LEAST_FINE, MOST_FINE = 256, 4_096
#: What a fine distance of the usual size counts beside a coarse one. More sees anomalies that training was spared of
#: better, less those that are among the training rows.
FINE_WEIGHT = 0.15
#: Of the distance to training rows in the space of the latents, which is another score: the k-th nearest.
KTH = 5
#: References times dimensions that a row is compared with at the fine scale, at most.
FINE_CELLS = 2**16
#: A number this many standard deviations away is as far as any.
FARTHEST = 20.0
#: Wider rows are projected to this many dimensions at random, which keeps distances (Johnson and Lindenstrauss, 1984).
PROJECTED = 256
#: The least that a scale's usual distance is taken to be, as a share of the largest scale's.
LEAST_USUAL = 0.05
#: Rows compared at once: enough for the processor, few enough for memory.
CHUNK = 4_096
#: Numbers that means and deviations are taken of at once.
COPIED_CELLS = 2**20
#: Rows that are compared with all fine references at once.
SEARCHED = 512
#: Of a unit, that coarse distances are measured in: 3 × COARSE_DIMENSIONS × FARTHEST of them fit 16 bits.
STEPS = 34


@dataclass(frozen=True)
class Distances:
    """`total` (rows,): both scales together, each in units of its mean over held-out rows; `offset` (rows,
    dimensions): the squared compressed difference from the nearest reference in each dimension, zeros where rows are
    so wide that they were projected."""

    total: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True)
class Units:
    """Numbers in standard units: `center` and `spread` (num_values,) of the training rows; `projection`
    (dimensions, 256) for wide rows, else (0, 0)."""

    center: np.ndarray
    spread: np.ndarray
    projection: np.ndarray

    @classmethod
    def of(cls, numbers: np.ndarray, others: np.ndarray, seed: int) -> Units:
        center, spread = _center_and_spread(numbers)
        dimensions = numbers.shape[1] + others.shape[1]
        projection = np.zeros((0, 0), np.float32)
        if dimensions > PROJECTED:
            drawn = np.random.default_rng(seed).normal(size=(dimensions, PROJECTED))
            projection = (drawn / np.sqrt(PROJECTED)).astype(np.float32)
        return cls(center, spread, projection)

    def __call__(self, numbers: np.ndarray, others: np.ndarray) -> np.ndarray:
        """float32 (rows, dimensions) of `numbers` (rows, num_values), NaN where missing, and the rest of the row."""
        center, spread = self.center.astype(numbers.dtype), self.spread.astype(numbers.dtype)
        scaled = numbers - center
        scaled /= spread
        np.clip(scaled, -FARTHEST, FARTHEST, out=scaled)
        scaled[np.isnan(scaled)] = 0
        rows = (
            np.concatenate([scaled, others], axis=1, dtype=np.float32) if others.shape[1] else scaled.astype(np.float32)
        )
        return product(rows, self.projection) if self.projection.size else rows


@dataclass(frozen=True)
class Neighbours:
    """Reference rows, float32: `coarse` (samples, 16, up to 16), in the dimensions `seen` (samples, up to 16) alone;
    `fine` (rows, dimensions). `usual` (2,): the mean distances of held-out rows."""

    units: Units
    seen: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray
    usual: np.ndarray

    def distances(self, numbers: np.ndarray, others: np.ndarray) -> Distances:
        """Of rows given by their `numbers` (rows, num_values) and the rest of their linear space."""
        rows = self.units(numbers, others)
        found = [self._of(torch.from_numpy(part)) for part in _parts(rows)]
        raw = np.concatenate([scales for scales, _ in found])
        offset = np.concatenate([offset for _, offset in found])
        if self.units.projection.size:
            offset = np.zeros((len(rows), len(self.units.projection)), np.float32)
        coarse, fine = (raw / self.usual).T
        return Distances(coarse + FINE_WEIGHT * fine**2, offset)

    def nearest(self, numbers: np.ndarray, others: np.ndarray) -> np.ndarray | None:
        """The numbers (rows, num_values) of the fine reference nearest to each row, which `offset` is measured from,
        its mean where it has none; None where rows are so wide that they were projected."""
        if self.units.projection.size:
            return None
        rows = [torch.from_numpy(part) for part in _parts(self.units(numbers, others))]
        found = np.concatenate([self.fine[self._compressed_fine.index(_compressed(part))] for part in rows])
        return np.asarray(found[:, : numbers.shape[1]] * self.units.spread + self.units.center)

    def extremes(self, count: int) -> np.ndarray | None:
        """(2, count): the least and the largest of each of the `count` numbers among the fine references; None where
        rows are so wide that they were projected."""
        if self.units.projection.size:
            return None
        numbers = self.fine[:, :count]
        return np.stack([numbers.min(axis=0), numbers.max(axis=0)]) * self.units.spread + self.units.center

    def to_arrays(self) -> dict[str, np.ndarray]:
        """By name, for a file."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "units"} | vars(self.units)
        return {k: np.ascontiguousarray(v) for k, v in parts.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Neighbours:
        units = Units(*(arrays.pop(name) for name in ("center", "spread", "projection")))
        return cls(units, **arrays)

    @cached_property
    def _compressed_fine(self) -> _Nearest:
        return _Nearest.among(_compressed(torch.from_numpy(self.fine)))

    def _of(self, rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """(rows, 2) distances and (rows, dimensions) squared differences from the nearest."""
        near = _nearest_of_few(rows, torch.from_numpy(self.seen), torch.from_numpy(self.coarse)).mean(dim=0)
        offset = self._compressed_fine.offset(_compressed(rows)).square()
        closest = offset.sum(dim=1).sqrt()
        return torch.stack([near, closest], dim=1).numpy(), offset.numpy()


@dataclass(frozen=True)
class _Nearest:
    """`references` (references, dimensions) made ready for a search by products: |x − r|² = |x|² − 2 (x·r − |r|²/2);
    `closeness` (references,): −|r|²/2."""

    references: Tensor
    closeness: Tensor

    @classmethod
    def among(cls, references: Tensor) -> _Nearest:
        return cls(references, references.square().sum(dim=1) / -2)

    def offset(self, rows: Tensor) -> Tensor:
        """(rows, dimensions): each row less the reference nearest to it."""
        return rows - self.references.index_select(0, torch.from_numpy(self.index(rows)))

    def index(self, rows: Tensor) -> np.ndarray:
        """int64 (rows,): which reference is nearest."""
        # numpy's argmax: a tenth of the time of torch's.
        parts = torch.split(rows, SEARCHED)
        return np.concatenate([dense(p, self.references, self.closeness).numpy().argmax(axis=1) for p in parts])


def _nearest_of_few(rows: Tensor, seen: Tensor, references: Tensor) -> Tensor:
    """(samples, rows): the sum of absolute differences of rows (rows, dimensions) to the nearest of each sample's few
    references (samples, references, k), in the k dimensions that the sample has `seen` (samples, k).

    |x − r| = 2 max(x, r) − x − r, of many rows at a time, in whole steps: a sixth of the time of torch's cdist.
    """
    if not len(rows):
        return torch.zeros(len(seen), 0)
    columns, references = _in_steps(rows.T.contiguous()), _in_steps(references)
    total = columns.index_select(0, seen[:, 0])
    larger = torch.maximum(total[:, None, :], references[:, :, 0, None])
    part = torch.empty_like(larger)
    for place in range(1, seen.shape[1]):
        values = columns.index_select(0, seen[:, place])
        total += values
        torch.maximum(values[:, None, :], references[:, :, place, None], out=part)
        larger += part
    distances = larger.mul_(2).sub_(references.sum(dim=2, dtype=torch.int16)[:, :, None])
    return distances.amin(dim=1).sub_(total).float().div_(STEPS)


def _in_steps(values: Tensor) -> Tensor:
    """int16, of which the processor does twice as many at a time; it holds three times the sum of 16 values. Projected
    ones may lie farther than any number does, and are then as far as any."""
    return values.clamp(-FARTHEST, FARTHEST).mul_(STEPS).round_().to(torch.int16)


def product(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """rows @ matrix, by torch, which keeps to the threads that it is given: those of numpy's own library would take the
    cores from whoever scores beside, and a quarter of the time."""
    with torch.inference_mode():
        return np.asarray(dense(torch.from_numpy(rows), torch.from_numpy(np.ascontiguousarray(matrix.T))).numpy())


def kth_distance(rows: np.ndarray, references: np.ndarray, k: int = KTH) -> np.ndarray:
    """float32 (rows,): Euclidean distance to the k-th nearest of the references, or the farthest of fewer."""
    against = torch.from_numpy(np.ascontiguousarray(references, np.float32))
    return np.concatenate([_kth(_euclidean(torch.from_numpy(part), against).numpy(), k) for part in _parts(rows)])


def fit(numbers: np.ndarray, others: np.ndarray, held_out: tuple[np.ndarray, np.ndarray], seed: int = 0) -> Neighbours:
    """From training rows, in two parts as `Neighbours.distances` takes them, and held-out rows likewise."""
    units = Units.of(numbers, others, seed)
    references = units(numbers, others)
    rng, dimensions = np.random.default_rng(seed), max(1, references.shape[1])
    fine = int(np.clip(FINE_CELLS // dimensions, LEAST_FINE, MOST_FINE))
    seen = np.stack([rng.permutation(references.shape[1])[:COARSE_DIMENSIONS] for _ in range(COARSE_SAMPLES)])
    unscaled = Neighbours(
        units,
        seen,
        np.stack([_drawn(references, COARSE_ROWS, rng)[:, columns] for columns in seen]),
        _drawn(references, fine, rng),
        np.ones(2),
    )
    raw = np.concatenate([unscaled._of(torch.from_numpy(part))[0] for part in _parts(units(*held_out))])
    usual = raw.mean(axis=0, dtype=np.float64)
    # Where nearly every row has its double among the references, one that has none is not infinitely far.
    return replace(unscaled, usual=np.maximum(usual, LEAST_USUAL * usual.max() or 1.0))


def _center_and_spread(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(num_values,) each, of numbers (rows, num_values), NaN where missing; some columns at a time, as numpy makes
    several copies of what it is given."""
    parts = np.array_split(numbers, max(1, numbers.size // COPIED_CELLS), axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a column without a value
        center = np.concatenate([np.nanmean(part, axis=0) for part in parts])
        spread = np.concatenate([np.nanstd(part, axis=0) for part in parts])
    return np.nan_to_num(center), np.where(spread > 0, spread, 1.0)


def _kth(distances: np.ndarray, k: int) -> np.ndarray:
    """The k-th smallest along the last axis, or the largest of fewer; four times as fast as torch's topk."""
    last = min(k, distances.shape[-1]) - 1
    return np.asarray(np.partition(distances, last, axis=-1)[..., last])


def _drawn(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return np.ascontiguousarray(rows[rng.permutation(len(rows))[:count]])


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, max(1, len(rows)), CHUNK):
        yield np.ascontiguousarray(rows[start : start + CHUNK], np.float32)


def _compressed(rows: Tensor) -> Tensor:
    """asinh, in operations that the processor does many at a time of: eight times as fast as torch's."""
    squares = rows.square()
    squares /= (squares + 1).sqrt_().add_(1)
    return squares.add_(rows.abs()).log1p_().copysign_(rows)


def _euclidean(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="use_mm_for_euclid_dist")

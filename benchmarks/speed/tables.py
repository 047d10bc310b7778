"""The tables, seeded and written once a scratch folder: numbers of a few hidden causes, and numbers beside levels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aemodel.files import whole_folder

CAUSES = 8
ROW_GROUP = 65_536
LEAST_FILES, ROWS_A_FILE = 8, 1_000_000
NUMERIC = CATEGORICAL = 20
#: Levels that the categorical columns of `mixed` draw from.
LEVELS = (*np.geomspace(2, 2_000, CATEGORICAL - 1).astype(int), 50_000)


def numbers(scratch: Path, rows: int, columns: int) -> Path:
    """A folder of `id` and float32 columns x000 …: each a curved mixture of normal causes, and noise."""
    rng = np.random.default_rng(0)
    mixture = _Mixture(rng, columns)
    return _written(scratch / f"numbers-{rows}x{columns}", rows, lambda size: _named(mixture.draw(rng, size)[1]))


def mixed(scratch: Path, rows: int) -> Path:
    """A folder of `id`, 20 float32 columns and 20 columns of strings that follow the same causes."""
    rng = np.random.default_rng(1)
    mixture, leanings = _Mixture(rng, NUMERIC), rng.normal(size=(CAUSES, CATEGORICAL)).astype("f4")

    def columns(size: int) -> dict[str, pa.Array]:
        causes, values = mixture.draw(rng, size)
        return _named(values) | _levels(causes @ leanings, rng)

    return _written(scratch / f"mixed-{rows}", rows, columns)


class _Mixture:
    """How causes (rows, CAUSES) become values (rows, columns)."""

    def __init__(self, rng: np.random.Generator, columns: int) -> None:
        self.bent = rng.normal(size=(CAUSES, columns)).astype("f4")
        self.squared = rng.normal(size=(CAUSES, columns)).astype("f4")

    def draw(self, rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Both float32."""
        causes = rng.normal(size=(rows, CAUSES)).astype("f4")
        values = np.tanh(causes @ self.bent) + 0.06 * np.square(causes) @ self.squared
        values += 0.1 * rng.normal(size=values.shape).astype("f4")
        return causes, values.astype("f4")


def _named(values: np.ndarray) -> dict[str, pa.Array]:
    return {f"x{index:03d}": pa.array(np.ascontiguousarray(column)) for index, column in enumerate(values.T)}


def _levels(scores: np.ndarray, rng: np.random.Generator) -> dict[str, pa.Array]:
    """Words by the place of scores (rows, CATEGORICAL) in their order, give or take; the first ones are frequent."""
    places = scores.argsort(axis=0).argsort(axis=0) / len(scores)
    places = np.clip(places + 0.05 * rng.normal(size=scores.shape), 0, 1 - 1e-9)
    return {
        f"c{index:03d}": pa.array(np.char.add("level-", (place**2 * count).astype(int).astype(str)))
        for index, (place, count) in enumerate(zip(places.T, LEVELS, strict=True))
    }


def _written(folder: Path, rows: int, columns: Callable[[int], dict[str, pa.Array]]) -> Path:
    """Write what `columns` gives for each file's number of rows, unless the folder is there."""
    if folder.exists():
        return folder
    files = max(LEAST_FILES, rows // ROWS_A_FILE)
    with whole_folder(folder) as partial:
        for index in range(files):
            begin, end = rows * index // files, rows * (index + 1) // files
            table = pa.table({"id": pa.array(np.arange(begin, end)), **columns(end - begin)})
            path = partial / f"part-{index:04d}.parquet"
            pq.write_table(table, path, row_group_size=ROW_GROUP, compression="zstd")
    return folder

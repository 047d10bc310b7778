"""A bundle and rows in, feature columns out: latents, anomaly score, its rank, the columns that explain it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from aemodel.bundle import Bundle
from aemodel.errors import SchemaError, nearest, shown
from aemodel.model import Batch
from aemodel.snapshot import Snapshot

NUM_REASONS = 3


@dataclass(frozen=True)
class StrangeRow:
    """One of the strangest rows of a table: its cells as text, its score and the columns that explain it."""

    error: float
    rank: float
    reasons: tuple[str, ...]
    cells: tuple[tuple[str, str], ...]

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> StrangeRow:
        cells = tuple((name, text) for name, text in state["cells"])
        return cls(state["error"], state["rank"], tuple(state["reasons"]), cells)


class Scorer:
    """Scores batches with one version of a model. Output columns, in order, are `schema`."""

    def __init__(self, bundle: Bundle, prefix: str, version: str) -> None:
        self.bundle, self.prefix, self.version = bundle, prefix, version
        self.features = bundle.feature_names(prefix)
        lineage = {
            "aemodel.model": bundle.provenance.name,
            "aemodel.model_version": version,
            "aemodel.bundle": bundle.digest,
        }
        fields = [
            pa.field(n, pa.float32(), metadata={**lineage, "aemodel.latent": str(i)})
            for i, n in enumerate(self.features)
        ]
        fields += [pa.field(f"{prefix}error", pa.float32(), metadata=lineage)]
        fields += [pa.field(f"{prefix}error_rank", pa.float32(), metadata=lineage)]
        fields += [pa.field(f"{prefix}reason_{i + 1}", pa.string(), metadata=lineage) for i in range(NUM_REASONS)]
        fields += [pa.field(f"{prefix}model_version", pa.string(), metadata=lineage)]
        self.schema = pa.schema(fields)

    @torch.inference_mode()
    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The feature columns of `batch`, row by row. Inputs that the batch lacks count as missing."""
        rows = Batch.of(self.bundle.transform.apply(batch))
        by_column, z, _ = self.bundle.model.squared_errors(rows)
        errors, latents = by_column.numpy(), z.float().numpy()
        calibration = self.bundle.calibration
        error = calibration.score(errors, latents)
        arrays = [pa.array(np.ascontiguousarray(latents[:, i])) for i in range(latents.shape[1])]
        arrays += [pa.array(error), pa.array(calibration.rank(error))]
        names = pa.array(self.bundle.input_columns, pa.string())
        for index in calibration.reasons(errors, NUM_REASONS).T:
            arrays.append(names.take(pa.array(index, mask=index < 0)))
        arrays.append(pa.repeat(pa.scalar(self.version, pa.string()), batch.num_rows))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def check_columns(self, types: pa.Schema) -> None:
        """Refuse a dataset that lacks an input of the model. Raises SchemaError naming it."""
        missing = [c for c in self.bundle.input_columns if c not in types.names]
        if missing:
            raise SchemaError(
                f"{shown(self.bundle.provenance.name)} version {self.version} needs column {shown(missing[0])}"
                f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}, which the dataset lacks; "
                f"{nearest(missing[0], types.names)}"
            )


class Strangest:
    """The rows of highest score seen so far."""

    def __init__(self, count: int, columns: Sequence[str], prefix: str) -> None:
        self.count, self.columns, self.prefix = count, columns, prefix
        self._heap: list[tuple[float, int, StrangeRow]] = []
        self._seen = 0

    def add(self, rows: pa.RecordBatch, scored: pa.RecordBatch) -> None:
        error = scored.column(f"{self.prefix}error").to_numpy()
        for index in np.argsort(-error, kind="stable")[: self.count]:
            if len(self._heap) == self.count and error[index] <= self._heap[0][0]:
                break
            self._seen += 1
            entry = (float(error[index]), -self._seen, self._row(rows, scored, int(index)))
            (heapq.heappushpop if len(self._heap) == self.count else heapq.heappush)(self._heap, entry)

    def rows(self) -> tuple[StrangeRow, ...]:
        """The strangest first."""
        return tuple(row for _, _, row in sorted(self._heap, key=lambda e: (-e[0], -e[1])))

    def _row(self, rows: pa.RecordBatch, scored: pa.RecordBatch, index: int) -> StrangeRow:
        reasons = (scored.column(f"{self.prefix}reason_{i + 1}")[index].as_py() for i in range(NUM_REASONS))
        cells = tuple((name, _text(rows.column(name)[index])) for name in self.columns)
        rank = float(scored.column(f"{self.prefix}error_rank")[index].as_py())
        return StrangeRow(
            float(scored.column(f"{self.prefix}error")[index].as_py()), rank, tuple(r for r in reasons if r), cells
        )


def score_fragment(
    scorer: Scorer, snapshot: Snapshot, fragment: int, carried: Sequence[str], strangest: Strangest
) -> Iterator[pa.RecordBatch]:
    """One file's rows in order: the carried columns, then the feature columns."""
    wanted = {*carried, *scorer.bundle.input_columns, *strangest.columns}
    columns = [n for n in snapshot.schema.names if n in wanted]
    schema = pa.schema([*(snapshot.schema.field(c) for c in carried), *scorer.schema])
    for batch in snapshot.read_fragment(fragment, columns):
        scored = scorer.score(batch)
        strangest.add(batch, scored)
        yield pa.RecordBatch.from_arrays([*(batch.column(c) for c in carried), *scored.columns], schema=schema)


def _text(value: pa.Scalar) -> str:
    cell = value.as_py()
    if cell is None:
        return "missing"
    text = f"{cell:g}" if isinstance(cell, float) else str(cell)
    return text if len(text) <= 60 else text[:59] + "…"

"""A bundle and rows in, feature columns out: latents, anomaly score, its rank, the columns that explain it."""

from __future__ import annotations

import heapq
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from aemodel.bundle import Bundle
from aemodel.columns import NUM_REASONS, OutputColumns, columns_of
from aemodel.config import OutputJob
from aemodel.contract import Contract
from aemodel.errors import SchemaError, nearest, shown
from aemodel.explanation import Strange, as_text, explained
from aemodel.layout import EncodedRows
from aemodel.membership import Membership
from aemodel.model import Batch
from aemodel.snapshot import BATCH_CELLS, Snapshot

#: Rows that are encoded at once, column by column; of fewer is computed what makes more of a row.
AT_ONCE = 16_384
#: Seconds after which a thread that holds Python's lock hands it to another that asks for it. The usual 5 ms are as
#: long as some of the work on a part of a batch, for which other threads then wait: a twentieth of the time.
HANDED_ON = 0.0005


@dataclass(frozen=True)
class StrangeRow:
    """One of the strangest rows of a table: its cells as text, its score and the columns that explain it.

    `expected` holds, for each of the `reasons`, what the model expected there, as text; None where it does not say.
    """

    error: float
    rank: float
    reasons: tuple[str, ...]
    expected: tuple[str | None, ...]
    cells: tuple[tuple[str, str], ...]

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> StrangeRow:
        cells = tuple((name, text) for name, text in state["cells"])
        return cls(state["error"], state["rank"], tuple(state["reasons"]), tuple(state["expected"]), cells)


@dataclass(frozen=True)
class _Placed:
    """A batch, the file and row group that it is of, and the place of its first row in that."""

    batch: pa.RecordBatch
    fragment: int
    row_group: int
    begin: int


@dataclass(frozen=True)
class _Measured:
    """Of some rows: `numbers` (rows, columns) that are written, the `reasons` (rows, 3) as indices of columns, and the
    strange ones; None where no score is written."""

    numbers: np.ndarray
    reasons: np.ndarray | None
    strange: Strange | None


class Scorer:
    """Scores batches with one version of a model. Output columns, in order, are `schema`."""

    def __init__(
        self,
        bundle: Bundle,
        output: OutputJob,
        version: str,
        contract: Contract | None = None,
        membership: Membership | None = None,
    ) -> None:
        """Without `membership` nothing is said of which rows were trained on, whatever the job asks."""
        self.bundle, self.version, self.membership = bundle, version, membership
        self._unknown, self._rows = np.zeros(len(bundle.input_columns), np.int64), 0
        self._counting = threading.Lock()
        if torch.cuda.is_available():  # the network; distances and all that is text stay with the processor
            bundle.model.cuda()
        output = output.model_copy(update={"in_training": output.in_training and membership is not None})
        self.columns = columns_of(output, bundle.job, bundle.model.latent_dim, bundle.transform.layout.width)
        self.lineage = {
            "aemodel.model": bundle.provenance.name,
            "aemodel.model_version": version,
            "aemodel.bundle": bundle.digest,
        }
        latents = {name: _latent(i, contract) for i, name in enumerate(self.columns.features)}
        fields = [pa.field(n, pa.float32(), metadata=self.lineage | latents.get(n, {})) for n in self.columns.numbers]
        fields += [pa.field(n, pa.string(), metadata=self.lineage) for n in self.columns.texts]
        self.schema = pa.schema(fields)

    @torch.inference_mode()
    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The feature columns of `batch`, row by row. Inputs that the batch lacks count as missing."""
        starts, parts, at_once = [], [], self.bundle.transform.layout.rows_at_once
        for first in range(0, max(1, batch.num_rows), AT_ONCE):
            rows = self._encoded(batch.slice(first, AT_ONCE))
            for start in range(0, max(1, len(rows)), at_once):
                parts.append(self._measured(rows[start : start + at_once]))
                starts.append(first + start)
        arrays = _columns_of(np.concatenate([p.numbers for p in parts]))
        if self.columns.anomaly:
            strange = Strange.joined([p.strange for p in parts if p.strange], starts)
            reasons = np.concatenate([p.reasons for p in parts if p.reasons is not None])
            arrays += self._explained(reasons, strange, batch)
        arrays.append(pa.repeat(pa.scalar(self.version, pa.string()), batch.num_rows))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _encoded(self, batch: pa.RecordBatch) -> EncodedRows:
        rows = self.bundle.transform.apply(batch)
        with self._counting:
            self._unknown += rows.nulled
            self._rows += len(rows)
        return rows

    def _measured(self, rows: EncodedRows) -> _Measured:
        model = self.bundle.model
        numbers: list[np.ndarray] = []
        strange = reasons = None
        if self.columns.anomaly:
            evidence, z = self.bundle.evidence(rows)
            features, calibration = evidence.features, self.bundle.calibration
            error = calibration.score(evidence)
            rank = calibration.rank(error)
            numbers = [error[:, None], rank[:, None]]
            reasons = calibration.reasons(evidence, NUM_REASONS)
            strange = Strange.among(rows, evidence, z, rank)
        else:
            features = model.encode(Batch.of(rows).to(model.device)).cpu().numpy()
        if self.columns.hidden:
            numbers.insert(0, model.hidden_layers(Batch.of(rows).to(model.device)).float().cpu().numpy())
        if self.columns.knn:
            numbers.append(self.bundle.calibration.knn(features)[:, None])
        return _Measured(np.concatenate([features, *numbers], axis=1), reasons, strange)

    def _explained(self, reasons: np.ndarray, strange: Strange, batch: pa.RecordBatch) -> list[pa.Array]:
        """The text columns: which columns make a row strange; what they hold and what was expected, of strange rows."""
        row = np.full(len(reasons), -1)
        row[strange.places] = np.arange(len(strange.places))
        reasons[strange.places], told = explained(self.bundle, strange, batch)
        names = pa.array(self.bundle.input_columns, pa.string())
        texts = [names.take(pa.array(index, mask=index < 0)) for index in reasons.T]
        place = pa.array(row, mask=row < 0)
        return texts + [pa.array(column, pa.string()).take(place) for column in told.T]

    def table_schema(self, types: pa.Schema, carried: Sequence[str]) -> pa.Schema:
        """Of the output table: the carried columns, what is scored, and whether a row was trained on, if asked for."""
        fields = [*(types.field(c) for c in carried), *self.schema]
        if self.columns.in_training:
            fields.append(pa.field(self.columns.training_flag, pa.bool_(), metadata=self.lineage))
        return pa.schema(fields)

    def unlike_training(self) -> list[str]:
        """Input columns most of whose cells so far held what could not be used, and did not in training."""
        found = []
        for column, unknown in zip(self.bundle.transform.columns, self._unknown, strict=True):
            named = 1.0 if column.column.kind != "categorical" else column.missing + sum(column.frequencies)
            cells = self._rows * (column.column.size if column.column.kind == "vector" else 1)
            if unknown > cells * (1 - named / 2):  # half way from the share in training to all
                found.append(column.column.name)
        return found

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
    """The rows of highest score seen so far, with their cells in `shown`."""

    def __init__(self, count: int, shown: Sequence[str], columns: OutputColumns) -> None:
        self.count, self.shown, self.columns = count, shown, columns
        self._heap: list[tuple[float, int, StrangeRow]] = []
        self._seen = 0

    def add(self, rows: pa.RecordBatch, scored: pa.RecordBatch) -> None:
        """Nothing where no score is written."""
        if not self.columns.anomaly:
            return
        error, full = scored.column(self.columns.error).to_numpy(), len(self._heap) == self.count
        better = np.flatnonzero(error > self._heap[0][0]) if full else np.arange(len(error))  # soon there are few
        for index in better[np.argsort(-error[better], kind="stable")[: self.count]]:
            if len(self._heap) == self.count and error[index] <= self._heap[0][0]:
                break
            self._seen += 1
            entry = (float(error[index]), -self._seen, self._row(rows, scored, int(index)))
            (heapq.heappushpop if len(self._heap) == self.count else heapq.heappush)(self._heap, entry)

    def rows(self) -> tuple[StrangeRow, ...]:
        """The strangest first."""
        return tuple(row for _, _, row in sorted(self._heap, key=lambda e: (-e[0], -e[1])))

    def _row(self, rows: pa.RecordBatch, scored: pa.RecordBatch, index: int) -> StrangeRow:
        def cell(name: str) -> Any:
            return scored.column(name)[index].as_py()

        names = self.columns
        known = [(cell(r), cell(e)) for r, e in zip(names.reasons, names.expected, strict=True) if cell(r) is not None]
        return StrangeRow(
            cell(names.error),
            cell(names.error_rank),
            tuple(reason for reason, _ in known),
            tuple(expected for _, expected in known),
            tuple((name, as_text(rows.column(name)[index])) for name in self.shown),
        )


def _columns_of(matrix: np.ndarray) -> list[pa.Array]:
    return [pa.array(np.ascontiguousarray(column)) for column in matrix.T]


def _latent(index: int, contract: Contract | None) -> dict[str, str]:
    """What a feature column's metadata says of its own past."""
    known = {"aemodel.latent": str(index)}
    if contract is not None:
        known |= {"aemodel.column_origin": contract.origins[index], "aemodel.parent_version": contract.parent}
        known |= {"aemodel.parent_bundle": contract.parent_digest}
        known |= {"aemodel.r": f"{contract.r[index]:.4f}"} if index < len(contract.r) else {}
    return known


def score_fragments(
    scorer: Scorer, snapshot: Snapshot, fragments: Sequence[int], carried: Sequence[str], strangest: Strangest
) -> Generator[tuple[int, pa.RecordBatch], None, None]:
    """The rows of these files in order, with the file that they are of: the carried columns, then the feature
    columns."""
    membership = scorer.membership
    wanted = {*carried, *scorer.bundle.input_columns, *strangest.shown, *(membership.columns if membership else ())}
    columns = [n for n in snapshot.schema.names if n in wanted]
    schema = scorer.table_schema(snapshot.schema, carried)
    most = max(1, BATCH_CELLS // len(schema))
    for placed, scored in _scored(scorer, _placed(snapshot, fragments, columns, most)):
        strangest.add(placed.batch, scored)
        arrays = [*(placed.batch.column(c) for c in carried), *scored.columns]
        if membership:
            path = snapshot.fragments[placed.fragment]
            arrays.append(pa.array(membership.in_training(placed.batch, path, placed.row_group, placed.begin)))
        yield placed.fragment, pa.RecordBatch.from_arrays(arrays, schema=schema)


def _placed(snapshot: Snapshot, fragments: Sequence[int], columns: Sequence[str], most: int) -> Iterator[_Placed]:
    """In batches of at most so many rows, as what is written of a row may be wider than what is read."""
    for fragment in fragments:
        for group in range(len(snapshot.fragments[fragment].row_groups)):
            begin = 0
            for batch in snapshot.read(fragment, group, columns):
                for start in range(0, max(1, batch.num_rows), most):
                    yield _Placed(batch.slice(start, most), fragment, group, begin + start)
                begin += batch.num_rows


def _scored(scorer: Scorer, items: Iterator[_Placed]) -> Iterator[tuple[_Placed, pa.RecordBatch]]:
    """Each item with what was scored of its batch, in order. While one is written, others are scored, on all cores, one
    waits for the next free core, and one more is read; what is read and not yet written is bounded by their number."""
    threads, waiting = torch.get_num_threads(), deque[tuple[_Placed, Future[pa.RecordBatch]]]()
    usual = sys.getswitchinterval()
    pool = ThreadPoolExecutor(threads, "scoring", torch.set_num_threads, (1,))  # a batch a core: no waiting for others
    reader = ThreadPoolExecutor(1, "reading")
    sys.setswitchinterval(HANDED_ON)
    try:
        ahead = reader.submit(next, items, None)
        while (item := ahead.result()) is not None:
            ahead = reader.submit(next, items, None)
            waiting.append((item, pool.submit(scorer.score, item.batch)))
            if len(waiting) > threads + 1:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        reader.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
        sys.setswitchinterval(usual)

"""RecordBatch to encoded rows and back into original units. Fitted on training statistics; its state is JSON.

A cell that cannot be used (NaN, infinite, out of float range) becomes missing, an unseen level "other"; both are
counted. Every value is clipped to ±10, so no input, however wild, makes a feature infinite.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aemodel import cells
from aemodel.curve import Curve
from aemodel.errors import SchemaError, shown
from aemodel.layout import FIRST_LEVEL, LINEAR_LEVELS, MISSING, OTHER, Block, EncodedRows, Layout
from aemodel.schema import Column
from aemodel.statistics import ColumnStatistics, Statistics

Scaling = Literal["quantile", "standard", "minmax"]

CLIP = 10.0
MAX_VOCABULARY = 10_000
KNOTS = 257
#: Beyond these quantiles a number is scored along a straight line, so that extremes stay apart.
TAIL = 0.005
#: Numbers of a vector that are encoded at once: before they are, they take four times the memory.
VECTOR_CELLS = 2**20
#: A nearly constant column would be blown up to full weight; its variance is taken to be at least this.
LEAST_VARIANCE = 0.02


@dataclass(frozen=True)
class ColumnTransform:
    """The fitted state of one column.

    `knots` and `scores` (numeric, scaling quantile): a piecewise linear map of numbers to normal scores.
    `mean` and `std`, one for each dimension: (score − mean) / std is the encoded value.
    `vocabulary`: levels by falling frequency. `missing`: share of training rows without a value.
    """

    column: Column
    missing: float
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    knots: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    vocabulary: tuple[str, ...] = ()
    frequencies: tuple[float, ...] = ()

    @property
    def num_levels(self) -> int:
        return len(self.vocabulary) + FIRST_LEVEL

    @cached_property
    def curve(self) -> Curve:
        """Numbers to normal scores."""
        return Curve(np.array(self.knots), np.array(self.scores))

    @cached_property
    def inverse(self) -> Curve:
        return Curve(np.array(self.scores), np.array(self.knots))

    def to_json(self) -> dict[str, Any]:
        # Not by `asdict`, which copies number by number: thousands of columns took seconds.
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"column": asdict(self.column)}

    def encode(self, array: pa.Array, place: np.ndarray) -> int:
        """Fill `place`, float32 (rows, dimensions) or of levels int32 (rows,); how many cells could not be used."""
        read = self.column.cells(array)
        if not isinstance(read, np.ndarray):
            place[:] = self._codes(read)
            return int((place == OTHER).sum())
        absent = array.null_count
        if read.ndim == 2:
            absent = absent * self.column.size + pc.list_flatten(array).null_count
        unusable = np.count_nonzero(np.isnan(read)) - absent
        if self.column.kind == "datetime":
            read = cells.calendar(read)
        matrix = read if read.ndim == 2 else read[:, None]
        if self.knots:
            matrix = self.curve(matrix[:, 0])[:, None]
        scaled = matrix - np.array(self.mean)
        scaled /= np.array(self.std)  # in place, as of a vector it is as large as a table
        np.clip(scaled, -CLIP, CLIP, out=place, casting="unsafe")  # narrowed as it is written
        return int(unusable)

    def _codes(self, read: pa.Array) -> np.ndarray:
        found = pc.index_in(read, value_set=pa.array(self.vocabulary, pa.string()), skip_nulls=True)
        codes = np.asarray(pc.fill_null(pc.add(found, FIRST_LEVEL), OTHER)).astype(np.int32)
        if read.null_count:
            codes[np.asarray(pc.is_null(read))] = MISSING
        return codes

    def decoded(self, values: np.ndarray) -> pa.Array:
        """Encoded values (rows, dimensions) back in original units; NaN is null."""
        matrix = values.astype(np.float64) * np.array(self.std) + np.array(self.mean)
        null = np.isnan(matrix)
        if self.column.kind == "vector":
            return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel(), mask=null.ravel()), self.column.size)
        first, mask = matrix[:, 0], null[:, 0]
        if self.knots:
            first = self.inverse(first)
        if self.column.kind == "boolean":
            return pa.array(first >= 0.5, mask=mask)
        if self.column.kind == "datetime":
            moment = np.where(mask, 0, np.clip(first, -9e12, 9e12) * 1e6).astype(np.int64)
            return pa.array(moment, mask=mask).cast(pa.timestamp("us"))
        return pa.array(first, mask=mask)

    def named_levels(self, codes: np.ndarray) -> pa.Array:
        """Codes (rows,) as strings: null for missing, `(other)` for a level without a name of its own."""
        names = pa.array([None, "(other)", *self.vocabulary], pa.string())
        return names.take(pa.array(codes))


def _encode(column: ColumnTransform, array: pa.Array, place: np.ndarray) -> int:
    """Fill `place`, (rows, dimensions) or (rows,), with a column's cells; how many of them could not be used."""
    unusable, at_once = 0, max(1, VECTOR_CELLS // column.column.size)
    for start in range(0, len(array), at_once):
        unusable += column.encode(array.slice(start, at_once), place[start : start + at_once])
    return unusable


@dataclass(frozen=True)
class Transform:
    columns: tuple[ColumnTransform, ...]
    scaling: Scaling
    layout: Layout

    def apply(self, batch: pa.RecordBatch) -> EncodedRows:
        """Encode a batch that holds (at least) the input columns; a column that it lacks is missing throughout."""
        values = np.empty((batch.num_rows, self.layout.num_values), np.float32)
        codes = np.empty((batch.num_rows, self.layout.num_codes), np.int32)
        nulled, held = [], dict(zip(batch.schema.names, batch.columns, strict=True))
        for column, block in zip(self.columns, self.layout.blocks, strict=True):
            name = column.column.name
            place = values[:, slice(*block.values)] if block.code is None else codes[:, block.code]
            if name not in held:
                place[:] = np.nan if block.code is None else MISSING
                nulled.append(0)
                continue
            try:
                nulled.append(_encode(column, held[name], place))
            except pa.ArrowException as error:
                kind = batch.schema.field(name).type
                raise SchemaError(
                    f"column {shown(name)} is {kind}, which cannot be read as {column.column.kind}: {error}"
                ) from None
        return EncodedRows(values, codes, tuple(nulled))

    def apply_all(self, rows: pa.Table) -> EncodedRows:
        """`apply` to all rows of a table of at least one row."""
        batches = rows.combine_chunks().to_batches(max_chunksize=self.layout.rows_at_once)
        return EncodedRows.concatenated([self.apply(b) for b in batches])

    def numbers(self, rows: EncodedRows) -> np.ndarray:
        """Floats (rows, num_values): encoded values without the curve that numeric ones were scored along, NaN where
        missing; for distances, in which a value that is ten times as far should be ten times as far."""
        if not any(column.knots for column in self.columns):
            return rows.values
        values = rows.values.astype(np.float64)
        for column, block in zip(self.columns, self.layout.blocks, strict=True):
            if column.knots:
                at = block.values[0]
                scored = values[:, at] * column.std[0] + column.mean[0]
                values[:, at] = column.inverse(scored)
        return values

    def invert(self, linear: np.ndarray) -> pa.RecordBatch:
        """Rows of the linear space (rows, width), such as a reconstruction, in original units."""
        raw = linear / self.layout.scale + self.layout.center
        arrays = []
        for column, block in zip(self.columns, self.layout.blocks, strict=True):
            if block.code is None:
                values = raw[:, slice(*block.values)]
                if block.flag is not None:
                    values = np.where(raw[:, [block.flag]] > 0.5, np.nan, values)
                arrays.append(column.decoded(values))
            else:
                arrays.append(column.named_levels(raw[:, slice(*block.levels)].argmax(axis=1)))
        return pa.RecordBatch.from_arrays(arrays, names=list(self.layout.columns))

    def original(self, numbers: np.ndarray) -> dict[str, pa.Array]:
        """What `numbers` gives (rows, num_values), in original units, by column; columns of levels are not among it."""
        found = {}
        for column, block in zip(self.columns, self.layout.blocks, strict=True):
            if block.code is None:
                values = numbers[:, slice(*block.values)]
                straight = column.knots and pa.array(values[:, 0], mask=np.isnan(values[:, 0]))
                found[block.column] = straight or column.decoded(values)
        return found

    def to_json(self) -> dict[str, Any]:
        return {"scaling": self.scaling, "columns": [c.to_json() for c in self.columns]}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Transform:
        columns = []
        for entry in state["columns"]:
            fitted: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
            fitted["column"] = Column(**entry["column"])
            columns.append(ColumnTransform(**fitted))
        return cls(tuple(columns), state["scaling"], layout_of(tuple(columns), state["scaling"]))


def fit(statistics: Statistics, scaling: Scaling) -> Transform:
    """Fit every column of the statistics. `Statistics.unusable` columns must have been left out before."""
    columns = tuple(_fitted(c, statistics, scaling) for c in statistics.columns.values())
    return Transform(columns, scaling, layout_of(columns, scaling))


def rare_levels(statistics: Statistics) -> dict[str, str]:
    """Categorical columns none of whose levels is frequent enough to be learned, with the reason."""
    least = _least_count(statistics.rows)
    return {
        name: f"no value occurs {least} times"
        for name, c in statistics.columns.items()
        if c.levels and not len(_vocabulary(c, statistics.rows)[0])
    }


def _fitted(column: ColumnStatistics, statistics: Statistics, scaling: Scaling) -> ColumnTransform:
    missing = column.missing / max(1, column.rows)
    if column.levels:
        vocabulary, counts = _vocabulary(column, statistics.rows)
        shares = tuple(float(c) / column.rows for c in counts)
        return ColumnTransform(column.column, missing, vocabulary=vocabulary, frequencies=shares)
    assert column.moments
    fitted = ColumnTransform(column.column, missing)
    kind, moments = column.column.kind, column.moments
    if scaling == "minmax":
        low, high = moments.least, moments.largest
        if kind == "vector":
            low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
        return replace(fitted, mean=_floats(low), std=_floats(np.where(high > low, high - low, 1.0)))
    if kind == "numeric" and scaling == "quantile":
        return _normal_scores(fitted, statistics.sampled(column.column.name))
    variance = moments.variance
    if kind == "vector":
        variance = np.full_like(variance, variance.mean())
    if kind == "datetime":  # a circle is not stretched
        variance = np.concatenate([variance[:1], np.ones(cells.CALENDAR_PARTS - 1)])
    return replace(fitted, mean=_floats(moments.mean), std=_floats(np.where(variance > 0, np.sqrt(variance), 1.0)))


def _normal_scores(fitted: ColumnTransform, values: np.ndarray) -> ColumnTransform:
    """Map sorted sample `values` to normal scores at mid-ranks, straight beyond the tails, standardised."""
    distinct, counts = np.unique(values, return_counts=True)
    rank = (np.cumsum(counts) - counts / 2) / max(1, len(values))
    inside = (rank >= TAIL) & (rank <= 1 - TAIL)
    if inside.sum() < 2:
        mean, std = (values.mean(), values.std()) if len(values) else (0.0, 1.0)
        return replace(fitted, mean=(float(mean),), std=(float(std) or 1.0,))
    distinct, rank = distinct[inside], rank[inside]
    if len(distinct) > KNOTS:
        chosen = np.unique(np.searchsorted(rank, np.linspace(rank[0], rank[-1], KNOTS)).clip(0, len(rank) - 1))
        distinct, rank = distinct[chosen], rank[chosen]
    normal = NormalDist()
    scores = np.array([normal.inv_cdf(p) for p in rank])
    encoded = Curve(distinct, scores)(values)
    std = max(float(encoded.std()), LEAST_VARIANCE**0.5)
    return replace(
        fitted,
        mean=(float(encoded.mean()),),
        std=(std,),
        knots=_floats(distinct),
        scores=_floats(scores),
    )


def _least_count(rows: int) -> int:
    """Levels seen less often are "other": too few to learn from; in small tables every repeated level counts."""
    return min(10, max(1, rows // 100))


def _vocabulary(column: ColumnStatistics, rows: int) -> tuple[tuple[str, ...], np.ndarray]:
    assert column.levels
    column.levels.settle()
    enough = int((column.levels.counts >= _least_count(rows)).sum())
    kept = min(enough, MAX_VOCABULARY)
    return tuple(column.levels.values.slice(0, kept).to_pylist()), column.levels.counts[:kept]


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def layout_of(columns: tuple[ColumnTransform, ...], scaling: Scaling) -> Layout:
    """Place every column's dimensions, and scale each column to a total variance of one (not for minmax)."""
    sizes = [0 if c.column.kind == "categorical" else len(c.mean) for c in columns]
    num_values = sum(sizes)
    flagged = [bool(c.missing) and c.column.kind != "categorical" for c in columns]
    value, flag, code, level = 0, num_values, 0, num_values + sum(flagged)
    blocks = []
    for column, size, has_flag in zip(columns, sizes, flagged, strict=True):
        if column.column.kind == "categorical":
            linear = min(column.num_levels, LINEAR_LEVELS + FIRST_LEVEL)
            levels = (level, level + linear)
            blocks.append(
                Block(column.column.name, "categorical", code=code, num_levels=column.num_levels, levels=levels)
            )
            level, code = level + linear, code + 1
        else:
            at = flag if has_flag else None
            blocks.append(Block(column.column.name, column.column.kind, (value, value + size), at))
            value, flag = value + size, flag + has_flag
    center, scale = np.zeros(level), np.ones(level)
    if scaling != "minmax":
        for column, block in zip(columns, blocks, strict=True):
            _weigh(column, block, center, scale)
    return Layout(tuple(blocks), num_values, code, level, center, scale)


def _weigh(column: ColumnTransform, block: Block, center: np.ndarray, scale: np.ndarray) -> None:
    dimensions = block.dimensions
    if column.column.kind == "categorical":
        named = np.array(column.frequencies[: len(dimensions) - FIRST_LEVEL])
        shares = np.concatenate([[column.missing, max(0.0, 1 - column.missing - named.sum())], named])
        center[dimensions] = shares
        total = float((shares * (1 - shares)).sum())
    else:
        share = column.missing
        total = (1 - share) * _encoded_variance(column) + share * (1 - share)
        if block.flag is not None:
            center[block.flag] = share
    scale[dimensions] = 1 / np.sqrt(max(total, LEAST_VARIANCE))


def _encoded_variance(column: ColumnTransform) -> float:
    """The expected total variance of a column's encoded values: one for each standardised dimension."""
    if column.column.kind != "datetime":
        return float(len(column.mean))
    circles = np.array(column.mean[1:]).reshape(-1, 2)
    return 1.0 + float((1 - (circles**2).sum(axis=1)).sum())

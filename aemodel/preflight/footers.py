"""What Parquet footers tell of a table: its row groups, and each column's kind and likely dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from aemodel.cells import CALENDAR_PARTS
from aemodel.config import DatasetJob, Kind
from aemodel.layout import FIRST_LEVEL, LINEAR_LEVELS
from aemodel.schema import Column, decide
from aemodel.snapshot import Snapshot, column_chunks

#: A text whose length no statistics tell is taken to have this many bytes.
ASSUMED_TEXT_BYTES = 16
#: Codes of k bits stand for 2^(k-1) to 2^k levels; the middle.
MIDDLE_OF_CODES = 0.75
#: Of a value within a list or a struct, in Arrow's memory.
PHYSICAL_BYTES = {"BOOLEAN": 1 / 8, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 8}
#: Bytes of a chunk that are neither codes nor dictionary.
PAGE_HEADERS = 60
#: Text columns of which more than this share of the rows differ are left out by a run.
MOSTLY_UNIQUE = 0.5


@dataclass(frozen=True)
class RowGroup:
    """Where a row group stands, and its bytes: on disk, and decoded to Arrow."""

    path: str
    index: int
    rows: int
    compressed: int
    decoded: int


@dataclass(frozen=True)
class InputColumn:
    """`levels` of a categorical, None where no dictionary tells; `has_nulls`, where footers tell."""

    name: str
    kind: Kind
    size: int = 1
    levels: int | None = None
    has_nulls: bool = False

    @property
    def values(self) -> int:
        """Encoded numbers of a row."""
        return {"categorical": 0, "datetime": CALENDAR_PARTS, "vector": self.size}.get(self.kind, 1)

    @property
    def width(self) -> int:
        """Dimensions in the linear space."""
        if self.kind != "categorical":
            return self.values + self.has_nulls
        return min(LINEAR_LEVELS if self.levels is None else self.levels, LINEAR_LEVELS) + FIRST_LEVEL


@dataclass(frozen=True)
class Footers:
    """`left_out`: columns that a run will not learn from, as far as footers tell; `decoded`: bytes of every column."""

    groups: tuple[RowGroup, ...]
    inputs: tuple[InputColumn, ...]
    left_out: tuple[str, ...]
    decoded: Mapping[str, int]


@dataclass
class _Chunks:
    """One column in all row groups."""

    rows: int = 0
    values: int = 0
    nulls: int = 0
    levels: int | None = 0
    largest_group: int = 0
    decoded: int = 0
    ranges: set[Any] = field(default_factory=set)

    def add(self, chunk: Any, rows: int, decoded: int) -> None:
        """A chunk's footer (pyarrow's ColumnChunkMetaData) in a row group of `rows`, and its bytes."""
        statistics = chunk.statistics if chunk.is_stats_set else None
        self.rows, self.values = self.rows + rows, self.values + chunk.num_values
        self.nulls += (statistics.null_count or 0) if statistics and statistics.has_null_count else 0
        least, largest = _range(statistics)
        self.ranges |= {least, largest} if least is not None else {("unknown", 0), ("unknown", 1)}
        found = levels_of(chunk, rows)
        self.levels = None if found is None or self.levels is None else max(self.levels, found)
        self.largest_group = max(self.largest_group, rows)
        self.decoded += decoded

    @property
    def is_constant(self) -> bool:
        return len(self.ranges) == 1 and not self.nulls

    @property
    def is_mostly_unique(self) -> bool:
        enough = self.largest_group >= 100
        return enough and self.levels is not None and self.levels > MOSTLY_UNIQUE * self.largest_group


def footers_of(snapshot: Snapshot, job: DatasetJob) -> Footers:
    """Read all footers once more. Raises SnapshotError, JobError or SchemaError."""
    columns = {name: _Chunks() for name in snapshot.schema.names}
    groups: list[RowGroup] = []
    for index, fragment in enumerate(snapshot.fragments):
        metadata = snapshot.metadata(index)
        for number in range(metadata.num_row_groups):
            group, decoded = metadata.row_group(number), 0
            for name, chunk in column_chunks(metadata, number):
                size = decoded_bytes(chunk, snapshot.schema.field(name).type)
                columns[name].add(chunk, group.num_rows, size)
                decoded += size
            compressed = sum(group.column(c).total_compressed_size for c in range(group.num_columns))
            groups.append(RowGroup(fragment.path, number, group.num_rows, compressed, decoded))
    schema = decide(snapshot.schema, [], job)
    inputs, left_out = [], []
    for column in schema.inputs:
        chunks, stated = columns[column.name], column.name in job.columns
        if chunks.is_constant or (column.kind == "categorical" and not stated and chunks.is_mostly_unique):
            left_out.append(column.name)
        else:
            inputs.append(_input(column, chunks))
    schema.without(dict.fromkeys(left_out, "constant, or like an identifier"), snapshot.schema)
    decoded_by = {name: chunks.decoded for name, chunks in columns.items()}
    return Footers(tuple(groups), tuple(inputs), (*(c.name for c in schema.left_out), *left_out), decoded_by)


def _input(column: Column, chunks: _Chunks) -> InputColumn:
    size, rows = column.size, max(1, chunks.rows)
    if column.kind == "vector" and size == 1:  # lists of a length that only the values tell
        size = max(1, round(chunks.values / rows))
    levels = chunks.levels or None if column.kind == "categorical" else None
    return InputColumn(column.name, column.kind, size, levels, chunks.nulls > 0 and column.kind != "vector")


def levels_of(chunk: Any, rows: int) -> int | None:
    """Distinct values of a chunk, from its statistics or from how many bits its dictionary's codes take.

    None where it has no dictionary, or one that was given up.
    """
    statistics = chunk.statistics if chunk.is_stats_set else None
    if statistics is not None and statistics.has_distinct_count and statistics.distinct_count:
        return int(statistics.distinct_count)
    if not chunk.has_dictionary_page or rows == 0:
        return None
    left, entry = chunk.total_uncompressed_size - PAGE_HEADERS, 4 + text_bytes(statistics)
    best = 1
    for bits in range(1, 25):
        levels = max(2, round(MIDDLE_OF_CODES * 2**bits))
        # The dictionary counts half: its texts may well be shorter than the least and the largest.
        if levels > rows or rows * bits / 8 + levels * entry / 2 > left:
            break
        best = levels
    return best


def decoded_bytes(chunk: Any, kind: pa.DataType) -> int:
    """Of a chunk of a column of this type in Arrow's memory, about: a dictionary's values are spelled out."""
    width = PHYSICAL_BYTES.get(chunk.physical_type) if kind.num_fields else _byte_width(kind)
    if width is not None:
        return math.ceil(chunk.num_values * width)
    spelled_out = chunk.num_values * (4 + text_bytes(chunk.statistics if chunk.is_stats_set else None))
    return int(max(spelled_out, chunk.total_uncompressed_size))


def _byte_width(kind: pa.DataType) -> float | None:
    try:
        return kind.bit_width / 8
    except (ValueError, AttributeError):
        return None  # none that is fixed


def text_bytes(statistics: Any) -> int:
    """The mean length of the least and the largest text, in bytes."""
    least, largest = _range(statistics)
    if not isinstance(least, str | bytes) or not isinstance(largest, str | bytes):
        return ASSUMED_TEXT_BYTES
    return max(1, (len(least) + len(largest)) // 2)


def _range(statistics: Any) -> tuple[Any, Any]:
    """The least and the largest value, None where they are not told or cannot be read."""
    if statistics is None or not statistics.has_min_max:
        return None, None
    try:
        return statistics.min, statistics.max
    except (ValueError, OverflowError, NotImplementedError, pa.ArrowException):
        return None, None

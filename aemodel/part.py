"""A file of the output table: written so that it lasts, linked from the last table, read back and compared."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aemodel.errors import PublishError, shown
from aemodel.files import sync_file
from aemodel.snapshot import batch_rows

#: A row group is closed when it has as many rows, or takes as many bytes in memory: what reads it may hold it whole,
#: and of small ones takes longer to find each than to read it.
GROUP_ROWS, GROUP_BYTES = 65_536, 128 * 2**20


def write_part(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
    """Write one file of the staged table, durable when it returns. The number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=_repetitive(schema)) as writer:
        for group in _row_groups(batches):
            writer.write_table(pa.Table.from_batches(group, schema))
            rows += sum(batch.num_rows for batch in group)
    sync_file(path)
    return rows


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Whole batches, as many as make a row group."""
    group: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if group and rows + batch.num_rows > GROUP_ROWS:
            yield group
            group, rows, size = [], 0, 0
        group.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            yield group
            group, rows, size = [], 0, 0
    if group:
        yield group


def _repetitive(schema: pa.Schema) -> list[str] | bool:
    """The columns worth a dictionary: features are all different, and trying one took a fifth of the writing."""
    if any(pa.types.is_nested(field.type) for field in schema):
        return True  # a column within a column has no name to be told by
    return [field.name for field in schema if not pa.types.is_floating(field.type)]


def link_part(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.link(source, path)


def check_part(path: Path, expected: Iterable[pa.RecordBatch], rows: int, finite: Sequence[str]) -> None:
    """Read a staged file back: the same rows, the carried columns cell by cell, finite features.

    `expected` are the carried columns of the input, in order. Raises PublishError.
    """
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        if file.metadata.num_rows != rows:
            raise PublishError(f"{shown(path.name)} has {file.metadata.num_rows} rows where the input has {rows}")
        for batch in _batches(file, list(finite)):
            for name in finite:
                column = batch.column(name)
                if column.null_count or not pc.all(pc.is_finite(column)).as_py():
                    raise PublishError(f"{shown(path.name)}: column {shown(name)} is not finite throughout")
        begin, carried = 0, _Written(file)
        for batch in expected:
            if not batch.num_columns:
                return
            written = carried.next(batch.num_rows, batch.schema.names)
            for name in batch.schema.names:
                if not _same(written.column(name), batch.column(name)):
                    raise PublishError(f"{shown(path.name)}: column {shown(name)} is not the input's, from row {begin}")
            begin += batch.num_rows


class _Written:
    """A file's rows, as many at a time as are asked for, whatever its row groups; few are held at once."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self.file = file
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._left: pa.RecordBatch | None = None

    def next(self, rows: int, columns: Sequence[str]) -> pa.Table:
        """The next rows of the file, or those that there are; always of the same columns."""
        self._batches = self._batches or _batches(self.file, list(columns))
        taken: list[pa.RecordBatch] = []
        while rows > 0:
            batch = self._left or next(self._batches, None)
            if batch is None:
                break
            taken.append(batch.slice(0, rows))
            self._left = batch.slice(rows) if batch.num_rows > rows else None
            rows -= taken[-1].num_rows
        if not taken:
            return pa.table({name: pa.nulls(0) for name in columns})
        return pa.Table.from_batches(taken)


def _batches(file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    for group in range(file.num_row_groups):
        yield from file.iter_batches(batch_rows(file.metadata, group, columns), [group], columns)


def _same(a: pa.Array, b: pa.Array) -> bool:
    """Equal cell by cell, a NaN equal to a NaN."""
    if isinstance(a, pa.ChunkedArray):
        a = a.combine_chunks()
    if a.type != b.type:
        a = a.cast(b.type)
    if a.equals(b):
        return True
    if pa.types.is_floating(a.type):
        nulls = a.is_null().equals(b.is_null())
        return nulls and bool(np.array_equal(a.to_numpy(False), b.to_numpy(False), equal_nan=True))
    if len(a) != len(b) or not a.is_null().equals(b.is_null()):
        return False
    if pa.types.is_map(a.type):
        entries = pa.list_(pa.struct([("key", a.type.key_type), ("value", a.type.item_type)]))
        return _same(a.cast(entries), b.cast(entries))
    if pa.types.is_struct(a.type):
        return all(_same(x, y) for x, y in zip(a.flatten(), b.flatten(), strict=True))
    if pa.types.is_fixed_size_list(a.type) or pa.types.is_list(a.type) or pa.types.is_large_list(a.type):
        alike = pc.list_value_length(a).equals(pc.list_value_length(b))
        return alike and _same(a.flatten(), b.flatten())
    return False

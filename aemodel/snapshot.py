"""The pinned input: which files, which row groups, how many rows, one schema, one digest.

Which files an address names is decided in `listing`, what schema they have together in `unified`.
"""

from __future__ import annotations

import base64
import hashlib
import posixpath
import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from aemodel.errors import SchemaError, SnapshotChanged, SnapshotError, redacted, shown, without_secrets
from aemodel.files import digest, read_state, write_json
from aemodel.listing import filesystem_of, listed
from aemodel.unified import FileSchema, Partition, conformed, unified

#: Of what is read at once, the rows, and the cells and bytes where rows are wide: 64 MB of float64, 128 of text.
BATCH_ROWS, BATCH_CELLS, CELL_BYTES = 65_536, 8_388_608, 16
#: What pyarrow says of encrypted columns, and of nulls among lists of fixed size, which it writes and cannot read.
ENCRYPTED, LISTS_OF_A_SIZE = "decrypt", "Expected all lists to be of size"
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


def batch_rows(footer: pq.FileMetaData, row_group: int, columns: Collection[str]) -> int:
    """How many rows of these columns are read at once, by the values that a row group holds of them, the elements of a
    list one each, and by their bytes, where they are long texts."""
    group, names = footer.row_group(row_group), set(columns)
    chunks = [chunk for name, chunk in column_chunks(footer, row_group) if name in names]
    cells, size = sum(c.num_values for c in chunks), sum(c.total_uncompressed_size for c in chunks)
    cells = max(1, cells, size // CELL_BYTES)
    return min(BATCH_ROWS, max(1, BATCH_CELLS * group.num_rows // cells))


def column_chunks(footer: pq.FileMetaData, row_group: int) -> Iterator[tuple[str, pq.ColumnChunkMetaData]]:
    """The chunks of a row group with the column that each is of; nested columns have several.

    By their order, as `a.b` may be a part of `a` or a column of that name.
    """
    group = footer.row_group(row_group)
    names = [field.name for field in footer.schema.to_arrow_schema() for _ in range(_num_leaves(field.type))]
    for index, name in enumerate(names):
        yield name, group.column(index)


def _num_leaves(kind: pa.DataType) -> int:
    """How many chunks hold a column of this type."""
    if isinstance(kind, pa.BaseExtensionType):
        return _num_leaves(kind.storage_type)
    parts = [kind.field(i).type for i in range(kind.num_fields)]
    return sum(map(_num_leaves, parts)) if parts else 1


@dataclass(frozen=True)
class Fragment:
    """One pinned file: its path below the snapshot's base, and what must still be true when it is read."""

    path: str
    size: int
    mtime_ns: int | None
    footer: str
    row_groups: tuple[int, ...]
    partition: Partition

    @property
    def num_rows(self) -> int:
        return sum(self.row_groups)


@dataclass(frozen=True)
class Snapshot:
    """`inexact`: columns whose values the common type may change a little, and why (see `unified`)."""

    uri: str
    base: str
    fragments: tuple[Fragment, ...]
    ignored: tuple[str, ...]
    schema: pa.Schema
    partition_columns: tuple[str, ...]
    inexact: Mapping[str, str]

    @property
    def num_rows(self) -> int:
        return sum(f.num_rows for f in self.fragments)

    @property
    def num_bytes(self) -> int:
        return sum(f.size for f in self.fragments)

    @property
    def digest(self) -> str:
        """Names the data wherever it lies: relative paths, sizes and footers, in order.

        A footer holds each column's least and largest value and the sizes of its pages, not the values: an edit in
        place that leaves all of these as they were gives the same digest. Reading every byte of every run would not.
        """
        return digest([[f.path, f.size, f.footer] for f in self.fragments])

    def row_groups(self) -> Iterator[tuple[int, int, int]]:
        """(fragment index, row group index, rows), in the order of the files."""
        for index, fragment in enumerate(self.fragments):
            for group, rows in enumerate(fragment.row_groups):
                yield index, group, rows

    def read(
        self, fragment: int, row_group: int, columns: Sequence[str], threads: bool = True
    ) -> Iterator[pa.RecordBatch]:
        """The rows of one row group, in order, as batches of the snapshot's types. Raises SnapshotError."""
        pinned = self.fragments[fragment]
        wanted = pa.schema([self.schema.field(c) for c in columns])
        where = f"{shown(pinned.path)}, row group {row_group}"
        rows = 0
        try:
            with self._open(pinned) as file:
                present = set(file.schema_arrow.names)
                held = [c for c in columns if c in present]
                at_once = batch_rows(file.metadata, row_group, held)
                for batch in file.iter_batches(at_once, [row_group], held, use_threads=threads):
                    batch.validate(full=True)
                    rows += batch.num_rows
                    yield conformed(batch, wanted, pinned.partition, where)
        except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
            raise _unreadable(where, error) from None
        if rows != pinned.row_groups[row_group]:
            raise SnapshotError(f"{where}: {rows} rows where its footer promises others; restore or remove the file")

    def read_fragment(self, fragment: int, columns: Sequence[str], threads: bool = True) -> Iterator[pa.RecordBatch]:
        """All rows of one file, in order; row groups are read one at a time."""
        for group in range(len(self.fragments[fragment].row_groups)):
            yield from self.read(fragment, group, columns, threads)

    def sample(self, columns: Sequence[str], rows: int = 65_536, groups: int = 16) -> list[pa.RecordBatch]:
        """The first rows of some row groups spread evenly over the table; each batch is a run of consecutive rows,
        shorter where they are wide."""
        filled = [(f, g) for f, g, n in self.row_groups() if n]
        spread = filled[:: max(1, -(-len(filled) // groups))]
        taken = []
        for fragment, group in spread:
            first = next(self.read(fragment, group, columns))
            taken.append(first.slice(0, -(-rows // len(spread))))
        return taken

    def metadata(self, fragment: int) -> pq.FileMetaData:
        """The footer of one file, which tells more than is pinned of it. Raises SnapshotError."""
        pinned = self.fragments[fragment]
        try:
            with self._open(pinned) as file:
                return file.metadata
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(shown(pinned.path), error) from None

    def _open(self, fragment: Fragment) -> pq.ParquetFile:
        filesystem, _ = filesystem_of(self.uri)
        path = posixpath.join(self.base, fragment.path) if fragment.path else self.base
        info = filesystem.get_file_info(path)
        if info.type != pafs.FileType.File or info.size != fragment.size or info.mtime_ns != fragment.mtime_ns:
            raise SnapshotChanged(f"{shown(fragment.path or path)} has changed since the run began; run again")
        local = isinstance(filesystem, pafs.LocalFileSystem)
        return pq.ParquetFile(
            path if local else filesystem.open_input_file(path),
            memory_map=local,
            pre_buffer=not local,
            page_checksum_verification=True,
        )

    def save(self, path: Path) -> None:
        state = {
            "uri": self.uri,
            "base": self.base,
            "fragments": [asdict(f) for f in self.fragments],
            "ignored": self.ignored,
            "schema": base64.b64encode(self.schema.serialize().to_pybytes()).decode(),
            "partition_columns": self.partition_columns,
            "inexact": self.inexact,
        }
        write_json(path, state)

    @classmethod
    def load(cls, path: Path) -> Snapshot:
        state = read_state(path)
        fragments = tuple(
            Fragment(
                **{
                    **f,
                    "row_groups": tuple(f["row_groups"]),
                    "partition": tuple((k, v) for k, v in f["partition"]),
                }
            )
            for f in state["fragments"]
        )
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(state["schema"])))
        return cls(
            state["uri"],
            state["base"],
            fragments,
            tuple(state["ignored"]),
            schema,
            tuple(state["partition_columns"]),
            state["inexact"],
        )


def open_snapshot(uri: str) -> Snapshot:
    """Pin the dataset at `uri`: a file, a folder or a glob. Raises SnapshotError or SchemaError, naming the file."""
    try:
        found = listed(uri)
    except (OSError, pa.ArrowException, ValueError) as error:
        reason = without_secrets(_first_line(error))
        raise SnapshotError(f"dataset.uri {shown(redacted(uri))} cannot be opened: {reason}") from None
    if not found.files:
        kinds = Counter(posixpath.splitext(p)[1] or "extensionless" for p in found.ignored)
        seen = ", ".join(f"{n} {k}" for k, n in kinds.most_common(3))
        raise SnapshotError(
            f"no Parquet files in {shown(redacted(uri))} ({'found ' + seen if seen else 'it is empty'}); "
            "give a file, folder or glob of .parquet files"
        )
    pinned = [_pin(found.filesystem, found.base, info) for info in found.files]
    fragments = tuple(fragment for fragment, _ in pinned)
    together = unified([FileSchema(f.path, schema, f.partition) for f, schema in pinned])
    return Snapshot(
        uri, found.base, fragments, tuple(found.ignored), together.schema, together.partition_columns, together.inexact
    )


def _pin(filesystem: pafs.FileSystem, base: str, info: pafs.FileInfo) -> tuple[Fragment, pa.Schema]:
    relative = posixpath.relpath(info.path, base)
    try:
        with filesystem.open_input_file(info.path) as source:
            size = source.size()
            footer = _footer(source, size)
            source.seek(0)
            with pq.ParquetFile(source) as file:
                rows = tuple(file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups))
                schema = file.schema_arrow
    except Exception as error:  # a hostile footer may raise anything, and this is the door
        reason = _first_line(error)
        raise SnapshotError(
            f"{shown(relative)} is not a readable Parquet file ({reason}); restore or remove it"
        ) from None
    twice = [n for n, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise SchemaError(
            f"{shown(relative)} has {Counter(schema.names)[twice[0]]} columns named {shown(twice[0])}; rename"
        )
    digest_ = hashlib.sha256(footer).hexdigest()
    return Fragment(relative, size, info.mtime_ns, digest_, rows, _partition(relative)), schema.remove_metadata()


def _footer(source: Any, size: int) -> bytes:
    if size < 12:
        raise ValueError(f"{size} bytes")
    source.seek(size - 8)
    length, magic = struct.unpack("<I4s", source.read(8))
    if magic == b"PARE":
        raise ValueError("its footer is encrypted, which is not supported")
    if magic != b"PAR1" or length > size - 12:
        raise ValueError("no Parquet footer: truncated or another format")
    source.seek(size - 8 - length)
    return bytes(source.read(length))


def _partition(relative: str) -> Partition:
    pairs = [part.split("=", 1) for part in relative.split("/")[:-1] if "=" in part]
    return tuple((unquote(k), None if v == HIVE_NULL else unquote(v)) for k, v in pairs)


def _unreadable(where: str, error: BaseException) -> SnapshotError:
    reason = _first_line(error)
    if LISTS_OF_A_SIZE in reason:
        return SnapshotError(
            f"{where}: nulls in a column of lists of fixed size, which pyarrow writes and does not read ({reason}); "
            "write it as lists of any length, or name it in dataset.exclude and set dataset.key, that it is not carried"
        )
    if isinstance(error, NotImplementedError) or ENCRYPTED in reason:
        return SnapshotError(f"{where}: pyarrow does not support how it is written ({reason}); write it in another way")
    return SnapshotError(f"{where}: corrupt data ({reason}); restore or remove the file")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

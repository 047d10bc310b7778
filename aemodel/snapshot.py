"""The pinned input: which files, which row groups, how many rows, one schema, one digest.

Rules, the same for a file, a folder, a glob and any file system that pyarrow opens:

- Names (and folders) that begin with `_` or `.` are ignored, as Spark and pyarrow ignore them.
- In a folder, files ending in `.parquet` or `.parq` are the data. Others are ignored and listed.
- `key=value` folders are columns (hive partitions): integers if every value is one, else strings. A column
  of the same name inside the files wins.
- Files may differ: a column that one lacks is read as null there, and types are widened where Arrow can do
  it without changing values' meaning (int32 with int64, integer with float, …). Anything else is refused.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import posixpath
import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from aemodel.errors import SchemaError, SnapshotChanged, SnapshotError, redacted, shown, without_secrets
from aemodel.files import digest, read_json, write_json

SUFFIXES = (".parquet", ".parq")
BATCH_ROWS = 65_536
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Fragment:
    """One pinned file: its path below the snapshot's base, and what must still be true when it is read."""

    path: str
    size: int
    mtime_ns: int | None
    footer: str
    row_groups: tuple[int, ...]
    partition: tuple[tuple[str, str | None], ...]

    @property
    def num_rows(self) -> int:
        return sum(self.row_groups)


@dataclass(frozen=True)
class Snapshot:
    uri: str
    base: str
    fragments: tuple[Fragment, ...]
    ignored: tuple[str, ...]
    schema: pa.Schema
    partition_columns: tuple[str, ...]

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
                for batch in file.iter_batches(BATCH_ROWS, [row_group], held, use_threads=threads):
                    batch.validate(full=True)
                    rows += batch.num_rows
                    yield _conform(batch, wanted, dict(pinned.partition))
        except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
            raise SnapshotError(f"{where}: corrupt data ({_first_line(error)}); restore or remove the file") from None
        if rows != pinned.row_groups[row_group]:
            raise SnapshotError(f"{where}: {rows} rows where its footer promises others; restore or remove the file")

    def read_fragment(self, fragment: int, columns: Sequence[str], threads: bool = True) -> Iterator[pa.RecordBatch]:
        """All rows of one file, in order; row groups are read one at a time."""
        for group in range(len(self.fragments[fragment].row_groups)):
            yield from self.read(fragment, group, columns, threads)

    def sample(self, columns: Sequence[str], rows: int = 65_536, groups: int = 16) -> list[pa.RecordBatch]:
        """The first rows of some row groups spread evenly over the table; each batch is a run of consecutive rows."""
        filled = [(f, g) for f, g, n in self.row_groups() if n]
        spread = filled[:: max(1, -(-len(filled) // groups))]
        taken = []
        for fragment, group in spread:
            first = next(self.read(fragment, group, columns))
            taken.append(first.slice(0, -(-rows // len(spread))))
        return taken

    def _open(self, fragment: Fragment) -> pq.ParquetFile:
        filesystem, _ = _filesystem(self.uri)
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
        }
        write_json(path, state)

    @classmethod
    def load(cls, path: Path) -> Snapshot:
        state = read_json(path)
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
        )


def open_snapshot(uri: str) -> Snapshot:
    """Pin the dataset at `uri`: a file, a folder or a glob. Raises SnapshotError or SchemaError, naming the file."""
    try:
        filesystem, base, infos, ignored = _listed(uri)
    except (OSError, pa.ArrowException, ValueError) as error:
        reason = without_secrets(_first_line(error))
        raise SnapshotError(f"dataset.uri {shown(redacted(uri))} cannot be opened: {reason}") from None
    if not infos:
        kinds = Counter(posixpath.splitext(p)[1] or "extensionless" for p in ignored)
        found = ", ".join(f"{n} {k}" for k, n in kinds.most_common(3))
        raise SnapshotError(
            f"no Parquet files in {shown(redacted(uri))} ({'found ' + found if found else 'it is empty'}); "
            "give a file, folder or glob of .parquet files"
        )
    pinned = [_pin(filesystem, base, info) for info in infos]
    fragments = tuple(fragment for fragment, _ in pinned)
    schema, partition_columns = _unified(fragments, [s for _, s in pinned])
    return Snapshot(uri, base, fragments, tuple(ignored), schema, partition_columns)


def local_path(uri: str) -> Path | None:
    """The absolute local path that `uri` names, or None where it names another file system."""
    if uri.startswith("file://"):
        return Path(unquote(uri.removeprefix("file://"))).resolve()
    return None if "://" in uri else Path(uri).expanduser().resolve()


def _filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    path = local_path(uri)
    if path is not None:
        return pafs.LocalFileSystem(), str(path)
    return pafs.FileSystem.from_uri(uri)


def _listed(uri: str) -> tuple[pafs.FileSystem, str, list[pafs.FileInfo], list[str]]:
    """File system, base path, data files in order of path, and ignored paths (relative to base)."""
    if re.search(r"[*?\[]", uri.partition("://")[2] or uri):
        return _globbed(uri)
    filesystem, base = _filesystem(uri)
    info = filesystem.get_file_info(base)
    if info.type == pafs.FileType.NotFound:
        raise SnapshotError(f"no such file or folder: {shown(redacted(uri))}; check dataset.uri")
    if info.type == pafs.FileType.File:
        return filesystem, posixpath.dirname(base), [info], []
    return filesystem, base, *_data_files(filesystem, base)


def _globbed(uri: str) -> tuple[pafs.FileSystem, str, list[pafs.FileInfo], list[str]]:
    head = re.match(r"[^*?\[]*/", uri)
    root = head.group(0) if head else "."
    pattern = uri.removeprefix(root) if head else uri
    filesystem, base = _filesystem(root)
    if filesystem.get_file_info(base).type != pafs.FileType.Directory:
        raise SnapshotError(f"no such folder: {shown(redacted(root))}; check dataset.uri")
    files, ignored = _data_files(filesystem, base)
    relative = {posixpath.relpath(f.path, base): f for f in files}
    steps = [s for s in pattern.split("/") if s]
    chosen = [p for p in relative if _matches(p.split("/"), steps)]
    if not chosen:
        raise SnapshotError(f"nothing matches {shown(redacted(uri))}; check dataset.uri")
    return filesystem, base, [relative[p] for p in sorted(chosen)], ignored


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Step by step, `**` for any number of them; a folder that matches brings all that is in it."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches(path[i:], pattern[1:]) for i in range(len(path)))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


def _data_files(filesystem: pafs.FileSystem, base: str) -> tuple[list[pafs.FileInfo], list[str]]:
    files, ignored = [], []
    for info in filesystem.get_file_info(pafs.FileSelector(base, recursive=True)):
        if info.type != pafs.FileType.File:
            continue
        relative = posixpath.relpath(info.path, base)
        hidden = any(part[0] in "_." for part in relative.split("/"))
        if hidden or not relative.lower().endswith(SUFFIXES):
            ignored.append(relative)
        else:
            files.append(info)
    return sorted(files, key=lambda i: i.path), sorted(ignored)


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


def _partition(relative: str) -> tuple[tuple[str, str | None], ...]:
    pairs = [part.split("=", 1) for part in relative.split("/")[:-1] if "=" in part]
    return tuple((unquote(k), None if v == HIVE_NULL else unquote(v)) for k, v in pairs)


def _unified(fragments: Sequence[Fragment], schemas: Sequence[pa.Schema]) -> tuple[pa.Schema, tuple[str, ...]]:
    """One schema for all files, partition columns last. Raises SchemaError naming column, types and files."""
    merged, first = _plain(schemas[0]), fragments[0].path
    for fragment, schema in zip(fragments[1:], schemas[1:], strict=True):
        plain = _plain(schema)
        if plain.equals(merged):
            continue
        try:
            merged = pa.unify_schemas([merged, plain], promote_options="permissive")
        except pa.ArrowException:
            _refuse(merged, first, plain, fragment.path)
    names = [tuple(k for k, _ in f.partition) for f in fragments]
    if len(set(names)) > 1:
        odd = next(f.path for f, n in zip(fragments, names, strict=True) if n != names[0])
        raise SchemaError(f"{shown(odd)} and {shown(first)} have different hive partition keys; split the dataset")
    columns = tuple(k for k in names[0] if k not in merged.names)
    for column in columns:
        values = [dict(f.partition)[column] for f in fragments]
        integer = all(v is None or re.fullmatch(r"[+-]?\d{1,18}", v) for v in values)
        merged = merged.append(pa.field(column, pa.int64() if integer else pa.string()))
    return merged, columns


def _plain(schema: pa.Schema) -> pa.Schema:
    """Encodings of the same values made one: dictionaries by their values, every string large or not as string."""
    return pa.schema([pa.field(f.name, _plain_type(f.type)) for f in schema])


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return kind


def _refuse(merged: pa.Schema, first: str, other: pa.Schema, path: str) -> None:
    for field in other:
        if field.name not in merged.names:
            continue
        known = merged.field(field.name)
        try:
            pa.unify_schemas([pa.schema([known]), pa.schema([field])], promote_options="permissive")
        except pa.ArrowException:
            raise SchemaError(
                f"column {shown(field.name)} is {known.type} in {shown(first)} but {field.type} in {shown(path)}; "
                "write both alike"
            ) from None
    raise AssertionError("two schemas do not unify, yet each of their columns does")


def _conform(batch: pa.RecordBatch, wanted: pa.Schema, partition: dict[str, str | None]) -> pa.RecordBatch:
    arrays, held = [], dict(zip(batch.schema.names, batch.columns, strict=True))
    for field in wanted:
        if field.name in held:
            array = held[field.name]
            arrays.append(array if array.type == field.type else _cast(array, field.type))
        elif field.name in partition:
            value = pa.scalar(partition[field.name], pa.string()).cast(field.type)
            arrays.append(pa.repeat(value, batch.num_rows))
        else:
            arrays.append(pa.nulls(batch.num_rows, field.type))
    if not arrays:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * batch.num_rows, pa.struct([])))
    return pa.RecordBatch.from_arrays(arrays, schema=wanted)


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array.cast(kind, safe=False) if pa.types.is_floating(kind) else array.cast(kind)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

"""The output table: immutable snapshots, a `current` link, and a switch that is seen whole or not at all.

    <uri>/snapshots/000001-1f3a…/month=01/part-0.parquet    complete, never changed afterwards
    <uri>/snapshots/000001-1f3a…/_manifest.json             what it holds and what it was made of
    <uri>/snapshots/000001-1f3a…/_latents                   what its feature columns say, a Parquet file
    <uri>/current -> snapshots/000001-1f3a…                 replaced in one step
    <uri>/latents.parquet -> current/_latents               so that it switches with the table

Readers open `<uri>/current`. A table's key names its input, model and settings: the same key again is the same
table, and nothing is written. Files whose input did not change are hard links to the last snapshot's.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from aemodel.errors import PublishError, TableError, redacted, shown
from aemodel.files import read_json, sync_file, sync_folder, write_json
from aemodel.listing import covers, local_path
from aemodel.snapshot import Snapshot

MANIFEST = "_manifest.json"
CURRENT = "current"
#: Not a `.parquet`, so that readers who gather those find rows only; they find it under the other name.
CARDS, CARDS_LINK = "_latents", "latents.parquet"
#: Another writer of the same table is waited for this long, in seconds.
LOCK_SECONDS = 60.0
#: A staging folder that nobody has touched for this long is left over from a killed run.
ABANDONED_SECONDS = 86_400.0


@dataclass(frozen=True)
class Part:
    """One output file: where, how many rows, the digest of the input and model it was made of, and its bytes."""

    path: str
    rows: int
    source: str
    size: int


@dataclass(frozen=True)
class Manifest:
    key: str
    model: str
    model_version: str
    snapshot: str
    recipe: str
    parts: tuple[Part, ...]
    table_version: int = 0
    strangest: tuple[dict[str, Any], ...] = field(default=())

    @property
    def rows(self) -> int:
        return sum(p.rows for p in self.parts)

    @classmethod
    def load(cls, path: Path) -> Manifest:
        try:
            state = read_json(path)
            return cls(
                **{**state, "parts": tuple(Part(**p) for p in state["parts"]), "strangest": tuple(state["strangest"])}
            )
        except (ValueError, KeyError, TypeError) as error:
            raise TableError(f"{shown(path)} is damaged ({error}); point `current` at an older snapshot") from None


class Table:
    """A published table on a local (or mounted) file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def open(cls, uri: str, dataset: Snapshot | None) -> Table:
        """Check where a job wants its output, given its input. Raises TableError."""
        try:
            root = local_path(uri)
        except ValueError as error:
            raise TableError(f"output.uri {shown(redacted(uri))} can be no folder: {error}; choose another") from None
        if root is None:
            raise TableError(
                f"output.uri {shown(redacted(uri))}: format parquet publishes to a local or mounted folder; "
                "give such a path"
            )
        if dataset is not None:
            _check_apart(root, dataset)
        _check_ours(root)
        return cls(root)

    @property
    def current(self) -> Manifest | None:
        """The manifest of what readers see, None before the first publish."""
        path = self.root / CURRENT / MANIFEST
        return Manifest.load(path) if path.exists() else None

    @property
    def path(self) -> Path:
        return self.root / CURRENT

    def holds(self, key: str) -> bool:
        """Whether readers see the table of this key, with all its files."""
        current = self.current
        return current is not None and current.key == key and all(self._is_there(part) for part in current.parts)

    def _is_there(self, part: Part) -> bool:
        try:
            return (self.path / part.path).stat().st_size == part.size
        except OSError:
            return False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One writer at a time; the lock of a killed writer is released by the system. Raises TableError."""
        lock = FileLock(self.root / ".lock", timeout=LOCK_SECONDS)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise TableError(f"another run is writing {shown(self.root)}; try again when it is done") from None
        except OSError as error:
            raise TableError(
                f"output.uri {shown(self.root)} cannot be written: {error.strerror}; choose another"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def staging(self, key: str) -> Path:
        return self.root / f".staging-{key[:16]}"

    def begin(self, key: str) -> Path:
        """An empty staging folder; what a killed run left behind is removed. Hold the lock.

        Another key's folder may be that of a run between staging and publishing, unless it is old.
        """
        staging = self.staging(key)
        for leftover in self.root.glob(".staging-*"):
            if leftover == staging or time.time() - leftover.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(leftover)
        staging.mkdir(parents=True)
        return staging

    def discard(self, key: str) -> None:
        """Remove what is staged for a key that readers see already: a twin of this run was faster. Hold the lock."""
        shutil.rmtree(self.staging(key), ignore_errors=True)

    def reusable(self, source: str, path: str) -> Path | None:
        """The current file at `path`, if it was made of the same input, model and settings."""
        current = self.current
        parts = current.parts if current else ()
        held = any(p.path == path and p.source == source and self._is_there(p) for p in parts)
        return self.path / path if held else None

    def commit(self, manifest: Manifest) -> Manifest:
        """Make a staged table the current one; if it already is, and is whole, nothing happens. Hold the lock."""
        current = self.current
        if current is not None and self.holds(manifest.key):
            shutil.rmtree(self.staging(manifest.key), ignore_errors=True)
            return current
        manifest = Manifest(**{**vars(manifest), "table_version": (current.table_version if current else 0) + 1})
        staging = self.staging(manifest.key)
        for part in manifest.parts:
            if not (staging / part.path).is_file():
                raise PublishError(f"{shown(part.path)} was staged and is gone; run again")
        write_json(staging / MANIFEST, asdict(manifest))
        for folder in [staging, *(p for p in staging.rglob("*") if p.is_dir())]:
            sync_folder(folder)
        name = f"{manifest.table_version:06d}-{manifest.key[:12]}"
        target = self.root / "snapshots" / name
        target.parent.mkdir(exist_ok=True)
        if target.exists():  # a killed run got this far, and `current` never pointed there
            shutil.rmtree(target)
        os.rename(staging, target)
        sync_folder(target.parent)
        if (target / CARDS).exists():  # before the switch, after which a killed run is not taken up again
            self._point(CARDS_LINK, Path(CURRENT) / CARDS)
        self._point(CURRENT, Path("snapshots") / name)
        sync_folder(self.root)
        return manifest

    def _point(self, name: str, target: Path) -> None:
        """Make the link `name` in the table's folder lead to `target`, in one step."""
        link = self.root / f".{name}"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        os.replace(link, self.root / name)


def _is_ours(path: Path) -> bool:
    """Whether a first publish that was cut short could have left it in the table's folder."""
    return path.name == "snapshots" or (path.name == CARDS_LINK and path.is_symlink())


def _check_apart(root: Path, dataset: Snapshot) -> None:
    """The next run must not read what this one writes, nor the table's folder hold the input. Raises TableError."""
    where = shown(redacted(dataset.uri))
    written = root / "snapshots" / "000001-0123456789ab"
    if covers(dataset.uri, [root, *(written / f.path for f in dataset.fragments)]):
        raise TableError(f"output.uri {shown(root)} lies inside the dataset {where}; choose another folder")
    base = Path(dataset.base)
    if local_path(dataset.uri) and any((base / f.path).is_relative_to(root) for f in dataset.fragments):
        raise TableError(f"the dataset {where} lies inside output.uri {shown(root)}; choose another folder")


def _check_ours(root: Path) -> None:
    """The folder is a table's, or empty, or can be made. Raises TableError."""
    try:
        if root.exists() and not root.is_dir():
            raise TableError(f"output.uri {shown(root)} is a file; choose a folder")
        _try_to_make(root)
        ours = (root / CURRENT).is_symlink() or not root.exists()
        foreign = [] if ours else [p.name for p in root.iterdir() if p.name[0] != "." and not _is_ours(p)]
        if (root / CARDS_LINK).exists() and not _is_ours(root / CARDS_LINK):  # publishing would replace it
            foreign.append(CARDS_LINK)
    except OSError as error:
        raise TableError(f"output.uri {shown(root)} cannot be written: {error.strerror}; choose another") from None
    if foreign:
        raise TableError(f"output.uri {shown(root)} holds other files ({shown(foreign[0])}); choose an empty folder")


def _try_to_make(root: Path) -> None:
    """Make the folder, and remove again what was not there before. Raises OSError where it cannot be written to."""
    made = []
    try:
        for folder in reversed([root, *root.parents]):
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
        if not os.access(root, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    finally:
        for folder in reversed(made):
            with suppress(OSError):  # another run may have put something there already
                folder.rmdir()


def write_part(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
    """Write one file of the staged table, durable when it returns. The number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=_repetitive(schema)) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    sync_file(path)
    return rows


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
        for batch in file.iter_batches(columns=list(finite)):
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
        self._batches = self._batches or self.file.iter_batches(columns=list(columns))
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

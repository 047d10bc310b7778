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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aemodel.errors import PublishError, TableError, redacted, shown
from aemodel.files import read_json, sync_folder, write_json
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

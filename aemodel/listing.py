"""Which files an address names: a file, a folder or a glob, on any file system that pyarrow opens.

- Names (and folders) that begin with `_` or `.` are ignored, as Spark and pyarrow ignore them.
- In a folder, files ending in `.parquet` or `.parq` are the data. Others are ignored and listed.
- On a local file system links to folders, below the one that is named, are not followed: they may lead in a circle.
  Links to files are, but each file counts once. What is passed over is ignored and listed.
- An address with `*`, `?` or `[` is a glob, unless something of just that name exists.
"""

from __future__ import annotations

import fnmatch
import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow.fs as pafs

from aemodel.errors import SnapshotError, redacted, shown
from aemodel.files import resolved

SUFFIXES = (".parquet", ".parq")


@dataclass(frozen=True)
class Listing:
    """`base` is a path of `filesystem`; `files` are the data in order of path, `ignored` relative to the base."""

    filesystem: pafs.FileSystem
    base: str
    files: list[pafs.FileInfo]
    ignored: list[str]


def local_path(uri: str) -> Path | None:
    """The absolute local path that `uri` names, or None where it names another file system.

    Raises ValueError, with the reason, where it can be no path.
    """
    if uri.startswith("file://"):
        return resolved(unquote(uri.removeprefix("file://")))
    return None if "://" in uri else resolved(uri)


def filesystem_of(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system that `uri` names and the path in it. Raises ValueError or an Arrow error."""
    path = local_path(uri)
    if path is not None:
        return pafs.LocalFileSystem(), str(path)
    return pafs.FileSystem.from_uri(uri)


def listed(uri: str) -> Listing:
    """Raises SnapshotError where nothing is there; OSError, ValueError or Arrow's errors where nobody can look."""
    root, pattern = _split(uri)
    filesystem, base = filesystem_of(root)
    found = filesystem.get_file_info(base)
    if pattern and found.type != pafs.FileType.Directory:
        raise SnapshotError(f"no such folder: {shown(redacted(root))}; check dataset.uri")
    if found.type == pafs.FileType.NotFound:
        raise SnapshotError(f"no such file or folder: {shown(redacted(uri))}; check dataset.uri")
    if found.type == pafs.FileType.File:
        return Listing(filesystem, posixpath.dirname(base), [found], [])
    files, ignored = _data_files(filesystem, base)
    if pattern:
        files = [f for f in files if _matches(posixpath.relpath(f.path, base).split("/"), pattern)]
        if not files:
            raise SnapshotError(f"nothing matches {shown(redacted(uri))}; check dataset.uri")
    return Listing(filesystem, base, files, ignored)


def covers(uri: str, paths: Iterable[Path]) -> bool:
    """Whether files at one of these absolute local paths would be read as part of what `uri` names."""
    root, pattern = _split(uri)
    base = local_path(root)
    if base is None:
        return False
    below = [p.relative_to(base).parts for p in paths if p.is_relative_to(base)]
    return any(_matches(parts, pattern) for parts in below)


def _split(uri: str) -> tuple[str, list[str]]:
    """The address of what is to be looked through, and the steps of the pattern below it; none where all is meant."""
    if not re.search(r"[*?\[]", uri.partition("://")[2] or uri) or _exists(uri):
        return uri, []
    head = re.match(r"[^*?\[]*/", uri)
    root = head.group(0) if head else ""
    return root or ".", [step for step in uri.removeprefix(root).split("/") if step]


def _exists(uri: str) -> bool:
    try:
        path = local_path(uri)
    except ValueError:  # a pattern may be longer than any name
        return False
    return path is not None and path.exists()


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Step by step, `**` for any number of them; a folder that matches brings all that is in it."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches(path[i:], pattern[1:]) for i in range(len(path)))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


def _data_files(filesystem: pafs.FileSystem, base: str) -> tuple[list[pafs.FileInfo], list[str]]:
    """The data below a folder in order of path, and the relative paths of what is ignored."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        paths, ignored = _walked(base)
        return filesystem.get_file_info([posixpath.join(base, p) for p in paths]), ignored
    found = filesystem.get_file_info(pafs.FileSelector(base, recursive=True))
    infos = {posixpath.relpath(i.path, base): i for i in found if i.type == pafs.FileType.File}
    data = sorted(p for p in infos if _is_data(p))
    return [infos[p] for p in data], sorted(infos.keys() - data)


def _is_data(relative: str) -> bool:
    return not any(part[0] in "_." for part in relative.split("/")) and relative.lower().endswith(SUFFIXES)


def _walked(base: str) -> tuple[list[str], list[str]]:
    """Relative paths of the data below a local folder, each file once, and of what is ignored. Raises OSError."""

    def fail(error: OSError) -> None:
        raise error

    found = []
    for folder, folders, names in os.walk(base, onerror=fail):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        found += [posixpath.relpath(os.path.join(folder, name), base) for name in (*names, *links)]
    data, known = [], set()
    for relative in sorted(filter(_is_data, found), key=lambda r: (os.path.islink(os.path.join(base, r)), r)):
        target = os.path.realpath(os.path.join(base, relative))  # files come first: a link to one of them adds nothing
        if os.path.isfile(target) and target not in known:
            known.add(target)
            data.append(relative)
    return sorted(data), sorted(set(found).difference(data))

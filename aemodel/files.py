"""Small files and folders that are either whole or absent, and digests of what they hold."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aemodel.errors import DamagedFile, shown


def digest(value: Any) -> str:
    """SHA-256 (64 hex digits) of `value` as canonical JSON: the same value gives the same digest anywhere."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value` so that a reader, or a power cut, finds the old file or the new one and nothing between.

    A line for each entry: to indent all that is in them takes ten times as long.
    """
    entries = (f"{json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in value.items())
    write_bytes(path, ("{\n" + ",\n".join(entries) + "\n}\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """`write_json` for bytes."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """Raises ValueError where it is none."""
    return json.loads(path.read_bytes())


def read_state(path: Path) -> Any:
    """`read_json` of what a run left in its folder. Raises DamagedFile."""
    try:
        return read_json(path)
    except ValueError as error:
        raise DamagedFile(f"{shown(path)} is damaged ({error}); remove the run's folder and run again") from None


def resolved(path: str) -> Path:
    """The absolute path, links followed and `~` a home folder. Raises ValueError, saying why there can be none."""
    try:
        given = Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"no home folder is known for {Path(path).parts[0]}") from None
    try:
        absolute = given.resolve()
        os.stat(absolute)
    except RuntimeError:  # Python 3.11 and 3.12 say so of a link that leads to itself
        raise ValueError(os.strerror(errno.ELOOP)) from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            raise ValueError(error.strerror) from None
    return absolute


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable; where the system cannot (not POSIX), it is left to the system."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the name `path`, replacing what is there, if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    partial.mkdir()
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                sync_file(file)
        if path.exists():
            old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
            os.rename(path, old)
            os.rename(partial, path)
            shutil.rmtree(old)
        else:
            os.rename(partial, path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

"""What the steps hand to one another: small, plain and printable; and where a run keeps what it makes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from aemodel import __version__
from aemodel.config import WORK_DIR_VARIABLE
from aemodel.errors import JobError, TrainingError, shown
from aemodel.files import digest, resolved
from aemodel.scoring import StrangeRow

#: Where in a run's folder the input lies that it has pinned.
MEMBERSHIP = "training.json"
SNAPSHOT = "snapshot.json"
#: Another run of the same job on the same data is waited for this long, in seconds.
RUN_LOCK_SECONDS = 3_600.0


@dataclass(frozen=True)
class PreparedRun:
    folder: str
    key: str
    rows: int


@dataclass(frozen=True)
class TrainedRun:
    folder: str
    key: str
    rows_per_second_first: float
    rows_per_second: float


@dataclass(frozen=True)
class RegisteredVersion:
    """`passed` is the gate's verdict, `reasons` why it refused, or why it passed without judging.

    `alias` is the alias that now points here, if it was promoted.

    `r2` and `r2_pca` are of held-out rows, unless the table was too small to hold any out.
    """

    folder: str
    key: str
    name: str
    version: str
    run_id: str
    passed: bool
    reasons: tuple[str, ...]
    alias: str | None
    r2: float
    r2_pca: float
    held_out_is_training: bool


@dataclass(frozen=True)
class StagedTable:
    """`key` names what the table holds; `changed` is False where readers already see it."""

    root: str
    key: str
    changed: bool
    rows: int
    seconds: float


@dataclass(frozen=True)
class PublishedTable:
    path: str
    table_version: int
    rows: int
    changed: bool
    model: str
    model_version: str
    strangest: tuple[StrangeRow, ...]


def work_folder(given: str | None) -> Path:
    """Where a run keeps everything but its output table; made if it is not there. Raises JobError."""
    chosen = given or os.environ.get(WORK_DIR_VARIABLE) or ".aemodel"
    try:
        folder = resolved(chosen)
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise JobError(f"the work folder {shown(Path(chosen))} cannot be made: {reason}; set --work-dir") from None
    return folder


@cache
def code_version() -> str:
    """The release and a digest of the code itself, so that a result is never taken for that of other code."""
    package = Path(__file__).parents[1]
    sources = {str(p.relative_to(package)): p.read_text(encoding="utf-8") for p in sorted(package.rglob("*.py"))}
    return f"{__version__}+{digest(sources)[:12]}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time in a run folder; the lock of a killed one is released by the system."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f"{folder.name}.lock"), timeout=RUN_LOCK_SECONDS):
            folder.mkdir(exist_ok=True)
            yield
    except Timeout:
        raise TrainingError(f"another process is working on {folder.name}; try again when it is done") from None

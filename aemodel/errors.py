"""What can go wrong for a user. Every message says what, where and what to do about it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import PurePath


class AemodelError(Exception):
    """An error meant for a person: one line, no traceback.

    `exit_code` is what the process ends with; `transient` says that the same call may go well the next time.
    """

    exit_code = 1
    transient = False


class InputError(AemodelError):
    """The job, the data or an address is wrong; the same call will fail again until it is mended."""

    exit_code = 2


class JobError(InputError):
    """The job file says something that cannot be meant."""


class DamagedFile(InputError):
    """A file in a run's folder is not as it was written."""


class SnapshotError(InputError):
    """The dataset cannot be opened or read as it stands."""


class SnapshotChanged(SnapshotError):
    """A file is no longer the one that was pinned at the start of the run; another run pins it anew."""


class SchemaError(InputError):
    """The columns do not fit together, or do not fit the job or the model."""


class TableError(InputError):
    """The output table cannot be written where and how the job says."""


class TrackingServerError(InputError):
    """The tracking server that the job names does not answer."""


class NoVersion(InputError):
    """There is nothing to score with: the job names a model or an alias that the registry does not hold."""


class BundleError(InputError):
    """A bundle is incomplete or altered."""


class BundleFormatError(BundleError):
    """A bundle was written by a release whose format this one does not read."""


class RegistryError(AemodelError):
    """The registry refused or lost a call that a run cannot do without."""

    transient = True


class TrainingError(AemodelError):
    """A rank died or hung; a checkpoint is kept."""

    transient = True


class TrainingDiverged(TrainingError):
    """The loss is no longer a number, and would not be another time."""

    transient = False


class PublishError(AemodelError):
    """The staged table failed its checks; readers still see the table they saw before."""

    transient = True


class GateRefused(AemodelError):
    """The new version is registered but not promoted."""

    exit_code = 3


def plain(text: object, limit: int = 80) -> str:
    """Text from the data on one line of a terminal: controls escaped, cut at `limit` (a path at its front)."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    if len(escaped) <= limit:
        return escaped
    return "…" + escaped[1 - limit :] if isinstance(text, PurePath) else escaped[: limit - 1] + "…"


def shown(name: object, limit: int = 80) -> str:
    """A name from the data as it stands in a message: as `plain`, and quoted."""
    return f"'{plain(name, limit)}'"


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the closest known one, or all of them when none is close."""
    names = [str(k) for k in known]
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if match:
        return f"did you mean {shown(match[0])}?"
    listed = ", ".join(shown(n) for n in names[:12]) + (" …" if len(names) > 12 else "")
    return f"known: {listed}" if names else "none is known"


def redacted(uri: str) -> str:
    """The address without user, password, token or query: what may stand in logs, tags and metadata."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    netloc, slash, path = re.split(r"[?#]", rest)[0].partition("/")
    _, at, host = netloc.rpartition("@")
    return f"{scheme}://{'***@' if at else ''}{host}{slash}{path}"


def without_secrets(text: str) -> str:
    """`text` with the user part of every address in it blotted out; for messages of other libraries."""
    return re.sub(r"(\w+://)[^/\s@]+@", r"\1***@", text)

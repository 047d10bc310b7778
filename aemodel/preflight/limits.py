"""How much memory a run may take."""

from __future__ import annotations

import os
from pathlib import Path

from aemodel.config import Job

#: Where Linux tells a container's limit, in its two versions.
CGROUP_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_bytes() -> int:
    """Of this machine, or of the container that this process lives in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *_limits()])


def allowed_bytes(job: Job, machine_bytes: int) -> int:
    """What the job may take: all that the machine has, or less if the job says so."""
    return min(machine_bytes, job.memory_limit_bytes or machine_bytes)


def rounded_up(size: int) -> int:
    """To what `size_text` tells in full: a limit of that is enough."""
    step = 10**8 if size >= 10**9 else 10**6
    return -(-size // step) * step


def size_text(size: float) -> str:
    """Bytes for people."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.{1 if size < 1e8 else 0}f} MB"


def _limits() -> list[int]:
    texts = [path.read_text().strip() for name in CGROUP_FILES if (path := Path(name)).is_file()]
    return [int(text) for text in texts if text.isdigit() and int(text) > 0]

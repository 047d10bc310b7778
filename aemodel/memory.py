"""Peak private memory of this process and all that it starts, summed; keeping what is free, and giving it back."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pyarrow as pa

INTERVAL_SECONDS = 0.25
#: Of glibc's mallopt, by the numbers in malloc.h: arrays of up to 32 MB come from the heap (M_MMAP_THRESHOLD), which is
#: not made smaller while less than 128 MB of it are free (M_TRIM_THRESHOLD), grows by 16 MB (M_TOP_PAD), and is one for
#: all threads (M_ARENA_MAX), so that what one has freed another finds: with one each, a third more was held.
KEEPING = {-3: 32 * 2**20, -1: 128 * 2**20, -2: 16 * 2**20, -8: 1}


@dataclass
class Peak:
    """`megabytes` is the greatest sum seen so far; 0 where the system does not tell."""

    megabytes: float = 0.0


@contextmanager
def watched() -> Iterator[Peak]:
    """Sample RssAnon (private pages, the page cache left aside) of the process tree until the block ends."""
    peak, ended = Peak(), threading.Event()

    def sample() -> None:
        while not ended.is_set():
            peak.megabytes = max(peak.megabytes, private_bytes(os.getpid()) / 1e6)
            ended.wait(INTERVAL_SECONDS)

    thread = threading.Thread(target=sample, name="memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def keep_freed() -> None:
    """For a process that needs as much again in a moment: the activations of a training step, batches that are scored.
    Otherwise glibc hands each larger array back to the system, which clears its pages anew for the next: half the time
    of a step of 4,096 rows. Arrow is to take its buffers there too: a pool of its own costs a job that scores a million
    rows a fifth of its time, and 100 MB."""
    pa.set_memory_pool(pa.system_memory_pool())
    with suppress(OSError, AttributeError):  # another C library than glibc
        library = ctypes.CDLL(None)
        for option, value in KEEPING.items():
            library.mallopt(option, value)


def give_back() -> None:
    """To the system, what Arrow and the C library hold of freed memory: for a process that waits for others."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def private_bytes(pid: int) -> int:
    """RssAnon of a process and its descendants in bytes; 0 where there is no /proc, and of the process alone where that
    tells of no children (a Linux without CONFIG_PROC_CHILDREN).

    Looks at no other processes: to read of all that a machine runs would take more of a core than what is watched.
    """
    total, waiting = 0, [pid]
    while waiting:
        process = f"/proc/{waiting.pop()}"
        with suppress(OSError):  # it has ended meanwhile
            total += _private_bytes(f"{process}/status")
            for thread in os.listdir(f"{process}/task"):
                with suppress(OSError):
                    waiting += map(int, _text(f"{process}/task/{thread}/children").split())
    return total


def _private_bytes(status: str) -> int:
    _, _, found = _text(status).partition("RssAnon:")
    return int(found.split(None, 1)[0]) * 1024 if found else 0  # a process that has ended has none


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()

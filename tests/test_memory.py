from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from aemodel import memory
from aemodel.memory import private_bytes, watched

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell")

MEGABYTE = 10**6
HOLD = "import sys; held = b'x' * (64 * 2**20); print('held', flush=True); sys.stdin.read()"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "INTERVAL_SECONDS", 0.02)


def test_what_a_block_allocates_is_seen_after_it_was_freed() -> None:
    memory.give_back()  # what other tests left would be given back meanwhile
    before = private_bytes(os.getpid()) / MEGABYTE
    with watched() as peak:
        held = b"x" * (64 * MEGABYTE)
        time.sleep(0.2)
        del held
        time.sleep(0.1)
    assert peak.megabytes > before + 50
    assert private_bytes(os.getpid()) / MEGABYTE < peak.megabytes - 40


def test_processes_that_it_starts_are_counted_with_it() -> None:
    before = private_bytes(os.getpid())
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        during = private_bytes(os.getpid())
        assert private_bytes(child.pid) > 64 * MEGABYTE
        child.communicate()
    assert during > before + 60 * MEGABYTE


def test_a_process_that_another_thread_started_is_counted_too() -> None:
    started, ended = threading.Event(), threading.Event()

    def start() -> None:
        with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            started.set()
            ended.wait(20)
            child.communicate()

    before, thread = private_bytes(os.getpid()), threading.Thread(target=start)
    thread.start()
    try:
        assert started.wait(20)
        assert private_bytes(os.getpid()) > before + 60 * MEGABYTE
    finally:
        ended.set()
        thread.join()


def test_watching_ends_with_the_block_even_where_it_fails() -> None:
    with pytest.raises(RuntimeError, match="half way"), watched():
        raise RuntimeError("half way")
    time.sleep(0.05)
    assert not [t for t in threading.enumerate() if t.name == "memory"]


def test_a_process_that_is_not_there_has_no_memory() -> None:
    assert private_bytes(2**30) == 0


def test_what_was_freed_is_given_back() -> None:
    held = [bytes(1_000) for _ in range(100_000)]  # small pieces: the C library keeps them when they are freed
    full = private_bytes(os.getpid())
    del held
    memory.give_back()
    assert private_bytes(os.getpid()) < full - 50 * MEGABYTE


CHURN = """
import sys, resource, ctypes
from aemodel import memory
if sys.argv[1] == "keep":
    memory.keep_freed()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]
size = 30 * 2**20
for turn in range(60):
    if turn == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    places = [library.malloc(size) for _ in range(3)]  # as the activations of a step, which are freed at once
    for place in places:
        ctypes.memset(place, 1, size)
    for place in places:
        library.free(place)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_what_was_freed_is_kept_for_the_next_where_that_is_asked_for() -> None:
    faults = [
        int(subprocess.run([sys.executable, "-c", CHURN, how], capture_output=True, check=True).stdout)
        for how in ("keep", "not")
    ]
    assert faults[0] < 1_000 < faults[1]

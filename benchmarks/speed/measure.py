"""Runs methods in turn, each in a process of its own, and measures what they take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aemodel.memory import private_bytes

ROOT = Path(__file__).parents[2]
#: Seconds between two looks at the memory of a process tree.
INTERVAL = 0.1


@dataclass(frozen=True)
class Method:
    """One way to do a piece of work. `arguments` follow `python -m`; the last line that the process prints is a JSON
    object of figures. `needs`: packages without which it is skipped, looked for in `python`."""

    name: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()
    python: str = sys.executable

    @property
    def lacks(self) -> tuple[str, ...]:
        """Those of `needs` that are not installed."""
        code = "import sys, importlib.util as u; print(*[n for n in sys.argv[1:] if not u.find_spec(n)])"
        found = subprocess.run([self.python, "-c", code, *self.needs], capture_output=True, text=True)
        return tuple(found.stdout.split()) if found.returncode == 0 else self.needs


@dataclass(frozen=True)
class Measured:
    """`seconds` from start to end of the process; `peak_mb`, private memory of its tree in MiB; `figures`, its own.

    `skipped` says why there are none.
    """

    method: str
    repeat: int
    seconds: float | None = None
    peak_mb: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""

    def row(self) -> dict[str, Any]:
        own = {"seconds": self.seconds, "peak MB": self.peak_mb, "skipped": self.skipped}
        return {"method": self.method, "repeat": self.repeat, **self.figures, **own}


def in_turn(methods: Sequence[Method], repeats: int, folder: Path) -> Iterator[Measured]:
    """Every method once, then every method again, …; `folder` is where they run. What is skipped comes first."""
    ready = []
    for method in methods:
        if lacks := method.lacks:
            yield Measured(method.name, 0, skipped=f"not installed: {', '.join(lacks)}")
        else:
            ready.append(method)
    for repeat in range(repeats):
        for method in list(ready):
            measured = run(method, repeat, folder)
            print(_line(measured), file=sys.stderr, flush=True)
            if measured.skipped:
                ready.remove(method)
            yield measured


def run(method: Method, repeat: int, folder: Path) -> Measured:
    """Run a method's process to its end. One of a peer that fails is skipped; raises RuntimeError for one of ours."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            [method.python, "-m", *method.arguments], stdout=output, stderr=errors, cwd=folder, env=environment
        )
        peak = _Peak(process.pid)
        code = process.wait()
        seconds = time.perf_counter() - began
        peak.end()
        printed, complaints = (_text(file) for file in (output, errors))
    if code == 0:
        return Measured(method.name, repeat, seconds, peak.bytes / 2**20, json.loads(printed.splitlines()[-1]))
    if not method.needs:
        raise RuntimeError(f"{method.name} ended with code {code}:\n{complaints[-3000:]}")
    return Measured(method.name, repeat, skipped=f"failed: {_cause(complaints)}")


class _Peak:
    """The greatest private memory of a process and its descendants, in bytes, until `end`."""

    def __init__(self, pid: int) -> None:
        self.pid, self.bytes, self._ended = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(INTERVAL):
            self.bytes = max(self.bytes, private_bytes(self.pid))

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


def _cause(complaints: str) -> str:
    """The last line that names an error, else the last line."""
    lines = complaints.splitlines() or ["no output"]
    return next((line for line in reversed(lines) if "Error: " in line), lines[-1])[:200]


def _text(file: Any) -> str:
    file.seek(0)
    return str(file.read())


def _line(measured: Measured) -> str:
    """What one run gave, for whoever watches."""
    if measured.skipped:
        return f"{measured.method}: {measured.skipped}"
    figures = {k: v for k, v in measured.figures.items() if isinstance(v, int | float)}
    figures |= {"seconds": measured.seconds, "peak MB": measured.peak_mb}
    return f"{measured.method} [{measured.repeat}] " + ", ".join(f"{k} {v:,.4g}" for k, v in figures.items())

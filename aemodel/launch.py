"""Starts a worker, under torchrun if it has several ranks, passes on what it says, and ends it whatever happens."""

from __future__ import annotations

import contextvars
import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aemodel.errors import AemodelError, InputError, TrainingError
from aemodel.files import read_json

log = logging.getLogger("aemodel")

PR_SET_PDEATHSIG = 1
#: How long ranks may take to write a checkpoint after SIGTERM, in seconds. Prefect's worker kills after 30.
GRACE_SECONDS = 15
#: A port that is taken when torchrun binds it, and the like: worth another try, but not for ever.
ATTEMPTS = 3

#: How a rank ends because another has.
FOLLOWING = ("ConnectionError: another rank", "BrokenPipeError")

#: What a rank without others is told, whatever this process was told by a launcher of its own.
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}

Event = dict[str, Any]


def die_with_parent(sent: int = signal.SIGTERM) -> None:
    """Ask the kernel to signal this process when its parent dies; a SIGKILL of the parent reaches nobody otherwise."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, sent)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signal.SIGKILL)


def device_count(devices: int | str) -> int:
    """Ranks to start on this machine: as many as the job says, else one a GPU, else one."""
    if devices != "auto":
        return int(devices)
    import torch  # only here: the parent of a CPU run with a stated number need not load it

    return max(1, torch.cuda.device_count())


def train(folder: Path, devices: int, on_events: Callable[[list[Event]], None]) -> None:
    """Run `aemodel.worker` on a prepared run folder. `on_events` hears its journal about once a second.

    Raises TrainingError when the ranks fail, or the error that a rank left for the user.
    """
    for leftover in folder.glob("error-*.json"):
        leftover.unlink()
    for attempt in range(ATTEMPTS):
        code, tail = _attempt(folder, devices, on_events)
        if code == 0 and (folder / "result.json").exists():
            return
        _raise_left(folder)
        if not any("EADDRINUSE" in line or "address already in use" in line.lower() for line in tail):
            break
        log.warning("the rendezvous port was taken, trying again (%d of %d)", attempt + 2, ATTEMPTS)
    last = next((line for line in reversed(tail) if line.strip() and not line.startswith(("=", "-"))), "no output")
    raise TrainingError(f"training ended with code {code}: {_cause(tail) or last.strip()}; run again to resume")


def _attempt(folder: Path, devices: int, on_events: Callable[[list[Event]], None]) -> tuple[int, list[str]]:
    tail: deque[str] = deque(maxlen=400)
    process = subprocess.Popen(
        _command(folder, devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_environment(devices),
        start_new_session=True,
        preexec_fn=die_with_parent if sys.platform.startswith("linux") else None,
    )
    assert process.stdout
    with _journal(folder / "metrics.jsonl", on_events), _terminated(process):
        for line in process.stdout:
            tail.append(line.rstrip())
            log.debug("worker: %s", line.rstrip())
        return process.wait(), list(tail)


def _command(folder: Path, devices: int) -> list[str]:
    # torchrun takes 150 MB and two seconds for itself, and one rank has nobody to meet.
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"] if devices > 1 else []
    return [sys.executable, *torchrun, "-m", "aemodel.worker", str(folder)]


def _environment(devices: int) -> dict[str, str]:
    threads = str(max(1, (os.cpu_count() or 1) // devices))
    return {
        "OMP_NUM_THREADS": threads,
        **os.environ,
        **(ALONE if devices == 1 else {}),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(GRACE_SECONDS),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])),
    }


@contextmanager
def _terminated(process: subprocess.Popen[str]) -> Iterator[None]:
    """However the block ends, by an exception or a signal too, no rank outlives it."""

    def stop(signum: int, frame: Any) -> None:
        if callable(before):  # such as Prefect's, which marks the flow run
            before(signum, frame)
        raise KeyboardInterrupt(f"signal {signum}")

    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    if main:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE_SECONDS + 5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if main:
            signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


@contextmanager
def _journal(path: Path, on_events: Callable[[list[Event]], None]) -> Iterator[None]:
    """Follow a journal from its present end, in a thread, while the block runs."""
    ended = threading.Event()
    start = path.stat().st_size if path.exists() else 0

    def follow() -> None:
        position, rest = start, ""
        while True:
            last_look = ended.is_set()
            if path.exists():
                with open(path, encoding="utf-8") as file:
                    file.seek(position)
                    rest += file.read()
                    position = file.tell()
                *lines, rest = rest.split("\n")
                if lines:
                    on_events([json.loads(line) for line in lines])
            if last_look:
                return
            ended.wait(1.0)

    # In the caller's context, by which Prefect knows the run that a log line belongs to.
    context = contextvars.copy_context()
    follower = threading.Thread(target=context.run, args=(follow,), name="journal", daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()


def _raise_left(folder: Path) -> None:
    """Raise the error that a rank left for the user, if one did."""
    for path in sorted(folder.glob("error-*.json")):
        left = read_json(path)
        kind: type[AemodelError] = InputError if left["exit_code"] == InputError.exit_code else TrainingError
        raise kind(left["message"])


def _cause(tail: list[str]) -> str | None:
    """The last exception line of a traceback in a worker's output, leaving out torchrun's own; a signal that ended a
    worker only where nothing else is told, since torchrun ends the other ranks so."""
    causes = [
        line.split("]: ", 1)[-1].strip()
        for line in tail
        if any(word in line for word in ("Error: ", "Exception: ", "Signal ")) and "ChildFailedError" not in line
    ]
    causes = [c.removeprefix("traceback : ") for c in causes if not c.startswith(FOLLOWING)] or causes
    told = [c for c in causes if "Signal " not in c] or causes
    return told[-1][:300] if told else None

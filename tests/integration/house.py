"""A small table of orders, and the command line run on it in this process."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from typer.testing import CliRunner

from aemodel.cli import app

JOB = """
name: orders
dataset: {{uri: {root}/orders, key: [order_id], label: channel}}
model: {{latent_dim: 4, hidden: [32]}}
training: {{max_epochs: 4, batch_size: 128}}
output: {{uri: {root}/features}}
"""


def orders(rows: int, seed: int = 0) -> pa.Table:
    """Orders whose columns depend on two hidden quantities, not in a straight line; with holes and oddities."""
    rng = np.random.default_rng(seed)
    size, haste = rng.normal(size=rows), rng.normal(size=rows)
    price = np.exp(2 + 0.8 * size)
    price[rng.random(rows) < 0.05] = np.nan
    days = np.clip(np.round(6 - 2 * haste), 0, 20)
    carrier = np.array(["post", "bike", "lorry"])[np.digitize(haste - size, [-0.5, 1.0])]
    placed = np.datetime64("2026-01-05T08:00") + (rng.integers(0, 200, rows) * 24 + np.abs(haste) * 4).astype("m8[h]")
    return pa.table(
        {
            "order_id": [f"o{seed}-{i:06d}" for i in range(rows)],
            "price": pa.array(price, from_pandas=True),
            "weight": size**2 + 0.1 * rng.normal(size=rows),
            "days": pa.array(days.astype(np.int32)),
            "carrier": pa.array([None if rng.random() < 0.03 else c for c in carrier]),
            "gift": haste > 1,
            "placed": pa.array(placed.astype("M8[us]")),
            "scan": pa.FixedSizeListArray.from_arrays(np.stack([size, haste, size * haste], 1).ravel(), 3),
            "channel": np.where(haste > 0, "web", "shop"),
        }
    )


def write_orders(folder: Path, rows: int = 1_200, seed: int = 0) -> None:
    """Two hive partitions, several row groups."""
    table = orders(rows, seed)
    for region, part in (("north", table.slice(0, rows // 3)), ("south", table.slice(rows // 3))):
        target = folder / f"region={region}"
        target.mkdir(parents=True)
        pq.write_table(part, target / "part-0.parquet", row_group_size=150)


@dataclass(frozen=True)
class Result:
    code: int
    output: str
    errors: str

    @property
    def json(self) -> Any:
        return json.loads(self.output.splitlines()[-1])


def aemodel(*arguments: object) -> Result:
    """The command line, in this process."""
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return Result(done.exit_code, done.stdout, done.stderr)


@dataclass(frozen=True)
class House:
    root: Path
    job: Path
    work: Path
    first: Any

    def variant(self, name: str, change: Callable[[str], str]) -> Path:
        """Another job file, made of the house's."""
        path = self.root / f"{name}.yaml"
        path.write_text(change(self.job.read_text()))
        return path

    def copied(self, root: Path) -> House:
        """The same elsewhere. What it registers from now on lies there; what it has registered is read where it lies."""
        shutil.copytree(self.root, root, symlinks=True)
        job = root / self.job.name
        job.write_text(job.read_text().replace(str(self.root), str(root)))
        with sqlite3.connect(root / "work" / "mlflow.db") as database:
            moved = "UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)"
            database.execute(moved, (str(self.root), str(root)))
        return House(root, job, root / "work", self.first)


def build_house(root: Path, epochs: int = 4) -> House:
    write_orders(root / "orders")
    job = root / "job.yaml"
    job.write_text(JOB.format(root=root).replace("max_epochs: 4", f"max_epochs: {epochs}"))
    done = aemodel("run", job, "--json", "--work-dir", root / "work")
    assert done.code == 0, done.errors
    return House(root, job, root / "work", done.json)

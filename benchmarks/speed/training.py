"""Training 64-256-16-256-64: loops and libraries with all rows in memory, and this project from Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from aemodel import bundle
from aemodel.model import Batch
from aemodel.prepared import Prepared
from aemodel.snapshot import Snapshot
from aemodel.split import Place
from benchmarks.speed import tables
from benchmarks.speed.measure import Measured, Method, in_turn, run
from benchmarks.speed.setting import Setting, ours, peer
from benchmarks.speed.training_peers import unexplained

BASELINE = "PyTorch loop, batch 1024"
LARGE_BASELINE = "PyTorch loop, batch 4096"
#: What a job chooses from by a trial when it trains for long enough.
ARITHMETIC: dict[str, dict[str, Any]] = {
    "float32": {"precision": "32", "compile": False},
    "bfloat16": {"precision": "bf16", "compile": False},
    "bfloat16, compiled": {"precision": "bf16", "compile": True},
}
SHAPE = {"hidden": [256], "latent_dim": 16}
PLAIN = SHAPE | {"preset": "plain", "scaling": "standard", "noise": 0}
#: Rows that Keras learns in batches of 32: all would take most of the benchmark's time.
SLICE = 100_000
#: Rows that a training of the main table learns from, over its epochs, which goes on for long enough that a compiler
#: can pay, and the most epochs.
LONG, LONG_EPOCHS = 120_000_000, 200
#: Steps between two looks at the loss of a peer, where the loss by seconds is compared.
LOOK = 50


@dataclass(frozen=True)
class Ground:
    """The main table, and what has been prepared of it for either model."""

    setting: Setting
    table: Path

    @property
    def plain(self) -> Path:
        return self.setting.run_folder("prepared-plain")

    @property
    def default(self) -> Path:
        return self.setting.run_folder("prepared-default")

    @property
    def training_rows(self) -> Path:
        return self.setting.scratch / "training-rows.npy"

    @classmethod
    def made(cls, setting: Setting) -> Ground:
        """The table and what training the plain network needs; how long that takes is measured elsewhere."""
        ground = cls(setting, tables.numbers(setting.scratch, setting.rows, setting.columns))
        run(ground.method("plain"), 0, setting.scratch)
        np.save(ground.training_rows, learned_from(ground.plain))
        return ground

    def method(self, model: str) -> Method:
        """Prepares `model` anew."""
        job = self.setting.job(f"prepared-{model}", self.table, PLAIN if model == "plain" else SHAPE)
        return ours(f"preparing, {model}", "prepare", job, self.setting.run_folder(f"prepared-{model}"))

    def ours(
        self,
        name: str,
        model: dict[str, Any],
        batch: int | str,
        epochs: int | str,
        arithmetic: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> Method:
        """Trains from what is prepared; what is computed in is left to the job if nothing is said."""
        slug = name.replace(", ", "-").replace(" ", "-")
        training = {"batch_size": batch, "max_epochs": epochs, "seed": seed} | (arithmetic or {})
        job = self.setting.job(slug, self.table, model, training)
        source = self.plain if model == PLAIN else self.default
        return ours(name, "train", source, job, self.setting.run_folder(slug))

    def peer(
        self, name: str, kind: str, batch: int, epochs: int, rows: int | None = None, look: int = 0, seed: int = 0
    ) -> Method:
        held_out = self.plain / "prepared" / "held_out.parquet"
        work = [kind, self.table, held_out, self.training_rows, batch, epochs, rows or self.setting.rows, look, seed]
        is_keras = kind == "keras"
        needs = ("keras", "tensorflow") if is_keras else ("torch",)
        python = self.setting.peer_python if is_keras else Setting.peer_python
        return peer(name, "training_peers", work, needs, python)


def baseline(method: str) -> str:
    """The loop of the same batch, or the one of 1024."""
    return LARGE_BASELINE if "batch 4096" in method else BASELINE


def measured(setting: Setting) -> Iterator[Measured]:
    """Rows a second, loss after as many rows, memory."""
    ground = Ground.made(setting)
    epochs = setting.epochs
    methods = [
        ground.peer(BASELINE, "torch", 1024, epochs),
        *(ground.ours(f"plain, batch 1024, {n}", PLAIN, 1024, epochs, a) for n, a in ARITHMETIC.items()),
        ground.peer(LARGE_BASELINE, "torch", 4096, epochs),
        *(ground.ours(f"plain, batch 4096, {n}", PLAIN, 4096, epochs, a) for n, a in ARITHMETIC.items()),
        ground.ours("plain, batch auto", PLAIN, "auto", epochs),
        ground.ours("plain, batch auto, long", PLAIN, "auto", max(epochs, min(LONG_EPOCHS, LONG // setting.rows))),
        ground.ours("default preset, batch 4096", SHAPE, 4096, epochs),
        ground.peer("Keras fit, batch 1024", "keras", 1024, epochs),
        ground.peer("Keras fit, batch 32", "keras", 32, 1, min(SLICE, setting.rows)),
        ground.peer("TensorDataset and DataLoader, batch 1024", "loader", 1024, epochs),
        replace(ground.method("plain"), name="aemodel, preparing"),
    ]
    chosen = setting.chosen(methods)
    if any(str(ground.default) in m.arguments for m in chosen):
        run(ground.method("default"), 0, setting.scratch)
    yield from with_losses(in_turn(chosen, setting.repeats, setting.scratch), methods)


def curves(setting: Setting) -> Iterator[Measured]:
    """Loss by seconds trained: Keras' one epoch, and this project with everything automatic."""
    ground = Ground.made(setting)
    methods = [
        ground.peer("Keras fit, batch 1024", "keras", 1024, 1, look=LOOK),
        ground.peer(BASELINE, "torch", 1024, 1, look=LOOK),
        ground.ours("plain, all automatic", PLAIN, "auto", "auto"),
    ]
    yield from in_turn(setting.chosen(methods), setting.repeats, setting.scratch)


def with_losses(found: Iterator[Measured], methods: list[Method]) -> Iterator[Measured]:
    """Losses of our models are told by the bundle, on the same rows and in the same units as the peers'."""
    folders = {m.name: Path(m.arguments[-1]) for m in methods if m.arguments[1] == "train"}
    for one in found:
        folder = folders.get(one.method)
        yield one if folder is None else replace(one, figures=one.figures | {"loss": loss_of(folder)})


def learned_from(folder: Path) -> np.ndarray:
    """bool (rows,): which rows of a prepared folder's dataset are trained on, in order."""
    snapshot, split = Snapshot.load(folder / "snapshot.json"), Prepared.load(folder / "prepared").split
    names, parts = [column.name for column in split.columns], []
    for fragment, group, _ in snapshot.row_groups():
        begin, path = 0, snapshot.fragments[fragment].path
        for batch in snapshot.read(fragment, group, names):
            parts.append(~split.held_out(batch, Place(path, group, begin)))
            begin += batch.num_rows
    return np.concatenate(parts)


@torch.inference_mode()
def loss_of(folder: Path) -> float:
    """The trained bundle's mean squared error on the held-out rows, in original units, over their variance."""
    learned = bundle.load(folder / "bundle")
    rows = pq.read_table(folder / "prepared" / "held_out.parquet", partitioning=None)
    _, z, _ = learned.model.squared_errors(Batch.of(learned.transform.apply_all(rows)))
    expected = learned.transform.invert(learned.model.decode(z).numpy())
    true = np.stack([rows.column(n).to_numpy() for n in expected.schema.names], axis=1)
    return unexplained(true, np.stack([c.to_numpy() for c in expected.columns], axis=1))

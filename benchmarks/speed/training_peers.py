"""What one would train with instead, all rows in memory: 64-256-16-256-64, relu, latent linear, Adam 1e-3.

    python -m benchmarks.speed.training_peers torch|loader|keras TABLE HELD_OUT TRAINING BATCH EPOCHS ROWS LOOK SEED

HELD_OUT: Parquet file of the rows that the loss is told on; TRAINING: .npy, bool, the rows of TABLE to learn from, in
order, of which the first ROWS are taken. LOOK: steps between two looks at the loss, 0 for one at the end.
Imports nothing of this project, so that any interpreter with the peer will do.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.dataset as ds

HIDDEN, LATENTS, RATE = 256, 16, 1e-3


@dataclass(frozen=True)
class Work:
    """Standardised float32 rows (rows, columns) to learn from and to be measured on."""

    rows: np.ndarray
    held_out: np.ndarray
    batch: int
    epochs: int
    look: int
    seed: int

    @classmethod
    def read(cls, table: str, held_out: str, training: str, *numbers: str) -> Work:
        batch, epochs, count, look, seed = map(int, numbers)
        learned, measured = matrix(table)[np.load(training)][:count], matrix(held_out)
        mean, std = learned.mean(axis=0), learned.std(axis=0)
        return cls((learned - mean) / std, (measured - mean) / std, batch, epochs, look, seed)

    @property
    def steps(self) -> int:
        """Whole batches in an epoch."""
        return len(self.rows) // self.batch


@dataclass
class Course:
    """How a training goes: the seconds of each epoch, and the loss by the seconds trained. Looks take no time."""

    epochs: list[float] = field(default_factory=list)
    curve: list[tuple[float, float]] = field(default_factory=list)
    _since: float = field(default_factory=time.perf_counter)
    _before: float = 0.0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._since

    def end_epoch(self) -> None:
        self.epochs.append(self.seconds - self._before)
        self._before = self.seconds

    def look(self, reconstruction: Any, work: Work) -> None:
        """`reconstruction()` gives the held-out rows' (rows, columns)."""
        at = self.seconds
        self.curve.append((at, unexplained(work.held_out, reconstruction())))
        self._since += self.seconds - at


def matrix(source: str) -> np.ndarray:
    """The columns x… of a Parquet file or folder, float32 (rows, columns)."""
    dataset = ds.dataset(source, partitioning=None)
    names = [n for n in dataset.schema.names if n.startswith("x")]
    table = dataset.to_table(columns=names)
    found = np.empty((table.num_rows, len(names)), np.float32)
    for index, name in enumerate(names):
        found[:, index] = table.column(name).to_numpy()
    return found


def unexplained(rows: np.ndarray, reconstruction: np.ndarray) -> float:
    """The mean squared error of columns that are standardised by these rows."""
    errors = np.square(rows - reconstruction).mean(axis=0, dtype=np.float64)
    return float((errors / rows.var(axis=0, dtype=np.float64)).mean())


def torch_loop(work: Work) -> Course:
    """A plain loop: batches gathered by a permutation, fused Adam, as many threads as cores."""
    import torch

    rows, held_out = torch.from_numpy(work.rows), torch.from_numpy(work.held_out)
    model = _torch_model(rows.shape[1], work.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    course = Course()
    for _ in range(work.epochs):
        order = torch.randperm(len(rows))
        for step in range(work.steps):
            _torch_step(model, optimizer, rows[order[step * work.batch : (step + 1) * work.batch]])
            if work.look and step % work.look == work.look - 1:
                course.look(lambda: model(held_out).detach().numpy(), work)
        course.end_epoch()
    course.look(lambda: model(held_out).detach().numpy(), work)
    return course


def torch_loader(work: Work) -> Course:
    """The textbook's: TensorDataset and a shuffling DataLoader of two workers."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    rows, held_out = torch.from_numpy(work.rows), torch.from_numpy(work.held_out)
    model = _torch_model(rows.shape[1], work.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    loader = DataLoader(TensorDataset(rows), batch_size=work.batch, shuffle=True, num_workers=2, drop_last=True)
    course = Course()
    for _ in range(work.epochs):
        for (batch,) in loader:
            _torch_step(model, optimizer, batch)
        course.end_epoch()
    course.look(lambda: model(held_out).detach().numpy(), work)
    return course


def _torch_model(columns: int, seed: int) -> Any:
    import torch
    from torch.nn import Linear, ReLU, Sequential

    torch.manual_seed(seed)
    torch.set_num_threads(os.cpu_count() or 1)
    encoder = (Linear(columns, HIDDEN), ReLU(), Linear(HIDDEN, LATENTS))
    return Sequential(*encoder, Linear(LATENTS, HIDDEN), ReLU(), Linear(HIDDEN, columns))


def _torch_step(model: Any, optimizer: Any, batch: Any) -> None:
    from torch.nn.functional import mse_loss

    loss = mse_loss(model(batch), batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def keras_fit(work: Work) -> Course:
    """`fit` as its guide has it."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras

    layers, columns = keras.layers, work.rows.shape[1]
    keras.utils.set_random_seed(work.seed)
    encoder = [layers.Input((columns,)), layers.Dense(HIDDEN, activation="relu"), layers.Dense(LATENTS)]
    model = keras.Sequential([*encoder, layers.Dense(HIDDEN, activation="relu"), layers.Dense(columns)])
    model.compile(optimizer=keras.optimizers.Adam(RATE), loss="mse")
    held_out = keras.ops.convert_to_tensor(work.held_out)
    course = Course()

    def reconstruction() -> np.ndarray:
        return np.asarray(model(held_out))

    def after_batch(step: int, logs: Any = None) -> None:
        if work.look and step % work.look == work.look - 1:
            course.look(reconstruction, work)

    at_end = keras.callbacks.LambdaCallback(
        on_train_batch_end=after_batch if work.look else None, on_epoch_end=lambda epoch, logs: course.end_epoch()
    )
    rows = work.rows[: work.steps * work.batch]
    model.fit(rows, rows, epochs=work.epochs, batch_size=work.batch, verbose=0, callbacks=[at_end])
    course.look(reconstruction, work)
    return course


METHODS = {"torch": torch_loop, "loader": torch_loader, "keras": keras_fit}


def main() -> None:
    began = time.perf_counter()
    work = Work.read(*sys.argv[2:])
    loading = time.perf_counter() - began
    course = METHODS[sys.argv[1]](work)
    rows = work.steps * work.batch
    speeds = [rows / seconds for seconds in course.epochs]
    figures = {
        "rows/s, first epoch": speeds[0],
        "rows/s": statistics.median(speeds[1:] or speeds),
        "loss": course.curve[-1][1],
        "loading": loading,
        "curve": json.dumps(course.curve),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

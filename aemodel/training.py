"""Lightning around a learner: what its steps are computed in, best weights, checkpoints, the result.

One code path for a CPU, one GPU and many ranks: torchrun starts several ranks, the environment says who is who.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]
from pytorch_lightning.utilities.exceptions import SIGTERMException

from aemodel import ranks
from aemodel.arithmetic import Arithmetic, Trial, chosen
from aemodel.callbacks import Best, Checkpoint, Journal, StopOnSigterm, Threads, Unprofiled
from aemodel.config import TrainingJob
from aemodel.errors import TrainingError
from aemodel.files import read_state, write_json
from aemodel.layout import EncodedRows
from aemodel.learner import Learner
from aemodel.loader import HeldOutLoader, TrainingLoader
from aemodel.model import Batch
from aemodel.schedule import Schedule

CHECKPOINT_INTERVAL = timedelta(seconds=30)


@dataclass(frozen=True)
class TrainingResult:
    """What the worker reports. Rows are counted over all ranks; `seconds` are those of `fit`."""

    epochs: int
    steps: int
    best_loss: float
    first_loss: float
    seconds: float
    rows_per_second_first: float
    rows_per_second: float
    world_size: int
    batch_size: int
    train_loss: float
    arithmetic: str


class ArithmeticChoice(Callback):
    """Chooses what a learner's steps are computed in, once a run: rank 0's choice holds for all and is kept in a file,
    so that a run that goes on computes as it did before."""

    def __init__(self, path: Path, job: TrainingJob, rows: EncodedRows) -> None:
        """`rows` are tried on."""
        self.path, self.job, self.rows = path, job, rows

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, Learner)
        if stage == "fit":
            known = Arithmetic(**read_state(self.path)) if self.path.exists() else self._chosen(trainer, pl_module)
            pl_module.compute_in(trainer.strategy.broadcast(known))
            if trainer.is_global_zero:
                write_json(self.path, asdict(pl_module.arithmetic))

    def _chosen(self, trainer: pl.Trainer, learner: Learner) -> Arithmetic:
        device, size = trainer.strategy.root_device, learner.schedule.batch_size
        learner.to(device).bring_teacher()
        batch = Batch.of(self.rows[np.arange(size) % len(self.rows)]).to(device)
        trial = Trial(learner.model, learner.loss_in, lambda loss, n: learner.step(loss, batch, n), learner.rate)
        parameters = sum(p.numel() for p in learner.model.parameters() if p.requires_grad)
        work = 6.0 * parameters * size * trainer.world_size * learner.schedule.total_steps
        return chosen(self.job, work, learner.schedule.total_steps, device.type == "cuda", trial)


class DataPosition(Callback):
    """Where a loader was when a checkpoint was saved. Lightning keeps that too, but restores it only of a checkpoint
    within an epoch or after a look at held-out rows (2.6.6); of others the rows were begun anew, in their first order.
    """

    def __init__(self, loader: TrainingLoader) -> None:
        self.loader = loader

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loader.load_state_dict(state_dict)


def device() -> torch.device:
    """Where this rank trains."""
    gpu = torch.cuda.is_available()
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if gpu else torch.device("cpu")


def fit(
    learner: Learner,
    loader: TrainingLoader,
    held_out: HeldOutLoader,
    job: TrainingJob,
    folder: Path,
    devices: int,
) -> TrainingResult:
    """Train, or go on from `folder`/checkpoints. Leaves the best average in `learner.averaged`."""
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    schedule, plan = learner.schedule, loader.plan
    journal = Journal(folder / "metrics.jsonl", schedule.batch_size * plan.world_size, schedule.total_steps)
    best = Best(learner.averaged)
    last = Checkpoint(
        checkpoints,
        filename="last",
        train_time_interval=CHECKPOINT_INTERVAL,
        save_on_exception=True,
        enable_version_counter=False,
    )
    stopping = EarlyStopping("held_out_loss", patience=job.patience, check_finite=True, min_delta=1e-5)
    callbacks = [
        ArithmeticChoice(folder / "arithmetic.json", job, held_out.rows),
        StopOnSigterm(),
        DataPosition(loader),
        Threads(1 if torch.cuda.is_available() else torch.get_num_threads()),
        journal,
        stopping,
        best,
        last,
    ]
    trainer = _trainer(schedule, plan.world_size, devices, callbacks, folder)
    trainer.validate(learner, held_out, verbose=False)
    resume = checkpoints / "last.ckpt"
    began = time.perf_counter()
    try:
        trainer.fit(learner, loader, held_out, ckpt_path=resume if resume.exists() else None, weights_only=True)
    except SIGTERMException:
        raise TrainingError("stopped by a signal; a checkpoint is kept, run again to go on") from None
    seconds = time.perf_counter() - began
    learner.averaged.load_state_dict(best.weights)
    return _result(journal, learner, trainer, plan.world_size, seconds, best.loss)


def _trainer(schedule: Schedule, world_size: int, devices: int, callbacks: list[Callback], folder: Path) -> pl.Trainer:
    """Lightning's trainer for this rank, one of `devices` on its machine."""
    gpu = torch.cuda.is_available()
    return pl.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=devices,
        num_nodes=max(1, world_size // devices),
        strategy=ranks.strategy(world_size, on_one_cpu=not gpu and world_size == devices),
        # One rank is alone even where the environment is that of a cluster's job with many tasks.
        plugins=[] if world_size > 1 else [LightningEnvironment()],
        max_epochs=schedule.max_epochs,
        check_val_every_n_epoch=schedule.check_epochs,
        callbacks=callbacks,
        logger=False,
        profiler=Unprofiled(),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )


def _result(
    journal: Journal, learner: Learner, trainer: pl.Trainer, world_size: int, seconds: float, best_loss: float
) -> TrainingResult:
    rows = learner.schedule.batch_size * world_size
    speeds = [steps * rows / max(took, 1e-9) for steps, took in journal.epoch_seconds if steps]
    later = sorted(speeds[1:] or speeds)
    return TrainingResult(
        epochs=trainer.current_epoch,
        steps=trainer.global_step,
        best_loss=best_loss,
        first_loss=journal.first_loss,
        seconds=seconds,
        rows_per_second_first=speeds[0] if speeds else 0.0,
        rows_per_second=later[len(later) // 2] if later else 0.0,
        world_size=world_size,
        batch_size=rows,
        train_loss=journal.train_loss,
        arithmetic=learner.arithmetic.text,
    )


def result_state(result: TrainingResult) -> dict[str, Any]:
    """JSON has no NaN: a figure that is none becomes null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(result).items()}

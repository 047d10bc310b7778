"""Lightning around a model: schedule, moving average, best weights, checkpoints.

One code path for a CPU, one GPU and many ranks: torchrun starts the ranks, the environment says who is who.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from aemodel.callbacks import Journal, StopOnSigterm, Threads
from aemodel.config import ModelJob, TrainingJob
from aemodel.errors import TrainingError
from aemodel.layout import Layout
from aemodel.loader import HeldOutLoader, TrainingLoader
from aemodel.model import Autoencoder, Batch, SwapNoise

#: Optimiser steps that `max_epochs: auto` aims at; measured on the benchmark tables, more add little.
TARGET_STEPS = 1_500
MAX_AUTO_EPOCHS = 200
WARM_UP_STEPS = 100
STEPS_PER_CHECK = 100
#: By preset; the others take 1e-3.
LEARNING_RATE = {"residual": 5e-4}
#: Residual: gradients of a larger norm are shortened to it.
LARGEST_GRADIENT = 1.0
CHECKPOINT_INTERVAL = timedelta(seconds=30)
WEIGHT_DECAY = 0.05
#: Of the moving average of the weights, in long runs.
AVERAGE_DECAY = 0.998
#: Weight of the teacher's latents in the loss, and the share of each batch that they are compared on.
ANCHOR_WEIGHT = 1.0
ANCHOR_SHARE = 0.25


@dataclass(frozen=True)
class Schedule:
    """`batch_size` is one rank's."""

    batch_size: int
    steps_per_epoch: int
    max_epochs: int

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.max_epochs

    @property
    def warm_up(self) -> int:
        """Steps until the learning rate is reached."""
        return min(WARM_UP_STEPS, self.total_steps // 10)

    @property
    def check_epochs(self) -> int:
        """Epochs between two looks at the held-out rows."""
        return min(self.max_epochs, -(-STEPS_PER_CHECK // self.steps_per_epoch))


def global_batch_size(job: TrainingJob, rows: int, width: int) -> int:
    """The rows of one optimiser step over all ranks. Auto: a power of two near rows / 200, from 64 to 1024.

    Rows of many dimensions are fewer than their width asks for: near width / 3, up to 256, where rows / 10 allow it.
    """
    if job.batch_size != "auto":
        return job.batch_size
    wanted = max(rows / 200, min(width / 3, 256, rows / 10))
    return int(min(1024, max(64, 2 ** round(math.log2(max(1, wanted))))))


def schedule_for(job: TrainingJob, batch_size: int, steps_per_epoch: int) -> Schedule:
    """Epochs as the job says, or enough of them for TARGET_STEPS."""
    auto = min(MAX_AUTO_EPOCHS, -(-TARGET_STEPS // steps_per_epoch))
    return Schedule(batch_size, steps_per_epoch, auto if job.max_epochs == "auto" else job.max_epochs)


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


@dataclass(frozen=True)
class Teacher:
    """The network that training starts from, whose feature columns, of `variance` (k,), are to stay where they are.

    So are those of the `anchors`: at `reference` (anchors, k), where the columns stood when they got their meaning.
    """

    model: Autoencoder
    variance: Tensor
    anchors: Batch
    reference: Tensor

    def to(self, device: torch.device) -> Teacher:
        model = self.model.to(device).eval().requires_grad_(False)
        return Teacher(model, self.variance.to(device), self.anchors.to(device), self.reference.to(device))


class Learner(pl.LightningModule):
    """One optimisation problem: descends `model`, and validates and keeps the moving average of its weights."""

    def __init__(
        self,
        model: Autoencoder,
        layout: Layout,
        job: ModelJob,
        schedule: Schedule,
        training: TrainingJob,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.teacher = teacher
        # The average looks back over a tenth of the run at most, so that short runs are not held at their start.
        self.decay = min(AVERAGE_DECAY, 1 - 10 / max(20, schedule.total_steps))
        self.averaged = copy.deepcopy(model).requires_grad_(False)
        self.noise = SwapNoise(layout, job.effective_noise)
        self.preset, self.nested, self.schedule = job.preset, job.nested, schedule
        self.seed, self.trim = training.seed, training.trim
        self._held_out: list[Tensor] = []

    def training_step(self, batch: Batch, _: int) -> Tensor:
        # What a step draws follows from the step alone, so a run that goes on draws what an unbroken one would have.
        self._seed_draws((self.seed * 65_537 + self.global_rank + 1) * 2**26 + self.global_step)
        noisy = self.noise(batch) if self.noise.noise else batch
        trim = self.trim if self.global_step >= self.schedule.warm_up else 0.0
        loss = self.model.loss(batch, noisy, self.nested, trim).total
        return loss if self.teacher is None else loss + ANCHOR_WEIGHT * self._moved(self.teacher, batch)

    def _seed_draws(self, seed: int) -> None:
        """As torch.manual_seed, which also looks at devices that are not used here: a tenth of a small step."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _moved(self, teacher: Teacher, batch: Batch) -> Tensor:
        """How far the columns are from where they belong, as a share of their variance: on rows of the batch, which
        may be new, and on as many anchors."""
        rows, known = max(32, int(len(batch.values) * ANCHOR_SHARE)), teacher.reference.shape[1]
        chosen = torch.randint(len(teacher.reference), (rows,), device=self.device)
        part, anchors = batch[:rows], teacher.anchors[chosen]
        target = torch.cat([teacher.model.encode(part)[:, :known], teacher.reference[chosen]])
        away = self.model.encode(Batch.concatenated(part, anchors))[:, :known] - target
        return (away.square() / teacher.variance).mean()

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        # By hand: Lightning refuses to clip for a fused optimizer under bfloat16, for a scaler that is not used there.
        if self.preset == "residual":
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        first = self.global_step == 0
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            weight = 1.0 if first else 1 - self.decay
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), weight)

    def on_fit_start(self) -> None:
        if self.teacher is not None:
            self.teacher = self.teacher.to(self.device)

    def on_validation_epoch_start(self) -> None:
        self._held_out = []

    def validation_step(self, batch: Batch, _: int) -> None:
        # The noise-free error of the average, in float32 whatever the precision: what the gate will measure.
        with torch.autocast(self.device.type, enabled=False):
            by_column, __, x = self.averaged.eval().squared_errors(batch)
        moments = self.model.column_moments(x, ~batch.values.isnan())
        self._held_out.append(torch.cat([by_column.double().sum(dim=0), moments.flatten()]))

    def on_validation_epoch_end(self) -> None:
        model = self.model
        size = model.num_columns + 3 * len(model.column_of)
        local = torch.stack(self._held_out).sum(dim=0) if self._held_out else torch.zeros(size, dtype=torch.float64)
        summed = self.trainer.strategy.reduce(local.to(self.device), reduce_op="sum")
        errors, moments = summed[: model.num_columns], summed[model.num_columns :].reshape(3, -1)
        about_mean = (moments[2] - moments[1].square() / moments[0].clamp(min=1)).clamp(min=0)
        variation = torch.zeros_like(errors).index_add_(0, model.column_of, about_mean)
        varies = variation > 1e-6 * moments[0].max()
        share = torch.where(varies, errors / variation.clamp(min=1e-12), 0.0)
        self.log("held_out_loss", share.sum() / varies.sum().clamp(min=1), sync_dist=False)

    def configure_optimizers(self) -> Any:
        rate = LEARNING_RATE.get(self.preset, 1e-3)
        if self.preset != "residual":
            return torch.optim.Adam(self.model.parameters(), lr=rate, fused=True)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate, weight_decay=WEIGHT_DECAY, fused=True)
        total, warm_up = self.schedule.total_steps, self.schedule.warm_up

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / (warm_up + 1)) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


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
    best = ModelCheckpoint(checkpoints, filename="best", monitor="held_out_loss", enable_version_counter=False)
    last = ModelCheckpoint(
        checkpoints,
        filename="last",
        train_time_interval=CHECKPOINT_INTERVAL,
        save_on_exception=True,
        enable_version_counter=False,
    )
    stopping = EarlyStopping("held_out_loss", patience=job.patience, check_finite=True, min_delta=1e-5)
    gpu = torch.cuda.is_available()
    trainer = pl.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=devices,
        num_nodes=max(1, plan.world_size // devices),
        strategy="ddp" if plan.world_size > 1 else "auto",
        precision="bf16-mixed" if job.precision == "bf16" or (job.precision == "auto" and gpu) else "32-true",
        max_epochs=schedule.max_epochs,
        check_val_every_n_epoch=schedule.check_epochs,
        callbacks=[StopOnSigterm(), Threads(1 if gpu else torch.get_num_threads()), journal, stopping, best, last],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    # The start is a candidate too: a residual model begins at PCA, and must not end below it.
    start = {k: v.clone() for k, v in learner.averaged.state_dict().items()}
    trainer.validate(learner, held_out, verbose=False)
    resume = checkpoints / "last.ckpt"
    began = time.perf_counter()
    try:
        trainer.fit(learner, loader, held_out, ckpt_path=resume if resume.exists() else None, weights_only=True)
    except SIGTERMException:
        raise TrainingError("stopped by a signal; a checkpoint is kept, run again to go on") from None
    seconds = time.perf_counter() - began
    best_loss = _restore_best(learner, trainer, best, journal.first_loss, start)
    return _result(journal, schedule, trainer, plan.world_size, seconds, best_loss)


def _restore_best(
    learner: Learner, trainer: pl.Trainer, best: ModelCheckpoint, first_loss: float, start: dict[str, Tensor]
) -> float:
    score = float(best.best_model_score) if best.best_model_score is not None else math.inf
    if first_loss <= score:
        learner.averaged.load_state_dict(start)
        return first_loss
    state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "averaged."
    learner.averaged.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return score


def _result(
    journal: Journal, schedule: Schedule, trainer: pl.Trainer, world_size: int, seconds: float, best_loss: float
) -> TrainingResult:
    rows = schedule.batch_size * world_size
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
    )


def result_state(result: TrainingResult) -> dict[str, Any]:
    """JSON has no NaN: a figure that is none becomes null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(result).items()}

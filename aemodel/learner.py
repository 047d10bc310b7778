"""What a step of a training descends, and what is kept of it: loss, anchors, moving average, validation."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from aemodel import ranks
from aemodel.adam import Adam
from aemodel.arithmetic import Arithmetic
from aemodel.config import ModelJob, TrainingJob
from aemodel.layout import Layout
from aemodel.model import Autoencoder, Batch, SwapNoise
from aemodel.model.descent import LossFunction, descent_of, loss_of
from aemodel.schedule import Schedule

#: By preset; the others take 1e-3.
LEARNING_RATE = {"residual": 4e-4}
#: Residual: gradients of a larger norm are shortened to it.
LARGEST_GRADIENT = 1.0
WEIGHT_DECAY = 0.05
#: Of the moving average of the weights, in long runs.
AVERAGE_DECAY = 0.998
#: Weight of the teacher's latents in the loss, and the share of each batch that they are compared on.
ANCHOR_WEIGHT = 1.0
ANCHOR_SHARE = 0.25


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
        self.automatic_optimization = False
        self.model = model
        self.teacher = teacher
        # The average looks back over a part of the run at most, so that short runs are not held at their start: over
        # less where the rate does not fall towards the end, as the weights are still on their way then.
        part = 10 if job.preset == "residual" else 100
        self.decay = min(AVERAGE_DECAY, 1 - part / max(2 * part, schedule.total_steps))
        self.averaged = copy.deepcopy(model).requires_grad_(False)
        # As lists: looking through the modules takes a tenth of a small step.
        self._weights: list[Tensor] = list(model.parameters())
        self._averages: list[Tensor] = list(self.averaged.parameters())
        self.noise = SwapNoise(layout, job.effective_noise)
        self.preset, self.schedule = job.preset, schedule
        self.seed, self.trim = training.seed, training.trim
        self.rate = LEARNING_RATE.get(job.preset, 1e-3) * schedule.rate_factor
        self._exact_loss, self._descent = loss_of(model, job.nested), descent_of(model, job.nested)
        self.compute_in(Arithmetic())
        self._errors = self._moments = torch.empty(0)
        self._variation: Tensor | None = None

    def compute_in(self, arithmetic: Arithmetic) -> None:
        self.arithmetic, self.loss = arithmetic, self.loss_in(arithmetic)

    def loss_in(self, arithmetic: Arithmetic) -> LossFunction:
        return arithmetic.applied(self._exact_loss if arithmetic.compiled else self._descent)

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the name of each hook around each call, which a module's own way of doing so makes slow.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def training_step(self, burst: Batch, _: int) -> dict[str, Tensor]:
        """A step for each batch of `burst`: what Lightning does around a step is as much as a small step itself, and
        so is done once for all of them. The losses (steps,)."""
        size, first = self.schedule.batch_size, self.global_step
        starts = range(0, len(burst.values), size)
        losses = [self._descend(burst[start : start + size], first + i) for i, start in enumerate(starts)]
        return {"loss": torch.stack(losses)}

    def _descend(self, batch: Batch, number: int) -> Tensor:
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        for weight in self._weights:  # as the optimizer's own way, which takes a twentieth of a small step
            weight.grad = None
        loss = self.step(self.loss, batch, number)
        self._backward(loss)
        if self.preset == "residual":
            torch.nn.utils.clip_grad_norm_(self._weights, LARGEST_GRADIENT)
        _step(optimizer)
        if isinstance(scheduler, LambdaLR):
            scheduler.step()
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._weights, 1 - self.decay if number else 1.0)
        return loss.detach()

    def _backward(self, loss: Tensor) -> None:
        """As `manual_backward`, without the hooks around it, which nobody has: a fifteenth of a small step."""
        strategy = self.trainer.strategy
        strategy.pre_backward(loss)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        assert self._weights[0].grad is not None, "nobody has left a gradient"
        strategy.post_backward(loss)

    def step(self, loss: LossFunction, batch: Batch, number: int) -> Tensor:
        """What the step of that number descends on a batch: with a gradient to go back through, or one that already
        lies in the weights, or a part of either."""
        # What a step draws follows from the step alone, so a run that goes on draws what an unbroken one would have.
        self._seed_draws((self.seed * 65_537 + self.global_rank + 1) * 2**26 + number)
        noisy = self.noise(batch) if self.noise.noise else batch
        trim = self.trim if number >= self.schedule.warm_up else 0.0
        total = loss(batch.values, batch.codes, noisy.values, noisy.codes, batch.complete, trim)
        return total if self.teacher is None else total + ANCHOR_WEIGHT * self._moved(self.teacher, batch)

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

    def on_fit_start(self) -> None:
        self.bring_teacher()

    def on_train_start(self) -> None:
        if ranks.needs_autograd(self.trainer.strategy):
            self._descent = self._exact_loss
            self.compute_in(self.arithmetic)

    def bring_teacher(self) -> None:
        """To where the network is: it is no part of it, so that it is not saved with it."""
        if self.teacher is not None:
            self.teacher = self.teacher.to(self.device)

    def on_validation_epoch_start(self) -> None:
        wide = torch.zeros(len(self.model.column_of), dtype=torch.float64, device=self.device)
        self._errors, self._moments = wide[: self.model.num_columns].clone(), wide.repeat(3, 1)

    def validation_step(self, batch: Batch, _: int) -> None:
        # The noise-free error of the average, in float32 whatever the steps take: what the gate will measure.
        by_column, __, x = self.averaged.eval().squared_errors(batch)
        self._errors += by_column.sum(dim=0, dtype=torch.float64)
        if self._variation is None:
            self._moments += self.model.column_moments(x, ~batch.values.isnan())

    def on_validation_epoch_end(self) -> None:
        errors = self.trainer.strategy.reduce(self._errors, reduce_op="sum")
        if self._variation is None:  # the same rows at every look: measured once
            count, total, squares = self.trainer.strategy.reduce(self._moments, reduce_op="sum")
            about_mean = (squares - total.square() / count.clamp(min=1)).clamp(min=0)
            variation = torch.zeros_like(errors).index_add_(0, self.model.column_of, about_mean)
            self._variation = torch.where(variation > 1e-6 * count.max(), variation, 0.0)
        varies = self._variation > 0
        share = torch.where(varies, errors / self._variation.clamp(min=1e-12), 0.0)
        self.log("held_out_loss", share.sum() / varies.sum().clamp(min=1), sync_dist=False)

    def configure_optimizers(self) -> Any:
        if self.preset != "residual":
            return Adam(self._weights, self.rate)
        optimizer = Adam(self._weights, self.rate, WEIGHT_DECAY)
        total, warm_up = self.schedule.total_steps, self.schedule.warm_up

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / (warm_up + 1)) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))

        return {"optimizer": optimizer, "lr_scheduler": LambdaLR(optimizer, factor)}


def _step(optimizer: LightningOptimizer) -> None:
    """As its own `step`, which counts the step and calls hooks that nobody has: as long as what they surround."""
    optimizer._on_before_step()
    optimizer.optimizer.step()
    optimizer._on_after_step()

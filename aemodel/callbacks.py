"""What happens between the steps of a training: its journal, the choice of threads, the orderly stop."""

from __future__ import annotations

import json
import math
import statistics
import time
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor, nn

from aemodel.errors import TrainingDiverged
from aemodel.ranks import InMemory

#: Bursts of steps by which a number of threads is judged, the seconds from the start to the first trial, as the first
#: steps are slower, and those between two.
TRIAL_BURSTS = 4
FIRST_TRIAL, TRIAL_INTERVAL = 0.2, 1.0
#: Seconds between two looks at the clock, for a checkpoint.
LOOK_SECONDS = 1.0
#: Trials lose at most about this share of a training. A number that is so much slower in so many bursts is given up.
TRIAL_SHARE = 0.02
HOPELESS, HOPELESS_BURSTS = 3.0, 2


class Journal(Callback):
    """Rank 0's lines for whoever watches: one JSON object each, to a file that is only ever appended to.

    Also stops a run whose loss is no longer a number, on every rank in the same step.
    """

    def __init__(self, path: Path, rows_per_step: int, total_steps: int) -> None:
        self.path, self.rows_per_step, self.total_steps = path, rows_per_step, total_steps
        self.epoch_seconds: list[tuple[int, float]] = []
        self.train_loss = self.first_loss = float("nan")
        self._losses: list[Tensor] = []
        self._began = self._told = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and trainer.global_step:
            self._write("resumed", trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began, self._losses = time.perf_counter(), []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self._losses.append(outputs["loss"])
        if trainer.is_global_zero and time.monotonic() - self._told > 2:
            self._told = time.monotonic()
            self._write("step", trainer, loss=float(self._losses[-1][-1]))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._losses:
            return
        losses = torch.cat(self._losses)
        mean = trainer.strategy.reduce(losses.mean(), reduce_op="mean")
        self.train_loss = float(mean)
        if not math.isfinite(self.train_loss):
            raise TrainingDiverged(
                f"the loss became {self.train_loss} in epoch {trainer.current_epoch}; nothing was registered"
            )
        seconds, steps = time.perf_counter() - self._began, len(losses)
        speed = {"rows_per_second": steps * self.rows_per_step / max(seconds, 1e-9)}
        # The rest of an epoch that was cut short tells no speed.
        whole = len(self._losses) == trainer.num_training_batches
        if whole:
            self.epoch_seconds.append((steps, seconds))
        if trainer.is_global_zero:
            self._write("epoch", trainer, loss=self.train_loss, **(speed if whole else {}))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = float(trainer.callback_metrics["held_out_loss"])
        if math.isnan(self.first_loss):
            self.first_loss = loss
        if trainer.is_global_zero and not trainer.sanity_checking:
            self._write("held_out", trainer, loss=loss)

    def _write(self, event: str, trainer: pl.Trainer, **figures: float) -> None:
        line = {
            "event": event,
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "total_steps": self.total_steps,
        }
        line |= figures
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Best(Callback):
    """The `averaged` weights of the least loss of held-out rows, the start's among them: a residual model begins at
    PCA, and must not end below it. In memory, as a file of them takes as long as a small epoch; checkpoints hold them.
    """

    def __init__(self, averaged: nn.Module) -> None:
        self.averaged, self.loss, self.weights = averaged, math.inf, _copied(averaged)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = float(trainer.callback_metrics["held_out_loss"])
        if loss < self.loss:
            self.loss, self.weights = loss, _copied(self.averaged)

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loss, self.weights = state_dict["loss"], state_dict["weights"]


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in module.state_dict().items()}


class Threads(Callback):
    """On a CPU, as many threads as pay at the moment: now and then a few bursts with each choice, then the fastest, if
    it was so twice.

    The threads of a step wait for one another some hundred times. Beside other busy processes one of them is always
    off its core, and two threads were seen to be twenty times slower than one.
    """

    def __init__(self, most: int) -> None:
        self.choices = sorted({most, max(1, most // 2), 1}, reverse=True)
        self._planned: list[int] = []
        self._took: dict[int, list[float]] = {}
        self._since, self._due = 0.0, math.inf
        self._chosen, self._lost = most, 0.0
        self._other: int | None = None

    def on_train_start(self, *_: Any) -> None:
        self._due = time.perf_counter() + FIRST_TRIAL

    def on_train_batch_start(self, *_: Any) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        now = time.perf_counter()
        if self._took:
            self._took[torch.get_num_threads()].append(now - self._since)
        elif len(self.choices) > 1 and now >= self._due:
            # In turn: what else the machine does meanwhile, such as reading the next rows, is then shared by all.
            self._planned = self.choices * TRIAL_BURSTS
            self._took = {choice: [] for choice in self.choices}
        self._planned = [choice for choice in self._planned if not self._hopeless(choice)]
        if self._planned:
            torch.set_num_threads(self._planned.pop(0))
        elif self._took:
            # The median: a compiled step is compiled anew for a number of threads that it has not met.
            medians = {choice: statistics.median(took) for choice, took in self._took.items()}
            best = min(medians, key=lambda choice: medians[choice])
            self._lost += sum(sum(took) - len(took) * medians[best] for took in self._took.values())
            self._took, found_before, self._other = {}, self._other, None
            if best in (self._chosen, found_before) or medians[self._chosen] > HOPELESS * medians[best]:
                self._chosen = best
            elif found_before is None:  # because of what was read beside this trial? Another is to say so too, at once
                self._other = best
            torch.set_num_threads(self._chosen)
            if self._other is not None:
                self._due = now + FIRST_TRIAL
            else:
                self._due, self._lost = now + max(TRIAL_INTERVAL, self._lost / TRIAL_SHARE), 0.0

    def _hopeless(self, choice: int) -> bool:
        found = self._took[choice]
        best = min((min(took) for took in self._took.values() if took), default=math.inf)
        return len(found) >= HOPELESS_BURSTS and min(found) > HOPELESS * best


class Unprofiled(Profiler):
    """Lightning times every hook of every callback in a step; here with one context that does nothing, for all."""

    nothing = nullcontext()

    def start(self, action_name: str) -> None: ...

    def stop(self, action_name: str) -> None: ...

    def profile(self, action_name: str) -> nullcontext[None]:  # type: ignore[override]
        return self.nothing


class Checkpoint(ModelCheckpoint):
    """As Lightning's, whose time between two checkpoints is not looked at where a module descends by itself, and whose
    key, which is made of many parts, is asked for at every hook."""

    _bursts = _ahead = 0
    _looked, _due = math.inf, False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._bursts, self._ahead, self._looked = 0, 1, time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """All ranks agree when to look at the clock again: to ask each time would cost a small step a tenth."""
        self._bursts += 1
        if self._bursts < self._ahead:
            return
        assert self._train_time_interval is not None
        now = time.monotonic()
        due = now - (self._last_time_checked or now) >= self._train_time_interval.total_seconds()
        ahead = max(1, int(LOOK_SECONDS * self._bursts / max(now - self._looked, 1e-6)))
        self._due, self._ahead = trainer.strategy.broadcast((due, ahead))
        self._bursts, self._looked = 0, now
        if not trainer.is_last_batch:
            self._save_if_due(trainer)

    # Between the last step of an epoch and its end a look at the held-out rows is counted, see `StopOnSigterm`.
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save_if_due(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Only of an orderly stop. After anything else the place in the data is that of a burst's end while not all of
        its steps were taken, the weights may be no numbers, and other ranks do not come to the barrier of a save."""
        if isinstance(exception, SIGTERMException):
            super().on_exception(trainer, pl_module, exception)

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        if self._due:
            self._due, self._last_time_checked = False, time.monotonic()
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    @cached_property
    def state_key(self) -> str:
        return str(super().state_key)


class StopOnSigterm(Callback):
    """SIGTERM ends every rank within two bursts of steps, with a checkpoint.

    What Lightning does in its signal handler is to broadcast, which deadlocks when ranks are at different points (seen
    with 2.6.6 on gloo); setting the flag it looks at between bursts does not. Private, hence the pin below 2.7 and the
    tests.
    """

    def __init__(self) -> None:
        self._asked = False

    # Lightning sets its handler after this, of a look at held-out rows and of a fit.
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        def ask(*_: Any) -> None:
            if isinstance(trainer.strategy, InMemory):
                trainer.strategy.asked_to_stop = True
            else:
                self._asked = True

        trainer._signal_connector._sigterm_notifier_fn = ask  # type: ignore[method-assign,assignment]

    # Between the last step of an epoch and its end a look at the held-out rows is counted: a run that stopped there
    # would count it again when it goes on.
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._due(trainer) and not trainer.is_last_batch:
            trainer._signal_connector.received_sigterm = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._due(trainer):
            trainer._signal_connector.received_sigterm = True

    def _due(self, trainer: pl.Trainer) -> bool:
        """Where ranks agree to stop, not before they have."""
        return trainer.strategy.agreed_to_stop if isinstance(trainer.strategy, InMemory) else self._asked

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from aemodel.arithmetic import Arithmetic
from aemodel.config import Job, ModelJob, TrainingJob
from aemodel.dense import ONEDNN
from aemodel.errors import TrainingDiverged, TrainingError
from aemodel.gather import EncodedRowGroups, OnHost
from aemodel.learner import Learner
from aemodel.loader import BURST_STEPS, HeldOutLoader, TrainingLoader
from aemodel.model import Batch, build
from aemodel.plan import plan_for
from aemodel.prepared import Prepared
from aemodel.schedule import schedule_for
from aemodel.snapshot import Snapshot
from aemodel.training import TrainingResult, fit, result_state


def _fit(
    folder: Path,
    prepared: Prepared,
    snapshot: Snapshot,
    job: Job,
    epochs: int = 6,
    spoil: bool = False,
    precision: Literal["32", "bf16"] = "32",
) -> tuple[TrainingResult, Learner]:
    torch.manual_seed(0)
    plan = plan_for(prepared.groups, 1, 32, 0)
    training = TrainingJob(max_epochs=epochs, batch_size=32, precision=precision)
    model = build(job.model, prepared.transform.layout, prepared.pca)
    learner = Learner(model, prepared.transform.layout, job.model, schedule_for(training, 32, plan.steps), training)
    if spoil:
        with torch.no_grad():
            next(model.parameters()).fill_(float("inf"))
    read = EncodedRowGroups(snapshot, prepared.split, prepared.transform)
    held_out = HeldOutLoader(prepared.transform.apply_all(prepared.held_out), 0, 1, 64)
    return fit(learner, TrainingLoader(plan, 0, OnHost(read)), held_out, training, folder, 1), learner


def test_it_ends_at_least_as_good_as_it_began_and_keeps_the_best(
    tmp_path: Path, mixed_prepared: Prepared, mixed_snapshot: Snapshot, mixed_job: Job
) -> None:
    result, learner = _fit(tmp_path, mixed_prepared, mixed_snapshot, mixed_job)
    assert result.best_loss <= result.first_loss
    assert result.epochs == 6 and result.steps == 6 * (mixed_prepared.num_training // 32)
    assert result.rows_per_second > 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    held_out = [e["loss"] for e in lines if e["event"] == "held_out"]
    assert result.best_loss == pytest.approx(min(held_out))
    assert not any(p.requires_grad for p in learner.averaged.parameters())


def test_bfloat16_learns_about_the_same_and_keeps_weights_in_float32(
    tmp_path: Path, mixed_prepared: Prepared, mixed_snapshot: Snapshot, mixed_job: Job
) -> None:
    exact, _ = _fit(tmp_path / "32", mixed_prepared, mixed_snapshot, mixed_job, epochs=3)
    short, learner = _fit(tmp_path / "bf16", mixed_prepared, mixed_snapshot, mixed_job, epochs=3, precision="bf16")
    assert short.train_loss == pytest.approx(exact.train_loss, rel=0.02) and short.train_loss != exact.train_loss
    assert all(p.dtype == torch.float32 for p in learner.averaged.parameters())


@pytest.mark.parametrize("hooked", [False, True])
def test_steps_leave_to_autograd_what_hooks_wait_for(
    tmp_path: Path,
    mixed_prepared: Prepared,
    mixed_snapshot: Snapshot,
    mixed_job: Job,
    monkeypatch: pytest.MonkeyPatch,
    hooked: bool,
) -> None:
    monkeypatch.setattr("aemodel.ranks.needs_autograd", lambda _: hooked)
    taken, step = [], Learner.step

    def watched(self: Learner, *arguments: Any) -> torch.Tensor:
        taken.append(step(self, *arguments))
        return taken[-1]

    monkeypatch.setattr(Learner, "step", watched)
    job = mixed_job.model_copy(update={"model": ModelJob(preset="plain", latent_dim=4, hidden=[8])})
    result, _ = _fit(tmp_path, mixed_prepared, mixed_snapshot, job, epochs=3)
    assert len(taken) == result.steps and result.best_loss < result.first_loss
    assert {loss.requires_grad for loss in taken} == {hooked or not ONEDNN}


def test_a_run_that_goes_on_computes_as_it_did_before(
    tmp_path: Path, mixed_prepared: Prepared, mixed_snapshot: Snapshot, mixed_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    def choose(job: TrainingJob, work: float, steps: int, gpu: bool, timed: object) -> Arithmetic:
        tried.append(work)
        return Arithmetic(bf16=True)

    monkeypatch.setattr("aemodel.training.chosen", choose)
    first, learner = _fit(tmp_path, mixed_prepared, mixed_snapshot, mixed_job, epochs=2)
    parameters = sum(p.numel() for p in learner.model.parameters())
    assert tried == [6 * parameters * 32 * first.steps] and first.arithmetic == "bfloat16"
    assert _fit(tmp_path, mixed_prepared, mixed_snapshot, mixed_job, epochs=3)[0].arithmetic == "bfloat16"
    assert len(tried) == 1


@pytest.mark.parametrize("steps", [1, BURST_STEPS], ids=["within an epoch", "at the end of one"])
def test_a_run_that_lost_its_process_goes_on_from_the_last_checkpoint_in_time(
    steps: int,
    tmp_path: Path,
    mixed_prepared: Prepared,
    mixed_snapshot: Snapshot,
    mixed_job: Job,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aemodel.loader.BURST_STEPS", steps)
    monkeypatch.setattr("aemodel.training.CHECKPOINT_INTERVAL", timedelta(0))
    monkeypatch.setattr("aemodel.callbacks.LOOK_SECONDS", 0.0)
    step, calls = Learner.training_step, []

    def killed(self: Learner, batch: Batch, index: int) -> object:
        calls.append(index)
        if len(calls) == (3 if steps > 1 else 15):  # as the file lies there, when no more can be written
            shutil.copytree(tmp_path / "whole" / "checkpoints", tmp_path / "killed" / "checkpoints")
        return step(self, batch, index)

    monkeypatch.setattr(Learner, "training_step", killed)
    whole, learner = _fit(tmp_path / "whole", mixed_prepared, mixed_snapshot, mixed_job, epochs=3)
    bursts, calls = len(calls), [0] * 99
    resumed, other = _fit(tmp_path / "killed", mixed_prepared, mixed_snapshot, mixed_job, epochs=3)
    assert 0 < len(calls) - 99 < bursts, "it did not begin anew"
    assert resumed.steps == whole.steps and resumed.best_loss == whole.best_loss
    for one, two in zip(learner.averaged.parameters(), other.averaged.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_run_that_was_stopped_at_an_epoch_s_end_goes_on_with_the_rows_that_were_to_come(
    tmp_path: Path, mixed_prepared: Prepared, mixed_snapshot: Snapshot, mixed_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aemodel.loader.BURST_STEPS", 10**6)  # an epoch
    step, before = Learner.training_step, signal.getsignal(signal.SIGTERM)

    def stopped(self: Learner, burst: Batch, index: int) -> object:
        if self.current_epoch == self.schedule.check_epochs:  # a look at held-out rows was one epoch before
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, burst, index)

    whole, _ = _fit(tmp_path / "whole", mixed_prepared, mixed_snapshot, mixed_job, epochs=24)
    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="stopped by a signal"):
        patch.setattr(Learner, "training_step", stopped)
        try:
            _fit(tmp_path / "stopped", mixed_prepared, mixed_snapshot, mixed_job, epochs=24)
        finally:
            signal.signal(signal.SIGTERM, before)
    resumed, _ = _fit(tmp_path / "stopped", mixed_prepared, mixed_snapshot, mixed_job, epochs=24)
    assert resumed.steps == whole.steps and resumed.train_loss == whole.train_loss


def test_an_error_leaves_the_last_checkpoint_as_it_was(
    tmp_path: Path, mixed_prepared: Prepared, mixed_snapshot: Snapshot, mixed_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aemodel.loader.BURST_STEPS", 2)
    step = Learner._descend

    def lost(self: Learner, batch: Batch, number: int) -> torch.Tensor:
        if number == 3:  # in the middle of a burst, as where another rank is gone
            raise ConnectionError("another rank has ended")
        return step(self, batch, number)

    monkeypatch.setattr(Learner, "_descend", lost)
    with pytest.raises(ConnectionError):
        _fit(tmp_path, mixed_prepared, mixed_snapshot, mixed_job)
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_every_training_row_is_read_in_an_epoch(
    tmp_path: Path, mixed_prepared: Prepared, mixed_snapshot: Snapshot, mixed_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(Learner, "training_step", _counting(Learner.training_step, seen))
    _fit(tmp_path, mixed_prepared, mixed_snapshot, mixed_job, epochs=3)
    assert sum(seen) == 3 * (mixed_prepared.num_training // 32) * 32 and 32 < max(seen) <= BURST_STEPS * 32


def _counting(step, seen: list[int]):  # type: ignore[no-untyped-def]
    def counted(self, batch, index):  # type: ignore[no-untyped-def]
        seen.append(len(batch.values))
        return step(self, batch, index)

    return counted


@pytest.mark.parametrize("moment", ["on_validation_epoch_start", "on_train_start", "on_train_epoch_end"])
def test_a_signal_before_between_and_after_steps_stops_the_run_with_a_checkpoint(
    moment: str,
    tmp_path: Path,
    mixed_prepared: Prepared,
    mixed_snapshot: Snapshot,
    mixed_job: Job,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hook, sent = getattr(Learner, moment), []

    def killed(self: Learner) -> None:
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
        hook(self)

    monkeypatch.setattr(Learner, moment, killed)
    whole = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingError, match="stopped by a signal; a checkpoint is kept, run again to go on"):
        _fit(tmp_path, mixed_prepared, mixed_snapshot, mixed_job)
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert signal.getsignal(signal.SIGTERM) == whole, "Lightning's handlers are gone with it"
    result, _ = _fit(tmp_path, mixed_prepared, mixed_snapshot, mixed_job)
    assert result.epochs == 6


def test_the_start_is_kept_when_training_makes_it_worse(
    tmp_path: Path, mixed_prepared: Prepared, mixed_snapshot: Snapshot, mixed_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aemodel.learner.LEARNING_RATE", {"residual": 30.0})
    result, learner = _fit(tmp_path, mixed_prepared, mixed_snapshot, mixed_job, epochs=2)
    assert result.best_loss == result.first_loss
    last = learner.averaged.g[-1]  # type: ignore[index]
    assert float(last.weight.abs().max()) == 0.0, "the last layer of g is back at zero"


def test_a_loss_that_is_not_a_number_stops_the_run_and_says_so(
    tmp_path: Path, mixed_prepared: Prepared, mixed_snapshot: Snapshot, mixed_job: Job
) -> None:
    with pytest.raises(TrainingDiverged, match="the loss became nan in epoch 0; nothing was registered"):
        _fit(tmp_path, mixed_prepared, mixed_snapshot, mixed_job, spoil=True)


def test_a_figure_that_is_none_is_null_in_the_result() -> None:
    result = TrainingResult(1, 1, 0.5, 0.6, 1.0, 10.0, 10.0, 1, 32, 0.4, "float32")
    assert result_state(replace(result, train_loss=float("nan")))["train_loss"] is None
    assert result_state(result)["train_loss"] == 0.4

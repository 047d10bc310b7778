from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aemodel.callbacks import TRIAL_BURSTS, Best, StopOnSigterm, Threads
from aemodel.ranks import InMemory


class Clock:
    """The time, and how many threads torch is told to use: `burst` lets a burst of steps take so many seconds."""

    def __init__(self, threads: int) -> None:
        self.now, self.threads = 0.0, threads

    def burst(self, callback: Threads, seconds: float) -> int:
        """The threads after it."""
        callback.on_train_batch_start()
        self.now += seconds
        callback.on_train_batch_end()
        return self.threads


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(2)
    monkeypatch.setattr("aemodel.callbacks.time.perf_counter", lambda: made.now)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: setattr(made, "threads", n))
    monkeypatch.setattr(torch, "get_num_threads", lambda: made.threads)
    return made


def _begun(clock: Clock, most: int) -> Threads:
    clock.threads = most
    threads = Threads(most)
    threads.on_train_start()
    return threads


def test_the_number_of_threads_that_is_fastest_is_kept(clock: Clock) -> None:
    threads, takes = _begun(clock, 4), {4: 0.2, 2: 0.05, 1: 0.1}
    seen = [clock.burst(threads, takes[clock.threads]) for _ in range(60)]
    assert {*seen} == {4, 2, 1} and seen[-20:] == [2] * 20


def test_one_trial_beside_something_else_changes_nothing(clock: Clock) -> None:
    threads = _begun(clock, 2)
    seen = []
    for _ in range(100):
        beside = clock.threads == 2 and clock.now < 1.2
        seen.append(clock.burst(threads, 0.15 if beside else {2: 0.05, 1: 0.1}[clock.threads]))
    assert seen.count(1) <= 3 * TRIAL_BURSTS and seen[-1] == 2


def test_trying_threads_takes_little_of_a_training_even_where_one_is_much_slower(clock: Clock) -> None:
    threads, takes, steps = _begun(clock, 16), {16: 0.1, 8: 0.2, 1: 1.0}, 0
    while clock.now < 600:
        clock.burst(threads, takes[clock.threads])
        steps += 1
    assert steps > 0.9 * 600 / 0.1


def test_what_lies_between_two_bursts_does_not_count(clock: Clock) -> None:
    threads, takes = _begun(clock, 2), {2: 0.05, 1: 0.1}
    seen = []
    for _ in range(60):
        clock.now += 3.0 if clock.threads == 2 else 0.0  # a look at held-out rows, or the wait for the next window
        seen.append(clock.burst(threads, takes[clock.threads]))
    assert seen.count(2) > seen.count(1), "it is tried every few seconds, and was never chosen"


def test_with_one_thread_there_is_nothing_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    threads = Threads(1)
    threads.on_train_start()
    for _ in range(20):
        threads.on_train_batch_start()
        threads.on_train_batch_end()
    assert not chosen


def test_a_sigterm_only_sets_the_flag_that_is_looked_at_between_steps() -> None:
    trainer = _trainer()
    stop = _asked_to_stop(trainer)
    assert not trainer._signal_connector.received_sigterm
    stop.on_train_batch_end(trainer)
    assert trainer._signal_connector.received_sigterm


def test_ranks_that_share_memory_stop_when_all_know() -> None:
    trainer = _trainer(InMemory())
    trainer.strategy._mean = object()
    stop = _asked_to_stop(trainer)
    stop.on_train_batch_end(trainer)
    assert trainer.strategy.asked_to_stop and not trainer._signal_connector.received_sigterm
    trainer.strategy._agreed = True
    stop.on_train_batch_end(trainer)
    assert trainer._signal_connector.received_sigterm


@pytest.mark.parametrize("at_end", [False, True])
def test_a_run_does_not_stop_between_an_epoch_s_last_step_and_its_end(at_end: bool) -> None:
    trainer = _trainer()
    stop = _asked_to_stop(trainer)
    trainer.is_last_batch = True
    stop.on_train_batch_end(trainer)
    if at_end:
        stop.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert trainer._signal_connector.received_sigterm is at_end


def test_the_best_average_is_kept_over_a_stop() -> None:
    averaged = torch.nn.Linear(1, 1)
    best, again = Best(averaged), Best(averaged)
    for value, loss in enumerate([3.0, 1.0, 1.0, float("nan")]):
        with torch.no_grad():
            averaged.weight.fill_(value)
        best.on_validation_end(SimpleNamespace(callback_metrics={"held_out_loss": loss}), None)  # type: ignore[arg-type]
    again.load_state_dict(best.state_dict())
    assert again.loss == 1.0 and float(again.weights["weight"]) == 1.0, "the first of equals"
    again.on_validation_end(SimpleNamespace(callback_metrics={"held_out_loss": 2.0}), None)  # type: ignore[arg-type]
    assert float(again.weights["weight"]) == 1.0


def _trainer(strategy: object = None) -> Any:
    signals = SimpleNamespace(received_sigterm=False)
    return SimpleNamespace(_signal_connector=signals, is_last_batch=False, strategy=strategy)


def _asked_to_stop(trainer: Any) -> StopOnSigterm:
    """One that met a SIGTERM in a training's first burst."""
    stop = StopOnSigterm()
    stop.setup(trainer, None, "fit")  # type: ignore[arg-type]
    stop.on_train_batch_end(trainer)
    trainer._signal_connector._sigterm_notifier_fn(signal.SIGTERM, None)
    return stop

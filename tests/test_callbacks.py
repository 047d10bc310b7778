from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
import torch

from aemodel.callbacks import TRIAL_BURSTS, StopOnSigterm, Threads


def test_the_number_of_threads_that_is_fastest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, chosen = [0.0], [4]
    monkeypatch.setattr("aemodel.callbacks.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: chosen.__setitem__(0, n))
    monkeypatch.setattr(torch, "get_num_threads", lambda: chosen[0])
    threads = Threads(4)
    threads.on_train_start()
    seen = []
    for _ in range(60):
        threads.on_train_batch_start()
        clock[0] += {4: 0.2, 2: 0.05, 1: 0.1}[chosen[0]]  # seconds a step
        threads.on_train_batch_end()
        seen.append(chosen[0])
    assert {*seen} == {4, 2, 1} and seen[-20:] == [2] * 20


def test_one_trial_beside_something_else_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, chosen = [0.0], [2]
    monkeypatch.setattr("aemodel.callbacks.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: chosen.__setitem__(0, n))
    monkeypatch.setattr(torch, "get_num_threads", lambda: chosen[0])
    threads = Threads(2)
    threads.on_train_start()
    seen = []
    for _ in range(100):
        threads.on_train_batch_start()
        clock[0] += {2: 0.15 if clock[0] < 1.2 else 0.05, 1: 0.1}[chosen[0]]
        threads.on_train_batch_end()
        seen.append(chosen[0])
    assert seen.count(1) <= 3 * TRIAL_BURSTS and seen[-1] == 2


def test_trying_threads_takes_little_of_a_training_even_where_one_is_much_slower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, chosen = [0.0], [16]
    monkeypatch.setattr("aemodel.callbacks.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: chosen.__setitem__(0, n))
    monkeypatch.setattr(torch, "get_num_threads", lambda: chosen[0])
    threads, steps = Threads(16), 0
    threads.on_train_start()
    while clock[0] < 600:
        threads.on_train_batch_start()
        clock[0] += {16: 0.1, 8: 0.2, 1: 1.0}[chosen[0]]
        threads.on_train_batch_end()
        steps += 1
    assert steps > 0.9 * 600 / 0.1


def test_what_lies_between_two_bursts_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, chosen = [0.0], [2]
    monkeypatch.setattr("aemodel.callbacks.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: chosen.__setitem__(0, n))
    monkeypatch.setattr(torch, "get_num_threads", lambda: chosen[0])
    threads = Threads(2)
    threads.on_train_start()
    for _ in range(30):
        clock[0] += 3.0 if chosen[0] == 2 else 0.0  # a look at held-out rows, or the wait for the next window
        threads.on_train_batch_start()
        clock[0] += {2: 0.05, 1: 0.1}[chosen[0]]
        threads.on_train_batch_end()
    assert chosen == [2]


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
    trainer = SimpleNamespace(_signal_connector=SimpleNamespace(received_sigterm=False), is_last_batch=False)
    stop = StopOnSigterm()
    before = signal.getsignal(signal.SIGTERM)
    try:
        stop.on_train_start(trainer, None)  # type: ignore[arg-type]
        stop.on_train_batch_end(trainer)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not trainer._signal_connector.received_sigterm
    stop.on_train_batch_end(trainer)  # type: ignore[arg-type]
    assert trainer._signal_connector.received_sigterm


@pytest.mark.parametrize("at_end", [False, True])
def test_a_run_does_not_stop_between_an_epoch_s_last_step_and_its_end(at_end: bool) -> None:
    trainer = SimpleNamespace(_signal_connector=SimpleNamespace(received_sigterm=False), is_last_batch=True)
    stop = StopOnSigterm()
    stop.asked = True
    stop.on_train_batch_end(trainer)  # type: ignore[arg-type]
    if at_end:
        stop.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert trainer._signal_connector.received_sigterm is at_end

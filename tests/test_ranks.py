from __future__ import annotations

import inspect
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn

from aemodel import ranks
from aemodel.ranks import InMemory, SharedMean, made_for, strategy

SHAPES = ((3, 4), (4,), (1,))


def _weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]


def _in_turn(count: int, work: Callable[[int, SharedMean], None]) -> None:
    """`work` of each of so many ranks, at once; its assertions are raised here."""
    folder, barrier, failed = made_for(_weights(), count), threading.Barrier(count), list[BaseException]()
    assert folder is not None

    def run(rank: int) -> None:
        try:
            mean = SharedMean(folder, _weights(), rank, count, lambda: barrier.wait() and None)
            if rank == 0:
                shutil.rmtree(folder)
            work(rank, mean)
            mean.peers.close()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    if failed:
        raise failed[0]


def _gradients(rank: int, step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1_000 * rank + step)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


@pytest.mark.parametrize("count", [2, 3])
def test_all_ranks_get_the_same_mean_of_every_step(count: int) -> None:
    found: dict[tuple[int, int], list[torch.Tensor]] = {}

    def work(rank: int, mean: SharedMean) -> None:
        for step in range(50):
            for weight, gradient in zip(mean.weights, _gradients(rank, step), strict=True):
                weight.grad = gradient
            mean()
            found[rank, step] = [w.grad.clone() for w in mean.weights if w.grad is not None]

    _in_turn(count, work)
    for step in range(50):
        for place in range(len(SHAPES)):
            expected = torch.stack([_gradients(rank, step)[place] for rank in range(count)]).mean(dim=0)
            torch.testing.assert_close(found[0, step][place], expected)
            assert all(torch.equal(found[0, step][place], found[r, step][place]) for r in range(count))


def test_a_rank_that_has_ended_is_not_waited_for() -> None:
    def work(rank: int, mean: SharedMean) -> None:
        for weight in mean.weights:
            weight.grad = torch.zeros_like(weight)
        mean()
        if rank == 0:
            with pytest.raises(ConnectionError):
                for _ in range(3):
                    mean()

    _in_turn(2, work)


def test_what_one_rank_says_all_hear_in_the_same_step() -> None:
    heard: dict[int, list[bool]] = {}

    def work(rank: int, mean: SharedMean) -> None:
        for weight in mean.weights:
            weight.grad = torch.zeros_like(weight)
        heard[rank] = [mean(said=rank == 1 and step == 2) for step in range(4)]

    _in_turn(3, work)
    assert list(heard.values()) == [[False, False, True, False]] * 3


def test_a_step_in_which_a_rank_is_to_stop_is_agreed_on() -> None:
    said, shared = list[bool](), InMemory()
    shared._mean = lambda stop: said.append(stop) or len(said) == 2  # type: ignore[assignment,func-returns-value]
    for step in range(3):
        shared.post_backward(torch.zeros(()))
        assert shared.agreed_to_stop is (step >= 1)
    shared.asked_to_stop = True
    shared.post_backward(torch.zeros(()))
    assert said == [False, False, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_small_figures_are_added_up_through_the_pipes(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    by_lightning = list[torch.Size]()
    monkeypatch.setattr(DDPStrategy, "reduce", lambda self, tensor, *_: by_lightning.append(tensor.shape))
    monkeypatch.setattr(InMemory, "world_size", 3)
    found: dict[int, list[torch.Tensor]] = {}

    def work(rank: int, mean: SharedMean) -> None:
        shared = InMemory()
        shared._mean = mean
        figures = torch.arange(6, dtype=dtype).view(2, 3) + rank
        found[rank] = [shared.reduce(figures, reduce_op="sum"), shared.reduce(figures[0, 1], reduce_op="mean")]
        assert torch.equal(figures, torch.arange(6, dtype=dtype).view(2, 3) + rank)
        shared.reduce(torch.zeros(ranks.LONGEST + 1, dtype=torch.uint8), reduce_op="sum")
        shared.reduce(figures, reduce_op="max")

    _in_turn(3, work)
    for total, average in found.values():
        assert total.tolist() == [[3, 6, 9], [12, 15, 18]] and total.dtype == dtype
        assert average.shape == () and float(average) == 2
    assert sorted(by_lightning) == [torch.Size([2, 3])] * 3 + [torch.Size([ranks.LONGEST + 1])] * 3


def test_a_rank_that_is_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "PATIENCE", 0.01)

    def work(rank: int, mean: SharedMean) -> None:
        for weight in mean.weights:
            weight.grad = torch.full_like(weight, rank)
        time.sleep(0.1 * rank)
        mean()
        assert all(w.grad is not None and (w.grad == 0.5).all() for w in mean.weights)

    _in_turn(2, work)


def test_lightning_still_has_what_is_not_asked_for_where_ranks_agree_by_themselves() -> None:
    loop = type(pl.Trainer(logger=False).fit_loop.epoch_loop)
    assert "self._broadcast_sigterm_tensor()" in inspect.getsource(loop.advance)


def test_without_room_gloo_averages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert made_for(_weights(), 2) is None
    assert list(tmp_path.iterdir()) == []

    wrapped: list[Sequence[object]] = []
    monkeypatch.setattr(DDPStrategy, "configure_ddp", lambda self: wrapped.append(self))
    monkeypatch.setattr(InMemory, "broadcast", lambda self, made: made)
    alone = InMemory()
    alone._lightning_module = nn.Linear(2, 2)  # type: ignore[assignment]
    monkeypatch.setattr(InMemory, "world_size", 2)
    monkeypatch.setattr(InMemory, "global_rank", 0)
    alone.configure_ddp()
    assert wrapped == [alone]
    assert ranks.needs_autograd(alone), "its hooks average what autograd brings"


def test_only_ranks_on_one_processor_share_memory() -> None:
    assert strategy(1, on_one_cpu=True) == "auto"
    assert isinstance(strategy(2, on_one_cpu=True), InMemory)
    assert type(strategy(2, on_one_cpu=False)) is ranks.DDPStrategy
    assert ranks.needs_autograd(strategy(2, on_one_cpu=False))  # type: ignore[arg-type]
    assert not ranks.needs_autograd(SingleDeviceStrategy(torch.device("cpu")))

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from aemodel.arithmetic import TIMED, UNTIMED, WORTH_A_TRIAL, WORTH_COMPILING, Arithmetic, Timing, Trial, chosen
from aemodel.config import TrainingJob

EXACT, BF16 = Arithmetic(), Arithmetic(bf16=True)
COMPILED, BOTH = Arithmetic(compiled=True), Arithmetic(bf16=True, compiled=True)
#: So many steps of a hundredth of a second are worth compiling.
MANY = int(2 * WORTH_COMPILING / 0.01)


def _choose(
    times: dict[Arithmetic, float], losses: dict[Arithmetic, float] | None = None, steps: int = MANY, **job: object
) -> Arithmetic:
    """What is chosen if the ways take so long a step; ways that are not named must not be tried."""

    def timed(way: Arithmetic) -> Timing:
        return Timing(times[way], (losses or {}).get(way, 1.0))

    return chosen(TrainingJob.model_validate(job), WORTH_A_TRIAL, steps, gpu=False, timed=timed)


def test_what_is_faster_is_taken() -> None:
    assert _choose({EXACT: 0.01, BF16: 0.006, BOTH: 0.004}) == BOTH
    assert _choose({EXACT: 0.01, BF16: 0.006, BOTH: 0.006}) == BF16
    assert _choose({EXACT: 0.01, BF16: 0.02, COMPILED: 0.007}) == COMPILED
    assert _choose({EXACT: 0.01, BF16: 0.0099, COMPILED: 0.0099}) == EXACT, "within what a trial can tell"


def test_what_learns_otherwise_is_not_taken() -> None:
    assert _choose({EXACT: 0.01, BF16: 0.005, COMPILED: 0.012}, {BF16: 1.02}) == EXACT
    assert _choose({EXACT: 0.01, BF16: 0.005, BOTH: 0.002}, {BF16: 1.005, BOTH: float("nan")}) == BF16


def test_a_short_training_is_not_compiled_and_a_shorter_one_not_even_tried() -> None:
    assert _choose({EXACT: 0.01, BF16: 0.02}, steps=100) == EXACT

    def untried(_: Arithmetic) -> Timing:
        raise AssertionError

    assert chosen(TrainingJob(), 0.9 * WORTH_A_TRIAL, MANY, gpu=False, timed=untried) == EXACT


def test_the_job_s_word_holds() -> None:
    assert _choose({}, precision="32", compile=False) == EXACT
    assert _choose({}, precision="bf16", compile=True) == BOTH
    assert _choose({EXACT: 0.01, COMPILED: 0.005}, precision="32") == COMPILED
    assert _choose({EXACT: 0.01, BF16: 0.02, BOTH: 0.005}, precision="bf16") == BOTH
    assert _choose({EXACT: 0.01, COMPILED: 0.01, BOTH: 0.005}, compile=True) == BOTH


def test_a_gpu_takes_bfloat16_without_a_trial() -> None:
    assert chosen(TrainingJob(compile=False), 0, 1, gpu=True, timed=lambda _: Timing(1, 1)) == BF16


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(8, 32), nn.Linear(32, 8)
        self.register_buffer("seen", torch.zeros(()))

    def loss(self, x: Tensor, complete: bool) -> Tensor:
        self.seen += 1
        return (self.last(self.first(x).relu()).float() - x).square().mean()


ROWS = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))


def _trial(net: _Net, loss: Callable[..., Tensor] | None = None) -> Trial:
    return Trial(net, lambda way: way.applied(loss or net.loss), lambda f, _: f(ROWS, True), 1e-3)


def test_a_trial_leaves_the_model_as_it_was() -> None:
    net = _Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    timing = _trial(net)(EXACT)
    assert 0 < timing.seconds < 1 and 0 < timing.loss < float(net.loss(ROWS, True).detach())
    net.seen.zero_()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("way", [BF16, COMPILED, BOTH], ids=lambda way: way.text)
def test_every_way_learns_the_same(way: Arithmetic) -> None:
    exact, found = _trial(_Net())(EXACT), _trial(_Net())(way)
    assert found.loss == pytest.approx(exact.loss, rel=0.01)
    assert (found.loss != exact.loss) or not way.bf16


def test_a_way_that_fails_takes_for_ever_and_leaves_the_model_as_it_was() -> None:
    net, calls = _Net(), []

    def failing(x: Tensor, complete: bool) -> Tensor:
        calls.append(x)
        if len(calls) == UNTIMED + TIMED - 1:
            raise RuntimeError("no compiler")
        return net.loss(x, complete)

    before = net.last.weight.clone()
    assert _trial(net, failing)(EXACT).seconds == float("inf")
    assert torch.equal(net.last.weight, before)

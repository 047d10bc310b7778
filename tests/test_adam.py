from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aemodel.adam import Adam


def weights(seed: int) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(*shape).requires_grad_() for shape in ((5, 3), (5,), (2, 5))]


def learn(optimizer: torch.optim.Optimizer, own: list[torch.Tensor], steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        for weight in own:
            weight.grad = torch.randn_like(weight)
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        optimizer.step()


@given(st.integers(0, 9), st.sampled_from([0.0, 0.05]), st.integers(1, 6))
def test_it_steps_as_torch_does(seed: int, decay: float, steps: int) -> None:
    own, theirs = weights(seed), weights(seed)
    learn(Adam(own, 0.1, decay), own, range(steps))
    kind = torch.optim.AdamW if decay else torch.optim.Adam
    learn(kind(theirs, lr=0.1, weight_decay=decay, fused=True), theirs, range(steps))
    for one, other in zip(own, theirs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("taken", [0, 3])
def test_it_goes_on_from_a_state(taken: int) -> None:
    whole, own = weights(0), weights(0)
    unbroken, first = Adam(whole, 0.1), Adam(own, 0.1)
    learn(unbroken, whole, range(6))
    learn(first, own, range(3))
    second = Adam(own, 0.1)
    elsewhere = [weight.detach().clone() for weight in own]
    learn(second, own, range(taken))  # what it has learned before does not count
    with torch.no_grad():
        for weight, value in zip(own, elsewhere, strict=True):
            weight.copy_(value)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    learn(second, own, range(3, 6))
    for one, other in zip(own, whole, strict=True):
        assert torch.equal(one, other)

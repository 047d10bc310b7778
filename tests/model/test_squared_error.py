from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aemodel.model.squared_error import mean_squared_error, squared_error


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 8), st.booleans(), st.integers(0, 5))
def test_the_mean_and_its_gradient_are_those_of_the_squares(
    rows: int, width: int, known: int, bf16: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    y = torch.randn(rows, width).to(torch.bfloat16 if bf16 else torch.float32).requires_grad_()
    x, weight = torch.randn(rows, width), torch.rand(width)
    observed = torch.rand(rows, min(known, width)) < 0.7 if known else None
    kept = y.detach().clone()
    found = mean_squared_error(y, x, observed)
    expected = squared_error(y, x, observed).mean(dim=0)
    torch.testing.assert_close(found, expected)
    (one,) = torch.autograd.grad((found * weight).sum(), y)
    (other,) = torch.autograd.grad((expected * weight).sum(), y)
    assert one.dtype == y.dtype
    torch.testing.assert_close(one, other, rtol=0.02 if bf16 else 1e-5, atol=1e-6)
    assert torch.equal(y, kept)


def test_what_is_missing_has_no_error() -> None:
    y, x = torch.zeros(2, 3, requires_grad=True), torch.tensor([[1.0, 2, 3], [1, 2, 3]])
    observed = torch.tensor([[True, False], [False, False]])
    assert squared_error(y, x, observed).tolist() == [[1, 0, 9], [0, 0, 9]]
    error = mean_squared_error(y, x, observed)
    assert error.tolist() == [0.5, 0, 9]
    error.sum().backward()
    assert y.grad is not None and y.grad.tolist() == [[-1, 0, -3], [0, 0, -3]]


def test_what_was_kept_for_the_gradient_serves_once() -> None:
    y = torch.ones(4, 2, requires_grad=True)
    error = mean_squared_error(y, torch.zeros(4, 2)).sum()
    error.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        error.backward()

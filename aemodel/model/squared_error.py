"""The squared error of a reconstruction, whose gradient takes few passes over the rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def squared_error(reconstruction: Tensor, x: Tensor, observed: Tensor | None) -> Tensor:
    """(rows, width), float32. A missing value, where `observed` (rows, the first dimensions) is False, has nothing to
    be compared with."""
    return difference(reconstruction, x, observed).square()


def mean_squared_error(reconstruction: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
    """(width,): the mean of `squared_error` over rows; `x` has no gradient."""
    if torch.compiler.is_compiling():  # it finds fewer passes by itself
        return squared_error(reconstruction, x, observed).mean(dim=0)
    error: Tensor = _MeanSquaredError.apply(reconstruction, x, observed)  # type: ignore[no-untyped-call]
    return error


def difference(reconstruction: Tensor, x: Tensor, observed: Tensor | None) -> Tensor:
    """(rows, width), float32, new: nothing where a value is missing."""
    exact = reconstruction.dtype is torch.float32
    missed = reconstruction - x if exact else reconstruction.float().sub_(x)
    if observed is not None:
        missed[:, : observed.shape[1]] *= observed
    return missed


class _MeanSquaredError(torch.autograd.Function):
    """torch would keep the difference and its square, and go back through both."""

    @staticmethod
    def forward(ctx: Any, reconstruction: Tensor, x: Tensor, observed: Tensor | None) -> Tensor:
        missed = difference(reconstruction, x, observed)
        ctx.save_for_backward(missed)
        ctx.dtype = reconstruction.dtype
        return (missed * missed).mean(dim=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        assert not torch.is_grad_enabled(), "this gradient has no gradient"
        (missed,) = ctx.saved_tensors
        # In place: torch would not let anyone go back twice, as what it kept is changed.
        return missed.mul_(gradient * (2 / len(missed))).to(ctx.dtype), None, None

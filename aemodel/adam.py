"""Adam, as torch computes it, without what torch looks up anew at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Adam(torch.optim.AdamW):
    """torch's fused AdamW, which without `weight_decay` is Adam, for weights of one group that all have gradients.

    Its `step` takes as long to sort weights by device and kind as a small network's to change.
    """

    def __init__(self, weights: list[Tensor], rate: float, weight_decay: float = 0.0) -> None:
        super().__init__(weights, lr=rate, weight_decay=weight_decay, fused=True)
        self._lists_of: object = None
        self._means: list[Tensor] = []
        self._squares: list[Tensor] = []
        self._count = torch.empty(0)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        if not self.state:
            super().step()
            return
        if self._lists_of is not self.state:  # the second step, or the first since a state was loaded
            self._look_up()
        (group,) = self.param_groups
        weights, (beta1, beta2) = group["params"], group["betas"]
        self._count += 1
        torch._fused_adamw_(
            weights,
            [weight.grad for weight in weights],
            self._means,
            self._squares,
            [],
            [self._count] * len(weights),
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def _look_up(self) -> None:
        states: list[dict[str, Any]] = [self.state[weight] for weight in self.param_groups[0]["params"]]
        self._means = [state["exp_avg"] for state in states]
        self._squares = [state["exp_avg_sq"] for state in states]
        # All weights have taken as many steps: one count for all takes an eighth of the time of one each.
        self._count = states[0]["step"]
        for state in states:
            state["step"] = self._count
        self._lists_of = self.state

    #: What torch asks before it wraps a step in hooks and a profiler's label, a twentieth of a small step.
    step.hooked = True  # type: ignore[attr-defined]

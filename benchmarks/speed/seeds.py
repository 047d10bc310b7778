"""The loss after as many rows, seed by seed: one seed's differs from another's by more than one arithmetic's from
another's. The loop and this project draw the same first weights from a seed, and then other batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from benchmarks.speed.measure import Measured, in_turn
from benchmarks.speed.setting import Setting
from benchmarks.speed.training import ARITHMETIC, BASELINE, LARGE_BASELINE, PLAIN, Ground, baseline, with_losses

BATCHES = {1_024: BASELINE, 4_096: LARGE_BASELINE}
EXACT = "float32"


def measured(setting: Setting) -> Iterator[Measured]:
    """As many seeds as repeats."""
    ground, epochs = Ground.made(setting), setting.epochs
    for seed in range(setting.repeats):
        methods = [
            method
            for batch, loop in BATCHES.items()
            for method in (
                ground.peer(loop, "torch", batch, epochs, seed=seed),
                *(ground.ours(_name(batch, n), PLAIN, batch, epochs, a, seed) for n, a in ARITHMETIC.items()),
            )
        ]
        for one in with_losses(in_turn(setting.chosen(methods), 1, setting.scratch), methods):
            yield replace(one, repeat=seed)


def told(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of losses and of their ratios to others of the same seed; the standard error of such a mean."""
    losses = rows.pivot(index="repeat", columns="method", values="loss")
    lines = []
    for method in rows["method"].unique():
        line = {"method": method, "loss": losses[method].mean()}
        for name, other in (("the loop's", baseline(method)), ("own float32's", _exact(method))):
            ratio = losses[method] / losses[other] if other in losses else None
            line |= {f"× {name}": None if ratio is None else ratio.mean()}
            line |= {f"± of × {name}": None if ratio is None else ratio.sem()}
        lines.append(line)
    return pd.DataFrame(lines)


def _name(batch: int, arithmetic: str) -> str:
    return f"plain, batch {batch}, {arithmetic}"


def _exact(method: str) -> str:
    """The method of the same batch in float32."""
    batch = next((b for b in BATCHES if f"batch {b}" in method), None)
    return f"aemodel, {_name(batch, EXACT)}" if batch and method.startswith("aemodel") else ""

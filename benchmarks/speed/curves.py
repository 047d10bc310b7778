"""Loss by seconds trained: what each method had reached when Keras was through its one epoch."""

from __future__ import annotations

import json

import pandas as pd

REFERENCE = "Keras fit, batch 1024"


def points(row: pd.Series) -> list[tuple[float, float]]:
    """(seconds, held-out loss) of one run."""
    return [(float(at), float(loss)) for at, loss in json.loads(row["curve"])]


def at_end_of_epoch(rows: pd.DataFrame) -> pd.DataFrame:
    """Medians over repeats of the reference's seconds, of the last loss that was seen by then, and of the seconds until
    a method's loss was the reference's. Without the reference, each method is its own."""
    found = []
    for _, repeat in rows.groupby("repeat"):
        reference = repeat[repeat["method"] == REFERENCE]
        for _, row in repeat.iterrows():
            ends, loss = points(reference.iloc[0] if len(reference) else row)[-1]
            found.append({"method": row["method"], "seconds": ends} | _compared(points(row), ends, loss))
    return pd.DataFrame(found).groupby("method", sort=False).median().reset_index()


def _compared(curve: list[tuple[float, float]], ends: float, loss: float) -> dict[str, float | None]:
    by_then = [value for at, value in curve if at <= ends]
    as_good = [at for at, value in curve if value <= loss]
    return {
        "loss by then": by_then[-1] if by_then else None,
        "seconds to the reference's loss": as_good[0] if as_good else None,
    }

"""What was measured, as `speed.parquet`, `speed.md` and `speed.png`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from benchmarks.results import as_markdown, machine
from benchmarks.speed import passes, ranks, scoring, seeds, training
from benchmarks.speed.curves import at_end_of_epoch
from benchmarks.speed.measure import Measured
from benchmarks.speed.pictures import picture

#: By section: what a method's speeds are told as multiples of.
BASELINES: dict[str, Callable[[str], str]] = {
    "training": training.baseline,
    "scoring": lambda _: scoring.BASELINE,
    "ranks": ranks.baseline,
    "passes": lambda _: passes.BASELINE,
}
TITLES = {
    "training": "Training 64-256-16-256-64",
    "curves": "Loss by seconds trained",
    "seeds": "Loss after as many rows, by seed",
    "scoring": "Scoring, Parquet to Parquet",
    "growth": "Whole jobs by size",
    "ranks": "Ranks",
    "passes": "Before training, pass by pass",
}
#: By section: how its runs are told, where not by medians.
TOLD: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {"curves": at_end_of_epoch, "seeds": seeds.told}
#: Columns of the tables, as far as a section has them; seconds where no unit stands.
SPEEDS = ("rows/s, first epoch", "rows/s")
SHOWN = (*SPEEDS, "loss", "preparing", "one epoch", "evaluating", "scoring", "seconds", "peak MB")


def write(found: dict[str, list[Measured]], folder: Path) -> None:
    """Sections that were not run this time stay as the folder has them."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = _with_kept(found, folder / "speed.parquet")
    frame.to_parquet(folder / "speed.parquet", index=False)
    sections = [_section(name, frame[frame["section"] == name]) for name in TITLES if name in set(frame["section"])]
    (folder / "speed.md").write_text("\n".join(["# Speed\n", *sections]) + "\n", encoding="utf-8")
    picture(frame, folder / "speed.png")


def _with_kept(found: dict[str, list[Measured]], path: Path) -> pd.DataFrame:
    rows = [{"section": section, "machine": machine(), **one.row()} for section, many in found.items() for one in many]
    frame = pd.DataFrame(rows)
    if path.exists():
        kept = pd.read_parquet(path)
        frame = pd.concat([kept[~kept["section"].isin(list(found))], frame], ignore_index=True)
    return frame


def _section(name: str, rows: pd.DataFrame) -> str:
    ran, skipped = rows[rows["skipped"] == ""], rows[rows["skipped"] != ""]
    told = TOLD.get(name, medians)(ran) if len(ran) else ran
    if name in BASELINES:
        told = with_ratio(told, ran, BASELINES[name])
    count = f"{rows['machine'].iloc[-1]}. {'Means' if name == 'seeds' else 'Medians'} of {ran['repeat'].nunique()}."
    notes = [f"- Skipped: {row.method} ({row.skipped})" for row in skipped.itertuples()]
    return "\n".join([f"## {TITLES[name]}\n", f"{count}\n", as_markdown(told.map(_rounded)), "", *notes])


def medians(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a method, of the figures that the section has."""
    figures = [c for c in SHOWN if c in rows and rows[c].notna().any()]
    return rows.groupby("method", sort=False)[figures].median().reset_index()


def with_ratio(told: pd.DataFrame, rows: pd.DataFrame, baseline: Callable[[str], str]) -> pd.DataFrame:
    """`told` with the median over repeats of a method's speeds over its baseline's rows/s in the same repeat."""
    # Work of another kind beside the methods, such as preparing, is no multiple of them.
    other = set(rows.loc[rows["preparing"].notna(), "method"]) if "preparing" in rows else set()
    against = rows.pivot(index="repeat", columns="method", values="rows/s") if len(rows) else rows
    for place, speed in enumerate((s for s in SPEEDS if s in rows and rows[s].notna().any()), 1):
        speeds = rows.pivot(index="repeat", columns="method", values=speed)
        ratios = [
            (speeds[m] / against[baseline(m)]).median() if baseline(m) in against and m not in other else None
            for m in told["method"]
        ]
        told.insert(place, f"× baseline's{speed.removeprefix('rows/s')}", ratios)
    return told


def _rounded(value: object) -> object:
    """Large figures without decimals, with commas."""
    return f"{value:,.0f}" if isinstance(value, float) and abs(value) >= 1_000 else value

"""A panel a section: bars of speeds, loss by seconds, and seconds by rows and by columns on logarithmic scales."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.speed.curves import points

STAGES = ("preparing", "one epoch", "scoring")
OURS, THEIRS = "#2a7f62", "#8a8f98"


def picture(found: pd.DataFrame, path: Path) -> None:
    """Of the sections that were run."""
    ran = found[found["skipped"] == ""]
    panels = _panels(ran)
    if not panels:
        return
    wide = min(3, len(panels))
    high = -(-len(panels) // wide)
    figure, axes = plt.subplots(high, wide, figsize=(6 * wide, 4 * high), layout="constrained", squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, draw in zip(axes.flat, panels, strict=False):
        draw(axis)
        axis.tick_params(labelsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panels(ran: pd.DataFrame) -> list[Callable[[Axes], None]]:
    by_section = dict(tuple(ran.groupby("section")))
    panels: list[Callable[[Axes], None]] = []
    for name in ("training", "scoring", "ranks"):
        if name in by_section:
            panels.append(partial(_bars, name, by_section[name]))
    if "curves" in by_section:
        panels.append(partial(_curves, by_section["curves"]))
    if "growth" in by_section:
        for kind, along in (("by rows", "rows"), ("by columns", "columns")):
            part = by_section["growth"][by_section["growth"]["kind"] == kind]
            if len(part):
                panels.append(partial(_growth, part.sort_values(along), along))
    return panels


def _bars(section: str, rows: pd.DataFrame, axis: Axes) -> None:
    """Median thousands of rows a second, of what is no preparing."""
    compared = rows[rows["preparing"].isna()] if "preparing" in rows else rows
    medians = compared.groupby("method")["rows/s"].median().sort_values() / 1_000
    axis.barh(list(medians.index), medians, color=[OURS if m.startswith("aemodel") else THEIRS for m in medians.index])
    axis.set_title(f"{section}: thousand rows/s", fontsize=10)


def _curves(rows: pd.DataFrame, axis: Axes) -> None:
    """Every repeat."""
    colours = dict(zip(rows["method"].unique(), ("#8a8f98", "#b3452c", OURS, "#3b6ea5"), strict=False))
    for _, row in rows.iterrows():
        seconds, losses = zip(*points(row), strict=True)
        label = row["method"] if row["repeat"] == rows["repeat"].min() else None
        axis.plot(seconds, losses, marker=".", markersize=3, color=colours.get(row["method"]), label=label)
    axis.set_yscale("log")
    axis.set(xlabel="seconds trained", title="held-out loss")
    axis.legend(fontsize=8)


def _growth(rows: pd.DataFrame, along: str, axis: Axes) -> None:
    """Seconds of the stages, and memory on the right."""
    for stage in STAGES:
        axis.loglog(rows[along], rows[stage], marker="o", label=stage)
    axis.set(xlabel=along, ylabel="seconds", title=f"growth with {along}")
    memory = axis.twinx()
    memory.loglog(rows[along], rows["peak MB"], marker="s", linestyle=":", color="#444444", label="peak MB")
    memory.set_ylabel("peak MB")
    lines = [*axis.get_lines(), *memory.get_lines()]
    axis.legend(lines, [str(line.get_label()) for line in lines], fontsize=8)

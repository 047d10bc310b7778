"""Result tables and pictures of the benchmarks: data frames in, files of `benchmarks/results/` out."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import torch

mpl.use("Agg")

import matplotlib.pyplot as plt

PROBES = ("logistic", "kNN", "R²", "NMI")


@dataclass(frozen=True)
class FeatureResults:
    """A row each: `methods` by table, method and seed; `columns` by source column too; `releases` by table and kind of
    retrain."""

    methods: pd.DataFrame
    columns: pd.DataFrame
    releases: pd.DataFrame

    @classmethod
    def joined(cls, parts: Sequence[FeatureResults]) -> FeatureResults:
        return cls(*(pd.concat([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def write(self, folder: Path) -> None:
        """`features.md` and `features.png`, `columns.md`, and every single figure as Parquet."""
        folder.mkdir(parents=True, exist_ok=True)
        self.methods.to_parquet(folder / "features.parquet", index=False)
        self.columns.to_parquet(folder / "columns.parquet", index=False)
        self.releases.to_parquet(folder / "releases.parquet", index=False)
        gains = gain_over_pca(self.methods)
        text = [
            f"# Feature quality\n\n{machine()}\n",
            "## Gain over PCA, default preset\n",
            as_markdown(gains.reset_index()),
        ]
        text += ["\n## Retrains after a version\n", as_markdown(self._retrains())]
        text += ["\n## Presets, means over the tables\n", as_markdown(self._presets())]
        for name, part in self.methods.groupby("table", sort=False):
            mean = part.drop(columns=["table", "seed"]).groupby("method", sort=False).mean()
            seeds = part.groupby("method", sort=False)["seed"].nunique().rename("seeds")
            text += [f"\n## {name}\n", as_markdown(pd.concat([seeds, mean], axis=1).reset_index())]
        _write_text(folder / "features.md", text)
        picture(gains, folder / "features.png")
        _write_text(folder / "columns.md", self._by_column())

    def _retrains(self) -> pd.DataFrame:
        """Over all seeds: the mean, and the least of all columns."""
        by = self.releases.groupby(["table", "release"], sort=False)
        return by.agg(**{"mean r": ("mean r", "mean"), "least r": ("least r", "min")}).reset_index()

    def _presets(self) -> pd.DataFrame:
        """What can be had of every method that has as many features as there are latents."""
        measured = ["logistic", "kNN", "NMI", "R²", "masked R²", "effective rank", "robust", "stability"]
        by_table = self.methods.groupby(["method", "table"], sort=False)[measured].mean()
        narrow = by_table[by_table["kNN"].notna()].drop(index="raw columns", level=0, errors="ignore")
        return narrow.groupby("method", sort=False).mean().reset_index()

    def _by_column(self) -> list[str]:
        """The default preset beside PCA, mean over seeds."""
        text = [
            f"# R² by source column\n\n{machine()}. Mean over seeds; masked: the column is hidden from the encoder.\n"
        ]
        for name, part in self.columns.groupby("table", sort=False):
            mean = part.groupby(["method", "column"], sort=False)[["R²", "masked R²"]].mean()
            beside = mean.xs("residual").join(mean.xs("PCA"), rsuffix=" of PCA")
            text += [f"\n## {name}\n", as_markdown(beside.reset_index())]
        return text


def _write_text(path: Path, lines: Sequence[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def gain_over_pca(found: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of the default preset's measures less PCA's, by table, and their mean over tables."""
    means = found.groupby(["table", "method"], sort=False)[list(PROBES)].mean()
    gains = means.xs("residual", level="method") - means.xs("PCA", level="method")
    stability = found[found["method"] == "residual"].groupby("table", sort=False)["stability"].mean()
    return pd.concat([gains, gains.mean().to_frame("mean").T]).join(stability)


def picture(gains: pd.DataFrame, path: Path) -> None:
    """A bar a table for each probe."""
    figure, axes = plt.subplots(1, len(PROBES), figsize=(14, 4), sharey=True, layout="constrained")
    for axis, probe in zip(axes, PROBES, strict=True):
        values = gains[probe]
        colours = ["#2a7f62" if v >= 0 else "#b3452c" for v in values]
        axis.barh(list(gains.index), values, color=colours)
        axis.axvline(0, color="#444444", linewidth=0.8)
        axis.set_title(f"{probe}: gain over PCA", fontsize=10)
        axis.tick_params(labelsize=8)
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def as_markdown(frame: pd.DataFrame) -> str:
    """A data frame as a table, figures to four digits."""
    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|---" * len(frame.columns) + "|"]
    lines += ["| " + " | ".join(_cell(v) for v in row) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines)


def machine() -> str:
    """What the figures were taken on."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}; torch {torch.__version__}"
    return (
        f"{_processor()} ({torch.backends.cpu.get_cpu_capability()}), {os.cpu_count()} cores, no GPU; "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def _processor() -> str:
    """As Linux names it; elsewhere its family."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def bars(means: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    """Groups of bars: a group a row of `means`, a bar a column."""
    axis = means[list(columns)].plot.bar(figsize=(11, 4), rot=20, width=0.8)
    axis.legend(fontsize=8)
    axis.figure.tight_layout()
    axis.figure.savefig(path, dpi=110)
    plt.close(axis.figure)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4g}"
    return str(value)

"""What each part of the recipe is worth: the default preset with one part changed, against PCA on the same rows.

    python -m benchmarks.ablation --data FOLDER [--tables adult,flights] [--seeds 1] [--jobs 2]

Rows, seeds and probes are those of `benchmarks.features`. Parts that no job can change are changed in the code while
a variant runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from aemodel.model import Autoencoder, Batch, Loss, Residual, reconstruct
from aemodel.pca import Projection
from benchmarks import measures
from benchmarks.features import DEFAULT, Sample
from benchmarks.results import as_markdown, machine
from benchmarks.tables import Data

TABLES = ("adult", "flights", "mnist-npm10k", "keel-magic", "keel-letter")
READABLE = tuple(f"aemodel.model.networks.{kind}READABLE" for kind in ("", "VECTOR_"))
PROBES = ("logistic", "kNN", "R²")


@dataclass(frozen=True)
class Variant:
    """`model` overrides the job's section; `patched` are attributes of modules, by their full name."""

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    patched: dict[str, Any] = field(default_factory=dict)


def _unweighted(*_: object) -> None:
    """Stands in for the scaling of a source column: every dimension keeps its own variance."""


def _levels_unseen(model: Residual, batch: Batch) -> Tensor:
    """Stands in for what g sees: no level of a categorical column, only what W has of them."""
    values, flags = model.linear.raw(batch)
    return torch.cat(
        [values, flags, *(values.new_zeros(len(values), e.embedding_dim) for e in model.embeddings)], dim=1
    )


def _emphasised(model: Autoencoder, clean: Batch, noisy: Batch, nested: bool = False, trim: float = 0.0) -> Loss:
    """Stands in for the loss: cells that were replaced count three times as much as the others (.75 / .25)."""
    x, observed = model.linear(clean)
    seen = model.linear(noisy)[0]
    code = model.code(seen, noisy)
    squared = (model.decode(code.z).float() - x).square()
    if observed is not None:
        squared[:, : observed.shape[1]] *= observed
    replaced = squared.new_zeros(len(x), model.num_columns).index_add_(1, model.column_of, (seen != x).float())
    weight = 1 + 2 * replaced.clamp(max=1)
    squared = squared * (weight / weight.mean(dim=0))[:, model.column_of]
    by_column = squared.new_zeros(model.num_columns).index_add_(0, model.column_of, squared.mean(dim=0))
    return Loss(model.objective(by_column) + code.penalty + model.unread(code.z, x), by_column.detach())


def _interp(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Stands in for the curve: level beyond its ends."""
    return lambda values: np.asarray(np.interp(values, x, y))


VARIANTS = (
    Variant("the recipe"),
    Variant("no skip: plain", {"preset": "plain"}),
    Variant("departure free", patched={"aemodel.model.networks.DEPARTURE": 0.0}),
    Variant("departure dear (10)", patched={"aemodel.model.networks.DEPARTURE": 10.0}),
    Variant("products need not be read", patched=dict.fromkeys(READABLE, 0.0)),
    Variant("columns count alike", patched={"aemodel.model.networks.Residual.objective": Autoencoder.objective}),
    Variant("replaced cells count three times", patched={"aemodel.model.networks.Residual.loss": _emphasised}),
    Variant("no noise", {"noise": 0.0}),
    Variant("noise 0.1", {"noise": 0.1}),
    Variant("noise 0.35", {"noise": 0.35}),
    Variant("no moving average", patched={"aemodel.learner.AVERAGE_DECAY": 0.0}),
    Variant("standard instead of quantile scaling", {"scaling": "standard"}),
    Variant("levels, not columns, count once", patched={"aemodel.transform._weigh": _unweighted}),
    Variant("no straight tails beyond the quantiles", patched={"aemodel.transform.Curve": _interp}),
    Variant("levels unseen by g", patched={"aemodel.model.networks.Residual._inputs": _levels_unseen}),
    Variant("hidden 64, 64", {"hidden": [64, 64]}),
    Variant("hidden 512, 512", {"hidden": [512, 512]}),
    Variant("500 steps", patched={"aemodel.schedule.TARGET_STEPS": 500}),
    Variant("3,000 steps", patched={"aemodel.schedule.TARGET_STEPS": 3_000}),
    Variant("nested", {"nested": True}),
)


def of_table(root: Path, seeds: int, name: str) -> pd.DataFrame:
    """One row a variant and seed: what the learned features gain over PCA's of the recipe."""
    torch.set_num_threads(1)
    data, rows = Data.load(root, name), []
    for seed in range(seeds):
        against: dict[str, float] | None = None
        for variant in VARIANTS:
            with ExitStack() as patches:
                for target, value in variant.patched.items():
                    patches.enter_context(patch(target, value))
                sample = _sample(data, seed, variant)
                scores = dict(_scores(sample, sample.learned.bundle.model))
                # R² is a share of the variance in the variant's own scaling, so its PCA is its own too.
                pca = Projection(sample.learned.bundle.transform.layout, sample.learned.prepared.pca)
                own = dict(_scores(sample, pca))
            against = against or own
            gains = {p: scores[p] - (own if p == "R²" else against)[p] for p in PROBES}
            rows.append({"table": name, "variant": variant.name, "seed": seed} | gains)
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def _sample(data: Data, seed: int, variant: Variant) -> Sample:
    job = data.job(str(variant.model.get("preset", DEFAULT)), seed)
    model = job.model.model_validate(job.model.model_dump() | variant.model)
    return Sample.trained(data, job.model_copy(update={"model": model}), seed)


@torch.inference_mode()
def _scores(sample: Sample, model: Any) -> Iterator[tuple[str, float]]:
    y, truth = sample.data.y[sample.chosen], sample.data.y[sample.data.test]
    split = (model.encode(sample.train).numpy(), y, model.encode(sample.test).numpy(), truth)
    yield "logistic", measures.logistic(*split)
    yield "kNN", measures.neighbours(*split)
    yield "R²", float(np.nanmean(reconstruct(model, [sample.test]).r2))


def write(found: pd.DataFrame, folder: Path) -> None:
    """`ablation.parquet` and `ablation.md`: by variant, the mean over tables, then each table."""
    folder.mkdir(parents=True, exist_ok=True)
    found.to_parquet(folder / "ablation.parquet", index=False)
    order = [v.name for v in VARIANTS]
    mean = found.groupby("variant")[list(PROBES)].mean().loc[order].reset_index()
    seeds = f"{found['table'].nunique()} tables, {found['seed'].nunique()} seed(s)."
    text = [f"# Ablation\n\n{machine()}. Gain over PCA; {seeds}\n", as_markdown(mean)]
    for table, part in found.groupby("table", sort=False):
        text += [f"\n## {table}\n", as_markdown(part.groupby("variant")[list(PROBES)].mean().loc[order].reset_index())]
    (folder / "ablation.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="tables at a time, each in a process with one thread")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    work = partial(of_table, arguments.data, arguments.seeds)
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        write(pd.concat(list(pool.map(work, arguments.tables.split(",")))), arguments.out)


if __name__ == "__main__":
    main()

"""Feature quality on real tables: every preset against PCA, raw columns and random features of the same width.

    python -m benchmarks.features --data FOLDER [--tables adult,letter] [--seeds 5] [--out benchmarks/results]

FOLDER holds one folder of Parquet files a table, with a `_meta.json` that names the `label`. A fifth of the rows, the
same for all seeds, is the test; each seed trains on another four fifths of the rest. Everything runs on defaults.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import torch
from sklearn.random_projection import GaussianRandomProjection

from aemodel import training
from aemodel.config import Job, parse_job
from aemodel.evaluation import latent_health
from aemodel.loader import EncodedRowGroups, HeldOutLoader, TrainingLoader
from aemodel.model import Autoencoder, Batch, SwapNoise, build, reconstruct
from aemodel.pca import Projection
from aemodel.plan import plan_for
from aemodel.prepared import Prepared, prepare, table_schema
from aemodel.snapshot import open_snapshot
from benchmarks import measures

#: Width by table; the rest have 8.
LATENTS = {"adult": 16, "mnist-npm10k": 32, "credit-default": 8, "diamonds": 5, "keel-magic": 5, "flights": 8}
TABLES = (
    "adult",
    "credit-default",
    "mnist-npm10k",
    "diamonds",
    "keel-letter",
    "keel-optdigits",
    "keel-penbased",
    "keel-magic",
    "flights",
)
#: Larger tables are sampled: the probes, not the training, would take hours.
MOST_ROWS = 50_000
PRESETS = ("residual", "plain", "vanilla")


@dataclass(frozen=True)
class Data:
    """A table and its test rows; `y` are class codes of all rows."""

    name: str
    rows: pa.Table
    label: str
    y: np.ndarray
    test: np.ndarray

    @classmethod
    def load(cls, folder: Path, name: str) -> Data:
        """Raises FileNotFoundError if there is no such table."""
        meta = json.loads((folder / "_meta.json").read_text()) if (folder / "_meta.json").exists() else {}
        label = "carrier" if name == "flights" else str(meta["label"])
        rows = ds.dataset(folder, partitioning="hive", exclude_invalid_files=True).to_table()
        rows = rows.filter(pa.compute.is_valid(rows[label]))
        order = np.random.default_rng(0).permutation(rows.num_rows)[:MOST_ROWS]
        rows = rows.take(pa.array(order))
        codes, _ = pd.factorize(rows[label].to_pandas(), sort=True)
        return cls(name, rows, label, codes, np.arange(len(order)) < len(order) // 5)


@dataclass(frozen=True)
class Features:
    """A method's features of training and test rows, and its held-out R² by column where it reconstructs."""

    method: str
    train: np.ndarray
    test: np.ndarray
    r2: float | None = None
    robustness: float | None = None


def trained(job: Job, prepared: Prepared, uri: str, folder: Path) -> Autoencoder:
    """The averaged model after training in this process, as a worker would train it."""
    torch.manual_seed(job.training.seed)
    layout = prepared.transform.layout
    size = training.global_batch_size(job.training, prepared.num_training)
    plan = plan_for(prepared.groups, 1, size, job.training.seed)
    schedule = training.schedule_for(job.training, plan.batch_size, plan.steps)
    model = build(job.model, layout, prepared.pca)
    learner = training.Learner(model, layout, job.model, schedule, job.training)
    read = EncodedRowGroups(open_snapshot(uri), prepared.split, prepared.transform)
    held_out = HeldOutLoader(prepared.transform.apply_all(prepared.held_out), 0, 1)
    training.fit(learner, TrainingLoader(plan, 0, read), held_out, job.training, folder, 1)
    return learner.averaged.eval().requires_grad_(False)


def job_for(data: Data, uri: str, preset: str, seed: int) -> Job:
    """All defaults but the width."""
    job = {
        "name": data.name,
        "dataset": {"uri": uri, "label": data.label},
        "model": {"preset": preset, "latent_dim": LATENTS.get(data.name, 8)},
        "training": {"seed": seed},
    }
    return parse_job(job, "benchmark")


def methods(data: Data, seed: int) -> Iterator[tuple[Features, np.ndarray, np.ndarray]]:
    """The features of every method, with the training rows' indices and the encoded test rows."""
    rng = np.random.default_rng(1_000 + seed)
    pool = np.flatnonzero(~data.test)
    chosen = np.sort(rng.choice(pool, int(0.8 * len(pool)), replace=False))
    with tempfile.TemporaryDirectory() as scratch:
        uri = str(Path(scratch) / "train.parquet")
        pq.write_table(data.rows.take(pa.array(chosen)), uri, row_group_size=16_384)
        for preset in PRESETS:
            job = job_for(data, uri, preset, seed)
            snapshot = open_snapshot(uri)
            prepared = prepare(job, snapshot, table_schema(snapshot, job.dataset))
            train, test = (_encoded(prepared, data.rows.take(pa.array(r))) for r in (chosen, np.flatnonzero(data.test)))
            model = trained(job, prepared, uri, Path(scratch) / preset)
            linear = Projection(prepared.transform.layout, prepared.pca)
            inputs = linear.linear(test)[0].numpy()
            yield _of(preset, model, train, test, prepared), chosen, inputs
            if preset == "residual":
                yield from ((f, chosen, inputs) for f in _baselines(job, prepared, linear, train, test, seed))


def _baselines(
    job: Job, prepared: Prepared, linear: Projection, train: Batch, test: Batch, seed: int
) -> Iterator[Features]:
    pca = _of("PCA", linear, train, test, prepared)
    yield pca
    std = pca.train.std(axis=0)
    yield Features("PCA whitened", pca.train / std, pca.test / std)
    raw_train, raw_test = (linear.linear(b)[0].numpy() for b in (train, test))
    yield Features("raw columns", raw_train, raw_test)
    projection = GaussianRandomProjection(pca.train.shape[1], random_state=seed).fit(raw_train)
    yield Features("random projection", projection.transform(raw_train), projection.transform(raw_test))
    plain = job.model.model_copy(update={"preset": "plain"})
    untrained = build(plain, prepared.transform.layout, prepared.pca).eval().requires_grad_(False)
    yield Features("random encoder", untrained.encode(train).numpy(), untrained.encode(test).numpy())


def _encoded(prepared: Prepared, rows: pa.Table) -> Batch:
    return Batch.of(prepared.transform.apply(rows.combine_chunks().to_batches()[0]))


def _of(method: str, model: Autoencoder, train: Batch, test: Batch, prepared: Prepared) -> Features:
    noise = SwapNoise(prepared.transform.layout, 0.15)
    with torch.inference_mode():
        clean, noisy = model.encode(test).numpy(), model.encode(noise(test)).numpy()
        z = model.encode(train).numpy()
    r2 = float(np.nanmean(reconstruct(model, [test]).r2))
    return Features(method, z, clean, r2, measures.robustness(clean, noisy))


def measured(data: Data, features: Features, chosen: np.ndarray, inputs: np.ndarray, seed: int) -> dict[str, object]:
    """One row of the result table."""
    y, truth = data.y[chosen], data.y[data.test]
    split = (features.train, y, features.test, truth)
    health = latent_health(features.test)
    trust, continuity = measures.neighbourhoods_kept(inputs, features.test)
    return {
        "table": data.name,
        "method": features.method,
        "seed": seed,
        "width": features.test.shape[1],
        "logistic": measures.logistic(*split),
        "kNN": measures.neighbours(*split),
        "boosting": measures.boosting(*split) if features.test.shape[1] <= 200 else None,
        "NMI": measures.cluster_agreement(features.test, truth),
        "R²": features.r2,
        "trust": trust,
        "continuity": continuity,
        "effective rank": health.effective_rank,
        "dead": len(health.dead),
        "duplicates": len(health.duplicates),
        "robust": features.robustness,
    }


def run(folder: Path, names: list[str], seeds: int) -> pd.DataFrame:
    """One row a table, method and seed; `stability` is the mean |r| with the same column of the other seeds."""
    rows: list[dict[str, object]] = []
    for name in names:
        place = folder / "nycflights13" / "flights" if name == "flights" else folder / name
        data = Data.load(place, name)
        seen: dict[str, list[np.ndarray]] = {}
        for seed in range(seeds):
            for features, chosen, inputs in methods(data, seed):
                row = measured(data, features, chosen, inputs, seed)
                earlier = seen.setdefault(features.method, [])
                same = [
                    measures.same_place_correlation(features.test, z) for z in earlier if z.shape == features.test.shape
                ]
                row["stability"] = float(np.mean(same)) if same else None
                earlier.append(features.test)
                rows.append(row)
                print(
                    " ".join(f"{k}={v:.4f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True
                )
    return pd.DataFrame(rows)


def as_markdown(found: pd.DataFrame) -> str:
    """Means over seeds, a table a data set."""
    lines = [
        f"Feature quality, means over {found['seed'].nunique()} seeds (torch {torch.__version__})",
        "",
    ]
    for name, part in found.groupby("table", sort=False):
        mean = part.drop(columns=["table", "seed"]).groupby("method", sort=False).mean()
        lines += [
            f"## {name}",
            "",
            "| method | " + " | ".join(mean.columns) + " |",
            "|---" * (len(mean.columns) + 1) + "|",
        ]
        for method, row in mean.iterrows():
            lines.append(f"| {method} | " + " | ".join("" if pd.isna(v) else f"{v:.4g}" for v in row) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        parser.error(f"no folder {arguments.data}: give --data a folder of tables")
    found = run(arguments.data, arguments.tables.split(","), arguments.seeds)
    arguments.out.mkdir(parents=True, exist_ok=True)
    found.to_parquet(arguments.out / "features.parquet")
    (arguments.out / "features.md").write_text(as_markdown(found), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Feature quality on real tables: every preset against PCA, raw columns and random features of the same width.

    python -m benchmarks.features --data FOLDER [--tables adult,flights] [--seeds 5] [--other-seeds 5] [--jobs 2]

FOLDER holds one folder of Parquet files a table, with a `_meta.json` that names the `label`. A fifth of the rows, the
same for all seeds, is the test; each seed trains on another four fifths of the rest. Everything runs on defaults.
Presets other than the default are run with `--other-seeds` seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from sklearn.random_projection import GaussianRandomProjection

from aemodel.config import Job
from aemodel.contract import same_place
from aemodel.evaluation import latent_health
from aemodel.model import Autoencoder, Batch, SwapNoise, build, reconstruct
from aemodel.pca import Projection
from benchmarks import measures
from benchmarks.results import FeatureResults
from benchmarks.tables import TABLES, Data, Learned, learn

DEFAULT = "residual"
WIDE = f"{DEFAULT}, wide"
PRESETS = (DEFAULT, "plain", "variational", "contractive", "sparse", "vanilla")
#: Tables of more classes are boosted with the first seed only: one tree a class and round takes minutes.
BOOSTED_CLASSES = 2


@dataclass(frozen=True)
class Features:
    """A method's features of training and test rows, and what it reconstructs of the test rows: R² by source column,
    (columns,), as they are and each hidden."""

    method: str
    train: np.ndarray
    test: np.ndarray
    r2: np.ndarray | None = None
    masked_r2: np.ndarray | None = None
    robustness: float | None = None


@dataclass(frozen=True)
class Sample:
    """One seed's rows of a table: indices of the training rows, and training and test rows encoded."""

    data: Data
    seed: int
    chosen: np.ndarray
    learned: Learned
    train: Batch
    test: Batch

    @classmethod
    def trained(cls, data: Data, job: Job, seed: int) -> Sample:
        """Train the job on the seed's rows."""
        chosen = data.training_rows(seed)
        rows, test = data.rows.take(pa.array(chosen)), data.rows.filter(pa.array(data.test))
        learned = learn(rows, job)
        apply = learned.bundle.transform.apply_all
        return cls(data, seed, chosen, learned, Batch.of(apply(rows)), Batch.of(apply(test)))


def methods(data: Data, seed: int, presets: tuple[str, ...]) -> Iterator[tuple[Features, Sample]]:
    """The features of every method."""
    for preset in presets:
        sample = Sample.trained(data, data.job(preset, seed), seed)
        yield _of(preset, sample.learned.bundle.model, sample), sample
        if preset == DEFAULT:
            yield _wide(sample), sample
            yield from ((features, sample) for features in _baselines(sample))


@torch.inference_mode()
def _wide(sample: Sample) -> Features:
    model = sample.learned.bundle.model
    return Features(WIDE, *(model.hidden_layers(b).numpy() for b in (sample.train, sample.test)))


def _baselines(sample: Sample) -> Iterator[Features]:
    layout, axes = sample.learned.bundle.transform.layout, sample.learned.prepared.pca
    linear = Projection(layout, axes)
    pca = _of("PCA", linear, sample)
    yield pca
    std = pca.train.std(axis=0)
    yield Features("PCA whitened", pca.train / std, pca.test / std)
    raw_train, raw_test = (linear.linear(b)[0].numpy() for b in (sample.train, sample.test))
    yield Features("raw columns", raw_train, raw_test)
    projection = GaussianRandomProjection(pca.train.shape[1], random_state=sample.seed).fit(raw_train)
    yield Features("random projection", projection.transform(raw_train), projection.transform(raw_test))
    plain = sample.learned.bundle.job.model_copy(update={"preset": "plain"})
    torch.manual_seed(sample.seed)
    untrained = build(plain, layout, axes).eval().requires_grad_(False)
    yield Features("random encoder", *(untrained.encode(b).numpy() for b in (sample.train, sample.test)))


@torch.inference_mode()
def _of(method: str, model: Autoencoder, sample: Sample) -> Features:
    noise = SwapNoise(sample.learned.bundle.transform.layout, 0.15)
    torch.manual_seed(0)
    clean, noisy = model.encode(sample.test).numpy(), model.encode(noise(sample.test)).numpy()
    return Features(
        method,
        model.encode(sample.train).numpy(),
        clean,
        reconstruct(model, [sample.test]).r2,
        measures.masked_r2(model, sample.learned.bundle.transform.layout, sample.test),
        measures.robustness(clean, noisy),
    )


def measured(features: Features, sample: Sample, raw: np.ndarray) -> dict[str, object]:
    """One row of the result table; `raw` are the test rows in the linear space."""
    data, seed = sample.data, sample.seed
    y, truth = data.y[sample.chosen], data.y[data.test]
    split = (features.train, y, features.test, truth)
    row: dict[str, object] = {"table": data.name, "method": features.method, "seed": seed}
    row |= {"width": features.test.shape[1], "logistic": measures.logistic(*split)}
    row["boosting"] = measures.boosting(*split) if _boosted(features.method, sample) else None
    if features.method == WIDE:
        return row
    health = latent_health(features.test)
    trust, continuity = measures.neighbourhoods_kept(raw, features.test)
    return row | {
        "kNN": measures.neighbours(*split),
        "NMI": measures.cluster_agreement(features.test, truth),
        "R²": _mean(features.r2),
        "masked R²": _mean(features.masked_r2),
        "trust": trust,
        "continuity": continuity,
        "effective rank": health.effective_rank / features.test.shape[1],
        "dead": len(health.dead),
        "duplicates": len(health.duplicates),
        "robust": features.robustness,
    }


def _mean(by_column: np.ndarray | None) -> float | None:
    return None if by_column is None else float(np.nanmean(by_column))


def by_column(features: Features, sample: Sample) -> list[dict[str, object]]:
    """One row a source column, of a method that reconstructs."""
    if features.r2 is None or features.masked_r2 is None:
        return []
    told = {"table": sample.data.name, "method": features.method, "seed": sample.seed}
    columns = zip(sample.learned.bundle.input_columns, features.r2, features.masked_r2, strict=True)
    return [told | {"column": name, "R²": r2, "masked R²": masked} for name, r2, masked in columns]


def _boosted(method: str, sample: Sample) -> bool:
    """Boosting of many classes, or on a thousand columns, takes minutes: one seed has to do."""
    quick = int(sample.data.y.max()) < BOOSTED_CLASSES
    if method == WIDE:
        return quick and sample.seed == 0
    return method in (DEFAULT, "PCA", "raw columns") and (quick or sample.seed == 0)


def _raw_and_learned(raw: Features, learned: Features, sample: Sample) -> dict[str, object]:
    """What boosting makes of the learned features beside the raw columns."""
    y, truth = sample.data.y[sample.chosen], sample.data.y[sample.data.test]
    both = (np.concatenate([a, b], axis=1) for a, b in ((raw.train, learned.train), (raw.test, learned.test)))
    train, test = both
    score = measures.boosting(train, y, test, truth) if _boosted(raw.method, sample) else None
    return {"table": sample.data.name, "method": f"raw + {DEFAULT}", "seed": sample.seed, "boosting": score}


def of_seed(
    data: Data, seed: int, presets: tuple[str, ...]
) -> tuple[list[dict[str, object]], list[dict[str, object]], dict[str, np.ndarray]]:
    """The result rows of one seed, those by source column, and each method's features of the test rows."""
    found = [(features, sample) for features, sample in methods(data, seed, presets)]
    by_name = {features.method: features for features, _ in found}
    raw = by_name["raw columns"]
    rows = [measured(features, sample, raw.test) for features, sample in found]
    rows.append(_raw_and_learned(raw, by_name[DEFAULT], found[0][1]))
    columns = [row for features, sample in found for row in by_column(features, sample)]
    return rows, columns, {name: features.test for name, features in by_name.items()}


def releases(data: Data, seed: int) -> list[dict[str, object]]:
    """How the columns of a version come through retrains on other rows: one that goes on from it, one that starts
    anew with its columns turned to the version's, and one with an input more."""
    pool = np.random.default_rng((7, seed)).permutation(np.flatnonzero(~data.test))
    first, second = (data.rows.take(pa.array(np.sort(part))) for part in np.array_split(pool, 2))
    gained = next((n for n in reversed(data.rows.column_names) if n != data.label), None)
    whole = learn(first, data.job(seed=seed))
    champions = {"new rows": whole, "anew": whole}
    if data.rows.num_columns > 2:
        champions[f"new rows and the column {gained}"] = learn(first.drop_columns([gained]), data.job(seed=seed))
    rows = []
    for what, champion in champions.items():
        job = data.job(seed=seed + 1)
        start = "cold" if what == "anew" else "auto"
        job = job.model_copy(update={"training": job.training.model_copy(update={"start": start})})
        release = learn(second, job, champion)
        rows.append(_told(data, what, seed, champion, release))
    return rows


def cold(data: Data, seed: int) -> dict[str, object]:
    """How the columns come through a retrain anew, with another seed and on another four fifths, as a job makes it: its
    latents are turned to the version's columns."""
    before, now = (data.rows.take(pa.array(data.training_rows(s))) for s in (seed, seed + 1))
    champion, job = learn(before, data.job(seed=seed)), data.job(seed=seed + 1)
    job = job.model_copy(update={"training": job.training.model_copy(update={"start": "cold"})})
    return _told(data, "anew, other four fifths", seed, champion, learn(now, job, champion))


def _told(data: Data, what: str, seed: int, champion: Learned, release: Learned) -> dict[str, object]:
    test = data.rows.filter(pa.array(data.test))
    r = same_place(champion.features(test), release.features(test))
    told = {"table": data.name, "release": what, "seed": seed}
    return told | {"mean r": float(np.mean(r)), "least r": float(min(r))}


def of_table(root: Path, seeds: int, other_seeds: int, name: str) -> FeatureResults:
    """All of one table; `stability` is the mean |r| with the same column of the seed before."""
    torch.set_num_threads(1)
    data = Data.load(root, name)
    rows: list[dict[str, object]] = []
    columns: list[dict[str, object]] = []
    before: dict[str, np.ndarray] = {}
    for seed in range(seeds):
        found, of_columns, features = of_seed(data, seed, PRESETS if seed < other_seeds else (DEFAULT,))
        for row in found:
            method, row["stability"] = str(row["method"]), float("nan")
            if method in before and before[method].shape == features[method].shape:
                row["stability"] = float(measures.same_place_correlation(features[method], before[method]).mean())
            print(" ".join(f"{k}={v:.4f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)
        rows += found
        columns += of_columns
        before |= features
    again = [row for seed in range(seeds) for row in (*releases(data, seed), cold(data, seed))]
    return FeatureResults(*(pd.DataFrame(part) for part in (rows, columns, again)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--other-seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="tables at a time, each in a process with one thread")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        parser.error(f"no folder {arguments.data}: give --data a folder of tables")
    work = partial(of_table, arguments.data, arguments.seeds, arguments.other_seeds)
    names = arguments.tables.split(",")
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        parts: list[FeatureResults] = []
        for part in pool.map(work, names):  # written after each table: the whole takes an hour
            parts.append(part)
            FeatureResults.joined(parts).write(arguments.out)


if __name__ == "__main__":
    main()

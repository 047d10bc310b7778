"""Anomaly detection on ADBench tables against isolation forest, kNN, PCA, ECOD and an autoencoder of PyOD.

    python -m benchmarks.anomaly --data FOLDER [--seeds 5] [--jobs 2]

FOLDER/adbench holds one folder a table, whose column `label` is 1 for an anomaly. 70 % of the rows train, stratified,
with another split a seed: once with the anomalies among them (unsupervised), once without (normals). All methods score
the same other 30 %. Tables of fewer than 200 rows are left out, larger ones sampled to 20,000. Everything runs on
defaults; the peers get standardised columns.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyod.models.auto_encoder import AutoEncoder
from pyod.models.ecod import ECOD
from pyod.models.pca import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from aemodel.job_file import parse_job
from benchmarks.results import as_markdown, bars, machine
from benchmarks.tables import learn

FEWEST_ROWS, MOST_ROWS = 200, 20_000
LABEL = "label"


def tables(root: Path) -> list[Path]:
    """The Parquet files of tables that are large enough."""
    files = sorted(root.glob("adbench/*/*.parquet"))
    return [f for f in files if pq.read_metadata(f).num_rows >= FEWEST_ROWS]


def peers(train: np.ndarray, test: np.ndarray, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """(method, scores of the test rows), the larger the stranger; both arrays (rows, columns), standardised."""
    yield "isolation forest", -IsolationForest(random_state=seed).fit(train).score_samples(test)
    yield "kNN", NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0][:, -1]
    # A component without variance makes PyOD's score infinite.
    rank = int(np.linalg.matrix_rank(train))
    yield "PCA", PCA(n_components=rank, random_state=seed).fit(train).decision_function(test)
    yield "ECOD", ECOD().fit(train).decision_function(test)
    torch.manual_seed(seed)
    network = AutoEncoder(random_state=seed, verbose=0, epoch_num=10).fit(train)
    yield "PyOD autoencoder", network.decision_function(test)


def ours(train: pa.Table, test: pa.Table, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """The scores that a job writes, and the two parts of the first by themselves."""
    job = {"name": "adbench", "dataset": {"uri": "-", "label": LABEL}, "training": {"seed": seed}}
    learned = learn(train, parse_job(job, "benchmark")).bundle
    evidence, _ = learned.evidence(learned.transform.apply_all(test))
    yield "aemodel", learned.calibration.score(evidence)
    yield "aemodel, distance alone", evidence.far
    yield (
        "aemodel, error and latents alone",
        (learned.calibration.terms(evidence) / learned.calibration.ordinary).sum(1),
    )
    yield "aemodel, knn", learned.calibration.knn(evidence.features)


def of_table(path: Path, seeds: int) -> pd.DataFrame:
    """One row a mode, seed and method."""
    torch.set_num_threads(1)
    rows = pq.read_table(path)
    rows = rows.take(pa.array(np.sort(np.random.default_rng(0).permutation(rows.num_rows)[:MOST_ROWS])))
    truth = rows[LABEL].to_numpy().astype(int)
    plain = np.stack([rows[n].to_numpy().astype(float) for n in rows.column_names if n != LABEL], axis=1)
    found = []
    for seed in range(seeds):
        train, test = train_test_split(np.arange(len(truth)), test_size=0.3, stratify=truth, random_state=seed)
        test = np.sort(test)
        for mode, chosen in (("unsupervised", np.sort(train)), ("normals", np.sort(train[truth[train] == 0]))):
            scaler = StandardScaler().fit(plain[chosen])
            parts = (rows.take(pa.array(chosen)), rows.take(pa.array(test)))
            scores = [*ours(*parts, seed), *peers(scaler.transform(plain[chosen]), scaler.transform(plain[test]), seed)]
            for method, score in scores:
                quality = roc_auc_score(truth[test], score), average_precision_score(truth[test], score)
                found.append((path.parent.name, mode, seed, method, *quality))
        print(path.parent.name, seed, flush=True)
    return pd.DataFrame(found, columns=["table", "mode", "seed", "method", "AUROC", "AP"])


def write(found: pd.DataFrame, folder: Path) -> None:
    """`anomaly.parquet`, `anomaly.md` and `anomaly.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    found.to_parquet(folder / "anomaly.parquet", index=False)
    means = found.groupby(["mode", "method"], sort=False)[["AUROC", "AP"]].mean().reset_index()
    wide = means.pivot(index="method", columns="mode", values=["AUROC", "AP"])
    wide.columns = [f"{measure}, {mode}" for measure, mode in wide.columns]
    wide = wide.sort_values("AUROC, unsupervised", ascending=False)
    by_table = found.groupby(["mode", "table", "method"])["AUROC"].mean().unstack("method").reset_index()
    count = f"Means over {found['table'].nunique()} tables and {found['seed'].nunique()} seeds."
    text = [f"# Anomaly detection\n\n{machine()}. {count}\n", as_markdown(wide.reset_index())]
    text += ["\n## AUROC by table\n", as_markdown(by_table)]
    (folder / "anomaly.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    bars(wide, list(wide.columns), folder / "anomaly.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="tables at a time, each in a process with one thread")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    files = tables(arguments.data)
    if not files:
        parser.error(f"no tables in {arguments.data / 'adbench'}: give --data the folder that holds adbench/")
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        parts: list[pd.DataFrame] = []
        for part in pool.map(partial(of_table, seeds=arguments.seeds), files):
            parts.append(part)
            write(pd.concat(parts), arguments.out)


if __name__ == "__main__":
    main()

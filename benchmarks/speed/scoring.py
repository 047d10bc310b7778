"""Scoring Parquet to Parquet through an encoder 64-256-16: by hand, through libraries, and by this project."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.speed import tables
from benchmarks.speed.measure import Measured, Method, in_turn, run
from benchmarks.speed.setting import Setting, ours, peer
from benchmarks.speed.training import PLAIN

BASELINE = "two threads by hand"


def measured(setting: Setting) -> Iterator[Measured]:
    """Rows a second, memory."""
    table = tables.numbers(setting.scratch, setting.rows, setting.columns)
    job = setting.job("scoring", table, PLAIN, {"max_epochs": 1})
    work = setting.scratch / "work-scoring"
    version = run(ours("register", "register", job, work), 0, setting.scratch).figures["version"]

    def by(name: str, kind: str, *needs: str, python: str = Setting.peer_python) -> Method:
        arguments = [kind, table, setting.scratch / "outputs" / f"peer-{kind}"]
        return peer(name, "scoring_peers", arguments, needs, python)

    methods = [
        by(BASELINE, "threads", "torch"),
        ours("features", "score", job, work, version, "false"),
        ours("features, anomaly score and reasons", "score", job, work, version),
        by("sequential pyarrow", "sequential", "torch"),
        by("pandas and MLflow pyfunc", "pandas", "mlflow"),
        by("Ray Data map_batches", "ray", "ray", "torch", python=setting.peer_python),
        by("spark_udf", "spark", "pyspark", "mlflow", "torch", python=setting.peer_python),
    ]
    yield from in_turn(setting.chosen(methods), setting.repeats, setting.scratch)

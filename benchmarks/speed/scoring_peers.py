"""What one would score with instead: Parquet in, encoder 64-256-16, Parquet out (id and 16 float32 columns, zstd).

    python -m benchmarks.speed.scoring_peers threads|sequential|pandas|ray|spark TABLE OUT

The weights are random. Imports nothing of this project, so that any interpreter with the peer will do. Starting Ray or
Spark is not timed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HIDDEN, LATENTS = 256, 16
FEATURES = [f"f{index}" for index in range(LATENTS)]
#: Starts its engine and hands back what is timed.
Started = Callable[[], None]


def files_of(table: Path) -> list[Path]:
    return sorted(table.glob("*.parquet"))


def inputs_of(table: Path) -> list[str]:
    return [n for n in pq.read_schema(files_of(table)[0]).names if n.startswith("x")]


def encoder(columns: int) -> Any:
    """A torch module from (rows, columns) to (rows, LATENTS)."""
    import torch
    from torch.nn import Linear, ReLU, Sequential

    torch.manual_seed(0)
    return Sequential(Linear(columns, HIDDEN), ReLU(), Linear(HIDDEN, LATENTS)).eval().requires_grad_(False)


def score_file(file: Path, target: Path, inputs: list[str], model: Any, batch_rows: int, **writing: Any) -> None:
    """One file through a torch module, column by column."""
    import torch

    writer = None
    parquet = pq.ParquetFile(file, memory_map=True)
    for batch in parquet.iter_batches(batch_rows, columns=["id", *inputs], use_threads=batch_rows > 16_384):
        columns = np.stack([batch.column(index + 1).to_numpy() for index in range(len(inputs))])
        features = model(torch.from_numpy(columns).T).T.contiguous().numpy()
        arrays = [batch.column(0), *(pa.array(feature) for feature in features)]
        scored = pa.record_batch(arrays, names=["id", *FEATURES])
        writer = writer or pq.ParquetWriter(target, scored.schema, compression="zstd", **writing)
        writer.write_batch(scored)
    assert writer is not None
    writer.close()


def threads(table: Path, out: Path) -> Started:
    """By hand, tuned: two threads with every other file, small batches, no dictionaries."""
    import torch

    inputs, files = inputs_of(table), files_of(table)
    model = encoder(len(inputs))

    def work(mine: list[Path]) -> None:
        torch.set_num_threads(1)
        for file in mine:
            score_file(file, out / file.name, inputs, model, 16_384, compression_level=1, use_dictionary=False)

    def timed() -> None:
        workers = [threading.Thread(target=work, args=(files[start::2],)) for start in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return timed


def sequential(table: Path, out: Path) -> Started:
    """By hand, file by file: pyarrow and torch with the threads they take by themselves."""
    inputs = inputs_of(table)
    model = encoder(len(inputs))

    def timed() -> None:
        for file in files_of(table):
            score_file(file, out / file.name, inputs, model, 65_536)

    return timed


def pandas_pyfunc(table: Path, out: Path) -> Started:
    """An MLflow pyfunc on pandas frames, file by file."""
    import mlflow
    import pandas as pd

    inputs, model = inputs_of(table), mlflow.pyfunc.load_model(_pyfunc(table, out))

    def timed() -> None:
        for file in files_of(table):
            rows = pd.read_parquet(file)
            scored = model.predict(rows[inputs])
            scored.insert(0, "id", rows["id"])
            scored.to_parquet(out / file.name, compression="zstd", index=False)

    return timed


def ray_data(table: Path, out: Path) -> Started:
    """Ray Data: an actor that encodes batches; a second would leave no CPU for reading."""
    import ray

    inputs = inputs_of(table)

    class Encode:
        def __init__(self) -> None:
            import torch

            torch.set_num_threads(1)
            self.model = encoder(len(inputs))

        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            import torch

            features = self.model(torch.from_numpy(np.stack([batch[n] for n in inputs], axis=1))).numpy()
            return {"id": batch["id"], **{name: features[:, i] for i, name in enumerate(FEATURES)}}

    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def timed() -> None:
        scored = ray.data.read_parquet(str(table)).map_batches(Encode, batch_size=16_384, concurrency=1)
        scored.write_parquet(str(out), compression="zstd")

    return timed


def spark_udf(table: Path, out: Path) -> Started:
    """MLflow's `spark_udf` in a local Spark."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    import mlflow
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import struct

    builder = SparkSession.builder.master(f"local[{os.cpu_count()}]")
    settings = {
        "spark.driver.memory": "6g",
        "spark.ui.enabled": "false",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
        "spark.sql.parquet.compression.codec": "zstd",
    }
    for key, value in settings.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    inputs = inputs_of(table)
    udf = mlflow.pyfunc.spark_udf(session, _pyfunc(table, out), result_type="array<float>", env_manager="local")
    rows = session.read.parquet(str(table))

    def timed() -> None:
        scored = rows.select("id", udf(struct(*inputs)).alias("z"))
        flat = scored.select("id", *(scored.z[i].alias(name) for i, name in enumerate(FEATURES)))
        flat.write.mode("overwrite").parquet(str(out))

    return timed


def _pyfunc(table: Path, out: Path) -> str:
    """The encoder saved as an MLflow model, anew; its folder."""
    import mlflow
    import pandas as pd
    import torch
    from mlflow.models import infer_signature

    folder, inputs = out.with_name(f"{out.name}-model"), inputs_of(table)
    shutil.rmtree(folder, ignore_errors=True)
    weights = out.with_name(f"{out.name}.pt")
    torch.save(encoder(len(inputs)).state_dict(), weights)
    given, made = (pd.DataFrame(np.zeros((2, len(n)), np.float32), columns=n) for n in (inputs, FEATURES))
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(Path(__file__).with_name("pyfunc_peer.py")),
        artifacts={"weights": str(weights)},
        signature=infer_signature(given, made),
        pip_requirements=["torch"],
    )
    return str(folder)


METHODS = {
    "threads": threads,
    "sequential": sequential,
    "pandas": pandas_pyfunc,
    "ray": ray_data,
    "spark": spark_udf,
}


def main() -> None:
    name, table, out = sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3]).resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    timed = METHODS[name](table, out)
    began = time.perf_counter()
    timed()
    seconds = time.perf_counter() - began
    rows = sum(pq.read_metadata(file).num_rows for file in files_of(table))
    assert sum(pq.read_metadata(file).num_rows for file in files_of(out)) == rows, "rows were lost"
    print(json.dumps({"rows/s": rows / seconds, "scoring": seconds}))


if __name__ == "__main__":
    main()

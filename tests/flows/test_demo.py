"""The demo's data, without its training."""

from pathlib import Path

import pyarrow.parquet as pq

from aemodel.job_file import load_job
from aemodel.snapshot import open_snapshot
from flows.demo import JOB, flights, write_by_month


def test_the_demo_reads_all_flights_with_a_key_of_their_own(tmp_path: Path) -> None:
    table = flights()
    assert table.num_rows == 336_776
    assert table["row_id"].to_pylist()[-1] == 336_775
    assert table["dep_delay"].null_count == 8_255
    write_by_month(table, tmp_path / "flights")
    snapshot = open_snapshot(str(tmp_path / "flights"))
    assert snapshot.num_rows == 336_776 and snapshot.partition_columns == ("month",)
    assert len(snapshot.fragments) == 12
    january = pq.read_table(tmp_path / "flights" / "month=1" / "part-0.parquet", partitioning=None)
    assert january.num_rows == 27_004 and "month" not in january.column_names


def test_its_job_names_columns_that_the_data_has() -> None:
    job = load_job(JOB)
    names = flights().column_names
    assert {*job.dataset.key, job.dataset.label, *job.dataset.exclude} <= {*names}

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from aemodel.job_file import load_job
from aemodel.pipeline import RegisteredVersion, reporting, write_report
from aemodel.registry import Registry
from tests.integration.house import House


@pytest.fixture
def version(copy: House) -> RegisteredVersion:
    (folder,) = (copy.work / "runs").glob("orders-*/")
    registry = Registry(load_job(copy.job).registry, copy.work)
    run = registry.start_run("orders", "another", {}, {})
    return RegisteredVersion(str(folder), "key", "orders", "8", run, True, (), "champion", 0.9, 0.8, False)


def test_the_page_lies_in_the_run_s_folder_and_in_its_mlflow_run(copy: House, version: RegisteredVersion) -> None:
    job = load_job(copy.job)
    (Path(version.folder) / "report.html").unlink()
    path = write_report(version, job, copy.work, {"prepare": 1.0, "train": 61.0})
    page = path.read_text(encoding="utf-8")
    assert path == Path(version.folder) / "report.html"
    assert all(text in page for text in ("orders", "version 8", str(copy.root / "orders"), "weight", "channel"))
    client = Registry(job.registry, copy.work).client
    assert [f.path for f in client.list_artifacts(version.run_id)] == ["report.html"]


def test_a_run_without_a_journal_has_a_page_all_the_same(copy: House, version: RegisteredVersion) -> None:
    (Path(version.folder) / "metrics.jsonl").unlink()
    assert write_report(version, load_job(copy.job), copy.work, {}).stat().st_size > 1_000


def test_addresses_are_shown_without_their_secrets(copy: House, version: RegisteredVersion) -> None:
    job = load_job(copy.job)
    secret = job.model_copy(
        update={"dataset": job.dataset.model_copy(update={"uri": "s3://me:secret@bucket/orders?token=hidden"})}
    )
    page = write_report(version, secret, copy.work, {}).read_text(encoding="utf-8")
    assert "s3://***@bucket/orders" in page and "secret" not in page and "hidden" not in page.split("<body")[1][:2_000]


def test_rows_are_drawn_from_all_over_the_held_out_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "DRAWN_ROWS", 100)
    drawn = reporting._drawn(pa.table({"n": range(1_000)}))["n"].to_pylist()
    assert len(drawn) == 100 == len(set(drawn)) and drawn == sorted(drawn)
    assert min(drawn) < 100 and max(drawn) > 900

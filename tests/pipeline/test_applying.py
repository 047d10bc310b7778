from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from aemodel.config import Job
from aemodel.errors import PublishError
from aemodel.job_file import load_job
from aemodel.pipeline import champion_version, publish, score
from aemodel.snapshot import Snapshot, open_snapshot
from tests.integration.house import House


@pytest.fixture(scope="module")
def job(house: House) -> Job:
    return load_job(house.job)


@pytest.fixture(scope="module")
def snapshot(job: Job) -> Snapshot:
    return open_snapshot(job.dataset.uri)


def _with(job: Job, section: str, **values: Any) -> Job:
    return job.model_copy(update={section: getattr(job, section).model_copy(update=values)})


def test_the_champion_is_a_version_s_number_and_none_where_there_is_none(job: Job, house: House) -> None:
    champion = champion_version(job, house.work)
    assert champion is not None and champion.number == "1"
    assert champion_version(_with(job, "registry", alias="nobody"), house.work) is None


def test_a_table_that_readers_see_already_is_not_staged_again(job: Job, house: House) -> None:
    staged = score(job, "1", house.work)
    assert not staged.changed and staged.rows == 1_200
    assert publish(staged).table_version == 1


def test_readers_see_a_staged_table_only_once_it_is_published(copy: House) -> None:
    job = _with(load_job(copy.job), "output", prefix="f_")
    current = copy.root / "features" / "current"
    before = os.readlink(current)
    staged = score(job, "1", copy.work)
    assert staged.changed and staged.rows == 1_200 and os.readlink(current) == before
    published = publish(staged)
    assert published.table_version == 2 and len(published.strangest) == 5
    assert "f_00" in pq.read_schema(Path(published.path) / "region=north" / "part-0.parquet").names
    assert publish(staged) == published, "its own commit is found again"


def test_what_a_twin_staged_of_a_published_table_is_removed(copy: House) -> None:
    job = _with(load_job(copy.job), "output", prefix="h_")
    staged = score(job, "1", copy.work)
    (folder,) = (copy.root / "features").glob(".staging-*")
    twin = folder.with_name("twin")
    shutil.copytree(folder, twin)
    publish(staged)
    twin.rename(folder)
    publish(staged)
    assert not list((copy.root / "features").glob(".staging-*"))


def test_a_staged_table_that_is_gone_must_be_scored_again(copy: House) -> None:
    job = _with(load_job(copy.job), "output", prefix="g_")
    staged = score(job, "1", copy.work)
    (manifest,) = (copy.root / "features").glob(".staging-*/_manifest.json")
    manifest.unlink()
    with pytest.raises(PublishError, match="what was staged for .* is gone; score again"):
        publish(staged)


def test_a_file_without_rows_has_one_in_the_table_and_files_that_stay_are_linked(copy: House) -> None:
    job = load_job(copy.job)
    south, more = copy.root / "orders" / "region=south" / "part-0.parquet", copy.root / "orders" / "region=south"
    rows = pq.read_table(south, partitioning=None)
    pq.write_table(rows.slice(0, 0), more / "part-1.parquet")
    pq.write_table(rows.slice(0, 10), more / "part-2.parquet")
    published = Path(publish(score(job, "1", copy.work)).path)
    found = {str(path.relative_to(published)): pq.read_metadata(path).num_rows for path in published.rglob("*.parquet")}
    assert found == {
        "region=north/part-0.parquet": 400,
        "region=south/part-0.parquet": 800,
        "region=south/part-1.parquet": 0,
        "region=south/part-2.parquet": 10,
    }
    before = next((copy.root / "features" / "snapshots").glob("000001-*"))
    assert (before / "region=north" / "part-0.parquet").samefile(published / "region=north" / "part-0.parquet")

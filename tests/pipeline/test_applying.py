from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from aemodel.config import Job, load_job
from aemodel.errors import PublishError, SchemaError, TableError
from aemodel.pipeline import champion_version, publish, score
from aemodel.pipeline.applying import carried_columns, check_output
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


def test_the_keys_are_carried_or_every_column_but_the_partitions(job: Job, snapshot: Snapshot) -> None:
    everything = tuple(n for n in snapshot.schema.names if n != "region")
    assert carried_columns(job, snapshot) == ("order_id",)
    assert carried_columns(_with(job, "output", columns="all"), snapshot) == everything
    assert carried_columns(_with(job, "dataset", key=()), snapshot) == everything
    assert carried_columns(_with(job, "dataset", key=("order_id", "region")), snapshot) == ("order_id",)


def test_a_key_that_the_dataset_lacks_is_named(job: Job, snapshot: Snapshot) -> None:
    with pytest.raises(SchemaError, match="dataset.key names 'id', which is not a column"):
        carried_columns(_with(job, "dataset", key=("id",)), snapshot)


def test_an_output_may_not_hide_a_column_nor_lie_in_the_dataset(job: Job, snapshot: Snapshot, house: House) -> None:
    assert check_output(job, snapshot, 4).root == house.root / "features"
    with pytest.raises(TableError, match="lies inside the dataset"):
        check_output(_with(job, "output", uri=f"{job.dataset.uri}/features"), snapshot, 4)
    clash = _with(job, "output", prefix="pri")
    taken = snapshot.schema.field("price").with_name("prierror")
    hidden = Snapshot(**{**vars(snapshot), "schema": snapshot.schema.append(taken)})
    with pytest.raises(TableError, match="'prierror' exists in the dataset already; set output.prefix to another"):
        check_output(clash, hidden, 4)


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


def test_a_staged_table_that_is_gone_must_be_scored_again(copy: House) -> None:
    job = _with(load_job(copy.job), "output", prefix="g_")
    staged = score(job, "1", copy.work)
    (manifest,) = (copy.root / "features").glob(".staging-*/_manifest.json")
    manifest.unlink()
    with pytest.raises(PublishError, match="what was staged for .* is gone; score again"):
        publish(staged)

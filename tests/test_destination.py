from __future__ import annotations

from typing import Any

import pytest

from aemodel.config import Job
from aemodel.destination import carried_columns, check_output
from aemodel.errors import SchemaError, TableError
from aemodel.job_file import load_job
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

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings

from aemodel.bundle import Bundle
from aemodel.config import Job, RegistryJob
from aemodel.job_file import parse_job
from aemodel.prepared import Prepared, prepare, table_schema
from aemodel.registry import Registry
from aemodel.snapshot import Snapshot, open_snapshot
from tests import tables
from tests.integration.house import House, build_house

settings.register_profile(
    "aemodel", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("aemodel")


@pytest.fixture(scope="session")
def mixed_table() -> pa.Table:
    return tables.mixed()


@pytest.fixture(scope="session")
def mixed_snapshot(mixed_table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """The mixed table as a folder of two files with row groups of 64 rows."""
    folder = tmp_path_factory.mktemp("mixed")
    tables.write(mixed_table.slice(0, 170), folder / "a.parquet")
    tables.write(mixed_table.slice(170), folder / "b.parquet")
    return open_snapshot(str(folder))


@pytest.fixture(scope="session")
def mixed_job(mixed_snapshot: Snapshot) -> Job:
    data = {
        "name": "mixed",
        "dataset": {"uri": mixed_snapshot.uri, "key": ["row_id"], "label": "label"},
        "model": {"latent_dim": 4, "hidden": [16]},
    }
    return parse_job(data, "job")


@pytest.fixture(scope="session")
def mixed_prepared(mixed_job: Job, mixed_snapshot: Snapshot) -> Prepared:
    return prepare(mixed_job, mixed_snapshot, table_schema(mixed_snapshot, mixed_job.dataset))


@pytest.fixture(scope="session")
def mixed_bundle(mixed_prepared: Prepared, mixed_job: Job) -> Bundle:
    return tables.bundle_of(mixed_prepared, mixed_job)


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Trained and scored once; tests may read it and run commands that change nothing of it."""
    return build_house(tmp_path_factory.mktemp("house"))


@pytest.fixture
def copy(house: House, tmp_path: Path) -> House:
    """The house once more, for a test that changes it."""
    return house.copied(tmp_path / "copy")


@pytest.fixture(scope="session")
def _empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Registry(RegistryJob(), tmp_path_factory.mktemp("store")).work / "mlflow.db"


@pytest.fixture
def work(_empty_store: Path, tmp_path: Path) -> Path:
    """A work folder with an MLflow store in which nothing is registered; to make its tables anew takes seconds."""
    (tmp_path / "work").mkdir()
    shutil.copy(_empty_store, tmp_path / "work")
    return tmp_path / "work"

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings

from aemodel.anomaly import calibrate
from aemodel.bundle import Bundle, Provenance
from aemodel.config import Job, parse_job
from aemodel.loader import HeldOutLoader
from aemodel.model import build, reconstruct
from aemodel.prepared import Prepared, prepare, table_schema
from aemodel.snapshot import Snapshot, open_snapshot
from tests import tables

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
    """A bundle as it is before training, which is PCA; calibrated."""
    model = build(mixed_job.model, mixed_prepared.transform.layout, mixed_prepared.pca).eval()
    measured = reconstruct(model, HeldOutLoader(mixed_prepared.transform.apply_all(mixed_prepared.held_out), 0, 1))
    calibration = calibrate(measured.errors, measured.features)
    provenance = Provenance("mixed", "s", "j", "c", 300)
    return Bundle(model, mixed_job.model, mixed_prepared.transform, calibration, provenance, "d" * 64)

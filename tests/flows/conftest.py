from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import flows  # noqa: F401  (sets what Prefect reads when it is imported)
from aemodel.config import Job
from aemodel.job_file import load_job
from tests.integration.house import JOB, write_orders


@pytest.fixture(scope="session", autouse=True)
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One real embedded server for all tests of the flows."""
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=90):
        yield


@dataclass(frozen=True)
class Done:
    """A job whose pipeline has run once as a flow, in the work folder `work`."""

    root: Path
    job: Job
    outcome: Any
    task_runs: dict[str, Any]

    @property
    def work(self) -> str:
        return str(self.root / "work")


@pytest.fixture(scope="session")
def done(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Tests may run flows in its work folder that change nothing of its champion."""
    from flows.pipeline import pipeline
    from tests.flows.runs import last_task_runs

    root = tmp_path_factory.mktemp("flows")
    write_orders(root / "orders", rows=400)
    (root / "job.yaml").write_text(JOB.format(root=root).replace("max_epochs: 4", "max_epochs: 1"))
    job = load_job(root / "job.yaml")
    outcome = pipeline(job, str(root / "work"))
    return Done(root, job, outcome, last_task_runs())

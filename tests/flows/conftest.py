from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import flows  # noqa: F401  (sets what Prefect reads when it is imported)


@pytest.fixture(scope="session", autouse=True)
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One real embedded server for all tests of the flows."""
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=90):
        yield

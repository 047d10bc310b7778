from __future__ import annotations

import pytest

from tests.integration.house import House, build_house


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Trained and scored once; tests may read it and run commands that change nothing of it."""
    return build_house(tmp_path_factory.mktemp("house"))

from __future__ import annotations

from pathlib import Path

import pytest

from aemodel.publish import Table


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table.open(str(tmp_path / "features"), None)

from __future__ import annotations

from pathlib import Path

import pytest

from aemodel.errors import NoVersion
from flows.score import score
from tests.flows.conftest import Done
from tests.flows.runs import last_task_runs


def test_score_alone_uses_the_registered_version(done: Done) -> None:
    outcome = score(done.job, done.work)
    assert outcome.model_version == "1" and outcome.rows == 400 and outcome.r2 is None
    assert set(last_task_runs()) == {"score", "publish"}


def test_without_a_version_it_fails_before_any_task(done: Done, tmp_path: Path) -> None:
    with pytest.raises(NoVersion, match="no version of 'orders' has the alias 'champion'"):
        score(done.job, str(tmp_path))
    assert last_task_runs() == {}

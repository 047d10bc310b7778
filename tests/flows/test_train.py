from __future__ import annotations

import os

from flows.train import train
from tests.flows.conftest import Done
from tests.flows.runs import last_task_runs


def test_train_stops_at_the_registered_version_and_leaves_the_table(done: Done) -> None:
    current = os.readlink(done.root / "features" / "current")
    outcome = train(done.job, done.work)
    assert set(last_task_runs()) == {"prepare", "train", "evaluate and register", "report"}
    assert outcome.model_version == "1" and outcome.gate["passed"] and outcome.table is None
    assert os.readlink(done.root / "features" / "current") == current

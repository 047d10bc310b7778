"""A run scores the rows that it pinned at its start, whatever comes to the dataset meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from aemodel import pipeline
from aemodel.errors import DamagedFile, SnapshotChanged
from aemodel.job_file import load_job
from tests.integration.house import JOB, orders, write_orders


def test_rows_that_come_during_a_run_are_left_to_the_next_one_and_changed_ones_end_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("aemodel"), "propagate", True)
    write_orders(tmp_path / "orders", rows=400)
    (tmp_path / "orders" / "loop").symlink_to("..")
    (tmp_path / "job.yaml").write_text(JOB.format(root=tmp_path).replace("max_epochs: 4", "max_epochs: 1"))
    job, work, part = load_job(tmp_path / "job.yaml", {}), tmp_path / "work", tmp_path / "orders" / "region=north"
    folders = []

    def call(step: Callable[..., Any], *references: Any) -> Any:
        if step is pipeline.score:
            pq.write_table(orders(50, seed=9), part / "late.parquet")
            folders.append(references[-1])
        return step(*references)

    with caplog.at_level(logging.INFO, "aemodel"):
        done = pipeline.run(job, work, call)
    assert "ignored: 'loop'" in caplog.messages
    assert done.rows == 400 and not list((tmp_path / "features" / "current").rglob("late.parquet"))
    assert pipeline.run_score(job, work).rows == 450, "score alone pins the rows that it finds"

    elsewhere = job.model_copy(update={"output": job.output.model_copy(update={"uri": str(tmp_path / "other")})})
    pq.write_table(orders(40, seed=3), part / "part-0.parquet")
    with pytest.raises(SnapshotChanged, match=r"part-0\.parquet' has changed since the run began; run again"):
        pipeline.score(elsewhere, "1", work, folders[0])

    result = Path(folders[0]) / "result.json"
    result.write_bytes(result.read_bytes()[:20])
    prepared = pipeline.PreparedRun(folders[0], "", 400)
    with pytest.raises(DamagedFile, match=r"result\.json' is damaged .*; remove the run's folder and run again"):
        pipeline.train(prepared, job, work)

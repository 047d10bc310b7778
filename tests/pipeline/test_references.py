from __future__ import annotations

import os
from pathlib import Path

import pytest

from aemodel.errors import JobError, TrainingError
from aemodel.pipeline import references
from aemodel.pipeline.references import locked, work_folder


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("~nosuchuser/x", "'~nosuchuser/x' cannot be made: no home folder is known for ~nosuchuser; set --work-dir"),
        ("a\0b", r"'a\\x00b' cannot be made: .*null"),
        ("x" * 5_000, "cannot be made: File name too long"),
        ("file/x", "cannot be made: Not a directory"),
    ],
)
def test_a_work_folder_that_cannot_be_is_refused(
    given: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(JobError, match=reason):
        work_folder(given)
    assert os.listdir(tmp_path) == ["file"]


def test_runs_of_jobs_with_dots_in_their_names_do_not_wait_for_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "RUN_LOCK_SECONDS", 0.05)
    with locked(tmp_path / "fl.v1-ab12"):
        with locked(tmp_path / "fl.v2-ab12"):
            pass
        with pytest.raises(TrainingError, match="another process is working on"), locked(tmp_path / "fl.v1-ab12"):
            pass

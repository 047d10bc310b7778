from __future__ import annotations

import os
from pathlib import Path

import pytest

from aemodel import __version__
from aemodel.errors import JobError, TrainingError
from aemodel.pipeline import references
from aemodel.pipeline.references import code_version, locked, work_folder


def test_the_work_folder_is_the_one_given_or_the_environment_s_or_a_hidden_one_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AEMODEL_WORK_DIR", raising=False)
    assert work_folder(None) == tmp_path / ".aemodel"
    monkeypatch.setenv("AEMODEL_WORK_DIR", str(tmp_path / "set"))
    assert work_folder(None) == tmp_path / "set"
    assert work_folder("given/deep") == tmp_path / "given" / "deep" and (tmp_path / "given" / "deep").is_dir()


def test_the_code_s_version_is_the_release_s_and_the_code_s_own() -> None:
    release, _, code = code_version().partition("+")
    assert release == __version__ and len(code) == 12


def test_one_process_at_a_time_works_in_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "RUN_LOCK_SECONDS", 0.1)
    folder = tmp_path / "runs" / "m-0123"
    with locked(folder):
        assert folder.is_dir()
        with pytest.raises(TrainingError, match="another process is working on m-0123; try again"), locked(folder):
            pass
    with locked(folder):
        pass


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

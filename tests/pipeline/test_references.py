from __future__ import annotations

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


def test_a_work_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JobError, match=r"file/x' cannot be made: Not a directory; set --work-dir$"):
        work_folder(str(tmp_path / "file" / "x"))


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

"""The commands as typed: which function each calls and with what, what is printed, which code it ends with."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aemodel import pipeline
from aemodel.errors import NoVersion
from aemodel.pipeline import Outcome, Promotion
from tests.integration.house import aemodel

OUTCOME = Outcome("m", "3", gate={"passed": True, "reasons": []}, seconds={"total": 1.0})


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text("name: m\ndataset: {uri: rows}\n")
    return path


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """The commands direct the log to where they run."""
    log = logging.getLogger("aemodel")
    before = log.handlers, log.propagate, log.level
    yield
    log.handlers, log.propagate = before[:2]
    log.setLevel(before[2])


def test_without_arguments_the_commands_are_listed() -> None:
    done = aemodel()
    assert all(name in done.output + done.errors for name in ("run", "train", "score", "report", "promote", "rollback"))


@pytest.mark.parametrize(
    ("command", "function"),
    [("run", "run"), ("train", "run_train"), ("score", "run_score"), ("report", "run_report")],
)
def test_a_command_runs_its_part_of_the_job_in_the_work_folder(
    command: str, function: str, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []
    monkeypatch.setattr(pipeline, function, lambda *given: called.append(given) or OUTCOME)
    done = aemodel(command, job, "--work-dir", tmp_path / "work", "--json")
    assert done.code == 0 and done.json["model_version"] == "3"
    ((given, work),) = called
    assert given.name == "m" and work == tmp_path / "work" and work.is_dir()


def test_the_environment_is_laid_over_the_job_file(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEMODEL_TRAINING__SEED", "7")
    monkeypatch.setattr(pipeline, "run", lambda given, _: replace(OUTCOME, model=f"seed-{given.training.seed}"))
    assert aemodel("run", job, "--work-dir", tmp_path / "work", "--json").json["model"] == "seed-7"


def test_a_refusal_ends_with_three_after_its_result(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = replace(OUTCOME, gate={"passed": False, "reasons": ["too low"]})
    monkeypatch.setattr(pipeline, "run", lambda *_: refused)
    done = aemodel("run", job, "--work-dir", tmp_path / "work", "--json")
    assert done.code == 3 and done.json["gate"]["reasons"] == ["too low"] and "REFUSED: too low" in done.errors


def test_a_promotion_and_a_roll_back_say_which_version_the_alias_names_now(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "promote", lambda job, work, *what: Promotion("m", "champion", what[0], "1"))
    monkeypatch.setattr(pipeline, "rollback", lambda job, work, reason: Promotion("m", "champion", reason, None))
    work = ("--work-dir", tmp_path / "work")
    promoted = aemodel("promote", job, "2", "--reason", "it reads well", *work)
    assert promoted.output == "m: champion is version 2, before 1; `aemodel score` writes the table with it\n"
    back = aemodel("rollback", job, "--reason", "0", *work)
    assert back.output == "m: champion is version 0; `aemodel score` writes the table with it\n"


def test_a_move_of_the_alias_wants_a_reason(job: Path) -> None:
    done = aemodel("promote", job, "2")
    assert done.code == 2 and "--reason" in done.errors


def test_a_user_s_error_is_one_line(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise NoVersion("nothing to roll back")

    monkeypatch.setattr(pipeline, "rollback", refuse)
    done = aemodel("rollback", job, "--reason", "odd", "--work-dir", tmp_path / "work")
    assert (done.code, done.errors) == (2, "aemodel: nothing to roll back\n")


def test_a_wrong_job_file_is_refused_without_waiting_for_torch(tmp_path: Path) -> None:
    program = (
        "import json, sys\nfrom aemodel.cli import app\n"
        "try:\n    app(['run', 'no.yaml'])\n"
        "except SystemExit as stopped:\n    print(json.dumps([stopped.code, 'torch' in sys.modules]))\n"
    )
    root = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [2, False] and done.stderr.startswith("aemodel: no job file 'no.yaml'")


def test_preflight_ends_as_the_run_would_where_memory_does_not_do(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(500)), "b": [i % 7 for i in range(500)]}), tmp_path / "rows.parquet")
    path = tmp_path / "small.yaml"
    path.write_text(f"name: m\ndataset: {{uri: {tmp_path / 'rows.parquet'}}}\nmemory_limit: 1MB\n")
    done = aemodel("preflight", path)
    assert done.code == 2 and "500 rows" in done.output
    assert "memory_limit is 1MB, and a run needs about" in done.errors and "row groups" not in done.errors

"""What the flows share: the environment over the job, a refused gate, the command `python -m flows.<name>`."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator

import pytest

from aemodel.config import Job
from aemodel.errors import GateRefused, SnapshotError
from flows.pipeline import pipeline
from flows.running import command, outcome_of, stop_in_order
from tests.flows.conftest import Done
from tests.flows.runs import last_flow_run


@pytest.fixture
def signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def strict(done: Done) -> Job:
    """Of an alias of its own: a version that has it already is not judged again."""
    changed = {"gate": {"min_gain_over_pca": 0.9}, "registry": {**done.job.registry.model_dump(), "alias": "strict"}}
    return Job.model_validate({**done.job.model_dump(), **changed})


def test_the_environment_is_laid_over_the_parameters(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEMODEL_DATASET__URI", str(done.root / "elsewhere"))
    with pytest.raises(SnapshotError, match="elsewhere"):
        pipeline(done.job, done.work)


def test_a_refused_gate_fails_the_flow_after_the_version_is_registered(done: Done, strict: Job) -> None:
    state = pipeline(strict, done.work, return_state=True)
    assert state.is_failed()
    with pytest.raises(GateRefused, match="the gate refused version 1 of orders: .* asks for"):
        state.result()


def test_a_refused_flow_has_an_outcome_all_the_same(done: Done, strict: Job) -> None:
    outcome = outcome_of(pipeline, strict, done.work)
    assert outcome.refused and outcome.model_version == "1" and outcome.table is None


def test_the_command_of_a_refused_job_prints_its_result_and_ends_with_three(
    done: Done, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], signals: None
) -> None:
    job = done.root / "strict.yaml"
    job.write_text((done.root / "job.yaml").read_text() + "gate: {min_gain_over_pca: 0.9}\n")
    monkeypatch.setenv("AEMODEL_REGISTRY__ALIAS", "strict")
    monkeypatch.setattr(sys, "argv", ["flows.pipeline", str(job), "--work-dir", done.work, "--json"])
    with pytest.raises(SystemExit) as stopped:
        command(pipeline)
    out, err = capsys.readouterr()
    assert stopped.value.code == 3
    assert json.loads(out.splitlines()[-1])["gate"]["passed"] is False
    assert "REFUSED: " in err and "Traceback" not in err
    run = last_flow_run()
    assert run.state_name == "Failed" and "the gate refused version 1" in (run.state.message if run.state else "")


def test_the_command_refuses_a_wrong_job_file_in_one_line(
    done: Done, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], signals: None
) -> None:
    monkeypatch.setattr(sys, "argv", ["flows.pipeline", str(done.root / "no.yaml")])
    with pytest.raises(SystemExit) as stopped:
        command(pipeline)
    assert stopped.value.code == 2 and "no job file" in capsys.readouterr().err


def test_a_termination_unwinds_as_an_interrupt_does(signals: None) -> None:
    stop_in_order()
    with pytest.raises(KeyboardInterrupt, match=f"signal {signal.SIGTERM:d}"):
        signal.raise_signal(signal.SIGTERM)

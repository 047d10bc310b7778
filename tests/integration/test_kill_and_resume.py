"""A run that is killed loses nothing: no process is left, and the next run goes on to the same result."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.house import House, aemodel, write_orders

ROOT = Path(__file__).parents[2]
JOB = """
dataset: {{uri: {root}/orders, key: [order_id], label: channel}}
model: {{latent_dim: 3, hidden: [16]}}
training: {{max_epochs: 60, batch_size: 16}}
output: {{uri: {root}/features}}
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> float:
    root = tmp_path_factory.mktemp("uninterrupted")
    return float(_run(root).json["r2"])


def _prepare(root: Path) -> Path:
    write_orders(root / "orders", rows=400)
    job = root / "job.yaml"
    job.write_text(JOB.format(root=root))
    return job


def _run(root: Path):  # type: ignore[no-untyped-def]
    job = root / "job.yaml" if (root / "job.yaml").exists() else _prepare(root)
    done = aemodel("run", job, "--work-dir", root / "work", "--json")
    assert done.code == 0, done.errors
    return done


def _started(root: Path) -> subprocess.Popen[bytes]:
    return _going(root, _prepare(root))


def _going(root: Path, job: Path) -> subprocess.Popen[bytes]:
    """The command, in its sixth epoch."""
    command = [sys.executable, "-m", "aemodel.cli", "run", str(job), "--work-dir", str(root / "work")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until = time.monotonic() + 90
    while time.monotonic() < until and process.poll() is None:
        if any('"epoch": 5' in p.read_text() for p in root.glob("work/runs/*/metrics.jsonl")):
            return process
        time.sleep(0.02)
    raise AssertionError(f"training did not get going: {process.communicate()[1]!r}")


def _workers(root: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if "aemodel.worker" in command and str(root) in command:
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_no_process_and_goes_on_to_the_same_result(
    sent: signal.Signals, tmp_path: Path, uninterrupted: float
) -> None:
    process = _started(tmp_path)
    assert _workers(tmp_path)
    os.kill(process.pid, sent)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == (130 if sent == signal.SIGTERM else -signal.SIGKILL)
    if sent == signal.SIGTERM:
        assert b"run again to go on from the last checkpoint" in errors and b"Traceback" not in errors
    until = time.monotonic() + 20
    while _workers(tmp_path) and time.monotonic() < until:
        time.sleep(0.2)
    assert _workers(tmp_path) == []
    assert not (tmp_path / "features").exists()

    (run,) = (tmp_path / "work" / "runs").glob("*-encoder-*/")
    assert (run / "checkpoints" / "last.ckpt").exists()
    killed_at = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]["step"]
    resumed = _run(tmp_path)
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    later = [e for e in steps if e["event"] == "epoch" and e["step"] > killed_at]
    first_again = next(i for i, e in enumerate(steps) if e["step"] >= killed_at and e["event"] == "epoch")
    assert later and steps[first_again]["step"] >= 5 * 22, "the run began anew instead of going on"
    (told,) = [e["step"] for e in steps if e["event"] == "resumed"]
    assert 0 < told <= steps[first_again]["step"]
    assert f"training goes on from step {told} of {steps[0]['total_steps']}" in resumed.errors
    assert resumed.json["r2"] == pytest.approx(uninterrupted, abs=1e-4)


def test_a_signal_to_one_rank_stops_all_of_them_in_the_same_step(tmp_path: Path) -> None:
    job = _prepare(tmp_path)
    job.write_text(job.read_text().replace("max_epochs: 60", "devices: 2, max_epochs: 60"))
    process = _going(tmp_path, job)
    ranks = [
        pid for pid in _workers(tmp_path) if b"torch.distributed.run" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(ranks) == 2
    os.kill(max(ranks), signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"stopped by a signal; a checkpoint is kept, run again to go on" in errors
    (run,) = (tmp_path / "work" / "runs").glob("*-encoder-*/")
    before = (run / "metrics.jsonl").read_text()
    _run(tmp_path)
    after = (run / "metrics.jsonl").read_text().removeprefix(before)
    known, later = ([json.loads(line) for line in lines.splitlines()] for lines in (before, after))
    assert next(e["step"] for e in later if e["event"] == "epoch") > known[-1]["step"] > 0, "the run began anew"


def test_a_kill_while_scoring_leaves_the_old_table_and_the_next_run_finishes(copy: House) -> None:
    table = copy.root / "features"
    before = os.readlink(table / "current")
    # What a run killed between staging and the switch leaves behind.
    (table / ".staging-0123456789abcdef").mkdir()
    (table / ".staging-0123456789abcdef" / "half.parquet").write_bytes(b"PAR1")
    os.utime(table / ".staging-0123456789abcdef", (0, 0))
    (table / ".current").symlink_to("snapshots/nowhere")
    job = copy.variant(
        "narrow", lambda t: t.replace("latent_dim: 4", "latent_dim: 2").replace("max_epochs: 4", "max_epochs: 2")
    )
    job.write_text(job.read_text() + "gate: {enabled: false}\n")
    done = aemodel("run", job, "--work-dir", copy.work, "--json")
    assert done.code == 0, done.errors
    assert os.readlink(table / "current") != before and done.json["table_version"] == 2
    assert (table / before).exists(), "an older snapshot that a reader may hold is kept"
    assert not list(table.glob(".staging-*"))

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from aemodel import launch
from aemodel.errors import InputError, TrainingError


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Ranks that run a program of the test's instead of the worker, under the real torchrun."""

    def programmed(program: str) -> Path:
        script = tmp_path / "ranks.py"
        script.write_text("import json, os, sys, time, pathlib\nfolder = pathlib.Path(sys.argv[1])\n" + program)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        monkeypatch.setattr(
            launch,
            "_command",
            lambda folder, devices: [*torchrun, f"--nproc-per-node={devices}", str(script), str(folder)],
        )
        run = tmp_path / "run"
        run.mkdir()
        return run

    return programmed


def test_one_rank_is_started_without_a_launcher_and_is_told_that_it_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert launch._command(Path("run"), 1) == [sys.executable, "-m", "aemodel.worker", "run"]
    assert "torch.distributed.run" in launch._command(Path("run"), 2)
    told = launch._environment(1)
    assert [told[n] for n in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")] == ["0", "0", "1", "1"]
    assert launch._environment(2)["RANK"] == "3", "torchrun tells the ranks who they are"


def test_events_are_heard_in_order_and_all_of_them(ranks) -> None:
    run = ranks(
        "with open(folder / 'metrics.jsonl', 'a') as f:\n"
        "    for i in range(500): f.write(json.dumps({'event': 'epoch', 'step': i}) + '\\n')\n"
        "(folder / 'result.json').write_text('{}')\n"
    )
    heard: list[int] = []
    launch.train(run, 1, lambda events: heard.extend(e["step"] for e in events))
    assert heard == list(range(500))


def test_events_of_an_earlier_attempt_are_not_repeated(ranks) -> None:
    run = ranks("(folder / 'result.json').write_text('{}')")
    (run / "metrics.jsonl").write_text(json.dumps({"event": "epoch", "step": 1}) + "\n")
    heard: list[object] = []
    launch.train(run, 1, heard.extend)
    assert heard == []


def test_the_error_that_a_rank_left_for_the_user_is_raised_as_it_is(ranks) -> None:
    run = ranks(
        "(folder / 'error-0.json').write_text(json.dumps({'message': 'part-3 has changed', 'exit_code': 2}))\nsys.exit(2)"
    )
    with pytest.raises(InputError, match="^part-3 has changed$"):
        launch.train(run, 1, lambda _: None)


def test_a_rank_that_dies_is_reported_with_its_cause(ranks) -> None:
    run = ranks("raise ValueError('no such thing')")
    with pytest.raises(TrainingError, match="ValueError: no such thing; run again to resume"):
        launch.train(run, 1, lambda _: None)


def test_ranks_that_end_because_another_has_are_not_the_cause(ranks) -> None:
    following = "print('[rank1]: ConnectionError: another rank has ended')\nsys.exit(1)"
    with pytest.raises(TrainingError, match="ValueError: no such thing; run again to resume"):
        launch.train(ranks("print('[rank0]: ValueError: no such thing')\n" + following), 1, lambda _: None)


def test_a_run_that_ends_without_a_result_is_an_error(ranks) -> None:
    run = ranks("print('done nothing')")
    with pytest.raises(TrainingError, match="run again to resume"):
        launch.train(run, 1, lambda _: None)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # the latter if it dies between open and read
        return False
    return state != "Z"


def _gone(pids: list[int], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(_alive(p) for p in pids):
            return True
        time.sleep(0.2)
    return False


WAITS = (
    "sys.path.insert(0, os.environ['AEMODEL_ROOT'])\n"
    "from aemodel.launch import die_with_parent\n"
    "die_with_parent()\n"
    "(folder / f'pid-{os.environ[\"RANK\"]}').write_text(str(os.getpid()))\n"
    "time.sleep(120)\n"
)


def _pids(run: Path, count: int) -> list[int]:
    until = time.monotonic() + 200
    while time.monotonic() < until:
        found = [int(p.read_text()) for p in run.glob("pid-*") if p.read_text()]
        if len(found) == count:
            return found
        time.sleep(0.2)
    raise AssertionError("the ranks did not start")


def test_an_exception_in_the_parent_ends_every_rank(ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEMODEL_ROOT", str(Path(launch.__file__).parents[1]))
    run = ranks(WAITS)
    threading.Thread(target=lambda: (_pids(run, 2), os.kill(os.getpid(), signal.SIGTERM))).start()
    with pytest.raises(KeyboardInterrupt):
        launch.train(run, 2, lambda _: None)
    assert _gone(_pids(run, 2), 5)


def test_killing_the_parent_outright_leaves_no_rank(ranks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = str(Path(launch.__file__).parents[1])
    monkeypatch.setenv("AEMODEL_ROOT", root)
    run = ranks(WAITS)
    command = launch._command(run, 2)
    program = (
        f"import sys; sys.path.insert(0, {root!r})\n"
        "from pathlib import Path\nfrom aemodel import launch\n"
        f"launch._command = lambda folder, devices: {command!r}\n"
        f"launch.train(Path({str(run)!r}), 2, lambda _: None)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path)
    pids = _pids(run, 2)
    parent.kill()
    parent.wait()
    assert _gone(pids, 20)

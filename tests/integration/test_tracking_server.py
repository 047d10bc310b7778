"""A real MLflow server: what a SQLite file lets pass, it may refuse."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.house import JOB, aemodel, write_orders


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = f"sqlite:///{tmp_path / 'server.db'}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", store, "--artifacts-destination", str(tmp_path / "artifacts")]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except OSError:
                assert time.monotonic() < until and process.poll() is None, "the server did not start"
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def test_a_job_registers_at_a_server_and_scores_with_what_it_finds_there(server: str, tmp_path: Path) -> None:
    write_orders(tmp_path / "orders", rows=400)
    job = tmp_path / "job.yaml"
    job.write_text(JOB.format(root=tmp_path) + f"registry: {{tracking_uri: '{server}'}}\n")
    done = aemodel("run", job, "--work-dir", tmp_path / "work", "--json")
    assert done.code == 0, done.errors
    assert done.json["alias"] == "champion" and done.json["rows"] == 400
    elsewhere = aemodel("score", job, "--work-dir", tmp_path / "other_machine", "--json")
    assert elsewhere.code == 0 and elsewhere.json["changed"] is False

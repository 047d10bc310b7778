from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature

from aemodel.bundle import Bundle
from aemodel.config import OutputJob, RegistryJob
from aemodel.errors import RegistryError, TrackingServerError
from aemodel.registry import Registry, Version, signature_of


@pytest.fixture
def registry(work: Path) -> Registry:
    return Registry(RegistryJob(), work)


def _versions(registry: Registry, count: int) -> list[Version]:
    """Versions without a model behind them: what aliases and tags need."""
    registry.client.create_registered_model("m")
    made = [registry.client.create_model_version("m", "file:///nowhere", None) for _ in range(count)]
    return [Version("m", str(v.version)) for v in made]


def test_a_run_is_found_again_by_its_key(registry: Registry) -> None:
    first = registry.start_run("m", "key-1", {"a": 1}, {"t": "x"})
    assert registry.start_run("m", "key-1", {"a": 1}, {"t": "x"}) == first
    assert registry.start_run("m", "key-2", {}, {}) != first
    run = registry.client.get_run(first)
    assert run.data.params == {"a": "1"} and run.data.tags["t"] == "x"


def test_metrics_are_logged_by_step_in_any_number(registry: Registry) -> None:
    run = registry.start_run("m", "key", {}, {})
    registry.log_metrics(run, [("loss", 1 / (i + 1), i) for i in range(2_345)])
    history = registry.client.get_metric_history(run, "loss")
    assert len(history) == 2_345 and sorted(m.step for m in history)[-1] == 2_344


def test_metrics_that_cannot_be_logged_do_not_fail_the_run(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.log_metrics("no-such-run", [("loss", 1.0, 0)])
    assert "could not log metrics" in caplog.text


def test_an_alias_that_is_not_there_resolves_to_nothing(registry: Registry) -> None:
    assert registry.resolve("unknown", "champion") is None
    (version,) = _versions(registry, 1)
    assert registry.resolve("m", "champion") is None
    assert registry.promote(version, None)
    assert registry.resolve("m", "champion") == version


def test_a_promotion_is_refused_when_another_run_was_faster(registry: Registry) -> None:
    old, faster, mine = _versions(registry, 3)
    assert registry.promote(old, None)
    assert registry.promote(faster, old)
    assert not registry.promote(mine, old)
    assert registry.resolve("m", "champion") == faster
    assert registry.promote(faster, old), "what is promoted already stays so"


def test_a_promoted_challenger_is_one_no_longer(registry: Registry) -> None:
    (version,) = _versions(registry, 1)
    registry.challenge(version)
    assert registry.resolve("m", "challenger") == version
    registry.promote(version, None)
    assert registry.resolve("m", "challenger") is None


def test_a_version_that_cannot_be_registered_fails_the_run(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("disk full at postgres://me:secret@db/x\nmore")

    monkeypatch.setattr(registry.client, "create_model_version", refuse)
    monkeypatch.setattr(registry, "_upload", lambda *_: ("file:///x", None))
    with pytest.raises(
        RegistryError, match=r"could not register a version at .*: disk full at postgres://\*\*\*@db/x; run again"
    ):
        registry.register("run", "m", "key", None, Path(), OutputJob(), {})  # type: ignore[arg-type]


def test_a_new_database_is_opened_by_many_processes_at_once(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\nfrom aemodel.registry import Registry\nfrom aemodel.config import OutputJob, RegistryJob\n"
        "import sys\nRegistry(RegistryJob(), Path(sys.argv[1])).start_run('m', sys.argv[2], {}, {})"
    )
    root = Path(__file__).parents[1]
    started = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(i)], cwd=root) for i in range(3)]
    assert [p.wait(120) for p in started] == [0, 0, 0]


class _Broken(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


def test_a_server_that_answers_with_an_error_is_told_from_one_that_is_up(tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), _Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(
            TrackingServerError, match=r"does not answer \(HTTP 503\): start the server or mend the address"
        ):
            Registry(RegistryJob(tracking_uri=f"http://127.0.0.1:{server.server_port}"), tmp_path)
    finally:
        server.shutdown()


def test_the_signature_names_every_input_as_optional_and_every_output(mixed_bundle: Bundle) -> None:
    signature = signature_of(mixed_bundle, OutputJob())
    assert isinstance(signature, ModelSignature)
    inputs = {c.name: c for c in signature.inputs.inputs}
    assert set(inputs) == set(mixed_bundle.input_columns) and not any(c.required for c in inputs.values())
    assert {str(c.type) for c in inputs.values()} == {"Any"}, "the transform, not MLflow, says what can be read"
    outputs = {c.name: str(c.type) for c in signature.outputs.inputs}
    assert outputs["ae_03"] == "DataType.float" and outputs["ae_reason_1"] == "DataType.string"
    names = [c.name for c in signature.outputs.inputs]
    assert names[:4] == ["ae_00", "ae_01", "ae_02", "ae_03"] and names[-1] == "ae_model_version"


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrackingServerError, match=r"http://\[::1 is no address \(Invalid IPv6 URL\); mend it"):
        Registry(RegistryJob(tracking_uri="http://[::1"), tmp_path)

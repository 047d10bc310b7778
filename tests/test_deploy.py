"""What `deploy/` says, as far as it can be checked without Docker, Kubernetes and Slurm."""

from __future__ import annotations

import copy
import importlib
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import flows  # noqa: F401  (sets what Prefect reads when it is imported)
from aemodel.cli import app
from aemodel.config import ENVIRONMENT_PREFIX, WORK_DIR_VARIABLE
from aemodel.job_file import load_job, parse_job

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
JOBS = sorted((DEPLOY / "jobs").glob("*.yaml"))
PREFECT = yaml.safe_load((DEPLOY / "prefect.yaml").read_text())
DEPLOYMENTS = {d["entrypoint"]: d for d in PREFECT["deployments"]}
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def _flow(entrypoint: str) -> Any:
    path, name = entrypoint.split(":")
    assert (ROOT / path).is_file()
    return getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)


def _kubernetes(kind: str) -> list[dict[str, Any]]:
    parts = [p for f in (DEPLOY / "kubernetes").glob("*.yaml") for p in yaml.safe_load_all(f.read_text())]
    return [p for p in parts if p["kind"] == kind]


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.yaml")), ids=lambda p: str(p.relative_to(DEPLOY)))
def test_every_yaml_file_parses(path: Path) -> None:
    assert all(list(yaml.safe_load_all(path.read_text())))


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.name)
def test_every_job_file_parses(path: Path) -> None:
    assert load_job(path, {}).name


def test_the_three_flows_are_deployed_under_names_of_their_own() -> None:
    assert set(DEPLOYMENTS) == {f"flows/{name}.py:{name}" for name in ("pipeline", "train", "score")}
    names = [(_flow(entrypoint).name, d["name"]) for entrypoint, d in DEPLOYMENTS.items()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("entrypoint", DEPLOYMENTS)
def test_a_deployments_parameters_are_those_of_its_flow(entrypoint: str) -> None:
    from prefect.exceptions import ParameterTypeError

    flow, deployment = _flow(entrypoint), DEPLOYMENTS[entrypoint]
    assert deployment["enforce_parameter_schema"] is True
    assert flow.validate_parameters(deployment["parameters"])["job"].name == deployment["parameters"]["job"]["name"]
    for key, value in {"modle": {}, "model": {"latent_dim": 0}}.items():
        wrong = copy.deepcopy(deployment["parameters"])
        wrong["job"][key] = value
        with pytest.raises(ParameterTypeError, match=key):
            flow.validate_parameters(wrong)


def test_the_pipeline_runs_daily_in_a_time_zone() -> None:
    from prefect.client.schemas.schedules import CronSchedule

    (schedule,) = DEPLOYMENTS["flows/pipeline.py:pipeline"]["schedules"]
    checked = CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    assert re.fullmatch(r"\d+ \d+ \* \* \*", checked.cron)
    assert "schedules" not in DEPLOYMENTS["flows/train.py:train"]


def test_the_same_job_stands_everywhere() -> None:
    job = load_job(DEPLOY / "jobs" / "flights.yaml", {})
    for deployment in DEPLOYMENTS.values():
        assert parse_job(deployment["parameters"]["job"], "prefect.yaml") == job
    (config,) = _kubernetes("ConfigMap")
    mounted = parse_job(yaml.safe_load(config["data"]["job.yaml"]), "ConfigMap")
    assert mounted.training_digest == job.training_digest


def test_compose_holds_no_secret() -> None:
    """Every password comes from the environment, and none has a default."""
    variables = {k: str(v) for s in COMPOSE["services"].values() for k, v in (s.get("environment") or {}).items()}
    addresses = [v for v in variables.values() if "@" in v]
    assert addresses and all(re.search(r"//[^:/@]+:\$\{POSTGRES_PASSWORD\}@", a) for a in addresses)
    secret = {k: v for k, v in variables.items() if re.search("PASSWORD|SECRET|TOKEN|_KEY", k)}
    assert secret and all(re.fullmatch(r"\$\{\w+(:\?[^}]*)?\}", v) for v in secret.values())


def test_compose_services_know_one_another_and_listen_on_this_machine_only() -> None:
    services = COMPOSE["services"]
    assert set(services) == {"postgres", "mlflow", "prefect", "deployments", "worker"}
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert services["worker"]["command"][-1] == PREFECT["deployments"][0]["work_pool"]["name"]
    tracking = services["worker"]["environment"]["AEMODEL_REGISTRY__TRACKING_URI"].removeprefix("http://")
    assert tracking in services["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")


def test_the_cron_job_runs_the_command_line_and_leaves_time_for_a_checkpoint() -> None:
    from aemodel.errors import GateRefused, InputError
    from aemodel.launch import GRACE_SECONDS

    (cron,) = _kubernetes("CronJob")
    job = cron["spec"]["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"][:2] == ["aemodel", "run"]
    assert "run" in {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    assert pod["terminationGracePeriodSeconds"] >= max(60, 2 * GRACE_SECONDS)
    assert pod["enableServiceLinks"] is False and pod["securityContext"]["runAsNonRoot"] is True
    never_again = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert never_again["containerName"] == container["name"]
    assert never_again["values"] == [InputError.exit_code, GateRefused.exit_code]
    assert pod["restartPolicy"] == "Never"
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    claims = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
    assert claims - {"data"} == {c["metadata"]["name"] for c in _kubernetes("PersistentVolumeClaim")}


def test_no_environment_variable_set_here_is_refused_as_an_unknown_section() -> None:
    """A variable that begins as the job's do, and names no section, ends every run with exit code 2."""
    text = "\n".join(p.read_text() for p in DEPLOY.rglob("*") if p.is_file() and p.suffix in ("", ".yaml", ".sbatch"))
    names = set(re.findall(rf"\b{ENVIRONMENT_PREFIX}[A-Z_]+", text)) - {WORK_DIR_VARIABLE, "AEMODEL_SERVICE_HOST"}
    assert names == {"AEMODEL_REGISTRY__TRACKING_URI"}
    job = parse_job({"dataset": {"uri": "x"}}, "job", dict.fromkeys(names, "sqlite:///x.db"))
    assert job.registry.tracking_uri == "sqlite:///x.db"


def test_the_image_is_constrained_and_runs_without_root() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    assert any("pip install" in line and "-c constraints.txt" in line for line in lines)
    user = max(i for i, line in enumerate(lines) if line.startswith("USER "))
    assert lines[user].split()[1] not in ("root", "0")
    assert not any(line.startswith("RUN") for line in lines[user:])
    copied = {name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]}
    assert all((ROOT / name).exists() for name in copied)
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignore if line.startswith("!")} == copied


def test_the_batch_script_is_bash_and_asks_for_one_node() -> None:
    path = DEPLOY / "slurm" / "aemodel.sbatch"
    subprocess.run(["bash", "-n", str(path)], check=True)
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)", path.read_text(), re.MULTILINE))
    assert options["nodes"] == options["ntasks"] == "1"

"""The model registry: runs, versions, aliases. The only module that knows MLflow (with `pyfunc_model`).

Metrics that cannot be logged never fail a run. A version that cannot be registered always does.
"""

from __future__ import annotations

import logging
import os
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock

from aemodel.bundle import Bundle
from aemodel.columns import columns_of
from aemodel.config import CHALLENGER, OutputJob, RegistryJob
from aemodel.errors import RegistryError, TrackingServerError, redacted, shown, without_secrets

# A dead server would otherwise be asked for minutes by every single call.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_ENV_CREATION", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types.schema import AnyType, ColSpec, DataType, Schema

log = logging.getLogger("aemodel")
for _talkative in ("mlflow", "alembic"):
    logging.getLogger(_talkative).setLevel(logging.WARNING)

KEY_TAG = "aemodel.key"
PREVIOUS_TAG = "aemodel.previous"
ROLLED_BACK_TAG = "aemodel.rolled_back"
BEHIND_TAG = "aemodel.behind"
PROMOTED_TAG = "aemodel.promoted_by_hand"
#: What a registered version needs to load and predict; the versions are those that wrote it.
REQUIREMENTS = (
    "mlflow",
    "torch",
    "numpy",
    "pandas",
    "pyarrow",
    "safetensors",
    "pydantic",
    "PyYAML",
)
METRICS_A_CALL = 1_000
PING_SECONDS = 5.0
PING_ATTEMPTS = 3

T = TypeVar("T")


@dataclass(frozen=True)
class Version:
    name: str
    number: str
    run_id: str = field(default="", compare=False)


class Registry:
    """A connection to the job's tracking server, or to the SQLite file in the work folder."""

    def __init__(self, job: RegistryJob, work: Path) -> None:
        self.job, self.work = job, work.resolve()
        self.embedded = job.tracking_uri is None
        #: Of promotions, among the processes that share a work folder.
        self.promotions = FileLock(self.work / ".promote.lock")
        self.uri = job.tracking_uri or f"sqlite:///{self.work / 'mlflow.db'}"
        if self.uri.startswith(("http://", "https://")):
            _ping(self.uri)
        self.work.mkdir(parents=True, exist_ok=True)
        with FileLock(self.work / ".mlflow.lock"):  # two processes may not create a new database's tables at once
            self._open()

    def _open(self) -> None:
        """The first call shows whether the address is one and lets us in. Raises TrackingServerError."""
        try:
            mlflow.set_tracking_uri(self.uri)
            self.client = MlflowClient(self.uri)
            self.client.search_experiments(max_results=1)
        except Exception as error:  # stores raise errors of their own, of SQLAlchemy's, of the driver's
            raise TrackingServerError(
                f"the tracking server {redacted(self.uri)} cannot be used ({_first_line(error)}): "
                "mend registry.tracking_uri or start the server"
            ) from None

    def start_run(self, name: str, key: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """The id of the run for `key`; a run that was cut short is taken up again."""
        experiment = self._experiment(name)
        found = self._call(
            "search runs",
            lambda: self.client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{key}'", max_results=1),
        )
        if found:
            return str(found[0].info.run_id)
        run = self._call("create a run", lambda: self.client.create_run(experiment, tags={**tags, KEY_TAG: key}))
        entries = [Param(k, str(v)[:250]) for k, v in params.items()]
        self._try("log parameters", lambda: self.client.log_batch(run.info.run_id, params=entries))
        return str(run.info.run_id)

    def log_metrics(self, run_id: str, metrics: Sequence[tuple[str, float, int]]) -> None:
        """Log (name, value, step) triples in as few calls as the server allows."""
        now = int(time.time() * 1000)
        entries = [Metric(name, float(value), now, step) for name, value, step in metrics]
        for start in range(0, len(entries), METRICS_A_CALL):
            part = entries[start : start + METRICS_A_CALL]
            self._try("log metrics", partial(self.client.log_batch, run_id, metrics=part))

    def log_dataset(self, run_id: str, name: str, uri: str, digest: str, rows: int, columns: Sequence[str]) -> None:
        """The pinned snapshot as the run's dataset, under its own digest (MLflow keeps 36 characters)."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        schema = '{"columns": ' + str(len(columns)) + "}"
        dataset = Dataset(
            name, digest[:32], "local", f'{{"uri": "{redacted(uri)}"}}', schema, f'{{"num_rows": {rows}}}'
        )
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
        self._try("log the dataset", lambda: self.client.log_inputs(run_id, inputs))

    def log_file(self, run_id: str, path: Path) -> None:
        self._try("log a file", lambda: self.client.log_artifact(run_id, str(path)))

    def register(
        self, run_id: str, name: str, key: str, bundle: Bundle, folder: Path, output: OutputJob, tags: Mapping[str, str]
    ) -> Version:
        """Register what lies in `folder` as a version of `name`, once for a key however often it is called.

        `folder`/bundle is what inference needs, and is given as `bundle` too; `folder`/kept stays beside it.
        """
        known = self.version_of(name, key)
        if known:
            return known
        uri, model_id = self._call("upload the model", lambda: self._upload(run_id, bundle, folder, output))
        self._call("register the model", lambda: self._ensure_model(name))
        made = self._call(
            "register a version",
            lambda: self.client.create_model_version(name, uri, run_id, tags={**tags, KEY_TAG: key}, model_id=model_id),
        )
        return Version(name, str(made.version), run_id)

    def finish(self, run_id: str, failed: bool = False) -> None:
        self._try("end the run", lambda: self.client.set_terminated(run_id, "FAILED" if failed else "FINISHED"))

    def resolve(self, name: str, alias: str) -> Version | None:
        """The version that an alias names now, pinned by its number; None where there is none."""
        try:
            found = self._call("resolve an alias", lambda: self.client.get_model_version_by_alias(name, alias))
        except RegistryError as error:
            if isinstance(error.__cause__, MlflowException) and error.__cause__.error_code in (
                "RESOURCE_DOES_NOT_EXIST",
                "INVALID_PARAMETER_VALUE",
            ):
                return None
            raise
        return Version(name, str(found.version), str(found.run_id))

    def fetch(self, version: Version) -> Path:
        """A version's folder on this machine, downloaded once: `bundle/` in it, and `kept/`."""
        from mlflow.artifacts import download_artifacts

        target = self.work / "models" / version.name / version.number
        found = [p.parents[1] for p in target.rglob("bundle.json")] if target.exists() else []
        if not found:
            uri = f"models:/{version.name}/{version.number}"
            target.mkdir(parents=True, exist_ok=True)
            self._call("download the model", lambda: download_artifacts(uri, dst_path=str(target)))
            found = [p.parents[1] for p in target.rglob("bundle.json")]
        if not found:
            raise RegistryError(f"version {version.number} of {shown(version.name)} holds no bundle; register it again")
        return found[0]

    def set_tags(self, version: Version, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            call = partial(self.client.set_model_version_tag, version.name, version.number, key, value)
            self._call("tag a version", call)

    def tags_of(self, version: Version) -> dict[str, str]:
        """Raises RegistryError, also when there is no such version."""
        found = self._call("read a version", lambda: self.client.get_model_version(version.name, version.number))
        return dict(found.tags)

    def promote(self, version: Version, expected: Version | None) -> bool:
        """Point the job's alias at `version` if it still names `expected`; False if another run was faster.

        The version remembers which one it took over from, so that a roll-back finds its way.
        """
        with self.promotions:
            if self.resolve(version.name, self.job.alias) not in (expected, version):
                return False
            if expected is not None and expected != version:
                self.set_tags(version, {PREVIOUS_TAG: expected.number})
            self._call(
                "promote", lambda: self.client.set_registered_model_alias(version.name, self.job.alias, version.number)
            )
            challenger = self.resolve(version.name, CHALLENGER)
            if challenger == version:
                self._call("promote", lambda: self.client.delete_registered_model_alias(version.name, CHALLENGER))
        return True

    def challenge(self, version: Version) -> None:
        """Mark the newest version that is not promoted."""
        self._call(
            "set an alias", lambda: self.client.set_registered_model_alias(version.name, CHALLENGER, version.number)
        )

    def _experiment(self, name: str) -> str:
        found = self._call("look up the experiment", lambda: self.client.get_experiment_by_name(name))
        if found is None:
            root = (self.work / "mlartifacts").as_uri() if self.embedded else None
            return str(self._call("create the experiment", lambda: self.client.create_experiment(name, root)))
        if found.lifecycle_stage == "deleted":
            self._call("restore the experiment", lambda: self.client.restore_experiment(found.experiment_id))
        return str(found.experiment_id)

    def _upload(self, run_id: str, bundle: Bundle, folder: Path, output: OutputJob) -> tuple[str, str | None]:
        package = Path(__file__).parent
        with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*An input example was not provided")
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(package / "pyfunc_model.py"),
                artifacts={part: str(folder / part) for part in ("bundle", "kept")},
                code_paths=[str(package)],
                signature=signature_of(bundle, output),
                pip_requirements=[f"{r}=={installed(r).partition('+')[0]}" for r in REQUIREMENTS],
                model_config={"output": output.model_dump(mode="json")},
            )
        return str(info.model_uri), info.model_id

    def _ensure_model(self, name: str) -> None:
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def version_of(self, name: str, key: str) -> Version | None:
        """The version that was registered for a key; None where there is none."""
        query = f"name = '{name}' and tags.`{KEY_TAG}` = '{key}'"
        found = self._call("search versions", lambda: self.client.search_model_versions(query))
        return Version(name, str(found[0].version), str(found[0].run_id)) if found else None

    def numbers_of(self, name: str) -> list[str]:
        """The numbers of all versions of a model, rising; none of a model that is not there."""
        found = self._call("list versions", lambda: self.client.search_model_versions(f"name = '{name}'"))
        return [str(number) for number in sorted(int(version.version) for version in found)]

    def _call(self, what: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except Exception as error:  # MLflow raises its stores' own errors; all mean that the call was not done
            raise RegistryError(
                f"could not {what} at {redacted(self.uri)}: {_first_line(error)}; run again when it answers"
            ) from error

    def _try(self, what: str, call: Callable[[], object]) -> None:
        try:
            self._call(what, call)
        except RegistryError as error:
            log.warning("%s", error)


def signature_of(bundle: Bundle, output: OutputJob) -> ModelSignature:
    """Inputs by name, all optional, and outputs with their types.

    An input is of any type: MLflow refuses what it cannot cast without loss before the model sees it, and with that
    the very rows that were trained on as pandas reads them (partitions as categories, zoned timestamps, integers with
    nulls). The transform reads each for what it means, as it does those of a table.
    """
    any_type = AnyType()  # type: ignore[no-untyped-call]
    inputs: list[Any] = [ColSpec(any_type, name, required=False) for name in bundle.input_columns]
    columns = columns_of(output, bundle.job, bundle.model.latent_dim, bundle.transform.layout.width)
    outputs: list[Any] = [ColSpec(DataType.float, n) for n in columns.numbers]
    outputs += [ColSpec(DataType.string, n, required=n == columns.model_version) for n in columns.texts]
    return ModelSignature(Schema(inputs), Schema(outputs))


def _ping(uri: str) -> None:
    """A server that does not answer is found before any work is done. Raises TrackingServerError."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise TrackingServerError(f"registry.tracking_uri {redacted(uri)} is no address ({error}); mend it") from None
    reason = ""
    health = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/") + "/health", "", ""))
    for attempt in range(PING_ATTEMPTS):
        try:
            with urllib.request.urlopen(health, timeout=PING_SECONDS):
                return
        except urllib.error.HTTPError as error:
            if error.code < 500:  # it answers; whether it lets us in, the first call will show
                return
            reason = f"HTTP {error.code}"
        except (OSError, ValueError) as error:
            reason = str(getattr(error, "reason", error))
        time.sleep(attempt)
    raise TrackingServerError(
        f"registry.tracking_uri {redacted(uri)} does not answer ({without_secrets(reason)}): "
        "start the server or mend the address"
    )


def _first_line(error: BaseException) -> str:
    return without_secrets((str(error).strip().splitlines() or [type(error).__name__])[0][:300])

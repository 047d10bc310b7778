"""The job file: one frozen section a stage, unknown keys refused by name, everything but `dataset.uri` defaulted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from aemodel.errors import JobError, nearest, shown
from aemodel.files import digest

Kind = Literal["numeric", "boolean", "categorical", "datetime", "vector"]
Auto = Literal["auto"]
Name = Annotated[str, Field(min_length=1)]

ENVIRONMENT_PREFIX = "AEMODEL_"
WORK_DIR_VARIABLE = "AEMODEL_WORK_DIR"
#: The alias of the newest version that the gate refused.
CHALLENGER = "challenger"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(MB|GB)", re.IGNORECASE)
#: `latent_dim: auto` chooses among widths up to this.
MAX_AUTO_LATENTS = 64
#: Inputs of so many dimensions get larger hidden layers with `hidden: auto`.
WIDE = 512


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ColumnJob(Section):
    """What the job says of one column; the rest is decided from its Arrow type and a sample."""

    kind: Kind


class SplitJob(Section):
    """Which rows are held out: a hash of the row's content, the latest by a column, or whole groups of one."""

    by: Literal["hash", "time", "group"] = "hash"
    column: Name | None = None
    holdout: Annotated[float, Field(gt=0, le=0.5)] = 0.1

    @model_validator(mode="after")
    def _column_where_it_is_used(self) -> SplitJob:
        if (self.by == "hash") != (self.column is None):
            needs = "takes no column" if self.by == "hash" else "needs a column"
            raise ValueError(f"split by {self.by} {needs}")
        return self


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = [n for n in names if names.count(n) > 1]
    if twice:
        raise ValueError(f"{shown(twice[0])} stands twice")
    return names


#: A list of columns; a single one may stand without brackets.
Columns = Annotated[tuple[Name, ...], BeforeValidator(_listed), AfterValidator(_each_once)]


class DatasetJob(Section):
    uri: Name
    key: Columns = ()
    label: Name | None = None
    exclude: Columns = ()
    columns: dict[str, ColumnJob] = {}
    split: SplitJob = SplitJob()


class ModelJob(Section):
    preset: Literal["residual", "plain", "variational", "contractive", "sparse", "vanilla"] = "residual"
    latent_dim: Annotated[int, Field(ge=1, le=4096)] | Auto = 16
    hidden: tuple[Annotated[int, Field(ge=1, le=65536)], ...] | Auto = "auto"
    scaling: Literal["quantile", "standard", "minmax"] | None = None
    noise: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    l2: Annotated[float, Field(ge=0)] = 0.0
    nested: bool = False

    @model_validator(mode="after")
    def _vanilla_is_what_the_text_says(self) -> ModelJob:
        if self.preset == "vanilla":
            if self.scaling not in (None, "minmax"):
                raise ValueError("preset vanilla ends in a sigmoid, so its scaling is minmax")
            if self.noise or self.dropout:
                raise ValueError("preset vanilla has neither noise nor dropout")
        if self.nested and self.preset in ("vanilla", "sparse"):
            raise ValueError(f"preset {self.preset} has no order of its latents to nest")
        return self

    @property
    def most_latents(self) -> int:
        """The largest number of latents that may come of it."""
        return MAX_AUTO_LATENTS if self.latent_dim == "auto" else self.latent_dim

    def hidden_for(self, width: int) -> tuple[int, ...]:
        """Sizes of the hidden layers over inputs of `width` dimensions."""
        if self.hidden != "auto":
            return self.hidden
        return (512, 512) if width >= WIDE else (256, 256)

    @property
    def effective_scaling(self) -> Literal["quantile", "standard", "minmax"]:
        return self.scaling or ("minmax" if self.preset == "vanilla" else "quantile")

    @property
    def effective_noise(self) -> float:
        """The mean share of cells that swap noise replaces."""
        return (0.0 if self.preset == "vanilla" else 0.2) if self.noise is None else self.noise


class TrainingJob(Section):
    max_epochs: Annotated[int, Field(ge=1)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1)] | Auto = "auto"
    devices: Annotated[int, Field(ge=1)] | Auto = "auto"
    precision: Literal["auto", "32", "bf16"] = "auto"
    compile: bool | Auto = "auto"
    patience: Annotated[int, Field(ge=1)] = 5
    start: Literal["auto", "cold"] = "auto"
    trim: Annotated[float, Field(ge=0, le=0.1)] = 0.0
    cache_disk_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


def _not_reserved(alias: str) -> str:
    if alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias):
        raise ValueError("MLflow reserves 'latest' and 'v' with a number; choose another name")
    if alias == CHALLENGER:
        raise ValueError(f"{shown(CHALLENGER)} is the alias of versions that are not promoted; choose another name")
    return alias


class RegistryJob(Section):
    tracking_uri: Name | None = None
    alias: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$"), AfterValidator(_not_reserved)] = "champion"


class GateJob(Section):
    enabled: bool = True
    min_gain_over_pca: float = 0.0
    on_change: Literal["refuse", "new_columns"] = "refuse"


class OutputJob(Section):
    uri: Name | None = None
    format: Literal["parquet"] = "parquet"
    columns: Literal["keys", "all"] = "keys"
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "ae_"
    anomaly: bool = True
    wide: bool = False
    knn: bool = False
    in_training: bool = False


def _is_size(text: str) -> str:
    if not _SIZE.fullmatch(text):
        raise ValueError("a size is a number and MB or GB, such as 1.5GB")
    return text


class Job(Section):
    """One feature-learning job. Relative paths are read from the folder the command is started in."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
    dataset: DatasetJob
    model: ModelJob = ModelJob()
    training: TrainingJob = TrainingJob()
    registry: RegistryJob = RegistryJob()
    gate: GateJob = GateJob()
    output: OutputJob = OutputJob()
    memory_limit: Annotated[str, AfterValidator(_is_size)] | None = None

    @model_validator(mode="after")
    def _wide_where_there_are_layers(self) -> Job:
        if self.output.wide and self.model.preset == "vanilla":
            raise ValueError("output.wide writes hidden layers, of which preset vanilla has none")
        return self

    @model_validator(mode="before")
    @classmethod
    def _name_from_the_dataset(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("name") is None and isinstance(data.get("dataset"), dict):
            return {**data, "name": default_name(str(data["dataset"].get("uri", "")))}
        return data

    @property
    def memory_limit_bytes(self) -> int:
        """0 where there is none."""
        found = _SIZE.fullmatch(self.memory_limit or "")
        return int(float(found[1]) * (10**9 if found[2].upper() == "GB" else 10**6)) if found else 0

    @property
    def output_uri(self) -> str:
        return self.output.uri or f"features/{self.name}"

    @property
    def training_digest(self) -> str:
        """Digest of all that decides what is learned; gate, registry and output may change without a retrain."""
        learned = self.model_dump(mode="json", include={"dataset", "model", "training"})
        learned["dataset"].pop("uri")  # the data is named by its snapshot, wherever it lies
        return digest(learned)


def default_name(uri: str) -> str:
    """A registered model's name from the dataset's: `data/flights/*.parquet` gives `flights-encoder`, and so does
    `data/flights/part-0.parquet`, as many tables have a file of that name."""
    parts = [p for p in re.split(r"[/\\]", uri.partition("://")[2] or uri) if p and not re.search(r"[*?\[]", p)]
    if len(parts) > 1 and re.fullmatch(r"part[-_.]?\d.*\.(parquet|parq)", parts[-1]):
        parts.pop()
    stem = re.sub(r"\.(parquet|parq)$", "", parts[-1]) if parts else "table"
    return (re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-._") or "table")[:80] + "-encoder"


def load_job(path: Path, environment: Mapping[str, str] | None = None) -> Job:
    """Read a job file, with `AEMODEL_SECTION__KEY` variables laid over it. Raises JobError naming the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise JobError(f"no job file {shown(path)}: give the path of a YAML job file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is no text in UTF-8: save it as such" if isinstance(error, UnicodeDecodeError) else error
        raise JobError(f"the job file {shown(path)} cannot be read: {reason}") from None
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)
    except RecursionError:
        raise JobError(f"{path}: it is nested too deeply to be a job; mend the YAML") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not readable as YAML"
        raise JobError(f"{path}{where}: {problem}; mend the YAML") from None
    if not isinstance(data, dict):
        raise JobError(f"{path}: a job file is a mapping with at least `dataset: {{uri: …}}`")
    return parse_job(data, str(path), os.environ if environment is None else environment)


def parse_job(data: Mapping[str, Any], where: str, environment: Mapping[str, str] | None = None) -> Job:
    """A mapping, as read from YAML or given by a flow, into a Job. Raises JobError."""
    try:
        return Job.model_validate(_overlaid(data, environment or {}))
    except ValidationError as error:
        told = _worth_telling(error.errors())
        raise JobError("; ".join(_explain(e, where) for e in told[:3])) from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML lets a later key silently win over an earlier one of the same name; a job file must not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for index, (key, _) in enumerate(node.value):
            if key.value in keys[:index]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {shown(key.value)} stands twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


def _overlaid(data: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """`data` with `AEMODEL_TRAINING__MAX_EPOCHS=3` laid over as training.max_epochs."""
    merged = dict(data)
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == WORK_DIR_VARIABLE:
            continue
        path = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if path[0] not in Job.model_fields:
            raise JobError(f"environment variable {variable}: no such section; {nearest(path[0], Job.model_fields)}")
        target = merged
        for step in path[:-1]:
            inner = target.get(step)
            target[step] = dict(inner) if isinstance(inner, dict) else {}
            target = target[step]
        try:
            target[path[-1]] = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError):
            target[path[-1]] = text
    return merged


def _worth_telling(errors: Sequence[Any]) -> list[Any]:
    """Pydantic's errors less those that follow from others: of each key the first; no missing section where an
    unknown one may be meant; no missing name, which is taken from the dataset."""
    unknown = any(e["type"] == "extra_forbidden" and len(e["loc"]) == 1 for e in errors)
    first: dict[str, Any] = {}
    for error in errors:
        follows = error["type"] == "missing" and len(error["loc"]) == 1 and (unknown or error["loc"] == ("name",))
        if follows:
            continue
        known = first.setdefault(".".join(_path(error)), error)
        if known is not error and error["type"] == "literal_error":  # the other alternative of a union, as 'auto'
            known["msg"] += f", or {error['ctx']['expected']}"
    return list(first.values())


#: What pydantic puts behind a key that may be one of several; under `columns` it is a column's own name.
_ALTERNATIVES = ("int", "float", "bool", "literal['auto']", "constrained-int")


#: For those of pydantic's messages that speak of Python.
_PLAINLY = {
    "model_type": "should be a section of keys, as `key: value`",
    "dict_type": "should be a section of keys, as `key: value`",
    "string_type": "should be text; put it in quotes if it looks like a number",
    "list_type": "should be a list, as `[a, b]`",
    "tuple_type": "should be a list, as `[a, b]`",
}


def _path(error: Any) -> list[str]:
    """The error's key, without the names of a union's alternatives."""
    loc = error["loc"]
    return [str(p) for i, p in enumerate(loc) if p not in _ALTERNATIVES or loc[i - 1] == "columns"]


def _explain(error: Any, where: str) -> str:
    """One line for one pydantic error: file, dotted key, what is wrong, what was meant."""
    path = _path(error)
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key {shown(key)}; {nearest(path[-1], _known_keys(path[:-1]))}"
    if error["type"] == "missing":
        return f"{where}: {shown(key)} is missing; a job needs at least `dataset: {{uri: …}}`"
    message = _PLAINLY.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
    got = error.get("input")
    given = f" (got {shown(got)})" if not isinstance(got, dict) else ""
    return f"{where}: {shown(key) if key else 'the job'}: {message}{given}"


def _known_keys(path: Iterable[str]) -> list[str]:
    section: type[BaseModel] = Job
    for step in path:
        field = section.model_fields.get(step)
        annotation = field.annotation if field else None
        section = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else ColumnJob
    return list(section.model_fields)

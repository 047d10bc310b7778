"""The job file: one frozen section a stage, unknown keys refused by name, everything but `dataset.uri` defaulted."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from aemodel.errors import shown
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

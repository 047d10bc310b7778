"""The names of the output columns, in order: pure functions of the prefix and the number of latents."""

from __future__ import annotations

from dataclasses import dataclass

from aemodel.config import ModelJob, OutputJob

NUM_REASONS = 3


@dataclass(frozen=True)
class OutputColumns:
    prefix: str
    latent_dim: int
    hidden: int = 0
    anomaly: bool = True
    knn: bool = False
    in_training: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """`ae_00 …`; three digits from a hundred latents on."""
        digits = max(2, len(str(self.latent_dim - 1)))
        return tuple(f"{self.prefix}{i:0{digits}d}" for i in range(self.latent_dim))

    @property
    def wide(self) -> tuple[str, ...]:
        """`ae_wide_000 …`: what the encoder's hidden layers give."""
        digits = max(3, len(str(self.hidden - 1)))
        return tuple(f"{self.prefix}wide_{i:0{digits}d}" for i in range(self.hidden))

    @property
    def error(self) -> str:
        return f"{self.prefix}error"

    @property
    def error_rank(self) -> str:
        return f"{self.prefix}error_rank"

    @property
    def knn_error(self) -> str:
        return f"{self.prefix}knn"

    @property
    def training_flag(self) -> str:
        return f"{self.prefix}in_training"

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(f"{self.prefix}reason_{i + 1}" for i in range(NUM_REASONS))

    @property
    def actual(self) -> tuple[str, ...]:
        return tuple(f"{self.prefix}actual_{i + 1}" for i in range(NUM_REASONS))

    @property
    def expected(self) -> tuple[str, ...]:
        return tuple(f"{self.prefix}expected_{i + 1}" for i in range(NUM_REASONS))

    @property
    def model_version(self) -> str:
        return f"{self.prefix}model_version"

    @property
    def numbers(self) -> tuple[str, ...]:
        """Those that are float32 and finite in every row."""
        anomaly = (self.error, self.error_rank) if self.anomaly else ()
        knn = (self.knn_error,) if self.knn else ()
        return (*self.features, *self.wide, *anomaly, *knn)

    @property
    def texts(self) -> tuple[str, ...]:
        """Those that are strings; all but the last may be null."""
        explained = (*self.reasons, *self.actual, *self.expected) if self.anomaly else ()
        return (*explained, self.model_version)

    @property
    def all(self) -> tuple[str, ...]:
        flag = (self.training_flag,) if self.in_training else ()
        return (*self.numbers, *self.texts, *flag)


def columns_of(output: OutputJob, model: ModelJob, latent_dim: int, width: int) -> OutputColumns:
    """The columns that a model of `latent_dim` latents over inputs of `width` dimensions writes."""
    hidden = sum(model.hidden_for(width)) if output.wide else 0
    return OutputColumns(output.prefix, latent_dim, hidden, output.anomaly, output.knn, output.in_training)

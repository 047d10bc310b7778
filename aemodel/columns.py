"""The names of the output columns, in order: pure functions of the prefix and the number of latents."""

from __future__ import annotations

from dataclasses import dataclass

NUM_REASONS = 3


@dataclass(frozen=True)
class OutputColumns:
    prefix: str
    latent_dim: int

    @property
    def features(self) -> tuple[str, ...]:
        """`ae_00 …`; three digits from a hundred latents on."""
        digits = max(2, len(str(self.latent_dim - 1)))
        return tuple(f"{self.prefix}{i:0{digits}d}" for i in range(self.latent_dim))

    @property
    def error(self) -> str:
        return f"{self.prefix}error"

    @property
    def error_rank(self) -> str:
        return f"{self.prefix}error_rank"

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(f"{self.prefix}reason_{i + 1}" for i in range(NUM_REASONS))

    @property
    def expected(self) -> tuple[str, ...]:
        return tuple(f"{self.prefix}expected_{i + 1}" for i in range(NUM_REASONS))

    @property
    def model_version(self) -> str:
        return f"{self.prefix}model_version"

    @property
    def numbers(self) -> tuple[str, ...]:
        """Those that are float32 and finite in every row."""
        return (*self.features, self.error, self.error_rank)

    @property
    def texts(self) -> tuple[str, ...]:
        """Those that are strings; all but the last may be null."""
        return (*self.reasons, *self.expected, self.model_version)

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.numbers, *self.texts)

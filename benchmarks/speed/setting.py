"""What a run of the benchmark is given, and the job files that it writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed.measure import Method

OURS = "benchmarks.speed.ours"


@dataclass(frozen=True)
class Setting:
    """`scratch`: an absolute folder for tables, runs and outputs; `rows` of the main table; `methods`: only those whose
    name holds one of these, all if there are none."""

    scratch: Path
    rows: int = 1_000_000
    columns: int = 64
    repeats: int = 3
    epochs: int = 3
    peer_python: str = sys.executable
    methods: tuple[str, ...] = ()
    growth_rows: tuple[int, ...] = (200_000, 1_000_000, 5_000_000)
    growth_columns: tuple[int, ...] = (16, 64, 256, 1_024)

    def chosen(self, methods: Iterable[Method]) -> list[Method]:
        return [m for m in methods if not self.methods or any(part in m.name for part in self.methods)]

    def job(
        self, name: str, table: Path, model: dict[str, Any] | None = None, training: dict[str, Any] | None = None
    ) -> Path:
        """Write a job on a table whose key is `id`; the gate is off. The job file."""
        path = self.scratch / "jobs" / f"{name}.yaml"
        sections = {
            "name": name,
            "dataset": {"uri": str(table), "key": ["id"]},
            "model": model or {},
            "training": training or {},
            "gate": {"enabled": False},
            "output": {"uri": str(self.scratch / "outputs" / name)},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(sections), encoding="utf-8")
        return path

    def run_folder(self, name: str) -> Path:
        return self.scratch / "runs" / name


def ours(name: str, command: str, *arguments: object) -> Method:
    """A method of this project."""
    return Method(f"aemodel, {name}", (OURS, command, *map(str, arguments)))


def peer(name: str, module: str, arguments: Sequence[object], needs: Sequence[str], python: str) -> Method:
    return Method(name, (f"benchmarks.speed.{module}", *map(str, arguments)), tuple(needs), python)

"""Which rows a version was trained on: those of files that were pinned then, on the training side of its split."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from aemodel.errors import BundleError, shown
from aemodel.files import read_state, write_json
from aemodel.schema import Column
from aemodel.snapshot import Fragment, Snapshot
from aemodel.split import Place, Split


@dataclass(frozen=True)
class Membership:
    """`files` are digests of the footers of the files that were pinned."""

    split: Split
    files: frozenset[str]

    @classmethod
    def of(cls, split: Split, snapshot: Snapshot) -> Membership:
        return cls(split, frozenset(f.footer for f in snapshot.fragments))

    @property
    def columns(self) -> tuple[str, ...]:
        """What must be read to tell."""
        return tuple(c.name for c in self.split.columns)

    def in_training(self, batch: pa.RecordBatch, fragment: Fragment, row_group: int, begin: int) -> np.ndarray:
        """Boolean (rows,) of the rows of a file from the ordinal `begin` of a row group on.

        Rows of a file that was not pinned as it is now were not trained on, as far as the file tells.
        """
        if fragment.footer not in self.files or any(c not in batch.schema.names for c in self.columns):
            return np.zeros(batch.num_rows, bool)
        return ~self.split.held_out(batch, Place(fragment.path, row_group, begin))

    def save(self, path: Path) -> None:
        write_json(path, {"split": asdict(self.split), "files": sorted(self.files)})

    @classmethod
    def load(cls, path: Path) -> Membership:
        """Raises BundleError where there is none."""
        if not path.exists():
            raise BundleError(f"{shown(path)} is missing: the version was not registered whole; retrain, or mend it")
        state: dict[str, Any] = read_state(path)
        columns = tuple(Column(**c) for c in state["split"]["columns"])
        return cls(Split(**{**state["split"], "columns": columns}), frozenset(state["files"]))

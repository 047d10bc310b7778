"""Which rows a version was trained on: those of files that were pinned then, on the training side of its split.

A version that went on from another was trained on that one's rows too, and on those of the ones before.
"""

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
    """`files` are digests of the footers of the files that were pinned; `parent`: of the version that training went
    on from."""

    split: Split
    files: frozenset[str]
    parent: Membership | None = None

    @classmethod
    def of(cls, split: Split, snapshot: Snapshot, parent: Membership | None = None) -> Membership:
        files = frozenset(f.footer for f in snapshot.fragments)
        if parent is not None and parent.split == split:  # one of equal split, however many retrains there are
            return cls(split, files | parent.files, parent.parent)
        return cls(split, files, parent)

    def unchanged_in(self, snapshot: Snapshot) -> bool:
        """Whether the files of back then are there as they were, so that a place is still that of the same row."""
        return self.files <= {f.footer for f in snapshot.fragments}

    @property
    def columns(self) -> tuple[str, ...]:
        """What must be read to tell."""
        before = self.parent.columns if self.parent else ()
        return tuple(dict.fromkeys([*(c.name for c in self.split.columns), *before]))

    def in_training(self, batch: pa.RecordBatch, fragment: Fragment, row_group: int, begin: int) -> np.ndarray:
        """Boolean (rows,) of the rows of a file from the ordinal `begin` of a row group on.

        Rows of a file that was not pinned as it is now were not trained on, as far as the file tells.
        """
        before = np.zeros(batch.num_rows, bool)
        if self.parent is not None:
            before = self.parent.in_training(batch, fragment, row_group, begin)
        if fragment.footer not in self.files or any(c.name not in batch.schema.names for c in self.split.columns):
            return before
        return before | ~self.split.held_out(batch, Place(fragment.path, row_group, begin))

    def save(self, path: Path) -> None:
        write_json(path, self._state())

    def _state(self) -> dict[str, Any]:
        before = self.parent._state() if self.parent else None
        return {"split": asdict(self.split), "files": sorted(self.files), "parent": before}

    @classmethod
    def load(cls, path: Path) -> Membership:
        """Raises BundleError where there is none."""
        if not path.exists():
            raise BundleError(f"{shown(path)} is missing: the version was not registered whole; retrain, or mend it")
        return cls._from(read_state(path))

    @classmethod
    def _from(cls, state: dict[str, Any]) -> Membership:
        columns = tuple(Column(**c) for c in state["split"]["columns"])
        before = cls._from(state["parent"]) if state.get("parent") else None
        return cls(Split(**{**state["split"], "columns": columns}), frozenset(state["files"]), before)

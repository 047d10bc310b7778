"""Encoded row groups on the local disk, mapped into memory: nobody decodes what somebody did, and nobody holds it.

Preparing leaves what it has encoded; the ranks of a machine share the folder, and what one has written the others find.
A run that goes on finds it too.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from pathlib import Path

import numpy as np

from aemodel.layout import EncodedRows, Layout
from aemodel.plan import TrainingGroup

log = logging.getLogger("aemodel")

#: Its folder in that of a run.
CACHE = "cache"
SUFFIX = ".rows"


class RowCache:
    """Files of one row group each: its values, then its codes, as they lie in memory."""

    def __init__(self, folder: Path, layout: Layout, most_bytes: int) -> None:
        """`most_bytes` bounds what this process adds."""
        self.folder, self.layout, self.free_bytes = folder, layout, most_bytes
        self._mapped: dict[TrainingGroup, EncodedRows] = {}

    @classmethod
    def on_disk(cls, folder: Path, layout: Layout, share: float, processes: int) -> RowCache:
        """One that takes, with those of the machine's other `processes` and what is there already, at most `share` of
        the disk's free bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        kept = sum(file.stat().st_size for file in folder.glob(f"*{SUFFIX}"))
        most = share * (shutil.disk_usage(folder).free + kept) - kept
        return cls(folder, layout, max(0, int(most / processes)))

    def has(self, group: TrainingGroup) -> bool:
        return self._path(group).exists()

    def expect(self, group: TrainingGroup, start: int, stop: int) -> None:
        """Have the system read rows that it does not hold in memory, while something else is done."""
        if not hasattr(os, "posix_fadvise"):
            return
        codes, values = 4 * self.layout.num_codes, 4 * self.layout.num_values
        try:
            with open(self._path(group), "rb") as file:
                for begin, size in ((0, values), (group.rows * values, codes)):
                    if size:  # none would mean all
                        where = begin + start * size, (stop - start) * size
                        os.posix_fadvise(file.fileno(), *where, os.POSIX_FADV_WILLNEED)
        except OSError as error:  # another rank has ended, and removed them, say: it is no more than a hint
            log.debug("%s is not read ahead: %s", self._path(group), error)

    def load(self, group: TrainingGroup) -> EncodedRows | None:
        """The group's rows, mapped; None if they are not kept.

        They stay mapped: to map them anew, page by page, takes as long as to copy them.
        """
        if group in self._mapped:
            return self._mapped[group]
        try:
            mapped = np.memmap(self._path(group), np.uint8, "r")
        except (FileNotFoundError, ValueError):  # none, or of no bytes
            return None
        size = 4 * group.rows * self.layout.num_values
        values = mapped[:size].view(np.float32).reshape(group.rows, self.layout.num_values)
        codes = mapped[size:].view(np.int32).reshape(group.rows, self.layout.num_codes)
        self._mapped[group] = EncodedRows(np.asarray(values), np.asarray(codes))
        return self._mapped[group]

    def save(self, group: TrainingGroup, rows: EncodedRows) -> None:
        """Keep the group's rows where there is room; a disk that is full ends the keeping, not the training."""
        if rows.nbytes > self.free_bytes:
            return
        partial = self.folder / f".{uuid.uuid4().hex}"
        try:
            with open(partial, "wb") as file:
                rows.values.tofile(file)
                rows.codes.tofile(file)
            os.replace(partial, self._path(group))
        except OSError as error:
            log.warning("no more encoded rows are kept for the next epoch, which will decode them: %s", error)
            self.free_bytes = 0
            partial.unlink(missing_ok=True)
        else:
            self.free_bytes -= rows.nbytes

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, group: TrainingGroup) -> Path:
        return self.folder / f"{group.fragment}-{group.row_group}{SUFFIX}"

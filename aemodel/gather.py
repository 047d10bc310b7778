"""Gathers the rows of a plan's windows: decoded once, then from the cache of encoded rows, in memory or on a device."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch

from aemodel.layout import EncodedRows
from aemodel.model import Batch
from aemodel.plan import Plan, TrainingGroup, Window
from aemodel.row_cache import RowCache
from aemodel.snapshot import Snapshot
from aemodel.split import Place, Split
from aemodel.transform import Transform

#: Rows that are looked through for missing values at once.
AT_ONCE = 2_048
ANOTHER_SPLIT = "the split of a pinned row group gave other rows than the plan"
#: Of a device's free memory, what training rows may take.
DEVICE_SHARE = 0.5


class EncodedRowGroups:
    """The training rows of a snapshot's row groups, encoded; decoded once where there is a cache with room."""

    def __init__(self, snapshot: Snapshot, split: Split, transform: Transform, cache: RowCache | None = None) -> None:
        self.snapshot, self.split, self.transform, self.cache = snapshot, split, transform, cache
        names = [c.column.name for c in transform.columns] + [c.name for c in split.columns]
        self.columns = [n for n in snapshot.schema.names if n in names]
        self._last: tuple[TrainingGroup, EncodedRows] | None = None
        self._lock = threading.Lock()

    def __call__(self, group: TrainingGroup) -> EncodedRows:
        with self._lock:
            kept = self.cache.load(group) if self.cache else None
            if kept is not None:
                return kept
            if self._last and self._last[0] == group:
                return self._last[1]
            rows = self.decoded(group)
            self.keep(group, rows)
            self._last = (group, rows)
            return rows

    def keep(self, group: TrainingGroup, rows: EncodedRows) -> None:
        """In the cache, if there is one with room: what was decoded for another use."""
        if self.cache:
            self.cache.save(group, rows)

    def decoded(self, group: TrainingGroup) -> EncodedRows:
        """Decoded and encoded anew, by as many threads at once as ask."""
        layout, path = self.transform.layout, self.snapshot.fragments[group.fragment].path
        values = np.empty((group.rows, layout.num_values), np.float32)
        codes = np.empty((group.rows, layout.num_codes), np.int32)
        nulled, begin, end = np.zeros(len(layout.blocks), np.int64), 0, 0
        for batch in self.snapshot.read(group.fragment, group.row_group, self.columns):
            held = self.split.held_out(batch, Place(path, group.row_group, begin))
            part = self.transform.apply(batch.filter(pa.array(~held)))
            begin, start, end = begin + batch.num_rows, end, end + len(part)
            assert end <= group.rows, ANOTHER_SPLIT
            values[start:end], codes[start:end] = part.values, part.codes
            nulled += part.nulled
        assert end == group.rows, ANOTHER_SPLIT
        return EncodedRows(values, codes, tuple(nulled.tolist()))


class Gather(Protocol):
    def __call__(self, window: Window, room: Batch | None = None) -> Batch:
        """The rows of a window, in the order of its extents, and perhaps others behind them. `room` is what was given
        before and is no longer used: new memory takes three times as long to fill."""

    def at_hand(self, window: Window) -> bool:
        """Whether that is a copy within memory that a processor's steps wait for: a thread beside theirs, of which
        each waits for the others, was seen to cost five times what it did."""

    def expect(self, window: Window) -> None:
        """One that is at hand comes next."""


class OnHost:
    """Gathers windows in memory. Another `device` gets them copied from pinned memory while the last one is used."""

    def __init__(
        self,
        read: Callable[[TrainingGroup], EncodedRows],
        cache: RowCache | None = None,
        device: torch.device | None = None,
    ) -> None:
        """`cache` is where `read` finds what was encoded before."""
        self.read, self.cache, self.device = read, cache, device or torch.device("cpu")
        self._complete: dict[TrainingGroup, bool] = {}

    def __call__(self, window: Window, room: Batch | None = None) -> Batch:
        parts, complete = [], True
        for extent in window.extents:
            rows = self.read(extent.group)
            complete &= self._is_complete(extent.group, rows)
            parts.append(rows[extent.start : extent.stop])
        batch = _concatenated(parts, complete, room if self.device.type == "cpu" else None)
        return batch if self.device.type == "cpu" else batch.pinned().to(self.device, non_blocking=True)

    def _is_complete(self, group: TrainingGroup, rows: EncodedRows) -> bool:
        """Whether no value of a group is missing: looked through once, which takes as long as to copy them."""
        if group not in self._complete:
            found = (rows.values[begin : begin + AT_ONCE] for begin in range(0, len(rows), AT_ONCE))
            self._complete[group] = not any(np.isnan(part).any() for part in found)
        return self._complete[group]

    def at_hand(self, window: Window) -> bool:
        cache = self.cache if self.device.type == "cpu" else None
        return cache is not None and all(cache.has(e.group) for e in window.extents)

    def expect(self, window: Window) -> None:
        assert self.cache is not None
        for extent in window.extents:
            self.cache.expect(extent.group, extent.start, extent.stop)


def _concatenated(parts: list[EncodedRows], complete: bool, room: Batch | None) -> Batch:
    """`parts`, in `room` if that has as many rows: at the beginning of it, the rest is as it was.

    Not by torch, which would start threads for a thread that asked: where there are more than cores, those of a step
    wait asleep for one another from then on, which takes half as long again (libgomp).
    """
    rows = sum(len(part) for part in parts)
    if room is None or len(room.values) < rows:
        like = parts[0]
        values, codes = (np.empty((rows, a.shape[1]), a.dtype) for a in (like.values, like.codes))
        room = Batch(torch.from_numpy(values), torch.from_numpy(codes))
    np.concatenate([part.values for part in parts], out=room.values.numpy()[:rows])
    np.concatenate([part.codes for part in parts], out=room.codes.numpy()[:rows])
    return Batch(room.values, room.codes, complete)


class OnDevice:
    """Holds all training rows on a device, each row group once it was asked for, and gathers windows there."""

    def __init__(self, read: Callable[[TrainingGroup], EncodedRows], device: torch.device) -> None:
        self.read, self.device = read, device
        self._groups: dict[TrainingGroup, Batch] = {}

    def __call__(self, window: Window, room: Batch | None = None) -> Batch:
        return Batch.concatenated(*(self._group(e.group)[e.start : e.stop] for e in window.extents))

    def at_hand(self, window: Window) -> bool:
        return False

    def expect(self, window: Window) -> None: ...

    def _group(self, group: TrainingGroup) -> Batch:
        if group not in self._groups:
            self._groups[group] = Batch.of(self.read(group)).to(self.device)
        return self._groups[group]


def gather_on(
    device: torch.device,
    plan: Plan,
    read: Callable[[TrainingGroup], EncodedRows],
    row_bytes: int,
    cache: RowCache | None = None,
) -> OnHost | OnDevice:
    """How windows are gathered for steps on a device: there, where its free memory holds all rows that a rank may meet
    beside the training itself. `cache` is where `read` finds what was encoded before."""
    if device.type == "cpu":
        return OnHost(read, cache)
    free, _ = torch.cuda.mem_get_info(device)
    if plan.num_rows * row_bytes <= DEVICE_SHARE * free:
        return OnDevice(read, device)
    return OnHost(read, cache, device)

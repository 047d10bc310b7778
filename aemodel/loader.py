"""Streams a plan: whole batches in bounded memory, and a state from which an epoch goes on exactly."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch

from aemodel.errors import TrainingError
from aemodel.layout import EncodedRows
from aemodel.model import Batch
from aemodel.plan import Plan, TrainingGroup, Window
from aemodel.row_cache import RowCache
from aemodel.snapshot import Snapshot
from aemodel.split import Place, Split
from aemodel.transform import Transform

#: A window's rows, and the order in which they are used.
_Ready = tuple[Batch, torch.Tensor]

STATE_VERSION = 3
#: Rows, bytes and steps that are handed over at once, at most: see `Learner.training_step`. They should lie in the
#: cache from when they are gathered until they are used; wide rows, whose steps take longer, need no bursts.
BURST_ROWS, BURST_BYTES, BURST_STEPS = 32_768, 8 * 2**20, 32
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


def burst_steps(batch_size: int, row_bytes: int) -> int:
    """A power of two: windows of the usual batches are then whole bursts, whose times can be compared."""
    most = min(BURST_STEPS, BURST_ROWS // batch_size, BURST_BYTES // (row_bytes * batch_size))
    return 1 << (max(1, most).bit_length() - 1)


class TrainingLoader:
    """An iterable that Lightning can resume: each `iter` is one epoch of one rank, in `len` bursts of some batches.

    State: version, epoch, step and the plan it belongs to. A state of another plan (world size, batch size, seed or
    rows) is refused, because it would read some rows twice and others never.
    """

    def __init__(self, plan: Plan, rank: int, gather: Gather, epochs: int = 1, row_bytes: int = 4) -> None:
        """Of the `epochs` that are expected, the next one's first window is read while the last of one is used. A row
        takes `row_bytes`."""
        self.plan, self.rank, self.gather, self.epochs = plan, rank, gather, epochs
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        self._begun: tuple[Window, Future[_Ready]] | None = None
        self._used: Batch | None = None
        self._room: Batch | None = None
        self.epoch, self.step = 0, 0
        self.burst = burst_steps(plan.batch_size, row_bytes)
        self._length = sum(-(-window.steps // self.burst) for window in plan.windows(0, rank))

    def close(self) -> None:
        """Read nothing more, and hold nothing."""
        self._reader.shutdown(cancel_futures=True)
        self._begun = self._used = self._room = None

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        # Whoever knows `len` may stop after the last burst without asking for one more: an epoch ends here, not there.
        if self.step >= self.plan.steps:
            self.epoch, self.step = self.epoch + 1, 0
        size, done = self.plan.batch_size, 0
        windows = self.plan.windows(self.epoch, self.rank)
        following = self.plan.windows(self.epoch + 1, self.rank)[:1] if self.epoch + 1 < self.epochs else []
        for window, ahead in zip(windows, [*windows[1:], *following, None], strict=False):
            if done + window.steps > self.step:
                rows, order = self._taken(window)
                if ahead is not None:
                    self._begin(ahead)
                for begin in range(self.step - done, window.steps, self.burst):
                    end = min(begin + self.burst, window.steps)
                    self.step += end - begin
                    yield rows[order[begin * size : end * size]]
            done += window.steps

    def _begin(self, window: Window) -> None:
        """To read it, while the steps of the last one are taken."""
        if self.gather.at_hand(window):
            self.gather.expect(window)
        else:
            self._begun = window, self._reader.submit(self._ready, window, self._given_room())

    def _taken(self, window: Window) -> _Ready:
        self._room, (begun, self._begun) = self._used, (self._begun, None)
        ahead = begun is not None and begun[0] == window
        rows, order = begun[1].result() if begun and ahead else self._ready(window, self._given_room())
        self._used = rows if rows.values.device.type == "cpu" else None  # a device's are made anew
        return rows, order

    def _given_room(self) -> Batch | None:
        room, self._room = self._room, None
        return room

    def _ready(self, window: Window, room: Batch | None) -> _Ready:
        """Rows are shuffled burst by burst, by whoever takes a step: a thread that shuffled a whole window beside it
        would keep the threads of a step waiting for one another."""
        rows = self.gather(window, room)
        return rows, torch.from_numpy(window.order()).to(rows.values.device)

    def state_dict(self) -> dict[str, Any]:
        return {"version": STATE_VERSION, "epoch": self.epoch, "step": self.step, "plan": self._plan_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state.get("version") != STATE_VERSION or state.get("plan") != self._plan_state():
            raise TrainingError(
                f"the checkpoint's data position ({state.get('plan')}) does not fit this run ({self._plan_state()}): "
                "resume with the same devices and batch size, or remove the run's checkpoints folder to start anew"
            )
        self.epoch, self.step = state["epoch"], state["step"]

    def _plan_state(self) -> dict[str, int]:
        plan = self.plan
        return {
            "rows": plan.num_rows,
            "world_size": plan.world_size,
            "batch_size": plan.batch_size,
            "seed": plan.seed,
        }


class HeldOutLoader:
    """Every rank's share of the held-out rows, as batches, in order; one without rows where there are fewer than
    ranks, as each takes part in adding up."""

    def __init__(self, rows: EncodedRows, rank: int, world_size: int, batch_rows: int) -> None:
        self.rows = rows[np.arange(rank, len(rows), world_size)]
        self.batch_rows = batch_rows

    def __len__(self) -> int:
        return max(1, -(-len(self.rows) // self.batch_rows))

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, max(1, len(self.rows)), self.batch_rows):
            yield Batch.of(self.rows[start : start + self.batch_rows])

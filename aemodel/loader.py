"""Streams a plan: whole batches in bounded memory, and a state from which an epoch goes on exactly."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from aemodel.errors import TrainingError
from aemodel.gather import Gather
from aemodel.layout import EncodedRows
from aemodel.model import Batch
from aemodel.plan import Plan, Window

#: A window's rows, and the order in which they are used.
_Ready = tuple[Batch, torch.Tensor]

STATE_VERSION = 3
#: Rows, bytes and steps that are handed over at once, at most: see `Learner.training_step`. They should lie in the
#: cache from when they are gathered until they are used; wide rows, whose steps take longer, need no bursts.
BURST_ROWS, BURST_BYTES, BURST_STEPS = 32_768, 8 * 2**20, 32


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

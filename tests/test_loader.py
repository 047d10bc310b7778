from __future__ import annotations

import json
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aemodel.config import Job
from aemodel.errors import SnapshotChanged, TrainingError
from aemodel.gather import EncodedRowGroups, OnDevice, OnHost
from aemodel.layout import EncodedRows
from aemodel.loader import BURST_BYTES, BURST_ROWS, BURST_STEPS, HeldOutLoader, TrainingLoader, burst_steps
from aemodel.model import Batch
from aemodel.plan import WINDOW_ROWS, Plan, TrainingGroup, Window, plan_for
from aemodel.prepared import Prepared, prepare, table_schema
from aemodel.row_cache import RowCache
from aemodel.snapshot import Snapshot, open_snapshot
from tests import tables
from tests.plans import GROUPS, SmallWindows, equal, named_rows, places, small


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_the_ranks_together_read_the_plan_s_rows_once_each(world_size: int) -> None:
    plan = small(world_size)
    epochs = [list(TrainingLoader(plan, rank, OnHost(named_rows))) for rank in range(world_size)]
    assert [len(places(e)) for e in epochs] == [plan.steps * plan.batch_size] * world_size
    found = [place for epoch in epochs for place in places(epoch)]
    expected = {
        (e.group.fragment, e.group.row_group, i)
        for rank in range(world_size)
        for window in plan.windows(0, rank)
        for e in window.extents
        for i in range(e.start, e.stop)
    }
    assert len(found) == len(set(found)) == plan.steps * world_size * plan.batch_size
    assert set(found) == expected


def test_bursts_are_of_whole_batches_end_with_a_window_and_the_length_is_their_count() -> None:
    plan = small()
    loader = TrainingLoader(plan, 0, OnHost(named_rows))
    assert [len(b.values) for b in loader] == [w.rows for w in plan.windows(0, 0)] and len(loader) == 4
    plan = Plan(GROUPS, 1, 2, 0)
    loader = TrainingLoader(plan, 0, OnHost(named_rows))
    assert [len(b.values) for b in loader] == [2 * BURST_STEPS, 2 * BURST_STEPS, 2 * BURST_STEPS, 2 * 11]
    assert len(loader) == 4 and plan.steps == 3 * BURST_STEPS + 11


@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_a_burst_is_bounded_in_rows_bytes_and_steps_and_fills_the_windows_of_usual_batches(
    batch: int, row_bytes: int
) -> None:
    steps = burst_steps(batch, row_bytes)
    assert 1 <= steps <= BURST_STEPS
    assert steps == 1 or (steps * batch <= BURST_ROWS and steps * batch * row_bytes <= BURST_BYTES)
    for usual in (64, 256, 1_024, 2_048, 4_096):
        assert (WINDOW_ROWS // usual) % burst_steps(usual, row_bytes) == 0


def test_a_burst_takes_as_many_steps_as_it_may() -> None:
    rows = BURST_ROWS // 3
    assert burst_steps(rows, 4) == 2 and burst_steps(1, 4) == BURST_STEPS
    assert burst_steps(1_024, 4 * 256) == 8 and burst_steps(4_096, 4 * 1_024) == 1
    plan = Plan((TrainingGroup(0, 0, 7 * rows),), 1, rows, 0)
    loader = TrainingLoader(plan, 0, OnHost(named_rows))
    assert [len(b.values) // rows for b in loader] == [2, 2, 2, 1]


def test_each_epoch_has_an_order_of_its_own() -> None:
    loader = TrainingLoader(small(), 0, OnHost(named_rows))
    first, second = places(list(loader)), places(list(loader))
    assert loader.epoch == 1
    assert first != second


def test_the_next_epoch_is_read_while_the_last_window_is_used_if_there_is_to_be_one() -> None:
    def read(epochs: int) -> tuple[list[Window], list[Window]]:
        gathered: list[Window] = []
        plan = small(batch_size=10)

        class Noted(OnHost):
            def __call__(self, window: Window, room: Batch | None = None) -> Batch:
                gathered.append(window)
                return super().__call__(window, room)

        loader = TrainingLoader(plan, 0, Noted(named_rows), epochs)
        list(loader)
        loader._reader.shutdown()
        return gathered, plan.windows(0, 0) + plan.windows(1, 0)

    for epochs, more in ((1, 0), (2, 1)):
        gathered, windows = read(epochs)
        assert gathered == windows[: len(windows) // 2 + more]


@given(st.integers(1, 3), st.integers(0, 25), st.integers(0, 2))
def test_a_resumed_epoch_gives_exactly_the_remaining_batches(world_size: int, step: int, epoch: int) -> None:
    plan = small(world_size, batch_size=3)
    rank = world_size - 1
    whole = TrainingLoader(plan, rank, OnHost(named_rows), 4)
    for _ in range(epoch):
        list(whole)
    batches, states = [], [whole.state_dict()]
    for batch in whole:
        batches.append(batch)
        states.append(whole.state_dict())
    following = list(whole)
    step = min(step, len(batches))
    resumed = TrainingLoader(plan, rank, OnHost(named_rows))
    resumed.load_state_dict(json.loads(json.dumps(states[step])))
    if step < len(batches):
        assert equal(list(resumed), batches[step:])
    assert equal(list(resumed), following)


def test_a_resume_reads_only_the_row_groups_that_it_still_needs() -> None:
    plan = small(batch_size=10)
    loader = TrainingLoader(plan, 0, OnHost(named_rows))
    loader.load_state_dict({**loader.state_dict(), "step": sum(w.steps for w in plan.windows(0, 0)[:-1])})
    asked: list[TrainingGroup] = []

    def read(group: TrainingGroup) -> EncodedRows:
        asked.append(group)
        return named_rows(group)

    loader.gather = OnHost(read)
    assert len(list(loader)) == 1
    assert set(asked) == {e.group for e in plan.windows(0, 0)[-1].extents}


@pytest.mark.parametrize(
    "other",
    [small(world_size=2), small(batch_size=8), small(seed=1), SmallWindows(GROUPS[:4], 1, 16, 0)],
    ids=["world size", "batch size", "seed", "rows"],
)
def test_the_state_of_another_plan_is_refused_with_the_remedy(other: Plan) -> None:
    loader = TrainingLoader(small(), 0, OnHost(named_rows))
    with pytest.raises(TrainingError, match=r"does not fit this run .*: resume with the same devices and batch size"):
        loader.load_state_dict(TrainingLoader(other, 0, OnHost(named_rows)).state_dict())
    assert (loader.epoch, loader.step) == (0, 0)


@pytest.mark.parametrize("altered", [{"version": 0}, {"plan": None}])
def test_a_state_of_another_format_is_refused(altered: dict[str, Any]) -> None:
    loader = TrainingLoader(small(), 0, OnHost(named_rows))
    with pytest.raises(TrainingError, match="remove the run's checkpoints folder to start anew"):
        loader.load_state_dict({**loader.state_dict(), "step": 3, **altered})
    assert loader.step == 0


def test_the_rows_are_the_same_with_a_cache_that_holds_none_some_or_all(
    tmp_path: Path, mixed_snapshot: Snapshot, mixed_prepared: Prepared
) -> None:
    plan = plan_for(mixed_prepared.groups, 2, 16, 0)
    epochs = []
    for size in (0, 10_000, 2**30):
        cache = RowCache(tmp_path, mixed_prepared.transform.layout, size)
        read = EncodedRowGroups(mixed_snapshot, mixed_prepared.split, mixed_prepared.transform, cache)
        loader = TrainingLoader(plan, 1, OnHost(read))
        epochs.append([*loader, *loader])
    assert equal(epochs[0], epochs[1]) and equal(epochs[0], epochs[2])


def test_what_is_kept_is_gathered_by_whoever_takes_the_steps_after_the_disk_was_asked(
    tmp_path: Path, mixed_snapshot: Snapshot, mixed_prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, gathered, expected = mixed_prepared.transform.layout, [], []
    monkeypatch.setattr(RowCache, "expect", lambda _, *where: expected.append(where))

    class Noted(OnHost):
        def __call__(self, window: Window, room: Batch | None = None) -> Batch:
            gathered.append(threading.current_thread() is threading.main_thread())
            return super().__call__(window, room)

    plan = SmallWindows(mixed_prepared.groups, 1, 16, 0)
    windows = [plan.windows(epoch, 0) for epoch in range(2)]
    for size, here in ((0, False), (2**30, True)):
        gathered.clear()
        cache = RowCache(tmp_path / str(size), layout, size)
        cache.folder.mkdir()
        read = EncodedRowGroups(mixed_snapshot, mixed_prepared.split, mixed_prepared.transform, cache)
        for group in mixed_prepared.groups:
            read(group)
        loader = TrainingLoader(plan, 0, Noted(read, cache), 2)
        list(loader), list(loader)
        # Nobody knew that the first would be wanted.
        assert gathered == [True] + [here] * (sum(map(len, windows)) - 1)
        later = [extent for window in [*windows[0], *windows[1]][1:] for extent in window.extents]
        assert expected == [(e.group, e.start, e.stop) for e in later if here]


def test_windows_follow_one_another_in_the_same_memory(mixed_snapshot: Snapshot, mixed_prepared: Prepared) -> None:
    class Noted(OnHost):
        def __init__(self, kept: bool) -> None:
            super().__init__(read)
            self.kept, self.rooms = kept, set()

        def at_hand(self, window: Window) -> bool:
            return self.kept

        def expect(self, window: Window) -> None: ...

        def __call__(self, window: Window, room: Batch | None = None) -> Batch:
            rows = super().__call__(window, room)
            self.rooms.add(rows.values.data_ptr())
            return rows

    plan = SmallWindows(mixed_prepared.groups, 1, 16, 0)
    read = EncodedRowGroups(mixed_snapshot, mixed_prepared.split, mixed_prepared.transform)
    anew = list(TrainingLoader(plan, 0, OnHost(read)))
    for kept, rooms in ((True, 1), (False, 2)):
        gather = Noted(kept)
        loader = TrainingLoader(plan, 0, gather, 2)
        assert equal(list(loader), anew)
        list(loader)
        assert len(gather.rooms) == rooms < len(plan.windows(0, 0))


def test_a_loader_that_is_closed_holds_no_rows() -> None:
    gathered: list[weakref.ref[torch.Tensor]] = []

    class Noted(OnHost):
        def __call__(self, window: Window, room: Batch | None = None) -> Batch:
            rows = super().__call__(window, room)
            gathered.append(weakref.ref(rows.values))
            return rows

    loader = TrainingLoader(small(), 0, Noted(named_rows), 2)
    list(loader)
    loader.close()
    assert gathered and not any(rows() is not None for rows in gathered)


def test_rows_that_a_device_holds_are_gathered_like_those_in_memory(
    mixed_snapshot: Snapshot, mixed_prepared: Prepared
) -> None:
    plan = plan_for(mixed_prepared.groups, 2, 16, 0)
    read = EncodedRowGroups(mixed_snapshot, mixed_prepared.split, mixed_prepared.transform)
    host, device = (TrainingLoader(plan, 1, g) for g in (OnHost(read), OnDevice(read, torch.device("cpu"))))
    assert equal([*host, *host], [*device, *device])


def test_a_device_reads_each_row_group_once() -> None:
    asked: list[TrainingGroup] = []

    def read(group: TrainingGroup) -> EncodedRows:
        asked.append(group)
        return named_rows(group)

    loader = TrainingLoader(small(), 0, OnDevice(read, torch.device("cpu")))
    for _ in range(3):
        list(loader)
    assert len(asked) == len(set(asked)) == sum(g.rows > 0 for g in GROUPS)


def test_a_file_that_changes_during_an_epoch_ends_it_with_its_name(tmp_path: Path, mixed_job: Job) -> None:
    path = tables.write(tables.mixed(), tmp_path / "data" / "a.parquet")
    snapshot = open_snapshot(str(path))
    prepared = prepare(mixed_job, snapshot, table_schema(snapshot, mixed_job.dataset))
    tables.write(tables.mixed(310), path)
    read = EncodedRowGroups(snapshot, prepared.split, prepared.transform)
    with pytest.raises(SnapshotChanged, match=r"a\.parquet"):
        list(TrainingLoader(plan_for(prepared.groups, 1, 16, 0), 0, OnHost(read)))


@given(st.integers(0, 50), st.integers(1, 5), st.integers(1, 20))
def test_the_ranks_share_the_held_out_rows(count: int, world_size: int, batch_rows: int) -> None:
    rows = replace(named_rows(TrainingGroup(0, 0, count)))
    loaders = [HeldOutLoader(rows, rank, world_size, batch_rows) for rank in range(world_size)]
    batches = [list(loader) for loader in loaders]
    assert [len(loader) for loader in loaders] == [len(b) for b in batches]
    assert sorted(p[2] for part in batches for p in places(part)) == list(range(count))

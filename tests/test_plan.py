from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aemodel.errors import SchemaError
from aemodel.plan import Plan, TrainingGroup, Window, plan_for

SIZES = st.lists(st.integers(0, 60), min_size=1, max_size=12)
WORLD = st.integers(1, 5)
BATCH = st.integers(1, 40)


def plan_of(sizes: list[int], world_size: int, batch_size: int, seed: int = 0) -> Plan:
    assume(sum(sizes) >= world_size)
    groups = [TrainingGroup(i // 3, i % 3, rows) for i, rows in enumerate(sizes)]
    return plan_for(groups, world_size, batch_size, seed)


def rows_of(windows: list[Window]) -> list[tuple[int, int, int]]:
    """(fragment, row group, ordinal) of every row, in the order in which a rank uses them."""
    used = []
    for window in windows:
        rows = [(e.group.fragment, e.group.row_group, i) for e in window.extents for i in range(e.start, e.stop)]
        used += [rows[i] for i in window.order()]
    return used


def epoch_of(plan: Plan, epoch: int, window_rows: int = 50) -> list[list[tuple[int, int, int]]]:
    return [rows_of(plan.windows(epoch, rank, window_rows)) for rank in range(plan.world_size)]


@given(SIZES, WORLD, BATCH, st.integers(0, 5))
def test_every_rank_has_the_same_steps_of_whole_batches(
    sizes: list[int], world_size: int, batch_size: int, epoch: int
) -> None:
    plan = plan_of(sizes, world_size, batch_size)
    for rank in range(world_size):
        windows = plan.windows(epoch, rank, 50)
        assert sum(w.steps for w in windows) == plan.steps
        assert all(w.rows == w.steps * plan.batch_size for w in windows)
    assert plan.steps >= 1


@given(SIZES, WORLD, BATCH, st.integers(0, 5))
def test_no_row_is_read_twice_and_few_are_left_over(
    sizes: list[int], world_size: int, batch_size: int, epoch: int
) -> None:
    plan = plan_of(sizes, world_size, batch_size)
    used = [row for rank in epoch_of(plan, epoch) for row in rank]
    assert len(set(used)) == len(used)
    assert 0 <= plan.num_rows - len(used) < world_size * plan.batch_size
    known = {(g.fragment, g.row_group): g.rows for g in plan.groups}
    assert all(0 <= ordinal < known[fragment, group] for fragment, group, ordinal in used)


@given(SIZES, WORLD, BATCH, st.integers(1, 500))
def test_a_rank_reads_the_same_rows_whatever_fits_in_its_memory(
    sizes: list[int], world_size: int, batch_size: int, window_rows: int
) -> None:
    plan = plan_of(sizes, world_size, batch_size)
    for rank in range(world_size):
        small, large = plan.windows(2, rank, window_rows), plan.windows(2, rank)
        assert sorted(rows_of(small)) == sorted(rows_of(large))
        assert all(w.rows <= max(window_rows, plan.batch_size) for w in small)


@given(SIZES, WORLD, BATCH, st.integers(0, 5))
def test_a_plan_is_the_same_every_time_it_is_made(
    sizes: list[int], world_size: int, batch_size: int, epoch: int
) -> None:
    plan, again = plan_of(sizes, world_size, batch_size), plan_of(sizes, world_size, batch_size)
    assert epoch_of(plan, epoch) == epoch_of(again, epoch)


def test_epochs_and_seeds_differ_in_order_and_in_what_is_left_over() -> None:
    plan = plan_of([50] * 8, 2, 30)
    epochs = [epoch_of(plan, e) for e in range(6)]
    assert len({tuple(map(tuple, e)) for e in epochs}) == 6
    assert len({frozenset(row for rank in e for row in rank) for e in epochs}) > 1
    assert epoch_of(plan_of([50] * 8, 2, 30, seed=1), 0) != epochs[0]


def test_over_some_epochs_every_row_is_read() -> None:
    plan = plan_of([50] * 8, 2, 30)
    assert {row for e in range(20) for rank in epoch_of(plan, e) for row in rank} == {
        (i // 3, i % 3, row) for i in range(8) for row in range(50)
    }


def test_rows_are_shuffled_within_a_window_and_across_row_groups() -> None:
    (used,) = epoch_of(plan_of([100] * 4, 1, 100), 0, window_rows=400)
    first_batch = used[:100]
    assert len({row[:2] for row in first_batch}) == 4
    assert first_batch != sorted(first_batch)


def test_windows_of_one_epoch_are_shuffled_differently() -> None:
    windows = plan_of([400], 2, 50).windows(0, 0, 100) + plan_of([400], 2, 50).windows(0, 1, 100)
    orders = {tuple(w.order()) for w in windows}
    assert len(orders) == len(windows) == 4
    assert all(sorted(o) == list(range(100)) for o in orders)


def test_one_rank_reads_everything_where_the_batch_divides_the_rows() -> None:
    plan = plan_of([7, 0, 13, 20], 1, 10)
    assert len(epoch_of(plan, 0)[0]) == 40
    assert all(g.rows for g in plan.groups)


@pytest.mark.parametrize(
    ("rows", "world_size", "batch_size", "expected"), [(10, 3, 512, 3), (10, 1, 512, 10), (5, 5, 8, 1)]
)
def test_a_batch_is_no_larger_than_a_rank_s_share(rows: int, world_size: int, batch_size: int, expected: int) -> None:
    plan = plan_of([rows], world_size, batch_size)
    assert (plan.batch_size, plan.steps) == (expected, 1)


def test_fewer_rows_than_ranks_are_refused_with_the_remedy() -> None:
    with pytest.raises(SchemaError, match=r"3 training rows for 4 ranks; set training\.devices to 3 or less"):
        plan_for([TrainingGroup(0, 0, 3)], 4, 1, 0)


def test_every_row_is_used_equally_often_in_the_long_run() -> None:
    plan, count = plan_of([11, 29, 3, 17], 2, 7), np.zeros((2, 3, 29), int)
    for epoch in range(400):
        for rank in epoch_of(plan, epoch):
            np.add.at(count, tuple(np.array(rank).T), 1)
    used = count[count > 0]
    assert len(used) == 60
    assert used.min() > 0.8 * used.mean()

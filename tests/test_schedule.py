from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aemodel.config import TrainingJob
from aemodel.schedule import (
    LARGEST_BATCH,
    MAX_AUTO_EPOCHS,
    STEPS_PER_EPOCH,
    TARGET_STEPS,
    TUNED_BATCH,
    global_batch_size,
    schedule_for,
)


@given(st.integers(1, 10**10), st.integers(1, 8_192))
def test_an_automatic_batch_is_a_power_of_two_within_bounds(rows: int, width: int) -> None:
    size = global_batch_size(TrainingJob(), rows, width)
    assert 64 <= size <= LARGEST_BATCH and size & (size - 1) == 0
    assert size <= TUNED_BATCH or rows // size >= STEPS_PER_EPOCH
    assert size >= global_batch_size(TrainingJob(), rows, 1)


def test_an_automatic_batch_is_larger_where_rows_are_wide() -> None:
    assert global_batch_size(TrainingJob(), 6_400, 784) == 256
    assert global_batch_size(TrainingJob(), 6_400, 20) == global_batch_size(TrainingJob(), 500, 784) == 64


def test_a_large_table_has_larger_batches_and_a_rate_to_match() -> None:
    assert [global_batch_size(TrainingJob(), n * 10**5, 64) for n in (3, 5, 9, 200)] == [1024, 2048, 4096, 4096]
    assert [schedule_for(TrainingJob(), b, 10).rate_factor for b in (64, 1024, 4096)] == [1, 1, 2]
    assert schedule_for(TrainingJob(), 2048, 10, world_size=2).rate_factor == 2
    assert schedule_for(TrainingJob(batch_size=4096), 4096, 10).rate_factor == 1, "whoever says a batch has its rate"


@given(st.integers(1, 5_000))
def test_automatic_epochs_reach_the_target_or_the_bound(steps: int) -> None:
    schedule = schedule_for(TrainingJob(), 64, steps)
    assert schedule.max_epochs == MAX_AUTO_EPOCHS or schedule.total_steps >= TARGET_STEPS
    assert schedule.max_epochs >= 1 and schedule.check_epochs <= schedule.max_epochs


def test_the_job_s_own_figures_are_obeyed() -> None:
    job = TrainingJob(batch_size=37, max_epochs=5)
    assert global_batch_size(job, 10**6, 64) == 37
    assert schedule_for(job, 37, 10).max_epochs == 5

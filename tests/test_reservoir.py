from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from aemodel.reservoir import Reservoir

TYPES = pa.schema([("x", pa.int64())])


def sampled(rows: int, at_once: int, priorities: np.ndarray) -> tuple[Reservoir, list[int]]:
    reservoir = Reservoir(TYPES, 10, 1)
    for begin in range(0, rows, at_once):
        numbers = np.arange(begin, min(rows, begin + at_once))
        batch = pa.record_batch([pa.array(numbers)], schema=TYPES)
        reservoir.add(batch, numbers % 3 > 0, priorities[numbers])
    return reservoir, reservoir.table()["x"].to_pylist()


@given(st.integers(0, 6_000), st.sampled_from([100, 700, 10_000]))
def test_the_wanted_rows_of_lowest_priority_are_kept_whatever_batches_they_come_in(rows: int, at_once: int) -> None:
    priorities = np.random.default_rng(rows).permutation(rows).astype(np.uint64)
    reservoir, found = sampled(rows, at_once, priorities)
    wanted = np.flatnonzero(np.arange(rows) % 3 > 0)
    lowest = wanted[np.argsort(priorities[wanted])][: reservoir.limit]
    assert reservoir.seen == len(wanted) and reservoir.limit == 1_024
    assert found == sorted(lowest.tolist())


@given(st.integers(0, 6_000), st.sampled_from([100, 700, 3_000]), st.integers(1, 3))
def test_parts_that_were_begun_before_others_were_merged_give_the_same(rows: int, at_once: int, ahead: int) -> None:
    priorities = np.random.default_rng(rows).permutation(rows).astype(np.uint64)
    reservoir, expected = sampled(rows, at_once, priorities)
    whole, begun = Reservoir(TYPES, 10, 1), list[Reservoir]()
    for begin in range(0, rows, at_once):
        numbers = np.arange(begin, min(rows, begin + at_once))
        begun.append(whole.part())
        begun[-1].add(pa.record_batch([pa.array(numbers)], schema=TYPES), numbers % 3 > 0, priorities[numbers])
        if len(begun) > ahead:
            whole.merge(begun.pop(0))
    for part in begun:
        whole.merge(part)
    assert whole.table()["x"].to_pylist() == expected and whole.seen == reservoir.seen


def test_fewer_rows_are_kept_where_they_are_wide() -> None:
    assert Reservoir(TYPES, 100_000, 8_192).limit == 2_048
    assert Reservoir(TYPES, 100_000, 8_192).part().limit == 2_048

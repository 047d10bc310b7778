from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from aemodel import snapshot
from aemodel.gather import DEVICE_SHARE, EncodedRowGroups, OnDevice, OnHost, gather_on
from aemodel.layout import EncodedRows, Layout
from aemodel.plan import Extent, TrainingGroup, Window
from aemodel.prepared import Prepared
from aemodel.row_cache import RowCache
from aemodel.snapshot import Snapshot
from tests.plans import GROUPS, named_rows, small


def test_a_window_is_complete_where_no_group_of_it_lacks_a_value_which_is_looked_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = list[int]()
    known = np.isnan
    monkeypatch.setattr("aemodel.gather.np.isnan", lambda values: looked.append(len(values)) or known(values))

    def read(group: TrainingGroup) -> EncodedRows:
        rows = named_rows(group)
        rows.values[-1:, 1] = np.nan if group.row_group else 0
        return rows

    whole, lacking = GROUPS[0], GROUPS[1]
    gather = OnHost(read)
    windows = [
        Window(tuple(Extent(group, 0, group.rows) for group in groups), 1, (0,))
        for groups in ((whole,), (whole, lacking), (lacking,), (whole,))
    ]
    assert [gather(window).complete for window in windows] == [True, False, False, True]
    assert looked == [whole.rows, lacking.rows]


def test_a_real_row_group_is_its_training_rows_encoded(mixed_snapshot: Snapshot, mixed_prepared: Prepared) -> None:
    read = EncodedRowGroups(mixed_snapshot, mixed_prepared.split, mixed_prepared.transform)
    assert mixed_prepared.num_training + mixed_prepared.num_held_out == mixed_snapshot.num_rows
    for group in mixed_prepared.groups:
        (batch,) = mixed_snapshot.read(group.fragment, group.row_group, mixed_snapshot.schema.names)
        training = batch.take(np.flatnonzero(~mixed_prepared.split.held_out(batch)))
        expected = mixed_prepared.transform.apply(training)
        assert len(read(group)) == group.rows
        np.testing.assert_array_equal(read(group).values, expected.values)
        np.testing.assert_array_equal(read(group).codes, expected.codes)


def test_a_row_group_that_is_read_in_parts_is_encoded_the_same(
    mixed_snapshot: Snapshot, mixed_prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = EncodedRowGroups(mixed_snapshot, mixed_prepared.split, mixed_prepared.transform)
    group = max(mixed_prepared.groups, key=lambda g: g.rows)
    whole = read.decoded(group)
    monkeypatch.setattr(snapshot, "BATCH_ROWS", 5)
    parts = read.decoded(group)
    np.testing.assert_array_equal(parts.values, whole.values)
    np.testing.assert_array_equal(parts.codes, whole.codes)
    assert parts.nulled == whole.nulled and any(whole.nulled)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted as Linux lists them")
def test_a_thread_that_reads_starts_no_others() -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    most = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.ones(1_000_000).add_(1)  # those of the steps
        group = TrainingGroup(0, 0, 100_000)
        window = Window((Extent(group, 0, 60_000), Extent(group, 60_000, 100_000)), 1, (0,))
        with ThreadPoolExecutor(1) as reader:
            reader.submit(int).result()
            before = threads()
            reader.submit(OnHost(named_rows), window).result()
            assert threads() == before
    finally:
        torch.set_num_threads(most)


def test_a_row_group_that_is_kept_is_not_decoded_again_by_any_rank(
    tmp_path: Path, mixed_snapshot: Snapshot, mixed_prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reader() -> EncodedRowGroups:
        cache = RowCache(tmp_path, mixed_prepared.transform.layout, 2**30)
        return EncodedRowGroups(mixed_snapshot, mixed_prepared.split, mixed_prepared.transform, cache)

    first = [reader()(g) for g in mixed_prepared.groups]
    monkeypatch.setattr(Snapshot, "read", None)  # whoever decodes fails
    for group, rows in zip(mixed_prepared.groups, first, strict=True):
        again = reader()(group)
        np.testing.assert_array_equal(again.values, rows.values)
        np.testing.assert_array_equal(again.codes, rows.codes)


@pytest.mark.parametrize(("free", "kind"), [(214 * 12 / DEVICE_SHARE, OnDevice), (214 * 12 / DEVICE_SHARE - 8, OnHost)])
def test_a_device_holds_the_rows_where_its_memory_does(
    free: float, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free), 0))
    assert small().num_rows == 214
    assert isinstance(gather_on(torch.device("cuda", 0), small(), named_rows, 12), kind)
    assert isinstance(gather_on(torch.device("cpu"), small(), named_rows, 12), OnHost)
    cache = RowCache(tmp_path, Layout((), 1, 0, 1, np.zeros(1), np.ones(1)), 0)
    kept = gather_on(torch.device("cpu"), small(), named_rows, 12, cache)
    assert isinstance(kept, OnHost) and kept.cache is cache

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aemodel.layout import EncodedRows, Layout
from aemodel.plan import TrainingGroup
from aemodel.row_cache import RowCache


def layout(values: int, codes: int) -> Layout:
    return Layout((), values, codes, values, np.zeros(values), np.ones(values))


def rows_of(count: int, values: int, codes: int) -> EncodedRows:
    rng = np.random.default_rng(0)
    encoded = rng.normal(size=(count, values)).astype(np.float32)
    encoded[rng.random(encoded.shape) < 0.1] = np.nan
    return EncodedRows(encoded, rng.integers(0, 9, (count, codes)).astype(np.int32))


@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 5))
def test_rows_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, count: int, values: int, codes: int
) -> None:
    cache = RowCache(tmp_path_factory.mktemp("cache"), layout(values, codes), 10_000)
    group, rows = TrainingGroup(3, 1, count), rows_of(count, values, codes)
    assert cache.load(group) is None
    cache.save(group, rows)
    found = cache.load(group)
    if values + codes:
        assert found is not None
        np.testing.assert_array_equal(found.values, rows.values)
        np.testing.assert_array_equal(found.codes, rows.codes)
    assert cache.load(TrainingGroup(3, 2, count)) is None


def test_what_was_loaded_stays_mapped_when_the_files_are_gone(tmp_path: Path) -> None:
    cache, group, rows = RowCache(tmp_path, layout(2, 1), 10_000), TrainingGroup(3, 1, 10), rows_of(10, 2, 1)
    cache.save(group, rows)
    found = cache.load(group)
    cache.remove()
    assert found is not None and cache.load(group) is found
    np.testing.assert_array_equal(found.values, rows.values)


def test_what_is_soon_wanted_is_asked_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, *where: asked.append(where), raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_WILLNEED", 3, raising=False)
    cache, group = RowCache(tmp_path, layout(2, 1), 10_000), TrainingGroup(3, 1, 10)
    assert not cache.has(group)
    cache.expect(group, 4, 7)  # another rank has ended, and removed it
    assert not asked
    cache.save(group, rows_of(10, 2, 1))
    assert cache.has(group)
    cache.expect(group, 4, 7)
    assert asked == [(4 * 8, 3 * 8, 3), (10 * 8 + 4 * 4, 3 * 4, 3)]
    codes = RowCache(tmp_path / "codes", layout(0, 1), 10_000)
    codes.folder.mkdir()
    codes.save(group, rows_of(10, 0, 1))
    codes.expect(group, 4, 7)
    assert asked[2:] == [(4 * 4, 3 * 4, 3)]


def test_it_takes_no_more_than_it_may(tmp_path: Path) -> None:
    rows = rows_of(10, 2, 1)
    cache = RowCache(tmp_path, layout(2, 1), 2 * rows.nbytes + 1)
    for index in range(4):
        cache.save(TrainingGroup(0, index, 10), rows)
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) == 2 * rows.nbytes
    assert [cache.load(TrainingGroup(0, i, 10)) is not None for i in range(4)] == [True, True, False, False]
    cache.remove()
    assert not tmp_path.exists()


def test_the_ranks_of_a_machine_share_what_the_disk_has(tmp_path: Path) -> None:
    alone, one_of_two = (RowCache.on_disk(tmp_path / "c", layout(1, 0), 0.5, ranks) for ranks in (1, 2))
    assert one_of_two.free_bytes == pytest.approx(alone.free_bytes / 2, rel=0.05) and alone.free_bytes > 0
    assert RowCache.on_disk(tmp_path / "c", layout(1, 0), 0.0, 1).free_bytes == 0


def test_what_was_kept_before_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aemodel.row_cache.shutil.disk_usage", lambda _: SimpleNamespace(free=10_000))
    rows = rows_of(100, 4, 1)
    before = RowCache.on_disk(tmp_path, layout(4, 1), 0.5, 1)
    before.save(TrainingGroup(0, 0, 100), rows)
    assert before.free_bytes == 5_000 - rows.nbytes
    assert RowCache.on_disk(tmp_path, layout(4, 1), 0.5, 1).free_bytes == (10_000 + rows.nbytes) / 2 - rows.nbytes


def test_a_full_disk_ends_the_keeping_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    cache = RowCache(tmp_path, layout(2, 1), 10_000)
    monkeypatch.setattr("os.replace", full)
    cache.save(TrainingGroup(0, 0, 10), rows_of(10, 2, 1))
    assert "No space left on device" in caplog.text and cache.free_bytes == 0
    assert not list(tmp_path.iterdir())

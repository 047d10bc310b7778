from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from aemodel import publish as module
from aemodel.errors import PublishError, TableError
from aemodel.files import digest
from aemodel.publish import Manifest, Table
from tests.publish.published import features, published, read, staged


def everything(root: Path) -> dict[str, int]:
    return {str(p.relative_to(root)): p.lstat().st_mtime_ns for p in root.rglob("*") if p.name != ".lock"}


def test_a_first_publish_can_be_read_by_any_parquet_reader(table: Table) -> None:
    assert table.current is None
    manifest = published(table, "a" * 64, {"month=1/p.parquet": features(), "month=2/p.parquet": features(5)})
    assert (manifest.table_version, manifest.rows) == (1, 10)
    found = pq.read_table(table.path)
    assert found["row_id"].to_pylist() == list(range(10))
    assert sorted(set(found["month"].to_pylist())) == [1, 2]
    assert table.current == manifest
    assert os.readlink(table.path) == "snapshots/000001-aaaaaaaaaaaa"
    assert not list(table.root.glob(".staging-*"))


def test_the_next_publish_replaces_what_readers_see_and_keeps_the_one_before(table: Table) -> None:
    published(table, "a" * 64, {"p.parquet": features()})
    before = table.path.resolve()
    manifest = published(table, "b" * 64, {"p.parquet": features(100)})
    assert manifest.table_version == 2
    assert read(table) == list(range(100, 105))
    assert pq.read_table(before)["row_id"].to_pylist() == list(range(5))


def test_a_reader_that_opened_the_table_before_the_switch_reads_on(table: Table) -> None:
    published(table, "a" * 64, {"p.parquet": features()})
    with pq.ParquetFile(table.path / "p.parquet") as file:
        published(table, "b" * 64, {"p.parquet": features(100)})
        assert file.read()["row_id"].to_pylist() == list(range(5))


def test_the_same_key_again_writes_nothing(table: Table) -> None:
    first = published(table, "a" * 64, {"p.parquet": features()})
    before = everything(table.root)
    with table.lock():
        again = table.commit(Manifest("a" * 64, "flights", "3", "snapshot", "recipe", ()))
    assert again == first
    assert everything(table.root) == before


def test_the_same_key_staged_again_leaves_no_staging(table: Table) -> None:
    first = published(table, "a" * 64, {"p.parquet": features()})
    assert published(table, "a" * 64, {"p.parquet": features()}) == first
    assert not list(table.root.glob(".staging-*"))
    assert len(list((table.root / "snapshots").iterdir())) == 1


def test_files_whose_input_did_not_change_are_links_to_the_last_snapshot_s(table: Table) -> None:
    published(table, "a" * 64, {"x/same.parquet": features(), "y/other.parquet": features(5)})
    old = {p.name: p.stat().st_ino for p in table.path.resolve().rglob("*.parquet")}
    published(table, "b" * 64, {"x/same.parquet": features(), "y/other.parquet": features(50)})
    new = {p.name: p.stat().st_ino for p in table.path.resolve().rglob("*.parquet")}
    assert new["same.parquet"] == old["same.parquet"]
    assert new["other.parquet"] != old["other.parquet"]
    assert read(table) == [*range(5), *range(50, 55)]


def test_a_file_is_reused_only_for_its_own_path_and_source(table: Table) -> None:
    assert table.reusable("s", "p.parquet") is None
    published(table, "a" * 64, {"p.parquet": features()})
    source = digest(features().to_pydict())
    assert table.reusable(source, "p.parquet") == table.path / "p.parquet"
    assert table.reusable(source, "q.parquet") is None
    assert table.reusable("other", "p.parquet") is None


@pytest.mark.parametrize("damage", ["lost", "cut short"])
def test_a_table_that_lost_a_part_is_written_again_under_the_same_key(table: Table, damage: str) -> None:
    files = {"p.parquet": features(), "q.parquet": features(5)}
    published(table, "a" * 64, files)
    part = table.path / "q.parquet"
    if damage == "lost":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-9])
    assert not table.holds("a" * 64)
    assert table.reusable(digest(files["q.parquet"].to_pydict()), "q.parquet") is None
    assert published(table, "a" * 64, files).table_version == 2
    assert read(table) == list(range(10)) and table.holds("a" * 64)


def test_the_switch_is_one_step_that_a_reader_never_sees_half_done(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(table, "a" * 64, {"p.parquet": features()})
    seen, real = [], os.replace

    def replace(source: Path, target: Path) -> None:
        seen.append(read(table))
        real(source, target)
        seen.append(read(table))

    monkeypatch.setattr(os, "replace", replace)
    published(table, "b" * 64, {"p.parquet": features(100)})
    assert seen[-2:] == [list(range(5)), list(range(100, 105))]


def test_a_part_that_was_staged_and_is_gone_is_refused(table: Table) -> None:
    published(table, "a" * 64, {"p.parquet": features()})
    with table.lock():
        manifest = staged(table, "b" * 64, {"p.parquet": features(100)})
        (table.staging("b" * 64) / "p.parquet").unlink()
        with pytest.raises(PublishError, match=r"'p\.parquet' was staged and is gone; run again"):
            table.commit(manifest)
    assert read(table) == list(range(5))


def test_a_damaged_manifest_says_what_to_do(table: Table) -> None:
    published(table, "a" * 64, {"p.parquet": features()})
    (table.path / module.MANIFEST).write_text("{")
    with pytest.raises(TableError, match=r"_manifest\.json' is damaged .*; point `current` at an older snapshot"):
        _ = table.current

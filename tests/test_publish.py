from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from aemodel import publish as module
from aemodel.errors import PublishError, TableError
from aemodel.files import digest
from aemodel.publish import CARDS, CARDS_LINK, Manifest, Part, Table, check_part, link_part, write_part
from aemodel.snapshot import open_snapshot
from tests import tables


def features(begin: int = 0, count: int = 5) -> pa.Table:
    numbers = np.arange(begin, begin + count)
    return pa.table({"row_id": numbers, "ae_00": numbers.astype(np.float32), "ae_error": np.ones(count, np.float32)})


def staged(table: Table, key: str, files: dict[str, pa.Table]) -> Manifest:
    """Stage files for real; one that the current table holds from the same source is linked."""
    staging = table.begin(key)
    parts = []
    for path, rows in files.items():
        source = digest(rows.to_pydict())
        kept = table.reusable(source, path)
        if kept:
            link_part(kept, staging / path)
        else:
            write_part(staging / path, rows.to_batches(), rows.schema)
        parts.append(Part(path, rows.num_rows, source, (staging / path).stat().st_size))
    return Manifest(key, "flights", "3", "snapshot", "recipe", tuple(parts), strangest=({"error": 1.0},))


def published(table: Table, key: str, files: dict[str, pa.Table]) -> Manifest:
    with table.lock():
        return table.commit(staged(table, key, files))


def read(table: Table) -> list[int]:
    return pq.read_table(table.path)["row_id"].to_pylist()


def everything(root: Path) -> dict[str, int]:
    return {str(p.relative_to(root)): p.lstat().st_mtime_ns for p in root.rglob("*") if p.name != ".lock"}


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table.open(str(tmp_path / "features"), None)


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


def published_with_cards(table: Table, key: str, rows: pa.Table, name: str) -> None:
    with table.lock():
        manifest = staged(table, key, {"p.parquet": rows})
        cards = pa.table({"column": ["ae_00"], "name": [name]})
        write_part(table.staging(key) / CARDS, cards.to_batches(), cards.schema)
        table.commit(manifest)


def test_cards_lie_beside_the_table_and_are_read_by_pandas_and_duckdb(table: Table) -> None:
    published_with_cards(table, "a" * 64, features(), "+amount")
    path = table.root / CARDS_LINK
    assert pd.read_parquet(path)["name"].tolist() == ["+amount"]
    assert duckdb.sql(f"SELECT name FROM '{path}' WHERE \"column\" = 'ae_00'").fetchall() == [("+amount",)]


def test_readers_of_the_table_s_rows_do_not_see_the_cards(table: Table) -> None:
    published_with_cards(table, "a" * 64, features(), "+amount")
    assert read(table) == pd.read_parquet(table.path)["row_id"].tolist() == list(range(5))
    assert duckdb.sql(f"SELECT count(*) FROM '{table.path}/**/*.parquet'").fetchall() == [(5,)]


def test_cards_switch_with_the_table_and_before_it_a_killed_run_changes_neither(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    published_with_cards(table, "a" * 64, features(), "+amount")
    seen, real = [], os.replace

    def replace(source: Path, target: Path) -> None:
        seen.append((read(table)[0], pq.read_table(table.root / CARDS_LINK)["name"][0].as_py()))
        real(source, target)
        seen.append((read(table)[0], pq.read_table(table.root / CARDS_LINK)["name"][0].as_py()))

    monkeypatch.setattr(os, "replace", replace)
    published_with_cards(table, "b" * 64, features(100), "+price")
    assert set(seen) == {(0, "+amount"), (100, "+price")}


def test_a_first_publish_that_was_cut_short_before_the_switch_can_be_done_again(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if target.name == "current":
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", replace)
        published_with_cards(table, "a" * 64, features(), "+amount")
    assert (table.root / CARDS_LINK).is_symlink() and not table.path.exists()
    published_with_cards(Table.open(str(table.root), None), "a" * 64, features(), "+amount")
    assert pq.read_table(table.root / CARDS_LINK).num_rows == 1


@pytest.mark.parametrize("before", [False, True])
def test_someone_s_own_file_in_the_place_of_the_cards_is_not_replaced(table: Table, before: bool) -> None:
    if before:
        published(table, "a" * 64, {"p.parquet": features()})
    table.root.mkdir(exist_ok=True)
    (table.root / CARDS_LINK).write_bytes(b"mine")
    with pytest.raises(TableError, match=r"holds other files \('latents\.parquet'\)"):
        Table.open(str(table.root), None)
    assert (table.root / CARDS_LINK).read_bytes() == b"mine"


KILLED_AT: dict[str, Callable[..., bool]] = {
    "while staging": lambda name, *_: name == "write_json",
    "before the snapshot has its name": lambda name, *_: name == "rename",
    "before the link is switched": lambda name, *args: name == "replace" and str(args[1]).endswith("current"),
}


@pytest.mark.parametrize("moment", KILLED_AT)
@pytest.mark.parametrize("key", ["b" * 64, "c" * 64])
def test_killed_before_the_switch_readers_see_the_old_table_and_the_next_run_ends_well(
    table: Table, monkeypatch: pytest.MonkeyPatch, moment: str, key: str
) -> None:
    published(table, "a" * 64, {"p.parquet": features()})

    class Killed(BaseException):
        pass

    def watched(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(*args: object) -> None:
            if KILLED_AT[moment](name, *args):
                raise Killed
            real(*args)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_json", watched("write_json", module.write_json))
        patched.setattr(os, "rename", watched("rename", os.rename))
        patched.setattr(os, "replace", watched("replace", os.replace))
        with pytest.raises(Killed):
            published(table, "b" * 64, {"p.parquet": features(100)})
    assert read(table) == list(range(5))
    assert table.current is not None and table.current.table_version == 1
    for leftover in table.root.glob(".staging-*"):
        os.utime(leftover, (0, 0))  # a day later
    manifest = published(table, key, {"p.parquet": features(200)})
    assert manifest.table_version == 2
    assert read(table) == list(range(200, 205))
    assert not list(table.root.glob(".staging-*"))


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


def test_what_a_killed_run_left_behind_is_removed_once_it_is_old(table: Table) -> None:
    with table.lock():
        left = table.begin("b" * 64)
        (left / "half.parquet").write_bytes(b"PAR1")
        table.begin("c" * 64)
        assert left.exists(), "it may be that of a run that is about to publish"
        os.utime(left, (0, 0))
        table.begin("c" * 64)
    assert not left.exists()
    with table.lock():
        assert list(table.begin("c" * 64).iterdir()) == []


def test_a_part_that_was_staged_and_is_gone_is_refused(table: Table) -> None:
    published(table, "a" * 64, {"p.parquet": features()})
    with table.lock():
        manifest = staged(table, "b" * 64, {"p.parquet": features(100)})
        (table.staging("b" * 64) / "p.parquet").unlink()
        with pytest.raises(PublishError, match=r"'p\.parquet' was staged and is gone; run again"):
            table.commit(manifest)
    assert read(table) == list(range(5))


def test_a_second_writer_is_told_that_another_is_writing(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.05)
    table.root.mkdir()
    message = r"another run is writing '.*'; try again when it is done"
    with FileLock(table.root / ".lock"), pytest.raises(TableError, match=message), table.lock():
        pass


def test_the_lock_of_a_killed_writer_is_free(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os, sys, pathlib; from aemodel.publish import Table\n"
        "lock = Table(pathlib.Path(sys.argv[1])).lock(); lock.__enter__(); os._exit(9)"
    )
    folder = Path(module.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code, str(table.root)], cwd=folder, check=False).returncode == 9
    monkeypatch.setattr(module, "LOCK_SECONDS", 1.0)
    assert published(table, "a" * 64, {"p.parquet": features()}).table_version == 1


@pytest.mark.parametrize("place", ["data", "data/features", "data/part.parquet/../features"])
def test_an_output_inside_the_dataset_is_refused(tmp_path: Path, place: str) -> None:
    tables.write(features(), tmp_path / "data" / "part.parquet")
    with pytest.raises(TableError, match=r"lies inside the dataset '.*data'; choose another folder"):
        Table.open(str(tmp_path / place), open_snapshot(str(tmp_path / "data")))


def test_an_output_that_holds_the_dataset_is_refused(tmp_path: Path) -> None:
    path = tables.write(features(), tmp_path / "data" / "part.parquet")
    for dataset in (tmp_path / "data", path, tmp_path / "d*" / "*.parquet"):
        with pytest.raises(TableError, match=r"the dataset .* lies inside output\.uri .*; choose another folder"):
            Table.open(str(tmp_path), open_snapshot(str(dataset)))


def test_an_output_that_is_a_link_into_the_dataset_is_refused(tmp_path: Path) -> None:
    tables.write(features(), tmp_path / "data" / "part.parquet")
    (tmp_path / "features").symlink_to(tmp_path / "data")
    with pytest.raises(TableError, match="lies inside the dataset"):
        Table.open(str(tmp_path / "features"), open_snapshot(str(tmp_path / "data")))


def test_an_output_beside_the_dataset_is_fine(tmp_path: Path) -> None:
    path = tables.write(features(), tmp_path / "data" / "part.parquet")
    assert Table.open(str(tmp_path / "data2"), open_snapshot(str(tmp_path / "data"))).root == tmp_path / "data2"
    assert Table.open(str(tmp_path / "data" / "features"), open_snapshot(str(path))).root == path.parent / "features"


def test_an_output_below_a_glob_is_refused_only_where_the_glob_would_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tables.write(features(), tmp_path / "part.parquet")
    tables.write(features(), tmp_path / "data1" / "part.parquet")
    for dataset in ("*.parquet", "data*/*.parquet"):
        assert Table.open("features", open_snapshot(dataset)).root == tmp_path / "features"
    for uri, dataset in (("features", "**/*.parquet"), ("data1/features", "data*")):
        with pytest.raises(TableError, match="lies inside the dataset"):
            Table.open(uri, open_snapshot(dataset))


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("~nosuchuser/x", "can be no folder: no home folder is known for ~nosuchuser; choose another"),
        ("a\0b", "can be no folder: embedded null"),
        ("x" * 5_000, "can be no folder: File name too long"),
        ("file.txt/x", "cannot be written: Not a directory; choose another"),
        ("/proc/nope/x", "cannot be written: No such file or directory; choose another"),
    ],
)
def test_an_output_that_cannot_be_made_is_refused(
    uri: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").touch()
    with pytest.raises(TableError, match=reason):
        Table.open(uri, None)
    assert os.listdir(tmp_path) == ["file.txt"]


def test_an_output_that_may_not_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(TableError, match="cannot be written: Permission denied; choose another"):
        Table.open(str(tmp_path), None)


def test_to_open_a_table_makes_no_folder(tmp_path: Path) -> None:
    Table.open(str(tmp_path / "deep" / "features"), None)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["notes.txt", "part.parquet", "current/part.parquet"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "features" / name
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(TableError, match=rf"holds other files \('{name.split('/')[0]}'\); choose an empty folder"):
        Table.open(str(tmp_path / "features"), None)
    assert path.exists()


def test_a_table_of_our_own_is_opened_again_whatever_was_put_beside_it(table: Table) -> None:
    published(table, "a" * 64, {"p.parquet": features()})
    (table.root / "README").touch()
    assert Table.open(str(table.root), None).current == table.current


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "features").touch()
    with pytest.raises(TableError, match="is a file; choose a folder"):
        Table.open(str(tmp_path / "features"), None)


def test_another_file_system_is_refused_without_its_password() -> None:
    with pytest.raises(TableError, match=r"'s3://\*\*\*@bucket/x': format parquet publishes to a local or mounted"):
        Table.open("s3://key:secret@bucket/x", None)


def test_an_output_address_is_read_as_the_dataset_s_is(tmp_path: Path) -> None:
    assert Table.open(f"file://{tmp_path}/my%20features", None).root == tmp_path / "my features"


def test_a_damaged_manifest_says_what_to_do(table: Table) -> None:
    published(table, "a" * 64, {"p.parquet": features()})
    (table.path / module.MANIFEST).write_text("{")
    with pytest.raises(TableError, match=r"_manifest\.json' is damaged .*; point `current` at an older snapshot"):
        _ = table.current


def checked(tmp_path: Path, written: pa.Table, expected: pa.Table, rows: int | None = None) -> None:
    path = tmp_path / "part.parquet"
    assert write_part(path, written.to_batches(max_chunksize=7), written.schema) == written.num_rows
    finite = [n for n in written.column_names if n.startswith("ae_")]
    batches = expected.to_batches(max_chunksize=3)
    check_part(path, batches, expected.num_rows if rows is None else rows, finite)


def with_features(carried: pa.Table) -> pa.Table:
    return carried.append_column("ae_00", pa.array(np.zeros(carried.num_rows, np.float32)))


def test_a_part_that_carries_every_kind_of_column_passes(tmp_path: Path) -> None:
    carried = tables.plain(tables.mixed(40))
    checked(tmp_path, with_features(carried), carried)


MAP = pa.map_(pa.string(), pa.float64())
NESTED = pa.table(
    {
        "large": pa.array([[1.0, np.nan], None, []], pa.large_list(pa.float64())),
        "struct": pa.array([{"a": np.nan, "b": [1.0]}, None, {"a": 1.0, "b": None}]),
        "deep": pa.array([[[np.nan], []], [None], None], pa.list_(pa.list_(pa.float32()))),
        "map": pa.array([[("a", np.nan), ("b", None)], None, []], MAP),
    }
)


def test_a_part_whose_nested_columns_hold_nan_passes(tmp_path: Path) -> None:
    checked(tmp_path, with_features(NESTED), NESTED)


def test_a_part_with_other_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=r"'part\.parquet' has 5 rows where the input has 6"):
        checked(tmp_path, features(), features().select(["row_id"]), rows=6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, None])
@pytest.mark.parametrize("row", [0, 4])
def test_a_feature_that_is_not_finite_is_refused_by_name(tmp_path: Path, value: float | None, row: int) -> None:
    values = [1.0] * 5
    values[row] = value  # type: ignore[call-overload]
    written = features().set_column(2, "ae_error", pa.array(values, pa.float32()))
    with pytest.raises(PublishError, match=r"'part\.parquet': column 'ae_error' is not finite throughout"):
        checked(tmp_path, written, features().select(["row_id"]))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (pa.array([1, 2, 3]), pa.array([1, 2, 4])),
        (pa.array([1, 3, 2]), pa.array([1, 2, 3])),
        (pa.array([1.0, np.nan, 3.0]), pa.array([1.0, 2.0, 3.0])),
        (pa.array([1.0, np.nan, 3.0]), pa.array([1.0, None, 3.0])),
        (pa.array(["a", None, "c"]), pa.array(["a", "", "c"])),
        (pa.array([[1.0], [np.nan, 2.0], []]), pa.array([[1.0, np.nan], [2.0], []])),
        (
            pa.array([[1.0, np.nan]] * 3, pa.list_(pa.float64(), 2)),
            pa.array([[2.0, np.nan]] * 3, pa.list_(pa.float64(), 2)),
        ),
        (pa.array([{"a": np.nan, "b": 1}] * 3), pa.array([{"a": np.nan, "b": 2}] * 3)),
        (pa.array([[("a", np.nan)]] * 3, MAP), pa.array([[("a", 1.0)]] * 3, MAP)),
        (pa.array([[("a", np.nan)]] * 3, MAP), pa.array([[("b", np.nan)]] * 3, MAP)),
        (pa.array([[("a", np.nan)]] * 3, MAP), pa.array([[("a", np.nan), ("b", 1.0)], [("a", np.nan)], []], MAP)),
    ],
)
def test_a_carried_column_that_was_altered_is_refused_by_name(
    tmp_path: Path, written: pa.Array, expected: pa.Array
) -> None:
    with pytest.raises(PublishError, match=r"'part\.parquet': column 'x' is not the input's, from row 0"):
        checked(tmp_path, with_features(pa.table({"x": written})), pa.table({"x": expected}))


def test_where_a_carried_column_was_altered_is_said(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=r"column 'row_id' is not the input's, from row 3"):
        checked(tmp_path, features(), pa.table({"row_id": [0, 1, 2, 3, 9]}))

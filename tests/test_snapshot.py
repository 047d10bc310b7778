from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aemodel import snapshot
from aemodel.errors import SchemaError, SnapshotChanged, SnapshotError
from aemodel.snapshot import Snapshot, open_snapshot
from tests import tables


def numbers(count: int = 10, begin: int = 0) -> pa.Table:
    return pa.table({"x": np.arange(begin, begin + count, dtype=np.int64)})


def read_all(pinned: Snapshot, columns: list[str] | None = None) -> pa.Table:
    columns = columns or pinned.schema.names
    schema = pa.schema([pinned.schema.field(c) for c in columns])
    batches = [b for i in range(len(pinned.fragments)) for b in pinned.read_fragment(i, columns)]
    return pa.Table.from_batches(batches, schema)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tables.write(numbers(100), tmp_path / "data" / "a.parquet", row_group_size=30)
    tables.write(numbers(50, 100), tmp_path / "data" / "b.parquet", row_group_size=30)
    return tmp_path / "data"


def test_a_folder_is_its_files_in_order_with_their_row_groups(folder: Path) -> None:
    pinned = open_snapshot(str(folder))
    assert [f.path for f in pinned.fragments] == ["a.parquet", "b.parquet"]
    assert [list(f.row_groups) for f in pinned.fragments] == [[30, 30, 30, 10], [30, 20]]
    assert list(pinned.row_groups())[3:5] == [(0, 3, 10), (1, 0, 30)]
    assert pinned.num_rows == 150
    assert pinned.num_bytes == sum(os.path.getsize(folder / n) for n in ("a.parquet", "b.parquet"))
    assert read_all(pinned)["x"].to_pylist() == list(range(150))


def test_every_kind_of_column_is_read_as_it_was_written(mixed_table: pa.Table, mixed_snapshot: Snapshot) -> None:
    expected = tables.plain(mixed_table)
    assert mixed_snapshot.schema.equals(expected.schema)
    read = read_all(mixed_snapshot)
    finite = [n for n in read.column_names if n != "amount"]
    assert read.select(finite).equals(expected.select(finite))
    np.testing.assert_array_equal(read["amount"].to_numpy(), expected["amount"].to_numpy())


@pytest.mark.parametrize("uri", ["{}/b.parquet", "file://{}/b.parquet", "{}/b*", "{}/[b-c].parquet", "{}/?.parq*"])
def test_a_file_an_address_and_a_glob_name_the_same_rows(folder: Path, uri: str) -> None:
    pinned = open_snapshot(uri.format(folder))
    assert read_all(pinned)["x"].to_pylist()[-50:] == list(range(100, 150))
    assert pinned.fragments[-1].path == "b.parquet"


def test_a_relative_address_is_read_from_the_working_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert open_snapshot("a.parquet").num_rows == 100
    assert open_snapshot("*.parquet").num_rows == 150
    assert open_snapshot(".").num_rows == 150


def test_an_address_may_be_percent_encoded(tmp_path: Path) -> None:
    tables.write(numbers(), tmp_path / "my data" / "a.parquet")
    assert open_snapshot(f"file://{tmp_path}/my%20data").num_rows == 10


def test_another_file_system_gives_the_same_rows_and_the_same_digest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = open_snapshot(str(folder))
    rows = read_all(local)
    tables.as_remote(monkeypatch, folder.parent)
    remote = open_snapshot("mock://data")
    assert remote.digest == local.digest
    assert read_all(remote).equals(rows)
    assert open_snapshot("mock://data/a*").num_rows == 100
    tables.write(numbers(7), folder / "a.parquet")
    with pytest.raises(SnapshotChanged):
        read_all(remote)


def test_stray_and_hidden_files_are_ignored_and_listed(folder: Path) -> None:
    (folder / "notes.txt").write_text("x")
    (folder / "_SUCCESS").touch()
    (folder / ".a.parquet.crc").touch()
    shutil.copytree(folder, folder / "_temporary")
    tables.write(numbers(5), folder / "UPPER.PARQUET")
    pinned = open_snapshot(str(folder))
    assert pinned.num_rows == 155
    assert {"notes.txt", "_SUCCESS", ".a.parquet.crc", "_temporary/a.parquet"} <= set(pinned.ignored)
    assert "a.parquet" not in pinned.ignored


def test_hive_folders_are_integer_columns_with_null_and_zero_padding_read(tmp_path: Path) -> None:
    for name, count in (("01", 3), ("12", 4), ("__HIVE_DEFAULT_PARTITION__", 2)):
        tables.write(numbers(count), tmp_path / f"month={name}" / "part.parquet")
    pinned = open_snapshot(str(tmp_path))
    assert pinned.partition_columns == ("month",)
    assert pinned.schema.field("month").type == pa.int64()
    assert read_all(pinned, ["month"])["month"].to_pylist() == [1] * 3 + [12] * 4 + [None] * 2


def test_hive_folders_are_strings_where_one_is_no_integer(tmp_path: Path) -> None:
    for name in ("01", "all%20year"):
        tables.write(numbers(1), tmp_path / f"month={name}" / "part.parquet")
    assert read_all(open_snapshot(str(tmp_path)))["month"].to_pylist() == ["01", "all year"]


def test_a_hive_table_holds_every_row_of_every_partition(mixed_table: pa.Table, tmp_path: Path) -> None:
    pinned = open_snapshot(str(tables.write_hive(mixed_table, tmp_path, "carrier")))
    read = read_all(pinned, ["row_id", "carrier"]).sort_by("row_id")
    assert read.equals(mixed_table.select(["row_id", "carrier"]))


def test_a_column_inside_the_files_wins_over_the_folder_s_name(tmp_path: Path) -> None:
    tables.write(numbers(3), tmp_path / "x=9" / "part.parquet")
    pinned = open_snapshot(str(tmp_path))
    assert pinned.partition_columns == ()
    assert read_all(pinned)["x"].to_pylist() == [0, 1, 2]


def test_files_below_different_partition_keys_are_refused(tmp_path: Path) -> None:
    tables.write(numbers(), tmp_path / "a=1" / "part.parquet")
    tables.write(numbers(), tmp_path / "b=1" / "part.parquet")
    with pytest.raises(SchemaError, match=r"'b=1/part\.parquet' and 'a=1/part\.parquet' have different hive partition"):
        open_snapshot(str(tmp_path))


def test_a_column_that_a_file_lacks_is_null_there_and_types_are_widened(tmp_path: Path) -> None:
    tables.write(pa.table({"x": pa.array([1], pa.int32())}), tmp_path / "a.parquet")
    tables.write(pa.table({"x": pa.array([2**40]), "y": ["new"]}), tmp_path / "b.parquet")
    tables.write(pa.table({"y": pa.array(["c"], pa.large_string()), "x": [0.5]}), tmp_path / "c.parquet")
    pinned = open_snapshot(str(tmp_path))
    assert pinned.schema == pa.schema([("x", pa.float64()), ("y", pa.string())])
    assert read_all(pinned).to_pydict() == {"x": [1.0, 2.0**40, 0.5], "y": [None, "new", "c"]}
    assert read_all(pinned, ["y"])["y"].to_pylist() == [None, "new", "c"]


def test_types_that_do_not_fit_are_refused_with_column_types_and_both_files(tmp_path: Path) -> None:
    tables.write(pa.table({"ok": [1], "x": [1]}), tmp_path / "a.parquet")
    tables.write(pa.table({"ok": [1], "x": ["one"]}), tmp_path / "b.parquet")
    message = "column 'x' is int64 in 'a.parquet' but string in 'b.parquet'; write both alike"
    with pytest.raises(SchemaError, match=message):
        open_snapshot(str(tmp_path))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    tables.write(twice, tmp_path / "a.parquet")
    with pytest.raises(SchemaError, match=r"'a\.parquet' has 2 columns named 'x'; rename"):
        open_snapshot(str(tmp_path))


@pytest.mark.parametrize("columns", [["x"], []])
def test_a_file_changed_after_pinning_is_refused_when_it_is_read(folder: Path, columns: list[str]) -> None:
    pinned = open_snapshot(str(folder))
    tables.write(numbers(100, 1), folder / "a.parquet", row_group_size=30)
    with pytest.raises(SnapshotChanged, match=r"'a\.parquet' has changed since the run began; run again"):
        list(pinned.read(0, 0, columns))
    assert sum(b.num_rows for b in pinned.read_fragment(1, ["x"])) == 50


def test_a_file_of_the_same_size_written_later_is_refused_when_it_is_read(folder: Path) -> None:
    pinned = open_snapshot(str(folder))
    later = (folder / "a.parquet").stat().st_mtime_ns + 1_000_000_000
    os.utime(folder / "a.parquet", ns=(later, later))
    with pytest.raises(SnapshotChanged, match=r"'a\.parquet' has changed"):
        list(pinned.read(0, 0, ["x"]))


def test_a_file_removed_after_pinning_is_refused_when_it_is_read(folder: Path) -> None:
    pinned = open_snapshot(str(folder))
    (folder / "b.parquet").unlink()
    with pytest.raises(SnapshotChanged, match=r"'b\.parquet' has changed"):
        list(pinned.read_fragment(1, ["x"]))


@pytest.mark.parametrize("left", [0, 7, 40, 0.5])
def test_a_truncated_file_is_refused_by_name(folder: Path, left: float) -> None:
    path = folder / "b.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: left if isinstance(left, int) else int(len(content) * left)])
    with pytest.raises(SnapshotError, match=r"'b\.parquet' is not a readable Parquet file .*; restore or remove it"):
        open_snapshot(str(folder))


def test_an_encrypted_footer_is_named_as_such(folder: Path) -> None:
    path = folder / "b.parquet"
    path.write_bytes(path.read_bytes()[:-4] + b"PARE")
    with pytest.raises(SnapshotError, match="its footer is encrypted, which is not supported"):
        open_snapshot(str(folder))


def test_damaged_data_pages_are_refused_with_file_and_row_group(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(numbers(1000), path, write_page_checksum=True, compression="none", use_dictionary=False)
    pinned = open_snapshot(str(tmp_path))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    mtime = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(mtime, mtime))
    with pytest.raises(SnapshotError, match=r"'a\.parquet', row group 0: corrupt data .*; restore or remove the file"):
        list(pinned.read(0, 0, ["x"]))


def test_what_pyarrow_cannot_read_is_not_called_corrupt(tmp_path: Path) -> None:
    """Nulls among lists of fixed size: pyarrow writes them so, and does not read them."""
    vectors = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2))
    tables.write(pa.table({"v": vectors}), tmp_path / "a.parquet")
    message = (
        r"'a\.parquet', row group 0: nulls in a column of lists of fixed size, .*; write it as lists of any length"
    )
    with pytest.raises(SnapshotError, match=message):
        read_all(open_snapshot(str(tmp_path)))


@given(place=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_a_damaged_byte_anywhere_gives_rows_or_a_named_error(
    place: float, bits: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tables.write(tables.mixed(20), tmp_path_factory.getbasetemp() / "damaged" / "a.parquet")
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= bits
    path.write_bytes(content)
    try:
        read_all(open_snapshot(str(path)))
    except (SnapshotError, SchemaError) as error:
        assert "a.parquet" in str(error)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match=r"no Parquet files in .*\(it is empty\); give a file, folder or glob"):
        open_snapshot(str(tmp_path))


def test_a_folder_of_other_files_says_what_it_found(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv", "README"):
        (tmp_path / name).touch()
    with pytest.raises(SnapshotError, match=r"no Parquet files in .*\(found 2 \.csv, 1 extensionless\); give a file"):
        open_snapshot(str(tmp_path))


def test_a_path_that_is_not_there_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(SnapshotError, match=r"no such file or folder: 'flihgts'; check dataset\.uri"):
        open_snapshot("flihgts")
    with pytest.raises(SnapshotError, match=r"no such folder: 'none/'; check dataset\.uri"):
        open_snapshot("none/*.parquet")
    with pytest.raises(SnapshotError, match=r"nothing matches 'c\*'; check dataset\.uri"):
        open_snapshot("c*")


def test_a_scheme_that_nobody_knows_is_refused_without_its_password() -> None:
    with pytest.raises(SnapshotError, match=r"dataset\.uri 'gopher://\*\*\*@host/data' cannot be opened") as caught:
        open_snapshot("gopher://user:secret@host/data")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("~nosuchuser/data", "no home folder is known for ~nosuchuser"),
        ("a\0b", "embedded null"),
        ("x" * 5_000, "File name too long"),
        ("*/" + "x" * 5_000, "nothing matches"),
    ],
)
def test_an_address_that_can_be_no_path_is_refused(
    uri: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SnapshotError, match=reason):
        open_snapshot(uri)


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("a")
    with pytest.raises(SnapshotError, match=r"dataset\.uri '.*a' cannot be opened: Too many levels of symbolic links"):
        open_snapshot(str(tmp_path / "a"))


def test_the_digest_stays_when_the_folder_moves(folder: Path, tmp_path: Path) -> None:
    before = open_snapshot(str(folder)).digest
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved, copy_function=shutil.copyfile)
    assert open_snapshot(str(moved)).digest == before


def test_the_digest_changes_with_content_names_and_files(folder: Path) -> None:
    digests = [open_snapshot(str(folder)).digest]
    tables.write(numbers(50, 101), folder / "b.parquet", row_group_size=30)
    digests.append(open_snapshot(str(folder)).digest)
    (folder / "b.parquet").rename(folder / "c.parquet")
    digests.append(open_snapshot(str(folder)).digest)
    tables.write(numbers(1), folder / "d.parquet")
    digests.append(open_snapshot(str(folder)).digest)
    assert len(set(digests)) == 4


def test_a_saved_snapshot_is_the_same_snapshot(mixed_table: pa.Table, tmp_path: Path) -> None:
    pinned = open_snapshot(str(tables.write_hive(mixed_table, tmp_path / "data", "carrier")))
    pinned.save(tmp_path / "snapshot.json")
    loaded = Snapshot.load(tmp_path / "snapshot.json")
    assert loaded == pinned
    assert loaded.digest == pinned.digest


def test_a_sample_is_runs_of_rows_from_all_over_the_table(tmp_path: Path) -> None:
    tables.write(numbers(1000), tmp_path / "a.parquet", row_group_size=10)
    taken = open_snapshot(str(tmp_path)).sample(["x"], rows=40, groups=16)
    assert 10 <= len(taken) <= 16
    assert 40 <= sum(b.num_rows for b in taken) <= 60
    for batch in taken:
        values = batch.column(0).to_numpy()
        assert values[0] % 10 == 0
        assert (np.diff(values) == 1).all()
    assert taken[-1].column(0)[0].as_py() > 800


@pytest.mark.parametrize("kind", [pa.list_(pa.float64(), 4), pa.list_(pa.float64()), pa.large_list(pa.float32())])
def test_of_wide_rows_fewer_are_read_at_once(
    kind: pa.DataType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "BATCH_CELLS", 60)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(400.0)), 4).cast(kind)
    table = pa.table({"x": np.arange(100), "y": np.arange(100), "a.v": vectors, "a": np.arange(100)})
    pinned = open_snapshot(str(tables.write(table, tmp_path / "rows.parquet", row_group_size=100)))
    wide, narrow = (list(pinned.read(0, 0, names)) for names in (table.column_names, ["x"]))
    assert [b.num_rows for b in wide] == [8] * 12 + [4] and [b.num_rows for b in narrow] == [60, 40]
    assert pa.Table.from_batches(wide).equals(table)


def test_a_table_without_rows_is_a_snapshot_without_a_sample(tmp_path: Path) -> None:
    tables.write(numbers(0), tmp_path / "a.parquet")
    pinned = open_snapshot(str(tmp_path))
    assert pinned.num_rows == 0
    assert pinned.sample(["x"]) == []


def test_no_columns_are_still_rows(folder: Path) -> None:
    assert sum(b.num_rows for b in open_snapshot(str(folder)).read_fragment(0, [])) == 100


@pytest.mark.parametrize("name", ["a.b", "größe", "with space", "a/b", "☃", "list.element"])
def test_columns_may_have_any_name(tmp_path: Path, name: str) -> None:
    tables.write(pa.table({"a": [1, 2], name: [3, 4]}), tmp_path / "a.parquet")
    pinned = open_snapshot(str(tmp_path))
    assert read_all(pinned, [name]).to_pydict() == {name: [3, 4]}
    assert read_all(pinned, ["a"]).to_pydict() == {"a": [1, 2]}

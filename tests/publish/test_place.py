from __future__ import annotations

import os
from pathlib import Path

import pytest

from aemodel.errors import TableError
from aemodel.publish import CARDS_LINK, Table
from aemodel.snapshot import open_snapshot
from tests import tables
from tests.publish.published import features, published


@pytest.mark.parametrize("before", [False, True])
def test_someone_s_own_file_in_the_place_of_the_cards_is_not_replaced(table: Table, before: bool) -> None:
    if before:
        published(table, "a" * 64, {"p.parquet": features()})
    table.root.mkdir(exist_ok=True)
    (table.root / CARDS_LINK).write_bytes(b"mine")
    with pytest.raises(TableError, match=r"holds other files \('latents\.parquet'\)"):
        Table.open(str(table.root), None)
    assert (table.root / CARDS_LINK).read_bytes() == b"mine"


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

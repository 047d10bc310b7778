from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from aemodel.errors import SnapshotError
from aemodel.listing import Listing, covers, listed, local_path
from tests import tables

NUMBERS = pa.table({"x": [1, 2, 3]})


def names(found: Listing) -> list[str]:
    return [os.path.relpath(info.path, found.base) for info in found.files]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*/part.parquet", ["m=1/part.parquet", "m=2/part.parquet"]),
        ("*/deeper/*", []),
        ("m=[12]", ["m=1/deep/part.parquet", "m=1/part.parquet", "m=2/part.parquet"]),
        ("m=[1]/", ["m=1/deep/part.parquet", "m=1/part.parquet"]),
        ("**/*.parquet", ["last.parquet", "m=1/deep/part.parquet", "m=1/part.parquet", "m=2/part.parquet"]),
        ("**/deep/*", ["m=1/deep/part.parquet"]),
        ("*.parquet", ["last.parquet"]),
    ],
)
@pytest.mark.parametrize("remote", [False, True])
def test_a_glob_means_the_same_on_every_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, found: list[str], remote: bool
) -> None:
    for path in ("m=1/part", "m=1/deep/part", "m=2/part", "last", "_hidden/part"):
        tables.write(NUMBERS, tmp_path / "top" / f"{path}.parquet")
    if remote:
        tables.as_remote(monkeypatch, tmp_path)
    uri = f"mock://top/{pattern}" if remote else f"{tmp_path}/top/{pattern}"
    if not found:
        with pytest.raises(SnapshotError, match="nothing matches"):
            listed(uri)
        return
    assert [i.path.partition("top/")[2] for i in listed(uri).files] == found


def test_links_to_folders_are_passed_over_and_listed(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    tables.write(NUMBERS, folder / "x.parquet")
    tables.write(NUMBERS, tmp_path / "other" / "y.parquet")
    (folder / "loop").symlink_to("..")
    (folder / "other").symlink_to(tmp_path / "other")
    found = listed(str(folder))
    assert names(found) == ["x.parquet"]
    assert found.ignored == ["loop", "other"]


def test_a_link_to_the_folder_that_is_named_is_followed(tmp_path: Path) -> None:
    tables.write(NUMBERS, tmp_path / "in" / "x.parquet")
    (tmp_path / "alias").symlink_to("in")
    assert names(listed(str(tmp_path / "alias"))) == names(listed(str(tmp_path / "alias" / "*"))) == ["x.parquet"]


def test_links_to_files_are_data_but_each_file_counts_once(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    tables.write(NUMBERS, folder / "real.parquet")
    outside = tables.write(NUMBERS, tmp_path / "outside.parquet")
    (folder / "a-copy.parquet").symlink_to("real.parquet")
    (folder / "b.parquet").symlink_to(outside)
    (folder / "c.parquet").symlink_to(outside)
    (folder / "broken.parquet").symlink_to("nowhere")
    found = listed(str(folder))
    assert names(found) == ["b.parquet", "real.parquet"]
    assert found.ignored == ["a-copy.parquet", "broken.parquet", "c.parquet"]


def test_a_file_behind_a_hidden_folder_s_link_is_data(tmp_path: Path) -> None:
    """As Kubernetes mounts volumes: the names that count are links into a hidden folder."""
    tables.write(NUMBERS, tmp_path / "..2026" / "x.parquet")
    (tmp_path / "x.parquet").symlink_to("..2026/x.parquet")
    assert names(listed(str(tmp_path))) == ["x.parquet"]


def test_a_folder_that_cannot_be_looked_into_is_an_error_and_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.write(NUMBERS, tmp_path / "a" / "x.parquet")
    real = os.scandir

    def closed(path: str) -> object:
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PermissionError):
        listed(str(tmp_path))


def test_what_exists_by_just_that_name_is_no_glob(tmp_path: Path) -> None:
    tables.write(NUMBERS, tmp_path / "data[1]" / "x.parquet")
    tables.write(NUMBERS, tmp_path / "data1" / "y.parquet")
    assert names(listed(str(tmp_path / "data[1]"))) == ["x.parquet"]


@pytest.mark.parametrize(
    ("uri", "path", "expected"),
    [
        ("data", "data/features/p.parquet", True),
        ("data", "features/p.parquet", False),
        ("*.parquet", "features/p.parquet", False),
        ("*.parquet", "p.parquet", True),
        ("**/*.parquet", "features/p.parquet", True),
        ("data*", "data1/features/p.parquet", True),
        ("data*/*.parquet", "data1/features/p.parquet", False),
        ("s3://bucket/data", "data/p.parquet", False),
    ],
)
def test_what_an_address_would_read(
    uri: str, path: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert covers(uri, [tmp_path / path]) is expected


def test_a_local_path_is_told_from_another_file_system(tmp_path: Path) -> None:
    assert local_path(str(tmp_path)) == tmp_path.resolve()
    assert local_path(f"file://{tmp_path}") == tmp_path.resolve()
    assert local_path("s3://bucket/data") is None

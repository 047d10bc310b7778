from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aemodel.errors import DamagedFile
from aemodel.files import digest, read_json, read_state, resolved, whole_folder, write_bytes, write_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})


@pytest.mark.parametrize("other", [{"a": 2}, {"b": 1}, [["a", 1]], {"a": "1"}, {"a": [1]}])
def test_a_digest_depends_on_every_value(other: object) -> None:
    assert digest(other) != digest({"a": 1})


def test_a_digest_is_the_same_in_every_release() -> None:
    assert digest({"é": [1, None]}) == "33e40b80dcf291d06913fc14bf28b2963c9cbb122dcb1e891d15624b8bec1237"


def test_what_is_not_a_number_has_no_digest() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        digest([float("nan")])


@given(value=st.dictionaries(st.text(), JSON))
def test_json_is_read_back_as_written(value: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value
    assert path.read_text().count("\n") == max(0, len(value) - 1) + 3


@pytest.mark.parametrize("left", [b"", b'{"a": 1', b'{"a": "\xff"}'])
def test_a_damaged_file_is_named_with_what_to_do(left: bytes, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(left)
    with pytest.raises(DamagedFile, match=r"result\.json' is damaged \(.*\); remove the run's folder and run again"):
        read_state(tmp_path / "result.json")


def test_a_path_is_resolved_whether_it_is_there_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("folder")
    assert resolved("link/new") == tmp_path / "folder" / "new"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolved("~/x") == tmp_path / "x"


def test_what_can_be_no_path_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path, reason in (
        ("~nosuchuser/x", "no home folder is known for ~nosuchuser"),
        ("a\0b", "null"),
        ("x" * 5_000, "File name too long"),
        (str(tmp_path / "loop"), "Too many levels of symbolic links"),
    ):
        with pytest.raises(ValueError, match=reason):
            resolved(path)


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_json(path, {"old": True})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"new": float("inf")})
    assert read_json(path) == {"old": True}
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_write_that_fails_before_its_last_step_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.bin"
    write_bytes(path, b"old")

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state.bin"]


def test_a_whole_folder_takes_its_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "bundle"
    with whole_folder(path) as partial:
        (partial / "inner").mkdir()
        (partial / "inner" / "file").write_text("x")
        assert not path.exists()
    assert (path / "inner" / "file").read_text() == "x"
    assert os.listdir(path.parent) == ["bundle"]


def test_a_whole_folder_replaces_the_one_before_and_keeps_none_of_its_files(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    for name in ("first", "second"):
        with whole_folder(path) as partial:
            (partial / name).touch()
    assert os.listdir(path) == ["second"]
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_folder_that_fails_on_the_way_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    with whole_folder(path) as partial:
        (partial / "first").touch()
    with pytest.raises(RuntimeError, match="half way"), whole_folder(path) as partial:
        (partial / "second").touch()
        raise RuntimeError("half way")
    assert os.listdir(path) == ["first"]
    assert os.listdir(tmp_path) == ["bundle"]

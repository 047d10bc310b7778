from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from aemodel import publish as module
from aemodel.errors import TableError
from aemodel.publish import Table
from tests.publish.published import features, published, read

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

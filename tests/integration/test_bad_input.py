"""Bad input: one line that says what, where and what to do; exit code 2; the output as it was."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.house import House, aemodel


def _small(path: Path, **columns: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"a": np.arange(100) % 7, "b": np.arange(100) % 5} | columns), path)


def _truncated(root: Path) -> str:
    _small(root / "t" / "a.parquet")
    whole = (root / "t" / "a.parquet").read_bytes()
    (root / "t" / "b.parquet").write_bytes(whole[: len(whole) // 2])
    return f"dataset: {{uri: {root}/t}}"


def _folder_of(root: Path, name: str) -> str:
    (root / "csv").mkdir()
    (root / "csv" / name).write_text("a,b\n1,2\n")
    return f"dataset: {{uri: {root}/csv}}"


def _empty(root: Path) -> str:
    (root / "empty").mkdir()
    return f"dataset: {{uri: {root}/empty}}"


def _varying(root: Path) -> str:
    _small(root / "v" / "a.parquet", v=[[1.0, 2.0]] * 99 + [[1.0]])
    return f"dataset: {{uri: {root}/v}}"


def _varying_late(root: Path) -> str:
    rows = 70_000
    table = pa.table({"a": np.arange(rows) % 7, "v": [[1.0, 2.0]] * (rows - 1) + [[1.0]]})
    (root / "w").mkdir()
    pq.write_table(table, root / "w" / "a.parquet")
    return f"dataset: {{uri: {root}/w}}"


def _fine(root: Path, more: str = "", **columns: object) -> str:
    _small(root / "f" / "a.parquet", **columns)
    return f"dataset: {{uri: {root}/f{more}}}"


def _drifted_key(root: Path) -> str:
    for name, key in (("a", np.arange(100) + 2**60), ("b", np.arange(100) / 2)):
        _small(root / "k" / f"{name}.parquet", k=key)
    return f"dataset: {{uri: {root}/k, key: [k]}}"


def _drifted_values(root: Path) -> str:
    for name, values in (("a", np.full(100, 2**64 - 1, np.uint64)), ("b", np.full(100, -1))):
        _small(root / "d" / f"{name}.parquet", x=values)
    return f"dataset: {{uri: {root}/d}}"


def _twice_partitioned(root: Path) -> str:
    _small(root / "h" / "m=1" / "m=2" / "a.parquet")
    return f"dataset: {{uri: {root}/h}}"


CASES = {
    "no such path": (lambda r: f"dataset: {{uri: {r}/nowhere}}", "no such file or folder: '.*nowhere'; check dataset.uri"),
    "an empty folder": (_empty, "no Parquet files in '.*empty' .it is empty.; give"),
    "a folder of CSV": (lambda r: _folder_of(r, "x.csv"), r"no Parquet files in '.*csv' \(found 1 .csv\); give"),
    "a truncated file among good ones": (_truncated, "'b.parquet' is not a readable Parquet file .*; restore or remove it"),
    "an unknown key": (lambda r: _fine(r) + "\nmodel: {latent_dims: 3}", "unknown key 'model.latent_dims'; did you mean 'latent_dim'"),
    "a label that does not exist": (lambda r: _fine(r, ", label: c"), "dataset.label names 'c', which is not a column"),
    "all columns left out": (lambda r: _fine(r, ", exclude: [a, b]"), "no column is left to learn from .*'a': excluded by the job"),
    "a vector whose length varies": (_varying, "column 'v' holds lists of 1 to 2 numbers: .*mend or exclude it"),
    "a vector whose length varies late": (_varying_late, "column 'v' holds vectors of 1 to 2 numbers .*mend or exclude it"),
    "an output inside the input": (lambda r: _fine(r) + f"\noutput: {{uri: {r}/f/features}}", "lies inside the dataset .*; choose another folder"),
    "an output column that exists": (lambda r: _fine(r, ae_03=np.arange(100) % 3), "the output column 'ae_03' exists in the dataset already; set output.prefix"),
    "a key that other files have as floating point": (_drifted_key, "dataset.key 'k' is int64 in 'a.parquet' but double in 'b.parquet', which would change its values; write"),
    "values that the common type does not hold": (_drifted_values, "the values of column 'x', uint64 there, do not fit int64, .*; write the column alike"),
    "two hive folders of one name": (_twice_partitioned, "lies below two hive folders of 'm'; rename one"),
    "rows that are all equal": (lambda r: _fine(r, a=[1] * 100, b=["x"] * 100), "training rows are equal in all columns that are inputs"),
    "a dataset in nobody's home": (lambda _: "dataset: {uri: ~nosuchuser/x}", "dataset.uri '~nosuchuser/x' cannot be opened: no home folder is known"),
    "an output in nobody's home": (lambda r: _fine(r) + "\noutput: {uri: ~nosuchuser/x}", "output.uri '~nosuchuser/x' can be no folder: no home folder is known"),
    "an output that cannot be made": (lambda r: _fine(r) + "\noutput: {uri: /proc/nope/x}", "output.uri '/proc/nope/x' cannot be written: .*; choose another"),
    "an alias that MLflow reserves": (lambda r: _fine(r) + "\nregistry: {alias: v1}", "'registry.alias': MLflow reserves"),
    "a tracking server that does not answer": (
        lambda r: _fine(r) + "\nregistry: {tracking_uri: 'http://me:secret@127.0.0.1:9'}",
        r"tracking_uri http://\*\*\*@127.0.0.1:9 does not answer .*: start the server or mend the address",
    ),
    "a tracking address of no known kind": (
        lambda r: _fine(r) + "\nregistry: {tracking_uri: 'gopher://hole'}",
        "the tracking server gopher://hole cannot be used .*mend registry.tracking_uri",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_in_one_line_and_changes_nothing(case: str, tmp_path: Path) -> None:
    build, expected = CASES[case]
    job = tmp_path / "job.yaml"
    text = build(tmp_path)
    job.write_text(text if "output:" in text else f"{text}\noutput: {{uri: {tmp_path}/features}}")
    before = set(tmp_path.rglob("*"))
    done = aemodel("run", job, "--work-dir", tmp_path / "work")
    said = [line for line in done.errors.splitlines() if line.startswith("aemodel: ")]
    assert done.code == 2, done.errors
    assert len(said) == 1 and "Traceback" not in done.errors
    assert re.search(expected, said[0]), said[0]
    assert {p for p in tmp_path.rglob("*") if "work" not in p.parts} == before


def test_a_bad_run_leaves_a_published_table_as_it_was(house: House) -> None:
    before = sorted((p, p.stat().st_mtime_ns) for p in (house.root / "features").rglob("*"))
    job = house.variant("bad", lambda text: text.replace("channel", "chanel"))
    done = aemodel("run", job, "--work-dir", house.work)
    assert done.code == 2 and "did you mean 'channel'?" in done.errors
    assert sorted((p, p.stat().st_mtime_ns) for p in (house.root / "features").rglob("*")) == before


def test_scoring_without_a_registered_version_is_refused(tmp_path: Path, work: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(_fine(tmp_path) + f"\nname: unborn\noutput: {{uri: {tmp_path}/features}}")
    done = aemodel("score", job, "--work-dir", work)
    assert done.code == 2 and "no version of 'unborn' has the alias 'champion': train one first" in done.errors


def test_a_report_of_no_run_is_refused_and_trains_nothing(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(_fine(tmp_path) + f"\noutput: {{uri: {tmp_path}/features}}")
    done = aemodel("report", job, "--work-dir", tmp_path / "work")
    assert done.code == 2 and "run or train it first" in done.errors
    assert not list((tmp_path / "work").glob("runs/*"))


def test_a_work_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(_fine(tmp_path))
    done = aemodel("run", job, "--work-dir", job / "x")
    assert done.code == 2 and "cannot be made: Not a directory; set --work-dir" in done.errors

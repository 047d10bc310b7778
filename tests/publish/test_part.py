from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aemodel import part, snapshot
from aemodel.errors import PublishError
from aemodel.part import check_part, write_part
from tests import tables
from tests.publish.published import features


def checked(tmp_path: Path, written: pa.Table, expected: pa.Table, rows: int | None = None) -> None:
    path = tmp_path / "part.parquet"
    assert write_part(path, written.to_batches(max_chunksize=7), written.schema) == written.num_rows
    finite = [n for n in written.column_names if n.startswith("ae_")]
    batches = expected.to_batches(max_chunksize=3)
    check_part(path, batches, expected.num_rows if rows is None else rows, finite)


def with_features(carried: pa.Table) -> pa.Table:
    return carried.append_column("ae_00", pa.array(np.zeros(carried.num_rows, np.float32)))


MAP = pa.map_(pa.string(), pa.float64())


NESTED = pa.table(
    {
        "large": pa.array([[1.0, np.nan], None, []], pa.large_list(pa.float64())),
        "struct": pa.array([{"a": np.nan, "b": [1.0]}, None, {"a": 1.0, "b": None}]),
        "deep": pa.array([[[np.nan], []], [None], None], pa.list_(pa.list_(pa.float32()))),
        "map": pa.array([[("a", np.nan), ("b", None)], None, []], MAP),
    }
)


@pytest.mark.parametrize(
    ("batches", "groups"), [([7] * 30, [98, 98, 14]), ([150, 20], [150, 20]), ([100], [100]), ([60, 60], [60, 60])]
)
def test_small_batches_are_written_together(
    batches: list[int], groups: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part, "GROUP_ROWS", 100)
    assert written_groups(tmp_path / "part.parquet", batches) == groups


def test_wide_rows_make_smaller_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "GROUP_BYTES", 8 * 25)
    assert written_groups(tmp_path / "part.parquet", [10] * 6) == [30, 30]


def test_wide_rows_are_read_back_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "BATCH_CELLS", 40)
    read, whole = list[int](), pq.ParquetFile.iter_batches

    def watched(file: pq.ParquetFile, *arguments: Any, **named: Any) -> Iterator[pa.RecordBatch]:
        for batch in whole(file, *arguments, **named):
            read.extend([batch.num_rows] * ("v" in batch.schema.names))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    carried = pa.table({"v": pa.array(np.arange(400.0).reshape(50, 8).tolist())})
    checked(tmp_path, with_features(carried), carried)
    assert sum(read) == 50 and max(read) == 5


def written_groups(path: Path, batches: list[int]) -> list[int]:
    """The rows of each row group, which hold what was given, in order."""
    rows = pa.table({"x": np.arange(sum(batches))})
    starts = np.cumsum([0, *batches[:-1]])
    given = [rows.slice(a, n).combine_chunks().to_batches()[0] for a, n in zip(starts, batches, strict=True)]
    assert write_part(path, given, rows.schema) == rows.num_rows
    with pq.ParquetFile(path) as file:
        assert file.read().equals(rows)
        return [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]


def test_a_part_that_carries_every_kind_of_column_passes(tmp_path: Path) -> None:
    carried = tables.plain(tables.mixed(40))
    checked(tmp_path, with_features(carried), carried)


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

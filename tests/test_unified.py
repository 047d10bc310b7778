from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from aemodel.errors import SchemaError
from aemodel.unified import FileSchema, conformed, unified


def files(*types: pa.DataType) -> list[FileSchema]:
    return [FileSchema(f"{i}.parquet", pa.schema([("x", kind)]), ()) for i, kind in enumerate(types)]


@pytest.mark.parametrize(
    ("types", "why"),
    [
        ((pa.int64(), pa.float64()), "int64 in '0.parquet' but double in '1.parquet'"),
        ((pa.float32(), pa.uint64()), "uint64 in '1.parquet' but float in '0.parquet'"),
        ((pa.decimal128(5, 1), pa.float64()), "decimal128(5, 1) in '0.parquet' but double in '1.parquet'"),
        ((pa.int16(), pa.int16(), pa.int64(), pa.float64()), "int64 in '2.parquet' but double in '3.parquet'"),
    ],
)
def test_a_common_type_that_cannot_hold_every_value_is_noted_with_types_and_files(
    types: tuple[pa.DataType, ...], why: str
) -> None:
    assert unified(files(*types)).inexact == {"x": why}


@pytest.mark.parametrize(
    "types",
    [
        (pa.int32(), pa.int64()),
        (pa.int32(), pa.float64()),
        (pa.int32(), pa.float32()),
        (pa.int16(), pa.float32()),
        (pa.float32(), pa.float64()),
        (pa.null(), pa.float64()),
        (pa.date32(), pa.date64()),
    ],
)
def test_a_common_type_that_holds_every_value_is_not(types: tuple[pa.DataType, ...]) -> None:
    assert unified(files(*types)).inexact == {}


def test_the_first_file_decides_the_order_of_columns() -> None:
    a, b = pa.schema([("x", pa.int32()), ("y", pa.int32())]), pa.schema([("y", pa.int64()), ("x", pa.int32())])
    together = unified([FileSchema("1", a, ()), FileSchema("2", b, ()), FileSchema("3", a, ())])
    assert together.schema == pa.schema([("x", pa.int32()), ("y", pa.int64())])


def test_two_hive_folders_of_one_name_are_refused() -> None:
    twice = FileSchema("m=1/m=2/a.parquet", pa.schema([("x", pa.int32())]), (("m", "1"), ("m", "2")))
    with pytest.raises(SchemaError, match="'m=1/m=2/a.parquet' lies below two hive folders of 'm'; rename one"):
        unified([twice])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([2**64 - 1], pa.uint64()), pa.int64()),
        (pa.array([datetime(9999, 1, 1)], pa.timestamp("us")), pa.timestamp("ns")),
        (pa.array([1], pa.int64()), pa.decimal128(19, 1)),
        (pa.array([Decimal("1.55")]), pa.decimal128(3, 1)),
    ],
)
def test_values_that_the_common_type_does_not_hold_are_refused_by_column_and_not_as_damage(
    values: pa.Array, kind: pa.DataType
) -> None:
    batch = pa.record_batch({"x": values})
    with pytest.raises(SchemaError) as caught:
        conformed(batch, pa.schema([("x", kind)]), (), "'a.parquet', row group 0")
    said = str(caught.value)
    assert said.startswith(
        f"'a.parquet', row group 0: the values of column 'x', {values.type} there, do not fit {kind}"
    )
    assert said.endswith("; write the column alike in all files") and "\n" not in said

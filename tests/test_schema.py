from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from aemodel.config import DatasetJob
from aemodel.errors import JobError, SchemaError
from aemodel.schema import Column, TableSchema, decide
from tests import tables


def decided(table: pa.Table, runs: int = 1, **job: Any) -> TableSchema:
    size = max(1, -(-table.num_rows // runs))
    batches = table.combine_chunks().to_batches(max_chunksize=size)
    return decide(table.schema, batches, DatasetJob.model_validate({"uri": "-", **job}))


def reasons(schema: TableSchema) -> dict[str, str]:
    return {c.name: c.reason for c in schema.left_out}


@pytest.mark.parametrize("cells", [[[1.0], [2.0]], [{"a": 1}, {"a": 2}]])
def test_a_label_is_a_column_of_single_values(cells: list[object]) -> None:
    with pytest.raises(JobError, match=r"^dataset.label names 'y', which is .*: a label is a column of single values"):
        decided(pa.table({"x": [1, 2], "y": cells}), label="y")
    assert decided(pa.table({"x": [1, 2], "y": pa.nulls(2)}), label="y").label == "y"


def test_a_label_cannot_be_a_key(mixed_table: pa.Table) -> None:
    with pytest.raises(JobError, match="^dataset.label names 'row_id', which is a key"):
        decided(tables.plain(mixed_table), key=["row_id"], label="row_id")


def test_every_column_of_the_mixed_table_has_its_kind(mixed_table: pa.Table) -> None:
    schema = decided(tables.plain(mixed_table), key=["row_id"], label="label")
    assert {c.name: c.kind for c in schema.inputs} == {
        "amount": "numeric",
        "count": "numeric",
        "price": "numeric",
        "flag": "boolean",
        "carrier": "categorical",
        "colour": "categorical",
        "day": "datetime",
        "seen": "datetime",
        "logged": "datetime",
        "clock": "datetime",
        "profile": "vector",
    }
    assert schema.names == tables.INPUTS
    assert schema.inputs[-1] == Column("profile", "vector", 3, str(mixed_table.schema.field("profile").type))
    assert reasons(schema) == {"row_id": "a key", "label": "the label"}
    assert (schema.keys, schema.label) == (("row_id",), "label")


def test_a_duration_is_a_number() -> None:
    table = pa.table({"took": pa.array([timedelta(seconds=1)] * 3)})
    assert decided(table).inputs[0].kind == "numeric"


def test_an_excluded_column_is_left_out_even_where_its_kind_is_named() -> None:
    schema = decided(pa.table({"a": [1.0], "b": [2.0]}), exclude=["b"], columns={"b": {"kind": "numeric"}})
    assert reasons(schema) == {"b": "excluded by the job"}


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (pa.nulls(3), "no values"),
        (pa.array([b"a", b"b", b"c"]), "type binary is not supported"),
        (pa.array([{"x": 1}] * 3), "type struct<x: int64> is not supported"),
        (pa.array([["a"]] * 3), "is not supported"),
    ],
)
def test_a_type_that_is_no_input_is_left_out_with_its_reason(array: pa.Array, reason: str) -> None:
    schema = decided(pa.table({"a": [1.0, 2.0, 3.0], "b": array}))
    assert reasons(schema)["b"].endswith(reason)


def test_strings_of_which_nearly_all_differ_are_an_identifier() -> None:
    table = pa.table({"a": np.ones(100), "code": [f"c{i}" for i in range(100)]})
    assert reasons(decided(table)) == {"code": "like an identifier (100% of its values are unique)"}


def test_strings_of_which_many_repeat_are_levels() -> None:
    table = pa.table({"code": [f"c{i % 90}" for i in range(100)]})
    assert decided(table).names == ("code",)


@pytest.mark.parametrize("step", [1, -3])
def test_integers_in_strict_order_within_every_run_are_an_identifier(step: int) -> None:
    table = pa.table({"a": np.ones(100), "n": np.concatenate([np.arange(50), np.arange(50)]) * step})
    assert reasons(decided(table, runs=2)) == {"n": "like an identifier (integers in strict order)"}
    assert decided(table, runs=1).names == ("a", "n")


@pytest.mark.parametrize("values", [np.arange(100) // 2, np.arange(100) * 0.5])
def test_integers_with_repeats_and_ordered_floats_are_inputs(values: np.ndarray) -> None:
    assert decided(pa.table({"n": values})).names == ("n",)


def test_a_few_values_are_not_judged() -> None:
    table = pa.table({"n": np.arange(49), "code": [f"c{i}" for i in range(49)]})
    assert decided(table).names == ("n", "code")


def test_nulls_do_not_count_towards_uniqueness() -> None:
    table = pa.table({"a": np.ones(200), "code": [f"c{i}" if i % 2 else None for i in range(200)]})
    assert "code" in reasons(decided(table))


def test_the_job_s_kind_wins_over_what_the_sample_says() -> None:
    table = pa.table({"n": np.arange(100)})
    assert decided(table, columns={"n": {"kind": "categorical"}}).inputs[0].kind == "categorical"


@pytest.mark.parametrize(
    ("array", "kind"),
    [(pa.array(["a"]), "numeric"), (pa.array(["2024-01-01"]), "datetime"), (pa.array([1.0]), "vector")],
)
def test_a_kind_that_a_type_cannot_be_is_refused(array: pa.Array, kind: str) -> None:
    message = f"dataset.columns: 'x' is {array.type}, which cannot be read as {kind}"
    with pytest.raises(SchemaError, match=message):
        decided(pa.table({"x": array}), columns={"x": {"kind": kind}})


@pytest.mark.parametrize(
    ("job", "where"),
    [
        ({"key": ["carier"]}, "dataset.key"),
        ({"exclude": ["carier"]}, "dataset.exclude"),
        ({"label": "carier"}, "dataset.label"),
        ({"columns": {"carier": {"kind": "numeric"}}}, "dataset.columns"),
        ({"split": {"by": "group", "column": "carier"}}, "dataset.split.column"),
    ],
)
def test_a_name_that_is_no_column_is_refused_with_the_nearest(job: dict[str, Any], where: str) -> None:
    message = f"{where} names 'carier', which is not a column; did you mean 'carrier'?"
    with pytest.raises(JobError, match=message.replace("?", r"\?")):
        decided(pa.table({"carrier": ["a"], "x": [1.0]}), **job)


def test_lists_of_one_length_are_vectors_and_of_several_are_refused() -> None:
    assert decided(pa.table({"v": [[1.0, 2.0], None, [3.0, None]]})).inputs[0].size == 2
    with pytest.raises(SchemaError, match=r"column 'v' holds lists of 1 to 2 numbers.*mend or exclude it"):
        decided(pa.table({"v": [[1.0], [2.0, 3.0]]}))


def test_a_vector_of_another_length_further_on_is_refused_by_name() -> None:
    column = decided(pa.table({"v": [[1.0, 2.0]]})).inputs[0]
    with pytest.raises(SchemaError, match=r"column 'v' holds vectors of 3 .*mend or exclude it"):
        column.cells(pa.array([[1.0, 2.0, 3.0]]))


def test_a_table_without_any_input_is_refused_with_the_reasons() -> None:
    message = r"no column is left to learn from \('id': a key; 'y': the label\); name a kind under dataset.columns"
    with pytest.raises(SchemaError, match=message):
        decided(pa.table({"id": [1], "y": [2]}), key=["id"], label="y")


def test_columns_found_unusable_later_join_those_left_out() -> None:
    table = pa.table({"a": [1.0], "b": [2.0]})
    schema = decided(table).without({"b": "constant"}, table.schema)
    assert schema.names == ("a",)
    assert reasons(schema) == {"b": "constant"}
    with pytest.raises(SchemaError, match="no column is left"):
        schema.without({"a": "constant"}, table.schema)

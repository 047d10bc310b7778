"""What each column is: an input of some kind, or left out for a reason that the report repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aemodel import cells
from aemodel.config import DatasetJob, Kind
from aemodel.errors import JobError, SchemaError, nearest, shown

#: A sample with fewer values says nothing of uniqueness.
ENOUGH_TO_JUDGE = 50
IDENTIFIER_UNIQUENESS = 0.95


@dataclass(frozen=True)
class Column:
    """An input column; `size` is the length of a vector, 1 for the other kinds; `type` its Arrow type, for people."""

    name: str
    kind: Kind
    size: int = 1
    type: str = ""

    def reads_like(self, other: Column) -> bool:
        """Whether equal cells are read as equal numbers, to the last bit, or as equal texts."""
        whole = all(c.type.startswith(("int", "uint")) for c in (self, other))
        return (self.name, self.kind, self.size) == (other.name, other.kind, other.size) and (
            self.type == other.type or whole
        )

    def cells(self, array: pa.Array) -> pa.Array | np.ndarray:
        """The column's cells as its kind reads them: (rows,) or (rows, size) float64, or a string array."""
        if self.kind == "categorical":
            return cells.strings(array)
        if self.kind == "datetime":
            return cells.seconds(array)
        if self.kind == "vector":
            try:
                return cells.vectors(array, self.size)
            except ValueError as error:
                raise SchemaError(
                    f"column {shown(self.name)} holds {error}: a vector column needs one length; mend or exclude it"
                ) from None
        return cells.numbers(array)


@dataclass(frozen=True)
class LeftOut:
    name: str
    type: str
    reason: str


@dataclass(frozen=True)
class TableSchema:
    inputs: tuple[Column, ...]
    left_out: tuple[LeftOut, ...]
    keys: tuple[str, ...]
    label: str | None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.inputs)

    def without(self, reasons: Mapping[str, str], types: pa.Schema) -> TableSchema:
        """The schema less the inputs named in `reasons`. Raises SchemaError when none is left."""
        gone = tuple(LeftOut(n, str(types.field(n).type), reasons[n]) for n in self.names if n in reasons)
        kept = tuple(c for c in self.inputs if c.name not in reasons)
        schema = replace(self, inputs=kept, left_out=self.left_out + gone)
        schema.check_any_input()
        return schema

    def check_any_input(self) -> None:
        if not self.inputs:
            reasons = "; ".join(f"{shown(c.name, 40)}: {c.reason}" for c in self.left_out[:6])
            raise SchemaError(
                f"no column is left to learn from ({reasons}); name a kind under dataset.columns to keep one"
            )


def decide(types: pa.Schema, sample: Sequence[pa.RecordBatch], job: DatasetJob) -> TableSchema:
    """Choose the inputs and their kinds. `sample` holds runs of consecutive rows of all columns
    that the job does not exclude.

    Raises JobError for a name that the table has not, SchemaError when a column cannot be what the job says.
    """
    _check_names(types.names, job)
    _check_label(types, job)
    inputs, left_out = [], []
    for field in types:
        chunks = [] if field.name in job.exclude else [batch.column(field.name) for batch in sample]
        chosen = _column(field, chunks, job)
        if isinstance(chosen, Column):
            inputs.append(chosen)
        else:
            left_out.append(LeftOut(field.name, str(field.type), chosen))
    schema = TableSchema(tuple(inputs), tuple(left_out), job.key, job.label)
    schema.check_any_input()
    return schema


def _check_names(names: Sequence[str], job: DatasetJob) -> None:
    mentioned = [("key", n) for n in job.key] + [("exclude", n) for n in job.exclude]
    mentioned += [("columns", n) for n in job.columns]
    mentioned += [("label", job.label)] if job.label else []
    mentioned += [("split.column", job.split.column)] if job.split.column else []
    if job.label in job.key:
        raise JobError(
            f"dataset.label names {shown(job.label)}, which is a key: a label is to be read off the features"
        )
    for where, name in mentioned:
        if name not in names:
            raise JobError(f"dataset.{where} names {shown(name)}, which is not a column; {nearest(name, names)}")


def _check_label(types: pa.Schema, job: DatasetJob) -> None:
    if job.label is None or pa.types.is_null(types.field(job.label).type):
        return
    if natural_kind(types.field(job.label).type) in (None, "vector"):
        raise JobError(
            f"dataset.label names {shown(job.label)}, which is {types.field(job.label).type}: "
            "a label is a column of single values"
        )


def _column(field: pa.Field, chunks: Sequence[pa.Array], job: DatasetJob) -> Column | str:
    """The column, or the reason why it is left out."""
    if field.name in job.key:
        return "a key"
    if field.name == job.label:
        return "the label"
    if field.name in job.exclude:
        return "excluded by the job"
    override = job.columns.get(field.name)
    if override:
        return _overridden(field, chunks, override.kind)
    kind = natural_kind(field.type)
    if kind is None:
        return "no values" if pa.types.is_null(field.type) else f"type {field.type} is not supported"
    if kind == "vector":
        return _vector(field, chunks)
    return _identifier(kind, field.type, chunks) or Column(field.name, kind, type=str(field.type))


def natural_kind(kind: pa.DataType) -> Kind | None:
    """The kind of a column of this Arrow type when the job does not say, None where it cannot be an input."""
    if pa.types.is_boolean(kind):
        return "boolean"
    if _is_number(kind) or pa.types.is_duration(kind):
        return "numeric"
    if pa.types.is_string(kind):
        return "categorical"
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return "datetime"
    is_list = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return "vector" if is_list and _is_number(kind.value_type) else None


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _overridden(field: pa.Field, chunks: Sequence[pa.Array], kind: Kind) -> Column:
    natural = natural_kind(field.type)
    fits = kind == natural or (natural, kind) in {
        ("numeric", "categorical"),
        ("boolean", "categorical"),
        ("datetime", "categorical"),
        ("numeric", "boolean"),
        ("boolean", "numeric"),
    }
    if not fits:
        raise SchemaError(f"dataset.columns: {shown(field.name)} is {field.type}, which cannot be read as {kind}")
    return _vector(field, chunks) if kind == "vector" else Column(field.name, kind, type=str(field.type))


def _vector(field: pa.Field, chunks: Sequence[pa.Array]) -> Column:
    if pa.types.is_fixed_size_list(field.type):
        sizes = {field.type.list_size}
    else:
        sizes = {n for chunk in chunks for n in pc.unique(pc.list_value_length(chunk)).to_pylist() if n is not None}
    if len(sizes) > 1:
        raise SchemaError(
            f"column {shown(field.name)} holds lists of {min(sizes)} to {max(sizes)} numbers: "
            "a vector column needs one length; mend or exclude it"
        )
    return Column(field.name, "vector", max(sizes, default=0) or 1, str(field.type))


def _identifier(kind: Kind, type_: pa.DataType, chunks: Sequence[pa.Array]) -> str | None:
    """Why the sample shows names of rows rather than properties of them; None where it does not."""
    values = [chunk.drop_null() for chunk in chunks]
    count = sum(len(v) for v in values)
    if count < ENOUGH_TO_JUDGE:
        return None
    if kind == "categorical":
        share = len(pc.unique(pa.chunked_array(values))) / count
        return f"like an identifier ({share:.0%} of its values are unique)" if share > IDENTIFIER_UNIQUENESS else None
    if pa.types.is_integer(type_) and all(_strictly_monotone(v) for v in values if len(v) > 1):
        return "like an identifier (integers in strict order)"
    return None


def _strictly_monotone(values: pa.Array) -> bool:
    steps = np.diff(cells.numbers(values))
    return bool((steps > 0).all() or (steps < 0).all())

"""One schema for files that differ a little, and their batches brought to it.

- `key=value` folders are columns (hive partitions): integers if every value is one, else strings. A column
  of the same name inside the files wins.
- A column that a file lacks is read as null there, and types are widened where Arrow can do it without changing
  values' meaning (int32 with int64, integer with float, …). Anything else is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from aemodel.errors import SchemaError, shown

#: One file's hive partitions, in order: column and value, None where it is null.
Partition = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class FileSchema:
    """What one file at `path` says of its columns."""

    path: str
    schema: pa.Schema
    partition: Partition


@dataclass(frozen=True)
class Unified:
    """`inexact`: columns of which the common type cannot hold each value that a file's own type can, and why."""

    schema: pa.Schema
    partition_columns: tuple[str, ...]
    inexact: Mapping[str, str]


def unified(files: Sequence[FileSchema]) -> Unified:
    """One schema for all files, partition columns last. Raises SchemaError naming column, types and files."""
    distinct: dict[pa.Schema, str] = {}
    for file in files:
        distinct.setdefault(_plain(file.schema), file.path)
    ordered = list(distinct.items())
    merged, first = ordered[0]
    for schema, path in ordered[1:]:
        try:
            merged = pa.unify_schemas([merged, schema], promote_options="permissive")
        except pa.ArrowException:
            _refuse(merged, first, schema, path)
    inexact = dict(_inexact(merged, ordered))
    columns = _partition_columns(files, merged)
    for column in columns:
        values = [dict(file.partition)[column] for file in files]
        integer = all(v is None or re.fullmatch(r"[+-]?\d{1,18}", v) for v in values)
        merged = merged.append(pa.field(column, pa.int64() if integer else pa.string()))
    return Unified(merged, columns, inexact)


def _partition_columns(files: Sequence[FileSchema], merged: pa.Schema) -> tuple[str, ...]:
    names = [tuple(k for k, _ in file.partition) for file in files]
    if len(set(names)) > 1:
        odd = next(f.path for f, n in zip(files, names, strict=True) if n != names[0])
        first = shown(files[0].path)
        raise SchemaError(f"{shown(odd)} and {first} have different hive partition keys; split the dataset")
    twice = [name for name, count in Counter(names[0]).items() if count > 1]
    if twice:
        raise SchemaError(f"{shown(files[0].path)} lies below two hive folders of {shown(twice[0])}; rename one")
    return tuple(k for k in names[0] if k not in merged.names)


def _plain(schema: pa.Schema) -> pa.Schema:
    """Encodings of the same values made one: dictionaries by their values, every string large or not as string."""
    return pa.schema([pa.field(f.name, _plain_type(f.type)) for f in schema])


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return kind


def _refuse(merged: pa.Schema, first: str, other: pa.Schema, path: str) -> None:
    for field in other:
        if field.name not in merged.names:
            continue
        known = merged.field(field.name)
        try:
            pa.unify_schemas([pa.schema([known]), pa.schema([field])], promote_options="permissive")
        except pa.ArrowException:
            raise SchemaError(
                f"column {shown(field.name)} is {known.type} in {shown(first)} but {field.type} in {shown(path)}; "
                "write both alike"
            ) from None
    raise AssertionError("two schemas do not unify, yet each of their columns does")


def _inexact(merged: pa.Schema, schemas: Sequence[tuple[pa.Schema, str]]) -> Iterator[tuple[str, str]]:
    held = [({field.name: field.type for field in schema}, path) for schema, path in reversed(schemas)]
    for field in merged:
        if not pa.types.is_floating(field.type):
            continue
        types = {found[field.name]: path for found, path in held if field.name in found}
        lossy = next((t for t in types if not _held_by(t, field.type)), None)
        if lossy is not None:
            other = next(t for t in types if pa.types.is_floating(t))
            yield field.name, f"{lossy} in {shown(types[lossy])} but {other} in {shown(types[other])}"


def _held_by(kind: pa.DataType, floating: pa.DataType) -> bool:
    """Whether a floating type holds every value of `kind`: its significand is long enough."""
    significand = {16: 11, 32: 24, 64: 53}[floating.bit_width]
    exact = pa.types.is_floating(kind) or pa.types.is_null(kind)
    return bool(exact or (pa.types.is_integer(kind) and kind.bit_width <= significand))


def conformed(batch: pa.RecordBatch, wanted: pa.Schema, partition: Partition, where: str) -> pa.RecordBatch:
    """A file's rows with the columns and types of `wanted`. Raises SchemaError, saying `where`, for values unfit."""
    arrays, held, given = [], dict(zip(batch.schema.names, batch.columns, strict=True)), dict(partition)
    for field in wanted:
        if field.name in held:
            arrays.append(_cast(held[field.name], field, where))
        elif field.name in given:
            value = pa.scalar(given[field.name], pa.string()).cast(field.type)
            arrays.append(pa.repeat(value, batch.num_rows))
        else:
            arrays.append(pa.nulls(batch.num_rows, field.type))
    if not arrays:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * batch.num_rows, pa.struct([])))
    return pa.RecordBatch.from_arrays(arrays, schema=wanted)


def _cast(array: pa.Array, field: pa.Field, where: str) -> pa.Array:
    if array.type == field.type:
        return array
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    try:
        return array.cast(field.type, safe=not pa.types.is_floating(field.type))
    except pa.ArrowException as error:
        reason = str(error).partition("\n")[0][:200]
        raise SchemaError(
            f"{where}: the values of column {shown(field.name)}, {array.type} there, do not fit {field.type}, "
            f"the common type of the files ({reason}); write the column alike in all files"
        ) from None

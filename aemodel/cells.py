"""An Arrow column as the plain numbers, strings or vectors that its kind means, whatever its exact type.

What cannot be used (null, NaN, infinite, too large to square) reads as missing. Nothing here is fitted.
"""

from __future__ import annotations

import hashlib
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: Beyond this magnitude squares and sums stop being finite in float64; such a cell is missing, and counted.
LARGEST = 1e100
#: Of Arrow's units of time, how many make a second.
UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


def numbers(array: pa.Array) -> np.ndarray:
    """float64 of shape (rows,), NaN where missing; booleans are 0 and 1, durations seconds, whatever their unit."""
    if pa.types.is_duration(array.type):
        return numbers(array.cast(pa.int64())) / UNITS[array.type.unit]
    # Not `to_numpy`, which loads pandas: 25 MB and a sixth of a second of each process.
    if array.null_count == 0 and (pa.types.is_floating(array.type) or pa.types.is_integer(array.type)):
        values = np.from_dlpack(array).astype(np.float64, copy=False)  # a fifth of the time of Arrow's cast
    else:
        array = array.cast(pa.float64(), safe=False)
        values = np.asarray(np.from_dlpack(pc.fill_null(array, np.nan) if array.null_count else array), np.float64)
    if len(values) and values.min() >= -LARGEST and values.max() <= LARGEST:  # as nearly always, and told in no time
        return values
    return np.where(np.abs(values) <= LARGEST, values, np.nan)


def seconds(array: pa.Array) -> np.ndarray:
    """float64 of shape (rows,): seconds since 1970 (of dates and timestamps, in UTC) or since midnight (of times)."""
    kind = array.type
    if pa.types.is_time(kind):
        return numbers(array.cast(pa.int32() if kind.bit_width == 32 else pa.int64())) / UNITS[kind.unit]
    if pa.types.is_date(kind):
        array = array.cast(pa.timestamp("s"))
    if not pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("us"))
    return numbers(array.cast(pa.int64())) / UNITS[array.type.unit]


def strings(array: pa.Array) -> pa.Array:
    """A string array, null where missing; numbers and dates are written as Arrow writes them."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type):
        return _float_levels(array)
    return array if array.type == pa.string() else array.cast(pa.string())


def _float_levels(array: pa.Array) -> pa.Array:
    """Cell by cell: a whole number is written as an integer (3.0 read back from pandas is the level "3")."""
    if pa.types.is_float16(array.type):
        array = array.cast(pa.float32())
    known = pc.if_else(pc.is_finite(array), array, pa.scalar(None, array.type))
    whole = pc.and_(pc.equal(pc.round(known), known), pc.less_equal(pc.abs(known), 2.0**53))
    integers = pc.if_else(whole, known, pa.scalar(0, array.type)).cast(pa.int64()).cast(pa.string())
    return integers if pc.all(whole).as_py() else pc.if_else(whole, integers, known.cast(pa.string()))


def vectors(array: pa.Array, size: int) -> np.ndarray:
    """float64 of shape (rows, size), NaN where an element or the whole vector is missing.

    Raises ValueError where a vector has another length.
    """
    if len(array) == 0:
        return np.empty((0, size))
    if pa.types.is_fixed_size_list(array.type):
        if array.type.list_size != size:
            raise ValueError(f"vectors of {array.type.list_size} numbers where {size} are expected")
        if array.null_count == 0:
            flat = array.flatten()
            return numbers(flat).reshape(len(array), size)
        array = array.cast(pa.list_(array.type.value_type))
    present = np.asarray(pc.is_valid(array))
    lengths = np.asarray(pc.fill_null(pc.list_value_length(array), size))
    if (lengths != size).any():
        raise ValueError(f"vectors of {lengths.min()} to {lengths.max()} numbers where {size} are expected")
    result = np.full((len(array), size), np.nan)
    result[present] = numbers(pc.list_flatten(array)).reshape(-1, size)
    return result


def row_hash(columns: list[pa.Array | np.ndarray]) -> np.ndarray:
    """uint64 of shape (rows,): equal rows, as read by the functions above, have equal hashes on any machine.

    Multilinear hashing (Lemire and Kaser, "Strongly universal string hashing is fast", 2014) with the
    finaliser of splitmix64.
    """
    total = np.zeros(len(columns[0]), np.uint64)
    with np.errstate(over="ignore"):
        for index, column in enumerate(columns):
            multiplier = _odd(index)
            if isinstance(column, np.ndarray):
                bits = np.ascontiguousarray(np.where(np.isnan(column), np.nan, column) + 0.0).view(np.uint64)
                if bits.ndim == 2:
                    bits = mixed(bits * _odd(np.arange(bits.shape[1]))[None, :]).sum(axis=1, dtype=np.uint64)
            else:
                bits = _string_hash(column)
            total += mixed(bits) * multiplier
        return mixed(total)


def mixed(value: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit of the result depends on every bit of the uint64 `value`."""
    with np.errstate(over="ignore"):
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return cast(np.ndarray, value ^ (value >> np.uint64(31)))


def unit_interval(hashes: np.ndarray) -> np.ndarray:
    """uint64 hashes as float64 in [0, 1)."""
    return (hashes >> np.uint64(11)).astype(np.float64) / 2.0**53


def _odd(index: int | np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return mixed(np.asarray(index, np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)) | np.uint64(1)


def _string_hash(array: pa.Array) -> np.ndarray:
    encoded = array.dictionary_encode(null_encoding="encode")
    levels = encoded.dictionary.to_pylist()
    hashes = [
        1 if v is None else int.from_bytes(hashlib.blake2b(v.encode(), digest_size=8).digest(), "little")
        for v in levels
    ]
    return np.array(hashes or [0], np.uint64)[encoded.indices.to_numpy(zero_copy_only=False)]


DAY, WEEK, YEAR = 86_400.0, 604_800.0, 31_556_952.0
#: Columns of `calendar`: seconds themselves, then where in the day, the week and the year they fall.
CALENDAR_PARTS = 7


def calendar(values: np.ndarray) -> np.ndarray:
    """float64 of shape (rows, 7) from seconds: the seconds, then sine and cosine of the day, week and year."""
    parts = [values]
    for period in (DAY, WEEK, YEAR):
        angle = np.mod(values, period) * (2 * np.pi / period)
        parts += [np.sin(angle), np.cos(angle)]
    return np.stack(parts, axis=1)

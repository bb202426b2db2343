"""Columns into events: what an Arrow stream of any library has for `append_arrow`. Needs pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import errors
from .arrow import free_name
from .schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa


class Batch(NamedTuple):
    """Events that are appended together."""

    payloads: Any  #: an array with one row for each event, or a list of bytes
    is_array: bool
    timestamps: npt.NDArray[np.int64] | None


def batches(data: Any, time: str | None, schema: Schema | None, path: str) -> Iterator[Batch]:
    """The record batches of ``data`` as events for the stream at ``path``.

    Raises TypeError if ``data`` has no Arrow stream, SchemaError if its columns do not fit, ValueError for a time that
    is null.
    """
    import pyarrow as pa

    if not hasattr(data, "__arrow_c_stream__"):
        raise TypeError(
            f"{path}: append_arrow takes an Arrow stream (a table of pyarrow, polars, pandas or DuckDB, or a tape), "
            f"not {type(data).__name__}"
        )
    reader = pa.RecordBatchReader.from_stream(data)
    dtype = None if schema is None else schema.require_usable().dtype
    time, names = _assigned(reader.schema.names, time, dtype, path)
    for batch in reader:
        if batch.num_rows == 0:
            continue
        stamps = None if time is None else _timestamps(batch.column(time), time, path)
        if dtype is None:
            yield Batch(_payloads(batch.column(names[0]), names[0], path), False, stamps)
        else:
            rows = np.zeros(batch.num_rows, dtype)
            for name in names:
                rows[name] = _values(batch.column(name), rows.dtype[name], f"{path}: column {name!r}")
            yield Batch(rows, True, stamps)


def _assigned(
    names: Sequence[str], time: str | None, dtype: np.dtype[Any] | None, path: str
) -> tuple[str | None, list[str]]:
    """The column of the times, if there is one, and those of the payload. A column of ordinals is left out."""
    fields = [] if dtype is None else list(dtype.names or ())
    if time == "time":  # the default, and what the table of a tape calls it
        time = free_name("time", fields)
        time = time if time in names else None
    if time is not None and time not in names:
        raise errors.no_column(path, time, names)
    rest = [name for name in names if name not in (time, free_name("ordinal", fields))]
    if len(set(names)) != len(names) or (dtype is not None and sorted(rest) != sorted(fields)):
        raise errors.columns_misfit(path, rest, fields)
    if dtype is None and len(rest) != 1:
        raise errors.columns_misfit(path, rest, ["payload"])
    return time, rest


def _timestamps(column: pa.Array, name: str, path: str) -> npt.NDArray[np.int64]:
    import pyarrow as pa

    where = f"{path}: column {name!r}"
    if column.null_count:
        raise errors.column_misfit(where, "has a null, and each event has a time")
    if not pa.types.is_timestamp(column.type):
        if pa.types.is_integer(column.type):  # nanoseconds
            return _values(column, np.dtype(np.int64), where)
        raise errors.column_misfit(where, f"is {column.type}, and a time is a timestamp or an integer of nanoseconds")
    if column.type.tz is None:
        raise errors.column_misfit(where, "has timestamps without a zone; cast it to one in UTC")
    try:
        whole = column.cast(pa.timestamp("ns", "UTC"))
    except pa.ArrowInvalid as error:
        raise errors.column_misfit(where, str(error)) from None
    return np.ascontiguousarray(whole.cast(pa.int64()).to_numpy(zero_copy_only=False))


def _payloads(column: pa.Array, name: str, path: str) -> list[bytes]:
    import pyarrow as pa

    where = f"{path}: column {name!r}"
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string, pa.types.is_large_string)
    views = (pa.types.is_binary_view, pa.types.is_string_view, pa.types.is_fixed_size_binary)
    if not any(test(column.type) for test in (*kinds, *views)):
        raise errors.column_misfit(where, f"is {column.type}, and a payload is binary or text")
    if column.null_count:
        raise errors.column_misfit(where, "has a null, and each event has a payload")
    return [value.encode() if isinstance(value, str) else value for value in column.to_pylist()]


# --------------------------------------------------------------------------------------------- fields


def _values(column: pa.Array, dtype: np.dtype[Any], where: str) -> npt.NDArray[Any]:
    """The column as an array of this dtype, without a loss. SchemaError if it has values that do not fit."""
    if dtype.subdtype is not None:
        return _lists(column, *dtype.subdtype, where)
    if column.null_count and dtype.kind not in "mM":
        raise errors.column_misfit(where, f"has a null, which {dtype} cannot hold")
    if dtype.names is not None:
        return _structs(column, dtype, where)
    if dtype.kind in "SUV":
        return _texts(column, dtype, where)
    return _numbers(column.to_numpy(zero_copy_only=False), dtype, where)


def _numbers(values: npt.NDArray[Any], dtype: np.dtype[Any], where: str) -> npt.NDArray[Any]:
    if not np.can_cast(values.dtype, dtype, "same_kind") and not (values.dtype.kind in "iu" and dtype.kind in "iu"):
        raise errors.column_misfit(where, f"is {values.dtype}, and the field is {dtype}")
    cast = values.astype(dtype)
    if values.dtype.kind in "iumM" and not _same(cast, values):
        raise errors.column_misfit(where, f"has values that {dtype} cannot hold")
    return cast


def _same(cast: npt.NDArray[Any], values: npt.NDArray[Any]) -> bool:
    """Whether no value was changed. NaT is not equal to itself, and a sign is lost between int64 and uint64."""
    if values.dtype.kind in "mM":
        return bool(((cast == values) | np.isnat(values)).all())
    return bool((cast == values).all()) and bool(((cast < 0) == (values < 0)).all())


def _texts(column: pa.Array, dtype: np.dtype[Any], where: str) -> npt.NDArray[Any]:
    values: list[Any] = column.to_pylist()
    if not all(isinstance(value, (str, bytes)) for value in values):
        raise errors.column_misfit(where, f"is {column.type}, and the field is {dtype}")
    if dtype.kind == "U":
        values = [value.decode() if isinstance(value, bytes) else value for value in values]
    else:
        values = [value.encode() if isinstance(value, str) else value for value in values]
    most = dtype.itemsize // 4 if dtype.kind == "U" else dtype.itemsize
    if any(len(value) > most or (dtype.kind == "V" and len(value) < most) for value in values):
        raise errors.column_misfit(where, f"has values that {dtype} cannot hold")
    if dtype.kind == "V":
        return np.frombuffer(b"".join(values), dtype)
    return np.array(values, dtype)


def _lists(column: pa.Array, base: np.dtype[Any], shape: tuple[int, ...], where: str) -> npt.NDArray[Any]:
    import pyarrow as pa

    values, length = column, len(column)
    for size in shape:
        if not pa.types.is_fixed_size_list(values.type) or values.type.list_size != size or values.null_count:
            raise errors.column_misfit(where, f"is {column.type}, and the field has the shape {shape}")
        values = values.flatten()
    return _values(values, base, where).reshape(length, *shape)


def _structs(column: pa.Array, dtype: np.dtype[Any], where: str) -> npt.NDArray[Any]:
    import pyarrow as pa

    names = [field.name for field in column.type] if pa.types.is_struct(column.type) else []
    if sorted(names) != sorted(dtype.names or ()):
        raise errors.column_misfit(where, f"is {column.type}, and the field is {dtype}")
    rows = np.zeros(len(column), dtype)
    for name in names:
        rows[name] = _values(column.field(name), dtype[name], f"{where}, {name!r}")
    return rows

"""Events as Arrow batches of plain types, for engines that do not take all of Arrow's.

There are no views of strings or bytes, and times are in microseconds. The nanoseconds of an event are in a column of
their own, ``time_ns``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as types

from .. import errors
from ..stream.slices import Slice
from .tables import Streams

Convert = Callable[[pa.DataType], pa.DataType]


class PlainTable:
    """The columns of streams in plain types. ``also`` converts further types. Pickles."""

    def __init__(self, streams: Streams, also: Convert | None = None, path_column: str | None = None) -> None:
        self.streams = streams
        self.path_column = path_column
        fields = list(streams.common(lambda events: pa.RecordBatchReader.from_stream(_arrow(streams, events)).schema))
        self.ordinal, self.time = fields[0].name, fields[1].name
        self.time_ns = f"{self.time}_ns"
        names = [field.name for field in fields]
        for name in (self.time_ns, path_column):
            if name in names:
                raise errors.column_taken(streams.paths[0], name, names)
        plain = [pa.field(field.name, _plain(field.type, also or _same)) for field in fields]
        plain.insert(2, pa.field(self.time_ns, pa.int64()))
        if path_column is not None:
            plain.append(pa.field(path_column, pa.string()))
        self.schema = pa.schema(plain)

    def select(self, names: Sequence[str]) -> pa.Schema:
        """The schema of these columns alone; ValueError for one that there is not."""
        for name in names:
            if name not in self.schema.names:
                raise errors.no_column(self.streams.paths[0], name, self.schema.names)
        return pa.schema([self.schema.field(name) for name in names])

    def batches(self, events: Slice, target: pa.Schema, path: str) -> Iterator[pa.RecordBatch]:
        """The events in batches with the fields of ``target``."""
        read = [name for name in target.names if name not in (self.time_ns, self.path_column)]
        if (self.time_ns in target.names or not read) and self.time not in read:
            read.append(self.time)
        for batch in pa.RecordBatchReader.from_stream(_arrow(self.streams, events, read)):
            arrays = [self._array(batch, field, path) for field in target]
            yield pa.RecordBatch.from_arrays(arrays, schema=target)

    def _array(self, batch: pa.RecordBatch, field: pa.Field, path: str) -> pa.Array:
        if field.name == self.path_column:
            return pa.repeat(pa.scalar(path), batch.num_rows)
        if field.name == self.time_ns:
            return batch.column(self.time).cast(pa.int64())
        return _converted(batch.column(field.name), field.type)


def _arrow(streams: Streams, events: Slice, columns: list[str] | None = None) -> Any:
    return events.arrow(columns, errors=streams.misfits)


def _same(kind: pa.DataType) -> pa.DataType:
    return kind


def _plain(kind: pa.DataType, also: Convert) -> pa.DataType:
    if types.is_string_view(kind):
        return pa.string()
    if types.is_binary_view(kind):
        return pa.binary()
    if types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, _plain(field.type, also)) for field in kind])
    if types.is_fixed_size_list(kind):
        return also(pa.list_(_plain(kind.value_type, also), kind.list_size))
    return also(kind)


def _converted(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """``array`` as ``kind``. Times are rounded down, as the comparison of a filter needs it."""
    if array.type == kind:
        return array
    if types.is_timestamp(kind) and array.null_count == 0:
        nanoseconds = array.cast(pa.int64()).to_numpy()
        if len(nanoseconds) and int(nanoseconds.min()) < 0:
            return pa.array(np.floor_divide(nanoseconds, 1000)).cast(kind)
    return array.cast(kind, safe=False)

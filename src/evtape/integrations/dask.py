"""Streams on a Dask cluster: a function over parts of streams, or a data frame.

    totals = dask.compute(*evtape.integrations.dask.map(total, "ticks-*.tape"))
    frame = evtape.integrations.dask.read("ticks-*.tape", columns=["price"])

A task holds a path and a range of ordinals, and opens the file where it runs. A task that is run again, after its
worker has died, reads the same events.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
import pyarrow.types as types
from dask.base import tokenize
from dask.delayed import Delayed

from .. import errors as _errors
from ..engines.partition import Partition, Paths, joined
from ..engines.tables import Streams
from ..stream.slices import Slice

__all__ = ["map", "read"]

_JOINED_MAX = 4  # parts of 64 MiB in one task; Dask takes 2 ms for each task
_TASKS_PER_THREAD = 4


def map(
    func: Callable[[Slice], Any],
    paths: Paths,
    *,
    schema: Any = None,
    events: int | None = None,
    starting_at: Any = None,
    ending_before: Any = None,
    verify_checksums: bool = True,
) -> list[Delayed]:
    """``func(events)`` for each part of the streams: a list of delayed values, in the order of the events.

    ``func`` gets a slice of a stream that is open during the call. The other arguments are those of
    ``evtape.partitions`` and ``evtape.open``. Without ``events`` a part has 64 to 256 MiB, so that there are about
    four tasks for each thread of the default cluster, or for each processor. Each file has to have its path on every
    worker.
    """
    options = {"events": events, "starting_at": starting_at, "ending_before": ending_before}
    streams = Streams.at(paths, schema=schema, verify_checksums=verify_checksums, **options)
    parts = streams.parts()
    if events is None:
        parts = joined(parts, _JOINED_MAX, _TASKS_PER_THREAD * _threads())
    run = _Map(func, streams)
    name = f"{getattr(func, '__name__', 'map')}-{tokenize(run, parts)}"
    delayed = dask.delayed(run, pure=True, traverse=False)
    return [delayed(part, dask_key_name=f"{name}-{number}") for number, part in enumerate(parts)]


def _threads() -> int:
    """How many tasks run at once."""
    try:
        from dask.distributed import default_client

        return sum(default_client().nthreads().values()) or 1
    except (ImportError, ValueError):  # there is no cluster, or it is not the default one
        return os.cpu_count() or 1


class _Map:
    """Opens a part and calls a function with its events."""

    def __init__(self, func: Callable[[Slice], Any], streams: Streams) -> None:
        self._func = func
        self._streams = streams

    def __call__(self, part: Partition) -> Any:
        with self._streams.open(part) as events:
            return self._func(events)

    def __dask_tokenize__(self) -> Any:
        return _Map, self._func, self._streams


def read(
    paths: Paths,
    columns: Iterable[str] | None = None,
    *,
    schema: Any = None,
    events: int | None = None,
    starting_at: Any = None,
    ending_before: Any = None,
    errors: Any = "raise",
    verify_checksums: bool = True,
) -> dd.DataFrame:
    """The events of the streams as a Dask data frame whose index is ``time``; ``columns`` are the others.

    The parts are those of ``evtape.partitions``. Where timestamps never go backwards, in a stream and from one stream
    to the next, the divisions are known: ``frame.loc[start:stop]`` reads only the parts of that time. Dask hands a
    selection of columns down, so one column of many is read alone. ``schema`` is as in ``evtape.open``, ``errors`` as
    in ``Tape.to_arrow``.

    Raises ValueError for an unknown column and for streams of different schemas, and what ``evtape.partitions`` raises.
    """
    options = {"events": events, "starting_at": starting_at, "ending_before": ending_before}
    streams = Streams.at(paths, schema=schema, misfits=errors, verify_checksums=verify_checksums, **options)
    fields = streams.common(lambda events: pa.RecordBatchReader.from_stream(events.arrow(errors=errors)).schema)
    frames = _Frames(streams, fields.names[1])
    meta = frames.of(fields.empty_table())
    chosen = None if columns is None else [columns] if isinstance(columns, str) else list(columns)
    for name in chosen or ():
        if name not in meta.columns:
            raise _errors.no_column(streams.paths[0], name, list(meta.columns))
    parts = streams.parts(between_times=True)
    if not parts:
        return dd.from_pandas(meta if chosen is None else meta[chosen], npartitions=1)
    divisions = _divisions(parts)
    return dd.from_map(frames, parts, columns=chosen, meta=meta, divisions=divisions, label="evtape")


class _Frames:
    """Opens a part and makes a data frame of its events."""

    def __init__(self, streams: Streams, time: str) -> None:
        self._streams = streams
        self._time = time

    def __call__(self, part: Partition, columns: list[str] | None = None) -> pd.DataFrame:
        with self._streams.open(part) as events:
            names = None if columns is None else [self._time, *columns]
            return self.of(events.to_arrow(names, errors=self._streams.misfits))

    def of(self, table: pa.Table) -> pd.DataFrame:
        """The frame of a table. Bytes stay Arrow's: Dask makes text of a column of Python objects."""
        fields = [field.with_type(pa.large_binary()) if _is_bytes(field.type) else field for field in table.schema]
        plain = table.cast(pa.schema(fields))
        return plain.to_pandas(types_mapper=_bytes_of_arrow).set_index(self._time)

    def __dask_tokenize__(self) -> Any:
        return _Frames, self._streams


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(types.is_binary(kind) or types.is_binary_view(kind) or types.is_fixed_size_binary(kind))


def _bytes_of_arrow(kind: pa.DataType) -> Any:
    return pd.ArrowDtype(kind) if types.is_large_binary(kind) else None


def _divisions(parts: list[Partition]) -> tuple[pd.Timestamp, ...] | None:
    """The times at which the parts begin and the last one ends; None if a time may be in two of them."""
    in_order = all(one.last_timestamp < other.first_timestamp for one, other in pairwise(parts))
    if not in_order or not all(part.is_sorted for part in parts):
        return None
    times = [*(part.first_timestamp for part in parts), parts[-1].last_timestamp]
    return tuple(pd.Timestamp(time, unit="ns", tz="UTC") for time in times)

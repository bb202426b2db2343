"""Streams as a lazy frame of polars: what ``evtape.scan`` rests on.

polars hands down which columns a query needs, its filter and the number of rows; the streams are read in batches.
"""

from __future__ import annotations

import atexit
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

try:
    import pyarrow as pa
except ImportError:  # polars does without
    pa = None

from .. import errors as _errors
from ..stream.slices import Slice
from .partition import Partition, Paths
from .tables import Keep, Streams, batches_of, wanted

_BATCH_BYTES = 16 << 20  # of stream in one batch, at most
_LONGEST = 5.0  # seconds that the end of a program waits for polars
_RETURN = 0.01  # seconds in which a thread of polars is out of Python again
_ROWS = 1 << 17  # of one batch, where polars says nothing
_UTC = pl.Datetime("ns", "UTC")


def scan_streams(
    paths: Paths,
    *,
    schema: Any,
    starting_at: Any,
    ending_before: Any,
    include_file_paths: str | None,
    errors: Any,
    verify_checksums: bool,
) -> pl.LazyFrame:
    """What ``evtape.scan`` says."""
    options = {"schema": schema, "misfits": errors, "verify_checksums": verify_checksums}
    streams = Streams.at(paths, starting_at=starting_at, ending_before=ending_before, **options)
    source = _Source(streams, include_file_paths)
    return register_io_source(source, schema=source.schema)


class _Batches:
    """An iterator that ends before the interpreter does.

    polars asks for batches in threads of its own, and may be about to ask for one more when the program has its answer
    and ends. A thread that asks then is ended inside of polars, which aborts the process.
    """

    open: ClassVar[weakref.WeakSet[_Batches]] = weakref.WeakSet()
    is_over = False

    def __init__(self, batches: Iterator[pl.DataFrame]) -> None:
        self._batches = batches
        self.open.add(self)

    def __iter__(self) -> Iterator[pl.DataFrame]:
        return self

    def __next__(self) -> pl.DataFrame:
        try:
            if self.is_over:
                raise StopIteration
            return next(self._batches)
        except BaseException:
            self.open.discard(self)
            raise


@atexit.register
def _end() -> None:
    """Wait until polars has put away its iterators."""
    _Batches.is_over = True
    until = time.monotonic() + _LONGEST
    waited = False
    while len(_Batches.open) and time.monotonic() < until:
        time.sleep(0.001)
        waited = True
    if waited:
        time.sleep(_RETURN)


class _Source:
    """What polars calls for the batches of a query."""

    def __init__(self, streams: Streams, path_column: str | None) -> None:
        self._streams = streams
        self._path_column = path_column
        self._fields = dict(streams.common(lambda events: pl.DataFrame(events.arrow(errors=streams.misfits)).schema))
        self._ordinal, self._time = list(self._fields)[:2]
        if path_column in self._fields:
            raise _errors.column_taken(streams.paths[0], path_column, list(self._fields))
        self.schema = pl.Schema(self._fields | ({path_column: pl.String} if path_column is not None else {}))

    def __call__(
        self, columns: list[str] | None, predicate: pl.Expr | None, limit: int | None, rows: int | None
    ) -> Iterator[pl.DataFrame]:
        """What polars asks for, one batch after the other."""
        return _Batches(self._batches(columns, predicate, limit, rows))

    def _batches(
        self, columns: list[str] | None, predicate: pl.Expr | None, limit: int | None, rows: int | None
    ) -> Iterator[pl.DataFrame]:
        """The batches with these columns, of the first ``limit`` rows those that the predicate keeps."""
        names = list(self.schema) if columns is None else columns
        needed = [*names, *(predicate.meta.root_names() if predicate is not None else ())]
        read = [name for name in self._fields if name in needed] or [self._ordinal]
        left = limit

        def jobs(part: Partition, events: Slice) -> Iterable[Callable[[], tuple[Any, str]]]:
            nonlocal left
            if left is not None:  # polars counts the rows before the predicate, and not once more
                events = events[:left]
                left -= len(events)
            keep = None if predicate is None else self._keep(predicate, part.path)
            pieces = (
                piece
                for run in wanted(events, part.is_sorted, keep)
                for piece in batches_of(run, rows or _ROWS, _BATCH_BYTES)
            )
            return (partial(self._table, piece, read, part.path) for piece in pieces)

        # Only this thread calls polars, because it may be one of polars' own: they would wait for each other.
        for table, path in self._streams.results(jobs, lambda: left == 0):
            frame = pl.DataFrame(table)
            if self._path_column is not None:
                frame = frame.with_columns(pl.lit(path).alias(self._path_column))
            yield (frame if predicate is None else frame.filter(predicate)).select(names)

    def _table(self, piece: Slice, read: list[str], path: str) -> tuple[Any, str]:
        """One batch as a table of Arrow, and where it is from. Without pyarrow it is made when polars takes it."""
        columns = piece.arrow(read, errors=self._streams.misfits)
        return (columns if pa is None else pa.table(columns)), path

    def _keep(self, predicate: pl.Expr, path: str) -> Keep | None:
        """Which pieces of a stream may have rows that the filter keeps, from the extremes of their columns."""
        skip = _skips(predicate, dict(self.schema))
        if skip is None:
            return None

        def keep(low: Any, high: Any, first: Any, last: Any) -> Any:
            known = {self._ordinal: (low, high), self._time: (first, last)}
            columns = {"len": pl.Series(high - low + 1, dtype=pl.UInt32)}
            for name, dtype in self.schema.items():
                least, most = known.get(name, (None, None))
                exact = name in known
                if name == self._path_column:
                    least = most = [path] * len(low)
                    exact = True
                if not exact:
                    least = most = [None] * len(low)
                columns[f"{name}_min"] = pl.Series(least).cast(dtype)
                columns[f"{name}_max"] = pl.Series(most).cast(dtype)
                columns[f"{name}_nc"] = pl.Series([0 if exact else None] * len(low), dtype=pl.UInt32)
            try:
                skipped = pl.DataFrame(columns).select(skip.alias("skip").cast(pl.Boolean))["skip"]
            except pl.exceptions.PolarsError:  # this polars names the extremes differently
                return np.ones(len(low), np.bool_)
            return ~skipped.fill_null(False).to_numpy()

        return keep


def _skips(predicate: pl.Expr, schema: dict[str, Any]) -> pl.Expr | None:
    """What says of the extremes of a piece that no row of it passes the filter, or None.

    The method is private to polars. Where it is missing, or takes other arguments, each piece is read, and the filter
    is applied to its rows as always.
    """
    make = getattr(predicate, "_skip_batch_predicate", None)
    if make is None:
        return None
    try:
        skip = make(schema)
    except (TypeError, pl.exceptions.PolarsError):
        return None
    return skip if isinstance(skip, pl.Expr) else None

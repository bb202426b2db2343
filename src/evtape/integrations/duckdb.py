"""Streams as a table of DuckDB, with its projection and its filters handed down.

    ticks = evtape.integrations.duckdb.dataset("ticks-*.tape")
    duckdb.sql("select symbol, avg(price) from ticks where time >= '2026-11-25T09:30Z' group by symbol")

``duckdb.sql("from tape")`` works on an open stream as it is. This module is for many streams, for filters on time,
and for streams larger than memory. DuckDB hands filters down to a dataset of pyarrow and to nothing else, and only
where no column is a view and times are in microseconds; so this is such a dataset. The columns are those of
``Tape.to_arrow``, with ``time`` rounded down to microseconds, and ``time_ns``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow.fs import LocalFileSystem

from ..engines.partition import Partition, Paths
from ..engines.plain import PlainTable
from ..engines.tables import Keep, Streams, batches_of, wanted
from ..stream.slices import Slice

__all__ = ["StreamDataset", "dataset"]


def dataset(
    paths: Paths,
    *,
    schema: Any = None,
    starting_at: Any = None,
    ending_before: Any = None,
    include_file_paths: str | None = None,
    errors: Any = "raise",
    verify_checksums: bool = True,
) -> StreamDataset:
    """One or many streams as a ``pyarrow.dataset.Dataset``, which DuckDB queries by the name of the variable.

    The arguments are those of ``evtape.scan``. A query reads only its columns, and on a sorted stream only the events
    that its conditions on ``time``, ``time_ns`` and ``ordinal`` leave; it sees what is published when it runs. A few
    batches are in memory at a time. Needs pyarrow.
    """
    options = {"schema": schema, "misfits": errors, "verify_checksums": verify_checksums}
    streams = Streams.at(paths, starting_at=starting_at, ending_before=ending_before, **options)
    return StreamDataset(PlainTable(streams, path_column=include_file_paths))


class StreamDataset(ds.Dataset):
    """Streams as a dataset of pyarrow. Made by ``dataset``; has ``schema`` and ``scanner``, and what rests on them."""

    def __init__(self, table: PlainTable) -> None:
        self._table = table

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        return self._table.schema

    def __repr__(self) -> str:
        return f"<evtape dataset of {', '.join(self._table.streams.paths)}>"

    def __reduce__(self) -> Any:
        return StreamDataset, (self._table,)

    def scanner(self, columns: Any = None, filter: pc.Expression | None = None, **options: Any) -> ds.Scanner:
        """A scanner of these columns and of the rows that the filter keeps. Other options are those of pyarrow."""
        read = self._needed(columns, filter)
        batches = self._batches(read, filter)
        reader = pa.RecordBatchReader.from_batches(read, batches)
        return ds.Scanner.from_batches(reader, columns=columns, filter=filter, **options)

    def _needed(self, columns: Any, filter: pc.Expression | None) -> pa.Schema:
        """The schema of the columns that are read. An expression does not say which it needs, but its text has them."""
        if columns is None:
            return self.schema
        text = "" if filter is None else str(filter)
        if isinstance(columns, dict):  # of expressions
            text = " ".join([text, *map(str, columns.values())])
        asked = set(columns)
        return self._table.select([name for name in self.schema.names if name in asked or name in text])

    def _batches(self, read: pa.Schema, filter: pc.Expression | None) -> Iterator[pa.RecordBatch]:
        def jobs(part: Partition, events: Slice) -> Iterator[Callable[[], list[pa.RecordBatch]]]:
            keep = None if filter is None else self._keep(filter, part.path)
            for run in wanted(events, part.is_sorted, keep):
                for piece in batches_of(run, _ROWS, _BATCH_BYTES):
                    yield partial(self._made, piece, read, part.path)

        for batches in self._table.streams.results(jobs):
            yield from batches

    def _made(self, piece: Slice, read: pa.Schema, path: str) -> list[pa.RecordBatch]:
        return list(self._table.batches(piece, read, path))

    def _keep(self, filter: pc.Expression, path: str) -> Keep:
        """Which pieces may have rows that the filter keeps.

        pyarrow decides that for the files of a dataset, from what is known of each. So each piece is such a file here,
        which is never opened.
        """
        table = self._table
        of_time = self.schema.field(table.time).type

        def keep(low: Any, high: Any, first: Any, last: Any) -> Any:
            fragments = []
            for at in range(len(low)):
                known = _within(table.ordinal, low[at], high[at], pa.int64())
                known &= _within(table.time_ns, first[at], last[at], pa.int64())
                known &= _within(table.time, first[at] // 1000, last[at] // 1000, of_time)
                if table.path_column is not None:
                    known &= pc.field(table.path_column) == path
                fragments.append(_FORMAT.make_fragment(str(at), _FILES, known))
            left = ds.FileSystemDataset(fragments, self.schema, _FORMAT, _FILES).get_fragments(filter)
            kept = np.zeros(len(low), bool)
            kept[[int(fragment.path) for fragment in left]] = True
            return kept

        return keep


_ROWS = 1 << 17  # of one batch, at most
_BATCH_BYTES = 16 << 20  # of stream in one batch, at most
_FORMAT = ds.IpcFileFormat()
_FILES = LocalFileSystem()


def _within(name: str, low: Any, high: Any, kind: pa.DataType) -> pc.Expression:
    field = pc.field(name)
    return (field >= pa.scalar(int(low), kind)) & (field <= pa.scalar(int(high), kind))

"""Several streams as one table, in parts: what polars, DuckDB, Dask and Spark have in common."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .. import errors
from ..journal.opening import open_path
from ..stream.slices import Slice
from .partition import Partition, divide, files_of, parts_of, slice_of, stream_paths

Times = npt.NDArray[np.int64]
#: Given the first and last ordinals and the first and last timestamps of pieces: which of them may have wanted events.
Keep = Callable[[Times, Times, Times, Times], npt.NDArray[np.bool_]]
S = TypeVar("S")

_THREADS = min(2, os.cpu_count() or 1)  # that make batches; each holds one of them
_PIECES = 64  # into which a part is divided to see which of them are wanted
_SMALLEST = 4096  # events that are not worth a division


@dataclass(frozen=True)
class Streams:
    """Which streams are read, and how. Pickles."""

    paths: tuple[str, ...]  #: of streams and journals
    schema: Any = None
    misfits: Any = "raise"
    verify_checksums: bool = True
    events: int | None = None
    starting_at: Any = None
    ending_before: Any = None

    @classmethod
    def at(cls, paths: Any, **options: Any) -> Streams:
        """The streams that are meant by a path, a glob or a list."""
        return cls(tuple(stream_paths(paths)), **options)

    def parts(self, between_times: bool = False) -> list[Partition]:
        """What is published now, as parts."""
        return divide(files_of(self.paths), self.events, self.starting_at, self.ending_before, between_times)

    def results(
        self, jobs: Callable[[Partition, Slice], Iterable[Callable[[], S]]], is_over: Callable[[], bool] = lambda: False
    ) -> Iterator[S]:
        """The results of the jobs of each part, in order, made by threads a few jobs ahead of the consumer.

        Each stream is opened once, and none when it ``is_over``. The pages of a part are dropped after it, so that what
        stays in memory is what the consumer holds.
        """
        with ThreadPoolExecutor(_THREADS, "evtape-scan") as threads:
            for file in files_of(self.paths):
                if is_over():
                    return
                with file.open(self.verify_checksums, self.schema) as tape:
                    parts = parts_of(tape, self.events, self.starting_at, self.ending_before)
                    made: deque[Future[S]] = deque()
                    try:
                        for part in parts:
                            for job in jobs(part, slice_of(part, tape)):
                                made.append(threads.submit(job))
                                if len(made) > _THREADS:
                                    yield made.popleft().result()
                            tape._source.region.drop_pages(0, part.mark[0])
                        while made:
                            yield made.popleft().result()
                    finally:  # the stream is not closed under a job
                        for future in made:
                            future.cancel()
                        wait(made)

    @contextlib.contextmanager
    def open(self, part: Partition) -> Iterator[Slice]:
        """The events of a part."""
        with part.open(schema=self.schema, verify_checksums=self.verify_checksums) as events:
            yield events

    def common(self, of: Callable[[Slice], S]) -> S:
        """What ``of`` says of an empty slice of each stream; ValueError if they differ. O(streams)."""
        found: S | None = None
        for path in self.paths:
            with open_path(path, self.verify_checksums, self.schema) as tape:
                columns = of(Slice(tape._source, range(0)))
            if found is not None and columns != found:
                raise errors.columns_differ(path, columns, self.paths[0], found)
            found = columns
        assert found is not None
        return found


def wanted(events: Slice, is_sorted: bool, keep: Keep | None) -> Iterator[Slice]:
    """The runs of ``events`` that may have wanted ones, as `keep` says of pieces. O(pieces * log n).

    Where timestamps go backwards the first and the last of a piece say nothing of the others, so all are wanted.
    """
    if keep is None or not is_sorted:
        yield events
        return
    for start, stop in _runs(events, 0, len(events), keep):
        yield events[start:stop]


def _runs(events: Slice, start: int, stop: int, keep: Keep) -> list[tuple[int, int]]:
    """[start, stop) without the pieces that are not wanted; those at the edges are divided again."""
    count = stop - start
    pieces = min(_PIECES, count)
    if pieces == 0:
        return []
    edges = start + np.arange(pieces + 1) * count // pieces
    lows, highs = edges[:-1], edges[1:] - 1
    first, last = _times(events, lows), _times(events, highs)
    begin = int(events.ordinals[0]) + events._source.first
    kept = np.flatnonzero(keep(lows + begin, highs + begin, first, last))
    found = []
    for run in np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1):
        if len(run):
            low, high = int(edges[run[0]]), int(edges[run[-1] + 1])
            found.append((low, high))
    if count // pieces <= _SMALLEST or len(kept) == pieces:
        return found
    return [run for low, high in found for run in _trimmed(events, low, high, count // pieces + 1, keep)]


def _trimmed(events: Slice, low: int, high: int, piece: int, keep: Keep) -> list[tuple[int, int]]:
    """A run whose first and last piece are divided again."""
    if high - low <= 2 * piece:
        return _runs(events, low, high, keep)
    head, tail = _runs(events, low, low + piece, keep), _runs(events, high - piece, high, keep)
    start = head[0][0] if head else low + piece
    stop = tail[-1][1] if tail else high - piece
    return [(start, stop)]


def _times(events: Slice, places: Sequence[int] | Times) -> Times:
    return np.array([int(events[int(at) : int(at) + 1].timestamps[0]) for at in places], np.int64)


def batches_of(events: Slice, rows: int, limit_bytes: int) -> Iterator[Slice]:
    """``events`` in slices of at most ``rows`` events and about ``limit_bytes`` of stream."""
    count = len(events)
    if count == 0:
        return
    size = int(events[-1:].offsets[0] + events[-1:].sizes[0] - events[:1].offsets[0])
    step = max(1, min(rows, count * limit_bytes // max(size, 1)))
    for start in range(0, count, step):
        yield events[start : start + step]

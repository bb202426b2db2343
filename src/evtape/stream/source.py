"""What slices and queries read from."""

from __future__ import annotations

import operator
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from .. import errors, guard
from .. import schema as schemas
from ..arrow import Misfits, Ordinals, Table, stream_capsule
from ..core.backend import core
from ..core.format import ENTRY_SIZE, FIRST_OFFSET, EventsReason
from ..errors import CorruptError, Error, FormatError
from ..recovery.index_file import IndexFile, Matched
from ..schema import Schema
from ..system.live import LiveFile
from ..system.sidecar import resolved
from ..system.signals import SignalsDeferred
from .halves import in_halves
from .index import STRIDE, Index

Column = npt.NDArray[np.int64]
ColumnName = Literal["timestamps", "sizes", "offsets"]
Side = Literal["left", "right"]

_LINE = 64  # bytes that the processor reads for a header


class Selected(Protocol):
    """Some events of a source."""

    @property
    def ordinals(self) -> Ordinals:
        """Their ordinals."""

    @property
    def offsets(self) -> Column:
        """Where they are."""


class Source(Protocol):
    """A sequence of events by ordinal. A slice rests on this and does not know how many files there are."""

    @property
    def path(self) -> str:
        """The name of the stream, for messages."""

    def reopen(self) -> tuple[Callable[..., Source], tuple[Any, ...]]:
        """A function and its arguments that open the source in another process, for pickling."""

    def event(self, ordinal: int) -> Any:
        """Event ``ordinal``, which exists."""

    def events(self, start: int, stop: int) -> Iterator[Any]:
        """The events [start, stop)."""

    def column(self, name: ColumnName, start: int, stop: int) -> Column:
        """A column of the events [start, stop), int64."""

    def rows(self, start: int, stop: int, kind: np.dtype[Any]) -> npt.NDArray[Any]:
        """The payloads of the events [start, stop), all of ``kind.itemsize`` bytes, as an array."""

    def events_at(self, ordinals: Column) -> Iterator[Any]:
        """The events of these ordinals, which exist, in this order."""

    def headers_at(self, ordinals: Column) -> tuple[Column, Column, Column]:
        """Offsets, timestamps and sizes of the events of these ordinals, which exist."""

    def gather(self, ordinals: Column) -> tuple[Column, npt.NDArray[np.uint8]]:
        """The payloads of these events, which exist, end to end, and where each begins and the last one ends."""

    def unsorted_at(self) -> int:
        """Ordinal of the first event with a lower timestamp than the one before it, or -1."""

    def search(self, when: int, side: Side) -> int:
        """Position of ``when`` among sorted timestamps."""

    def candidates(self, low: int, high: int, start: int, stop: int) -> list[tuple[int, int]]:
        """The ranges of ordinals within [start, stop) in which a timestamp from ``low`` to ``high`` can be."""

    def window(self, low: int | None, high: int | None, start: int, stop: int) -> range | None:
        """The events of [start, stop) with a time of ``low`` to ``high``, both included.

        None where times go backwards, or may: then the timestamps have to be looked at.
        """


_MUCH = 64 << 20  # bytes that are new at one look, so that the index file is read before they are walked

_sources: weakref.WeakSet[StreamSource] = weakref.WeakSet()


class StreamSource(ABC):
    """One stream: a region and the index of what is published in it.

    A question is answered for what is published at that moment.
    """

    fd = -1  # of the file
    has_file = True
    first = 0  # the ordinal of the first event; of a segment of a journal it is the one in the journal

    def __init__(self, path: str, region: core.Region, verify_checksums: bool, declared: Any = None) -> None:
        guard.ensure()
        self.path = path
        self.name = os.path.abspath(path)  # where the stream is, whatever the working directory is later
        self.region = region
        self.verify_checksums = verify_checksums
        self.index = Index(region, self._load_index, self.first)
        self._lock = threading.RLock()
        self._inside = False  # whether the thread that holds the lock is extending the index
        self._columns: dict[str, Column] = {}
        self._starts: tuple[range, Column] | None = None
        self.declared = declared  # what was given as schema=, which counts more than the file
        self._schema = None if declared is None else schemas.declared_for(declared, path)
        self._schema_known = declared is not None
        _sources.add(self)

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether the stream is closed."""

    @abstractmethod
    def refresh(self) -> tuple[int, int]:
        """(WriteOffset, EventCount) at this moment, within what can be read. Nothing looks past it."""

    def indexed(self) -> None:  # noqa: B027 - nothing to do, unless another process writes
        """Called when the index knows the events below the last WriteOffset."""

    @property
    @abstractmethod
    def replaced(self) -> bool:
        """Whether the stream's name leads to another file now, or to none."""

    @abstractmethod
    def close(self) -> None:
        """Close what this object has opened. Views that are alive stay valid."""

    @abstractmethod
    def flush_to_disk(self) -> None:
        """Make what is published durable."""

    @abstractmethod
    def closed_cleanly(self) -> bool:
        """Whether the file ends where its events do, as a writer leaves it."""

    @abstractmethod
    def reopen(self) -> tuple[Callable[..., Source], tuple[Any, ...]]:
        """A function and its arguments that open the source in another process, for pickling."""

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of the file, whatever name it was opened by."""
        if self.closed:
            raise errors.closed(self.path)
        status = os.fstat(self.fd)
        return status.st_dev, status.st_ino

    def live(self) -> LiveFile | None:
        """The page of the writer of this stream, to be joined and closed. None for a stream that has no file."""
        return LiveFile(resolved(self.name), self.fd, self.region.load_header()[2])

    def schema(self) -> Schema | None:
        """What the payloads mean, or None. O(1), after one look for the file."""
        if not self._schema_known and not self.closed:
            _, events, started = self.region.load_header()
            # A writer stores the schema of a new stream after the stream has its name, and before its first event.
            self._schema = schemas.load(self.path, self.name, self.fd, started)
            self._schema_known = self._schema is not None or events > 0
        return self._schema

    def declare(self, schema: Schema | None) -> None:
        """The schema is known to be this."""
        self._schema, self._schema_known = schema, True

    # ----------------------------------------------------------------------------------------- index

    def length(self) -> int:
        """How many events can be reached now."""
        self.refresh_index()
        return self.index.length

    @property
    def begin(self) -> int:
        """Ordinal of the first event that is left: of a stream 0."""
        return 0

    def span(self) -> tuple[int, int]:
        """Ordinal of the first event that is left, and the one after the last."""
        return 0, self.length()

    def refresh_index(self) -> int:
        """Extend the index by what is new; returns WriteOffset."""
        with self._lock:
            if self._inside:  # a signal handler or a finalizer in the middle of what follows
                raise errors.busy(self.path)
            self._inside = True
            try:
                bound, event_count = self.refresh()
                self._renew_index(bound)
                if self.index.extend(bound, event_count) is not None:
                    raise errors.faulted(self.path)
                self.indexed()
            except Error:
                raise
            except BaseException:  # an interruption leaves an index that does not fit its scanner
                self._forget_index()
                raise
            finally:
                self._inside = False
        return bound

    def require_stream(self, write_offset: int, size: int) -> None:
        """FormatError or TruncatedError unless ``write_offset`` in the header of ``size`` bytes can be used."""
        if FIRST_OFFSET <= write_offset <= size:
            return
        # An unusable header over a valid first event is a damaged stream; over anything else, not a stream at all.
        scanner = core.Scanner(self.region)
        scanner.run(size, 1, verify_checksums=True)
        if scanner.ordinal == 0 or scanner.zero_ordinal == 0:
            raise FormatError(f"{self.path}: not a stream (its first 8 bytes would be WriteOffset {write_offset})")
        if write_offset > size:
            raise errors.truncated(self.path, size, write_offset)
        raise FormatError(f"{self.path}: WriteOffset {write_offset} in the header is unusable; see 'evtape recover'")

    def forked(self) -> None:
        """In the child after a fork: a thread that is not there may have held the lock and been half way through."""
        self._lock = threading.RLock()
        if self._inside:
            self._inside = False
            self._forget_index()

    def unwalked(self) -> int:
        """How many bytes of entries a question would walk now, beyond what the index file knows."""
        with self._lock:
            bound = self.refresh()[0]
            self.index.take_file(bound)
            return bound - self.index.reached

    def _renew_index(self, bound: int) -> None:
        """Read the index file again where that is quicker than a walk over what is new.

        The index of before is not closed: another thread may use it.
        """
        known = self.index
        if known.length == 0 or bound - known.reached < _MUCH:
            return
        index = Index(self.region, self._load_index, self.first)
        index.take_file(bound)
        if index.from_file > known.length:
            self.index = index
        else:
            index.close()

    def _forget_index(self) -> None:
        self.index.close()
        self.index = Index(self.region, self._load_index, self.first)

    def _load_index(self, bound: int) -> Matched | None:
        """What the index file knows of the stream below ``bound``, if it is this stream's."""
        try:
            with SignalsDeferred(), IndexFile(resolved(self.name), self.fd) as file:
                return file.load(self.region, bound)
        except OSError:
            return None  # what cannot be read is not needed

    def _reach(self, stop: int) -> int:
        """A bound below which the index knows events up to ordinal ``stop``."""
        return self.refresh()[0] if stop <= self.index.length else self.refresh_index()

    def report_problem(self, ordinal: int, offset: int, reason: EventsReason) -> None:
        """Called where a walk meets damage. Returns only for sixteen zero bytes that are an event after all."""
        if reason == "fault":
            raise errors.faulted(self.path)
        bound = self.refresh()[0]  # a file that became shorter reads as zeros up to the end of its last page
        if reason == "changed" or offset >= bound:
            raise errors.rewound(self.path, offset, bound)
        if reason == "zero":
            bound = self.refresh_index()
            broken = self.index.broken is not None and self.index.broken.reason == "zero"
            if not broken and ordinal - self.first >= self.index.from_file:
                if self._is_zero_event(ordinal, offset, bound):
                    return
                raise errors.rewound(self.path, offset, bound)
        raise errors.corrupt(self.path, ordinal, offset, reason)

    def _is_zero_event(self, ordinal: int, offset: int, bound: int) -> bool:
        """Whether the event is where a walk met zeros, and is one of zeros. A stream that was cut since has others."""
        ordinal -= self.first
        if ordinal >= self.index.length or self.index.locate(ordinal, bound) != offset:
            return False
        return not any(self.region.view(offset, offset + ENTRY_SIZE))

    def before(self, ordinal: int) -> tuple[int, tuple[int, bytes]]:
        """Where event ``ordinal`` begins, or would, and the event before it: its offset and header, or (-1, b"")."""
        ordinal -= self.first
        if ordinal == 0:
            return FIRST_OFFSET, (-1, b"")  # needs no index
        bound = self.refresh_index()
        last = self.index.locate(ordinal - 1, bound)
        return self.index.locate(ordinal, bound), (last, bytes(self.region.view(last, last + ENTRY_SIZE)))

    # ---------------------------------------------------------------------------------------- events

    def at(self, key: Any) -> core.Event:
        """The event at a position as in a list, negative from the end. One look at the header."""
        bound = self.refresh_index()
        length = self.index.length
        key = operator.index(key)
        ordinal = key + length if key < 0 else key
        if 0 <= ordinal < length:
            return next(self._walk(ordinal, ordinal + 1, bound))
        if self.index.broken is not None and key >= length:
            self.report_problem(*self.index.broken)
        raise IndexError(f"{self.path}: index {key} is outside a stream of {length} events")

    def event(self, ordinal: int) -> core.Event:
        """Event ``ordinal``, which exists."""
        return next(self._walk(ordinal, ordinal + 1, self._reach(ordinal + 1)))

    def events(self, start: int, stop: int) -> core.Events:
        """The events [start, stop)."""
        bound = self._reach(stop)
        return self._walk(start, stop, bound) if start < stop else self._walk(0, 0, FIRST_OFFSET)

    def all_events(self) -> core.Events:
        """The events published now. Needs no index."""
        return self._walk(0, -1, self.refresh()[0])

    def _walk(self, start: int, stop: int, bound: int) -> core.Events:
        return core.Events(
            self.region,
            self.index.locate(start, bound),
            self.first + start,
            bound,
            stop=stop if stop < 0 else self.first + stop,
            verify_checksums=self.verify_checksums,
            report_problem=self.report_problem,
            schema=self.schema(),
        )

    def byte_span(self, start: int, stop: int) -> tuple[int, int]:
        """Where the entries of the events [start, stop) begin and end."""
        bound = self._reach(stop)
        return self.index.locate(start, bound), self.index.locate(stop, bound)

    def column(self, name: ColumnName, start: int, stop: int) -> Column:
        """One column of the events [start, stop).

        The column of the whole stream is kept, since it is asked for again.
        """
        known = self._columns.get(name)
        if known is not None and stop <= len(known):
            return known[start:stop]
        bound = self._reach(stop)
        values = np.empty(stop - start, np.int64)
        scanner = core.Scanner(self.region, self.index.locate(start, bound), start)
        columns: dict[str, Any] = {name: values}
        reason = scanner.run(bound, stop - start, **columns)
        if reason is not None:  # damage among events that only the index file has reached
            self.report_problem(self.first + scanner.ordinal, scanner.offset, reason)
        if scanner.ordinal != stop:
            raise errors.corrupt(self.path, self.first + scanner.ordinal, scanner.offset, "size")
        values.flags.writeable = False
        if start == 0 and stop == self.index.length:
            self._columns[name] = values
        return values

    def rows(self, start: int, stop: int, kind: np.dtype[Any]) -> npt.NDArray[Any]:
        """The payloads of the events [start, stop), all of ``kind.itemsize`` bytes, as an array."""
        first, end = self.byte_span(start, stop)
        if self.verify_checksums:
            scanner = core.Scanner(self.region, first, start)
            reason = scanner.run(end, verify_checksums=True)
            if reason is not None:
                self.report_problem(self.first + scanner.ordinal, scanner.offset, reason)
        view = self.region.view(first, end).toreadonly()
        return np.ndarray((stop - start,), kind, view, ENTRY_SIZE, (ENTRY_SIZE + kind.itemsize,))

    # --------------------------------------------------------------------------------- many at once

    def events_at(self, ordinals: Column) -> Iterator[core.Event]:
        """The events of these ordinals, which exist, in this order. Where one is damaged, the next can be asked for."""
        bound = self._reach(int(ordinals.max()) + 1) if len(ordinals) else FIRST_OFFSET
        try:
            offsets = self.index.locate_all(ordinals, bound)
        except CorruptError:  # of one of them; the others may be intact
            return map(self.event, map(int, ordinals))
        found = core.events_at(
            self.region,
            bound,
            offsets,
            np.ascontiguousarray(ordinals + self.first),
            verify_checksums=self.verify_checksums,
            schema=self.schema(),
        )
        if len(found) == len(ordinals):
            return iter(found)
        return chain(found, map(self.event, map(int, ordinals[len(found) :])))

    def headers_at(self, ordinals: Column) -> tuple[Column, Column, Column]:
        """Offsets, timestamps and sizes of the events of these ordinals, which exist."""
        bound = self._reach(int(ordinals.max()) + 1) if len(ordinals) else FIRST_OFFSET
        offsets = self.index.locate_all(ordinals, bound)
        timestamps, sizes = np.empty_like(offsets), np.empty_like(offsets)

        def read(start: int, stop: int) -> int:
            part = slice(start, stop)
            return core.headers_at(self.region, bound, offsets[part], timestamps[part], sizes[part])

        bad = in_halves(read, len(offsets), len(offsets) * _LINE)
        if bad >= 0:
            raise errors.corrupt(self.path, self.first + int(ordinals[bad]), int(offsets[bad]), "size")
        return offsets, timestamps, sizes

    def starts(self, ordinals: range) -> Column:
        """Where these events begin. The answer is kept: an engine asks for the same batches several times a query."""
        known = self._starts
        if known is None or known[0] != ordinals:
            known = ordinals, self.headers_at(np.arange(ordinals.start, ordinals.stop, ordinals.step))[0]
            self._starts = known
        return known[1]

    def gather(self, ordinals: Column) -> tuple[Column, npt.NDArray[np.uint8]]:
        """The payloads of these events, which exist, end to end, and where each begins and the last one ends."""
        offsets, _, sizes = self.headers_at(ordinals)
        ends = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(sizes, out=ends[1:])
        data = np.empty(int(ends[-1]), np.uint8)
        bound = self.refresh()[0]

        def copy(start: int, stop: int) -> int:
            first = ends[start]
            return core.gather(
                self.region,
                bound,
                offsets[start:stop],
                ends[start + 1 : stop + 1] - first,
                data[first : ends[stop]],
                verify_checksums=self.verify_checksums,
            )

        bad = in_halves(copy, len(offsets), data.nbytes)
        if bad >= 0:
            raise errors.corrupt(self.path, self.first + int(ordinals[bad]), int(offsets[bad]), "checksum")
        return ends, data

    def batches(self, events: Selected, table: Table, misfits: Misfits) -> Any:
        """The events as a capsule of a stream of Arrow batches of this table."""
        return stream_capsule(self, events.ordinals, lambda: events.offsets, table, misfits)

    # ----------------------------------------------------------------------------------------- times

    def unsorted_at(self) -> int:
        """Ordinal of the first event with a lower timestamp than the one before it, or -1."""
        self.refresh_index()
        return self.index.unsorted_at

    def search(self, when: int, side: Side) -> int:
        """Position of ``when`` in a sorted stream: the block by bisection, then the place within it."""
        block = self.index.block_before(when, side)
        if block < 0:
            return 0
        start = block * STRIDE
        values = self.column("timestamps", start, min(start + STRIDE, self.index.length))
        return start + int(np.searchsorted(values, when, side))

    def candidates(self, low: int, high: int, start: int, stop: int) -> list[tuple[int, int]]:
        """The ranges of ordinals within [start, stop) in which a timestamp from ``low`` to ``high`` can be."""
        self._reach(stop)
        return self.index.candidates(low, high, start, stop)

    def window(self, low: int | None, high: int | None, start: int, stop: int) -> range | None:
        """The events of [start, stop) with a time of ``low`` to ``high``, both included; None if times go backwards."""
        if self.unsorted_at() >= 0:
            return None
        begin = start if low is None else min(max(self.search(low, "left"), start), stop)
        end = stop if high is None else min(max(self.search(high, "right"), start), stop)
        return range(begin, max(begin, end))


def _after_fork_in_child() -> None:
    for source in list(_sources):
        source.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

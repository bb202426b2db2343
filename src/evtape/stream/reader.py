"""The read path: open -> bound by WriteOffset -> scan or walk -> check -> view."""

from __future__ import annotations

import os
import threading
import weakref
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self, overload

import numpy as np
import numpy.typing as npt

from .. import errors, guard
from ..core.backend import core
from ..core.format import ENTRY_SIZE, FIRST_OFFSET, HEADER_SIZE
from ..errors import Error, FormatError, ReadOnlyError
from ..system.files import READ, open_descriptor, require_regular
from ..system.signals import Held
from .index import STRIDE, Index
from .pickling import restore_reader
from .slices import Column, Slice, strided

_tapes: weakref.WeakSet[Tape] = weakref.WeakSet()
_TAIL = 64  # bytes below WriteOffset that a reader remembers


class Tape(Sequence[core.Event]):
    """A stream that is open: a sequence of events. What a reader and a writer have in common.

    A question is answered for what is published at that moment. ``len``, indexing and time queries rest on an index
    that is built in one pass at the first of them and extended by what is new afterwards.
    """

    path: str  #: the stream's file name
    verify_checksums: bool  #: whether a checksum is compared when a payload is handed out

    _fd = -1  # until there is one, so that what could not be opened can be closed
    _region: core.Region = None  # type: ignore[assignment]

    def __init__(self, path: str, fd: int, region: core.Region, verify: bool) -> None:
        guard.ensure()
        self.path = path
        self.verify_checksums = verify
        self._fd = fd
        self._region = region
        self._index = Index(region)
        self._index_lock = threading.RLock()
        self._extends = False  # whether the thread that holds this lock is inside
        self._columns: dict[str, Column] = {}
        self._bound = FIRST_OFFSET
        _tapes.add(self)

    def __repr__(self) -> str:
        kind = type(self).__name__.lower()
        return f"<evtape {kind} of {self.path!r}{', closed' if self.closed else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._fd < 0

    @abstractmethod
    def close(self) -> None:
        """Close the stream. Events and arrays that are still alive stay readable. Closing twice is fine."""

    @property
    def start_timestamp(self) -> int:
        """When the stream was made, ns."""
        return self._region.load_header()[2]

    # -------------------------------------------------------------------------------------- sequence

    def __len__(self) -> int:
        self._refresh_index()
        return self._index.length

    @overload
    def __getitem__(self, key: int) -> core.Event: ...
    @overload
    def __getitem__(self, key: slice) -> Slice: ...
    def __getitem__(self, key: int | slice) -> core.Event | Slice:
        """Event by ordinal, negative from the end: O(1) after the first.

        A slice is lazy and fixed when it is made.
        """
        length = len(self)
        if isinstance(key, slice):
            return Slice(self, range(length)[key])
        try:
            ordinal = range(length)[key]
        except IndexError:
            if self._index.broken is not None and key >= length:
                self._report_problem(*self._index.broken)
            raise IndexError(f"{self.path}: index {key} is outside a stream of {length} events") from None
        return self._event(ordinal)

    def __iter__(self) -> Iterator[core.Event]:
        """All events published at this moment, as ``Event``s; unpack them as ``for timestamp, data in tape``.

        Damage raises CorruptError at its event. After one with reason "checksum" the same iterator can go on with the
        next event.
        """
        bound = self._refresh()
        return core.Events(
            self._region,
            FIRST_OFFSET,
            0,
            bound,
            verify_checksums=self.verify_checksums,
            report_problem=self._report_problem,
        )

    timestamps = property(lambda self: self[:].timestamps, doc=Slice.timestamps.__doc__)
    sizes = property(lambda self: self[:].sizes, doc=Slice.sizes.__doc__)
    offsets = property(lambda self: self[:].offsets, doc=Slice.offsets.__doc__)

    def between(
        self, *, starting_at: Any = None, starting_after: Any = None, ending_before: Any = None, ending_at: Any = None
    ) -> Slice:
        return self[:].between(
            starting_at=starting_at, starting_after=starting_after, ending_before=ending_before, ending_at=ending_at
        )

    def searchsorted(self, when: Any, side: str = "left") -> int:
        return self[:].searchsorted(when, side)

    def rows(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        return self[:].rows(dtype)

    between.__doc__ = Slice.between.__doc__
    searchsorted.__doc__ = Slice.searchsorted.__doc__
    rows.__doc__ = Slice.rows.__doc__

    # --------------------------------------------------------------------------------------- writing

    def append(self, data: Any, timestamp: Any = None) -> int:
        """Append one event; returns its ordinal."""
        raise self._refusal()

    def append_many(self, payloads: Any, timestamps: Any = None) -> range:
        """Append a batch; returns its ordinals."""
        raise self._refusal()

    def append_array(self, array: Any, timestamps: Any = None) -> range:
        """Append a batch, one event per row; returns its ordinals."""
        raise self._refusal()

    def sync(self) -> None:
        """Make every event appended so far durable."""
        raise self._refusal()

    def _refusal(self) -> Exception:
        """Why this tape cannot be written."""
        if self.closed:
            return errors.closed(self.path)
        return ReadOnlyError(f"{self.path}: the stream is open for reading; open it with mode 'a' to append")

    # --------------------------------------------------------------- what slices and queries rest on

    @abstractmethod
    def _refresh(self) -> int:
        """WriteOffset at this moment, within what can be read. Nothing looks past it."""

    def _refresh_index(self) -> int:
        with self._index_lock:
            if self._extends:  # a signal handler or a finalizer in the middle of what follows
                raise errors.busy(self.path)
            self._extends = True
            try:
                bound = self._refresh()
                if self._index.extend(bound, self._region.load_header()[1]) is not None:
                    raise errors.faulted(self.path)
                self._remember(bound)
            except Error:
                raise
            except BaseException:  # an interruption leaves an index that does not fit its scanner
                self._index = Index(self._region)
                raise
            finally:
                self._extends = False
        return bound

    def _remember(self, bound: int) -> None:
        """Called when the index knows the events below ``bound``."""

    def _forked(self) -> None:
        """In the child after a fork: a thread that is not there may have held the lock and been half way through."""
        self._index_lock = threading.RLock()
        if self._extends:
            self._extends = False
            self._index = Index(self._region)

    def _reach(self, stop: int) -> int:
        """A bound below which the index knows events up to ordinal ``stop``."""
        if stop <= self._index.length and self._bound:
            return self._refresh()
        return self._refresh_index()

    def _report_problem(self, ordinal: int, offset: int, reason: str) -> None:
        """Called where a walk meets damage. Returns only for sixteen zero bytes that are an event after all."""
        if reason != "fault":
            self._refresh()  # a file that became shorter reads as zeros up to the end of its last page
        if reason == "zero":
            self._refresh_index()
            if self._index.broken is None or self._index.broken.reason != "zero":
                return
        if reason == "fault":
            raise errors.faulted(self.path)
        raise errors.corrupt(self.path, ordinal, offset, reason)

    def _event(self, ordinal: int) -> core.Event:
        return next(self._events(ordinal, ordinal + 1))

    def _events(self, start: int, stop: int) -> core.Events:
        bound = self._reach(stop)
        if stop <= start:
            return core.Events(
                self._region, FIRST_OFFSET, 0, FIRST_OFFSET, verify_checksums=False, report_problem=self._report_problem
            )
        offset = self._index.locate(start, bound)
        return core.Events(
            self._region,
            offset,
            start,
            bound,
            stop=stop,
            verify_checksums=self.verify_checksums,
            report_problem=self._report_problem,
        )

    def _column(self, name: str, start: int, stop: int) -> Column:
        """One column of the events [start, stop).

        The column of the whole stream is kept, since it is asked for again.
        """
        known = self._columns.get(name)
        if known is not None and stop <= len(known):
            return known[start:stop]
        bound = self._reach(stop)
        values = np.empty(stop - start, np.int64)
        scanner = core.Scanner(self._region, self._index.locate(start, bound), start)
        columns: dict[str, Any] = {name: values}
        if scanner.run(bound, stop - start, **columns) == "fault":
            raise errors.faulted(self.path)
        values.flags.writeable = False
        if start == 0 and stop == self._index.length:
            self._columns[name] = values
        return values

    def _rows(self, start: int, stop: int, kind: np.dtype[Any]) -> npt.NDArray[Any]:
        bound = self._reach(stop)
        first, end = self._index.locate(start, bound), self._index.locate(stop, bound)
        if self.verify_checksums:
            scanner = core.Scanner(self._region, first, start)
            reason = scanner.run(end, verify_checksums=True)
            if reason is not None:
                self._report_problem(scanner.ordinal, scanner.offset, reason)
        return strided(self._region.view(first, end).toreadonly(), stop - start, kind)

    def _unsorted_at(self) -> int:
        self._refresh_index()
        return self._index.unsorted_at

    def _search(self, when: int, side: str) -> int:
        """Position of ``when`` in a sorted stream: the block by bisection, then the place within it."""
        right: Literal["left", "right"] = "right" if side == "right" else "left"
        block = int(np.searchsorted(self._index.timestamps, when, right)) - 1
        if block < 0:
            return 0
        start = block * STRIDE
        values = self._column("timestamps", start, min(start + STRIDE, self._index.length))
        return start + int(np.searchsorted(values, when, right))


class Reader(Tape):
    """A stream that is open for reading; many readers may follow one writer."""

    def __init__(self, path: str, *, verify: bool = True) -> None:
        path = os.fsdecode(path)
        require_regular(path)
        try:
            with Held():
                self._open(path, verify)
        except BaseException:
            self.close()
            raise

    def _open(self, path: str, verify: bool) -> None:
        self._fd = fd = open_descriptor(path, READ)
        size = os.fstat(fd).st_size
        if size < HEADER_SIZE:
            raise FormatError(f"{path}: {size} bytes are no stream; its header alone has {HEADER_SIZE}")
        errors.require_bytes(path, fd, size)
        self._region = core.Region(fd, size, path)
        super().__init__(path, fd, self._region, verify)
        self._tail = FIRST_OFFSET, b""  # WriteOffset when it was last looked at, and some bytes below it
        self._last = FIRST_OFFSET, b""  # the end of the header of the last event in the index, and that header
        self._remembered = 0  # the events of the index then
        self._rewound: tuple[int, int] | None = None  # WriteOffset as it was and as it is, when it went back
        self._require_stream()

    def _require_stream(self) -> None:
        write_offset = self._region.load_header()[0]
        size = os.fstat(self._fd).st_size  # after the header: a live stream may have grown in between
        self._region.extend(size)
        if FIRST_OFFSET <= write_offset <= size:
            return
        # An unusable header over a valid first event is a damaged stream; over anything else, not a stream at all.
        scanner = core.Scanner(self._region)
        scanner.run(size, 1, verify_checksums=True)
        if scanner.ordinal == 0 or scanner.zero_ordinal == 0:
            raise FormatError(f"{self.path}: not a stream (its first 8 bytes would be WriteOffset {write_offset})")
        if write_offset > size:
            raise errors.truncated(self.path, size, write_offset)
        raise FormatError(f"{self.path}: WriteOffset {write_offset} in the header is unusable; see 'evtape recover'")

    def __reduce__(self) -> tuple[Any, ...]:
        return restore_reader, (self.path, self.verify_checksums)

    def _refresh(self) -> int:
        if self.closed:
            raise errors.closed(self.path)
        region = self._region
        known, tail = self._tail  # before the header, because another thread may move it on
        size = os.fstat(self._fd).st_size
        if size < known or region.faults or self._rewound is not None:
            raise self._lost(size, known)
        write_offset = region.load_header()[0]
        if write_offset == known and self._still(known, tail):  # a stream that was cut can end there once more
            return write_offset
        if write_offset > region.size:
            size = os.fstat(self._fd).st_size
            if write_offset > size:
                raise errors.truncated(self.path, size, write_offset)
            region.extend(size)
        if write_offset <= known or not (self._still(known, tail) and self._still(*self._last)):
            self._rewound = known, write_offset
            raise self._lost(size, known)
        self._tail = write_offset, bytes(region.view(max(FIRST_OFFSET, write_offset - _TAIL), write_offset))
        self._bound = write_offset
        return write_offset

    def _still(self, end: int, before: bytes) -> bool:
        """Whether the bytes below ``end`` are what they were. What is published never changes in place."""
        return bytes(self._region.view(end - len(before), end)) == before

    def _lost(self, size: int, known: int) -> Exception:
        """Why what was read up to ``known`` is not there any more."""
        if self._rewound is None and self._region.faults:
            return errors.faulted(self.path)
        if self._rewound is None and size >= HEADER_SIZE:
            write_offset = self._region.load_header()[0]
            if FIRST_OFFSET <= write_offset <= size and not self._region.faults:  # recovery has shortened the file
                self._rewound = known, write_offset
        if self._rewound is None:
            return errors.truncated(self.path, size, known)
        return errors.rewound(self.path, *self._rewound)

    def _remember(self, bound: int) -> None:
        length = self._index.length
        if length == self._remembered:
            return
        at = self._index.locate(length - 1, bound) if length else FIRST_OFFSET
        end = min(at + ENTRY_SIZE, bound)
        self._last = end, bytes(self._region.view(at, end))
        self._remembered = length

    def close(self) -> None:
        if self.closed:
            return
        with Held():
            fd, self._fd = self._fd, -1
            try:
                if self._region is not None:
                    self._region.close()
            finally:
                if fd >= 0:  # else another thread has closed it
                    os.close(fd)

    def __del__(self) -> None:
        if not self.closed:
            self.close()


def _after_fork_in_child() -> None:
    for tape in list(_tapes):
        tape._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

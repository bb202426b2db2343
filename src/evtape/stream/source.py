"""What slices and queries read from."""

from __future__ import annotations

import operator
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from .. import errors, guard
from ..core.backend import core
from ..core.format import ENTRY_SIZE, FIRST_OFFSET, Reason
from ..errors import Error
from .index import STRIDE, Index

Column = npt.NDArray[np.int64]
ColumnName = Literal["timestamps", "sizes", "offsets"]
Side = Literal["left", "right"]


class Source(Protocol):
    """A sequence of events by ordinal. A slice rests on this and does not know how many files there are."""

    @property
    def path(self) -> str:
        """The name of the stream, for messages."""

    def reopen(self) -> tuple[Callable[..., Source], tuple[Any, ...]]:
        """A function and its arguments that open the source in another process, for pickling."""

    def event(self, ordinal: int) -> core.Event:
        """Event ``ordinal``, which exists."""

    def events(self, start: int, stop: int) -> Iterator[core.Event]:
        """The events [start, stop)."""

    def column(self, name: ColumnName, start: int, stop: int) -> Column:
        """A column of the events [start, stop), int64."""

    def rows(self, start: int, stop: int, kind: np.dtype[Any]) -> npt.NDArray[Any]:
        """The payloads of the events [start, stop), all of ``kind.itemsize`` bytes, as an array."""

    def unsorted_at(self) -> int:
        """Ordinal of the first event with a lower timestamp than the one before it, or -1."""

    def search(self, when: int, side: Side) -> int:
        """Position of ``when`` among sorted timestamps."""


_sources: weakref.WeakSet[StreamSource] = weakref.WeakSet()


class StreamSource(ABC):
    """One stream: a region and the index of what is published in it.

    A question is answered for what is published at that moment.
    """

    def __init__(self, path: str, region: core.Region, verify_checksums: bool) -> None:
        guard.ensure()
        self.path = path
        self.region = region
        self.verify_checksums = verify_checksums
        self.index = Index(region)
        self._lock = threading.RLock()
        self._inside = False  # whether the thread that holds the lock is extending the index
        self._columns: dict[str, Column] = {}
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

    @abstractmethod
    def reopen(self) -> tuple[Callable[..., Source], tuple[Any, ...]]:
        """A function and its arguments that open the source in another process, for pickling."""

    # ----------------------------------------------------------------------------------------- index

    def length(self) -> int:
        """How many events can be reached now."""
        self.refresh_index()
        return self.index.length

    def refresh_index(self) -> int:
        """Extend the index by what is new; returns WriteOffset."""
        with self._lock:
            if self._inside:  # a signal handler or a finalizer in the middle of what follows
                raise errors.busy(self.path)
            self._inside = True
            try:
                bound, event_count = self.refresh()
                if self.index.extend(bound, event_count) is not None:
                    raise errors.faulted(self.path)
                self.indexed()
            except Error:
                raise
            except BaseException:  # an interruption leaves an index that does not fit its scanner
                self.index = Index(self.region)
                raise
            finally:
                self._inside = False
        return bound

    def forked(self) -> None:
        """In the child after a fork: a thread that is not there may have held the lock and been half way through."""
        self._lock = threading.RLock()
        if self._inside:
            self._inside = False
            self.index = Index(self.region)

    def _reach(self, stop: int) -> int:
        """A bound below which the index knows events up to ordinal ``stop``."""
        return self.refresh()[0] if stop <= self.index.length else self.refresh_index()

    def report_problem(self, ordinal: int, offset: int, reason: Reason) -> None:
        """Called where a walk meets damage. Returns only for sixteen zero bytes that are an event after all."""
        if reason != "fault":
            self.refresh()  # a file that became shorter reads as zeros up to the end of its last page
        if reason == "zero":
            self.refresh_index()
            if self.index.broken is None or self.index.broken.reason != "zero":
                return
        if reason == "fault":
            raise errors.faulted(self.path)
        raise errors.corrupt(self.path, ordinal, offset, reason)

    # ---------------------------------------------------------------------------------------- events

    def at(self, key: int) -> core.Event:
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
            start,
            bound,
            stop=stop,
            verify_checksums=self.verify_checksums,
            report_problem=self.report_problem,
        )

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
        if scanner.run(bound, stop - start, **columns) == "fault":
            raise errors.faulted(self.path)
        values.flags.writeable = False
        if start == 0 and stop == self.index.length:
            self._columns[name] = values
        return values

    def rows(self, start: int, stop: int, kind: np.dtype[Any]) -> npt.NDArray[Any]:
        """The payloads of the events [start, stop), all of ``kind.itemsize`` bytes, as an array."""
        bound = self._reach(stop)
        first, end = self.index.locate(start, bound), self.index.locate(stop, bound)
        if self.verify_checksums:
            scanner = core.Scanner(self.region, first, start)
            reason = scanner.run(end, verify_checksums=True)
            if reason is not None:
                self.report_problem(scanner.ordinal, scanner.offset, reason)
        view = self.region.view(first, end).toreadonly()
        return np.ndarray((stop - start,), kind, view, ENTRY_SIZE, (ENTRY_SIZE + kind.itemsize,))

    # ----------------------------------------------------------------------------------------- times

    def unsorted_at(self) -> int:
        """Ordinal of the first event with a lower timestamp than the one before it, or -1."""
        self.refresh_index()
        return self.index.unsorted_at

    def search(self, when: int, side: Side) -> int:
        """Position of ``when`` in a sorted stream: the block by bisection, then the place within it."""
        block = int(np.searchsorted(self.index.timestamps, when, side)) - 1
        if block < 0:
            return 0
        start = block * STRIDE
        values = self.column("timestamps", start, min(start + STRIDE, self.index.length))
        return start + int(np.searchsorted(values, when, side))


def _after_fork_in_child() -> None:
    for source in list(_sources):
        source.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

"""The events of a journal as one sequence by ordinal, whatever segments they are in.

Segments are opened when they are needed, and a few of them stay open. What is known of the others is their first
ordinal, so a journal of many segments costs a list of numbers.
"""

from __future__ import annotations

import bisect
import operator
import os
import weakref
from collections.abc import Callable, Iterator
from itertools import chain, pairwise, starmap
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from .. import errors
from ..arrow import Misfits, Table, chain_capsule
from ..core.backend import core
from ..core.format import ENTRY_SIZE, FIRST_OFFSET, HEADER, TIME_MIN
from ..errors import MissingError
from ..schema import Schema, declared_for, of_journal
from ..stream.reader import FileSource
from ..stream.slices import Ordinals, Slice
from ..stream.source import Column, ColumnName, Selected, Side, Source
from ..system.files import READ, descriptor
from ..system.settings_file import SETTINGS
from .directory import Directory

_OPEN: Final = 16  # segments that stay open

_sources: weakref.WeakSet[JournalSource] = weakref.WeakSet()


class _Raised:
    """An iterator that raises once. The next iteration goes on after it."""

    def __init__(self, error: Exception) -> None:
        self._error: Exception | None = error

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        error, self._error = self._error, None
        if error is None:
            raise StopIteration
        raise error


class JournalSource:
    """The segments of a journal that can be read now. Ordinals are those of the journal."""

    has_file = True

    def __init__(self, directory: Directory, verify_checksums: bool, declared: Any = None) -> None:
        self.directory = directory
        self.path = directory.path
        self.name = directory.name
        self.verify_checksums = verify_checksums
        self.closed = False
        self.declared = declared  # what was given as schema=, which counts more than the settings
        self._schema = None if declared is None else declared_for(declared, directory.path)
        self._schema_known = declared is not None
        self._firsts = directory.segments()
        self._unreadable: errors.Error | None = None  # why the last segment cannot be read
        self._opened: dict[int, FileSource] = {}  # by first ordinal, the one that was used last at the end
        self._first_times: dict[int, int] = {}
        self._last_times: dict[int, int] = {}
        _sources.add(self)

    @classmethod
    def at_path(cls, path: str, verify_checksums: bool, declared: Any = None) -> Self:
        """The source of the journal at ``path``."""
        directory = Directory(path)
        directory.require_journal()
        return cls(directory, verify_checksums, declared)

    def reopen(self) -> tuple[Callable[..., Source], tuple[Any, ...]]:
        return type(self).at_path, (self.path, self.verify_checksums, self.declared)

    def schema(self) -> Schema | None:
        """What the payloads mean, or None. O(1), after one look at the settings."""
        if not self._schema_known:
            self._schema, self._schema_known = of_journal(self.directory.file(SETTINGS), self.path)
        return self._schema

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of the directory, whatever name it was opened by."""
        status = os.stat(self.name)
        return status.st_dev, status.st_ino

    @property
    def replaced(self) -> bool:
        """Whether the journal's name leads to another directory now, or to none."""
        if self.closed:
            raise errors.closed(self.path)
        return not os.path.exists(self.name)

    def close(self) -> None:
        """Close the segments. Events that are alive stay readable."""
        self.closed = True
        self.forget()

    def forget(self) -> None:
        """Let go of the segments that are open. One that an iterator uses is closed with that."""
        self._opened.clear()

    # -------------------------------------------------------------------------------------- segments

    def firsts(self) -> list[int]:
        """The first ordinals of the segments that are there now, ascending. O(1) if there are no others than before."""
        if self.closed:
            raise errors.closed(self.path)
        firsts = self._firsts
        if not firsts or not os.path.exists(self.directory.segment(firsts[0])):
            firsts = self._list()
        while firsts:
            self._unreadable = None
            try:
                last = self.segment(firsts[-1])
                if last.replaced:  # recovery has set it aside
                    raise FileNotFoundError
                events = last.length()
            except FileNotFoundError:
                self._opened.pop(firsts[-1], None)
                firsts = self._list()
                continue
            except (errors.FormatError, errors.TruncatedError) as error:
                self._unreadable = error
                break
            if not events or not os.path.exists(self.directory.segment(firsts[-1] + events)):
                break
            self._firsts = firsts = [*firsts, firsts[-1] + events]  # not in place: another thread may do the same
        return firsts

    def _list(self) -> list[int]:
        """List the directory anew."""
        self._firsts = firsts = self.directory.segments()
        begin = firsts[0] if firsts else 0
        for known in (self._first_times, self._last_times):
            for first in [first for first in known if first < begin]:
                known.pop(first, None)
        return firsts

    def segment(self, first: int) -> FileSource:
        """The segment whose first ordinal is ``first``. Raises FileNotFoundError if it is not there any more."""
        opened = self._opened
        source = opened.pop(first, None)
        if source is None:
            source = FileSource(self.directory.segment(first), self.verify_checksums, self.declared, first)
            source.declare(self.schema())
        opened[first] = source
        while len(opened) > _OPEN:
            try:
                del opened[next(iter(opened))]  # not closed here: an iterator may use it
            except (KeyError, RuntimeError):  # another thread has
                pass
        return source

    def span(self) -> tuple[int, int]:
        """The first ordinal that is left, and the one after the last."""
        firsts = self.firsts()
        if not firsts:
            return 0, 0
        if self._unreadable is not None:  # how many events it has is not known
            return firsts[0], firsts[-1]
        return firsts[0], firsts[-1] + self.segment(firsts[-1]).index.length

    @property
    def begin(self) -> int:
        """Ordinal of the first event that is left."""
        return self.span()[0]

    def has_later(self, first: int) -> bool:
        """Whether a segment after this one is known. O(1)."""
        return bool(self._firsts) and self._firsts[-1] > first

    def length(self) -> int:
        first, end = self.span()
        return end - first

    def position_of(self, ordinal: int, firsts: list[int]) -> int:
        """The position in ``firsts`` of the segment that has, or had, the event."""
        return bisect.bisect_right(firsts, ordinal) - 1

    def parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The segments of the events [start, stop): first ordinal, and the events [low, high) of each."""
        firsts = self.firsts() if not self._firsts or stop > self._firsts[-1] else self._firsts
        if start < stop and (not firsts or start < firsts[0]):
            raise errors.expired(self.path, start, firsts[0] if firsts else 0)
        at = self.position_of(start, firsts)
        while start < stop:
            end = firsts[at + 1] if at + 1 < len(firsts) else stop
            yield firsts[at], start, min(end, stop)
            start, at = end, at + 1

    def _opened_part(self, first: int, low: int, high: int) -> tuple[FileSource, int]:
        """The segment, and where its events end within [low, high). Raises MissingError if it has none of them."""
        try:
            source = self.segment(first)
        except FileNotFoundError:
            left = self.directory.segments()
            if not left or first < left[0]:
                raise errors.expired(self.path, low, left[0] if left else 0) from None
            raise errors.missing(self.path, low, high, f"{self.directory.shown(first)} is gone") from None
        except (errors.FormatError, errors.TruncatedError) as error:
            raise errors.missing(self.path, low, high, str(error)) from None
        events = source.length() if high > first + source.index.length else source.index.length
        if first + events <= low:
            self._raise_missing(source, first + events, low, high)
        return source, min(high, first + events)

    def _raise_missing(self, source: FileSource, end: int, low: int, high: int) -> None:
        broken = source.index.broken
        if broken is not None and low == end:
            source.report_problem(source.first + broken.ordinal, broken.offset, broken.reason)
        raise errors.missing(self.path, low, high, f"{self.directory.shown(source.first)} ends before event {end}")

    def _whole_part(self, first: int, low: int, high: int) -> FileSource:
        """The segment, which has all of the events [low, high)."""
        source, end = self._opened_part(first, low, high)
        if end < high:
            self._raise_missing(source, end, end, high)
        return source

    # ---------------------------------------------------------------------------------------- events

    def at(self, key: Any) -> core.Event:
        """Event ``key``; a negative one counts from the end."""
        first, end = self.span()
        key = operator.index(key)
        ordinal = key + end if key < 0 else key
        if first <= ordinal < end:
            return self.event(ordinal)
        if 0 <= key < first:
            raise errors.expired(self.path, key, first)
        if self._unreadable is not None and key >= end:
            raise self._unreadable
        last = self.segment(self._firsts[-1]) if self._firsts and self._unreadable is None else None
        if last is not None and last.index.broken is not None and key >= end:
            self._raise_missing(last, end, end, key + 1)
        raise IndexError(f"{self.path}: index {key} is outside a journal of the events {first} to {end - 1}")

    def event(self, ordinal: int) -> core.Event:
        ((first, low, high),) = self.parts(ordinal, ordinal + 1)
        source, _ = self._opened_part(first, low, high)
        return source.event(ordinal - first)

    def events(self, start: int, stop: int) -> Iterator[core.Event]:
        # Not a generator, which a CorruptError would end: the next event can be asked for.
        return chain.from_iterable(map(self._events_of, self.parts(start, stop)))

    def all_events(self) -> Iterator[core.Event]:
        """The events published now."""
        events = self.events(*self.span())
        return events if self._unreadable is None else chain(events, _Raised(self._unreadable))

    def _events_of(self, part: tuple[int, int, int]) -> Iterator[core.Event]:
        first, low, high = part
        try:
            source, end = self._opened_part(first, low, high)
        except MissingError as error:
            return _Raised(error)
        found = source.events(low - first, end - first)
        if end == high:
            return found
        try:
            self._raise_missing(source, end, end, high)
        except errors.CorruptError as error:
            return chain(found, _Raised(error))
        return found

    def column(self, name: ColumnName, start: int, stop: int) -> Column:
        parts = [
            self._whole_part(first, low, high).column(name, low - first, high - first)
            for first, low, high in self.parts(start, stop)
        ]
        return _joined(parts, np.dtype(np.int64))

    def rows(self, start: int, stop: int, kind: np.dtype[Any]) -> npt.NDArray[Any]:
        parts = [
            self._whole_part(first, low, high).rows(low - first, high - first, kind)
            for first, low, high in self.parts(start, stop)
        ]
        return _joined(parts, kind)

    # --------------------------------------------------------------------------------- many at once

    def events_at(self, ordinals: Column) -> Iterator[core.Event]:
        # Not a generator, as in `events`.
        return chain.from_iterable(starmap(self._events_at, self._runs(ordinals)))

    def _events_at(self, first: int, ordinals: Column) -> Iterator[core.Event]:
        try:
            source = self._holder(first, ordinals)
        except errors.CorruptError:  # of some of them; the others may be there
            if len(ordinals) == 1:
                raise
            return map(self.event, ordinals.tolist())
        return source.events_at(ordinals - first)

    def headers_at(self, ordinals: Column) -> tuple[Column, Column, Column]:
        found = [self._holder(first, run).headers_at(run - first) for first, run in self._runs(ordinals)]
        nothing = np.empty(0, np.int64)
        offsets, timestamps, sizes = map(np.concatenate, zip((nothing,) * 3, *found, strict=True))
        return offsets, timestamps, sizes

    def gather(self, ordinals: Column) -> tuple[Column, npt.NDArray[np.uint8]]:
        ends, data = [np.zeros(1, np.int64)], [np.empty(0, np.uint8)]
        for first, run in self._runs(ordinals):
            offsets, payloads = self._holder(first, run).gather(run - first)
            ends.append(offsets[1:] + ends[-1][-1])
            data.append(payloads)
        return np.concatenate(ends), np.concatenate(data)

    def batches(self, events: Selected, table: Table, misfits: Misfits) -> Any:
        """The events as a capsule of a stream of Arrow batches, those of each segment one after the other."""
        ordinals = events.ordinals
        if isinstance(ordinals, range) and ordinals.step == 1:
            parts = self.parts(ordinals.start, max(ordinals.start, ordinals.stop))
            pieces: list[tuple[int, Ordinals]]
            pieces = [(first, range(low - first, high - first)) for first, low, high in parts]
        else:
            pieces = [(first, run - first) for first, run in self._runs(np.asarray(ordinals, np.int64))]
        return chain_capsule(table, self._capsules(pieces, table, misfits))

    def _capsules(self, pieces: list[tuple[int, Ordinals]], table: Table, misfits: Misfits) -> Iterator[Any]:
        for first, ordinals in pieces:
            low, high = (ordinals[0], ordinals[-1]) if isinstance(ordinals, range) else (ordinals.min(), ordinals.max())
            source = self._whole_part(first, first + int(low), first + int(high) + 1)
            yield source.batches(Slice(source, ordinals), table, misfits)

    def _runs(self, ordinals: Column) -> list[tuple[int, Column]]:
        """The ordinals in parts that each lie in one segment, with its first ordinal, in the order they have."""
        if not len(ordinals):
            return []
        firsts, low = self._firsts, int(ordinals.min())
        if not firsts or int(ordinals.max()) >= firsts[-1]:
            firsts = self.firsts()
        if not firsts or low < firsts[0]:
            raise errors.expired(self.path, low, firsts[0] if firsts else 0)
        at = np.searchsorted(firsts, ordinals, "right") - 1
        edges = np.flatnonzero(np.diff(at)) + 1
        return [(firsts[int(at[begin])], ordinals[begin:end]) for begin, end in pairwise([0, *edges, len(at)])]

    def _holder(self, first: int, ordinals: Column) -> FileSource:
        """The segment, which has all of these events."""
        return self._whole_part(first, int(ordinals.min()), int(ordinals.max()) + 1)

    # ----------------------------------------------------------------------------------------- times

    def first_time(self, first: int) -> int | None:
        """Timestamp of the first event of a segment; None without one. Reads 40 bytes, once."""
        known = self._first_times.get(first)
        if known is None:
            source = self._opened.get(first)
            if source is not None:
                head = bytes(source.region.view(0, min(FIRST_OFFSET + ENTRY_SIZE, source.region.size)))
            else:
                with descriptor(self.directory.segment(first), READ) as fd:
                    head = os.read(fd, FIRST_OFFSET + ENTRY_SIZE)
            if len(head) < FIRST_OFFSET + ENTRY_SIZE or HEADER.unpack_from(head)[0] <= FIRST_OFFSET:
                return None
            known = int.from_bytes(head[FIRST_OFFSET : FIRST_OFFSET + 8], "little", signed=True)
            self._first_times[first] = known
        return known

    def last_time(self, first: int) -> int | None:
        """Timestamp of the last event of a segment; None without one. Walks the segment, once if it is closed."""
        known = self._last_times.get(first)
        if known is None:
            source = self.segment(first)
            if not source.length():
                return None
            known = source.index.last_timestamp
            if first != self._firsts[-1]:
                self._last_times[first] = known
        return known

    def candidates(self, low: int, high: int, start: int, stop: int) -> list[tuple[int, int]]:
        return [
            (first + begin, first + end)
            for first, least, most in self.parts(start, stop)
            for begin, end in self._whole_part(first, least, most).candidates(low, high, least - first, most - first)
        ]

    def unsorted_at(self) -> int:
        """Ordinal of an event with a lower timestamp than the one before it, or -1. O(events)."""
        last = TIME_MIN
        for first in self.firsts():
            source = self.segment(first)
            events, at = source.length(), source.unsorted_at()
            if events and (time := self.first_time(first)) is not None and time < last:
                return first
            if at >= 0:
                return first + at
            last = max(last, source.index.last_timestamp)
        return -1

    def window(self, low: int | None, high: int | None, start: int, stop: int) -> range | None:
        """The events of [start, stop) with a time of ``low`` to ``high``, both included; None where times go backwards.

        The segments are searched by their first times, and those in which the window begins and ends are looked at.
        """
        firsts = [first for first, _, _ in self.parts(start, stop)]
        if not firsts:
            return range(start, start)
        begin = start if low is None else self._search(firsts, low, "left", start, stop)
        end = stop if high is None or begin is None else self._search(firsts, high, "right", start, stop)
        return None if begin is None or end is None else range(begin, max(begin, end))

    def _search(self, firsts: list[int], when: int, side: Side, start: int, stop: int) -> int | None:
        """The ordinal at which ``when`` belongs; None where times go backwards."""
        find = bisect.bisect_left if side == "left" else bisect.bisect_right
        at = max(find(firsts, when, key=lambda first: self._time_at_or_after(first, firsts)) - 1, 0)
        near = firsts[max(at - 1, 0) : at + 2]
        last = TIME_MIN
        for first in near:
            source, time = self.segment(first), self.first_time(first)
            if source.unsorted_at() >= 0 or (time is not None and time < last):
                return None
            if source.index.length:
                last = source.index.last_timestamp
        source = self.segment(firsts[at])
        return min(max(firsts[at] + source.search(when, side), start), stop)

    def _time_at_or_after(self, first: int, firsts: list[int]) -> int:
        """The first time of a segment, or of the next one that has events."""
        at = bisect.bisect_left(firsts, first)
        while at < len(firsts):
            time = self.first_time(firsts[at])
            if time is not None:
                return time
            at += 1
        return np.iinfo(np.int64).max

    def search(self, when: int, side: Side) -> int:
        """The ordinal at which ``when`` belongs in a journal whose times never go backwards."""
        first, end = self.span()
        found = self.window(when if side == "left" else when + 1, None, first, end)
        return end if found is None else found.start


def _joined(parts: list[npt.NDArray[Any]], kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """The parts as one array. A single one is not copied."""
    if len(parts) == 1:
        return parts[0]
    joined = np.concatenate(parts) if parts else np.empty(0, kind)
    joined.flags.writeable = False
    return joined

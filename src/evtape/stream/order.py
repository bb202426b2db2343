"""The order of a merge: the events of several streams as one sequence.

An event's key is the highest timestamp of its stream up to that event, which is its own timestamp unless timestamps go
backwards. The order is by key, then by the position of the stream in the list, then by ordinal. So the events of one
stream never change their order.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.backend import core
from ..core.format import TIME_MIN
from .slices import Selection
from .source import Column, ColumnName, Side, StreamSource

Span = tuple[int, int]  # the ordinals [start, stop) of one stream

_NARROW = 8  # a part of less than 1/8 of the events is sorted alone


class MergedEvent:
    """An event of a merge. Has what an ``Event`` has and unpacks as ``timestamp, data``, and says where it is from.

    ``stream`` is the name of its stream and ``stream_number`` the position of that stream in the list; ``ordinal``
    and ``offset`` are those in the stream. ``late``: it came after events of later times were delivered.
    ``event`` is the ``Event`` itself.
    """

    __slots__ = ("event", "late", "stream", "stream_number")

    def __init__(self, event: core.Event, stream: str, stream_number: int, late: bool = False) -> None:
        self.event = event
        self.stream = stream
        self.stream_number = stream_number
        self.late = late

    @property
    def timestamp(self) -> int:
        """Timestamp, ns."""
        return self.event.timestamp

    @property
    def data(self) -> memoryview:
        """The payload, a read-only memoryview that keeps the mapping alive."""
        return self.event.data

    @property
    def ordinal(self) -> int:
        """Its number in its stream, from 0."""
        return self.event.ordinal

    @property
    def offset(self) -> int:
        """Its byte position in its stream."""
        return self.event.offset

    @property
    def checksum(self) -> int:
        """CRC-32 of the payload."""
        return self.event.checksum

    @property
    def bytes(self) -> bytes:
        """The payload as bytes: a copy. O(size)."""
        return self.event.bytes

    @property
    def text(self) -> str:
        """The payload as text. Raises UnicodeDecodeError if it is not UTF-8. O(size)."""
        return self.event.text

    @property
    def time(self) -> np.datetime64[Any]:
        """The timestamp as numpy.datetime64[ns], UTC."""
        return self.event.time

    def __iter__(self) -> Iterator[Any]:
        return iter(self.event)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any) -> Any:
        return self.event[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, MergedEvent):
            return self.stream_number == other.stream_number and self.event == other.event
        return self.event == other

    def __hash__(self) -> int:
        return hash(self.event)

    def __repr__(self) -> str:
        return f"{self.event!r} of {self.stream!r}{', late' if self.late else ''}"


class InOrder(Iterator[MergedEvent]):
    """Merges iterators over the events of streams by a heap: one event of each stream in memory.

    Not a generator, which a CorruptError would end: the next event can be asked for.
    """

    def __init__(self, sources: Sequence[StreamSource], iterators: Sequence[Iterator[core.Event]]) -> None:
        self._paths = [source.path for source in sources]
        self._iterators = list(iterators)
        self._heap: list[tuple[int, int, core.Event]] = []  # the next event of each stream but one
        self._filled = 0  # how many streams have an event in the heap, or none at all
        self._number, self._key = -1, TIME_MIN  # the stream of the event that was returned last, and its key

    def __next__(self) -> MergedEvent:
        while self._filled < len(self._iterators):
            first = next(self._iterators[self._filled], None)
            if first is not None:
                heapq.heappush(self._heap, (first.timestamp, self._filled, first))
            self._filled += 1
        following = None if self._number < 0 else next(self._iterators[self._number], None)
        if following is not None:
            key = max(self._key, following.timestamp)
            self._key, self._number, event = heapq.heappushpop(self._heap, (key, self._number, following))
        elif self._heap:
            self._key, self._number, event = heapq.heappop(self._heap)
        else:
            self._number = -1
            raise StopIteration
        return MergedEvent(event, self._paths[self._number], self._number)


class Order:
    """The merge of a span of each stream, fixed. A `Source`, so that slices rest on it.

    Positions count from ``first``. The order is sorted when it is first needed: 16 bytes of memory per event then.
    """

    def __init__(self, sources: Sequence[StreamSource], spans: Sequence[Span], first: int = 0) -> None:
        self.sources = sources
        self.spans = spans
        self.first = first
        self._begins = np.cumsum([0, *(stop - start for start, stop in spans)])  # where each stream's events begin
        self._lows = np.array([start for start, _ in spans], np.int64)
        self._sorted: npt.NDArray[np.int64] | None = None
        self._unsorted_at: int | None = None

    @property
    def path(self) -> str:
        """What is merged, for messages."""
        names = [source.path for source in self.sources]
        others = "" if len(names) < 4 else f" and {len(names) - 2} others"
        return "merge of " + ", ".join(names[:2] if others else names) + others

    @property
    def stop(self) -> int:
        """The position after the last one."""
        return self.first + int(self._begins[-1])

    def reopen(self) -> tuple[Callable[..., Order], tuple[Any, ...]]:
        """A function and its arguments that open the streams in another process, for pickling."""
        return reopen_order, ([source.reopen() for source in self.sources], list(self.spans), self.first)

    def narrowed(self, start: int, stop: int) -> Order:
        """An order for the positions [start, stop): this one, or a smaller one near the beginning or the end."""
        whole = self.stop - self.first
        if self._sorted is None and start < stop:
            if (stop - self.first) * len(self.spans) < whole // _NARROW:
                count = stop - self.first
                return Order(self.sources, [(low, min(low + count, high)) for low, high in self.spans], self.first)
            count = self.stop - start
            if count * len(self.spans) < whole // _NARROW:
                spans = [(max(low, high - count), high) for low, high in self.spans]
                return Order(self.sources, spans, self.stop - sum(high - low for low, high in spans))
        return self

    def split(self, position: int) -> list[int]:
        """For each stream the ordinal of its first event at this position or after it."""
        before = np.bincount(self.numbers(self.first, position), minlength=len(self.spans))
        return [int(ordinal) for ordinal in self._lows + before]

    # ----------------------------------------------------------------------------------------- order

    def _keys(self, number: int) -> Column:
        source, (start, stop) = self.sources[number], self.spans[number]
        if self._is_sorted(number):
            return source.column("timestamps", start, stop)
        return np.maximum.accumulate(source.column("timestamps", source.begin, stop))[start - source.begin :]

    def _is_sorted(self, number: int) -> bool:
        at = self.sources[number].unsorted_at()
        return at < 0 or at >= self.spans[number][1]

    @property
    def is_sorted(self) -> bool:
        """Whether timestamps go backwards in none of the streams."""
        return all(map(self._is_sorted, range(len(self.spans))))

    def _order(self) -> npt.NDArray[np.int64]:
        """For each position the number of the event, where those of the first stream come first, and so on."""
        if self._sorted is None:
            keys = np.concatenate([self._keys(number) for number in range(len(self.spans))])
            self._sorted = np.argsort(keys, kind="stable").astype(np.int64, copy=False)
        return self._sorted

    def _located(self, start: int, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Stream numbers and ordinals of the positions [start, stop)."""
        at = self._order()[start - self.first : stop - self.first]
        numbers = np.searchsorted(self._begins, at, "right") - 1
        return numbers, at - self._begins[numbers] + self._lows[numbers]

    def numbers(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """The stream numbers of the events [start, stop)."""
        return self._located(start, stop)[0]

    def _gathered(self, start: int, stop: int) -> tuple[npt.NDArray[np.int64], list[Span]]:
        """The spans of the streams that make up [start, stop), and the places of the events in their concatenation."""
        numbers, ordinals = self._located(start, stop)
        counts = np.bincount(numbers, minlength=len(self.spans))
        lows = np.zeros(len(self.spans), np.int64)
        lows[numbers[::-1]] = ordinals[::-1]  # the lowest of each stream stays, as it is the last one stored
        places = ordinals - lows[numbers] + (np.cumsum(counts) - counts)[numbers]
        return places, [(int(low), int(low + count)) for low, count in zip(lows, counts, strict=True)]

    # ---------------------------------------------------------------------------------------- events

    def event(self, ordinal: int) -> MergedEvent:
        """The event at a position that exists."""
        numbers, ordinals = self._located(ordinal, ordinal + 1)
        number = int(numbers[0])
        source = self.sources[number]
        return MergedEvent(source.event(int(ordinals[0])), source.path, number)

    def events(self, start: int, stop: int) -> Iterator[MergedEvent]:
        """The events [start, stop). All of them need no sorted order."""
        whole = [low == source.begin for source, (low, _) in zip(self.sources, self.spans, strict=True)]
        begins = all(begin or self._is_sorted(number) for number, begin in enumerate(whole))
        if self._sorted is None and start == self.first and stop == self.stop and begins:
            iterators = [source.events(*span) for source, span in zip(self.sources, self.spans, strict=True)]
            return InOrder(self.sources, iterators)
        if start >= stop:
            return iter(())
        numbers, ordinals = self._located(start, stop)
        lows = np.zeros(len(self.spans), np.int64)
        lows[numbers[::-1]] = ordinals[::-1]
        iterators = [
            source.events(int(low), high) for source, low, (_, high) in zip(self.sources, lows, self.spans, strict=True)
        ]
        paths = [source.path for source in self.sources]

        def made(number: int) -> MergedEvent:
            return MergedEvent(next(iterators[number]), paths[number], number)

        return map(made, map(int, numbers))

    def column(self, name: ColumnName, start: int, stop: int) -> Column:
        """A column of the events [start, stop), int64."""
        places, spans = self._gathered(start, stop)
        parts = [source.column(name, *span) for source, span in zip(self.sources, spans, strict=True)]
        values: Column = np.concatenate(parts)[places]
        values.flags.writeable = False
        return values

    def rows(self, start: int, stop: int, kind: np.dtype[Any]) -> npt.NDArray[Any]:
        """The payloads of the events [start, stop), all of ``kind.itemsize`` bytes, as an array: a copy."""
        places, spans = self._gathered(start, stop)
        parts = [
            source.rows(*span, kind) for source, span in zip(self.sources, spans, strict=True) if span[0] < span[1]
        ]
        return np.concatenate(parts)[places]

    def events_at(self, ordinals: Column) -> Iterator[MergedEvent]:
        """The events at these positions, which exist, in this order."""
        return map(self.event, map(int, ordinals))

    def headers_at(self, ordinals: Column) -> tuple[Column, Column, Column]:
        """Offsets, timestamps and sizes of the events at these positions, which exist."""
        if len(ordinals) == 0:
            return ordinals, ordinals, ordinals
        low, high = int(ordinals.min()), int(ordinals.max()) + 1
        names: tuple[ColumnName, ...] = ("offsets", "timestamps", "sizes")
        offsets, timestamps, sizes = (self.column(name, low, high)[ordinals - low] for name in names)
        return offsets, timestamps, sizes

    def gather(self, ordinals: Column) -> tuple[Column, npt.NDArray[np.uint8]]:
        """The payloads of these events, which exist, end to end, and where each begins and the last one ends."""
        payloads = [event.data for event in self.events_at(ordinals)]
        ends = np.cumsum([0, *map(len, payloads)], dtype=np.int64)
        return ends, np.frombuffer(b"".join(payloads), np.uint8)

    # ----------------------------------------------------------------------------------------- times

    def unsorted_at(self) -> int:
        """Position of the first event with a lower timestamp than the one before it, or -1."""
        if self._unsorted_at is None:
            self._unsorted_at = -1
            if not self.is_sorted:
                timestamps = self.column("timestamps", self.first, self.stop)
                lower = np.flatnonzero(timestamps[1:] < timestamps[:-1])
                self._unsorted_at = self.first + 1 + int(lower[0]) if len(lower) else -1
        return self._unsorted_at

    def window(self, low: int | None, high: int | None, start: int, stop: int) -> range | None:
        """Not known without the timestamps."""
        return None

    def search(self, when: int, side: Side) -> int:
        """Position of ``when`` among sorted timestamps. Needs no sorted order if no stream's timestamps go backwards.

        O(streams * log(events)).
        """
        if not self.is_sorted:
            return self.first + int(np.searchsorted(self.column("timestamps", self.first, self.stop), when, side))
        position = self.first
        for source, (start, stop) in zip(self.sources, self.spans, strict=True):
            position += min(max(source.search(when, side), start), stop) - start
        return position

    def candidates(self, low: int, high: int, start: int, stop: int) -> list[Span]:
        """The ranges of positions within [start, stop) in which a timestamp from ``low`` to ``high`` can be."""
        return [(start, stop)]


def reopen_order(streams: list[tuple[Any, tuple[Any, ...]]], spans: list[Span], first: int) -> Order:
    return Order([reopen(*arguments) for reopen, arguments in streams], spans, first)


class MergedSlice(Selection[MergedEvent]):
    """A lazy, fixed selection of events of a merge. ``ordinals`` are positions in the merged order.

    Made by ``merged[a:b:c]`` and ``merged.between(...)``; has the same queries as the merge itself. Pickles as paths
    and ranges.
    """

    _source: Order

    @property
    def stream_numbers(self) -> Column:
        """For each event the position of its stream in the list, int64, shape (len,)."""
        low, high = self._span()
        return self._pick(self._source.numbers(low, high), low)

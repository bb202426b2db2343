"""Many streams of one machine, read as one sequence ordered by time."""

from __future__ import annotations

import operator
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, Literal, Self, overload

import numpy as np
import numpy.typing as npt

from .. import errors
from ..core import describe
from ..core.times import iso
from .follow import first_ordinal, is_ordinal
from .merge_follow import LATENESS, MergeFollower, OnLate, afollow_merge, follow_merge
from .order import InOrder, MergedEvent, MergedSlice, Order
from .reader import OpenPath
from .slices import Slice
from .source import Column, Side, StreamSource
from .tape import Tape
from .wait import StopEvent

Mergeable = str | bytes | os.PathLike[Any] | Tape


def merge(streams: Iterable[Mergeable], open_path: OpenPath) -> Merged:
    """Read several streams or journals as one sequence; see ``evtape.merge``."""
    if isinstance(streams, (str, bytes, os.PathLike, Tape)) or not isinstance(streams, Iterable):
        raise errors.not_to_merge(streams)
    given = list(streams)
    if not given:
        raise errors.nothing_to_merge()
    return Merged(given, open_path)


class Merged(Sequence[MergedEvent]):
    """Several streams, read as one sequence ordered by time. Made by ``evtape.merge``.

    A question is answered for what is published at that moment. ``len``, iteration and time windows need no index of
    the merge. The first question about positions sorts the timestamps: O(events), 16 bytes of memory per event, and
    once more after a stream has grown. A slice is fixed when it is made.
    """

    def __init__(self, streams: list[Mergeable], open_path: OpenPath) -> None:
        self._opened: list[Tape] = []
        self._closed = False
        self._known: Order | None = None
        tapes: list[Tape] = []
        try:
            for stream in streams:
                if not isinstance(stream, (str, bytes, os.PathLike, Tape)):
                    raise errors.not_to_merge(stream)
                if isinstance(stream, Tape):
                    tapes.append(stream)
                else:
                    self._opened.append(open_path(os.fsdecode(stream)))
                    tapes.append(self._opened[-1])
            self._sources = _distinct([tape._source for tape in tapes])
        except BaseException:
            self.close()
            raise

    @property
    def streams(self) -> tuple[str, ...]:
        """The names of the streams, in the order of the list."""
        return tuple(source.path for source in self._sources)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._closed

    def close(self) -> None:
        """Close the streams that ``merge`` opened. Events that are alive stay readable. Closing twice is fine."""
        self._closed = True
        for tape in self._opened:
            tape.close()

    # -------------------------------------------------------------------------------------- sequence

    def _order(self) -> Order:
        """The order of what is published now."""
        self._require_open()
        spans = [source.span() for source in self._sources]
        if self._known is None or self._known.spans != spans:
            self._known = Order(self._sources, spans)
        return self._known

    def _require_open(self) -> None:
        if self._closed:
            raise errors.closed(self._path)

    @property
    def _path(self) -> str:
        return Order(self._sources, [(0, 0)] * len(self._sources)).path

    def __len__(self) -> int:
        return self._order().stop

    @overload
    def __getitem__(self, key: int) -> MergedEvent: ...
    @overload
    def __getitem__(self, key: slice) -> MergedSlice: ...
    def __getitem__(self, key: int | slice) -> MergedEvent | MergedSlice:
        """Event by position, negative from the end. A slice is lazy and fixed when it is made.

        Positions near the beginning and the end are found without sorting the whole.
        """
        order = self._order()
        if isinstance(key, slice):
            positions = range(order.stop)[key]
            if positions.step == 1:
                order = order.narrowed(positions.start, positions.stop)
            return MergedSlice(order, positions)
        position = operator.index(key)
        position += order.stop if position < 0 else 0
        if not 0 <= position < order.stop:
            raise IndexError(f"{order.path}: index {key} is outside a merge of {order.stop} events")
        return order.narrowed(position, position + 1).event(position)

    def __iter__(self) -> Iterator[MergedEvent]:
        """All events published at this moment, as ``MergedEvent``s; unpack them as ``for timestamp, data in merged``.

        Holds one event of each stream in memory. O(log(streams)) per event. Damage raises CorruptError of its stream;
        the same iterator can go on with the next event, or, where the place of that is unknown, with the other
        streams.
        """
        self._require_open()
        return InOrder(self._sources, [source.all_events() for source in self._sources])

    @property
    def timestamps(self) -> Column:
        """Timestamps, int64 ns, shape (len,), read-only. O(events)."""
        return self[:].timestamps

    @property
    def sizes(self) -> Column:
        """Payload sizes in bytes, int64, shape (len,), read-only. O(events)."""
        return self[:].sizes

    @property
    def stream_numbers(self) -> Column:
        """For each event the position of its stream in ``streams``, int64, shape (len,). O(events)."""
        return self[:].stream_numbers

    def between(
        self, *, starting_at: Any = None, starting_after: Any = None, ending_before: Any = None, ending_at: Any = None
    ) -> MergedSlice:
        """The events of a time window, as a slice; see ``Tape.between``.

        O(streams * log(events)), unless timestamps go backwards in a stream; then O(events). Only the window is sorted
        when positions in it are asked for.
        """
        order = self._order()
        limits = {
            "starting_at": starting_at,
            "starting_after": starting_after,
            "ending_before": ending_before,
            "ending_at": ending_at,
        }
        if not order.is_sorted:
            return MergedSlice(order, range(order.stop)).between(**limits)
        spans, first = [], 0
        for source, span in zip(self._sources, order.spans, strict=True):
            window = Slice(source, range(*span)).between(**limits).ordinals
            assert isinstance(window, range)
            spans.append((window.start, window.stop))
            first += window.start
        window_order = Order(self._sources, spans, first)
        return MergedSlice(window_order, range(first, window_order.stop))

    def searchsorted(self, when: Any, side: Side = "left") -> int:
        """Position where an event at ``when`` belongs, as ``numpy.searchsorted``. O(streams * log(events)).

        Raises ValueError when timestamps go backwards in a stream so far that they do in the merge.
        """
        return self[:].searchsorted(when, side)

    def rows(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Events of one size as one array of ``dtype``, shape (len, *dtype.shape): a copy; see ``Tape.rows``."""
        return self[:].rows(dtype)

    # ---------------------------------------------------------------------------------------- follow

    @overload
    def follow(
        self,
        start: Any = 0,
        *,
        timeout: float | None = None,
        stop_event: StopEvent | None = None,
        until: Any = None,
        lateness: float = LATENESS,
        on_late: OnLate = "mark",
        batch: Literal[False] = False,
    ) -> Iterator[MergedEvent]: ...
    @overload
    def follow(
        self,
        start: Any = 0,
        *,
        timeout: float | None = None,
        stop_event: StopEvent | None = None,
        until: Any = None,
        lateness: float = LATENESS,
        on_late: OnLate = "mark",
        batch: Literal[True],
    ) -> Iterator[list[MergedEvent]]: ...
    def follow(
        self,
        start: Any = 0,
        *,
        timeout: float | None = None,
        stop_event: StopEvent | None = None,
        until: Any = None,
        lateness: float = LATENESS,
        on_late: OnLate = "mark",
        batch: bool = False,
    ) -> Iterator[Any]:
        """Every event from ``start`` on, exactly once and in the merged order, also those that are published later.

        An event is delivered when every other stream has a later one or was closed by its writer; at the latest when
        the clock is ``lateness`` seconds past its timestamp. (A timestamp further than that in the future waits
        until the other streams had no event for ``lateness`` seconds.) An event that comes below what was delivered
        is late: it is delivered at once with ``event.late`` set, or raised as ``LateError`` with
        ``on_late="raise"``. So a stream without events delays the others by ``lateness`` at most, and 0 delivers in
        the order of arrival.

        ``start``: a position, negative from the end; ``"end"``; a time as datetime, datetime64 or ISO 8601 text; or a
        list with one of these for each stream, as ordinals to go on from. ``timeout``: seconds without a new event in
        any stream after which the iteration delivers what it still holds and ends; None waits for ever.
        ``stop_event``: ends the iteration within 50 ms once ``stop_event.is_set()``. ``until``: a time, at which the
        iteration ends, or ``"closed"`` to end when every stream was closed by its writer. ``batch=True`` yields lists
        of the events that are ready, up to 512. (A stream that a writer on the pure core opens again looks closed
        until its first append.)

        Raises what ``Tape.follow`` raises, naming the stream. O(log(streams)) per event. Between events the streams
        are looked at every 50 us to 10 ms, the more often the shorter ago the last event was.
        """
        return follow_merge(self._follower(start, timeout, stop_event, until, lateness, on_late), batch)

    def afollow(
        self,
        start: Any = 0,
        *,
        timeout: float | None = None,
        stop_event: StopEvent | None = None,
        until: Any = None,
        lateness: float = LATENESS,
        on_late: OnLate = "mark",
    ) -> AsyncIterator[MergedEvent]:
        """``follow`` for an event loop: ``async for event in merged.afollow(...)``. A thread waits."""
        return afollow_merge(self._follower(start, timeout, stop_event, until, lateness, on_late))

    def _follower(
        self,
        start: Any,
        timeout: float | None,
        stop_event: StopEvent | None,
        until: Any,
        lateness: float,
        on_late: OnLate,
    ) -> MergeFollower:
        self._require_open()
        return MergeFollower(
            self._sources,
            self._starts(start),
            self._path,
            timeout=timeout,
            stop_event=stop_event,
            until=until,
            lateness=lateness,
            on_late=on_late,
        )

    def _starts(self, start: Any) -> list[int]:
        """Where a follower begins in each stream."""
        sources = self._sources
        if isinstance(start, (list, tuple, np.ndarray)):
            if len(start) != len(sources):
                raise ValueError(f"{self._path}: start has {len(start)} places for {len(sources)} streams")
            return [first_ordinal(source, place) for source, place in zip(sources, start, strict=True)]
        if not is_ordinal(start):
            return [first_ordinal(source, start) for source in sources]
        position = operator.index(start)
        if position == 0:
            return [source.begin for source in sources]
        order = self._order()
        if position > order.stop:
            raise errors.beyond_the_end(order.path, position, order.stop)
        position = position if position >= 0 else max(0, order.stop + position)
        if position == order.stop:
            return [high for _, high in order.spans]
        part = order.narrowed(position, position + 1)
        return part.split(position)

    # --------------------------------------------------------------------------------------- showing

    def _summary(self) -> dict[str, str]:
        """A description of the merge as text: label to value."""
        if self.closed:
            return {"state": "closed"}
        order = self._order()
        rows = {"streams": f"{len(self._sources):,}", "events": f"{order.stop:,}"}
        if order.stop:
            rows |= {"first event": iso(self[0].timestamp), "last event": iso(self[-1].timestamp)}
        return rows

    def __repr__(self) -> str:
        try:
            return describe.line("merge", ", ".join(self.streams), self._summary())
        except Exception as error:  # noqa: BLE001 - a repr shows what it can
            return f"<evtape merge of {', '.join(self.streams)!r}: {type(error).__name__}>"

    def _repr_html_(self) -> str:
        return describe.table("merge", ", ".join(self.streams), self._summary())


def _distinct(sources: list[StreamSource]) -> list[StreamSource]:
    """The sources; ValueError if two are the same stream."""
    found: dict[tuple[int, int], str] = {}
    for source in sources:
        identity = source.identity
        if identity in found:
            raise errors.merged_twice(source.path, found[identity])
        found[identity] = source.path
    return sources

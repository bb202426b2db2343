"""Follow a stream that grows: every event exactly once and in order, or an exception that says why not.

A `Place` is where a follower stands in a stream. It takes what is new in walks of limited length, and waits for more.
After each walk it looks whether the last event that it delivered is still there: recovery may have cut the stream, and
a writer may have written other events since.
"""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import chain
from typing import Any, Final, Protocol

from .. import errors
from ..core.backend import core
from ..core.format import ENTRY_SIZE
from ..core.times import nanoseconds
from .slices import Slice
from .source import StreamSource
from .wait import Ended, LoopWait, StopEvent, Wait

CLOSED: Final = "closed"
END: Final = "end"

_WALK = 4096  # events of one walk


class Place:
    """Before event ``ordinal``, at byte ``offset``."""

    spin_ns = 0  # for which a walk looks for more events before it ends

    def __init__(self, source: StreamSource, ordinal: int) -> None:
        self.source = source
        self.ordinal = ordinal
        self._walk: core.Events | None = None  # the last one
        # The second is the offset and the header of the last event before the place, as it was delivered.
        self.offset, self._last = source.before(ordinal)

    def walk(self, stop: int) -> core.Events | None:
        """The next events, below ordinal ``stop`` (-1: no limit); None if there are none. ``move_past`` ends it."""
        source, region, offset = self.source, self.source.region, self.offset
        limit = self.ordinal + _WALK
        if 0 <= stop < limit:
            limit = stop
        if self._walk is not None and self._walk.proceed(limit):
            return self._walk
        bound = region.load_header()[0]
        if bound == offset:
            return None
        if not offset < bound <= region.size or not self._still_there():
            bound = self.look()
            if bound == offset:
                return None
        self._walk = core.Events(
            region,
            offset,
            self.ordinal,
            bound,
            stop=limit,
            verify_checksums=source.verify_checksums,
            report_problem=source.report_problem,
            after=self._last,
            spin_ns=self.spin_ns,
            schema=source.schema(),
        )
        return self._walk

    def move_past(self, walk: core.Events) -> None:
        """Stand after what the walk has delivered."""
        self.offset, self.ordinal, self._last = walk.offset, walk.ordinal, walk.after

    def has_news(self) -> bool:
        """Whether there may be events after the place. One look at the header."""
        return self.source.region.load_header()[0] != self.offset

    def look(self) -> int:
        """WriteOffset, when the events before the place are what they were; else RewoundError or TruncatedError."""
        bound = self.source.refresh()[0]
        if bound < self.offset or not self._still_there():
            raise errors.rewound(self.source.path, self.offset, bound)
        return bound

    def require_name(self) -> None:
        """ReplacedError if the stream's name is another file's now, and every event of this one was delivered."""
        if self.source.replaced and self.look() == self.offset:
            raise errors.replaced(self.source.path, self.ordinal)

    def _still_there(self) -> bool:
        offset, header = self._last
        return offset < 0 or bytes(self.source.region.view(offset, offset + ENTRY_SIZE)) == header


class HasPlaces(Protocol):
    """A source of several files, such as a journal."""

    def place(self, ordinal: int) -> Place:
        """The place before event ``ordinal``."""


def place_in(source: StreamSource | HasPlaces, ordinal: int) -> Place:
    """The place before event ``ordinal``."""
    return Place(source, ordinal) if isinstance(source, StreamSource) else source.place(ordinal)


# -------------------------------------------------------------------------------------------- follow


class Follower:
    """What a follower delivers, from where to where."""

    def __init__(
        self,
        source: StreamSource,
        start: Any,
        *,
        timeout: float | None,
        stop_event: StopEvent | None,
        until: Any,
        spin: float | None,
    ) -> None:
        self.source = source
        for name, seconds in (("timeout", timeout), ("spin", spin)):
            if seconds is not None and not seconds >= 0:
                raise ValueError(f"{source.path}: {name} must be seconds, 0 or more, or None, not {seconds!r}")
        self._until_closed = isinstance(until, str) and until == CLOSED
        self._stop = -1
        self._until_time: int | None = None
        if is_ordinal(until):
            self._stop = operator.index(until)
        elif until is not None and not self._until_closed:
            self._until_time = nanoseconds(until, source.path)
        self.place = self._place(start)
        self.wait = Wait(self.place.source, timeout, stop_event, spin)

    def _place(self, start: Any) -> Place:
        return place_in(self.source, first_ordinal(self.source, start))

    def walk(self) -> core.Events | None:
        return self.place.walk(self._stop)

    @property
    def at_end(self) -> bool:
        """Whether all that is to be delivered was."""
        return 0 <= self._stop <= self.place.ordinal

    def within(self, walk: core.Events) -> Iterator[core.Event]:
        """The events of the walk that lie before the time of ``until``."""
        for event in walk:
            if self._until_time is not None and event.timestamp >= self._until_time:
                self._stop = event.ordinal
                return
            yield event

    def events(self, walk: core.Events) -> Iterator[core.Event]:
        return walk if self._until_time is None else self.within(walk)

    def slice(self, walk: core.Events) -> Slice:
        """The events that are new, as a slice; the place is after it."""
        source, start, end = self.source, self.place.ordinal, self.source.span()[1]
        events = Slice(source, range(start, end if self._stop < 0 else min(self._stop, end)))
        if self._until_time is not None:
            inside = events.between(ending_before=self._until_time)
            if len(inside) < len(events):
                self._stop = start + len(inside)
            events = inside
        self.place = place_in(source, start + len(events))
        return events

    def look(self) -> bool:
        """Whether there will be nothing more. Raises if the file is not what it was, or if its name is another's."""
        if self.place.look() > self.place.offset:
            return False
        if self._until_closed and self.source.closed_cleanly():
            return True
        self.place.require_name()
        return False


def follow(follower: Follower, batch: bool) -> Iterator[Any]:
    """The events from the follower's place on, or slices of them."""
    if batch:
        return _parts(follower, follower.slice)
    follower.place.spin_ns = follower.wait.spin_ns
    return chain.from_iterable(_parts(follower, follower.events))  # costs an event less than a generator


def _parts(follower: Follower, part: Callable[[core.Events], Any]) -> Iterator[Any]:
    """What there is, in parts: a ``part`` of each walk."""
    wait = follower.wait
    try:
        while not follower.at_end:
            walk = follower.walk()
            if walk is None:
                ended = wait.for_more(follower.place.offset)
                if ended is Ended.OVER or (ended is Ended.LOOK and follower.look()):
                    return
            else:
                place = follower.place
                yield part(walk)
                if follower.place is place:  # a slice has moved it
                    place.move_past(walk)
    finally:
        wait.close()


async def afollow(follower: Follower, batch: bool) -> AsyncIterator[Any]:
    """The same in an event loop."""
    import asyncio  # here, because a program without an event loop should not wait for it

    wait = LoopWait(follower.wait, asyncio.get_running_loop())
    try:
        while not follower.at_end:
            walk = follower.walk()
            if walk is None:
                ended = await wait.for_more(follower.place.offset)
                if ended is Ended.OVER or (ended is Ended.LOOK and follower.look()):
                    return
            elif batch:
                yield follower.slice(walk)
            else:
                for event in follower.events(walk):
                    yield event
                follower.place.move_past(walk)
                await asyncio.sleep(0)  # other tasks run between two walks
    finally:
        wait.close()


def is_ordinal(value: Any) -> bool:
    """Whether a ``start`` or ``until`` is an ordinal, and not a time or a word."""
    return hasattr(value, "__index__")


def first_ordinal(source: StreamSource, start: Any) -> int:
    """The ordinal of the first event to deliver: of an ordinal, negative from the end, of ``"end"``, or of a time.

    None is the first event that is left.
    """
    begin = source.begin
    if start is None or (is_ordinal(start) and operator.index(start) == begin):
        return begin  # needs no index
    end = source.span()[1]
    if isinstance(start, str) and start == END:
        return end
    if is_ordinal(start):
        ordinal = operator.index(start)
        if ordinal > end:
            raise errors.beyond_the_end(source.path, ordinal, end)
        if ordinal < 0:
            return max(begin, ordinal + end)
        if ordinal < begin:
            raise errors.expired(source.path, ordinal, begin)
        return ordinal
    later = Slice(source, range(begin, end)).between(starting_at=start)
    return int(later.ordinals[0]) if len(later) else end

"""Follow several streams as one: what may be delivered, and how long to wait for the streams that have nothing.

The next event of each stream is in a heap. The lowest is delivered when every other stream has an event in the heap or
was closed by its writer, or when the clock is past its time plus the lateness.
"""

from __future__ import annotations

import contextlib
import heapq
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final, Literal

from .. import errors
from ..core.backend import core
from ..core.format import TIME_MIN
from ..core.times import nanoseconds
from ..system.live import LiveFile
from .follow import CLOSED, is_ordinal, place_in
from .order import MergedEvent
from .source import StreamSource
from .wait import StopEvent, WaitingThread

OnLate = Literal["mark", "raise"]

LATENESS: Final = 0.1  # seconds
_BATCH = 512  # events of one list
_LOOK_EVERY = 0.1  # seconds between two looks at the files and their names
_CHECK_EVERY = 1e-3  # seconds between two looks whether an input was closed, or a closed one has news
_NAP_MIN, _NAP_MAX = 50e-6, 10e-3  # seconds between two looks for news
_NAP_SHARE = 20  # a nap is this part of the wait so far
_NS = 1e9


class _Input:
    """One stream: where the follower stands in it, and what is known of its writer."""

    def __init__(self, source: StreamSource, number: int, ordinal: int) -> None:
        self.source = source
        self.number = number
        self.place = place_in(source, ordinal)
        self.key = TIME_MIN  # of the event that was taken last
        self.closed = False  # whether its writer has closed it, and there is nothing more
        self.checked = 0.0  # when that was found out
        self.empty_since = 0.0  # since when there is nothing more
        self._walk: core.Events | None = None
        self._live: LiveFile | None = None

    def take(self) -> core.Event | None:
        """The next event, or None."""
        while True:
            if self._walk is None:
                self._walk = self.place.walk(-1)
                if self._walk is None:
                    return None
                self.closed = False
            event = next(self._walk, None)
            if event is not None:
                self.key = max(self.key, event.timestamp)
                return event
            self.place.move_past(self._walk)
            self._walk = None

    @property
    def has_news(self) -> bool:
        """Whether there is more than was taken, for an input whose events are all taken."""
        return self.place.has_news()

    def is_closed(self) -> bool:
        """Whether no writer has the stream open, as far as its files say. A new stream looks closed but has a page."""
        if not self.source.closed_cleanly():
            return False
        if self._live is None:
            self._live = self.source.live()
        if self._live is None:
            return True
        with_page = self._live.join() is not None
        self._live.leave()
        return not with_page

    def look(self, until_closed: bool) -> None:
        """Raise if the file is not what it was, or if its name is another's."""
        if self.place.look() > self.place.offset or (until_closed and self.source.closed_cleanly()):
            return
        self.place.require_name()

    def close(self) -> None:
        """Close the descriptors."""
        live, self._live = self._live, None
        if live is not None:
            live.close()


class MergeFollower:
    """What a follower of a merge delivers, and what it waits for."""

    def __init__(
        self,
        sources: Sequence[StreamSource],
        starts: Sequence[int],
        path: str,
        *,
        timeout: float | None,
        stop_event: StopEvent | None,
        until: Any,
        lateness: float,
        on_late: OnLate,
    ) -> None:
        for name, seconds in (("timeout", timeout), ("lateness", lateness)):
            if not (seconds is None and name == "timeout") and not (seconds is not None and seconds >= 0):
                raise ValueError(f"{path}: {name} must be seconds, 0 or more, not {seconds!r}")
        if on_late not in ("mark", "raise"):
            raise ValueError(f"{path}: on_late must be 'mark' or 'raise', not {on_late!r}")
        if is_ordinal(until):
            raise TypeError(f"{path}: until must be a time or 'closed', not the number {until}")
        self._until_closed = isinstance(until, str) and until == CLOSED
        self._until = None if until is None or self._until_closed else nanoseconds(until, path)
        self._timeout = timeout
        self._stop_event = stop_event
        self._lateness = lateness
        self._raises = on_late == "raise"
        self._inputs = [_Input(source, number, starts[number]) for number, source in enumerate(sources)]
        self._empty = list(self._inputs)  # those without an event in the heap
        self._heap: list[tuple[int, int, core.Event]] = []
        self._mark = TIME_MIN  # the highest key that was delivered
        self._news_at = 0.0  # when there was news, or an event was delivered
        self._looked = 0.0
        self._stopped = False
        self._draining = False  # whether to deliver the events that are held back
        self.over = False  # whether there will be nothing more

    def close(self) -> None:
        """Close the descriptors."""
        for source in self._inputs:
            source.close()

    def stop(self) -> None:
        """End the wait that another thread is in, within 50 ms."""
        self._stopped = True

    # ---------------------------------------------------------------------------------------- events

    def ready(self) -> Iterator[MergedEvent]:
        """The events that may be delivered now."""
        heap = self._heap
        self._take_news(all_of_them=True)
        while heap:
            if self._empty and not self._take_news() and not self._may_go():
                return
            key, number, event = heap[0]
            if self._until is not None and key >= self._until:
                self.over = True
                return
            source = self._inputs[number]
            late = key < self._mark
            merged = MergedEvent(event, source.source.path, number, late)
            if late and self._raises:
                raise errors.late(merged.stream, merged, self._mark)
            self._mark = max(self._mark, key)
            self._news_at = 0.0
            yield merged
            if self._stop_event is not None and self._stop_event.is_set():
                self.over = True
                return
            following = source.take()
            if following is not None:
                heapq.heapreplace(heap, (source.key, number, following))
            else:
                heapq.heappop(heap)
                source.empty_since = time.monotonic()
                self._empty.append(source)
        if self._draining or (self._until_closed and all(source.closed for source in self._inputs)):
            self.over = not any(source.has_news for source in self._inputs)

    def _take_news(self, all_of_them: bool = False) -> bool:
        """Take the next event of the inputs that have none. Whether all have one, or were closed, then.

        A closed input is looked at less often.
        """
        now, left = time.monotonic(), []
        complete = True
        for source in self._empty:
            due = all_of_them or now - source.checked >= _CHECK_EVERY
            if due:
                source.checked = now
                if not source.closed:
                    source.closed = source.is_closed()  # before the look for events, which is then the last one
            event = source.take() if due or not source.closed else None
            if event is not None:
                heapq.heappush(self._heap, (source.key, source.number, event))
            else:
                left.append(source)
                complete = complete and source.closed
        self._empty = left
        return complete

    def _may_go(self) -> bool:
        """Whether the lowest event may be delivered although an input that is open has none."""
        if self._draining:
            return True
        key, now = self._heap[0][0], time.time_ns()
        if key < self._mark or now > key + self._lateness * _NS:
            return True
        if key <= now + self._lateness * _NS:
            return False
        # A time that the clock will not reach soon.
        idle_since = max((source.empty_since for source in self._empty if not source.closed), default=0.0)
        return time.monotonic() - idle_since > self._lateness

    # ------------------------------------------------------------------------------------------ wait

    def wait(self) -> None:
        """Wait until there may be events that are ready, or an end. Looks at the files now and then."""
        now = time.monotonic()
        self._news_at = self._news_at or now
        offsets = self._offsets()
        while True:
            if self._stopped or (self._stop_event is not None and self._stop_event.is_set()):
                self.over = True
                return
            if now - self._looked >= _LOOK_EVERY:
                self._looked = now
                self._look()
                return
            if any(source.has_news for source in self._empty) or (self._heap and self._may_go()):
                return
            before, offsets = offsets, self._offsets()
            if offsets != before:
                self._news_at = now
            left = _NAP_MAX if self._timeout is None else self._news_at + self._timeout - now
            if left <= 0:
                self._draining = True
                return
            time.sleep(min(left, max(_NAP_MIN, min((now - self._news_at) / _NAP_SHARE, _NAP_MAX))))
            now = time.monotonic()

    def _offsets(self) -> list[int]:
        return [source.place.source.region.load_header()[0] for source in self._inputs]

    def _look(self) -> None:
        for source in self._empty:
            source.look(self._until_closed)
            source.closed = False  # found out anew: a writer may have opened it again


def follow_merge(follower: MergeFollower, batch: bool) -> Iterator[Any]:
    """The events, or lists of them."""
    return _batches(follower) if batch else _events(follower)


def _events(follower: MergeFollower) -> Iterator[MergedEvent]:
    try:
        while not follower.over:
            yield from follower.ready()
            if not follower.over:
                follower.wait()
    finally:
        follower.close()


def _batches(follower: MergeFollower) -> Iterator[list[MergedEvent]]:
    batch: list[MergedEvent] = []
    with contextlib.closing(follower):
        while not follower.over:
            try:
                for event in follower.ready():
                    batch.append(event)
                    if len(batch) == _BATCH:
                        yield batch
                        batch = []
            except Exception:  # after what was good
                if batch:
                    yield batch
                raise
            if batch:
                yield batch
                batch = []
            if not follower.over:
                follower.wait()


async def afollow_merge(follower: MergeFollower) -> AsyncIterator[MergedEvent]:
    """The events in an event loop. A thread waits."""
    import asyncio  # here, because a program without an event loop should not wait for it

    thread = WaitingThread(follower, asyncio.get_running_loop())
    try:
        while not follower.over:
            for number, event in enumerate(follower.ready(), 1):
                yield event
                if number % _BATCH == 0:
                    await asyncio.sleep(0)  # other tasks run
            if not follower.over:
                await thread.call(follower.wait)
    finally:
        thread.stop()

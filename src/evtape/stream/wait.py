"""How a follower waits: it looks for a while, then sleeps until the writer wakes it; in a thread or an event loop."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from enum import Enum
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from ..core.backend import core
from ..system.live import LiveFile
from .source import StreamSource

if TYPE_CHECKING:
    import asyncio

_SLICE = 0.05  # seconds of one sleep with a stop_event, which is looked at afterwards
_LOOK_EVERY = 0.1  # seconds between two looks at the file, its name and the page of its writer
_LOOK_IDLE, _IDLE_FROM = 0.25, 1.0  # the same in a wait that takes longer than so many seconds
_SPIN_MAX = 50e-6  # seconds; to look through a longer gap costs more than a wake-up
# Seconds that a walk looks for more events by itself. Then signals are handled, and what else ends it.
_SPIN_WALK = 1e-3
_NAP_MIN, _NAP_MAX = 50e-6, 10e-3  # seconds between two looks where no writer wakes this follower
_NS = 1e9


class StopEvent(Protocol):
    """What ends a follower from outside, such as ``threading.Event``."""

    def is_set(self) -> bool:
        """Whether to end."""


class Ended(Enum):
    """How a wait ended."""

    MORE = 1  # there are events
    LOOK = 2  # not yet, but the file is to be looked at
    OVER = 3  # the time is over, or the follower is to end


class Wait:
    """The wait of one follower: it looks for a while, then sleeps until the writer wakes it."""

    def __init__(
        self, source: StreamSource, timeout: float | None, stop_event: StopEvent | None, spin: float | None
    ) -> None:
        self.source = source
        self._timeout = timeout
        self._stop_event = stop_event
        self._spin = spin if spin is not None or _processors() > 1 else 0.0
        self._live: LiveFile | None = None  # opened by the first wait
        self._page: core.LivePage | None = None
        self._looked = 0.0
        self.sleep_max = _LOOK_IDLE if stop_event is None else _SLICE  # seconds
        self.moved: Callable[[], bool] = lambda: False  # whether the events go on elsewhere; asked between two sleeps
        self._offset, self._began = -1, 0.0  # what is waited for, and since when
        self._gap = 0.0  # seconds that a wait took, lately

    @property
    def spin_ns(self) -> int:
        """For how long a walk itself may look for more events, which saves the way through `for_more`.

        This is for a follower that was told to look. What ends it is looked at in `for_more` alone.
        """
        if self._spin is None or self._stop_event is not None:
            return 0
        return int(min(self._spin, _SPIN_WALK, _SPIN_WALK if self._timeout is None else self._timeout) * _NS)

    def close(self) -> None:
        """Close the descriptors."""
        live, self._live, self._page = self._live, None, None
        if live is not None:
            live.close()

    def move_to(self, source: StreamSource) -> None:
        """From here on wait for another stream."""
        self.close()
        self.source = source
        self._offset, self._looked = -1, 0.0  # the first wait joins the page

    def for_more(self, offset: int) -> Ended:
        """Wait until WriteOffset is not ``offset``."""
        now = time.monotonic()
        spin, nap = self.begin(offset, now), _NAP_MIN
        while True:
            left = self.left(now)
            if isinstance(left, Ended):
                return left
            if self.source.region.wait(offset, self._page, int(min(spin, left) * _NS), int(left * _NS)):
                self.succeed()
                return Ended.MORE
            if self.moved():
                return Ended.LOOK
            if self.polls(offset):
                time.sleep(min(nap, left))
                nap = min(2 * nap, _NAP_MAX)
            if self._spin is None:
                spin = 0.0  # it did not pay
            now = time.monotonic()

    def begin(self, offset: int, now: float) -> float:
        """Begin to wait until WriteOffset is not ``offset``, or go on; returns for how many seconds to look first."""
        if offset == self._offset:
            return self._spin or 0.0  # not once more in the same wait, where it did not pay
        self._offset, self._began = offset, now
        return self._seconds_to_look()

    def left(self, now: float) -> float | Ended:
        """How many seconds to sleep before this is asked again, or how the wait ends."""
        look_every = _LOOK_EVERY if now - self._began < _IDLE_FROM else _LOOK_IDLE
        if now - self._looked > look_every:
            self._looked = now
            self._join()
            return Ended.LOOK
        left = min(look_every, self.sleep_max)
        if self._timeout is not None:
            left = min(left, self._began + self._timeout - now)
        if left <= 0 or (self._stop_event is not None and self._stop_event.is_set()):
            return Ended.OVER
        return left

    def polls(self, offset: int) -> bool:
        """Whether no writer wakes this follower, so that it has to look now and then."""
        return self._page is None or self._page.ended == offset

    def succeed(self) -> None:
        """Take note of how long it took until there was an event."""
        if self._spin is None:
            self._gap += (time.monotonic() - self._began - self._gap) / 8

    def bell(self, known: core.LivePage | None) -> tuple[core.LivePage | None, core.Bell | None]:
        """The page of the writer, and a bell that rings by it if it is not ``known``."""
        page = self._page
        return page, None if page is known or page is None or self._live is None else self._live.bell()

    def _seconds_to_look(self) -> float:
        if self._spin is not None:
            return self._spin
        return _SPIN_MAX if self._gap < _SPIN_MAX else 0.0

    def _join(self) -> None:
        """Join the page of the writer, or of another writer that has opened the stream since."""
        if self._live is None:
            self._live = self.source.live()
        if self._live is not None and not self._live.is_current:
            self._page = self._live.join()


def _processors() -> int:
    """On how many processors this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Waits(Protocol):
    """What a `WaitingThread` needs of that which waits in it."""

    def stop(self) -> None:
        """End the wait that another thread is in, soon."""

    def close(self) -> None:
        """Close the descriptors."""


class WaitingThread:
    """A thread that waits for an event loop. It settles the loop's future itself: an executor takes longer."""

    def __init__(self, waits: Waits, loop: asyncio.AbstractEventLoop) -> None:
        self._waits = waits
        self._loop = loop
        self._requests: SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        threading.Thread(target=self._run, name="evtape-follow", daemon=True).start()

    def call(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        """What ``function()`` returns, which waits in the thread."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._requests.put((future, function))
        return future

    def stop(self) -> None:
        """End the thread within 100 ms; it closes what waits in it."""
        self._waits.stop()
        self._requests.put(None)

    def _run(self) -> None:
        while (request := self._requests.get()) is not None:
            future, function = request
            result: Any = None
            failure: Exception | None = None
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 - it is raised in the loop
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop was closed
                self._loop.call_soon_threadsafe(_settle, future, result, failure)
        self._waits.close()


def _settle(future: asyncio.Future[Any], result: Any, failure: Exception | None) -> None:
    if future.done():  # it was cancelled
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(result)


class LoopWait:
    """The wait of a follower in an event loop: the core rings a bell that the loop watches.

    Where there is no bell, because no writer wakes this follower, the loop looks now and then.
    """

    def __init__(self, wait: Wait, loop: asyncio.AbstractEventLoop) -> None:
        self._wait = wait
        self._loop = loop
        self._page: core.LivePage | None = None
        self._bell: core.Bell | None = None  # of that page
        self._asked = -1  # the offset that the bell rings for
        self._future: asyncio.Future[bool] | None = None  # whether it has rung

    async def for_more(self, offset: int) -> Ended:
        """Wait until WriteOffset is not ``offset``."""
        import asyncio

        now = time.monotonic()
        spin, nap = self._wait.begin(offset, now), _NAP_MIN
        looks_until = now + spin
        while True:
            left = self._wait.left(now)
            if isinstance(left, Ended):
                return left
            self._take_bell()
            if self._bell is not None and not self._wait.polls(offset):
                await self._rung(self._bell, offset, int(min(spin, _LOOK_EVERY) * _NS), left)
            elif time.monotonic() < looks_until:
                await asyncio.sleep(0)
            else:
                await asyncio.sleep(min(nap, left))
                nap = min(2 * nap, _NAP_MAX)
            if self._wait.source.region.load_header()[0] != offset:
                self._wait.succeed()
                return Ended.MORE
            if self._wait.moved():
                return Ended.LOOK
            now = time.monotonic()

    async def _rung(self, bell: core.Bell, offset: int, spin_ns: int, seconds: float) -> None:
        """Wait until the bell rings, for so many seconds at most."""
        self._future = future = self._loop.create_future()
        if self._asked != offset:
            self._asked = offset
            bell.ask(offset, spin_ns)
        timer = self._loop.call_later(seconds, _settle, future, False, None)
        try:
            await future
        finally:
            timer.cancel()
            self._future = None

    def _on_bell(self) -> None:
        if self._bell is not None:
            self._bell.clear()
        self._asked = -1
        if self._future is not None:
            _settle(self._future, True, None)

    def _take_bell(self) -> None:
        """The bell of the page that the wait has joined."""
        page, bell = self._wait.bell(self._page)
        if page is not self._page:
            self._drop_bell()
            self._page, self._bell = page, bell
            if bell is not None:
                self._loop.add_reader(bell.descriptor, self._on_bell)

    def _drop_bell(self) -> None:
        bell, self._bell, self._page, self._asked = self._bell, None, None, -1
        if bell is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                self._loop.remove_reader(bell.descriptor)
            bell.stop()

    def close(self) -> None:
        """End the bell's thread and close the descriptors."""
        self._drop_bell()
        self._wait.close()

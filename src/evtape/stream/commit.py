"""Group commit: threads that need a flush share it.

One thread at a time leads: it flushes for all. A thread that arrives during a flush waits, and the next flush serves
every thread that waits by then. So the time of a flush is paid once, not once a thread.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from .. import errors
from ..system.signals import SignalsDeferred

_GATHER_MAX = 0.001  # seconds that a leader waits, at most, for the threads that the last flush served


class _Call:
    """One call that needs a flush."""

    __slots__ = ("events", "failure", "served", "thread", "woken")

    def __init__(self, events: int | None) -> None:
        self.events = events  # are durable when it is served; None: it wants the lead itself
        self.thread = threading.get_ident()
        self.served = False
        self.failure: BaseException | None = None  # of the flush that served it
        self.woken = threading.Lock()
        self.woken.acquire()

    def wake(self) -> None:
        if self.woken.locked():
            self.woken.release()


class GroupCommit:
    """Serves the calls that wait until the first n events are durable, in the order they came.

    ``flush(n)`` makes durable what is appended by then, n events at least, and returns how many events are durable.
    """

    def __init__(self, path: str, flush: Callable[[int], int]) -> None:
        self._path = path
        self._flush = flush
        # Re-entrant: a signal handler or a finalizer may call while its thread is in one of the short sections below.
        self._mutex = threading.RLock()
        self._leader: _Call | None = None
        self._waiting: deque[_Call] = deque()
        self._together = 1  # the calls that the last flush served
        self._took = 0.0  # seconds of the last flush

    def wait(self, events: int) -> None:
        """Return when the first ``events`` events are durable. Raises what the flush raises, in every call it serves.

        An exception that ends the wait (Ctrl-C) leaves the events where they are; a later flush makes them durable.
        """
        while not self._is_served(_Call(events)):
            pass  # the handler of a signal has run, and returned

    def _is_served(self, me: _Call) -> bool:
        """Whether the call was served. The handler of a signal that arrives while it waits ends it."""
        with SignalsDeferred() as signals:
            try:
                if not self._leads(me):
                    self._wait(me, signals)
                if self._leader is me:
                    self._lead(me)
            finally:
                self._leave(me)
        if me.failure is not None:
            raise _for_this_call(me.failure)
        return me.served

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """No other call flushes during the block. Calls that wait are served after it."""
        me = _Call(None)
        with SignalsDeferred() as signals:
            try:
                self._leads(me)
                while self._leader is not me:
                    self._wait(me, signals)
                yield
            finally:
                self._leave(me)

    # ------------------------------------------------------------------------------------------ one call

    def _leads(self, me: _Call) -> bool:
        """Whether the call leads now. Otherwise it is in the queue."""
        with self._mutex:
            if self._leader is None:
                self._leader = me
                return True
            if self._leader.thread == me.thread:  # a handler or a finalizer in the middle of a flush of this thread
                raise errors.busy(self._path)
            self._waiting.append(me)
            if len(self._waiting) + 1 >= self._together:
                self._leader.wake()
            return False

    def _wait(self, me: _Call, signals: SignalsDeferred) -> None:
        """Return when the call is served or leads, or a signal arrives."""

        def acquire() -> bool:
            # While the interpreter ends, the thread that leads may be gone.
            if not me.woken.acquire(blocking=not sys.is_finalizing()):
                raise errors.busy(self._path)
            return True

        while not me.served and self._leader is not me:
            if not signals.wait(acquire):
                return

    def _lead(self, me: _Call) -> None:
        """Flush, and serve the calls that the flush covers."""
        assert me.events is not None
        if self._together > 1:
            self._gather(me)
        began = time.perf_counter()
        try:
            durable = self._flush(me.events)
        except Exception as error:
            self._serve(sys.maxsize, error)
            raise
        self._took = time.perf_counter() - began
        if self._waiting or self._together > 1:
            self._serve(durable, None)
        me.served = True

    def _gather(self, me: _Call) -> None:
        """Wait a moment for the threads that the last flush served: they come back for the next one."""
        if len(self._waiting) + 1 < self._together:
            me.woken.acquire(timeout=min(self._took, _GATHER_MAX))

    def _serve(self, events: int, failure: BaseException | None) -> None:
        """Let the calls go that wait for ``events`` events or fewer."""
        with self._mutex:
            together = 1
            for call in list(self._waiting):
                if call.events is not None and call.events <= events:
                    self._waiting.remove(call)
                    call.failure = failure
                    call.served = True
                    call.wake()
                    together += 1
            self._together = together

    def _leave(self, me: _Call) -> None:
        """End the call, and hand the lead on."""
        with self._mutex:
            if me in self._waiting:
                self._waiting.remove(me)
            if self._leader is me:
                self._leader = heir = self._heir()
                if heir is not None:
                    heir.wake()

    def _heir(self) -> _Call | None:
        """The first call that waits, or the one that was made inside it, by a signal handler of the same thread."""
        if not self._waiting:
            return None
        first = self._waiting[0]
        return next(call for call in reversed(self._waiting) if call.thread == first.thread)


def _for_this_call(failure: BaseException) -> BaseException:
    """The failure of a shared flush as an exception of this call's own."""
    if isinstance(failure, OSError):
        return type(failure)(failure.errno, failure.strerror, failure.filename)
    return type(failure)(*failure.args)

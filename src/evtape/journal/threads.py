"""The two threads of a writer of a journal: one makes the next segment, one closes the earlier ones."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

from ..errors import Error
from .spare import Spare

_LAST_ROUND = 10.0  # seconds to wait for a thread that has next to nothing left to do


class Maker:
    """Keeps one spare segment: made by a thread when it is ordered, or by the caller that needs it now."""

    def __init__(self, make: Callable[[], Spare]) -> None:
        self._make = weakref.WeakMethod(make)
        self._lock = threading.RLock()  # held while a spare is made
        self._spare: Spare | None = None
        self._orders: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ordered = False
        self._stopped = False

    def order(self) -> None:
        """Have a spare made soon. O(1)."""
        if self._ordered or self._stopped:
            return
        self._ordered = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="evtape-next-segment", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no thread can be started: the append that rolls makes it
                self._thread = None
                return
        self._orders.put(True)

    def take(self) -> Spare:
        """The spare; made here if there is none. Raises what making it raises."""
        with self._lock:
            spare, self._spare = self._spare, None
            self._ordered = False
            if spare is not None:
                return spare
            make = self._make()
            assert make is not None
            return make()

    def give_back(self, spare: Spare) -> None:
        """The spare was not used."""
        with self._lock:
            if self._spare is None and not self._stopped:
                self._spare, self._ordered = spare, True
                return
        spare.discard()

    def stop(self) -> None:
        """Remove the spare, and make no more."""
        self._stopped = True
        self._orders.put(False)
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.discard()

    def wait(self) -> None:
        """Until the thread has ended."""
        _wait(self._thread)

    def before_fork(self) -> None:
        """Wait for the spare that is being made: a child would keep descriptors that nothing knows of."""
        with self._lock:
            if self._spare is not None:
                self._spare.opened.region.stop_preallocator()

    def forked(self) -> None:
        """In a forked child: the spare is the parent's, and its files stay."""
        self._stopped = True
        self._lock = threading.RLock()
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.opened.region.forked()
            spare.opened.lock.abandon()
            spare.live.close()
            spare.opened.close()

    def _run(self) -> None:
        while self._orders.get():
            with self._lock, contextlib.suppress(OSError, Error):  # the append that needs it tries again, and raises
                make = self._make()
                if make is None:
                    return
                if self._spare is None and self._ordered and not self._stopped:
                    self._spare = make()


class Housekeeping(Protocol):
    """What the second thread needs of a writer."""

    @property
    def closed(self) -> bool: ...
    def _keep_house(self) -> float | None:
        """Do what is due; returns the seconds until something will be."""


class Housekeeper:
    """The thread that does for a writer what need not be done in an append."""

    def __init__(self, writer: Housekeeping) -> None:
        self._writer = weakref.ref(writer)
        self._calls: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self) -> None:
        """Have the housekeeping done soon. O(1)."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="evtape-segments", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the segments are closed by the next sync, or at the end
                self._thread = None
                return
        self._calls.put(True)

    def stop(self) -> None:
        """End the thread soon."""
        self._calls.put(False)

    def wait(self) -> None:
        """Until the thread has ended."""
        _wait(self._thread)

    def _run(self) -> None:
        seconds: float | None = None
        while True:
            try:
                if not self._calls.get(timeout=seconds):
                    return
            except queue.Empty:
                pass
            writer = self._writer()
            if writer is None or writer.closed:
                return
            try:
                seconds = writer._keep_house()
            except (OSError, Error):  # the writer says so at its next append, sync or close
                seconds = 1.0
            del writer


def _wait(thread: threading.Thread | None) -> None:
    here = threading.current_thread()
    if thread is not None and thread is not here and thread.is_alive() and not sys.is_finalizing():
        thread.join(_LAST_ROUND)

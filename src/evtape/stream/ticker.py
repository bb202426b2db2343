"""The thread of ``durability="interval"``."""

from __future__ import annotations

import sys
import threading
import weakref
from typing import Protocol

from ..errors import Error

_LAST_ROUND = 10.0  # seconds to wait for a thread that has next to nothing left to do


class Syncs(Protocol):
    """What the thread needs of a writer."""

    @property
    def path(self) -> str: ...
    @property
    def closed(self) -> bool: ...
    def _sync_now(self) -> None: ...


class Ticker(threading.Thread):
    """Syncs a writer every ``interval`` seconds. Ends when the writer is closed, lost or fails."""

    def __init__(self, writer: Syncs, interval: float) -> None:
        super().__init__(name="evtape-sync", daemon=True)
        self._writer = weakref.ref(writer)
        self._path = writer.path
        self._interval = interval
        self._stopped = threading.Lock()  # held until the thread shall end; no event, whose own lock is not re-entrant
        self._stopped.acquire()

    def begin(self) -> None:
        try:
            self.start()
        except RuntimeError as error:
            raise RuntimeError(f"{self._path}: the thread that syncs cannot be started: {error}") from None

    def run(self) -> None:
        while not self._stopped.acquire(timeout=self._interval):
            writer = self._writer()
            if writer is None or writer.closed:
                return
            try:
                writer._sync_now()
            except (OSError, Error):
                return  # the writer is poisoned and says so at its next append
            del writer

    def stop(self) -> None:
        try:
            self._stopped.release()
        except RuntimeError:  # it was stopped before
            pass

    def wait(self) -> None:
        """Until the thread has ended. While the interpreter ends, a thread of Python does not go on, and no more."""
        if self is not threading.current_thread() and self.is_alive() and not sys.is_finalizing():
            self.join(_LAST_ROUND)

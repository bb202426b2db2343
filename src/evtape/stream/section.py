"""A lock that a thread cannot enter twice by accident."""

from __future__ import annotations

import sys
import threading

from .. import errors


class Section:
    """The section that must not interrupt itself: reserve and close.

    Other threads wait; the same thread gets an error. A finalizer or a trace function can run in the middle of any of
    them and call the next, so the lock is re-entrant and carries a mark.
    """

    __slots__ = ("_inside", "_lock", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._inside = False

    def __enter__(self) -> None:
        # While the interpreter ends, the thread that holds a lock may be gone.
        if not self._lock.acquire(blocking=not sys.is_finalizing()):
            raise errors.busy(self._path)
        if self._inside:
            self._lock.release()
            raise errors.busy(self._path)
        self._inside = True

    def __exit__(self, *exc_info: object) -> None:
        self._inside = False
        self._lock.release()

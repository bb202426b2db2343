"""The worker that calls ``on_closed`` for each closed segment. Retention waits for it."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from .. import errors
from ..system.files import WRITE, open_descriptor
from .directory import DONE, Directory

_RETRY_FIRST, _RETRY_MAX = 0.1, 60.0  # seconds between two attempts
_LAST_ROUND = 10.0  # seconds that a close waits for the hook


class HookWarning(UserWarning):
    """``on_closed`` has raised. It is called again, and the segment is kept until it succeeds."""


class Hook:
    """Calls ``function(path)`` for each segment, in order, until it succeeds once. A file next to it notes that."""

    def __init__(self, directory: Directory, function: Callable[[str], Any], closed: Iterable[int]) -> None:
        self._directory = directory
        self._function = function
        self._queue: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._waiting = {first for first in closed if not os.path.exists(directory.segment(first) + DONE)}
        self._ended = threading.Lock()  # held until the thread shall end
        self._ended.acquire()
        self._thread = threading.Thread(target=self._run, name="evtape-on-closed", daemon=True)
        for first in sorted(self._waiting):
            self._queue.put(first)
        self._thread.start()

    def add(self, first: int) -> None:
        """A segment was closed."""
        self._waiting.add(first)
        self._queue.put(first)

    def needs(self, first: int) -> bool:
        """Whether the function has not succeeded for the segment yet."""
        return first in self._waiting

    def stop(self) -> None:
        """Call it once more for each segment that waits, and end; waits for 10 seconds at most."""
        self._queue.put(None)
        if self._thread is not threading.current_thread() and not sys.is_finalizing():
            with contextlib.suppress(RuntimeError):
                self._ended.release()
            self._thread.join(_LAST_ROUND)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            delay = _RETRY_FIRST
            while not self._succeeds(first):
                if self._ended.acquire(timeout=delay):
                    self._ended.release()
                    break  # the next writer calls it again
                delay = min(2 * delay, _RETRY_MAX)

    def _succeeds(self, first: int) -> bool:
        path = self._directory.segment(first)
        if not os.path.exists(path):  # deleted because the disk was full
            self._waiting.discard(first)
            return True
        try:
            self._function(self._directory.shown(first))
            os.close(open_descriptor(path + DONE, WRITE | os.O_CREAT))
        except Exception as error:  # noqa: BLE001 - whatever it raises must not stop the writer
            text = (
                f"{self._directory.shown(first)}: on_closed raised {type(error).__name__}: {error}; it is tried again"
            )
            with contextlib.suppress(HookWarning):  # where warnings are errors
                errors.warn(HookWarning(text))
            return False
        self._waiting.discard(first)
        return True

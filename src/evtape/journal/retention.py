"""What a journal forgets: whole segments, the oldest first, and never one that is still needed."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ..core.format import INT64_MAX
from ..stream.cursor import parsed
from .directory import Directory
from .settings import Settings


@dataclass(frozen=True)
class Closed:
    """A closed segment."""

    first: int  #: ordinal of its first event
    stop: int  #: ordinal of the first event after it
    bytes: int
    closed_at: int  #: ns


def look_at(directory: Directory, first: int, stop: int) -> Closed:
    """What is known of a segment that was closed by an earlier writer."""
    status = os.stat(directory.segment(first))
    return Closed(first, stop, status.st_size, status.st_mtime_ns)


def committed(directory: Directory) -> dict[str, int]:
    """The cursors of a journal: name to the ordinal that its consumer needs next. 0 for one that is damaged."""
    found: dict[str, int] = {}
    for name, path in directory.cursors().items():
        with contextlib.suppress(FileNotFoundError):
            with open(path, "rb") as file:
                place = parsed(file.read(128))
            found[name] = 0 if place is None else place.ordinal
    return found


class Retention:
    """Knows the closed segments, and deletes those that the settings do not keep. Threads may share it."""

    def __init__(self, directory: Directory, settings: Settings, closed: list[Closed], *, durable: bool = True) -> None:
        self._directory = directory
        self._settings = settings
        self._closed = deque(closed)
        self._bytes = sum(segment.bytes for segment in closed)
        self._durable = durable
        self._lock = threading.RLock()
        self.waits_for: Callable[[int], bool] = lambda first: False  #: whether a hook still needs the segment

    def add(self, segment: Closed) -> None:
        """A segment was closed. O(1)."""
        with self._lock:
            self._closed.append(segment)
            self._bytes += segment.bytes

    def due(self) -> list[tuple[Closed, str]]:
        """The segments that would be deleted now, oldest first, each with the setting that says so."""
        with self._lock:
            found: list[tuple[Closed, str]] = []
            segments, size = len(self._closed) + 1, self._bytes + self._settings.roll_bytes
            needed: int | None = None
            for segment in self._closed:
                reason, forced = self._reason(segment, segments, size)
                if not reason or self.waits_for(segment.first):
                    break
                if needed is None:
                    needed = min(committed(self._directory).values(), default=INT64_MAX)
                if needed < segment.stop and not forced:
                    break
                found.append((segment, reason))
                segments, size = segments - 1, size - segment.bytes
            return found

    def _reason(self, segment: Closed, segments: int, size: int) -> tuple[str, bool]:
        """The setting that does not keep the segment, and whether it counts more than cursors."""
        settings = self._settings
        if settings.keep_at_most_bytes is not None and size > settings.keep_at_most_bytes:
            return "keep_at_most_bytes", True
        if settings.keep_bytes is not None and size > settings.keep_bytes:
            return "keep_bytes", False
        if settings.keep_segments is not None and segments > settings.keep_segments:
            return "keep_segments", False
        if settings.keep_for is not None and segment.closed_at < time.time_ns() - settings.keep_for:
            return "keep_for", False
        return "", False

    def run(self) -> list[Closed]:
        """Delete what is due; returns it. O(segments deleted + names)."""
        if not self._settings.forgets:
            return []
        with self._lock:
            gone = [segment for segment, _ in self.due()]
            for segment in gone:
                self._delete(segment)
            return gone

    def drop_oldest(self) -> bool:
        """For a full disk: delete the oldest closed segment, even if a cursor needs it. False if there is none."""
        with self._lock:
            if not self._closed:
                return False
            self._delete(self._closed[0])
            return True

    def _delete(self, segment: Closed) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._directory.remove_segment(segment.first)
        self._closed.popleft()
        self._bytes -= segment.bytes
        if self._durable:
            self._directory.sync()  # before the next one: a power loss must not leave a gap

    @property
    def closed(self) -> list[Closed]:
        """The closed segments, oldest first."""
        with self._lock:
            return list(self._closed)

    def forked(self) -> None:
        """In a forked child: a thread that is not there may have held the lock."""
        self._lock = threading.RLock()

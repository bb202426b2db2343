"""Where events are: offset and timestamp of every 64th, so that a question about one walks at most 63 headers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..core.backend import core
from ..core.format import ENTRY_SIZE, FIRST_OFFSET, Reason
from ..core.paging import RESIDENT, events_per_pass

STRIDE = 64  # 16 bytes of memory per 64 events
_PASS = 1 << 14  # events per scan, so that the arrays are sized from what was met and not from what a header claims


class Break(NamedTuple):
    """Where the walk cannot go on, and why."""

    ordinal: int
    offset: int
    reason: Reason


class Index:
    """Extended by one scan over what is new; O(new events) then, O(1) when nothing is.

    ``length`` is the number of events that can be reached; ``broken`` says why there are no more although the header
    promises some.
    """

    def __init__(self, region: core.Region) -> None:
        self._region = region
        self._scanner = core.Scanner(region)
        self._offsets = np.empty(16, np.int64)
        self._timestamps = np.empty(16, np.int64)
        self._blocks = 0
        self.length = 0
        self.broken: Break | None = None

    @property
    def timestamps(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Timestamp of every 64th event, shape (blocks,), ns."""
        return self._timestamps[: self._blocks]

    @property
    def unsorted_at(self) -> int:
        """Ordinal of the first event with a lower timestamp than the one before it, or -1."""
        return self._scanner.unsorted_at

    @property
    def last_timestamp(self) -> int:
        """Timestamp of the last event reached; the lowest int64 when there is none."""
        return self._scanner.last_timestamp

    def extend(self, bound: int, event_count: int) -> Reason | None:
        """Walk what was published since, up to ``bound``.

        Returns "fault" when the file could not be read, else None.
        """
        scanner = self._scanner
        reason: Reason | None = None
        dropped = scanner.offset
        while scanner.offset < bound and reason is None:
            self._make_room()
            free = slice(self._blocks, None)
            reason = scanner.run(
                bound,
                events_per_pass(scanner, _PASS),
                stride=STRIDE,
                offsets=self._offsets[free],
                timestamps=self._timestamps[free],
            )
            self._blocks += scanner.recorded
            if scanner.offset - dropped > RESIDENT:
                self._region.drop_pages(dropped, scanner.offset)
                dropped = scanner.offset
        if reason == "fault":
            return reason
        self.length = scanner.ordinal
        self.broken = None if reason is None else Break(scanner.ordinal, scanner.offset, reason)
        # Sixteen zero bytes are an event only where the count of all entries adds up; see docs/format.md, "Zeros".
        if scanner.zero_ordinal >= 0 and (reason is not None or scanner.ordinal != event_count):
            self.length = scanner.zero_ordinal
            self.broken = Break(scanner.zero_ordinal, scanner.zero_offset, "zero")
        return None

    def _make_room(self) -> None:
        if self._blocks == len(self._offsets):
            self._offsets = np.concatenate([self._offsets, np.empty_like(self._offsets)])
            self._timestamps = np.concatenate([self._timestamps, np.empty_like(self._timestamps)])

    def locate(self, ordinal: int, bound: int) -> int:
        """Byte position of event ``ordinal``, or of the end for ``ordinal == length``.

        At most 64 headers are read.
        """
        if ordinal == 0:
            return FIRST_OFFSET
        block = min(ordinal // STRIDE, self._blocks - 1)
        scanner = core.Scanner(self._region, int(self._offsets[block]), block * STRIDE)
        scanner.run(bound, ordinal - block * STRIDE)
        return scanner.offset

    def last_header(self, bound: int) -> tuple[int, bytes]:
        """Byte position and header of the last event; no bytes without one."""
        at = self.locate(self.length - 1, bound) if self.length else FIRST_OFFSET
        return at, bytes(self._region.view(at, min(at + ENTRY_SIZE, bound)))

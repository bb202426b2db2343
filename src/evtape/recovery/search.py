"""Search -> where intact events lie in bytes that no walk leads to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.backend import core
from ..core.format import ENTRY, ENTRY_SIZE, INT64_MAX, TIME_MAX, TIME_MIN

_SPAN = 1 << 20  # places looked at together, at most: the next event is near more often than not, so it begins with
_SPAN_FIRST = 1 << 12
_BUDGET = 1 << 32  # bytes of supposed payloads that are summed before a search gives up
_TRIAL = 1 << 12  # what one trial costs beside its bytes, in bytes
_DAY = 86400 * 10**9

# For a search that takes over what it finds:
_BUDGET_SURE = 1 << 36
_ALONE = 1 << 16  # bytes of a payload that is summed whatever follows
_CLOSE = 30 * _DAY  # between an event and the next

Candidate = tuple[int, int, int]  # offset, size, checksum
Column = npt.NDArray[Any]


class Search:
    """Tries every place below ``bound`` as the beginning of an entry: its size must fit, and its checksum match.

    An entry without a payload has no checksum to speak of, so its timestamp must lie near ``times``, the lowest and
    the highest that are known of the stream. A file can be made such that every place looks like an entry, so the
    bytes that are summed are limited; then ``gave_up`` is set.
    """

    def __init__(self, region: core.Region, bound: int, times: tuple[int, int], budget: int = _BUDGET) -> None:
        self._region = region
        self._bound = bound
        self._low, self._high = max(TIME_MIN, times[0] - _DAY), min(TIME_MAX, times[1] + 365 * _DAY)
        self._left = budget
        self.gave_up = False
        self.progress: Callable[[int, int], object] = lambda _done, _total: None

    def first(self, start: int, stop: int = INT64_MAX) -> int:
        """Offset of the first intact event in [start, stop), or -1; where it gave up, of the next candidate.

        O(bytes) for anything but a file that was made to be slow.
        """
        stop = min(stop, self._bound - ENTRY_SIZE + 1)
        at, span = start, _SPAN_FIRST
        while at < stop:
            end = min(at + span, stop)
            for place, size, checksum in self._candidates(at, end):
                self._left -= size + _TRIAL
                self.gave_up = self._left < 0
                if self.gave_up or self.sum(place + ENTRY_SIZE, place + ENTRY_SIZE + size) == checksum:
                    return place
            self._region.drop_pages(at, end)
            self.progress(end, self._bound)
            at, span = end, min(2 * span, _SPAN)
        return -1

    def sum(self, start: int, stop: int) -> int:
        """The checksum of [start, stop). Reads a piece at a time, because any size may stand in a file."""
        checksum = 0
        for at in range(start, stop, _SPAN):
            checksum = core.crc32(self._region.view(at, min(at + _SPAN, stop)), checksum)
        return checksum

    def _candidates(self, start: int, stop: int) -> Iterator[Candidate]:
        timestamps, sizes, checksums = self._columns(start, stop)
        keep = (sizes > 0) | ((checksums == 0) & (timestamps != 0) & self._near(timestamps))
        return self._fitting(start, keep, sizes, checksums)

    def _columns(self, start: int, stop: int) -> tuple[Column, Column, Column]:
        """Timestamp, size and checksum of the entries that would begin at each place: views of the same bytes."""
        raw = self._region.view(start, stop + ENTRY_SIZE - 1)

        def column(at: int, kind: str) -> Column:
            return np.ndarray((stop - start,), kind, raw, at, (1,))

        return column(0, "<i8"), column(8, "<u4"), column(12, "<u4")

    def _near(self, timestamps: Column) -> npt.NDArray[np.bool_]:
        return (timestamps >= self._low) & (timestamps <= self._high)

    def _fitting(
        self, start: int, keep: npt.NDArray[np.bool_], sizes: Column, checksums: Column
    ) -> Iterator[Candidate]:
        for at in np.flatnonzero(keep).tolist():
            if sizes[at] <= self._bound - ENTRY_SIZE - start - at:
                yield start + at, int(sizes[at]), int(checksums[at])


class SureSearch(Search):
    """Finds only what can be taken over: an event with a payload, and a sign beside the checksum that it is one.

    The sign is a time near those of the stream, or as long as these are unknown (``times`` None, or ``learn`` not yet
    called) an entry directly after it whose time is near its own. A large payload is summed only where such an entry
    follows: in a large lost area too many places look like the beginning of one.
    """

    def __init__(self, region: core.Region, bound: int, times: tuple[int, int] | None) -> None:
        super().__init__(region, bound, times or (0, 0), _BUDGET_SURE)
        self._known = times is not None
        self._sure_of_times = False

    def learn(self, low: int, high: int) -> None:
        """Times of events that belong to the stream."""
        low, high = max(TIME_MIN, low - _DAY), min(TIME_MAX, high + 365 * _DAY)
        self._low, self._high = (min(self._low, low), max(self._high, high)) if self._known else (low, high)
        self._known = self._sure_of_times = True

    def _candidates(self, start: int, stop: int) -> Iterator[Candidate]:
        timestamps, sizes, checksums = self._columns(start, stop)
        near = self._near(timestamps) & (timestamps != 0) & self._known
        keep = near if self._sure_of_times else near | (sizes <= _ALONE)
        for place, size, checksum in self._fitting(start, keep & (sizes > 0), sizes, checksums):
            at = place - start
            if (near[at] and size <= _ALONE) or self._followed(place + ENTRY_SIZE + size, int(timestamps[at])):
                yield place, size, checksum

    def _followed(self, end: int, timestamp: int) -> bool:
        """Whether an entry begins where this one ends, as far as its header tells, or the stream ends there."""
        if end + ENTRY_SIZE > self._bound:
            return end == self._bound
        after, size, _ = ENTRY.unpack(self._region.view(end, end + ENTRY_SIZE))
        fits: bool = end + ENTRY_SIZE + size <= self._bound
        return fits and after != 0 and abs(after - timestamp) <= _CLOSE

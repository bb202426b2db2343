"""Search -> where intact events lie in bytes that no walk leads to."""

from __future__ import annotations

import numpy as np

from ._backend import core
from ._format import ENTRY_SIZE

_SPAN = 1 << 20  # places looked at together
_BUDGET = 1 << 32  # bytes of supposed payloads that are summed before a search gives up
_TRIAL = 1 << 12  # what one trial costs beside its bytes, in bytes
_DAY = 86400 * 10**9

Candidate = tuple[int, int, int]  # offset, size, checksum


class Search:
    """Tries every place below ``bound`` as the beginning of an entry: its size must fit, and its checksum match.

    An entry without a payload has no checksum to speak of, so its timestamp must lie near ``times``, the lowest and
    the highest that are known of the stream. A file can be made such that every place looks like an entry, so the
    bytes that are summed are limited; then ``gave_up`` is set.
    """

    def __init__(self, region: core.Region, bound: int, times: tuple[int, int]) -> None:
        self._region = region
        self._bound = bound
        self._low, self._high = times[0] - _DAY, times[1] + 365 * _DAY
        self._left = _BUDGET
        self.gave_up = False

    def first(self, start: int, sure: bool = False) -> int:
        """Offset of the first intact event from ``start`` on, or -1; where it gave up, of the next candidate.

        ``sure`` takes only an event with a payload and with a timestamp near those of the stream. O(bytes) for
        anything but a file that was made to be slow.
        """
        end = self._bound - ENTRY_SIZE + 1
        for at in range(start, end, _SPAN):
            for place, size, checksum in self._candidates(at, min(at + _SPAN, end), sure):
                self._left -= size + _TRIAL
                self.gave_up = self._left < 0
                payload = self._region.view(place + ENTRY_SIZE, place + ENTRY_SIZE + size)
                if self.gave_up or core.crc32(payload) == checksum:
                    return place
        return -1

    def _candidates(self, start: int, stop: int, sure: bool) -> list[Candidate]:
        raw = np.frombuffer(self._region.view(start, stop + ENTRY_SIZE - 1), np.uint8)
        words = np.lib.stride_tricks.sliding_window_view(raw, ENTRY_SIZE)

        def field(first: int, kind: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
            width = np.dtype(kind).itemsize
            return np.ascontiguousarray(words[:, first : first + width]).view(kind)[:, 0].astype(np.int64)

        timestamps, sizes, checksums = field(0, "<i8"), field(8, "<u4"), field(12, "<u4")
        at = np.arange(start, stop, dtype=np.int64)
        near = (timestamps != 0) & (timestamps >= self._low) & (timestamps <= self._high)
        keep = (sizes > 0) & near if sure else (sizes > 0) | ((checksums == 0) & near)
        keep &= sizes <= self._bound - ENTRY_SIZE - at
        return list(zip(at[keep].tolist(), sizes[keep].tolist(), checksums[keep].tolist(), strict=True))

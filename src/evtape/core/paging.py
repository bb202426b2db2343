"""Pages: their sizes, and how much of a stream a walk keeps in this process's memory."""

from __future__ import annotations

from typing import Final

from .backend import core
from .format import FIRST_OFFSET

HUGE_PAGE: Final = 2 << 20  # EVTAPE_HUGE_PAGE of the native core
MEDIUM_PAGE: Final = 64 << 10  # EVTAPE_MEDIUM_PAGE of the native core
SMALL_PAGE: Final = 4 << 10  # of most systems; a smaller one than the system's stands for that
RESIDENT: Final = 32 << 20  # bytes after which a walk drops the pages that it has left

_FIRST_PASS: Final = 64  # events of the first pass, before a size is known


def events_per_pass(scanner: core.Scanner, most: int) -> int:
    """How many events to walk before pages are dropped: about ``RESIDENT`` bytes at the mean size so far."""
    if not scanner.ordinal:
        return min(most, _FIRST_PASS)
    mean = (scanner.offset - FIRST_OFFSET) // scanner.ordinal
    return max(1, min(most, RESIDENT // mean))

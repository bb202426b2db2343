"""Native calls on many places of a stream, in two threads where that is worth a thread."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from ..core.backend import core

FROM_BYTES: Final = 4 << 20  # a thread costs as much as a copy of 200 KB


def in_halves(work: Callable[[int, int], int], count: int, touched: int) -> int:
    """``work(start, stop)`` on all ``count`` places. It returns the number of the first bad one within, or -1; so does
    this. ``touched``: about how many bytes are read. ``work`` is called in two threads where they are many.
    """
    if touched < FROM_BYTES or count < 2 or not core.PARALLEL or (os.cpu_count() or 1) < 2:
        return work(0, count)
    from concurrent.futures import ThreadPoolExecutor

    middle = count // 2
    with ThreadPoolExecutor(1, "evtape-gather") as other:
        second = other.submit(work, middle, count)
        bad = work(0, middle)
    rest = second.result()
    return bad if bad >= 0 else rest if rest < 0 else middle + rest

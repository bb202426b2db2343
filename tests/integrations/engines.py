"""Streams for the engines: what is in them, as numpy has it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.helpers import NS

TICK = np.dtype([("symbol", "S8"), ("price", "<f8"), ("size", "<u4"), ("side", "u1"), ("pad", "V3")])
SYMBOLS = np.array([b"AAPL", b"MSFT", b"NVDA", b"GOOG", b"AMZN"])
COUNT = 20_000  # rows of the stream that most tests read
STEP = 1_000_001  # ns between two events: not a whole number of microseconds


def ticks(count: int, seed: int = 0) -> npt.NDArray[Any]:
    """Rows whose sums are exact, in whatever order they are added."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(count, TICK)
    rows["symbol"] = SYMBOLS[rng.integers(0, len(SYMBOLS), count)]
    rows["price"] = rng.integers(1, 1 << 20, count) / 8
    rows["size"] = rng.integers(1, 1000, count)
    rows["side"] = rng.integers(0, 2, count)
    return rows


def times(count: int, start: int = NS) -> npt.NDArray[np.int64]:
    """Timestamps that rise."""
    return start + np.arange(count, dtype=np.int64) * STEP


def write(package: ModuleType, path: Any, rows: npt.NDArray[Any], timestamps: npt.NDArray[np.int64]) -> None:
    with package.open(path, "w", schema=rows.dtype, durability="none") as tape:
        tape.append_array(rows, timestamps)


def by_symbol(rows: npt.NDArray[Any]) -> list[tuple[str, float, int]]:
    """For each symbol its sum of prices and its events, in the order of symbols."""
    found = []
    for symbol in np.unique(rows["symbol"]):
        prices = rows["price"][rows["symbol"] == symbol]
        found.append((symbol.decode(), float(prices.sum()), len(prices)))
    return found


def ordinals_read(seen: list[Any]) -> int:
    """How many ordinals were read, of what the fixture `read` noted."""
    return sum(stop - start for _, start, stop in seen)

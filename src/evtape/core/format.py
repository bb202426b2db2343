"""The format in numbers: layouts and limits. Mirrors docs/format.md section by section.

All integers are little-endian. ``stream := header entry*``, ``entry := timestamp size checksum data``.
"""

from __future__ import annotations

import operator
import struct
from typing import Any, Final, Literal

# Header: WriteOffset:i64 EventCount:i64 StartTimestamp:i64, at offset 0.
HEADER: Final = struct.Struct("<qqq")
HEADER_SIZE: Final = HEADER.size
FIRST_OFFSET: Final = HEADER_SIZE  # the WriteOffset of a stream without events

# Entry: Timestamp:i64 Size:u32 Checksum:u32, then Size bytes. No padding, so entries are not aligned.
ENTRY: Final = struct.Struct("<qII")
ENTRY_SIZE: Final = ENTRY.size

SIZE_MAX: Final = 2**32 - 1  # bytes of one payload
INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
TIME_MIN: Final = INT64_MIN
TIME_MAX: Final = INT64_MAX

#: Why a walk stops at an entry; see docs/format.md. ``"fault"``: the file could not be read.
Reason = Literal["size", "checksum", "zero", "fault"]
REASONS: Final[tuple[Reason | None, ...]] = (None, "size", "checksum", "zero", "fault")


def bounded(name: str, value: Any, low: int, high: int) -> int:
    """``value`` as an int from ``low`` to ``high``, or the error that says which field of an event it cannot be."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} of an event must be an int, not {type(value).__name__}") from None
    if not low <= number <= high:
        raise OverflowError(f"{name} of an event must be from {low} to {high}, not {number}")
    return number

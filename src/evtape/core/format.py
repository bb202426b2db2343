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

# The record of a block in an index file: where its first entry begins; the lowest and the highest timestamp in it; the
# highest up to and including it; the CRC-32 of its entry headers; the size of its payloads; its events; flags; and the
# CRC-32 of INDEX_PLACE and the fields before.
INDEX_RECORD: Final = struct.Struct("<qqqqIIHHI")
INDEX_PLACE: Final = struct.Struct("<qq")  # StartTimestamp, number of the block
INDEX_EVENTS: Final = 64  # of a block; the last one of a closed stream may have fewer
INDEX_EQUAL_SIZES: Final = 1  # flag: all payloads of the block have the same size
INDEX_UNSORTED: Final = 2  # flag: timestamps go backwards in this block or before it

SECTOR: Final = 512  # bytes that a disk writes as a whole

SIZE_MAX: Final = 2**32 - 1  # bytes of one payload
INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
TIME_MIN: Final = INT64_MIN
TIME_MAX: Final = INT64_MAX

#: Why a walk stops at an entry; see docs/format.md. ``"fault"``: the file could not be read.
Reason = Literal["size", "checksum", "zero", "fault"]
#: Why an iteration stops, too: the entry before is not the one that it returned.
EventsReason = Literal["size", "checksum", "zero", "fault", "changed"]
REASONS: Final[tuple[EventsReason | None, ...]] = (None, "size", "checksum", "zero", "fault", "changed")

#: Why a batch of an Arrow table cannot be made, too: a payload, or a value in it, does not fit its column.
ARROW_REASONS: Final = (*REASONS, "length", "long", "value", "memory")


def bounded(name: str, value: Any, low: int, high: int) -> int:
    """``value`` as an int from ``low`` to ``high``, or the error that says which field of an event it cannot be."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} of an event must be an int, not {type(value).__name__}") from None
    if not low <= number <= high:
        raise OverflowError(f"{name} of an event must be from {low} to {high}, not {number}")
    return number

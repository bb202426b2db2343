"""The columns of an Arrow table of events, as both cores take them: what each is made from, in plain numbers.

A table is a list of columns in depth-first order, each before its children. All that decides, such as which Arrow type
a numpy type becomes, is in `evtape.arrow`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

NULLABLE: Final = 2  # ARROW_FLAG_NULLABLE


class Kind(IntEnum):
    """The parts of one column."""

    ORDINAL = 0  #: int64
    TIME = 1  #: int64
    PAYLOAD = 2  #: views of whole payloads
    FIXED = 3  #: ``width`` bytes
    BOOL = 4  #: a byte -> a bit
    TEXT = 5  #: ``width`` bytes of UTF-8, padded with zeros -> a view
    WIDE_TEXT = 6  #: ``width`` bytes of UTF-32, padded with zeros -> a view of a copy
    DATE = 7  #: int64 days -> int32 days
    NESTED = 8  #: a struct or a fixed-size list: its children have the values


_FIRST: Final = np.zeros(1, np.int64)


class Column(NamedTuple):
    """One column."""

    name: str
    format: str  #: as in ArrowSchema
    kind: Kind
    flags: int = 0  #: as in ArrowSchema
    children: int = 0  #: direct ones, which follow
    width: int = 0  #: bytes of one element in the payload; the elements of a fixed-size list
    swap: int = 0  #: bytes of a number in it that are in the other order, or 0
    check: bool = False  #: PAYLOAD: is UTF-8; FIXED: the lowest int64 is null
    positions: npt.NDArray[np.int64] = _FIRST  #: where the elements of one event are in the payload

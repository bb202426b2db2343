"""What pickles and copies become: a reader or a slice its path and range, an event its bytes.
Of a stream in memory they hold a copy.

Independent of the core, so that one core reads what the other wrote.
"""

from __future__ import annotations

import copyreg
from typing import Any

from ..core.backend import core
from .order import MergedSlice
from .reader import Reader
from .slices import Slice


def restore_reader(reopen: Any, arguments: tuple[Any, ...]) -> Reader:
    return Reader._over(reopen(*arguments))


def restore_slice(reopen: Any, arguments: tuple[Any, ...], ordinals: Any) -> Slice:
    return Slice(reopen(*arguments), ordinals)


def restore_merged_slice(reopen: Any, arguments: tuple[Any, ...], ordinals: Any) -> MergedSlice:
    return MergedSlice(reopen(*arguments), ordinals)


def restore_event(
    timestamp: int, data: bytes, ordinal: int, offset: int, checksum: int, schema: Any = None
) -> core.Event:
    return core.Event(timestamp, data, ordinal, offset, checksum, schema)


def _reduce_reader(reader: Reader) -> tuple[Any, ...]:
    return restore_reader, reader._source.reopen()


def _reduce_slice(piece: Slice) -> tuple[Any, ...]:
    return restore_slice, (*piece._source.reopen(), piece.ordinals)


def _reduce_merged_slice(piece: MergedSlice) -> tuple[Any, ...]:
    return restore_merged_slice, (*piece._source.reopen(), piece.ordinals)


def _reduce_event(event: core.Event) -> tuple[Any, ...]:
    return restore_event, (event.timestamp, event.bytes, event.ordinal, event.offset, event.checksum, event._schema)


copyreg.pickle(Reader, _reduce_reader)
copyreg.pickle(Slice, _reduce_slice)
copyreg.pickle(MergedSlice, _reduce_merged_slice)
copyreg.pickle(core.Event, _reduce_event)

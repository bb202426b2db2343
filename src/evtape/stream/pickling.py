"""What pickles and copies become: a reader or a slice its path and range, an event its bytes.

Independent of the core, so that one core reads what the other wrote.
"""

from __future__ import annotations

import copyreg
from typing import Any

from ..core.backend import core
from .reader import Reader
from .slices import Slice


def restore_reader(path: str, verify_checksums: bool) -> Reader:
    return Reader(path, verify_checksums=verify_checksums)


def restore_slice(reopen: Any, arguments: tuple[Any, ...], ordinals: Any) -> Slice:
    return Slice(reopen(*arguments), ordinals)


def restore_event(timestamp: int, data: bytes, ordinal: int, offset: int, checksum: int) -> core.Event:
    return core.Event(timestamp, data, ordinal, offset, checksum)


def _reduce_reader(reader: Reader) -> tuple[Any, ...]:
    return restore_reader, (reader.path, reader.verify_checksums)


def _reduce_slice(piece: Slice) -> tuple[Any, ...]:
    return restore_slice, (*piece._source.reopen(), piece.ordinals)


def _reduce_event(event: core.Event) -> tuple[Any, ...]:
    return restore_event, (event.timestamp, event.bytes, event.ordinal, event.offset, event.checksum)


copyreg.pickle(Reader, _reduce_reader)
copyreg.pickle(Slice, _reduce_slice)
copyreg.pickle(core.Event, _reduce_event)

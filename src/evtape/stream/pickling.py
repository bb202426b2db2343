"""What pickles and copies become: a reader or a slice its path and range, an event its bytes.

Independent of the core.
"""

from __future__ import annotations

from typing import Any

from ..core.backend import core


def restore_reader(path: str, verify: bool) -> Any:
    from .reader import Reader

    return Reader(path, verify=verify)


def restore_slice(path: str, verify: bool, ordinals: Any) -> Any:
    from .reader import Reader
    from .slices import Slice

    return Slice(Reader(path, verify=verify), ordinals)


def restore_event(timestamp: int, data: bytes, ordinal: int, offset: int, checksum: int) -> core.Event:
    return core.Event(timestamp, data, ordinal, offset, checksum)

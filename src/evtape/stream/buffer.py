"""A stream whose bytes are in memory: a message of a broker, an object of a store, a mapping of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import errors
from ..core.backend import core
from ..core.format import FIRST_OFFSET, HEADER_SIZE
from ..errors import FormatError
from .flusher import Position
from .source import StreamSource

if TYPE_CHECKING:
    from typing_extensions import Buffer


class BufferSource(StreamSource):
    """The events of a buffer, which is neither copied nor changed, and is held until the last view of it is gone."""

    has_file = False

    def __init__(self, buffer: Buffer, name: str, verify_checksums: bool, declared: Any = None) -> None:
        self._view = _flat(buffer, name)
        size = len(self._view)
        if size < HEADER_SIZE:
            raise FormatError(f"{name}: {size} bytes are not a stream; its header alone has {HEADER_SIZE}")
        super().__init__(name, core.Region(-1, size, name, buffer=self._view), verify_checksums, declared)
        self.name = name
        self._schema_known = True  # there is no file next to it
        self._closed = False
        self._known = FIRST_OFFSET  # WriteOffset when it was last looked at
        self.require_stream(self.region.load_header()[0], size)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def replaced(self) -> bool:
        return False

    @property
    def identity(self) -> tuple[int, int]:
        return -1, id(self)

    def live(self) -> None:
        return None

    def _load_index(self, bound: int) -> None:
        return None

    def durable(self) -> Position:
        return Position(0, FIRST_OFFSET)

    def flush_to_disk(self) -> None:
        raise errors.in_memory(self.path)

    def closed_cleanly(self) -> bool:
        return True

    def reopen(self) -> tuple[Callable[..., BufferSource], tuple[Any, ...]]:
        if self.closed:
            raise errors.closed(self.path)
        return BufferSource, (bytes(self._view), self.path, self.verify_checksums, self.declared)

    def refresh(self) -> tuple[int, int]:
        """The header is looked at each time, because the buffer may be a mapping of a file that is written."""
        if self.closed:
            raise errors.closed(self.path)
        if self.region.faults:
            raise errors.faulted(self.path)
        known, size = self._known, self.region.size
        write_offset, event_count, _ = self.region.load_header()
        if write_offset > size:
            raise errors.truncated(self.path, size, write_offset)
        if write_offset < known:
            raise errors.rewound(self.path, known, write_offset)
        self._known = write_offset
        return write_offset, event_count

    def close(self) -> None:
        """Release the buffer. Views that are alive stay valid."""
        if not self._closed:
            self._closed = True
            self._view = memoryview(b"")
            self.region.close()


def _flat(buffer: Any, name: str) -> memoryview:
    try:
        view = memoryview(buffer)
        return view.cast("B") if view.nbytes else memoryview(b"")
    except Exception:  # noqa: BLE001 - the object's own buffer method may raise anything
        raise errors.not_a_stream_in_memory(name, buffer) from None

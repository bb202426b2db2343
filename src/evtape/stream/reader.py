"""The read path: open -> bound by WriteOffset -> scan or walk -> check -> view."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Self

from .. import errors
from ..core.backend import core
from ..core.format import FIRST_OFFSET, HEADER_SIZE
from ..errors import FormatError, ReplacedError
from ..recovery.watermark import SUFFIX as SIDECAR
from ..recovery.watermark import WatermarkFile, matching
from ..schema import Declared
from ..system.files import READ, open_descriptor, require_regular, size_of
from ..system.sidecar import resolved
from ..system.signals import SignalsDeferred
from .buffer import BufferSource
from .flusher import Position
from .index import Index
from .source import StreamSource
from .tape import Tape
from .wait import StopEvent

if TYPE_CHECKING:
    from typing_extensions import Buffer

OnReplace = Literal["raise", "follow"]
OpenPath = Callable[[str], Tape]  #: opens a path to read

_LOOK_EVERY = 0.05  # seconds between two looks for a file that does not exist yet
_TAIL = 64  # bytes below WriteOffset that a reader remembers


class FileSource(StreamSource):
    """The events of a file that other processes may write. Owns the descriptor and the region."""

    region: core.Region = None  # type: ignore[assignment]
    index: Index = None  # type: ignore[assignment] # until there is one

    def __init__(self, path: str, verify_checksums: bool, declared: Any = None, first: int = 0) -> None:
        self.first = first
        require_regular(path)
        try:
            with SignalsDeferred():
                self._open(path, verify_checksums, declared)
        except BaseException:
            self.close()
            raise

    def _open(self, path: str, verify_checksums: bool, declared: Any) -> None:
        self.fd = fd = open_descriptor(path, READ)
        size = os.fstat(fd).st_size
        if size < HEADER_SIZE:
            raise FormatError(f"{path}: a file of {size} bytes is not a stream; its header alone has {HEADER_SIZE}")
        errors.require_bytes(path, fd, size)
        self.region = core.Region(fd, size, path)
        super().__init__(path, self.region, verify_checksums, declared)
        self._tail = FIRST_OFFSET, b""  # WriteOffset when it was last looked at, and some bytes below it
        self._last = FIRST_OFFSET, b""  # the end of the header of the last event in the index, and that header
        self._remembered = 0  # the events of the index then
        self._rewound: tuple[int, int] | None = None  # WriteOffset as it was and as it is, when it went back
        # The header comes first: a live stream may grow between the two.
        write_offset = self.region.load_header()[0]
        size = size_of(self.fd)
        self.region.extend(size)
        self.require_stream(write_offset, size)

    def reopen(self) -> tuple[Any, tuple[str, bool, Any, int]]:
        return FileSource, (self.path, self.verify_checksums, self.declared, self.first)

    @property
    def closed(self) -> bool:
        return self.fd < 0

    @property
    def replaced(self) -> bool:
        """Whether the name leads to another file now, or to none."""
        if self.closed:
            raise errors.closed(self.path)
        try:
            return not os.path.samestat(os.stat(self.name), os.fstat(self.fd))
        except OSError:
            return True

    def durable(self) -> Position:
        self.refresh()
        with WatermarkFile(resolved(self.name), self.fd) as watermark_file:
            mark = matching(watermark_file.load(), self.region)
        return Position(0, FIRST_OFFSET) if mark is None else Position(mark.events, mark.offset)

    def flush_to_disk(self) -> None:
        os.fsync(self.fd)

    def closed_cleanly(self) -> bool:
        write_offset = self.region.load_header()[0]
        if size_of(self.fd) != write_offset:
            return False
        # A new stream has no room for an event yet. Its sidecar is there before its name, and goes when it is closed.
        return write_offset > FIRST_OFFSET or not os.path.exists(resolved(self.name) + SIDECAR)

    # ----------------------------------------------------------------------------------- WriteOffset

    def refresh(self) -> tuple[int, int]:
        if self.closed:
            raise errors.closed(self.path)
        region = self.region
        known, tail = self._tail  # before the header, because another thread may move it on
        size = size_of(self.fd)
        if size < known or region.faults or self._rewound is not None:
            raise self._lost(size, known)
        write_offset, event_count, _ = region.load_header()
        if write_offset == known and self._still(known, tail):  # a stream that was cut can end there once more
            return write_offset, event_count
        if write_offset > size:
            size = size_of(self.fd)  # a live stream may have grown in between
            if write_offset > size:
                raise errors.truncated(self.path, size, write_offset)
        if write_offset > region.size:
            region.extend(size)
        if write_offset <= known or not (self._still(known, tail) and self._still(*self._last)):
            self._rewound = known, write_offset
            raise self._lost(size, known)
        self._tail = write_offset, bytes(region.view(max(FIRST_OFFSET, write_offset - _TAIL), write_offset))
        return write_offset, event_count

    def _still(self, end: int, before: bytes) -> bool:
        """Whether the bytes below ``end`` are what they were. What is published never changes in place."""
        return bytes(self.region.view(end - len(before), end)) == before

    def _lost(self, size: int, known: int) -> Exception:
        """Why what was read up to ``known`` is not there any more."""
        if self._rewound is None and self.region.faults:
            return errors.faulted(self.path)
        if self._rewound is None and size >= HEADER_SIZE:
            write_offset = self.region.load_header()[0]
            if FIRST_OFFSET <= write_offset <= size and not self.region.faults:  # recovery has shortened the file
                self._rewound = known, write_offset
        if self._rewound is None:
            return errors.truncated(self.path, size, known)
        return errors.rewound(self.path, *self._rewound)

    def indexed(self) -> None:
        length = self.index.length
        if length == self._remembered:
            return
        bound = self._tail[0]
        at, header = self.index.last_header(bound)
        self._last = at + len(header), header
        self._remembered = length

    # ----------------------------------------------------------------------------------------- close

    def close(self) -> None:
        """Close descriptor and region. Views that are alive stay valid."""
        if self.closed:
            return
        with SignalsDeferred():
            fd, self.fd = self.fd, -1
            try:
                if self.region is not None:
                    self.region.close()
                if self.index is not None:
                    self.index.close()
            finally:
                if fd >= 0:  # else another thread has closed it
                    os.close(fd)

    def __del__(self) -> None:
        if not self.closed:
            self.close()


class Reader(Tape):
    """A stream that is open for reading; many readers may follow one writer.

    Pickles as its path. One over memory pickles as a copy of its bytes.
    """

    _source: FileSource | BufferSource = None  # type: ignore[assignment] # until there is one

    def __init__(
        self, path: str | bytes | os.PathLike[Any], *, verify_checksums: bool = True, schema: Declared | None = None
    ) -> None:
        self._source = FileSource(os.fsdecode(path), verify_checksums, schema)

    @classmethod
    def _over(cls, source: FileSource | BufferSource) -> Self:
        """A reader of a source that is open."""
        reader = cls.__new__(cls)
        reader._source = source
        return reader

    @property
    def replaced(self) -> bool:
        """Whether the stream's name leads to another file now, or to none. This reader keeps its file. O(1)."""
        return self._source.replaced

    @property
    def durable(self) -> Position:
        return self._source.durable()

    durable.__doc__ = Tape.durable.__doc__

    def close(self) -> None:
        if not self.closed:
            self._source.close()

    close.__doc__ = Tape.close.__doc__


def frombuffer(
    buffer: Buffer, *, name: str = "<buffer>", verify_checksums: bool = True, schema: Declared | None = None
) -> Reader:
    """Read a stream whose bytes are in memory, with all the queries of a reader. Nothing is copied. O(1).

    ``buffer``: any contiguous buffer, such as bytes, mmap, memoryview or a numpy array, which the reader and its
    events keep alive; its bytes must not change. ``name`` takes the place of the path in messages. ``schema`` and
    ``verify_checksums`` are as in ``evtape.open``.

    A stream in memory has no cursors, and none of it is durable. Raises FormatError (not a stream), TruncatedError
    (shorter than its header says), TypeError or ValueError (not a contiguous buffer). If the buffer is a mapping of a
    file that is cut while it is read, the native core raises TruncatedError or RewoundError; in the pure core that is
    a SIGBUS, as it is for every other use of the mapping.
    """
    return Reader._over(BufferSource(buffer, name, verify_checksums, schema))


def follow_path(
    path: str, start: Any, wait: bool, on_replace: OnReplace, open_path: OpenPath, options: dict[str, Any]
) -> Iterator[Any]:
    """Follow what has the name ``path``; see ``evtape.follow``."""
    if on_replace not in ("raise", "follow"):
        raise ValueError(f"{path}: on_replace must be 'raise' or 'follow', not {on_replace!r}")
    return _follow_path(path, start, wait, on_replace == "follow", open_path, options)


def _follow_path(
    name: str, start: Any, wait: bool, goes_on: bool, open_path: OpenPath, options: dict[str, Any]
) -> Iterator[Any]:
    while True:
        if wait and not _appears(name, options["timeout"], options["stop_event"]):
            return
        try:
            reader = open_path(name)
        except FileNotFoundError:
            if not wait:
                raise
            continue  # it was there a moment ago
        with reader as tape:
            try:
                yield from tape.follow(start, **options)
                return
            except ReplacedError:
                if not goes_on:
                    raise
        start, wait = None, True


def _appears(name: str, timeout: float | None, stop_event: StopEvent | None) -> bool:
    """Wait for a file of this name."""
    until = None if timeout is None else time.monotonic() + timeout
    while not os.path.exists(name):
        if (until is not None and time.monotonic() >= until) or (stop_event is not None and stop_event.is_set()):
            return False
        time.sleep(_LOOK_EVERY)
    return True

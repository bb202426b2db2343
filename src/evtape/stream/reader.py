"""The read path: open -> bound by WriteOffset -> scan or walk -> check -> view."""

from __future__ import annotations

import os
from typing import Any

from .. import errors
from ..core.backend import core
from ..core.format import FIRST_OFFSET, HEADER_SIZE
from ..errors import FormatError
from ..system.files import READ, open_descriptor, require_regular
from ..system.signals import SignalsDeferred
from .source import StreamSource
from .tape import Tape

_TAIL = 64  # bytes below WriteOffset that a reader remembers


class FileSource(StreamSource):
    """The events of a file that other processes may write. Owns the descriptor and the region."""

    _fd = -1  # until there is one, so that what could not be opened can be closed
    region: core.Region = None  # type: ignore[assignment]

    def __init__(self, path: str, verify_checksums: bool) -> None:
        require_regular(path)
        try:
            with SignalsDeferred():
                self._open(path, verify_checksums)
        except BaseException:
            self.close()
            raise

    def _open(self, path: str, verify_checksums: bool) -> None:
        self._fd = fd = open_descriptor(path, READ)
        size = os.fstat(fd).st_size
        if size < HEADER_SIZE:
            raise FormatError(f"{path}: a file of {size} bytes is not a stream; its header alone has {HEADER_SIZE}")
        errors.require_bytes(path, fd, size)
        self.region = core.Region(fd, size, path)
        super().__init__(path, self.region, verify_checksums)
        self._name = os.path.abspath(path)
        self._tail = FIRST_OFFSET, b""  # WriteOffset when it was last looked at, and some bytes below it
        self._last = FIRST_OFFSET, b""  # the end of the header of the last event in the index, and that header
        self._remembered = 0  # the events of the index then
        self._rewound: tuple[int, int] | None = None  # WriteOffset as it was and as it is, when it went back
        self._require_stream()

    def _require_stream(self) -> None:
        write_offset = self.region.load_header()[0]
        size = os.fstat(self._fd).st_size  # after the header: a live stream may have grown in between
        self.region.extend(size)
        if FIRST_OFFSET <= write_offset <= size:
            return
        # An unusable header over a valid first event is a damaged stream; over anything else, not a stream at all.
        scanner = core.Scanner(self.region)
        scanner.run(size, 1, verify_checksums=True)
        if scanner.ordinal == 0 or scanner.zero_ordinal == 0:
            raise FormatError(f"{self.path}: not a stream (its first 8 bytes would be WriteOffset {write_offset})")
        if write_offset > size:
            raise errors.truncated(self.path, size, write_offset)
        raise FormatError(f"{self.path}: WriteOffset {write_offset} in the header is unusable; see 'evtape recover'")

    def reopen(self) -> tuple[Any, tuple[str, bool]]:
        return FileSource, (self.path, self.verify_checksums)

    @property
    def closed(self) -> bool:
        return self._fd < 0

    @property
    def replaced(self) -> bool:
        """Whether the name leads to another file now, or to none."""
        if self.closed:
            raise errors.closed(self.path)
        try:
            return not os.path.samestat(os.stat(self._name), os.fstat(self._fd))
        except OSError:
            return True

    # ----------------------------------------------------------------------------------- WriteOffset

    def refresh(self) -> tuple[int, int]:
        if self.closed:
            raise errors.closed(self.path)
        region = self.region
        known, tail = self._tail  # before the header, because another thread may move it on
        size = os.fstat(self._fd).st_size
        if size < known or region.faults or self._rewound is not None:
            raise self._lost(size, known)
        write_offset, event_count, _ = region.load_header()
        if write_offset == known and self._still(known, tail):  # a stream that was cut can end there once more
            return write_offset, event_count
        if write_offset > region.size:
            size = os.fstat(self._fd).st_size
            if write_offset > size:
                raise errors.truncated(self.path, size, write_offset)
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
            fd, self._fd = self._fd, -1
            try:
                if self.region is not None:
                    self.region.close()
            finally:
                if fd >= 0:  # else another thread has closed it
                    os.close(fd)

    def __del__(self) -> None:
        if not self.closed:
            self.close()


class Reader(Tape):
    """A stream that is open for reading; many readers may follow one writer. Pickles as its path."""

    _source: FileSource = None  # type: ignore[assignment] # until there is one

    def __init__(self, path: str | bytes | os.PathLike[Any], *, verify_checksums: bool = True) -> None:
        self._source = FileSource(os.fsdecode(path), verify_checksums)

    @property
    def replaced(self) -> bool:
        """Whether the stream's name leads to another file now, or to none. This reader keeps its file. O(1)."""
        return self._source.replaced

    def close(self) -> None:
        if not self.closed:
            self._source.close()

    close.__doc__ = Tape.close.__doc__

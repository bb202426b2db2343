"""The index of a stream: where each 64th event lies, the times around it, and a checksum of the entry headers.

It lies next to the stream as ``<name>.index``; docs/format.md, "The index file", has its layout. It can be deleted at
any time, and it is never believed without a look at the stream: the last block that is used is walked and compared.
What cannot be compared, or does not match, shortens the index. Whoever reads it walks the rest.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ..core.backend import core
from ..core.format import (
    ENTRY_SIZE,
    FIRST_OFFSET,
    INDEX_EQUAL_SIZES,
    INDEX_EVENTS,
    INDEX_RECORD,
    INDEX_UNSORTED,
)
from ..system import sidecar
from ..system.files import sync_data, write_all
from ..system.sidecar import NO_GENERATION, SidecarFile

FROM_SIZE: Final = 16 << 20  # bytes of a stream from which on it has an index

SUFFIX: Final = ".index"
MAGIC: Final = b"evtape\0i"
VERSION: Final = 1
# magic version checksum start_timestamp generation events-of-a-block bytes-of-a-record
_HEADER = struct.Struct("<8sIIq16sII16x")
HEADER_SIZE: Final = _HEADER.size
RECORD_SIZE: Final = INDEX_RECORD.size

_PAGE = 64  # records that are read and checked together
_PAGES_MAX = 4096  # that are kept
_PASS = 1024  # records that are made or compared together

#: A record, as an element of an array.
RECORD: Final = np.dtype(
    [
        ("offset", "<i8"),
        ("lowest", "<i8"),
        ("highest", "<i8"),
        ("running", "<i8"),
        ("headers", "<u4"),
        ("size", "<u4"),
        ("events", "<u2"),
        ("flags", "<u2"),
        ("checksum", "<u4"),
    ]
)

assert HEADER_SIZE == 64
assert RECORD.itemsize == RECORD_SIZE == 48


class Block(NamedTuple):
    """Up to 64 events that follow each other."""

    offset: int  #: where the first entry begins
    lowest: int  #: timestamp in the block
    highest: int  #: timestamp in the block
    running: int  #: the highest timestamp of the stream up to and including this block
    headers: int  #: CRC-32 of the entry headers
    size: int  #: of each payload, if ``equal_sizes``
    events: int
    flags: int
    checksum: int

    @property
    def equal_sizes(self) -> bool:
        return bool(self.flags & INDEX_EQUAL_SIZES)

    @property
    def unsorted(self) -> bool:
        """Whether timestamps go backwards in this block or before it."""
        return bool(self.flags & INDEX_UNSORTED)


class Records:
    """The records of an index file, each checked before it is used. Owns the descriptor ``fd``."""

    def __init__(self, fd: int, start_timestamp: int, generation: bytes) -> None:
        self._fd = fd
        self.start_timestamp = start_timestamp
        self.generation = generation
        self.stored = (os.fstat(fd).st_size - HEADER_SIZE) // RECORD_SIZE  #: how many the file has room for
        self._pages: dict[int, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()

    def block(self, number: int) -> Block | None:
        """The record of a block; None where there is none that is whole."""
        page, at = divmod(number, _PAGE)
        data = self._pages.get(page)
        if data is None:
            if len(self._pages) >= _PAGES_MAX:
                self._pages.clear()
            data = self._pages[page] = self.valid(page * _PAGE, (page + 1) * _PAGE)
        record = data[at * RECORD_SIZE : (at + 1) * RECORD_SIZE]
        return Block(*INDEX_RECORD.unpack(record)) if record else None

    def valid(self, start: int, stop: int) -> bytes:
        """The records [start, stop), up to the first that is not whole."""
        data = self.raw(start, stop)
        return data[: core.index_check(data, self.start_timestamp, start) * RECORD_SIZE]

    def valid_count(self, stop: int) -> int:
        """How many of the first ``stop`` records are whole, up to the first that is not. O(stop)."""
        for start in range(0, stop, _PASS):
            end = min(start + _PASS, stop)
            found = len(self.valid(start, end)) // RECORD_SIZE
            if found < end - start:
                return start + found
        return stop

    def raw(self, start: int, stop: int) -> bytes:
        """The bytes of the records [start, stop), unchecked, as far as there are any."""
        try:
            data = _read_at(self._fd, (stop - start) * RECORD_SIZE, position_of(start))
        except OSError:
            return b""
        return data[: len(data) // RECORD_SIZE * RECORD_SIZE]

    def array(self, start: int, stop: int) -> npt.NDArray[Any] | None:
        """The records [start, stop) as an array; None where one of them is not whole."""
        data = self.valid(start, stop)
        return np.frombuffer(data, RECORD) if len(data) == (stop - start) * RECORD_SIZE else None


class Matched(NamedTuple):
    """The records that match a stream, and where its walk goes on."""

    records: Records
    blocks: int  #: how many records match
    events: int  #: in these blocks
    offset: int  #: where they end
    last_timestamp: int  #: of the last of them


class IndexFile:
    """The index file of one stream that is open.

    ``path`` is the resolved path of the stream and ``stream`` its descriptor, which has to outlive this object.
    ``beside`` is as in `SidecarFile`.
    """

    def __init__(self, path: str, stream: int, beside: SidecarFile | None = None) -> None:
        self.path = path + SUFFIX
        self._stream = stream
        self._file = SidecarFile(path, SUFFIX, MAGIC, stream, beside)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptors. The file stays."""
        self._file.close()

    # ------------------------------------------------------------------------------------------ read

    def records(self) -> Records | None:
        """The records of the file, whatever stream they are of; None without a file."""
        fd = self._file.open()
        if fd < 0:
            return None
        try:
            header = _unpacked(_read_at(fd, HEADER_SIZE, 0))
        except OSError:
            header = None
        if header is None:
            os.close(fd)
            return None
        return Records(fd, *header)

    def is_bound(self, records: Records) -> bool:
        """Whether the records carry the generation of this stream, which no other stream and no earlier writer has."""
        return records.generation == sidecar.generation_of(self._stream) != NO_GENERATION

    def is_of_another(self, records: Records) -> bool:
        """Whether the stream has a generation, and the records have another one."""
        generation = sidecar.generation_of(self._stream)
        return generation not in (NO_GENERATION, records.generation)

    def load(self, region: core.Region, bound: int) -> Matched | None:
        """The records that match the stream below ``bound``; None without any. O(1), O(log n) for a torn index.

        The caller closes ``Matched.records``.
        """
        records = self.records()
        if records is None:
            return None
        if records.start_timestamp == region.load_header()[2] and not self.is_of_another(records):
            found = match(records, region, bound)
            if found is not None:
                return found
        records.close()
        return None

    # ----------------------------------------------------------------------------------------- write

    @property
    def fd(self) -> int:
        """The descriptor of the file that is held."""
        return self._file.fd

    @property
    def held(self) -> bool:
        """Whether this object has made or taken over the file."""
        return self._file.held

    def adopt(self, region: core.Region, bound: int) -> core.Indexer | None:
        """For a writer: hold the file that is there, and cut it to what is whole and matches the stream. O(blocks).

        None without one.

        Raises OSError if it cannot be cut.
        """
        found = self.load(region, bound)
        if found is None:
            return None
        with found.records as records:
            blocks = records.valid_count(found.blocks)
            last = records.block(blocks - 1)
            if last is None or not self._file.adopt(MAGIC):
                return None
            whole = blocks if last.events == INDEX_EVENTS and blocks == found.blocks else blocks - 1
            os.ftruncate(self.fd, position_of(blocks))
            if whole == found.blocks:
                return core.Indexer(region, found.offset, whole, found.last_timestamp, last.running, last.unsorted)
            # The last block is made again: with what is appended to it, or because the next record is torn.
            before = records.block(whole - 1) if whole else None
            if before is None:
                return core.Indexer(region)
            scanner = core.Scanner(region, before.offset)
            scanner.run(bound, INDEX_EVENTS)
            return core.Indexer(region, last.offset, whole, scanner.last_timestamp, before.running, before.unsorted)

    def create(self, start_timestamp: int) -> bool:
        """Hold a new file without records, in the place of an older one. False where another file has the name.

        Raises OSError if it cannot be made.
        """
        header = self._packed(start_timestamp)
        if self._file.create(header):
            return True
        self._file.remove()
        self._file.remove_lost()
        return self._file.create(header)

    def restamp(self, start_timestamp: int) -> None:
        """Bind the file that is held to the generation that the stream has now."""
        os.lseek(self.fd, 0, os.SEEK_SET)
        write_all(self.fd, self._packed(start_timestamp))

    def append(self, records: bytes | memoryview, block: int) -> None:
        """Store records from that of ``block`` on."""
        os.lseek(self.fd, position_of(block), os.SEEK_SET)
        write_all(self.fd, records)

    def flush(self) -> None:
        """Make the file durable."""
        sync_data(self.fd)

    def release(self) -> None:
        """Close the file that is held. It stays."""
        self._file.release()

    def discard(self) -> None:
        """Remove the file, if it is this stream's or has this stream's name."""
        if self._file.exists:
            self._file.remove()

    def _packed(self, start_timestamp: int) -> bytes:
        fields = start_timestamp, sidecar.generation_of(self._stream), INDEX_EVENTS, RECORD_SIZE
        checksum = core.crc32(_HEADER.pack(MAGIC, VERSION, 0, *fields))
        return _HEADER.pack(MAGIC, VERSION, checksum, *fields)


def position_of(block: int) -> int:
    """Where the record of a block lies in the file."""
    return HEADER_SIZE + block * RECORD_SIZE


def make_records(
    indexer: core.Indexer,
    bound: int,
    index_file: IndexFile,
    *,
    partial: bool,
    advanced: Callable[[int], object] = lambda _offset: None,
) -> int:
    """Append the records of all blocks below ``bound`` to the file; returns the events in them, -1 if the stream could
    not be read. ``advanced(offset)`` is called now and then.
    """
    into = bytearray(_PASS * RECORD_SIZE)
    events = 0
    while True:
        block = indexer.block
        made = indexer.run(bound, into, partial)
        if made < 0:
            return -1
        records = memoryview(into)[: made * RECORD_SIZE]
        if made:
            index_file.append(records, block)
            events += (made - 1) * INDEX_EVENTS + INDEX_RECORD.unpack(records[-RECORD_SIZE:])[6]
        advanced(indexer.offset)
        if made < _PASS:
            return events


# ---------------------------------------------------------------------------------------------- match


def match(records: Records, region: core.Region, bound: int) -> Matched | None:
    """The records up to the last one that matches the stream below ``bound``.

    That one is found by bisection if it is not the last of the file: what was published never changes in place, so a
    stream and its index agree up to a block, and not beyond.
    """
    most = min(records.stored, (bound - FIRST_OFFSET) // (ENTRY_SIZE * INDEX_EVENTS) + 1)
    found = matching(records, region, bound, most - 1)
    if found is not None:
        return found
    low, high = 0, most - 1  # a block below `low` matches, none from `high` on
    while low < high:
        middle = (low + high) // 2
        here = matching(records, region, bound, middle)
        if here is None:
            high = middle
        else:
            found, low = here, middle + 1
    return found


def matching(records: Records, region: core.Region, bound: int, number: int) -> Matched | None:
    """The records up to that of block ``number``, if the entries of this block are in the stream as it says."""
    block = records.block(number) if number >= 0 else None
    if block is None or not 1 <= block.events <= INDEX_EVENTS:
        return None
    first = number * INDEX_EVENTS
    if not FIRST_OFFSET + first * ENTRY_SIZE <= block.offset <= bound - block.events * ENTRY_SIZE:
        return None
    scanner = core.Scanner(region, block.offset, first)
    if scanner.run(bound, block.events) is not None or scanner.ordinal != first + block.events:
        return None
    made = made_again(region, number, block.offset, scanner.offset)
    if made is None or (made.lowest, made.highest, made.headers) != (block.lowest, block.highest, block.headers):
        return None
    return Matched(records, number + 1, scanner.ordinal, scanner.offset, scanner.last_timestamp)


def made_again(region: core.Region, number: int, offset: int, end: int) -> Block | None:
    """What the stream says now of the block at ``offset``. Its running maximum and flags are of this block alone."""
    into = bytearray(RECORD_SIZE)
    if core.Indexer(region, offset, number).run(end, into, True) != 1:
        return None
    return Block(*INDEX_RECORD.unpack(into))


def _unpacked(header: bytes) -> tuple[int, bytes] | None:
    """Start timestamp and generation of an index, or None for a file that is not one that can be read."""
    if len(header) != HEADER_SIZE:
        return None
    magic, version, checksum, *fields = _HEADER.unpack(header)
    start_timestamp, generation, events, size = fields
    if (magic, version, events, size) != (MAGIC, VERSION, INDEX_EVENTS, RECORD_SIZE):
        return None
    if core.crc32(_HEADER.pack(magic, version, 0, *fields)) != checksum:
        return None
    return start_timestamp, generation


if hasattr(os, "pread"):
    _read_at = os.pread
else:

    def _read_at(fd: int, count: int, offset: int, /) -> bytes:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, count)

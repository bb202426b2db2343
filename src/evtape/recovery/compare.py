"""Compare -> the entry headers of a stream with its index, the only checksum that covers timestamps."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from ..core.backend import core
from ..core.format import ENTRY, ENTRY_SIZE, FIRST_OFFSET, INDEX_EVENTS
from .examined import Examined
from .index_file import RECORD, RECORD_SIZE, Block, IndexFile, Records, made_again, matching
from .report import IndexState

_PASS = 1024  # blocks that are compared together
_LISTED = 100  # differences that are explained
_PAGE = 64  # records after an unusable one that are left out with it
_COMPARED = ("offset", "lowest", "highest", "headers", "events")  # the other fields follow from earlier blocks


class Difference(NamedTuple):
    """A block whose headers are not those that were indexed; an event of it, if one changed bit explains that."""

    ordinal: int  #: of the event, or of the first one of the block
    offset: int
    events: int  #: how many may be meant
    timestamp: int  #: of the one event that is meant
    indexed: int  #: its timestamp when the index was made


class Comparison:
    """Compares while a walk goes on, as long as what it read is in memory. ``close`` it."""

    def __init__(self, file: Examined, index_file: IndexFile, bound: int) -> None:
        self._region = file.region
        self._bound = bound
        self.differences: list[Difference] = []  #: the first hundred
        self.difference_count = 0  #: all of them
        self.events = 0  #: how many were compared
        self.start_timestamp: int | None = None  #: as the index has it, where the stream has another one
        self.state: IndexState = "missing"
        self._records = index_file.records()
        self._next = 0  # number of the next block
        self._stored = 0
        if self._records is not None:
            self.state = "compared" if self._belongs(index_file, self._records) else "foreign"
        if self._records is not None and self.state == "compared":
            self._stored = min(self._records.stored, (bound - FIRST_OFFSET) // (ENTRY_SIZE * INDEX_EVENTS) + 1)
        self._indexer = core.Indexer(self._region)

    def close(self) -> None:
        if self._records is not None:
            self._records.close()

    def _belongs(self, index_file: IndexFile, records: Records) -> bool:
        """Whether the index is this stream's, although StartTimestamp or any block may have changed."""
        started = self._region.load_header()[2]
        if index_file.is_of_another(records):
            return False
        same = records.start_timestamp == started
        if not same and not index_file.is_bound(records) and matching(records, self._region, self._bound, 0) is None:
            return False
        self.start_timestamp = None if same else records.start_timestamp
        return True

    # ----------------------------------------------------------------------------------------- blocks

    def advance(self, offset: int) -> None:
        """Compare the blocks that end at ``offset`` or before."""
        into = bytearray(_PASS * RECORD_SIZE)
        while self._next < self._stored:
            made = self._indexer.run(offset, into)
            if made <= 0:
                return
            self._compare(np.frombuffer(into, RECORD)[:made])

    def finish(self) -> None:
        """Compare what is left below WriteOffset: the last events, and all blocks after damage."""
        self.advance(self._bound)
        while self._next < self._stored:
            self._walk_next()
            self.advance(self._bound)

    def _compare(self, made: np.ndarray[tuple[int], np.dtype[np.void]]) -> None:
        assert self._records is not None
        indexed = np.frombuffer(self._records.valid(self._next, self._next + len(made)), RECORD)
        differs = np.zeros(len(indexed), bool)
        for name in _COMPARED:
            differs |= made[name][: len(indexed)] != indexed[name]
        good = int(np.argmax(differs)) if differs.any() else len(indexed)
        self.events += good * INDEX_EVENTS
        self._next += good
        if good < len(indexed):
            self._walk_next()
        elif good < len(made):
            self._go_on_at(self._next)

    def _walk_next(self) -> None:
        """Compare the next block alone: it differs, or it is the last one, or damage lies before it."""
        assert self._records is not None
        block = self._records.block(self._next)
        if block is None or not self._is_usable(block):
            self._go_on_at(self._next)
            return
        scanner = core.Scanner(self._region, block.offset)
        reason = scanner.run(self._bound, block.events)
        if reason == "fault" or (reason is None and scanner.ordinal != block.events):
            self._stored = 0  # the file cannot be read, or the index goes beyond the stream
            return
        made = None if reason else made_again(self._region, self._next, block.offset, scanner.offset)
        known = (block.lowest, block.highest, block.headers, block.events)
        if made is None or (made.lowest, made.highest, made.headers, made.events) != known:
            self.difference_count += 1
            if len(self.differences) < _LISTED:
                self.differences.append(self._explained(block, self._next * INDEX_EVENTS))
        self.events += block.events
        self._go_on_at(self._next + 1)

    def _is_usable(self, block: Block) -> bool:
        return FIRST_OFFSET <= block.offset < self._bound and 1 <= block.events <= INDEX_EVENTS

    def _go_on_at(self, number: int) -> None:
        """Continue with the first usable block from this one on, where the index says that it begins."""
        assert self._records is not None
        while number < self._stored:
            block = self._records.block(number)
            if block is not None and self._is_usable(block):
                self._indexer = core.Indexer(self._region, block.offset, number)
                break
            self.state = "damaged"
            number = (number // _PAGE + 1) * _PAGE
        self._next = number

    # ------------------------------------------------------------------------------------------ events

    def _explained(self, block: Block, first: int) -> Difference:
        """The event whose timestamp has one changed bit, if that explains the checksum; else the whole block."""
        offsets, headers = self._headers(block)
        if len(offsets) == block.events:
            zeros = core.crc32(bytes(len(headers)))
            wanted = core.crc32(headers) ^ block.headers ^ zeros
            changed = bytearray(len(headers))
            for event in range(len(offsets)):
                for bit in range(64):
                    at = event * ENTRY_SIZE + bit // 8
                    changed[at] = 1 << bit % 8
                    if core.crc32(changed) == wanted:
                        timestamp = ENTRY.unpack_from(headers, event * ENTRY_SIZE)[0]
                        indexed = _flipped(timestamp, bit)
                        return Difference(first + event, offsets[event], 1, timestamp, indexed)
                    changed[at] = 0
        return Difference(first, block.offset, block.events, 0, 0)

    def _headers(self, block: Block) -> tuple[list[int], bytes]:
        offsets = np.empty(block.events, np.int64)
        scanner = core.Scanner(self._region, block.offset)
        scanner.run(self._bound, block.events, offsets=offsets)
        places = offsets[: scanner.recorded].tolist()
        return places, b"".join(bytes(self._region.view(at, at + ENTRY_SIZE)) for at in places)


def _flipped(timestamp: int, bit: int) -> int:
    (value,) = struct.unpack("<Q", struct.pack("<q", timestamp))
    (other,) = struct.unpack("<q", struct.pack("<Q", value ^ 1 << bit))
    return int(other)

"""Where events are: offset and timestamp of every 64th, so that a question about one walks at most 63 headers.

What the index file of the stream knows is read from there, a block at a time; the rest is walked.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import errors
from ..core.backend import core
from ..core.format import ENTRY_SIZE, FIRST_OFFSET, INDEX_EQUAL_SIZES, INDEX_EVENTS, Reason
from ..core.paging import RESIDENT, events_per_pass
from ..recovery.index_file import Block, Matched

STRIDE = INDEX_EVENTS  # 16 bytes of memory per 64 events
_DENSE = 16  # records are read one by one where fewer than one in so many is needed
_PASS = 1 << 14  # events per scan, so that the arrays are sized from what was met and not from what a header claims

Load = Callable[[int], Matched | None]
Span = tuple[int, int]
Column = npt.NDArray[np.int64]


class Break(NamedTuple):
    """Where the walk cannot go on, and why."""

    ordinal: int
    offset: int
    reason: Reason


def _no_file(_bound: int) -> None:
    return None


class Index:
    """Extended by one scan over what is new; O(new events) then, O(1) when nothing is.

    ``load(bound)`` returns what the index file knows of the events below ``bound``. It is called once, at the first
    question. ``length`` is the number of events that can be reached; ``broken`` says why there are no more although the
    header promises some. ``first`` is what the ordinal of the first event is in messages.
    """

    def __init__(self, region: core.Region, load: Load = _no_file, first: int = 0) -> None:
        self._region = region
        self._first = first
        self._load: Load | None = load
        self._file: Matched | None = None
        self._known = FIRST_OFFSET, 0  # WriteOffset and EventCount of the last extension
        self._unsorted_at: int | None = None  # within the file, once it was asked for
        self._begin(core.Scanner(region), 0)

    def _begin(self, scanner: core.Scanner, first_block: int) -> None:
        """Walk from where ``scanner`` stands. The blocks from ``first_block`` on are kept in memory."""
        self._scanner = scanner
        self._first_block = first_block
        self._offsets = np.empty(16, np.int64)
        self._timestamps = np.empty(16, np.int64)
        self._blocks = 0
        self.length = scanner.ordinal
        self.broken: Break | None = None

    def close(self) -> None:
        """Give the index file up. Nothing can be asked afterwards."""
        if self._file is not None:
            self._file.records.close()

    @property
    def reached(self) -> int:
        """Byte position up to which the entries are known."""
        return self._scanner.offset

    @property
    def from_file(self) -> int:
        """How many events the index file covers. None of them is sixteen zero bytes."""
        return 0 if self._file is None else self._file.events

    @property
    def unsorted_at(self) -> int:
        """Ordinal of the first event with a lower timestamp than the one before it, or -1."""
        if self._unsorted_at is None:
            self._unsorted_at = self._unsorted_in_file()
        return self._unsorted_at if self._unsorted_at >= 0 else self._scanner.unsorted_at

    @property
    def last_timestamp(self) -> int:
        """Timestamp of the last event reached; the lowest int64 when there is none."""
        return self._scanner.last_timestamp

    # ---------------------------------------------------------------------------------------- extend

    def extend(self, bound: int, event_count: int) -> Reason | None:
        """Walk what was published since, up to ``bound``.

        Returns "fault" when the file could not be read, else None.
        """
        self.take_file(bound)
        self._known = bound, event_count
        scanner = self._scanner
        reason: Reason | None = None
        dropped = scanner.offset
        while scanner.offset < bound and reason is None:
            self._make_room()
            free = slice(self._blocks, None)
            reason = scanner.run(
                bound,
                events_per_pass(scanner, _PASS),
                stride=STRIDE,
                offsets=self._offsets[free],
                timestamps=self._timestamps[free],
            )
            self._blocks += scanner.recorded
            if scanner.offset - dropped > RESIDENT:
                self._region.drop_pages(dropped, scanner.offset)
                dropped = scanner.offset
        if reason == "fault":
            return reason
        self.length = scanner.ordinal
        self.broken = None if reason is None else Break(scanner.ordinal, scanner.offset, reason)
        # Sixteen zero bytes are an event only where the count of all entries adds up; see docs/format.md, "Zeros".
        if scanner.zero_ordinal >= 0 and (reason is not None or scanner.ordinal != event_count):
            self.length = scanner.zero_ordinal
            self.broken = Break(scanner.zero_ordinal, scanner.zero_offset, "zero")
        return None

    def _make_room(self) -> None:
        if self._blocks == len(self._offsets):
            self._offsets = np.concatenate([self._offsets, np.empty_like(self._offsets)])
            self._timestamps = np.concatenate([self._timestamps, np.empty_like(self._timestamps)])

    # ------------------------------------------------------------------------------------------ file

    def take_file(self, bound: int) -> None:
        """Look at the index file, if that was not done yet."""
        load, self._load = self._load, None
        file = None if load is None else load(bound)
        if file is not None:
            self._file = file
            self._unsorted_at = None
            scanner = core.Scanner(self._region, file.offset, file.events, file.last_timestamp)
            self._begin(scanner, file.blocks)

    def _drop_file(self) -> None:
        """Walk everything, because a record of the file turned out to be unusable."""
        file, self._file = self._file, None
        if file is not None:
            file.records.close()
        self._unsorted_at = None
        self._begin(core.Scanner(self._region), 0)
        if self.extend(*self._known) is not None:
            raise errors.faulted(self._region.path)

    def _block(self, number: int) -> Block:
        """A block of the file. Raises _Unusable where the file does not have it after all."""
        assert self._file is not None
        block = self._file.records.block(number)
        least = FIRST_OFFSET + number * STRIDE * ENTRY_SIZE
        if block is None or not least <= block.offset <= self._file.offset - ENTRY_SIZE:
            raise _Unusable
        return block

    def _unsorted_in_file(self) -> int:
        file = self._file
        if file is None:
            return -1
        try:
            if not self._block(file.blocks - 1).unsorted:
                return -1
            number = bisect_left(range(file.blocks - 1), True, key=lambda number: self._block(number).unsorted)
            last = self._block(number - 1).running if number else None
            scanner = core.Scanner(
                self._region, self._block(number).offset, number * STRIDE, *(() if last is None else (last,))
            )
        except _Unusable:
            self._drop_file()
            return -1
        scanner.run(file.offset, STRIDE)
        return scanner.unsorted_at

    # ------------------------------------------------------------------------------------- questions

    def locate(self, ordinal: int, bound: int) -> int:
        """Byte position of event ``ordinal``, or of the end for ``ordinal == length``.

        At most 64 headers are read. Raises CorruptError where they do not lead there.
        """
        if ordinal == 0:
            return FIRST_OFFSET
        offset, start = self._place_before(ordinal)
        if start == ordinal:
            return offset
        scanner = core.Scanner(self._region, offset, start)
        scanner.run(bound, ordinal - start)
        if scanner.ordinal != ordinal <= self.from_file:
            raise errors.corrupt(self._region.path, self._first + scanner.ordinal, scanner.offset, "size")
        return scanner.offset

    def _place_before(self, ordinal: int) -> Span:
        """Byte position and ordinal of an event that is known and lies at most 64 events before ``ordinal``."""
        file = self._file
        if file is not None and ordinal <= file.events:
            try:
                return self._place_in_file(file, ordinal)
            except _Unusable:
                self._drop_file()
        number = min(ordinal // STRIDE, self._first_block + self._blocks - 1) - self._first_block
        if number < 0:
            return (FIRST_OFFSET, 0) if self._file is None else (self._file.offset, self._file.events)
        return int(self._offsets[number]), (number + self._first_block) * STRIDE

    def _place_in_file(self, file: Matched, ordinal: int) -> Span:
        if ordinal == file.events:
            return file.offset, ordinal
        number, rest = divmod(ordinal, STRIDE)
        block = self._block(number)
        if rest == 0 or not block.equal_sizes:
            return block.offset, ordinal - rest
        offset = block.offset + rest * (ENTRY_SIZE + block.size)
        if offset > file.offset - ENTRY_SIZE - block.size:
            raise _Unusable
        return offset, ordinal

    def locate_all(self, ordinals: Column, bound: int) -> Column:
        """Byte positions of events that exist, as a new array. O(len(ordinals)); at most 63 headers are read for each.

        Raises CorruptError where they do not lead there.
        """
        offsets, steps = self._places(ordinals)
        bad = core.step_all(self._region, bound, offsets, steps) if steps.any() else -1
        if bad >= 0:
            ordinal = int(ordinals[bad] - steps[bad])
            raise errors.corrupt(self._region.path, self._first + ordinal, int(offsets[bad]), "size")
        return offsets

    def _places(self, ordinals: Column) -> tuple[Column, Column]:
        """For each event the position of one before it, and how many events lie between."""
        stored = ordinals < self.from_file
        try:
            if len(ordinals) and stored.all():
                return self._places_in_file(ordinals)
            offsets, steps = self._places_in_memory(ordinals)
            if stored.any():
                offsets[stored], steps[stored] = self._places_in_file(ordinals[stored])
            return offsets, steps
        except _Unusable:
            self._drop_file()
            return self._places(ordinals)

    def _places_in_file(self, ordinals: Column) -> tuple[Column, Column]:
        file = self._file
        assert file is not None
        numbers = ordinals // STRIDE
        rest = ordinals - numbers * STRIDE
        first, last = int(numbers.min()), int(numbers.max()) + 1
        if last - first > _DENSE * len(numbers):
            kept, numbers = np.unique(numbers, return_inverse=True)
            parts = [file.records.array(number, number + 1) for number in kept.tolist()]
        else:
            parts = [file.records.array(first, last)]
            numbers = numbers - first
        found = [part for part in parts if part is not None]
        if len(found) < len(parts):
            raise _Unusable
        blocks: npt.NDArray[Any] = np.concatenate(found)
        equal = blocks["flags"] & INDEX_EQUAL_SIZES != 0
        # Of a block of mixed sizes only the first event has a place that is known.
        strides = np.where(equal, blocks["size"].astype(np.int64) + ENTRY_SIZE, 0)
        offsets = blocks["offset"].astype(np.int64)[numbers] + rest * strides[numbers]
        if (offsets < FIRST_OFFSET).any() or (offsets > file.offset - ENTRY_SIZE).any():
            raise _Unusable
        return offsets, np.zeros_like(rest) if equal.all() else np.where(equal[numbers], 0, rest)

    def _places_in_memory(self, ordinals: Column) -> tuple[Column, Column]:
        start, events = (FIRST_OFFSET, 0) if self._file is None else (self._file.offset, self._file.events)
        numbers = np.minimum(ordinals // STRIDE, self._first_block + self._blocks - 1)
        known = numbers >= self._first_block  # the others lie in the last block of the file, after what it covers
        offsets = np.full(len(ordinals), start, np.int64)
        offsets[known] = self._offsets[numbers[known] - self._first_block]
        return offsets, ordinals - np.where(known, numbers * STRIDE, events)

    def last_header(self, bound: int) -> tuple[int, bytes]:
        """Byte position and header of the last event; no bytes without one."""
        at = self.locate(self.length - 1, bound) if self.length else FIRST_OFFSET
        return at, bytes(self._region.view(at, min(at + ENTRY_SIZE, bound)))

    def block_before(self, when: int, side: Literal["left", "right"]) -> int:
        """In a sorted stream, the number of the last block that begins before ``when``, or -1. O(log n).

        With ``"right"`` it may begin at ``when``.
        """
        number = int(np.searchsorted(self._timestamps[: self._blocks], when, side)) - 1
        if number >= 0 or self._file is None:
            return self._first_block + number
        bisect = bisect_left if side == "left" else bisect_right
        try:
            return bisect(range(self._file.blocks), when, key=lambda number: self._block(number).lowest) - 1
        except _Unusable:
            self._drop_file()
            return self.block_before(when, side)

    def candidates(self, low: int, high: int, start: int, stop: int) -> list[Span]:
        """The ranges of ordinals within [start, stop) in which a timestamp from ``low`` to ``high`` can be.

        O(blocks); the stream is not read.
        """
        file = self._file
        covered = min(stop, self.from_file)
        if file is None or covered <= start:
            return [(start, stop)] if start < stop else []
        first, last = start // STRIDE, -(-covered // STRIDE)
        found: list[Span] = []
        begin = self._first_from(low, first, last)
        for at in range(begin, last, _PASS):
            blocks = file.records.array(at, min(at + _PASS, last))
            if blocks is None:
                return [(start, stop)]
            _add_runs(found, at, (blocks["lowest"] <= high) & (blocks["highest"] >= low))
        found = [(max(a * STRIDE, start), min(b * STRIDE, covered)) for a, b in found]
        return [*found, (covered, stop)] if covered < stop else found

    def _first_from(self, low: int, first: int, last: int) -> int:
        """The first block in [first, last) up to which the running maximum has reached ``low``."""
        try:
            return bisect_left(range(last), low, lo=first, key=lambda number: self._block(number).running)
        except _Unusable:
            return first


class _Unusable(Exception):  # noqa: N818 - it never leaves this module
    """A record of the index file cannot be used."""


def _add_runs(found: list[Span], first: int, keep: npt.NDArray[np.bool_]) -> None:
    """Add the runs of true elements to ``found``, as ranges of block numbers; the first element is block ``first``."""
    edges = np.flatnonzero(np.diff(keep.astype(np.int8), prepend=0, append=0)) + first
    for start, stop in edges.reshape(-1, 2).tolist():
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], stop
        else:
            found.append((start, stop))

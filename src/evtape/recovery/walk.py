"""Walk -> report: the first half of the recovery path. What is damage is decided here and nowhere else."""

from __future__ import annotations

import os
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .. import errors
from ..core.backend import core
from ..core.format import ENTRY_SIZE, FIRST_OFFSET, INT64_MAX, TIME_MIN, Reason
from ..core.paging import RESIDENT, events_per_pass
from ..system.files import READ, descriptor, require_regular
from .examined import Examined, examining
from .report import Problem, ProblemReason, Progress, Report, State

PROBLEMS_LISTED = 100  # further ones are counted; a lost disk must not fill the memory
_SECTOR = 512  # bytes that reach the disk together
_PASS = 1 << 16  # entries per step, between two calls of the progress function


Column = npt.NDArray[np.int64]
Start = tuple[int, int, int]  # offset, ordinal and timestamp of the event before: where a walk begins
WHOLE: Final[Start] = (FIRST_OFFSET, 0, TIME_MIN)


def verify(path: str | bytes | os.PathLike[Any], progress: Progress | None = None) -> Report:
    """Read the whole stream and compare every checksum; changes nothing. O(file).

    ``progress(done, total)`` is called now and then with bytes. Raises OSError for a file that cannot be read,
    FormatError for one that is not a regular file; what the file contains never raises, it is in the report.
    """
    name = os.fsdecode(path)
    require_regular(name)
    with descriptor(name, READ) as fd:
        errors.require_bytes(name, fd, os.fstat(fd).st_size)
        with examining(name, fd) as file:
            return walk(file, progress)


# ---------------------------------------------------------------------------------------------- walk


def walk(
    file: Examined,
    progress: Progress | None = None,
    start: Start = WHOLE,
    *,
    verify_checksums: bool = True,
    may_be_torn: bool = True,
) -> Report:
    """Walk the stream from ``start`` and report what is there.

    Without ``verify_checksums`` no payload is read. Bytes that a power loss may have torn have to pass more than a
    checksum, unless ``may_be_torn`` is False.
    """
    if not file.has_header:
        return _Walk(file.path, file.region.size, (0, 0, 0), verify_checksums, INT64_MAX).invalid()
    region = file.region
    header = region.load_header()
    size = region.size if header[0] <= region.size else file.refresh_size()
    found = _Walk(file.path, size, header, verify_checksums, file.torn_from if may_be_torn else INT64_MAX)
    scanner = core.Scanner(region, *start)
    found.run(region, scanner, progress)
    return found.report(scanner)


def _torn(region: core.Region, offsets: Column, timestamps: Column, torn_from: int) -> int:
    """Position in ``offsets`` of the first entry from ``torn_from`` on whose header lost a sector, or -1.

    A header is 16 bytes and may lie across the end of a sector. A part of it that is all zeros is taken for one that
    never reached the disk, since nothing else would tell: the checksum is one of the payload alone. An intact entry
    is seldom cut by this, and never one that was made durable.
    """
    first_part = np.minimum(_SECTOR - offsets % _SECTOR, ENTRY_SIZE)  # bytes in the sector that the entry begins in
    suspects = ((first_part < ENTRY_SIZE) | (timestamps == 0)) & (offsets >= torn_from)
    for at in np.flatnonzero(suspects).tolist():
        header = bytes(region.view(int(offsets[at]), int(offsets[at]) + ENTRY_SIZE))
        cut = int(first_part[at])
        if not any(header[:cut]) or (cut < ENTRY_SIZE and not any(header[cut:])):
            return int(at)
    return -1


class _Walk:
    """What a walk has found so far."""

    def __init__(
        self, path: str, size: int, header: tuple[int, int, int], verify_checksums: bool, torn_from: int
    ) -> None:
        self.path = path
        self.verify_checksums = verify_checksums
        self.torn_from = torn_from  # where entries begin that a power loss may have torn
        self.size = size
        self.write_offset, self.event_count, self.start_timestamp = header
        # With an unusable WriteOffset the file bounds the walk.
        self.usable = FIRST_OFFSET <= self.write_offset <= size
        self.bound = self.write_offset if self.usable else size
        self.problems: list[Problem] = []
        self.problem_count = 0
        self.prefix: tuple[int, int, int] | None = None  # events, end, last timestamp; set at the first bad entry
        self.first_timestamp: int | None = None

    def add(self, reason: ProblemReason, ordinal: int, offset: int, message: str) -> None:
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_LISTED:
            self.problems.append(Problem(reason, ordinal, offset, message))

    def run(self, region: core.Region, scanner: core.Scanner, progress: Progress | None) -> None:
        if self.write_offset < FIRST_OFFSET:
            self.add("header", -1, -1, f"WriteOffset is {self.write_offset}, less than {FIRST_OFFSET}")
        elif not self.usable:
            self.add("truncated", -1, -1, f"the file has {self.size} bytes but WriteOffset is {self.write_offset}")
        first = core.Scanner(region)
        if first.run(self.bound, 1) is None and first.ordinal == 1:
            self.first_timestamp = first.last_timestamp
        reason: Reason | None = None
        dropped = scanner.offset
        while scanner.offset < self.bound and reason in (None, "checksum"):
            if self.torn_from < self.bound:
                reason, torn = self.run_where_torn(region, scanner)
                if torn:
                    return
            else:
                reason = scanner.run(
                    self.bound, events_per_pass(scanner, _PASS), verify_checksums=self.verify_checksums
                )
            if scanner.offset - dropped > RESIDENT:
                region.drop_pages(dropped, scanner.offset)
                dropped = scanner.offset
            if progress is not None:
                progress(scanner.offset, self.bound)
            if reason is not None:
                self.met(reason, scanner)
        self.settle_zeros(region, scanner, complete=reason is None or reason == "checksum")

    def run_where_torn(self, region: core.Region, scanner: core.Scanner) -> tuple[Reason | None, bool]:
        """One pass that also looks for an entry of which a sector never reached the disk.

        The walk ends at such a one.
        """
        last = scanner.last_timestamp
        offsets, timestamps = np.empty(_PASS, np.int64), np.empty(_PASS, np.int64)
        reason = scanner.run(
            self.bound, _PASS, verify_checksums=self.verify_checksums, offsets=offsets, timestamps=timestamps
        )
        count = scanner.recorded
        at = _torn(region, offsets[:count], timestamps[:count], self.torn_from)
        if at < 0:
            return reason, False
        ordinal, offset = scanner.ordinal - count + at, int(offsets[at])
        if self.prefix is None:
            self.prefix = (ordinal, offset, int(timestamps[at - 1]) if at else last)
        self.add("zero", ordinal, offset, f"{errors.corrupt(self.path, ordinal, offset, 'zero')} (after a power loss)")
        if 0 <= scanner.zero_ordinal < ordinal:
            self.settle_zeros(region, scanner, complete=False)
        return reason, True

    def met(self, reason: Reason, scanner: core.Scanner) -> None:
        if self.prefix is None:
            self.prefix = (scanner.ordinal, scanner.offset, scanner.last_timestamp)
        where = (scanner.ordinal, scanner.offset)
        # The entry that does not fit at the end of a shortened file is the shortening itself, not a second problem.
        if reason == "fault":
            self.add("truncated", *where, "the file was truncated, or could not be read, during the walk")
        elif reason == "checksum" or self.usable:
            self.add(reason, *where, str(errors.corrupt(self.path, *where, reason)))
        if reason == "checksum":
            scanner.skip()

    def settle_zeros(self, region: core.Region, scanner: core.Scanner, complete: bool) -> None:
        """Sixteen zero bytes are an event where EventCount adds up, else a block that never reached the disk."""
        adds_up = complete and scanner.ordinal == self.event_count
        if scanner.zero_ordinal >= 0 and not adds_up:
            ordinal, offset = scanner.zero_ordinal, scanner.zero_offset
            problem = Problem("zero", ordinal, offset, str(errors.corrupt(self.path, ordinal, offset, "zero")))
            at = sum(1 for known in self.problems if known.offset < offset)
            self.problems.insert(at, problem)
            self.problem_count += 1
            if self.prefix is None or ordinal < self.prefix[0]:
                again = core.Scanner(region)
                again.run(offset)
                self.prefix = (ordinal, offset, again.last_timestamp)
        elif self.prefix is None and self.usable and not adds_up:
            message = f"EventCount is {self.event_count} but there are {scanner.ordinal} events, all good"
            self.add("count", -1, -1, message)

    def invalid(self) -> Report:
        self.problems.clear()
        self.problem_count = 0
        self.add("header", -1, -1, f"{self.path}: not a stream: no usable header and no valid first event")
        return self._report("invalid", 0, 0, TIME_MIN, -1)

    def report(self, scanner: core.Scanner) -> Report:
        events, end, last = self.prefix or (scanner.ordinal, scanner.offset, scanner.last_timestamp)
        if not self.usable and events == 0:
            return self.invalid()
        state: State = "damaged" if self.problems else "clean" if self.size == self.write_offset else "open"
        return self._report(state, events, end, last, scanner.unsorted_at)

    def _report(self, state: State, events: int, end: int, last: int, unsorted_at: int) -> Report:
        return Report(
            path=self.path,
            state=state,
            events=events,
            end=end,
            problems=tuple(self.problems[:PROBLEMS_LISTED]),
            problem_count=self.problem_count,
            size=self.size,
            write_offset=self.write_offset,
            event_count=self.event_count,
            start_timestamp=self.start_timestamp,
            first_timestamp=self.first_timestamp if events else None,
            last_timestamp=last if events else None,
            unsorted_at=unsorted_at if unsorted_at < events else -1,
            cut=max(0, min(self.bound, self.size) - end) if self.problems else 0,
        )

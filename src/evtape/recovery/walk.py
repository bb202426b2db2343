"""Walk -> report: the first half of the recovery path. What is damage is decided here and nowhere else."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Final

from .. import errors
from ..core.backend import core
from ..core.format import FIRST_OFFSET, INDEX_EVENTS, INT64_MAX, TIME_MIN, Reason
from ..core.paging import RESIDENT, events_per_pass
from ..system.files import READ, descriptor, require_regular
from .compare import Comparison
from .examined import Examined, examining
from .report import Problem, ProblemReason, Progress, Report, State

PROBLEMS_LISTED = 100  # further ones are counted; a lost disk must not fill the memory
_PASS = 1 << 16  # entries per step, between two calls of the progress function


Start = tuple[int, int, int]  # offset, ordinal and timestamp of the event before: where a walk begins
WHOLE: Final[Start] = (FIRST_OFFSET, 0, TIME_MIN)


def verify(path: str | bytes | os.PathLike[Any], progress: Progress | None = None) -> Report:
    """Read the whole stream and compare every checksum, and every timestamp with the index; changes nothing. O(file).

    ``Report.index`` says whether there was an index to compare with, and ``Report.compared`` how many events it covers.

    ``progress(done, total)`` is called now and then with bytes. Raises OSError for a file that cannot be read,
    FormatError for one that is not a regular file; what the file contains never raises, it is in the report.
    """
    name = os.fsdecode(path)
    require_regular(name)
    with descriptor(name, READ) as fd:
        errors.require_bytes(name, fd, os.fstat(fd).st_size)
        with examining(name, fd) as file:
            return walk(file, progress, with_index=True)


# ---------------------------------------------------------------------------------------------- walk


def walk(
    file: Examined,
    progress: Progress | None = None,
    start: Start = WHOLE,
    *,
    verify_checksums: bool = True,
    may_be_torn: bool = True,
    with_index: bool = False,
) -> Report:
    """Walk the stream from ``start`` and report what is there.

    Without ``verify_checksums`` no payload is read. Bytes that a power loss may have torn have to pass more than a
    checksum, unless ``may_be_torn`` is False. ``with_index`` compares the entry headers with the index.
    """
    if not file.has_header:
        return _Walk(file.path, file.region.size, (0, 0, 0), verify_checksums, INT64_MAX).invalid()
    region = file.region
    header = region.load_header()
    size = region.size if header[0] <= region.size else file.refresh_size()
    found = _Walk(file.path, size, header, verify_checksums, file.torn_from if may_be_torn else INT64_MAX)
    scanner = core.Scanner(region, *start)
    if not with_index or file.watermark_file is None:
        found.run(region, scanner, progress)
        return found.report(scanner)
    with file.watermark_file.index_file() as index_file:
        comparison = found.comparison = Comparison(file, index_file, found.bound)
        try:
            found.run(region, scanner, progress)
            comparison.finish()
        finally:
            comparison.close()
    found.take_differences(comparison)
    return dataclasses.replace(found.report(scanner), index=comparison.state, compared=comparison.events)


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
        self.comparison: Comparison | None = None

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
            if self.comparison is not None:
                self.comparison.advance(scanner.offset)
            if scanner.offset - dropped > RESIDENT:
                region.drop_pages(dropped, scanner.offset)
                dropped = scanner.offset
            if progress is not None:
                progress(scanner.offset, self.bound)
            if reason is not None:
                self.met(reason, scanner)
        self.settle_zeros(region, scanner, complete=reason is None or reason == "checksum")

    def run_where_torn(self, region: core.Region, scanner: core.Scanner) -> tuple[Reason | None, bool]:
        """One pass that also looks for an entry of which a sector may never have reached the disk.

        The walk ends there. Nothing else can tell, because the checksum covers the payload alone. An intact entry is
        seldom ambiguous, and sync makes the watermark durable past such an entry before it returns.
        """
        before = core.Scanner(region, scanner.offset, scanner.ordinal, scanner.last_timestamp)
        reason = scanner.run(self.bound, _PASS, verify_checksums=self.verify_checksums)
        offset = core.first_ambiguous(region, before.offset, scanner.offset, self.torn_from)
        if offset < 0:
            return reason, False
        before.run(offset)
        ordinal = before.ordinal
        if self.prefix is None:
            self.prefix = (ordinal, offset, before.last_timestamp)
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

    def take_differences(self, comparison: Comparison) -> None:
        """Add what only the index shows. A block in which the walk has met damage has another header for that."""
        blocks = {problem.ordinal // INDEX_EVENTS for problem in self.problems if problem.ordinal >= 0}
        if comparison.start_timestamp is not None:
            known = f"and was {comparison.start_timestamp} when the index was made"
            self.add("timestamp", -1, -1, f"{self.path}: StartTimestamp is {self.start_timestamp}, {known}")
        for found in comparison.differences:
            if found.ordinal // INDEX_EVENTS not in blocks:
                self.add("timestamp", found.ordinal, found.offset, errors.differs(self.path, found))
        self.problem_count += comparison.difference_count - len(comparison.differences)
        self.problems.sort(key=lambda problem: problem.offset)

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

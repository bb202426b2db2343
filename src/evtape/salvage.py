"""Search -> copy -> mark: what a recovery takes over from behind damage, when it is asked to.

A stream says nothing about events behind damage: whether there are more of them missing, and how many. So they are
written to another stream, and what is doubtful about them to a file beside it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._backend import core
from ._format import FIRST_OFFSET, HEADER
from .files import NewFile, copy_bytes, exists, write_all
from .search import Search

if TYPE_CHECKING:
    from .walk import Progress, Report

_PASS = 1 << 12  # entries between two calls of the progress function

AFTER_DAMAGE = "behind a damaged event whose size led here"
FOUND = "found by a search behind bytes that lead nowhere"


@dataclass(frozen=True)
class Salvaged:
    """A run of events that was taken over from behind damage. Each has a good checksum; its place is doubtful."""

    ordinal: int  #: of the first one in the new stream
    events: int
    offset: int  #: where the run begins in the damaged stream
    end: int  #: where it ends there
    doubt: str  #: how it was found


def marks_of(output: str) -> str:
    """The file beside a salvaged stream that says which of its events are doubtful."""
    return output + ".salvage.json"


def write_salvaged(fd: int, report: Report, output: str, progress: Progress | None) -> Report:
    """Write the intact beginning and all intact events behind the damage to ``output``. O(file)."""
    for name in (output, marks_of(output)):
        if os.path.lexists(name):
            raise exists(name)
    region = core.Region(fd, report.size, report.path)
    try:
        runs = list(_Behind(region, report, progress).runs())
    finally:
        region.close()
    report = dataclasses.replace(report, output=output, salvaged=tuple(runs))
    # The marks come first: there must be no moment at which the stream is there and they are not.
    with NewFile(marks_of(output)) as marks:
        write_all(marks, json.dumps(report.as_dict(), indent=1).encode() + b"\n")
    with NewFile(output) as out:
        end = report.end + sum(run.end - run.offset for run in runs)
        events = report.events + sum(run.events for run in runs)
        write_all(out, HEADER.pack(end, events, report.start_timestamp))
        copy_bytes(fd, out, FIRST_OFFSET, report.end)
        for run in runs:
            copy_bytes(fd, out, run.offset, run.end)
    return report


class _Behind:
    """Walks on behind the intact beginning."""

    def __init__(self, region: core.Region, report: Report, progress: Progress | None) -> None:
        self._region = region
        self._bound = report.end + report.cut
        self._at = report.end
        self._ordinal = report.events
        times = (report.start_timestamp, report.first_timestamp or report.start_timestamp, report.last_timestamp)
        self._search = Search(region, self._bound, (min(times[:2]), max(times[0], times[2])))
        self._progress: Callable[[int, int], object] = progress or (lambda _done, _total: None)

    def runs(self) -> Iterator[Salvaged]:
        """Every run of intact events, in the order of the file."""
        doubt = self._step()
        while doubt:
            begin = self._at
            events = self._walk()
            if events:
                yield Salvaged(self._ordinal, events, begin, self._at, doubt)
                self._ordinal += events
            doubt = self._step()

    def _step(self) -> str:
        """Go to where the next run begins; how it was found, or nothing when there is none.

        A damaged event whose size leads to an intact one is stepped over and not searched: its payload may hold what
        looks like events and never were any.
        """
        if self._at >= self._bound:
            return ""
        damaged = core.Scanner(self._region, self._at)
        if damaged.run(self._bound, 1, True) == "checksum":
            damaged.skip()
            if damaged.offset == self._bound or self._intact(damaged.offset):
                self._at = damaged.offset
                return AFTER_DAMAGE if self._at < self._bound else ""
        place = self._search.first(self._at + 1, sure=True)
        if place < 0 or self._search.gave_up:
            return ""
        self._at = place
        return FOUND

    def _intact(self, offset: int) -> bool:
        scanner = core.Scanner(self._region, offset)
        return scanner.run(self._bound, 1, True) is None and scanner.ordinal == 1 and scanner.zero_ordinal < 0

    def _walk(self) -> int:
        """Go to the end of a run; returns its number of events. Zeros are the end of one: nobody appended them."""
        scanner = core.Scanner(self._region, self._at)
        reason = None
        while reason is None and scanner.offset < self._bound and scanner.zero_ordinal < 0:
            reason = scanner.run(self._bound, _PASS, True)
            self._region.let_go(self._at, scanner.offset)
            self._progress(scanner.offset, self._bound)
        zeros = scanner.zero_ordinal >= 0
        self._at = scanner.zero_offset if zeros else scanner.offset
        return scanner.zero_ordinal if zeros else scanner.ordinal

"""Search -> copy -> mark: the intact events after damage, which recovery copies on request.

Nothing in a stream says whether events are missing in the damage, nor how many. So the salvaged ones are
written to another stream, and what is doubtful about them to a file beside it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator

import numpy as np

from ..core.backend import core
from ..core.format import ENTRY, ENTRY_SIZE, FIRST_OFFSET, HEADER
from ..errors import FormatError
from ..system.files import AtomicFile, already_exists, copy_bytes, write_all
from .examined import Examined
from .report import Progress, Report, Salvaged, known_times
from .search import SureSearch

_PASS = 1 << 12  # entries between two calls of the progress function

AFTER_DAMAGE = "after a damaged event whose size led here"
FOUND = "found by a search after bytes that lead nowhere"
ABOVE = "above WriteOffset, which EventCount contradicts"
GAVE_UP = "not searched: too much here looks like events"


def marks_of(output: str) -> str:
    """The file beside a salvaged stream that says which of its events are doubtful."""
    return output + ".salvage.json"


def write_salvaged(file: Examined, report: Report, stop: int, output: str, progress: Progress | None) -> Report:
    """Write the intact prefix and all intact events after it up to byte ``stop`` to ``output``.

    The header and the first event may be lost as well. Raises FormatError if there is no event at all.
    O(file), and about 1 KB of memory for each run.
    """
    for name in (output, marks_of(output)):
        if os.path.lexists(name):
            raise already_exists(name)
    if report.state == "invalid":
        report, runs = _without_beginning(file.region, report, progress)
    else:
        runs = list(_Rest(file.region, report, stop, progress).runs())
    report = dataclasses.replace(report, output=output, salvaged=tuple(runs))
    # The marks come first: there must be no moment at which the stream is there and they are not.
    with AtomicFile(marks_of(output)) as marks:
        write_all(marks, json.dumps(report.as_dict(), indent=1).encode() + b"\n")
    with AtomicFile(output) as out:
        taken = [run for run in runs if run.events]
        end = report.end + sum(run.end - run.offset for run in taken)
        events = report.events + sum(run.events for run in taken)
        write_all(out, HEADER.pack(end, events, report.start_timestamp))
        copy_bytes(file.fd, out, FIRST_OFFSET, report.end)
        for run in taken:
            copy_bytes(file.fd, out, run.offset, run.end)
    return report


def _without_beginning(region: core.Region, report: Report, progress: Progress | None) -> tuple[Report, list[Salvaged]]:
    """What is in a file that does not begin as a stream does; the new stream begins with its first event."""
    refused = FormatError(report.problems[0].message)
    if report.size < FIRST_OFFSET:
        raise refused
    whole = dataclasses.replace(report, state="damaged", end=FIRST_OFFSET, cut=report.size - FIRST_OFFSET)
    runs = list(_Rest(region, whole, report.size, progress, beginning_lost=True).runs())
    if not runs or not runs[0].events:
        raise refused
    started = ENTRY.unpack(region.view(runs[0].offset, runs[0].offset + ENTRY_SIZE))[0]
    return dataclasses.replace(whole, start_timestamp=started), runs


class _Rest:
    """Walks on after the intact prefix."""

    def __init__(
        self, region: core.Region, report: Report, stop: int, progress: Progress | None, beginning_lost: bool = False
    ) -> None:
        self._region = region
        self._bound = stop
        self._above = not report.cut
        self._at = report.end
        self._ordinal = report.events
        self._search = SureSearch(region, self._bound, None if beginning_lost else known_times(report))
        if report.events:
            self._search.learn(*known_times(report))
        self._progress: Callable[[int, int], object] = progress or (lambda _done, _total: None)
        self._search.progress = self._progress

    def runs(self) -> Iterator[Salvaged]:
        """Every run of intact events, in the order of the file."""
        doubt = ABOVE if self._above else self._step()
        while doubt not in ("", GAVE_UP):
            begin, was = self._at, doubt
            events, empty = self._walk()
            end = self._at
            doubt = self._step()
            # An empty event has no checksum. Where what follows it leads nowhere, nothing says that it was appended.
            if empty and doubt != AFTER_DAMAGE and self._at < self._bound:
                events, end = events - 1, end - ENTRY_SIZE
            if events:
                yield Salvaged(self._ordinal, events, begin, end, was)
                self._ordinal += events
        if doubt == GAVE_UP:
            yield Salvaged(self._ordinal, 0, self._at, self._bound, GAVE_UP)

    def _step(self) -> str:
        """Go to where the next run begins; how it was found, or nothing when there is none.

        A damaged event whose size leads to an intact one is stepped over: its payload may hold what looks like events
        and never were any.
        """
        if self._at >= self._bound:
            return ""
        damaged = core.Scanner(self._region, self._at)  # no look at its payload: the walk that ended here had one
        fits = damaged.run(self._bound, 1) is None and damaged.zero_ordinal < 0
        if fits and (damaged.offset == self._bound or self._intact(damaged.offset)):
            wrong = self._where_size_is_wrong(damaged.offset)
            self._at = damaged.offset if wrong < 0 else wrong
            return "" if self._at >= self._bound else AFTER_DAMAGE if wrong < 0 else FOUND
        place = self._search.first(self._at + 1)
        if self._search.gave_up:
            return GAVE_UP
        if place < 0:
            return ""
        self._at = place
        return FOUND

    def _where_size_is_wrong(self, end: int) -> int:
        """Where the next event begins if it is the size of this one that is damaged, and not its payload; else -1.

        Where all events have one size, a wrong size leads to an intact event as well, and past many. The right size is
        the one with which the checksum matches.
        """
        inside = self._search.first(self._at + ENTRY_SIZE, end)
        if inside < 0 or self._search.gave_up:
            return -1
        checksum = ENTRY.unpack(self._region.view(self._at, self._at + ENTRY_SIZE))[2]
        return inside if self._search.sum(self._at + ENTRY_SIZE, inside) == checksum else -1

    def _intact(self, offset: int) -> bool:
        scanner = core.Scanner(self._region, offset)
        return (
            scanner.run(self._bound, 1, verify_checksums=True) is None
            and scanner.ordinal == 1
            and scanner.zero_ordinal < 0
        )

    def _walk(self) -> tuple[int, bool]:
        """Go to the end of a run; returns its number of events, and whether the last one is empty.

        Zeros are the end of one, because no writer appends them.
        """
        scanner = core.Scanner(self._region, self._at)
        offsets, timestamps = np.empty(_PASS, np.int64), np.empty(_PASS, np.int64)
        reason, dropped, last = None, self._at, self._at
        while reason is None and dropped < self._bound and scanner.zero_ordinal < 0:
            reason = scanner.run(self._bound, _PASS, verify_checksums=True, offsets=offsets, timestamps=timestamps)
            end = scanner.zero_offset if scanner.zero_ordinal >= 0 else scanner.offset
            passed = int(np.searchsorted(offsets[: scanner.recorded], end))
            if passed:
                last = int(offsets[passed - 1])
                self._search.learn(int(timestamps[:passed].min()), int(timestamps[:passed].max()))
            self._region.drop_pages(dropped, end)
            self._progress(end, self._bound)
            dropped = end
        self._at = dropped
        events = scanner.zero_ordinal if scanner.zero_ordinal >= 0 else scanner.ordinal
        return events, bool(events) and dropped - last == ENTRY_SIZE

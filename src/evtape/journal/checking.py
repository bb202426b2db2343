"""``verify`` and ``recover`` of a journal: each segment as a stream, and the ordinals between them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import errors
from ..core.format import TIME_MIN
from ..recovery.repair import recover as recover_stream
from ..recovery.report import IndexState, Problem, Progress, Report, State
from ..recovery.walk import PROBLEMS_LISTED
from ..recovery.walk import verify as verify_stream
from ..schema import carry_over
from ..system.files import WRITE, open_descriptor
from ..system.lock import WriterLock
from .directory import LOCK, Directory
from .recover import repair_tail


@dataclass(frozen=True, repr=False)
class JournalReport(Report):
    """What ``verify`` found in a journal, and what ``recover`` did about it.

    Its numbers are sums over the segments, and the ordinals of its problems are those of the journal. A gap between two
    segments is a problem with the reason ``"missing"``.
    """

    first_ordinal: int = 0  #: the first ordinal that is left
    next_ordinal: int = 0  #: the ordinal after the last event that is readable
    segments: tuple[Report, ...] = ()  #: oldest first
    missing: tuple[range, ...] = ()  #: the ordinals that are missing between segments

    def as_dict(self) -> dict[str, Any]:
        missing = [[gap.start, gap.stop] for gap in self.missing]
        return super().as_dict() | {"segments": [each.as_dict() for each in self.segments], "missing": missing}

    def _summary(self) -> dict[str, str]:
        rows = super()._summary()
        rows["segments"] = f"{len(self.segments):,}"
        if self.events:
            rows["ordinals"] = f"{self.first_ordinal:,} to {self.next_ordinal - 1:,}"
        if self.missing:
            rows["missing"] = ", ".join(f"{gap.start:,} to {gap.stop - 1:,}" for gap in self.missing[:3])
            rows["missing"] += ", ..." if len(self.missing) > 3 else ""
        return rows


Path = str | bytes | os.PathLike[Any]


def verify(path: Path, progress: Progress | None = None) -> Report:
    """Read the whole stream or journal and compare every checksum; changes nothing. O(bytes).

    ``progress(done, total)`` is called now and then with bytes. Raises OSError for a file that cannot be read,
    FormatError for one that is neither a regular file nor a journal; what a file contains never raises, it is in the
    report: a JournalReport for a journal, with a report for each segment.
    """
    if not os.path.isdir(path):
        return verify_stream(path, progress)
    directory = Directory(os.fsdecode(path))
    directory.require_journal()
    return _examined(directory, progress, verify_stream)


def recover(
    path: Path,
    output: Path | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    salvage: bool = False,
) -> Report:
    if not os.path.isdir(path):
        report = recover_stream(path, output, dry_run, progress, salvage)
        if report.output is not None:
            carry_over(report.path, report.output)
        return report
    directory = Directory(os.fsdecode(path))
    directory.require_journal()
    if output is not None or salvage:
        raise ValueError(f"{directory.path}: a journal is repaired in place; recover a segment to give output")
    if dry_run:
        return _examined(directory, progress, lambda name, progress: recover_stream(name, None, True, progress))
    with contextlib.suppress(FileExistsError):
        os.close(open_descriptor(directory.file(LOCK), WRITE | os.O_CREAT | os.O_EXCL))
    with WriterLock(directory.file(LOCK), "a writer has this journal open; close it first"):
        directory.remove_leftovers()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the report says it
            directory.remove_sidecars(repair_tail(directory, directory.segments())[:-1])
        return _examined(directory, progress, lambda name, progress: recover_stream(name, None, False, progress))


recover.__doc__ = (
    (recover_stream.__doc__ or "").rstrip()
    + """

    Of a journal, every segment is repaired in place, from the oldest to the active one; returns a JournalReport.
    """
)


def _examined(
    directory: Directory, progress: Progress | None, examine: Callable[[str, Progress | None], Report]
) -> JournalReport:
    firsts = directory.segments()
    sizes = [os.stat(directory.segment(first)).st_size for first in firsts]
    reports: list[Report] = []
    for at, first in enumerate(firsts):

        def advance(now: int, total: int, done: int = sum(sizes[:at])) -> None:
            if progress is not None:
                progress(done + now, sum(sizes))

        reports.append(examine(directory.shown(first), advance if progress is not None else None))
    return _report(directory, firsts, reports)


def _report(directory: Directory, firsts: list[int], reports: list[Report]) -> JournalReport:
    problems: list[Problem] = []
    missing: list[range] = []
    end = firsts[0] if firsts else 0
    unsorted_at, last = -1, TIME_MIN
    for first, report in zip(firsts, reports, strict=True):
        if first > end:
            missing.append(range(end, first))
            problems.append(Problem("missing", end, -1, str(errors.missing(directory.path, end, first))))
        problems += [_of_journal(problem, first) for problem in report.problems]
        end = first + report.events
        if unsorted_at < 0 and report.first_timestamp is not None and report.last_timestamp is not None:
            unsorted_at = first if report.first_timestamp < last else unsorted_at
            unsorted_at = first + report.unsorted_at if unsorted_at < 0 <= report.unsorted_at else unsorted_at
            last = report.last_timestamp
    times = [report for report in reports if report.first_timestamp is not None]
    counted = sum(report.problem_count for report in reports) + len(missing)
    return JournalReport(
        path=directory.path,
        state=_worst({report.state for report in reports}, bool(missing)),
        events=sum(report.events for report in reports),
        end=sum(report.end for report in reports),
        problems=tuple(problems[:PROBLEMS_LISTED]),
        problem_count=counted,
        size=sum(report.size for report in reports),
        write_offset=sum(report.write_offset for report in reports),
        event_count=sum(report.event_count for report in reports),
        start_timestamp=reports[0].start_timestamp if reports else 0,
        first_timestamp=times[0].first_timestamp if times else None,
        last_timestamp=times[-1].last_timestamp if times else None,
        unsorted_at=unsorted_at,
        cut=sum(report.cut for report in reports),
        quarantine=next((report.quarantine for report in reports if report.quarantine), None),
        first_ordinal=firsts[0] if firsts else 0,
        next_ordinal=end,
        segments=tuple(reports),
        missing=tuple(missing),
        index=_index(reports),
        compared=sum(report.compared for report in reports),
    )


def _index(reports: list[Report]) -> IndexState | None:
    """What a verification did with the indexes of the segments; ``compared`` says for how many events."""
    found = {report.index for report in reports}
    states: tuple[IndexState, ...] = ("damaged", "compared", "foreign", "missing")
    return next((state for state in states if state in found), None)


def _of_journal(problem: Problem, first: int) -> Problem:
    """The problem of a segment with the ordinal in the journal."""
    return problem if problem.ordinal < 0 else dataclasses.replace(problem, ordinal=first + problem.ordinal)


def _worst(states: set[State], missing: bool) -> State:
    if missing or "damaged" in states or "invalid" in states:
        return "damaged"
    return "open" if "open" in states else "clean"

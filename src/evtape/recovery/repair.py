"""Report -> quarantine -> cut: the second half of the recovery path. What may be cut is decided here and nowhere
else.

Each step leaves a stream on which recovery gives the same result: the bytes to be cut are durable next to the stream
before its header is touched, and the header says what is left before the file is shortened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Any

from .. import errors
from ..core.backend import core
from ..core.format import FIRST_OFFSET, HEADER
from ..errors import FormatError, RecoveryWarning
from ..system.files import (
    READ,
    WRITE,
    AtomicFile,
    copy_bytes,
    descriptor,
    fitting_name,
    require_regular,
    write_all,
)
from ..system.lock import WriterLock
from .examined import Examined, examining
from .report import Problem, ProblemReason, Progress, Report, known_times
from .salvage import write_salvaged
from .search import Search
from .walk import walk
from .watermark import WatermarkFile, is_of_this_boot


def recover(
    path: str | bytes | os.PathLike[Any],
    output: str | bytes | os.PathLike[Any] | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    salvage: bool = False,
) -> Report:
    """Keep the longest valid prefix of a damaged or unclosed stream, and say what was cut. O(file).

    In place, the bytes that are cut are saved next to the stream first (``Report.quarantine``). With ``output`` the
    prefix is written to that new stream, which gets the schema of the source; the source stays as it is. ``dry_run``
    only reports. Doing it again changes nothing.

    ``salvage`` also copies intact events from after the damage, to ``output`` only: how many are missing between
    them, nothing can tell. ``Report.salvaged`` says which they are, and so does ``<output>.salvage.json``. The
    beginning of the file may be lost as well.

    Raises ValueError for ``salvage`` without ``output``, FormatError when the file is not a stream (with ``salvage``
    when no event is found in it), LockedError while a writer has it open, FileExistsError when ``output`` exists.
    """
    name = os.fsdecode(path)
    require_regular(name)
    if salvage and (output is None or dry_run):
        raise ValueError(f"{name}: salvage writes another stream; give output, and not dry_run")
    if output is None and not dry_run:
        with WriterLock(name), descriptor(name, WRITE) as fd, examining(name, fd) as file:
            return _repair(file, _require_stream(file, walk(file, progress)))
    with descriptor(name, READ) as fd, examining(name, fd) as file:
        report = walk(file, progress)
        if salvage and (stop := _end_of_saved(file, report)) > report.end:
            return write_salvaged(file, report, stop, os.fsdecode(output or ""), progress)
        report = _require_stream(file, report)
        if output is not None and not dry_run:
            _copy_prefix(file, report, os.fsdecode(output))
            report = dataclasses.replace(report, output=os.fsdecode(output))
        return report


def repair_for_append(file: Examined) -> Report:
    """Make the stream ready for a writer that holds its lock.

    A torn tail is quarantined, cut and reported by a RecoveryWarning. Raises CorruptError for damage with intact
    events after it, FormatError for a file that is not a stream or whose end is unknown.
    """
    report = _repair(file, examine_for_append(file))
    if report.state == "damaged":
        errors.warn(RecoveryWarning(_describe(report), report))
    return report


def examine_for_append(file: Examined) -> Report:
    """What `repair_for_append` is about to repair. Raises what it raises, and changes nothing."""
    report, tail_only = _examine(file)
    report = _require_stream(file, report)
    if any(problem.reason == "header" for problem in report.problems):
        raise FormatError(
            f"{file.path}: WriteOffset {report.write_offset} in the header is unusable, "
            "so the end of the stream is unknown; run 'evtape recover'"
        )
    if report.lost and not tail_only:
        _refuse_damage_in_the_middle(file, report)
    return report


def _examine(file: Examined) -> tuple[Report, bool]:
    """Walk as much as needs to be walked; also whether all damage found lies past what is known to be durable.

    What lies below the watermark was durable and good. On the same boot only a process can have died, which cannot
    take back a store, so the headers above it are enough; after a power loss their payloads are compared too.
    """
    mark = file.mark
    if mark is None:
        return walk(file), False
    start = (mark.offset, mark.events, mark.last_timestamp)
    same_boot = is_of_this_boot(mark)
    report = walk(file, start=start, verify_checksums=not same_boot)
    if report.lost and same_boot:  # then it was not only a process that died
        return walk(file, may_be_torn=False), False
    return report, True


def _refuse_damage_in_the_middle(file: Examined, report: Report) -> None:
    intact = find_intact(file, report)
    problem = next((p for p in report.problems if p.offset >= 0), None)
    if intact < 0 or problem is None:
        return
    raise errors.damage_in_the_middle(report.path, problem.ordinal, problem.offset, problem.reason, intact)


def _require_stream(file: Examined, report: Report) -> Report:
    """The report, or FormatError when the file is not a stream.

    A power loss can leave the header of the first events and not the file's new size, or zeros for the header. Then
    nothing in the file says that it is a stream, but its watermark does.
    """
    if report.state != "invalid":
        return report
    mark = file.mark
    if mark is None or mark.events:
        raise FormatError(report.problems[0].message)
    reason: ProblemReason
    if report.write_offset:
        reason, bound = "truncated", min(report.size, report.write_offset)
        found = f"the file has {report.size} bytes but WriteOffset is {report.write_offset}"
    else:
        reason, bound, found = "zero", report.size, "the header was lost"
    problem = Problem(reason, -1, -1, f"{report.path}: {found}; its sidecar says that no event was durable")
    return dataclasses.replace(
        report,
        state="damaged",
        end=FIRST_OFFSET,
        cut=max(0, bound - FIRST_OFFSET),
        problems=(problem,),
        start_timestamp=mark.start_timestamp,
    )


def _describe(report: Report) -> str:
    if not report.lost:
        saved = f"; events after WriteOffset are saved in {report.quarantine}" if report.quarantine else ""
        changed = f"EventCount was {report.event_count} and is {report.events} now"
        return f"{report.path}: {changed}; no event was lost{saved}"
    saved = f"saved in {report.quarantine}" if report.quarantine else "nothing to save"
    kept = f"kept {report.events} events and cut {report.cut} bytes of a torn tail"
    return f"{report.path}: {kept} ({report.reason}); {saved}"


# -------------------------------------------------------------------------------------------- decide


def find_intact(file: Examined, report: Report) -> int:
    """Offset of an intact event after the valid prefix, or -1 when all that follows is a torn tail.

    A tail in which too much looks like events counts as intact.
    """
    search = Search(file.region, report.end + report.cut, known_times(report))
    return search.first(report.end + 1)


def _end_of_saved(file: Examined, report: Report) -> int:
    """Where the bytes end that are saved before they are cut, or salvaged.

    They are the published ones. Where EventCount says that there are more events, and intact ones lie after
    WriteOffset, it may be WriteOffset that is wrong, so those are saved too.
    """
    missing = report.event_count - report.events
    if report.cut or report.reason != "count" or missing <= 0:
        return report.end + report.cut
    scanner = core.Scanner(file.region, report.end)
    scanner.run(report.size, missing, verify_checksums=True)
    return scanner.zero_offset if scanner.zero_ordinal >= 0 else scanner.offset


# ----------------------------------------------------------------------------------------------- cut


def _repair(file: Examined, report: Report) -> Report:
    """Quarantine what is cut, store the header of the prefix, shorten the file."""
    if report.state == "clean":
        return report
    saved = _end_of_saved(file, report)
    if saved > report.end:
        report = dataclasses.replace(report, quarantine=_quarantine(file, report, saved))
    if report.state == "damaged":
        region = file.writable()
        if region.load_header()[2] != report.start_timestamp:  # lost, and the watermark had it
            region.view(16, HEADER.size)[:] = report.start_timestamp.to_bytes(8, "little", signed=True)
        region.store_header(report.end, report.events)
        region.flush(0, FIRST_OFFSET)
    try:
        os.ftruncate(file.fd, report.end)
        os.fsync(file.fd)
    except OSError as error:
        raise errors.with_path(error, report.path, f"cutting the file to its {report.end} bytes") from None
    if report.state == "damaged" and file.watermark_file:
        _cut_sidecars(file, file.watermark_file, report.end)
    return report


def _cut_sidecars(file: Examined, watermark_file: WatermarkFile, end: int) -> None:
    """Cut the index to the stream that ends at ``end`` now, and retire a watermark above that."""
    with watermark_file.index_file() as index:
        try:
            kept = index.adopt(file.region, end)
        except OSError:
            kept = None  # a reader cuts it again
        if file.stored is None or file.stored.offset > end:
            watermark_file.retire()  # and not before: a second crash needs to know what the first one may have torn
            if kept is not None:
                with contextlib.suppress(OSError):
                    index.restamp(file.region.load_header()[2])


def _quarantine(file: Examined, report: Report, stop: int) -> str:
    """Copy the bytes that will be cut, up to ``stop``, into a new file next to the stream and make it durable."""
    target = _free_name(report.path, f".quarantine-{report.end}")
    with AtomicFile(target) as out:
        copy_bytes(file.fd, out, report.end, stop)
    return target


def _copy_prefix(file: Examined, report: Report, output: str) -> None:
    with AtomicFile(output) as out:
        write_all(out, HEADER.pack(report.end, report.events, report.start_timestamp))
        copy_bytes(file.fd, out, FIRST_OFFSET, report.end)


def _free_name(path: str, suffix: str) -> str:
    number = 0
    candidate = fitting_name(path, suffix)
    while os.path.lexists(candidate):
        number += 1
        candidate = fitting_name(path, f"{suffix}.{number}")
    return candidate

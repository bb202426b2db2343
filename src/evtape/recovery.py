"""Report -> quarantine -> cut: the second half of the recovery path. What may be cut is decided here and nowhere
else.

Each step leaves a stream on which recovery gives the same result: the bytes to be cut are durable beside the stream
before its header is touched, and the header says what is left before the file is shortened.
"""

from __future__ import annotations

import dataclasses
import os
import warnings

import numpy as np

from . import sidecar
from ._backend import core
from ._format import ENTRY_SIZE, FIRST_OFFSET, HEADER
from .errors import CorruptError, FormatError, RecoveryWarning
from .files import READ, WRITE, NewFile, require_regular, write_all
from .lock import WriterLock
from .walk import Progress, Report, walk

_COPY = 1 << 20  # bytes copied at a time
_CANDIDATES = 1 << 20  # places of a tail that are tried as the beginning of an event before the answer is "perhaps"
_DAY = 86400 * 10**9


def recover(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Keep the longest valid prefix of a damaged or unclosed stream, and say what was cut. O(file).

    In place, the bytes that are cut are saved beside the stream first (``Report.quarantine``). With ``output`` the
    prefix is written to that new file and the source stays as it is. ``dry_run`` only reports. Doing it again changes
    nothing.

    Raises FormatError when the file is no stream, LockedError while a writer has it open, FileExistsError when
    ``output`` exists.
    """
    name = os.fspath(path)
    require_regular(name)
    if output is not None or dry_run:
        fd = os.open(name, READ)
        try:
            report = _require_stream(walk(name, fd, progress))
            if output is not None and not dry_run:
                _copy_prefix(fd, report, os.fspath(output))
                report = dataclasses.replace(report, output=os.fspath(output))
            return report
        finally:
            os.close(fd)
    lock = WriterLock(name)
    try:
        fd = os.open(name, WRITE)
        try:
            return _repair(fd, _require_stream(walk(name, fd, progress)))
        finally:
            os.close(fd)
    finally:
        lock.release()


def repair_for_append(path: str, fd: int) -> Report:
    """Make the stream in ``fd`` ready for a writer, who holds its lock.

    A torn tail is quarantined, cut and reported by a RecoveryWarning. Raises CorruptError for damage with intact
    events after it, FormatError for a file that is no stream or whose end is unknown.
    """
    report, tail_only = _examine(path, fd)
    report = _require_stream(report)
    if any(problem.reason == "header" for problem in report.problems):
        raise FormatError(
            f"{path}: WriteOffset {report.write_offset} in the header is unusable, "
            "so the end of the stream is unknown; run 'evtape recover'"
        )
    if report.lost and not tail_only:
        _refuse_damage_in_the_middle(fd, report)
    report = _repair(fd, report)
    if report.state == "damaged":
        warnings.warn(RecoveryWarning(_told(report), report), stacklevel=7)
    return report


def _examine(path: str, fd: int) -> tuple[Report, bool]:
    """Walk as much as needs to be walked; also whether all damage found lies past what is known to be durable.

    What lies below the watermark was durable and good. On the same boot only a process can have died, which cannot
    take back a store, so the headers above it are enough; after a power loss their payloads are compared too.
    """
    size = os.fstat(fd).st_size
    mark: sidecar.Watermark | None = None
    if size >= HEADER.size:
        region = core.Region(fd, size, path)
        try:
            mark = sidecar.matching(path, region)
        finally:
            region.close()
    if mark is None:
        return walk(path, fd), False
    start = (mark.offset, mark.count, mark.last_timestamp)
    same_boot = sidecar.is_of_this_boot(mark)
    report = walk(path, fd, start=start, check=not same_boot)
    if report.lost and same_boot:  # then it was not only a process that died
        return walk(path, fd, whole=True), False
    return report, True


def _refuse_damage_in_the_middle(fd: int, report: Report) -> None:
    intact = find_intact(fd, report)
    problem = next((p for p in report.problems if p.offset >= 0), None)
    if intact < 0 or problem is None:
        return
    raise CorruptError(
        f"{report.path}: event {problem.index} at offset {problem.offset} is damaged ({problem.reason}) "
        f"and intact events follow at offset {intact}; "
        "nothing was changed: see 'evtape verify' and 'evtape recover'",
        problem.index,
        problem.offset,
        problem.reason,
    )


def _require_stream(report: Report) -> Report:
    if report.state == "invalid":
        raise FormatError(report.problems[0].message)
    return report


def _told(report: Report) -> str:
    if not report.lost:
        return f"{report.path}: EventCount was {report.event_count} and is {report.events} now; no event was lost"
    saved = f"saved in {report.quarantine}" if report.quarantine else "nothing to save"
    kept = f"kept {report.events} events and cut {report.cut} bytes of a torn tail"
    return f"{report.path}: {kept} ({report.reason}); {saved}"


# -------------------------------------------------------------------------------------------- decide


def find_intact(fd: int, report: Report) -> int:
    """Offset of an intact event behind the valid prefix, or -1 when all that follows is a torn tail.

    Every place is tried as the beginning of an entry: its size must fit, and its checksum match its payload. An entry
    without payload has no checksum to speak of, so its timestamp must also lie near those of the stream. A tail with
    too many candidates counts as intact.
    """
    bound = report.end + report.cut
    region = core.Region(fd, os.fstat(fd).st_size, report.path)
    tried = 0
    try:
        for start in range(report.end + 1, bound - ENTRY_SIZE + 1, _COPY):
            places = _candidates(region, start, min(start + _COPY, bound - ENTRY_SIZE + 1), bound, report)
            for place, size, checksum in places:
                tried += 1
                payload = region.view(place + ENTRY_SIZE, place + ENTRY_SIZE + size)
                if tried > _CANDIDATES or core.crc32(payload) == checksum:
                    return place
    finally:
        region.close()
    return -1


def _candidates(region: core.Region, start: int, stop: int, bound: int, report: Report) -> list[tuple[int, int, int]]:
    """(offset, size, checksum) of each place in [start, stop) where an entry could begin."""
    raw = np.frombuffer(region.view(start, stop + ENTRY_SIZE - 1), np.uint8)
    words = np.lib.stride_tricks.sliding_window_view(raw, ENTRY_SIZE)

    def field(first: int, kind: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        width = np.dtype(kind).itemsize
        return np.ascontiguousarray(words[:, first : first + width]).view(kind)[:, 0].astype(np.int64)

    timestamps, sizes, checksums = field(0, "<i8"), field(8, "<u4"), field(12, "<u4")
    at = np.arange(start, stop, dtype=np.int64)
    low = min(report.start_timestamp, report.first_timestamp or report.start_timestamp) - _DAY
    high = max(report.start_timestamp, report.last_timestamp) + 365 * _DAY
    empty = (sizes == 0) & (checksums == 0) & (timestamps != 0) & (timestamps >= low) & (timestamps <= high)
    keep = ((sizes > 0) | empty) & (sizes <= bound - ENTRY_SIZE - at)
    return list(zip(at[keep].tolist(), sizes[keep].tolist(), checksums[keep].tolist(), strict=True))


# ----------------------------------------------------------------------------------------------- cut


def _repair(fd: int, report: Report) -> Report:
    """Quarantine what is cut, store the header of the prefix, shorten the file."""
    if report.state == "clean":
        return report
    if report.cut:
        report = dataclasses.replace(report, quarantine=_quarantine(fd, report))
    if report.state == "damaged":
        region = core.Region(fd, report.size, report.path, True)
        try:
            region.store_header(report.end, report.events)
            region.flush(0, FIRST_OFFSET)
        finally:
            region.close()
    os.ftruncate(fd, report.end)
    os.fsync(fd)
    mark = sidecar.load(report.path)
    if mark is not None and mark.offset > report.end:
        sidecar.discard(report.path)  # and not before: a second crash needs to know what the first one may have torn
    return report


def _quarantine(fd: int, report: Report) -> str:
    """Copy the bytes that will be cut into a new file beside the stream and make it durable."""
    target = _free_name(f"{report.path}.quarantine-{report.end}")
    with NewFile(target) as out:
        _copy(fd, out, report.end, report.end + report.cut)
    return target


def _copy_prefix(fd: int, report: Report, output: str) -> None:
    with NewFile(output) as out:
        write_all(out, HEADER.pack(report.end, report.events, report.start_timestamp))
        _copy(fd, out, FIRST_OFFSET, report.end)


def _free_name(name: str) -> str:
    number = 0
    candidate = name
    while os.path.lexists(candidate):
        number += 1
        candidate = f"{name}.{number}"
    return candidate


def _copy(source: int, target: int, start: int, stop: int) -> None:
    region = core.Region(source, os.fstat(source).st_size, "")
    try:
        while start < stop:
            part = region.view(start, min(start + _COPY, stop))
            write_all(target, part)
            start += len(part)
    finally:
        region.close()

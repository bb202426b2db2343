"""Opening a journal after a crash: the segments that were not closed are repaired in order."""

from __future__ import annotations

import contextlib
import os
from itertools import pairwise

from .. import errors
from ..errors import FormatError, RecoveryWarning
from ..recovery.examined import Examined
from ..recovery.repair import examine_for_append, repair_for_append
from ..recovery.watermark import WatermarkFile, is_of_this_boot
from ..system.files import WRITE, open_descriptor
from ..system.lock import WriterLock
from .directory import Directory, closed_cleanly


def unclosed(directory: Directory, firsts: list[int]) -> list[int]:
    """The segments from the first one on that was not closed; the last one, which is active, is always among them.

    Segments are closed in order, so the search goes backwards to the first that was. O(segments that were not closed).
    """
    begin = len(firsts) - 1
    while begin > 0 and not closed_cleanly(directory.segment(firsts[begin - 1])):
        begin -= 1
    return firsts[max(begin, 0) :]


def repair_tail(directory: Directory, firsts: list[int]) -> list[int]:
    """Repair the segments that were not closed, except the last, which its writer repairs. Returns those that are left.

    If events of one are lost, the ones after it are set aside: none of their events was acknowledged as durable.
    Raises what opening a stream for append raises.
    """
    tail = unclosed(directory, firsts)
    for at, first in enumerate(tail[:-1]):
        if _repair(directory, first, tail[at + 1 :]):
            return [known for known in firsts if known <= first]
    _require_order(directory, firsts[-len(tail) - 1 :])
    return firsts


def _repair(directory: Directory, first: int, later: list[int]) -> bool:
    """Repair one segment, and set aside the later ones if events of this one are lost. Whether they were."""
    path = directory.segment(first)
    with contextlib.ExitStack() as stack:
        stack.enter_context(WriterLock(path))
        fd = open_descriptor(path, WRITE)
        stack.callback(os.close, fd)
        watermark_file = stack.enter_context(WatermarkFile(path, fd))
        with Examined(path, fd, watermark_file) as file:
            report = examine_for_append(file)
            # The death of a process loses nothing. Then it is not this segment that has lost events.
            may_lose = report.lost or (file.stored is not None and not is_of_this_boot(file.stored))
            lost = may_lose and first + report.events < later[0]
            if lost:
                _set_aside(directory, first + report.events, later)
        with Examined(path, fd, watermark_file) as file:
            repair_for_append(file)
        os.fsync(fd)
    return lost


def _set_aside(directory: Directory, end: int, later: list[int]) -> None:
    """Take segments out of the journal, the newest first: what is left at any moment is repaired in the same way."""
    moved = []
    for first in reversed(later):
        moved.append(directory.set_aside(first))
        directory.sync()
    names = ", ".join(os.path.basename(path) for path in reversed(moved))
    errors.warn(
        RecoveryWarning(
            f"{directory.path}: events were lost from {end} on, before any later event was durable; the journal goes "
            f"on with event {end}, and the segments after it are saved as {names}"
        )
    )


def _require_order(directory: Directory, tail: list[int]) -> None:
    """Warn of events that are missing before one of these segments."""
    for first, following in pairwise(tail):
        events = _events(directory.segment(first))
        if first + events > following:
            raise FormatError(
                f"{directory.shown(following)}: the segment before it has the events up to {first + events - 1}; "
                "one of the two does not belong here: move it away"
            )
        if first + events < following:
            errors.warn(
                RecoveryWarning(
                    f"{directory.path}: the events {first + events} to {following - 1} are missing between two "
                    "segments; the others can be read, and the journal goes on at its end"
                )
            )


def _events(path: str) -> int:
    """EventCount of a segment that was closed."""
    with open(path, "rb") as file:
        return int.from_bytes(file.read(16)[8:], "little", signed=True)

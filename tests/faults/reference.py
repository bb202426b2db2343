"""An independent parser of the format in plain Python, and the part that compares it with everything else that judges.

Nothing of evtape is imported by `verdict`: it is written from the description of the format alone, as slowly and as
plainly as possible, so that an error here and the same error there is unlikely.
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .harness import Context

DATA = Path(__file__).parent.parent / "data"


class Verdict(NamedTuple):
    """What is to be said about the bytes of a file."""

    state: str
    events: int
    end: int
    reason: str | None


class Entry(NamedTuple):
    """One entry as it stands in the file."""

    offset: int
    timestamp: int
    data: bytes
    intact: bool

    @property
    def zero(self) -> bool:
        """Whether it is sixteen zero bytes, which parse as an event but may be a block that never reached the disk."""
        return self.intact and self.timestamp == 0 and not self.data


def entries(data: bytes, bound: int) -> tuple[list[Entry], bool]:
    """The entries below `bound`, and whether they fill it exactly."""
    found = []
    at = 24
    while at + 16 <= bound:
        timestamp, size, checksum = struct.unpack_from("<qII", data, at)
        if at + 16 + size > bound:
            break
        payload = data[at + 16 : at + 16 + size]
        found.append(Entry(at, timestamp, payload, zlib.crc32(payload) == checksum))
        at += 16 + size
    return found, at == bound


def verdict(data: bytes) -> Verdict:
    """(state, events, end, reason) of a file with these bytes."""
    size = len(data)
    if size < 24:
        return Verdict("invalid", 0, 0, "header")
    write_offset, event_count, _ = struct.unpack_from("<qqq", data)
    usable = 24 <= write_offset <= size
    bound = write_offset if usable else size
    found, complete = entries(data, bound)
    adds_up = complete and len(found) == event_count

    # The longest valid prefix ends before the first entry that is bad, whatever the reason is.
    prefix = 0
    while prefix < len(found) and found[prefix].intact and (adds_up or not found[prefix].zero):
        prefix += 1
    if prefix < len(found):
        end = found[prefix].offset
        reason = "zero" if found[prefix].intact else "checksum"
    else:
        end = found[-1].offset + 16 + len(found[-1].data) if found else 24
        reason = None if complete else "size"

    if not usable:
        if prefix == 0:
            return Verdict("invalid", 0, 0, "header")
        return Verdict("damaged", prefix, end, "header" if write_offset < 24 else "truncated")
    if reason is None and not adds_up:
        reason = "count"
    if reason is not None:
        return Verdict("damaged", prefix, end, reason)
    return Verdict("clean" if size == write_offset else "open", prefix, end, None)


def run(ctx: Context) -> None:
    """The reference against the examples of the independent writer, against `check.c` and against both cores."""
    from . import checker, harness

    expected = json.loads((DATA / "expected.json").read_text())
    check = checker.Checker()
    cores = harness.both()
    for name, wanted in ctx.progress(list(expected.items()), "reference"):
        path = DATA / f"{name}.tape"
        want = Verdict(wanted["state"], wanted["events"], wanted["end"], wanted["reason"])
        said = {"reference": verdict(path.read_bytes()), "check.c": check.verdict(path.read_bytes())}
        for core, evtape in cores.items():
            report = evtape.verify(path)
            said[core] = Verdict(report.state, report.events, report.end, report.reason)
        for judge, answer in said.items():
            if answer != want:
                ctx.violation(f"{judge} misjudges an example", f"{name}: {answer}, expected {want}")
    ctx.figures["vectors"] = len(expected)
    ctx.figures["judges"] = 2 + len(cores)

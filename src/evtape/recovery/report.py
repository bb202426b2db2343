"""What a verification or a recovery reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..core import describe
from ..core.times import iso

#: ``"clean"``, ``"open"`` (larger than WriteOffset, otherwise good), ``"damaged"``, ``"invalid"`` (not a stream).
State = Literal["clean", "open", "damaged", "invalid"]
#: What is wrong with a stream; see docs/format.md.
ProblemReason = Literal["header", "truncated", "size", "checksum", "zero", "count", "timestamp", "missing"]
#: What a verification did with the index: ``"compared"``; ``"damaged"``: compared as far as it could be read;
#: ``"foreign"``: it belongs to another stream or an earlier writer; ``"missing"``.
IndexState = Literal["compared", "damaged", "foreign", "missing"]

Progress = Callable[[int, int], object]  #: called with the bytes done and the bytes in all


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a stream. ``ordinal`` and ``offset`` are -1 for what concerns the header."""

    reason: ProblemReason
    ordinal: int
    offset: int
    message: str


@dataclass(frozen=True)
class Salvaged:
    """A run of events that salvage copied from after damage. Each has a good checksum; its place is doubtful.

    One without events is a part of the damaged stream that was not searched.
    """

    ordinal: int  #: of the first one in the new stream
    events: int
    offset: int  #: where the run begins in the damaged stream
    end: int  #: where it ends there
    doubt: str  #: how it was found


@dataclass(frozen=True, repr=False)
class Report:
    """What ``verify`` found, and what ``recover`` did about it."""

    path: str
    state: State
    events: int  #: events of the longest valid prefix
    end: int  #: its end, a byte position
    problems: tuple[Problem, ...]  #: the first hundred, in the order they were met
    problem_count: int  #: all of them
    size: int  #: bytes of the file
    write_offset: int  #: as the header says
    event_count: int  #: as the header says
    start_timestamp: int
    first_timestamp: int | None  #: of the prefix; None without events
    last_timestamp: int | None  #: of the prefix; None without events
    unsorted_at: int  #: ordinal of the first event whose timestamp is lower than the one before it, or -1
    cut: int = 0  #: published bytes that recovery removed, or would remove
    quarantine: str | None = None  #: the file that they were saved to
    output: str | None = None  #: the recovered stream, if not in place
    index: IndexState | None = None  #: what verify did with the index file; None: it was not looked at
    compared: int = 0  #: events whose entry headers were compared with the index
    salvaged: tuple[Salvaged, ...] = ()  #: what was copied from after the damage, in the order of the file

    @property
    def reason(self) -> ProblemReason | None:
        """The reason of the first problem, or None."""
        return self.problems[0].reason if self.problems else None

    @property
    def ok(self) -> bool:
        """Whether every published event can be read."""
        return self.state in ("clean", "open")

    @property
    def lost(self) -> bool:
        """Whether published bytes are missing from the prefix, or may be: an unusable WriteOffset cannot tell.

        A wrong EventCount or timestamp alone loses nothing.
        """
        harmless = "count", "timestamp"
        return self.state == "invalid" or any(problem.reason not in harmless for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return dataclasses.asdict(self) | {"reason": self.reason, "ok": self.ok, "lost": self.lost}

    def _summary(self) -> dict[str, str]:
        """What matters of it, as text: label to value."""
        rows = {"state": self.state, "events": f"{self.events:,}", "bytes": f"{self.size:,}"}
        if self.first_timestamp is not None and self.last_timestamp is not None:
            rows |= {"first event": iso(self.first_timestamp), "last event": iso(self.last_timestamp)}
        if self.problem_count:
            rows["problems"] = f"{self.problem_count:,}, first: {self.reason}"
        if self.cut:
            rows["cut"] = f"{self.cut:,} bytes"
        if self.quarantine:
            rows["quarantine"] = self.quarantine
        return rows

    def __repr__(self) -> str:
        return describe.line("report", self.path, self._summary())

    def _repr_html_(self) -> str:
        return describe.table("report", self.path, self._summary())


def known_times(report: Report) -> tuple[int, int]:
    """The lowest and the highest time that are known of the stream, ns."""
    first = report.start_timestamp if report.first_timestamp is None else report.first_timestamp
    last = report.start_timestamp if report.last_timestamp is None else report.last_timestamp
    return min(report.start_timestamp, first), max(report.start_timestamp, last)

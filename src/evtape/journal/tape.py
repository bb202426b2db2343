"""What a reader and a writer of a journal have in common: an open journal is a sequence of events."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, overload

from .. import errors
from ..core.backend import core
from ..core.times import iso, nanoseconds
from ..errors import FormatError
from ..stream.reader import Reader
from ..stream.slices import Positions, Slice, is_array, positions_of
from ..stream.source import Side
from ..stream.tape import Tape
from .cursor import JournalCursor
from .follow import FollowedJournal, JournalFollower

SegmentState = Literal["closed", "active", "unclosed", "damaged"]


@dataclass(frozen=True)
class Segment:
    """One segment of a journal. ``evtape.open(segment.path)`` reads it as a stream."""

    path: str
    ordinals: range  #: of its events
    start: int | None  #: timestamp of its first event, ns; None without one
    end: int | None  #: timestamp of its last event, ns; None without one
    bytes: int  #: size of its file
    #: ``"active"``: the last one; ``"closed"``; ``"unclosed"``: its file was not cut yet; ``"damaged"``: not a stream,
    #: or fewer or more events than its name and the next one say
    state: SegmentState


class Journal(Tape):
    """A journal that is open. Used like a stream; ordinals and positions are those of the journal.

    ``journal[k]`` is event ``k`` for ever. One that was deleted raises ExpiredError. ``len`` is the number of ordinals
    from ``first_ordinal`` on.

    ``follow`` goes on over rolls. It raises ExpiredError if events were
    deleted that had not been delivered, and MissingError at a gap. Retention keeps what the consumer of a cursor has
    not committed. ``cursor`` raises ExpiredError if events were deleted that it had not passed
    (``keep_at_most_bytes``). The file of a cursor is ``cursor-<name>`` in the directory.
    """

    _source: FollowedJournal = None  # type: ignore[assignment] # until there is one

    @property
    def start_timestamp(self) -> int:
        """When the first segment that is left was created, ns."""
        firsts = self._source.firsts()
        if not firsts:
            raise FormatError(f"{self.path}: the journal has no segment yet")
        return self._source.segment(firsts[0]).region.load_header()[2]

    @property
    def segments(self) -> list[Segment]:
        """The segments, oldest first. O(events) at first, for the time of the last event of each, then O(segments)."""
        source = self._source
        firsts = source.firsts()
        found = []
        for at, first in enumerate(firsts):
            with contextlib.suppress(FileNotFoundError):  # deleted since
                found.append(self._segment(first, firsts[at + 1] if at + 1 < len(firsts) else None))
        return found

    def _segment(self, first: int, following: int | None) -> Segment:
        source = self._source
        path = source.directory.segment(first)
        size = os.stat(path).st_size
        shown = source.directory.shown(first)
        damaged = Segment(shown, range(first, first), None, None, size, "damaged")
        try:
            segment = source.segment(first)
            events = segment.length()
        except errors.Error:
            return damaged
        end = segment.region.load_header()[0]
        state: SegmentState = "closed" if end == size else "unclosed"
        if following is None:
            state = "active"
        elif first + events != following:
            state = "damaged"
        times = (source.first_time(first), source.last_time(first)) if events else (None, None)
        return Segment(shown, range(first, first + events), *times, size, state)

    # -------------------------------------------------------------------------------------- sequence

    @overload
    def __getitem__(self, key: int) -> core.Event: ...
    @overload
    def __getitem__(self, key: slice | Positions) -> Slice: ...
    def __getitem__(self, key: int | slice | Positions) -> core.Event | Slice:
        """Event by ordinal, negative from the end. An event that was deleted raises ExpiredError.

        A slice of ordinals is lazy and fixed when it is made, and leaves out what was deleted before.
        A 1-D array or list of ordinals gives a slice of these events, in that order.
        """
        if isinstance(key, slice):
            first, end = self._source.span()
            return Slice(self._source, _from(range(end)[key], first))
        if is_array(key):
            first, end = self._source.span()
            ordinals = positions_of(key, end, f"{self.path}: ordinal", "journal")
            if len(ordinals) and ordinals.min() < first:
                raise errors.expired(self.path, int(ordinals.min()), first)
            return Slice(self._source, ordinals)
        return self._source.at(key)

    def searchsorted(self, when: Any, side: Side = "left") -> int:
        """The ordinal at which an event at ``when`` belongs. O(log segments), and two segments are looked at.

        Raises ValueError when timestamps go backwards there, because there is no such ordinal then; ``between`` answers
        there too.
        """
        if side not in ("left", "right"):
            raise ValueError(f"side must be 'left' or 'right', not {side!r}")
        time = nanoseconds(when, self.path)
        first, end = self._source.span()
        low, high = (time, None) if side == "left" else (None, time)
        found = self._source.window(low, high, first, end)
        if found is None:
            raise ValueError(f"{self.path}: timestamps go backwards, so there is no position; use between()")
        return found.start if side == "left" else found.stop

    def __iter__(self) -> Iterator[core.Event]:
        return self._source.all_events()

    __iter__.__doc__ = Tape.__iter__.__doc__

    # ---------------------------------------------------------------------------------------- follow

    def _follower(self, start: Any, **options: Any) -> JournalFollower:
        return JournalFollower(self._source, start, **options)

    def _cursor(self, name: str, start: Any) -> JournalCursor:
        return JournalCursor(self._source, name, start)  # type: ignore[arg-type]

    # --------------------------------------------------------------------------------------- showing

    def _summary(self) -> dict[str, str]:
        source = self._source
        if source.closed:
            return {"state": "closed"}
        first, end = source.span()
        rows = {"events": f"{end - first:,}", "segments": f"{len(source.firsts()):,}"}
        if end > first:
            rows["ordinals"] = f"{first:,} to {end - 1:,}"
            rows["first event"] = iso(source.event(first).timestamp)
            rows["last event"] = iso(source.event(end - 1).timestamp)
        return rows


class JournalReader(Journal, Reader):
    """A journal that is open for reading, also while another process writes it. Pickles as its path."""

    _source: FollowedJournal = None  # type: ignore[assignment] # until there is one

    def __init__(self, source: FollowedJournal) -> None:
        self._source = source

    def close(self) -> None:
        """Close the journal. Events and arrays that are still alive stay readable. Closing twice is fine."""
        self._source.close()

    @property
    def durable(self) -> Any:
        """How far the journal is known to be durable; see ``Tape.durable``. The offset is one in the last segment."""
        firsts = self._source.firsts()
        if not firsts:
            raise FormatError(f"{self.path}: the journal has no segment yet")
        position = self._source.segment(firsts[-1]).durable()
        return position._replace(ordinal=firsts[-1] + position.ordinal)

    def _refusal(self) -> Exception:
        if self.closed:
            return errors.closed(self.path)
        return errors.ReadOnlyError(f"{self.path}: the journal is open for reading; use open_journal with mode 'a'")


def _from(ordinals: range, first: int) -> range:
    """The ordinals that are not below ``first``."""
    if ordinals.step > 0:
        behind = max(0, -(-(first - ordinals.start) // ordinals.step))
        return ordinals[behind:]
    return range(ordinals.start, max(ordinals.stop, first - 1), ordinals.step)

"""Follow a journal: over rolls, and over deletions or an exception that says what was deleted."""

from __future__ import annotations

import os
from typing import Any, Final

from .. import errors
from ..core.backend import core
from ..core.format import FIRST_OFFSET
from ..stream.follow import Follower, Place
from ..stream.reader import FileSource
from ..stream.slices import Slice
from ..system.live import LiveFile
from .source import JournalSource

# Seconds of one sleep. A roll in the moment between the last look and the sleep wakes no one, and is seen after it.
_SLICE: Final = 0.02


class JournalPlace(Place):
    """Before event ``ordinal`` of a journal: a place in a segment, which hops to the next one when that is done."""

    def __init__(self, journal: JournalSource, ordinal: int) -> None:
        self.journal = journal
        super().__init__(segment_of(journal, ordinal), ordinal)

    def walk(self, stop: int) -> core.Events | None:
        walk = super().walk(stop)
        if walk is not None or 0 <= stop <= self.ordinal:
            return walk
        if self.may_hop():
            self._hop()
            return super().walk(stop)
        if self.journal.has_later(self.source.first):
            self._look_for_segment()
        return None

    def may_hop(self) -> bool:
        """Whether this is the end of a segment, and the next one is there."""
        return self.ordinal > self.source.first and os.path.exists(self.journal.directory.segment(self.ordinal))

    def _hop(self) -> None:
        """Go on in the next segment. Its name says that the one before it has no more events."""
        try:
            super().__init__(self.journal.segment(self.ordinal), self.ordinal)
        except FileNotFoundError:  # deleted in this moment
            self._look_for_segment()

    def has_news(self) -> bool:
        return super().has_news() or self.may_hop()

    def look(self) -> int:
        if self.may_hop():
            self._hop()
        bound = super().look()
        if bound == self.offset and self.journal.firsts()[-1:] != [self.source.first]:
            self._look_for_segment()
        return bound

    def require_name(self) -> None:
        if self.source.replaced:
            self._look_for_segment()

    def _look_for_segment(self) -> None:
        """Raise why the event at the place is in no segment, unless it may still come."""
        if not os.path.isdir(self.journal.name):
            raise errors.replaced(self.journal.path, self.ordinal)
        left = self.journal.directory.segments()
        cut = self.source.replaced and left and self.ordinal > left[0]
        if cut and (self.source.first in left or self.source.first > left[-1]):
            raise errors.rewound(self.journal.path, self.offset, FIRST_OFFSET)  # recovery has set the segment aside
        if self.ordinal in left or (self.source.first in left and super().look() > self.offset):
            return
        later = [first for first in left if first > self.ordinal]
        if self.source.first in left and not later:
            return
        if not left or self.ordinal < left[0]:
            raise errors.expired(self.journal.path, self.ordinal, left[0] if left else self.ordinal)
        raise errors.missing(self.journal.path, self.ordinal, later[0] if later else self.ordinal + 1)


class FollowedJournal(JournalSource):
    """The segments of a journal, and the places in them where a follower can stand."""

    def place(self, ordinal: int) -> Place:
        """The place before event ``ordinal``. Raises ExpiredError."""
        return JournalPlace(self, ordinal)

    def closed_cleanly(self) -> bool:
        """Whether the last segment ends where its events do, as a writer leaves it."""
        firsts = self.firsts()
        return bool(firsts) and self.segment(firsts[-1]).closed_cleanly()

    def live(self) -> LiveFile | None:
        """The page of the writer, to be joined and closed."""
        return self.segment(self.firsts()[-1]).live()


class JournalFollower(Follower):
    """What a follower of a journal delivers."""

    source: FollowedJournal  # type: ignore[assignment]
    place: JournalPlace

    def __init__(self, source: FollowedJournal, start: Any, **options: Any) -> None:
        super().__init__(source, start, **options)  # type: ignore[arg-type]
        self.wait.sleep_max = min(self.wait.sleep_max, _SLICE)
        self.wait.moved = self._may_hop

    def walk(self) -> core.Events | None:
        walk = self.place.walk(self._stop)
        self._wait_there()
        return walk

    def look(self) -> bool:
        over = super().look() and not self.place.may_hop()
        self._wait_there()
        return over

    def slice(self, walk: core.Events) -> Slice:
        events = super().slice(walk)
        self._wait_there()
        return events

    def _may_hop(self) -> bool:
        return self.place.may_hop()

    def _wait_there(self) -> None:
        if self.wait.source is not self.place.source:
            self.wait.move_to(self.place.source)


def segment_of(source: JournalSource, ordinal: int) -> FileSource:
    """The segment that has the event, or will have it. Raises ExpiredError."""
    firsts = source.firsts()
    at = source.position_of(ordinal, firsts)
    if at < 0:
        raise errors.expired(source.path, ordinal, firsts[0] if firsts else ordinal)
    return source.segment(firsts[at])

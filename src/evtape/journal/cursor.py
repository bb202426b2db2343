"""Cursors of a journal: the file ``cursor-<id>`` in its directory, with the record of a cursor of a stream.

The ordinal is the one in the journal. Offset, header and anchor are of the segment that has the event before the place.
"""

from __future__ import annotations

import os
from typing import Any

from .. import errors
from ..recovery.watermark import anchor
from ..stream.cursor import Cursor, _Place
from ..stream.follow import Follower
from .directory import CURSOR
from .follow import FollowedJournal, JournalFollower


class JournalCursor(Cursor):
    """A named place in a journal; see ``evtape.Cursor``. Retention keeps the events that are not committed."""

    _source: FollowedJournal  # type: ignore[assignment]

    def _path_of(self, name: str) -> str:
        return self._source.directory.file(f"{CURSOR}{name}")

    def _follower(self, **options: Any) -> Follower:
        self._require_kept(self._place)
        return JournalFollower(self._source, self._place.ordinal, **options)

    def _write_offset(self) -> int:
        return self._source.segment(self._source.firsts()[-1]).region.load_header()[0]

    def _at(self, ordinal: int) -> _Place:
        source = self._source
        firsts = source.firsts()
        at = source.position_of(max(ordinal - 1, firsts[0]), firsts)  # of the event before the place, if it is left
        segment = source.segment(firsts[max(at, 0)])
        offset, (_, header) = segment.before(ordinal)
        return _Place(segment.region.load_header()[2], ordinal, offset, header, anchor(segment.region, offset))

    def _flush(self, place: _Place) -> None:
        """Flush the directory, and every segment from the last commit to the place."""
        source = self._source
        source.directory.sync()
        for first, _, _ in source.parts(max(self._committed.ordinal, source.span()[0]), place.ordinal):
            os.fsync(source.segment(first).fd)

    def _misfit(self, place: _Place) -> str:
        first, end = self._source.span()
        if place.ordinal > end:
            return f"the journal ends before event {end} now, because recovery has cut it, or it is another journal"
        if place.ordinal > first and self._at(place.ordinal) != place:  # else nothing is left to compare
            return "the events before it are not the ones that were delivered"
        return ""

    def _require_kept(self, place: _Place) -> None:
        """ExpiredError if events were deleted that this cursor had not passed."""
        first = self._source.span()[0]
        if place.ordinal < first:
            raise errors.ExpiredError(
                f"{self.path}: {first - place.ordinal} events from event {place.ordinal} on were deleted before this "
                f"cursor had passed them; go on with cursor.seek({first}), or delete the file",
                place.ordinal,
                first,
            )

"""How events become durable, and where that is noted."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..core.backend import core
from ..core.format import FIRST_OFFSET
from ..recovery import watermark
from ..recovery.watermark import Watermark, WatermarkFile

# The record in the sidecar follows a flush without a flush of its own. It gets one when a power loss could otherwise
# cost a walk of more bytes than this.
_RECORD_LAG_MAX = 4 << 20


class Position(NamedTuple):
    """A place between two events."""

    ordinal: int  #: of the next event, which is the number of events before it
    offset: int  #: where the next entry begins, a byte position


class Flusher:
    """Makes the events of an appender durable. One thread at a time may call it.

    A sync costs one flush. Entries and header are flushed together, in any order, because the file shows after a power
    loss which of them arrived. The record in the sidecar is stored after the flush, so it is true whenever it reaches
    the disk. See docs/dataflow.md.
    """

    def __init__(
        self,
        region: core.Region,
        position: Callable[[], tuple[int, int, int]],
        watermark_file: WatermarkFile,
        first: int = 0,
    ) -> None:
        self._region = region
        self._flush_pages = region.flush
        self._position = position  # as `core.Appender.position`, of the region
        self._watermark_file = watermark_file
        self._first = first  # the ordinal of the first event of the region
        self.durable = Position(first, FIRST_OFFSET)  # what another process appended may not be durable yet
        self._recorded = FIRST_OFFSET  # a power loss leaves a record of this offset or of a higher one
        self._start_timestamp = region.load_header()[2]
        self._flushed = self.durable  # by the last flush, acknowledged or not
        self._last_timestamp = 0  # of the last event below it
        self.space = 0  # the next flush writes the file up to this byte, the space after the events included

    @property
    def faults(self) -> int:
        """Pages of the region that were replaced by zeros."""
        return self._region.faults

    def freeze(self, position: tuple[int, int, int]) -> None:
        """Nothing is appended to the region any more. ``position`` is the last one."""
        self._position = lambda: position

    def flush(self) -> bool:
        """Flush what was appended since the last flush. False if there is nothing. ``acknowledge`` ends it."""
        offset, count, self._last_timestamp = self._position()
        self._flushed = Position(count, offset)
        if self._flushed == self.durable:
            return False
        self._flush_pages(0, max(offset, self.space))
        self.space = 0
        return True

    def acknowledge(self) -> None:
        """Note that the events of the last flush are durable."""
        before, now = self.durable, self._flushed
        if (
            now.offset - self._recorded >= _RECORD_LAG_MAX
            # Recovery would take such an event for torn, unless the record says that it is durable.
            or core.first_ambiguous(self._region, before.offset, now.offset) >= 0
        ):
            self._watermark_file.store(self._mark(now))
            self._recorded = now.offset
        else:
            self._watermark_file.update(self._mark(now))
        self.durable = now

    def _mark(self, position: Position) -> Watermark:
        return watermark.at(
            self._region, self._start_timestamp, position.offset, position.ordinal - self._first, self._last_timestamp
        )

    def record(self) -> None:
        """Make the record durable, unless it is."""
        if self._recorded != self.durable.offset:
            self._watermark_file.store(self._mark(self.durable))
            self._recorded = self.durable.offset

    def renew_record(self) -> None:
        """For a writer that takes over: make the records of all earlier writers invalid."""
        self._watermark_file.renew(self._mark(self.durable))
        self._recorded = self.durable.offset

    def leave_record(self, from_size: int = watermark.FROM_SIZE) -> None:
        """At the end: a stream of ``from_size`` bytes keeps its record, a smaller one is walked in a moment without.

        The removal may be undone by a power loss, so the record has to be the last one even then.
        """
        if self._watermark_file.held or self.durable.offset >= from_size:
            self.record()
        if self.durable.offset < from_size:
            self._watermark_file.discard()

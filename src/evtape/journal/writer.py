"""The writer of a journal: a writer of a stream that moves on to another file.

What `stream.Writer` holds of its stream is, in a journal, of the active segment. A roll replaces it. The segment before
it is closed afterwards, in another thread.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from .. import errors
from ..core.backend import core
from ..core.format import FIRST_OFFSET, INT64_MAX
from ..schema import Schema
from ..stream.flusher import Flusher, Position
from ..stream.indexing import Indexing
from ..stream.opened import OpenedStream, cut
from ..stream.source import StreamSource
from ..stream.writer import Options, Writer
from ..system.files import DISK_FULL, READ, descriptor, size_of
from ..system.live import LiveFile
from ..system.lock import WriterLock
from ..system.signals import SignalsDeferred
from .directory import Directory
from .follow import FollowedJournal
from .hook import Hook
from .retention import Closed, Retention
from .settings import Settings
from .spare import Spare, make_spare, prepare_some
from .tape import Journal
from .threads import Housekeeper, Maker

T = TypeVar("T")

# The preallocator of the next segment starts as if its writer had written so much: enough for a thread, and too little
# for the longest distance. Two preallocators share one processor on a small machine.
_KNOWN = 16 << 20
_AHEAD = 500_000_000  # ns before a roll by time at which the next segment is made
_NS = 1_000_000_000


@dataclass
class Rolled:
    """A segment to which nothing is appended any more, and which is not closed yet."""

    first: int
    stop: int
    end: int  #: WriteOffset
    opened: OpenedStream
    flusher: Flusher
    index: Indexing
    live: LiveFile

    def give_up(self, path: str, durable: bool) -> None:
        """Close everything of it."""
        self.index.close()
        self.opened.finish(path, self.live, None, durable=durable)


@dataclass(frozen=True)
class OpenedJournal:
    """A journal that is locked and repaired, ready for a writer."""

    directory: Directory
    lock: WriterLock
    settings: Settings
    first: int  #: first ordinal of the active segment
    active: OpenedStream
    active_since: int  #: when the active segment was last written to, ns; 0 for a new one
    closed: list[Closed]

    def close(self) -> None:
        """For when there will be no writer."""
        self.active.close()
        self.lock.release()


class JournalWriter(Journal, Writer):
    """A journal that is open for appending, and can be read as well. Threads may share it.

    ``append`` is the core's own method, as in a stream. The append that does not fit into the active segment moves the
    core to the next one, which was made ahead.
    """

    def __init__(self, opened: OpenedJournal, options: Options, on_closed: Callable[[str], Any] | None) -> None:
        self._directory = opened.directory
        self._settings = opened.settings
        self._wants_index = options.index
        self._journal_lock = opened.lock
        self._cap = opened.settings.roll_bytes
        self._switch = threading.RLock()  # held while a roll replaces what belongs to the active segment
        self._rolled: deque[Rolled] = deque()
        self._unflushed: deque[int] = deque()  # segments that were closed without a flush (durability "none")
        self._unnamed = True  # whether a name in the directory may not be durable
        self._ahead = False  # whether a preallocator prepares the space of the active segment
        self._period = self._period_of(opened.active_since or time.time_ns())
        self._maker = Maker(self._make_spare)
        self._housekeeper = Housekeeper(self)
        self._retention = Retention(
            opened.directory, opened.settings, opened.closed, durable=options.durability != "none"
        )
        opened.active.region.bound = self._cap
        super().__init__(opened.directory.path, options, opened.active, opened.first)
        self._hook: Hook | None = None
        if on_closed is not None:
            self._hook = Hook(opened.directory, on_closed, [segment.first for segment in opened.closed])
            self._retention.waits_for = self._hook.needs
        if opened.settings.roll_every or opened.settings.forgets:
            self._housekeeper.call()

    def _declare(self, declared: Schema | None) -> None:
        """Take the schema of the settings, which `declared` is in if it was given."""
        self._schema = self._source.schema()
        self._bind()

    def _open_source(self, path: str, options: Options, opened: OpenedStream) -> StreamSource:
        return FollowedJournal(self._directory, options.verify_checksums)  # type: ignore[return-value]

    # ---------------------------------------------------------------------------------------- append

    def _reserve(self, end: int, first: int) -> None:
        with SignalsDeferred(), self._section:
            if self._failure is not None:
                raise self._failure()
            if first != self._appender.first:
                return  # another thread has rolled since: the append looks again
            if end < 0:
                raise self._fault()
            if end > self._appender.limit:
                self._make_room(end)

    def _make_room(self, end: int) -> None:
        if end > self._cap and self._appender.offset > FIRST_OFFSET:
            self._roll()
            return
        self._dropping(lambda: self._grow(end))
        self._index.grown()
        self._order_next()

    def _order_next(self) -> None:
        """Have the next segment made if a preallocator works for this one, or half of this one is there."""
        if self._ahead or 2 * self._region.size >= self._cap:
            self._maker.order()

    def _dropping(self, step: Callable[[], T]) -> T:
        """``step()``; on a full disk after the oldest segment was deleted, if the settings say so."""
        while True:
            try:
                return step()
            except OSError as error:
                drops = error.errno in DISK_FULL and self._settings.on_full == "drop_oldest"
                if not drops or not self._retention.drop_oldest():
                    raise

    def _grow(self, end: int) -> None:
        super()._grow(end)
        self._ahead = self._region.preallocates

    def _make_spare(self) -> Spare:
        return make_spare(self._directory, self._durability != "none", self._prepare)

    def _prepare(self, region: core.Region) -> None:
        """Preallocate the space of the next segment as that of the active one was."""
        region.bound = self._cap
        region.set_page_size(self._region.page_size)
        if self._ahead:
            written = min(self._written + self._appender.offset, _KNOWN)
            region.start_preallocator(self._durability != "none", written, self._region)
        prepare_some(region)

    def roll(self) -> bool:
        """Close the active segment and begin another one. False, and nothing happens, if it has no event."""
        with SignalsDeferred(), self._section:
            if self._failure is not None:
                raise self._failure()
            if self._appender.offset <= FIRST_OFFSET:
                return False
            self._roll()
            return True

    def prune(self) -> list[range]:
        """Delete now what the settings do not keep; returns the ordinals that were deleted. O(segments deleted)."""
        if self._failure is not None:
            raise self._failure()
        return [range(segment.first, segment.stop) for segment in self._retention.run()]

    def _roll(self) -> None:
        """Move on to the next segment. An OSError leaves everything as it was."""
        self._require_whole()
        appender = self._appender
        position, spare = self._dropping(self._next_segment)
        opened = spare.opened
        before = OpenedStream(self._lock, self._fd, self._region, self._watermark_file)
        first = appender.first
        with self._switch:
            self._unnamed = True
            self._flusher.freeze(position)
            appender.move_to(opened.region, min(opened.region.size, self._cap), spare.page)
            rolled = Rolled(first, position[1], position[0], before, self._flusher, self._index, self._live)
            self._rolled.append(rolled)
            self._region, self._lock, self._watermark_file = opened.region, opened.lock, opened.watermark_file
            self._fd = opened.fd
            self._flusher = Flusher(opened.region, appender.position, opened.watermark_file, position[1])
            self._index = Indexing(opened.region, opened.watermark_file.index_file(), self._wants_index)
            self._live = spare.live
        if self._durability == "full":
            self._flusher.space = opened.region.size
        self._written += position[0]
        self._period = self._period_of(time.time_ns())
        self._order_next()
        self._housekeeper.call()

    def _next_segment(self) -> tuple[tuple[int, int, int], Spare]:
        """The last position in the active segment, and the next segment, which has its name."""
        spare = self._maker.take()
        self._appender.limit = 0  # from here on other threads that append wait for the end of the roll
        try:
            position = self._appender.position()
            try:
                spare.give_name(position[1])
            except FileNotFoundError:  # another program has removed it
                spare.discard()
                spare = self._maker.take()
                spare.give_name(position[1])
        except BaseException:
            self._set_limit()
            self._maker.give_back(spare)
            raise
        return position, spare

    def _require_whole(self) -> None:
        with self._switch:
            published, fd = self._appender.position()[0], self._fd
        size = size_of(fd)
        if size < published:
            failure = errors.truncated(self.path, size, published)
            self._fail(lambda: failure)
            raise failure

    # ------------------------------------------------------------------------------------------ sync

    @property
    def durable(self) -> Position:
        """How far the journal is known to be durable: the events below ``durable.ordinal`` survive power loss. O(1).

        The offset is one in the segment of that event.
        """
        with self._switch:
            return (self._rolled[0].flusher if self._rolled else self._flusher).durable

    def _flush_for_all(self, events: int) -> int:
        """Flush the directory, and every segment that is not flushed yet, the oldest first."""
        with self._switch:
            rolled, flusher = list(self._rolled), self._flusher
        if self._failure is not None:
            raise self._failure()
        self._flush_names()
        for segment in rolled:
            self._close_rolled(segment, flush=True)
        return self._flush(flusher, events)

    def _flush_names(self) -> None:
        """Make the names of the segments durable, and the segments that were closed without a flush."""
        try:
            while self._unflushed:
                with (
                    contextlib.suppress(FileNotFoundError),
                    descriptor(self._directory.segment(self._unflushed[0]), READ) as fd,
                ):
                    os.fsync(fd)
                self._unflushed.popleft()
            if self._unnamed:
                self._unnamed = False
                self._directory.sync()
        except OSError as error:
            message = (
                f"{self.path}: an earlier flush failed ({error.strerror}), so durability is unknown; "
                "open the journal again"
            )
            self._fail(lambda: errors.Error(message))
            raise

    def _close_rolled(self, segment: Rolled, *, flush: bool) -> None:
        """Close a segment that nothing is appended to. One thread at a time calls it, for the oldest."""
        path, fd = self._directory.segment(segment.first), segment.opened.fd
        if size_of(fd) < segment.end:
            failure = errors.truncated(self._directory.shown(segment.first), size_of(fd), segment.end)
            self._fail(lambda: failure)
            raise failure
        if flush:
            self._flush(segment.flusher, sys.maxsize)
            segment.flusher.leave_record(INT64_MAX)  # nothing is appended to it any more
        cut(path, fd, segment.end, durable=flush)  # if this fails, it is tried again
        segment.opened.region.stop_preallocator()  # whose thread may be at work on the index
        segment.index.finish(segment.end, durable=flush)
        with self._switch:
            self._rolled.popleft()
        if not flush:
            self._unflushed.append(segment.first)
        segment.give_up(path, durable=flush)
        self._retention.add(Closed(segment.first, segment.stop, segment.end, time.time_ns()))
        if self._hook is not None:
            self._hook.add(segment.first)

    # -------------------------------------------------------------------------------- in another thread

    def _keep_house(self) -> float | None:
        """Close segments, roll by time, delete what is not kept; returns the seconds to the next."""
        self._accompany()
        while self._rolled and not self.closed:
            with self._commit.exclusive():
                if self._failure is not None:
                    break
                with self._switch:
                    segment = self._rolled[0] if self._rolled else None
                if segment is not None and self._durability != "none":
                    self._flush_names()
                if segment is not None:
                    self._close_rolled(segment, flush=self._durability != "none")
        seconds = self._roll_by_time()
        if self._settings.forgets and not self.closed:
            self._retention.run()
            if self._settings.keep_for:
                seconds = min(seconds or 60.0, max(self._settings.keep_for / _NS / 10, 0.1), 60.0)
            elif self._hook is not None:
                seconds = min(seconds or 1.0, 1.0)  # the hook may have succeeded for a segment that is due
        return seconds

    def _accompany(self) -> None:
        """Have the followers of the active segment woken by each append, and its index made after the writer."""
        with self._section:
            if self._failure is None:
                self._index.grown()
                if not self._live.is_current:
                    self._appender.share(self._live.offer())

    def _roll_by_time(self) -> float | None:
        every = self._settings.roll_every
        if every is None:
            return None
        now = time.time_ns()
        period = self._period_of(now)
        if period > self._period and not self.closed and not self.roll():
            self._period = period
        left = (self._period + 1) * every - now
        if left > _AHEAD:
            return (left - _AHEAD) / _NS
        if self._appender.offset > FIRST_OFFSET:
            self._maker.order()
        return max(left / _NS, 0.001)

    def _period_of(self, now: int) -> int:
        """The number of the interval between two rolls by time that ``now`` is in. They begin at 1970-01-01 UTC."""
        every = self._settings.roll_every
        return 0 if every is None else now // every

    # ----------------------------------------------------------------------------------------- close

    def close(self) -> None:
        """Make the journal durable (unless ``durability="none"``), close the active segment, and release the lock."""
        super().close()
        self._housekeeper.stop()
        self._maker.wait()
        self._housekeeper.wait()
        if self._hook is not None:
            self._hook.stop()

    def _finish(self) -> None:
        self._maker.stop()
        super()._finish()

    def _shut(self, finished: bool) -> None:
        try:
            while self._rolled:
                segment = self._rolled[0]
                if finished:
                    self._close_rolled(segment, flush=self._durability != "none")
                else:
                    self._rolled.popleft()
                    segment.give_up(self._directory.segment(segment.first), durable=False)
            if finished and self._hook is None:
                self._retention.run()
        finally:
            try:
                super()._shut(finished)
            finally:
                self._journal_lock.release()

    def _before_fork(self) -> None:
        super()._before_fork()
        self._maker.before_fork()
        for segment in list(self._rolled):
            segment.opened.region.stop_preallocator()

    def _forked(self) -> None:
        if self.closed:
            return
        super()._forked()
        self._switch = threading.RLock()
        for segment in self._rolled:
            segment.live.close()
            segment.index.close()
            segment.opened.region.forked()
            segment.opened.lock.abandon()
        self._rolled.clear()
        self._maker.forked()
        self._housekeeper = Housekeeper(self)
        self._retention.forked()
        self._source.forget()
        self._hook = None
        self._journal_lock.abandon()

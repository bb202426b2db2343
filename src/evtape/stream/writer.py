"""The append path: open -> lock -> core.append -> publish -> sync -> close."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .. import errors
from ..core.backend import core
from ..core.format import FIRST_OFFSET, HEADER_SIZE, TIME_MIN
from ..core.paging import HUGE_PAGE
from ..core.times import nanosecond_array
from ..errors import Error
from ..recovery import watermark
from ..recovery.report import Report
from ..system.signals import SignalsDeferred
from .create import DISK_FULL, OpenedStream
from .reader import FileSource
from .section import Section
from .source import StreamSource
from .tape import Tape
from .ticker import Ticker

Durability = Literal["none", "close", "interval", "full"]

# A file is extended in steps that follow its size: a stream of ten events never holds megabytes, and a fast one is
# seldom extended.
_STEP_MIN = 1 << 16
_STEP_MAX = 8 << 20


@dataclass(frozen=True)
class Options:
    """How a stream is written; see ``evtape.open``."""

    capacity: int = 0  #: bytes preallocated before the first append
    durability: Durability = "close"
    interval: float = 1.0  #: seconds between flushes with durability "interval"
    verify_checksums: bool = True  #: whether a checksum is compared when a payload is handed out


writers: weakref.WeakSet[Writer] = weakref.WeakSet()  #: those of this process that are open


class WriterSource(StreamSource):
    """The events of a stream that this process writes. The region is the writer's."""

    @property
    def closed(self) -> bool:
        return not self.region.reserved

    def refresh(self) -> tuple[int, int]:
        write_offset, event_count, _ = self.region.load_header()  # raises once the region is closed
        if self.region.faults:
            raise errors.faulted(self.path)
        return write_offset, event_count

    def reopen(self) -> tuple[Any, tuple[str, bool]]:
        return FileSource, (self.path, self.verify_checksums)


class Writer(Tape):
    """A stream that is open for appending, and can be read as well.

    Threads may share it; a forked child may not write.

    ``append`` is the core's own method, so that an event costs one call. Everything else that can happen to a writer
    (file full, closed, forked, failed) shows in ``limit``, the one value the core compares, and is dealt with in
    ``_reserve``.
    """

    _fd = -1  # the descriptor is the caller's until all is well

    def __init__(self, path: str, options: Options, opened: OpenedStream) -> None:
        self._region = opened.region
        self._source = WriterSource(path, opened.region, options.verify_checksums)
        self._recovered = opened.recovered
        self._lock = opened.lock
        self._watermark_file = opened.watermark_file
        self._durability = options.durability
        self._slow = threading.RLock()
        self._section = Section(path, self._slow)
        self._failure: Callable[[], Exception] | None = None
        last = None if self._recovered is None else self._recovered.last_timestamp
        self._appender = core.Appender(self._region, TIME_MIN if last is None else last, self._reserve)
        self._appender.limit = self._region.size
        # What another process appended may not be durable yet, so the first flush begins at the beginning.
        self._synced = FIRST_OFFSET
        self._marked = FIRST_OFFSET  # up to where the sidecar says so
        self._ticker = Ticker(self, options.interval) if options.durability == "interval" else None
        self._bind()
        writers.add(self)
        self._fd = opened.fd

    def _bind(self) -> None:
        """Put the core's method where ``append`` is looked up first.

        Not done where every append must also be flushed.
        """
        if self._durability != "full":
            self.__dict__["append"] = self._appender.append

    # ---------------------------------------------------------------------------------------- append

    def append(self, data: Any, timestamp: Any = None) -> int:
        """Append one event and return its ordinal.

        ``data`` is any contiguous buffer of at most 2**32-1 bytes; ``timestamp`` int ns, datetime or datetime64, by
        default now and never lower than the last one. When this returns, every process can read the event, and it
        survives ``kill -9``; with ``durability="full"`` it survives power loss too. O(len(data)).

        Raises TypeError (no buffer), ValueError (not contiguous, too large, or timestamp 0 with an empty payload),
        OverflowError (timestamp outside int64), OSError (no space: the stream is as before, and appending works again
        once there is some), ClosedError, ReadOnlyError.
        """
        with self._slow:  # so that a close() in another thread cannot come between the two
            ordinal = self._appender.append(data, timestamp)
            self.sync()
        return ordinal

    def append_many(self, payloads: Iterable[Any], timestamps: Any = None) -> range:
        """Append a batch of buffers, published whole or not at all; returns their ordinals.

        ``timestamps`` has one time per payload; without it the batch has one reading of the clock. Errors as
        ``append``, naming the position of the element. O(bytes).
        """
        items: Any = payloads
        if timestamps is not None or type(items) not in (list, tuple):
            try:
                items = tuple(payloads)
            except TypeError:
                raise errors.not_a_sequence(self.path, "payloads", payloads) from None
        return self._batch(self._appender.append_many, items, self._stamps(timestamps, len(items)))

    def append_array(self, array: Any, timestamps: Any = None) -> range:
        """Append each element along the first axis of ``array`` as one event; returns their ordinals.

        A 2-D array gives one event per row, a 1-D array (structured or not) one per element. Any layout is taken; one
        whose rows are contiguous is not copied. Raises ValueError for a 0-d array or one of Python objects; else as
        ``append_many``.
        """
        try:
            values = np.asarray(array)
        except ValueError as error:
            raise ValueError(f"{self.path}: append_array needs an array of equal rows: {error}") from None
        if values.ndim == 0:
            raise ValueError(f"{self.path}: append_array needs an array of at least one dimension, one event per row")
        if values.dtype.hasobject:
            raise ValueError(f"{self.path}: an array of Python objects ({values.dtype}) has no bytes to store")
        stamps = self._stamps(timestamps, len(values))
        return self._batch(self._appender.append_rows, _rows_of_bytes(values), stamps)

    def _stamps(self, timestamps: Any, events: int) -> Any:
        if timestamps is None:
            return None
        stamps = nanosecond_array(timestamps, self.path)
        if len(stamps) != events:
            raise errors.lengths_differ(self.path, events, len(stamps))
        return stamps

    def _batch(self, write: Callable[[Any, Any], range], items: Any, stamps: Any) -> range:
        if self._durability != "full":
            return write(items, stamps)
        with self._slow:
            ordinals = write(items, stamps)
            self.sync()
        return ordinals

    # --------------------------------------------------------------------------------------- reserve

    def _reserve(self, end: int) -> None:
        """The slow path of every append: preallocate up to byte ``end``, or raise what prevents writing."""
        with SignalsDeferred(), self._section:
            if self._failure is not None:
                raise self._failure()
            if end < 0:  # the memory under the appender faulted; what it stored was not published
                raise self._fault()
            if end > self._appender.limit:
                self._grow(end)

    def _grow(self, end: int) -> None:
        """Extend the file to ``end`` and a step beyond, in the background from here on where the core can."""
        self._require_whole()
        region = self._region
        region.huge_pages = self._wants_huge_pages(end)
        if end > region.reserved:
            self._stop_preallocator()
        elif (region.huge_pages or end > HUGE_PAGE) and region.start_preallocator(self._durability != "none"):
            region.grow(end)
            return  # the core moves the limit itself, so that it can ask for more before it runs out
        step = min(max(region.size, _STEP_MIN), _STEP_MAX)
        try:
            region.grow(_round_up(end + step, _STEP_MIN))
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            region.grow(end)  # only what this event needs
        self._appender.limit = region.size

    def _wants_huge_pages(self, end: int) -> bool:
        """Huge pages are made in a tenth of the time, but a flush writes a whole one for a single event.

        So a stream that is flushed at each append never gets them, and one that is flushed now and then only once it
        is larger than one of them.
        """
        return self._durability == "none" or (self._durability != "full" and end > HUGE_PAGE)

    def _stop_preallocator(self) -> None:
        self._appender.pause()
        self._region.stop_preallocator()

    def _fail(self, failure: Callable[[], Exception]) -> None:
        """From here on every write raises ``failure()``."""
        self._failure = failure
        self._appender.halt()

    def _require_whole(self) -> None:
        """Fail for good if another process cut the file below WriteOffset.

        To go on would put zeros in the place of events.
        """
        published = self._appender.position()[0]
        size = os.fstat(self._fd).st_size
        if size < published:
            failure = errors.truncated(self.path, size, published)
            self._fail(lambda: failure)
            raise failure

    def _fault(self) -> Exception:
        """Fail for good, because a page of the mapping is gone, and say why it is."""
        # Where the file is still there, the disk could not take the page: it is bad, or copies on write and is full.
        shorter = os.fstat(self._fd).st_size < self._appender.limit
        failure: Exception = errors.faulted(self.path) if shorter else errors.not_stored(self.path)
        self._fail(lambda: failure)
        return failure

    def _refusal(self) -> Exception:
        return errors.closed(self.path) if self._failure is None else self._failure()

    # ------------------------------------------------------------------------------------------ sync

    def sync(self) -> None:
        """Make every event appended so far durable: when this returns they survive power loss.

        The pages of the events are flushed first, then the header that points past them. A flush that fails raises
        OSError and poisons the writer, because the kernel reports such an error once and would call the next flush a
        success.
        """
        with SignalsDeferred(), self._section:
            if self._failure is not None:
                raise self._failure()
            position = self._flush()
            if self._marked != self._synced:
                self._mark(position)

    def _flush(self) -> tuple[int, int, int]:
        """Flush what was appended since the last time; returns the position up to which all is durable now."""
        try:
            self._require_whole()
            position = self._appender.position()
            end = position[0]
            if end == self._synced:
                return position
            self._region.flush(self._synced, end)
            self._region.flush(0, HEADER_SIZE)
        except OSError as error:
            message = (
                f"{self.path}: an earlier flush failed ({error.strerror}), so durability is unknown; "
                "open the stream again"
            )
            self._fail(lambda: Error(message))
            raise
        if (
            self._region.faults
        ):  # pages that the guard replaced are no longer the file's, so nothing of them was flushed
            raise self._fault()
        self._synced = end
        return position

    def _mark(self, position: tuple[int, int, int]) -> None:
        """Note in the sidecar what is durable now, so that opening after a crash need not walk it."""
        self._watermark_file.store(watermark.at(self._region, *position))
        self._marked = position[0]

    def _renew_watermark(self) -> None:
        """When a stream was found: make what it holds durable and note it, before anything is appended.

        What a power loss tears after a watermark can be recognised. And a sidecar of an earlier boot
        must not stay, or else what is appended from here on would be taken for torn by a power loss before it.
        """
        if self._recovered is None:
            return
        if self._durability != "none" or self._watermark_file.is_bound:
            position = self._flush()
            self._watermark_file.renew(watermark.at(self._region, *position))
            self._marked = position[0]

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._fd < 0

    @property
    def recovered(self) -> Report | None:
        """What opening found and repaired, or None for a stream that was just created."""
        return self._recovered

    @property
    def synced(self) -> int:
        """Byte position below which every event is known to be durable."""
        return self._synced

    # ----------------------------------------------------------------------------------------- close

    def close(self) -> None:
        """Make the stream durable (unless ``durability="none"``), cut the file to its events and release the lock."""
        if self.closed:
            return
        with SignalsDeferred(), self._section:
            if not self.closed:  # else another thread has closed it
                self._finish()
        if self._ticker is not None:
            self._ticker.wait()

    def _finish(self) -> None:
        cut = False
        failed = self._failure is not None
        if not failed:
            self._appender.halt()  # first: where this thread is inside an append, it refuses and all stays as it was
        try:
            if self._ticker is not None:
                self._ticker.stop()
            self.__dict__.pop("append", None)  # after the halt: the method of the class would append once more
            cut = not failed
            if not failed and self._durability == "none":
                self._require_whole()
            elif not failed:
                self._leave_watermark(self._flush())
        finally:
            self._shut(cut and self._failure is None)

    def _leave_watermark(self, position: tuple[int, int, int]) -> None:
        """A large stream keeps its watermark when it is closed; a small one is walked in a moment without.

        Its removal may be undone by a power loss, so the record has to be the last one even then.
        """
        if self._watermark_file.held or self._synced >= watermark.FROM_SIZE:
            self._mark(position)
        if self._synced < watermark.FROM_SIZE:
            self._watermark_file.discard()

    def _shut(self, cut: bool) -> None:
        fd, end = self._fd, self._appender.offset
        self._failure = lambda: errors.closed(self.path)
        writers.discard(self)
        try:
            self._region.close()
            if cut:
                _cut(self.path, fd, end, durable=self._durability != "none")
        finally:
            self._fd = -1
            try:
                self._watermark_file.close()
            finally:
                try:
                    os.close(fd)
                finally:
                    self._lock.release()

    def _forked(self) -> None:
        """In the child after a fork: the parent goes on writing, this copy must not."""
        if self.closed:
            return
        failure = errors.forked_writer(self.path)
        self._failure = lambda: failure
        self._appender.forked()
        self._region.forked()
        self._ticker = None
        self._slow = threading.RLock()
        self._section = Section(self.path, self._slow)
        self._lock.abandon()

    def __del__(self) -> None:
        if self.closed:
            return
        try:
            warn_unclosed(self)
        finally:  # a warning may be an error
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"{self.path}: a writer cannot be pickled or copied; open the stream for reading there")


def _rows_of_bytes(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """``values`` as bytes, shape (events, bytes per event), each row contiguous. A copy only where rows are not."""
    events = len(values)
    if values.nbytes == 0:
        return np.empty((events, values.itemsize * math.prod(values.shape[1:])), np.uint8)
    rows = values if values.ndim == 2 else values.reshape(events, -1)
    if rows.strides[1] != rows.itemsize:
        rows = np.ascontiguousarray(rows)
    return rows if rows.itemsize == 1 else rows.view(np.uint8)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _cut(path: str, fd: int, end: int, durable: bool) -> None:
    """Shorten the file to its events, which marks it as closed cleanly."""
    try:
        os.ftruncate(fd, end)
        if durable:
            os.fsync(fd)
    except OSError as error:
        # Windows refuses while a view is alive; the next open for append cuts. Not yet run.
        if os.name == "nt" and isinstance(error, PermissionError):
            return
        raise errors.with_path(error, path, f"cutting the file to its {end} bytes") from None


def warn_unclosed(writer: Writer) -> None:
    errors.warn(ResourceWarning(f"unclosed <evtape writer of {writer.path!r}>; close it, or use 'with'"))

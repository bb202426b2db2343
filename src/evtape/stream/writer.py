"""The append path: open -> lock -> core.append -> publish -> sync -> close."""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .. import arrow_input, errors
from .. import schema as schemas
from ..core.backend import core
from ..core.format import INT64_MAX, TIME_MIN
from ..core.paging import HUGE_PAGE, MEDIUM_PAGE, SMALL_PAGE
from ..core.times import nanosecond_array
from ..errors import Error
from ..recovery.report import Report
from ..schema import Schema
from ..system.files import DISK_FULL, is_full, size_of
from ..system.signals import SignalsDeferred
from .commit import GroupCommit
from .flusher import Flusher, Position
from .indexing import Indexing
from .opened import OpenedStream
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

# A writer that flushes often prepares space itself: for flushes of at most so many bytes, the longest step by which the
# file grows, and the size of its pages. A flush writes a page as a whole, so smaller flushes get smaller pages.
_FLUSHED_STEPS = ((16 << 10, 256 << 10, SMALL_PAGE), (4 << 20, 1 << 20, MEDIUM_PAGE), (INT64_MAX, HUGE_PAGE, HUGE_PAGE))

# The first flush after an extension writes the zeros of the new space too if flushes have fewer bytes than this. A
# flush into space that was written before is a third faster, because the file system has nothing to note about it. For
# larger flushes the zeros would cost more than that.
_WRITTEN_UNIT_MAX = 256 << 10

# A writer whose syncs flush at least this much at a time keeps the preallocator, with its huge pages.
_LARGE = HUGE_PAGE // 4


@dataclass(frozen=True)
class Options:
    """How a stream is written; see ``evtape.open``."""

    capacity: int = 0  #: bytes preallocated before the first append
    durability: Durability = "close"
    interval: float = 1.0  #: seconds between flushes with durability "interval"
    verify_checksums: bool = True  #: whether a checksum is compared when a payload is handed out
    schema: Schema | None = None  #: what the payloads mean; None is what was declared before, if anything
    index: bool | None = None  #: whether the stream gets an index file; None: if it becomes large


writers: weakref.WeakSet[Writer] = weakref.WeakSet()  #: those of this process that are open


class WriterSource(StreamSource):
    """The events of a stream that this process writes. The region and the descriptor are the writer's."""

    def __init__(
        self, path: str, region: core.Region, verify_checksums: bool, fd: int, sync: Callable[[], None]
    ) -> None:
        super().__init__(path, region, verify_checksums)
        self.fd = fd
        self._sync = weakref.WeakMethod(sync)  # a slice must not keep a writer alive

    @property
    def closed(self) -> bool:
        return not self.region.reserved

    def refresh(self) -> tuple[int, int]:
        write_offset, event_count, _ = self.region.load_header()  # raises once the region is closed
        if self.region.faults:
            raise errors.faulted(self.path)
        return write_offset, event_count

    def close(self) -> None:
        self.index.close()

    @property
    def replaced(self) -> bool:
        return False  # the lock of this writer keeps others from it

    def flush_to_disk(self) -> None:
        sync = self._sync()
        if sync is not None:
            sync()

    def closed_cleanly(self) -> bool:
        return False

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
    _cap = INT64_MAX  # bytes that the file grows to, unless a single event needs more
    _written = 0  # bytes that this writer has appended to files before this one

    def __init__(self, path: str, options: Options, opened: OpenedStream, first: int = 0) -> None:
        """``first`` is the ordinal of the first event."""
        self._region = opened.region
        self._source = self._open_source(path, options, opened)
        self._recovered = opened.recovered
        self._lock = opened.lock
        self._watermark_file = opened.watermark_file
        self._durability = options.durability
        self._section = Section(path)
        self._failure: Callable[[], Exception] | None = None
        self._schema: Schema | None = None
        last = None if self._recovered is None else self._recovered.last_timestamp
        self._appender = core.Appender(self._region, TIME_MIN if last is None else last, self._reserve, first)
        self._set_limit()
        self._syncs_often = False  # whether the last sync() had little to flush
        self._flusher = Flusher(self._region, self._appender.position, self._watermark_file, first)
        self._commit = GroupCommit(path, self._flush_for_all)
        self._index = Indexing(self._region, opened.watermark_file.index_file(), options.index)
        self._live = opened.watermark_file.live_file(self._region.load_header()[2])
        self._appender.share(self._live.offer())
        self._ticker = Ticker(self, options.interval) if options.durability == "interval" else None
        self._bind()
        writers.add(self)
        self._fd = opened.fd

    def _open_source(self, path: str, options: Options, opened: OpenedStream) -> StreamSource:
        """What the events are read from."""
        return WriterSource(path, opened.region, options.verify_checksums, opened.fd, self.sync)

    def _bind(self) -> None:
        """Put the core's method where ``append`` is looked up first; with a schema, one that encodes before it.

        Not done where every append must also be flushed.
        """
        if self._durability != "full":
            append = self._appender.append
            self.__dict__["append"] = append if self._schema is None else _encoding(append, self._schema)

    def _declare(self, declared: Schema | None) -> None:
        """Take the schema that is declared, or the one that the stream has, and store it if it is new."""
        source = self._source
        schema = source.schema()
        if declared is not None:
            if schema is not None and schema.require_usable() != declared:
                raise errors.schemas_differ(self.path, schema, declared)
            if schema is None:
                schemas.store(declared, source.name, self._fd, self.start_timestamp)
            schema = declared
        elif schema is None and self._recovered is None:
            schemas.discard(source.name, self._fd)  # of the stream that had this name
        source.declare(schema)
        if schema is not None:
            self._schema = schema
            self._bind()

    # ---------------------------------------------------------------------------------------- append

    def append(self, data: Any, timestamp: Any = None) -> int:
        """Append one event and return its ordinal.

        ``data`` is any contiguous buffer of at most 2**32-1 bytes, or with a schema a value of it: a tuple, a dict or a
        row of such an array; text; or what JSON can hold. ``timestamp`` int ns, datetime or datetime64, by
        default now and never lower than the last one. When this returns, every process can read the event, and it
        survives ``kill -9``; with ``durability="full"`` it survives power loss too. O(len(data)).

        Raises TypeError (no buffer), ValueError (not contiguous, too large, or timestamp 0 with an empty payload),
        OverflowError (timestamp outside int64), OSError (no space: the stream is as before, and appending works again
        once there is some), SchemaError (a value that does not fit), ClosedError, ReadOnlyError.
        """
        if self._schema is not None:
            data = self._schema.encode(data)
        ordinal = self._appender.append(data, timestamp)
        self._make_durable(ordinal + 1)
        return ordinal

    def append_many(self, payloads: Iterable[Any], timestamps: Any = None) -> range:
        """Append a batch of buffers, or with a schema of values, published whole or not at all; returns their ordinals.

        ``timestamps`` has one time per payload; without it the batch has one reading of the clock. Errors as
        ``append``, naming the position of the element. O(bytes).
        """
        items: Any = payloads
        if timestamps is not None or type(items) not in (list, tuple):
            try:
                items = tuple(payloads)
            except TypeError:
                raise errors.not_a_sequence(self.path, "payloads", payloads) from None
        if self._schema is not None:
            encode = self._schema.encode
            items = [encode(item, f" {i}") for i, item in enumerate(items)]
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
        rows = _rows_of_bytes(values)
        if self._schema is not None:
            self._schema.require_rows(values, rows.shape[1])
        return self._batch(self._appender.append_rows, rows, stamps)

    def append_arrow(self, data: Any, *, time: str | None = "time") -> range:
        """Append each row of an Arrow stream as one event; returns their ordinals. Needs pyarrow.

        ``data`` is anything with ``__arrow_c_stream__``: a table of pyarrow, polars, pandas or DuckDB, or a tape. With
        a structured schema its columns are the fields, by name; otherwise it has one column of bytes or text. ``time``
        names the column of the timestamps (with a zone, or an int of ns); without one the events of a batch get one
        reading of the clock. A column ``ordinal`` is left out. Each record batch is published whole or not at all.

        Raises SchemaError for columns or values that do not fit; the batches before stay. O(bytes), copied.
        """
        first = self._appender.position()[1]
        appended = 0
        for batch in arrow_input.batches(data, time, self._schema, self.path):
            append = self.append_array if batch.is_array else self.append_many
            ordinals = append(batch.payloads, batch.timestamps)
            first = first if appended else ordinals.start
            appended += len(ordinals)
        return range(first, first + appended)

    def _stamps(self, timestamps: Any, events: int) -> Any:
        if timestamps is None:
            return None
        stamps = nanosecond_array(timestamps, self.path)
        if len(stamps) != events:
            raise errors.lengths_differ(self.path, events, len(stamps))
        return stamps

    def _batch(self, write: Callable[[Any, Any], range], items: Any, stamps: Any) -> range:
        ordinals = write(items, stamps)
        if self._durability == "full":
            self._make_durable(ordinals.stop)
        return ordinals

    # --------------------------------------------------------------------------------------- reserve

    def _reserve(self, end: int, first: int) -> None:
        """The slow path of every append: preallocate up to byte ``end``, or raise what prevents writing."""
        with SignalsDeferred(), self._section:
            if self._failure is not None:
                raise self._failure()
            if end < 0:  # the memory under the appender faulted; what it stored was not published
                raise self._fault()
            if end > self._appender.limit:
                self._grow(end)
                self._index.grown()

    def _set_limit(self, needed: int = 0) -> None:
        """Let the appender use the space that there is, below the cap or what a single event needs."""
        self._appender.limit = min(self._region.size, max(self._cap, needed))

    def _grow(self, end: int) -> None:
        """Extend the file to ``end`` and a step beyond, in the background from here on where the core can."""
        self._require_whole()
        region = self._region
        unit = self._bytes_per_flush(end)
        step, page_size = next((step, size) for most, step, size in _FLUSHED_STEPS if unit <= most)
        if unit == INT64_MAX and self._durability != "none" and end <= HUGE_PAGE:
            page_size = SMALL_PAGE  # a short stream is flushed soon
        region.set_page_size(page_size)
        if end > region.reserved:
            self._stop_preallocator()
        elif unit == INT64_MAX and region.start_preallocator(self._durability != "none", self._written):
            region.grow(end)
            return  # the core moves the limit itself, so that it can ask for more before it runs out
        if unit == INT64_MAX:
            self._extend(end, min(max(region.size, _STEP_MIN), _STEP_MAX))
        elif end <= region.size:
            self._set_limit(end)  # what the preallocator has left
        else:
            self._extend(end, min(max(region.size, _STEP_MIN), step))
            if unit < _WRITTEN_UNIT_MAX:
                self._flusher.space = region.size

    def _bytes_per_flush(self, end: int) -> int:
        """How much a flush is about to write; INT64_MAX if no flush is near. It decides how space is prepared.

        A flush writes a page as a whole for a single event in it. Huge pages are made in a tenth of the time, but only
        flushes of several can afford them.
        """
        pending = end - self._flusher.durable.offset
        if self._durability == "full":
            return pending
        return pending if self._syncs_often and pending < _LARGE else INT64_MAX

    def _extend(self, end: int, step: int) -> None:
        """Extend the file to ``end`` and ``step`` bytes beyond, or on a full disk to ``end``."""
        region = self._region
        try:
            region.grow(min(_round_up(end + step, _STEP_MIN), max(self._cap, end)))
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            region.grow(end)
        self._set_limit(end)

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
        size = size_of(self._fd)
        if size < published:
            failure = errors.truncated(self.path, size, published)
            self._fail(lambda: failure)
            raise failure

    def _fault(self) -> Exception:
        """Fail for good, because a page of the mapping is gone, and say why it is."""
        # Where the file is still there, the disk could not take the page: it is bad, or copies on write and is full.
        shorter = size_of(self._fd) < self._appender.limit
        failure = errors.faulted(self.path) if shorter else errors.not_stored(self.path, is_full(self._fd))
        self._fail(lambda: failure)
        return failure

    def _refusal(self) -> Exception:
        return errors.closed(self.path) if self._failure is None else self._failure()

    # ------------------------------------------------------------------------------------------ sync

    def sync(self) -> None:
        """Make every event appended so far durable: when this returns they survive power loss.

        Threads that call at the same time share one flush. A flush that fails raises OSError in each of them and
        poisons the writer, because the kernel reports such an error once and would call the next flush a success.
        """
        flusher = self._flusher
        before = flusher.durable.offset
        self._sync_now()
        often = 0 < flusher.durable.offset - before < _LARGE
        if often and not self._syncs_often and self._durability != "full":
            self._stop_preallocator()  # its pages are larger than what is flushed
        self._syncs_often = often

    def _sync_now(self) -> None:
        """What ``sync`` does, for the thread of durability "interval": how often it comes says nothing."""
        if self._failure is not None:
            raise self._failure()
        events = self._appender.position()[1]
        if self.durable.ordinal < events:
            self._commit.wait(events)
        else:
            self._require_whole()

    async def sync_async(self) -> None:
        """``sync()`` in a thread, while the event loop runs on. Cancelling it ends the wait, not the flush."""
        import asyncio  # here, because a program without an event loop should not wait for it

        await asyncio.to_thread(self.sync)

    def _make_durable(self, events: int) -> None:
        """With durability "full": return when the first ``events`` events are durable."""
        if self.durable.ordinal < events:
            self._commit.wait(events)

    def _flush_for_all(self, events: int) -> int:
        """Flush what was appended since the last flush, unless the first ``events`` events are durable already.

        Returns how many events are durable. One thread at a time calls it.
        """
        return self._flush(self._flusher, events)

    def _flush(self, flusher: Flusher, events: int) -> int:
        if flusher.durable.ordinal >= events:
            return flusher.durable.ordinal
        if self._failure is not None:
            raise self._failure()
        try:
            self._require_whole()
            flushed = flusher.flush()
        except OSError as error:
            message = (
                f"{self.path}: an earlier flush failed ({error.strerror}), so durability is unknown; "
                "open the stream again"
            )
            self._fail(lambda: Error(message))
            raise
        # Pages that the guard replaced are no longer the file's, so nothing of them was flushed.
        if flusher.faults:
            raise self._fault()
        if flushed:
            flusher.acknowledge()
        return flusher.durable.ordinal

    def _take_over(self) -> None:
        """When a stream was found: make what it holds durable and note it, before anything is appended.

        What a power loss tears after a watermark can be recognised. And a sidecar of an earlier boot
        must not stay, or else what is appended from here on would be taken for torn by a power loss before it.
        """
        if self._recovered is None:
            return
        self._index.take_over(self._appender.offset)
        if self._durability != "none" or self._watermark_file.is_bound:
            self._flush_for_all(sys.maxsize)
            self._flusher.renew_record()
            self._index.restamp()

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._fd < 0

    @property
    def recovered(self) -> Report | None:
        """What opening found and repaired, or None for a stream that was just created."""
        return self._recovered

    @property
    def durable(self) -> Position:
        return self._flusher.durable

    durable.__doc__ = Tape.durable.__doc__

    # ----------------------------------------------------------------------------------------- close

    def close(self) -> None:
        """Make the stream durable (unless ``durability="none"``), cut the file to its events and release the lock."""
        if self.closed:
            return
        with SignalsDeferred(), self._section, self._commit.exclusive():
            if not self.closed:  # else another thread has closed it
                self._finish()
        if self._ticker is not None:
            self._ticker.wait()

    def _finish(self) -> None:
        finished = False
        failed = self._failure is not None
        if not failed:
            self._appender.halt()  # first: where this thread is inside an append, it refuses and all stays as it was
        try:
            if self._ticker is not None:
                self._ticker.stop()
            self.__dict__.pop("append", None)  # after the halt: the method of the class would append once more
            self._stop_preallocator()
            if not failed:
                self._index.finish(self._appender.offset, self._durability != "none")
            finished = not failed
            if not failed and self._durability == "none":
                self._require_whole()
            elif not failed:
                self._flush_for_all(sys.maxsize)
                self._flusher.leave_record()
        finally:
            self._shut(finished and self._failure is None)

    def _shut(self, finished: bool) -> None:
        fd, end = self._fd, self._appender.offset
        self._failure = lambda: errors.closed(self.path)
        writers.discard(self)
        try:
            self._appender.share(None)
            self._source.close()
            self._index.close()
            opened = OpenedStream(self._lock, fd, self._region, self._watermark_file)
            opened.finish(self.path, self._live, end if finished else None, durable=self._durability != "none")
        finally:
            self._fd = -1

    def _before_fork(self) -> None:
        self._stop_preallocator()

    def _forked(self) -> None:
        """In the child after a fork: the parent goes on writing, this copy must not."""
        if self.closed:
            return
        failure = errors.forked_writer(self.path)
        self._failure = lambda: failure
        self._appender.forked()
        self._live.close()
        self._index.close()
        self._region.forked()
        self._ticker = None
        self._section = Section(self.path)
        self._commit = GroupCommit(self.path, self._flush_for_all)
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


def _encoding(append: Callable[[Any, Any], int], schema: Schema) -> Callable[..., int]:
    """The ``append`` of a stream with a schema. Bytes of the right size go straight on."""
    encode, size = schema.encode, -1 if schema.dtype is None else schema.dtype.itemsize

    def append_value(data: Any, timestamp: Any = None) -> int:
        if type(data) is not bytes or len(data) != size >= 0:
            data = encode(data)
        return append(data, timestamp)

    append_value.__doc__ = Writer.append.__doc__
    return append_value


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


def warn_unclosed(writer: Writer) -> None:
    errors.warn(ResourceWarning(f"unclosed <evtape writer of {writer.path!r}>; close it, or use 'with'"))

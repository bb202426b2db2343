"""The pure core: the same as `ext/native.pyx` with struct, mmap, zlib and memoryview. Any change lands in both.

A region that is only read is read by `pread`, never through a mapping: without C nothing can turn the SIGBUS of a
truncated file into an exception. A region that is written is mapped, and outgrown mappings live on while views of
them do.
"""

from __future__ import annotations

import builtins
import errno
import io
import mmap
import operator
import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from time import monotonic_ns, time_ns
from typing import Any, Final, Literal, final

import numpy as np

from .. import errors
from . import pure_arrow
from .columns import Column
from .describe import describe_event
from .format import (
    ENTRY,
    ENTRY_SIZE,
    HEADER,
    HEADER_SIZE,
    INDEX_EQUAL_SIZES,
    INDEX_EVENTS,
    INDEX_PLACE,
    INDEX_RECORD,
    INDEX_UNSORTED,
    INT64_MAX,
    SECTOR,
    SIZE_MAX,
    TIME_MAX,
    TIME_MIN,
    EventsReason,
    Reason,
    bounded,
)
from .times import nanoseconds, to_datetime64

NAME: Final[Literal["native", "python"]] = "python"
SLEEPS: Final = False  # whether `Region.wait` can sleep until an append wakes it
PARALLEL: Final = False  # whether long calls on a part of a stream run at the same time as others
INDEXES: Final = False  # whether a thread makes the index while a stream is written, at no cost to an append

_PREAD = getattr(os, "pread", None)  # absent on Windows, where a mapped file cannot be truncated
_PREADV = getattr(os, "preadv", None)
_ONE_READ = 1 << 30  # bytes that one call surely reads
_SWAPPED = sys.byteorder == "big"
_CHUNK = 1 << 20
_HUGE_PAGE = 2 << 20
_POPULATE = 16 << 20  # bytes that one call populates; it holds the GIL
_MADV_POPULATE_WRITE = 23  # Linux 5.14
_PACK_ENTRY = ENTRY.pack_into
_CRC32 = zlib.crc32
_NEW = object.__new__
_TOGETHER = 256  # entries of a batch that are put together before they are stored


def crc32(data: Any, value: int = 0, /) -> int:
    """CRC-32 of a contiguous buffer as `zlib.crc32` computes it. O(len(data))."""
    return zlib.crc32(data, value)


def crc32_implementations() -> tuple[str, ...]:
    """The implementations this processor can run, widest first."""
    return ("zlib",)


def crc32_use(implementation: str, /) -> None:
    """Force one implementation, or "auto". For tests."""
    if implementation not in ("auto", "zlib"):
        raise ValueError(
            f"CRC-32 implementation {implementation!r} cannot run here; there are {crc32_implementations()}"
        )


# -------------------------------------------------------------------------------------------- region


class _SplitAtPages(mmap.mmap):
    """A mapping into which no single store crosses the end of a page: see `split_at_pages` of a region."""

    def __setitem__(self, where: Any, data: Any) -> None:
        view = memoryview(data)
        at, stop = where.start, where.stop
        while at < stop:
            end = min(stop, at - at % mmap.PAGESIZE + mmap.PAGESIZE)
            super().__setitem__(slice(at, end), view[: end - at])
            view = view[end - at :]
            at = end


def _map(kind: type[mmap.mmap], fd: int, size: int) -> mmap.mmap:
    """A mapping that keeps no descriptor, or one above 2.

    `mmap` duplicates the descriptor to the lowest free number. Where that is a standard stream's, what is printed ends
    up in the file, so closed ones are held during the call.
    """
    if sys.version_info >= (3, 13) and os.name == "posix":
        return kind(fd, size, trackfd=False)
    held = []
    try:
        for number in range(3):
            try:
                os.fstat(number)
            except OSError:
                held.append(os.open(os.devnull, os.O_RDONLY))
        return kind(fd, size)
    finally:
        for number in held:
            os.close(number)


if sys.platform == "win32":
    _duplicate = os.dup
else:
    import fcntl

    def _duplicate(fd: int) -> int:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


class _Mapped:
    """Bytes of a mapping, without a copy. Keeps the mapping alive."""

    def __init__(self, whole: memoryview) -> None:
        self._whole = whole

    def take(self, start: int, stop: int) -> memoryview:
        return self._whole[start:stop]

    def read(self, start: int, count: int) -> bytes:
        return bytes(self._whole[start : start + count])


class _Copied:
    """Bytes of a file, read each time. Owns a descriptor, which is closed when the last that reads through it is gone.

    So what goes on reading after a `close` reads this file, and never one that got the descriptor's number since.
    """

    _fd = -1

    def __init__(self, fd: int, path: str) -> None:
        self._path = path
        self._seeking = threading.Lock()  # where there is no pread
        self._fd = _duplicate(fd)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._fd >= 0:
            close(self._fd)

    def take(self, start: int, stop: int) -> memoryview:
        return memoryview(self.read(start, stop - start))

    def read(self, start: int, count: int) -> bytes:
        try:
            if count > _ONE_READ and _PREADV is not None:
                found = self._read_long(start, count)
            else:
                found = self._read_at(start, count)
                while found and len(found) < count and (more := self._read_at(start + len(found), count - len(found))):
                    found += more
        except OSError as error:
            raise errors.with_path(error, self._path, f"reading {count} bytes at {start}") from None
        if len(found) < count:
            raise errors.faulted(self._path)
        return found

    def _read_at(self, start: int, count: int) -> bytes:
        if _PREAD is not None:
            return _PREAD(self._fd, count, start)  # type: ignore[no-any-return]
        with self._seeking:
            os.lseek(self._fd, start, os.SEEK_SET)
            return os.read(self._fd, count)

    def _read_long(self, start: int, count: int) -> bytes:
        """As `_read_at` with more bytes than one call reads, and without a second copy of them."""
        return io.BufferedReader(_Raw(self._fd, start), 1).read(count)


class _Raw(io.RawIOBase):
    """What `io.BufferedReader` needs to read into a bytes object of its own."""

    def __init__(self, fd: int, start: int) -> None:
        self._fd = fd
        self._at = start

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count: int = _PREADV(self._fd, [buffer], self._at)  # type: ignore[misc]
        self._at += count
        return count


class _Made:
    """An object that is always made with its arguments, and of a class that has no subclasses: as in C."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if not args:
            raise TypeError(f"{cls.__name__} needs its arguments")
        return super().__new__(cls)

    def __init_subclass__(cls) -> None:
        base = cls.__mro__[1]
        if base is not _Made:
            raise TypeError(f"type '{__name__}.{base.__name__}' is not an acceptable base type")


@final
class Region(_Made):
    """A file mapped into memory. `size` bytes of it may be touched; the file is extended under the mapping.

    `buffer`: contiguous memory in the place of a file; `fd` is -1 then. It is only read, and not copied.

    `split_at_pages`: no single store into an entry crosses the end of a page. A full file system that copies on write
    may have to write one page back before it lets the next be stored to; a store to both would be tried for ever.
    """

    def __init__(
        self,
        fd: int,
        size: int,
        path: str,
        *,
        writable: bool = False,
        split_at_pages: bool = False,
        buffer: Any = None,
    ) -> None:
        self._fd = fd
        self.path = path
        self._writable = writable
        self._kind = _SplitAtPages if split_at_pages else mmap.mmap
        self._closed = False
        self.page_size = _HUGE_PAGE  # of the pages in which space is populated
        self.bound = INT64_MAX  # up to where a preallocator extends the file
        self._growth = threading.RLock()
        self._growing = False
        self.size = 0
        self._mapping: Any = None
        self._whole: memoryview = memoryview(b"")
        self._header: Any = None  # the words (WriteOffset, EventCount), each loaded and stored as a whole
        if buffer is not None:
            self._source: Any = _Mapped(memoryview(buffer).cast("B").toreadonly())
        else:
            self._source = _Mapped(self._whole) if writable else _Copied(fd, path)
        self.extend(size)

    def _open(self) -> None:
        if self._closed:
            raise errors.closed(self.path)

    def _still_open(self) -> Any:
        """Where the bytes come from, also when another thread closes the region in the next moment."""
        source = self._source
        self._open()
        return source

    @property
    def faults(self) -> int:
        """Pages that could not be read or stored and were replaced by zeros."""
        return 0

    def grow(self, size: int, /) -> None:
        """Preallocate the file up to `size` bytes, or raise OSError and leave it as it was."""
        with self._growth:
            self._require_still()  # else, where the growth below fails, the file is cut below what a handler appended
            self._growing = True
            try:
                self._grow(size)
            finally:
                self._growing = False

    def _require_still(self) -> None:
        """A signal handler or finalizer must not change the size while this thread is growing the file."""
        with self._growth:
            if self._growing:
                raise errors.busy(self.path)

    def _grow(self, size: int) -> None:
        self._open()
        if size <= self.size:  # a signal handler has extended it already
            return
        before = os.fstat(self._fd).st_size
        try:
            if size > before:
                _allocate(self._fd, before, size)
            self.extend(size)
            self._populate(min(before, size), size)
        except OSError as error:
            if not self._closed:
                os.ftruncate(self._fd, before)
            raise errors.with_path(error, self.path, f"extending the file to {size} bytes") from None

    def _populate(self, start: int, stop: int) -> None:
        """Bring the new pages in now, so that no append waits for one.

        A kernel that cannot do it (before 5.14) leaves it to the faults. A page that cannot be had is an OSError here:
        the store into it would be a SIGBUS, which nothing can turn into an exception.
        """
        if sys.platform == "linux":
            first = start // mmap.PAGESIZE * mmap.PAGESIZE
            mapping = self._mapping
            self._open()
            try:
                if self.page_size >= _HUGE_PAGE:
                    mapping.madvise(mmap.MADV_HUGEPAGE, first, stop - first)
                for at in range(first, stop, _POPULATE):  # in steps, between which other threads run
                    mapping.madvise(_MADV_POPULATE_WRITE, at, min(_POPULATE, stop - at))
            except OSError as error:
                if error.errno == errno.EFAULT:
                    self.size = start
                    os.pwrite(self._fd, b"\0", start)  # raises what the file system says of it
                    raise OSError(errno.EIO, "") from None

    def set_page_size(self, size: int, /) -> None:
        """Populate space in pages of about so many bytes from here on.

        The larger a page, the cheaper it is to make, but a flush writes it as a whole. This core only asks for huge
        ones.
        """
        self.page_size = size

    @property
    def reserved(self) -> int:
        """How large the file can grow under the present mapping, with the preallocator."""
        return 0 if self._closed else min(sys.maxsize, self.bound)

    def start_preallocator(self, write_back: bool, written: int = 0, before: Any = None, /) -> bool:
        """Start a native thread that preallocates. There is none here."""
        return False

    @property
    def preallocates(self) -> bool:
        """Whether a thread preallocates, or will once the stream is large enough."""
        return False

    def stop_preallocator(self) -> None:
        """End the thread."""

    @property
    def threaded(self) -> bool:
        """Whether the preallocator runs in a thread now."""
        return False

    def trail(self, indexer: Indexer, /) -> None:
        """Have the preallocator's thread, whenever there is one, make the index after the writer."""

    def forked(self) -> None:
        """In a forked child, which has no such thread: forget it."""
        self._growth = threading.RLock()
        self._growing = False

    def extend(self, size: int, /) -> None:
        """Take note that the file now has `size` bytes."""
        self._open()
        if self._writable and size > len(self._whole):
            try:
                mapping = _map(self._kind, self._fd, size)
            except (OSError, ValueError) as error:
                failure = error if isinstance(error, OSError) else OSError(22, str(error))
                raise errors.with_path(failure, self.path, f"mapping {size} bytes") from None
            self._mapping = mapping
            self._whole = memoryview(mapping)
            self._source = _Mapped(self._whole)
            # Eight bytes at a time through a cast: struct.pack_into on a live header zeroes it first, which readers
            # would see.
            words = self._whole[:16].cast("q") if size >= HEADER_SIZE else None
            self._header = _Swapped(words) if _SWAPPED and words is not None else words
        self.size = size

    def view(self, start: int, stop: int, /) -> memoryview:
        """The bytes [start, stop) without a copy. Writable if the region is."""
        source = self._still_open()
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"{self.path}: bytes {start} to {stop} are not within its {self.size}")
        return source.take(start, stop)  # type: ignore[no-any-return]

    def load_header(self) -> tuple[int, int, int]:
        """(WriteOffset, EventCount, StartTimestamp), loaded with acquire order."""
        source, header = self._still_open(), self._header
        if header is not None:
            return header[0], header[1], HEADER.unpack(source.take(0, HEADER_SIZE))[2]
        # A copy made by the kernel may be torn. WriteOffset only grows, so the same bytes twice are a value that was
        # there.
        before = source.read(0, HEADER_SIZE)
        while (now := source.read(0, HEADER_SIZE)) != before:
            before = now
        return HEADER.unpack(now)

    def store_header(self, write_offset: int, event_count: int, /) -> None:
        """Publish (WriteOffset, EventCount)."""
        self._open()
        self._header[1] = event_count
        self._header[0] = write_offset

    def wait(self, offset: int, live: LivePage | None, spin_ns: int, timeout_ns: int, /) -> bool:
        """Wait until WriteOffset is not `offset`. False when `timeout_ns` are over, at the latest.

        Looks for `spin_ns`. Handlers of signals run.
        """
        until = monotonic_ns() + min(spin_ns, timeout_ns)
        while self.load_header()[0] == offset:
            if monotonic_ns() >= until:
                return False
        return True

    def drop_pages(self, start: int, stop: int, /) -> None:
        """Drop the pages of [start, stop) from this process's memory; the next access loads them again."""
        self._open()
        if self._writable and stop > start and hasattr(mmap, "MADV_DONTNEED"):
            page = mmap.PAGESIZE
            first = -(-start // page) * page
            if stop // page * page > first:
                self._mapping.madvise(mmap.MADV_DONTNEED, first, stop // page * page - first)

    def flush(self, start: int, stop: int, /) -> None:
        """Make the pages of [start, stop) durable."""
        self._open()
        first = start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        try:
            if self._writable and stop > first:
                self._mapping.flush(first, stop - first)
            if sys.platform != "linux":
                os.fsync(self._fd)  # F_FULLFSYNC on macOS, FlushFileBuffers on Windows
        except OSError as error:
            raise errors.with_path(error, self.path, f"flushing bytes {start} to {stop}") from None

    def __enter__(self) -> Region:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the mapping. Views stay valid and keep it alive."""
        self._closed = True
        self._header = None
        self._mapping = None
        self._whole = memoryview(b"")
        self._source = None


class _Swapped:
    """The header's words on a big-endian machine."""

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def __getitem__(self, index: int) -> int:
        return int.from_bytes(self._words[index].to_bytes(8, "big", signed=True), "little", signed=True)

    def __setitem__(self, index: int, value: int) -> None:
        self._words[index] = int.from_bytes(value.to_bytes(8, "little", signed=True), "big", signed=True)


def _allocate(fd: int, start: int, stop: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, start, stop - start)
    else:
        os.ftruncate(fd, stop)


# -------------------------------------------------------------------------------------------- append


@final
class LivePage(_Made):
    """The page that the followers of a stream share with its writer. This core wakes no follower."""

    ended = 0

    def __init__(self, fd: int, path: str) -> None:
        pass


@final
class Bell(_Made):
    """Makes a descriptor readable once an event is published. This core cannot: there is no such object."""

    descriptor = -1

    def __init__(self, fd: int, page: int, path: str) -> None:
        error = OSError(errno.ENOTSUP, "")
        raise errors.with_path(error, path, "starting a thread that waits for events")

    def ask(self, offset: int, spin_ns: int, /) -> None:
        """Ring once WriteOffset is not `offset`."""

    def clear(self) -> None:
        """Make the descriptor not readable until it rings again."""

    def stop(self) -> None:
        """Close the descriptor."""


@final
class Appender(_Made):
    """Writes entries at WriteOffset and publishes them.

    `limit` is the end of the preallocated bytes, and the only thing that the hot path looks at. When an event does not
    fit below it, `reserve(end, first)` is called, which preallocates more, moves the appender to another region, or
    raises. `first` tells which region it was. A writer that must not write has limit 0.

    `first` is the ordinal of the first event in the region.
    """

    def __init__(
        self, region: Region, last_timestamp: int, reserve: Callable[[int, int], None], first: int = 0
    ) -> None:
        self._region = region
        self.offset, count, _ = region.load_header()
        self.first = first
        self.count = first + count  # the ordinal of the next event
        self.last_timestamp = last_timestamp
        self._limit = 0
        self._halted = False
        self._reserve = reserve
        # The lock is re-entrant so that a signal handler or a finalizer, which runs in the thread that holds it, meets
        # `_inside` and an error. A plain lock would hang there for ever.
        self._lock = threading.RLock()
        self._inside = False

    def _publish(self, end: int, count: int) -> None:
        """Publish what was stored below `end`.

        An exception can come between any two steps (a signal handler that raises). Offset and count are then taken
        from the header again, so what was published stays and what was not never happened.
        """
        header: Any = self._region._header
        first = self.first
        try:
            header[1] = count - first
            header[0] = end
            self.offset, self.count = end, count
        except BaseException:
            if header[0] != end:
                header[1] = self.count - first
            else:
                self.offset, self.count = end, count
            raise

    def append(self, data: Any, timestamp: Any = None) -> int:
        """Append one event and return its ordinal.

        `data` is any contiguous buffer; `timestamp` nanoseconds, datetime or datetime64, by default now and never
        lower than the last one. When this returns, every process can read the event. O(len(data)).
        """
        if type(data) is not bytes:
            data = _payload(data, self._region.path)
        size = len(data)
        if timestamp is not None or size > SIZE_MAX:
            timestamp = self._checked(size, timestamp)
        while True:
            with self._lock:
                if self._inside:
                    raise errors.busy(self._region.path)
                self._inside = True
                try:
                    at = self.offset
                    start = at + ENTRY_SIZE
                    end = start + size
                    if end <= self._limit:
                        if timestamp is None:
                            timestamp = time_ns()
                            if timestamp < self.last_timestamp:
                                timestamp = self.last_timestamp
                        mapping = self._region._mapping
                        if size < _CHUNK:
                            mapping[start:end] = data
                        else:
                            _store_long(mapping, start, data)
                        _PACK_ENTRY(mapping, at, timestamp, size, _CRC32(data))
                        self.last_timestamp = timestamp
                        ordinal = self.count
                        self._publish(end, ordinal + 1)
                        return ordinal
                finally:
                    first = self.first
                    self._inside = False
            self._reserve(end, first)

    def _checked(self, size: int, timestamp: Any) -> int | None:
        """The timestamp in nanoseconds, or the error that says why this event cannot be stored."""
        if timestamp is not None:
            timestamp = nanoseconds(timestamp, self._region.path)
            if size == 0 and timestamp == 0:
                raise errors.zero_event(self._region.path)
        if size > SIZE_MAX:
            raise errors.payload_too_large(self._region.path, size)
        return timestamp  # type: ignore[no-any-return]

    def append_many(self, payloads: Sequence[Any], timestamps: Any = None, /) -> range:
        """Append a sequence of buffers as one batch, published whole or not at all. Returns their ordinals.

        `timestamps` is an int64 array of the same length; without it all events get one reading of the clock.
        """
        items: Sequence[Any] = tuple(payloads)
        sizes = list(map(len, items)) if set(map(type, items)) == {bytes} else [0]
        if 0 in sizes or max(sizes) > SIZE_MAX:  # else there is nothing to look at one by one
            items = self._checked_items(items, timestamps)
            sizes = list(map(len, items))
        return self._batch(items, sizes, timestamps)

    def _checked_items(self, payloads: Sequence[Any], timestamps: Any) -> list[Any]:
        path = self._region.path
        items = []
        for i, item in enumerate(payloads):
            data = item if type(item) is bytes else _payload(item, path, f" {i}")
            if len(data) > SIZE_MAX:
                raise errors.payload_too_large(path, len(data), f" {i}")
            if timestamps is not None and len(data) == 0 and timestamps[i] == 0:
                raise errors.zero_event(path, f" {i}")
            items.append(data)
        return items

    def append_rows(self, rows: Any, timestamps: Any = None, /) -> range:
        """Append each row of a 2-D array of bytes, shape (events, size), rows contiguous, as one batch.

        Returns their ordinals.
        """
        path = self._region.path
        events, size = rows.shape
        if size > SIZE_MAX:
            raise errors.payload_too_large(path, size)
        if timestamps is not None and size == 0:
            for i in range(events):
                if timestamps[i] == 0:
                    raise errors.zero_event(path, f" {i}")
        return self._batch([row.data for row in rows] if size else [b""] * events, [size] * events, timestamps)

    def _batch(self, items: Sequence[Any], sizes: list[int], timestamps: Any) -> range:
        """Write the entries and publish them with one store."""
        total = sum(sizes) + ENTRY_SIZE * len(items)
        while True:
            with self._lock:
                if self._inside:
                    raise errors.busy(self._region.path)
                self._inside = True
                try:
                    end = self.offset + total
                    if end <= self._limit:
                        return self._write_batch(items, sizes, timestamps)
                finally:
                    first = self.first
                    self._inside = False
            self._reserve(end, first)

    def _write_batch(self, items: Sequence[Any], sizes: list[int], timestamps: Any) -> range:
        now = max(time_ns(), self.last_timestamp)
        stamps = [now] * len(items) if timestamps is None else timestamps.tolist()
        at = self.offset
        mapping = self._region._mapping
        for i in range(0, len(items), _TOGETHER):
            j = i + _TOGETHER
            part = items[i:j]
            headers = map(ENTRY.pack, stamps[i:j], sizes[i:j], map(_CRC32, part))
            entries = b"".join(chain.from_iterable(zip(headers, part, strict=True)))
            mapping[at : at + len(entries)] = entries
            at += len(entries)
        ordinal = self.count
        if items:
            self.last_timestamp = stamps[-1]
            self._publish(at, ordinal + len(items))
        return range(ordinal, ordinal + len(items))

    @property
    def limit(self) -> int:
        """The end of the preallocated bytes."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = 0 if self._halted else limit

    def move_to(self, region: Region, limit: int, page: LivePage | None, /) -> None:
        """Go on in another region, which is mapped and holds no event that this appender does not know of.

        The ordinals go on. `limit` is the end of the bytes preallocated there. No follower is woken by this core.
        """
        offset = region.load_header()[0]
        with self._lock:
            if self._inside:
                raise errors.busy(self._region.path)
            self._region = region
            self.first = self.count
            self.offset = offset
            self._limit = 0 if self._halted else limit

    def share(self, page: LivePage | None) -> None:
        """Wake the followers that sleep: not in this core."""

    def position(self) -> tuple[int, int, int]:
        """(WriteOffset, EventCount, timestamp of the last event) of one moment."""
        with self._lock:
            if self._inside:
                raise errors.busy(self._region.path)
            return self.offset, self.count, self.last_timestamp

    def pause(self) -> None:
        """Release the preallocator, which may end now; `limit` stays."""

    def halt(self) -> None:
        """Wait for a batch in another thread to end, then write no more: limit is 0 for good."""
        self._region._require_still()
        with self._lock:
            if self._inside:
                raise errors.busy(self._region.path)
            self._halted = True
            self._limit = 0

    def forked(self) -> None:
        """In a forked child: write no more. A thread of the parent may be inside, so this does not wait."""
        self._halted = True
        self._limit = 0
        self._lock = threading.RLock()
        self._inside = False


def _store_long(mapping: Any, start: int, data: Any) -> None:
    """Store a large payload in pieces, between which other threads run."""
    view = memoryview(data)
    for at in range(0, len(view), _CHUNK):
        piece = view[at : at + _CHUNK]
        mapping[start + at : start + at + len(piece)] = piece


def _payload(data: Any, path: str, where: str = "") -> memoryview:
    """A flat view of `data`, or the error that says why there is none."""
    try:
        if isinstance(data, np.ndarray):
            if data.dtype.hasobject:
                raise BufferError
            if data.dtype.kind in "mMV":  # which memoryview may have no format for
                if not data.flags.c_contiguous:
                    raise BufferError
                data = data.reshape(-1).view(np.uint8)
        view = memoryview(data)
        if not view.c_contiguous:
            raise BufferError
        return view.cast("B") if view.nbytes else memoryview(b"")
    except Exception:  # noqa: BLE001 - the object's own buffer method may raise anything
        raise errors.not_a_payload(path, data, where) from None


# ---------------------------------------------------------------------------------------------- read


@final
class Scanner(_Made):
    """Walks entries in bulk. It stands at `offset`, before event `ordinal`, and remembers what it has met."""

    def __init__(
        self, region: Region, offset: int = HEADER_SIZE, ordinal: int = 0, last_timestamp: int = TIME_MIN
    ) -> None:
        self._region = region
        self.offset = offset
        self.ordinal = ordinal
        self.last_timestamp = last_timestamp
        self.unsorted_at = -1  # the first event with a lower timestamp than the one before it, or -1
        self.zero_ordinal = -1  # the first entry of sixteen zero bytes, or -1
        self.zero_offset = -1
        self.recorded = 0  # how many elements of the arrays the last run filled

    def run(
        self,
        bound: int,
        count: int = -1,
        *,
        verify_checksums: bool = False,
        stride: int = 1,
        offsets: Any = None,
        timestamps: Any = None,
        sizes: Any = None,
    ) -> Reason | None:
        """Walk entries below `bound`, at most `count`, comparing checksums if `verify_checksums`.

        Fills the given int64 arrays with every event whose ordinal is a multiple of `stride`, until they are full.
        Returns None, or why it stopped at an entry: "size", "checksum", "fault".
        """
        source = self._region._still_open()
        if not 0 <= bound <= self._region.size:
            raise ValueError(f"{self._region.path}: bound {bound} is not within its {self._region.size} bytes")
        capacity = min([len(a) for a in (offsets, timestamps, sizes) if a is not None], default=None)
        try:
            return self._walk(source, bound, count, verify_checksums, stride, capacity, offsets, timestamps, sizes)
        except errors.TruncatedError:
            return "fault"

    def _walk(
        self,
        source: Any,
        bound: int,
        count: int,
        verify_checksums: bool,
        stride: int,
        capacity: int | None,
        offsets: Any,
        timestamps: Any,
        sizes: Any,
    ) -> Reason | None:
        self.recorded = 0
        window = _Window(source, bound)
        while self.offset < bound and count != 0:
            at = self.offset
            if bound - at < ENTRY_SIZE:
                return "size"
            timestamp, size, checksum = ENTRY.unpack(window.bytes(at, ENTRY_SIZE))
            if size > bound - at - ENTRY_SIZE:
                return "size"
            if verify_checksums and window.crc32(at + ENTRY_SIZE, size) != checksum:
                return "checksum"
            if self.ordinal % stride == 0:
                if self.recorded == capacity:
                    return None
                for array, value in ((offsets, at), (timestamps, timestamp), (sizes, size)):
                    if array is not None:
                        array[self.recorded] = value
                self.recorded += 1
            if timestamp < self.last_timestamp and self.unsorted_at < 0:
                self.unsorted_at = self.ordinal
            if timestamp == 0 and size == 0 and checksum == 0 and self.zero_ordinal < 0:
                self.zero_ordinal = self.ordinal
                self.zero_offset = at
            self.last_timestamp = timestamp
            self.offset = at + ENTRY_SIZE + size
            self.ordinal += 1
            count -= 1
        return None

    def skip(self) -> None:
        """Step over the entry a run stopped at because of its checksum."""
        source = self._region._still_open()
        timestamp, size, _ = ENTRY.unpack(source.take(self.offset, self.offset + ENTRY_SIZE))
        self.last_timestamp = max(self.last_timestamp, timestamp)
        self.offset += ENTRY_SIZE + size
        self.ordinal += 1


def first_ambiguous(region: Region, offset: int, stop: int, torn_from: int = 0, /) -> int:
    """Offset of the first ambiguous entry from `torn_from` on, or -1. O(entries).

    The walk begins at the entry at `offset` and ends at `stop`. An entry is ambiguous if a lost sector would leave the
    same header: the header is zeros, or it crosses the end of a sector and one of its two parts is zeros. Returns -1
    for a file that cannot be read; the next walk says so.
    """
    source = region._still_open()
    if not 0 <= offset <= stop <= region.size:
        raise ValueError(f"{region.path}: bytes {offset} to {stop} are not within its {region.size}")
    window = _Window(source, stop)
    try:
        while stop - offset >= ENTRY_SIZE:
            header = bytes(window.bytes(offset, ENTRY_SIZE))
            if offset >= torn_from and _is_ambiguous(header, offset):
                return offset
            offset += ENTRY_SIZE + ENTRY.unpack(header)[1]
    except errors.TruncatedError:
        pass
    return -1


def _is_ambiguous(header: bytes, offset: int) -> bool:
    first = SECTOR - offset % SECTOR  # bytes in the sector that the header begins in
    return not any(header[:first]) or (first < ENTRY_SIZE and not any(header[first:]))


class _Window:
    """Bytes of a source below `bound`, read a chunk at a time. Goes on when the region is closed."""

    def __init__(self, source: Any, bound: int) -> None:
        self._source = source
        self._bound = bound
        self._start = self._stop = 0
        self._chunk = memoryview(b"")
        self.reads = 0
        self._step = 4096  # doubles while the walk goes on, so that one event does not cost a megabyte

    def bytes(self, at: int, count: int) -> memoryview:
        if not self._start <= at <= at + count <= self._stop:
            self._start, self._stop = at, min(max(at + count, at + self._step), self._bound)
            self._chunk = self._source.take(self._start, self._stop)
            self.reads += 1
            self._step = min(self._step * 2, _CHUNK)
        return self._chunk[at - self._start : at - self._start + count]

    def crc32(self, at: int, count: int) -> int:
        value = 0
        for start in range(at, at + count, _CHUNK):
            value = zlib.crc32(self.bytes(start, min(_CHUNK, at + count - start)), value)
        return value


# ------------------------------------------------------------------------------------------- index


@final
class Indexer(_Made):
    """Makes the records of an index, one for each block of 64 events; see docs/format.md, "The index file".

    It stands at `offset`, before the first event of block number `block`, and remembers what a record needs to know
    of the events before: the timestamp of the last one, the highest one, and whether they go backwards somewhere.
    """

    def __init__(
        self,
        region: Region,
        offset: int = HEADER_SIZE,
        block: int = 0,
        last_timestamp: int = TIME_MIN,
        running: int = TIME_MIN,
        unsorted: bool = False,
    ) -> None:
        self._region = region
        self._start_timestamp = region.load_header()[2]
        self.offset = offset
        self.block = block
        self.last_timestamp = last_timestamp
        self.running = running
        self.unsorted = unsorted
        # Whether an entry was met that an index cannot go beyond: it does not fit, or is sixteen zero bytes.
        self.stopped = False
        self.error = 0  # errno of what kept the records from the file, or 0

    def run(self, bound: int, into: Any, /, partial: bool = False) -> int:
        """Make records of blocks below `bound` until the bytearray `into` is full. Returns their number.

        A block of fewer than 64 events gets one only with `partial`, and only at `bound`. -1: the file could not be
        read.
        """
        source = self._region._still_open()
        if self.offset < HEADER_SIZE or not 0 <= bound <= self._region.size:
            raise ValueError(f"{self._region.path}: bound {bound} is not within its {self._region.size} bytes")
        window = _Window(source, bound)
        made = 0
        try:
            while made < len(into) // INDEX_RECORD.size and (record := self._next(window, bound, partial)):
                into[made * INDEX_RECORD.size : (made + 1) * INDEX_RECORD.size] = record
                made += 1
        except errors.TruncatedError:
            return -1
        return made

    def _next(self, window: _Window, bound: int, partial: bool) -> builtins.bytes:
        """The record of the next block; nothing where there is none."""
        at, headers = self.offset, builtins.bytearray()
        stamps: list[int] = []
        sizes: list[int] = []
        while not self.stopped and len(stamps) < INDEX_EVENTS and bound - at >= ENTRY_SIZE:
            header = window.bytes(at, ENTRY_SIZE)
            timestamp, size, _ = ENTRY.unpack(header)
            if size > bound - at - ENTRY_SIZE or not any(header):
                break
            headers += header
            stamps.append(timestamp)
            sizes.append(size)
            at += ENTRY_SIZE + size
        if len(stamps) < INDEX_EVENTS:
            self.stopped = self.stopped or at < bound
            if self.stopped or not partial or not stamps:
                return b""
        return self._record(at, headers, stamps, sizes)

    def _record(self, end: int, headers: builtins.bytearray, stamps: list[int], sizes: list[int]) -> builtins.bytes:
        self.unsorted = self.unsorted or any(map(operator.gt, (self.last_timestamp, *stamps), stamps))
        highest = max(stamps)
        self.running = max(self.running, highest)
        equal = sizes.count(sizes[0]) == len(sizes)
        flags = INDEX_EQUAL_SIZES * equal | INDEX_UNSORTED * self.unsorted
        fields = self.offset, min(stamps), highest, self.running, zlib.crc32(headers)
        record = INDEX_RECORD.pack(*fields, sizes[0] if equal else 0, len(stamps), flags, 0)[:-4]
        checksum = zlib.crc32(record, zlib.crc32(INDEX_PLACE.pack(self._start_timestamp, self.block)))
        self.offset = end
        self.block += 1
        self.last_timestamp = stamps[-1]
        return record + checksum.to_bytes(4, "little")

    def store(self) -> None:
        """Write the records to the file that the thread has made and not written yet, once it has ended."""

    def store_to(self, fd: int, position: int, /) -> None:
        """Where the thread of `Region.trail` writes the records: the index file, and where the next one belongs."""


def index_check(records: Any, start_timestamp: int, block: int, /) -> int:
    """How many of the records in a buffer, the first being that of `block`, have the right checksum, up to the first
    that has not. O(records).
    """
    view = memoryview(records)
    count = len(view) // INDEX_RECORD.size
    for i in range(count):
        record = view[i * INDEX_RECORD.size : (i + 1) * INDEX_RECORD.size]
        checksum = zlib.crc32(record[:-4], zlib.crc32(INDEX_PLACE.pack(start_timestamp, block + i)))
        if checksum.to_bytes(4, "little") != record[-4:]:
            return i
    return count


@final
class Event:
    """One event: unpacks as (timestamp, data).

    `data` is a read-only memoryview; pickles and copies with its bytes.
    """

    __slots__ = ("_checksum", "_data", "_offset", "_ordinal", "_schema", "_timestamp")

    _timestamp: int
    _data: Any
    _ordinal: int
    _offset: int
    _checksum: int
    _schema: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Event:
        event = _NEW(cls)
        event._timestamp = event._ordinal = event._offset = event._checksum = 0
        event._data = event._schema = None
        return event

    def __init_subclass__(cls) -> None:
        raise TypeError(f"type '{__name__}.Event' is not an acceptable base type")

    def __init__(
        self,
        timestamp: int,
        data: Any,
        ordinal: int = 0,
        offset: int = 0,
        checksum: int | None = None,
        schema: Any = None,
    ) -> None:
        self._timestamp = bounded("timestamp", timestamp, TIME_MIN, TIME_MAX)
        self._data = memoryview(data).toreadonly()
        self._ordinal = bounded("ordinal", ordinal, 0, INT64_MAX)
        self._offset = bounded("offset", offset, 0, INT64_MAX)
        self._checksum = zlib.crc32(data) if checksum is None else bounded("checksum", checksum, 0, SIZE_MAX)
        self._schema = schema

    timestamp = property(lambda self: self._timestamp)
    data = property(lambda self: self._data)
    ordinal = property(lambda self: self._ordinal)
    offset = property(lambda self: self._offset)
    checksum = property(lambda self: self._checksum)

    @property
    def value(self) -> Any:
        """The payload as the schema of the stream says: a row, text, or what the JSON is; bytes without a schema.

        Raises SchemaError if the payload does not fit the schema. O(size).
        """
        return bytes(self._data) if self._schema is None else self._schema.decode(self)

    @property
    def bytes(self) -> builtins.bytes:
        """The payload as bytes: a copy. O(size)."""
        return bytes(self._data)

    @property
    def text(self) -> str:
        """The payload as text. Raises UnicodeDecodeError if it is not UTF-8. O(size)."""
        return str(self._data, "utf-8")

    @property
    def time(self) -> Any:
        """The timestamp as numpy.datetime64[ns], UTC."""
        return to_datetime64(self._timestamp)

    def __iter__(self) -> Iterator[Any]:
        return iter((self._timestamp, self._data))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any, /) -> Any:
        return (self._timestamp, self._data)[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (Event, tuple)):
            return NotImplemented
        return (self._timestamp, self._data) == tuple(other)

    def __hash__(self) -> int:
        return hash((self._timestamp, self._data))

    def __repr__(self) -> str:
        return describe_event(self)


_forks = 0  # forks between the first process and this one


def _after_fork_in_child() -> None:
    global _forks  # noqa: PLW0603 - a count of the process
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


@final
class Events(_Made):
    """Iterates over the events from `offset` (event `ordinal`) to the byte `bound` or the ordinal `stop` (-1: none).

    `report_problem(ordinal, offset, reason)` is called at damage and is expected to raise. If it returns, the event is
    skipped, or for "zero" accepted.

    `after` is the offset and the header of the event that was returned last, or (-1, b""). Before an event is returned
    from bytes that were just read, that header has to be in its place still. Else the stream was cut, and the event may
    not be the next one.

    `spin_ns` changes nothing, because a walk of this core never goes on at `bound`; see `proceed`.
    """

    def __init__(
        self,
        region: Region,
        offset: int,
        ordinal: int,
        bound: int,
        *,
        stop: int = -1,
        verify_checksums: bool,
        report_problem: Callable[[int, int, EventsReason], None],
        after: tuple[int, bytes] = (-1, b""),
        spin_ns: int = 0,
        schema: Any = None,
    ) -> None:
        source = region._still_open()
        if not HEADER_SIZE <= offset <= bound <= region.size:
            raise ValueError(f"{region.path}: bytes {offset} to {bound} are not within its {region.size}")
        if after[0] >= 0 and (len(after[1]) != ENTRY_SIZE or not HEADER_SIZE <= after[0] <= offset - ENTRY_SIZE):
            raise ValueError(f"{region.path}: the event at offset {after[0]} is not before offset {offset}")
        self._region = region
        self._source = source
        self._window = _Window(source, bound)
        self._offset = offset
        self._ordinal = ordinal
        self._bound = bound
        self._stop = stop
        self._before = after  # what the walk began after
        self._last: Event | None = None  # what was returned last
        self._verify_checksums = verify_checksums
        self._report_problem = report_problem
        self._schema = schema
        self._lock = threading.RLock()  # as an appender's
        self._inside = False
        self._forks = _forks

    @property
    def offset(self) -> int:
        """Where the next entry begins."""
        return self._offset

    @property
    def ordinal(self) -> int:
        """The ordinal of the next event."""
        return self._ordinal

    @property
    def after(self) -> tuple[int, bytes]:
        """The offset and the header of the event that was returned last."""
        last = self._last
        if last is None:
            return self._before
        return last._offset, ENTRY.pack(last._timestamp, len(last._data), last._checksum)

    def proceed(self, stop: int, /) -> bool:
        """As in the native core: False if it is not certain that the walk can go on. Here it never is."""
        return False

    def __iter__(self) -> Events:
        return self

    def __next__(self) -> Event:
        if self._forks != _forks:
            self._forked()
        with self._lock:
            if self._inside:
                raise errors.busy(self._region.path)
            self._inside = True
            try:
                while self._offset < self._bound and self._ordinal != self._stop:
                    event = self._next()
                    if event is not None:
                        self._last = event
                        return event
            finally:
                self._inside = False
        raise StopIteration

    def _forked(self) -> None:
        """In a forked child: the lock is a parent's, and a thread that is not there may have been inside."""
        if self._inside:
            raise errors.forked_inside(self._region.path)
        self._lock = threading.RLock()
        self._forks = _forks

    def _next(self) -> Event | None:
        at, ordinal, known = self._offset, self._ordinal, self._window.reads
        try:
            reason, event = self._step()
            if self._window.reads != known and self._changed():
                self._offset = self._bound
                reason, event = "changed", None
        except errors.TruncatedError:
            self._offset = self._bound
            reason, event = "fault", None
        if reason:
            # Where this raises at a zero entry, nothing after it can be trusted and the iteration is over.
            after = self._offset
            if reason == "zero":
                self._offset = self._bound
            self._report_problem(ordinal, at, reason)
            self._offset = after
        return event

    def _changed(self) -> bool:
        """Whether the header of the event that was returned last is another one now. Looked at after the next entry."""
        offset, header = self.after
        return offset >= 0 and self._source.take(offset, offset + ENTRY_SIZE) != header

    def _step(self) -> tuple[EventsReason | None, Event | None]:
        """Load and check the entry, and step over it. The walk ends where an entry does not fit."""
        at, ordinal = self._offset, self._ordinal
        left = self._bound - at - ENTRY_SIZE
        timestamp = size = checksum = 0
        if left >= 0:
            timestamp, size, checksum = ENTRY.unpack(self._window.bytes(at, ENTRY_SIZE))
        if left < 0 or size > left:
            self._offset = self._bound
            return "size", None
        data = self._window.bytes(at + ENTRY_SIZE, size).toreadonly()
        self._offset = at + ENTRY_SIZE + size
        self._ordinal += 1
        if self._verify_checksums and zlib.crc32(data) != checksum:
            return "checksum", None
        event: Event = _NEW(Event)  # what is read needs no second look
        event._timestamp, event._data, event._ordinal = timestamp, data, ordinal
        event._offset, event._checksum, event._schema = at, checksum, self._schema
        return "zero" if timestamp == 0 and size == 0 else None, event


# -------------------------------------------------------------------------------------------- gather


def _source_below(region: Region, bound: int) -> Any:
    source = region._still_open()
    if not 0 <= bound <= region.size:
        raise ValueError(f"{region.path}: bound {bound} is not within its {region.size} bytes")
    return source


def _header_at(source: Any, bound: int, offset: int) -> tuple[int, int, int] | None:
    """The header of the entry at an offset, if there is one that fits below `bound`."""
    if not HEADER_SIZE <= offset <= bound - ENTRY_SIZE:
        return None
    timestamp, size, checksum = ENTRY.unpack(source.take(offset, offset + ENTRY_SIZE))
    return (timestamp, size, checksum) if size <= bound - ENTRY_SIZE - offset else None


def step_all(region: Region, bound: int, offsets: Any, steps: Any, /) -> int:
    """Move each offset over as many entries as `steps` says, which becomes 0.

    Returns -1, or the number of a place that has no entry below `bound` to move over; its offset is where that is.
    """
    source = _source_below(region, bound)
    if len(offsets) != len(steps):
        raise ValueError(f"{region.path}: {len(offsets)} offsets but {len(steps)} steps")
    for i, offset in enumerate(offsets.tolist()):
        window = _Window(source, bound)
        for _ in range(int(steps[i])):
            size = bound
            if HEADER_SIZE <= offset <= bound - ENTRY_SIZE:
                size = ENTRY.unpack(window.bytes(offset, ENTRY_SIZE))[1]
            if size > bound - ENTRY_SIZE - offset:
                offsets[i] = offset
                return i
            offset += ENTRY_SIZE + size
        offsets[i] = offset
        steps[i] = 0
    return -1


def headers_at(region: Region, bound: int, offsets: Any, timestamps: Any, sizes: Any, /) -> int:
    """Read timestamp and payload size of the entries at the offsets.

    Returns -1, or the number of the first place without an entry that fits below `bound`.
    """
    source = _source_below(region, bound)
    if len(timestamps) != len(offsets) or len(sizes) != len(offsets):
        raise ValueError(f"{region.path}: the columns of {len(offsets)} offsets have other lengths")
    for i, offset in enumerate(offsets.tolist()):
        header = _header_at(source, bound, offset)
        if header is None:
            return i
        timestamps[i], sizes[i] = header[:2]
    return -1


def gather(region: Region, bound: int, offsets: Any, ends: Any, into: Any, /, *, verify_checksums: bool) -> int:
    """Copy the payloads at the offsets to the writable buffer `into`, payload i up to byte ends[i].

    Returns -1, or the number of the first place whose entry has another size, or whose payload another checksum.
    """
    source = _source_below(region, bound)
    target = memoryview(into)
    if len(ends) != len(offsets):
        raise ValueError(f"{region.path}: {len(offsets)} offsets but {len(ends)} ends")
    stops = ends.tolist()
    for i, (before, stop) in enumerate(zip([0, *stops], stops, strict=False)):
        if stop < before:
            raise ValueError(f"{region.path}: ends go backwards at {i}")
    if stops and stops[-1] > len(target):
        raise ValueError(f"{region.path}: {stops[-1]} bytes do not fit into {len(target)}")
    at = 0
    for i, (offset, stop) in enumerate(zip(offsets.tolist(), stops, strict=True)):
        header = _header_at(source, bound, offset)
        if header is None or header[1] != stop - at:
            return i
        payload = source.take(offset + ENTRY_SIZE, offset + ENTRY_SIZE + header[1])
        if verify_checksums and zlib.crc32(payload) != header[2]:
            return i
        target[at:stop] = payload
        at = stop
    return -1


def events_at(
    region: Region, bound: int, offsets: Any, ordinals: Any, /, *, verify_checksums: bool, schema: Any = None
) -> list[Event]:
    """The events at the offsets, a list. Without the first one that is damaged or sixteen zero bytes, and those after.

    Each has its ordinal from the array.
    """
    source = _source_below(region, bound)
    if len(ordinals) != len(offsets):
        raise ValueError(f"{region.path}: {len(offsets)} offsets but {len(ordinals)} ordinals")
    events: list[Event] = []
    for offset, ordinal in zip(offsets.tolist(), ordinals.tolist(), strict=True):
        header = _header_at(source, bound, offset)
        if header is None or header[:2] == (0, 0):
            break
        data = source.take(offset + ENTRY_SIZE, offset + ENTRY_SIZE + header[1]).toreadonly()
        if verify_checksums and zlib.crc32(data) != header[2]:
            break
        event: Event = _NEW(Event)
        event._timestamp, event._data, event._ordinal = header[0], data, ordinal
        event._offset, event._checksum, event._schema = offset, header[2], schema
        events.append(event)
    return events


# --------------------------------------------------------------------------------------------- Arrow


def arrow_schema(columns: Sequence[Column], /) -> Any:
    """A capsule of the ArrowSchema of a table of these columns."""
    return pure_arrow.arrow_schema(columns)


def arrow_fields(capsule: Any, /) -> list[tuple[str, str]]:
    """Name and format of each column of the schema in a capsule."""
    return pure_arrow.arrow_fields(capsule)


def arrow_stream(
    region: Region,
    columns: Sequence[Column],
    size: int,
    offset: int,
    ordinal: int,
    bound: int,
    stop: int,
    *,
    offsets: Any = None,
    ordinals: Any = None,
    starts: Any = None,
    batch_events: int,
    verify_checksums: bool,
    nulls: bool,
    report: Callable[[int, int, str, int], str | None],
) -> Any:
    """A capsule of an ArrowArrayStream of the events [ordinal, stop), the first of which is at `offset`.

    Or of the events at the int64 array `offsets`, whose numbers are `ordinals`. No entry reaches beyond `bound`. Every
    payload must have `size` bytes (-1: any). `report(ordinal, offset, reason, column)` returns why a batch cannot be
    made, or None to accept an event of zeros. `starts`, where each batch begins, is not needed here. The stream needs
    the region no more.
    """
    source = region._still_open()
    if not HEADER_SIZE <= offset <= bound <= region.size:
        raise ValueError(f"{region.path}: bytes {offset} to {bound} are not within its {region.size}")
    if offsets is None:
        where = zip(range(ordinal, stop), repeat(-1))
    else:
        where = zip(ordinals.tolist(), offsets.tolist(), strict=True)
        if len(offsets) and not HEADER_SIZE <= offsets.min() <= offsets.max() <= bound:
            text = f"offsets {offsets.min()} to {offsets.max()} are not within its {bound} bytes"
            raise ValueError(f"{region.path}: {text}")
    request = pure_arrow.Request(
        source, _Window, columns, size, offset, bound, where, batch_events, verify_checksums, nulls, report
    )
    return pure_arrow.arrow_stream(request)


def arrow_chain(columns: Sequence[Column], next_capsule: Callable[[], Any], /) -> Any:
    """A capsule of an ArrowArrayStream of the batches of other such streams, one after the other.

    `next_capsule()` returns the capsule of the next one, which has these columns, or None after the last. What it
    raises is the error of the stream.
    """
    return pure_arrow.arrow_chain(columns, next_capsule)


# --------------------------------------------------------------------------------------------- guard


def guard_enable() -> None:
    """Turn SIGBUS in a mapped stream into zeros and a mark, in this process.

    Nothing to do here: readers use no mapping.
    """


def guard_disable() -> None:
    """Restore the handler that was there before."""


def guard_enabled() -> bool:
    """Whether the guard is installed."""
    return False

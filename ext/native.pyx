# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: binding=False, freethreading_compatible=True
"""The native core: bytes in a mapped file, and nothing that decides. `evtape.core.pure` is the same in Python."""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_STRIDES, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.long cimport PyLong_CheckExact
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.stdint cimport INT64_MAX, INT64_MIN, UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t

from c_functions cimport *

import os

import numpy as np

from .. import errors
from .describe import describe_event
from .format import REASONS, bounded
from .times import nanoseconds, to_datetime64

NAME = "native"


evtape_layout_init()
evtape_crc32_init()

# Why a walk stops at an entry, in the order of REASONS in format.py.
cdef enum:
    INTACT
    SIZE
    CHECKSUM
    ZERO
    FAULT

# Below this many bytes a batch is written without releasing the GIL: taking it back from a busy thread may cost
# milliseconds.
cdef enum:
    SHORT_BATCH = 1048576
    KEEP_BEHIND = 33554432  # bytes after which an iteration drops the pages that it has left
    PREFETCH_PAGES = 2097152  # bytes that are prefetched at once
    PREFETCH_EVENTS = 2  # a batch prefetches its payloads this many events early; see evtape_prefetch


# ------------------------------------------------------------------------------------------ checksum


def crc32(data, uint32_t value=0, /):
    """CRC-32 of a contiguous buffer as `zlib.crc32` computes it. O(len(data))."""
    cdef Py_buffer buffer
    PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
    try:
        if buffer.len < SHORT_BATCH:
            return evtape_crc32(value, buffer.buf, buffer.len)
        with nogil:
            value = evtape_crc32(value, buffer.buf, buffer.len)
        return value
    finally:
        PyBuffer_Release(&buffer)


def crc32_implementations():
    """The implementations this processor can run, widest first."""
    cdef const char *names[16]
    cdef int i, n = evtape_crc32_implementations(names, 16)
    return tuple([(<bytes>names[i]).decode() for i in range(n)])


def crc32_use(str implementation, /):
    """Force one implementation, or "auto". For tests."""
    if evtape_crc32_use(implementation.encode()) != 0:
        raise ValueError(
            f"CRC-32 implementation {implementation!r} cannot run here; there are {crc32_implementations()}"
        )


# -------------------------------------------------------------------------------------------- region


@cython.final
cdef class _Mapping:
    """One mapping of the file. It never moves, and lives as long as the last view of it."""
    cdef uint8_t *base
    cdef int64_t length
    cdef int64_t reserved  # its part of the address space that all mappings share
    cdef bint writable
    cdef evtape_guard_slot *slot

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.base, self.length, not self.writable, flags)

    def __dealloc__(self):
        evtape_guard_remove(self.slot)
        if self.base != NULL:
            evtape_unmap(self.base, self.length)
        evtape_reserve_give(self.reserved)

    cdef inline uint64_t faults(self) noexcept nogil:
        return evtape_guard_faults(self.slot)


cdef int64_t with_reserve(int64_t size, int64_t reserve) noexcept:
    """Bytes to map of a file that grows. They double each time, so that the file is seldom mapped again."""
    cdef int64_t length = reserve
    while length < size and length < <int64_t>1 << 46:
        length *= 2
    return max(size, length)


cdef _Mapping map_file(int fd, int64_t size, bint writable, bint grows, str path):
    cdef _Mapping mapping = _Mapping.__new__(_Mapping)
    cdef int64_t least = (max(size, 1) + EVTAPE_MAPPED_UNIT - 1) // EVTAPE_MAPPED_UNIT * EVTAPE_MAPPED_UNIT
    cdef int64_t length = least
    if EVTAPE_RESERVE > 0 and grows:
        length = with_reserve(least, EVTAPE_RESERVE if writable else EVTAPE_RESERVE_LESS)
        if writable:
            if evtape_reserve_take(length):
                mapping.reserved = length
            else:
                length = with_reserve(least, EVTAPE_RESERVE_LESS)
    cdef int error = evtape_map(fd, length, writable, &mapping.base)
    if error != 0 and length > least:
        # No address space for the reserve (RLIMIT_AS): map the size of the file, and map again when it grows.
        length = least
        evtape_reserve_give(mapping.reserved)
        mapping.reserved = 0
        error = evtape_map(fd, length, writable, &mapping.base)
    if error != 0:
        mapping.base = NULL
        raise errors.with_path(OSError(error, ""), path, f"mapping {size} bytes")
    mapping.length = length
    mapping.writable = writable
    mapping.slot = evtape_guard_add(mapping.base, length)
    if mapping.slot == NULL:
        raise MemoryError()
    return mapping


@cython.final
cdef class Region:
    """A file mapped into memory. `size` bytes of it may be touched; the file is extended under the mapping.

    `split_at_pages`: no single store into an entry crosses the end of a page. A full file system that copies on write
    may have to write one page back before it lets the next be stored to; a store to both would be tried for ever.
    """
    cdef readonly str path
    cdef int64_t first  # bytes of the file when this region was made
    cdef int64_t known  # bytes of the file that may be touched; with a preallocator there may be more
    cdef int fd
    cdef bint writable
    cdef bint split_at_pages
    cdef bint write_back  # as the preallocator was started
    cdef bint huge  # space is populated in huge pages
    cdef _Mapping mapping
    cdef evtape_preallocator *preallocator  # the thread that preallocates, or NULL
    cdef int stopping  # calls of stop_preallocator that wait for a thread, which may still be at work on the file
    cdef Appender appender  # the one that may hold on to the preallocator
    cdef object whole  # a memoryview of the mapping; every view that is handed out is a slice of it
    cdef list former  # mappings that were outgrown; other threads may still be storing through them

    def __cinit__(self, int fd, int64_t size, str path not None, *, bint writable=False, bint split_at_pages=False):
        self.fd = fd
        self.path = path
        self.writable = writable
        self.split_at_pages = split_at_pages
        self.former = []
        self.huge = True
        self._map(size)
        self.first = self.known = size

    def __dealloc__(self):
        evtape_preallocator_stop(self.preallocator)

    cdef _map(self, int64_t size):
        # A file that is only read may never grow.
        cdef bint grows = self.writable or self.mapping is not None
        cdef _Mapping mapping = map_file(self.fd, size, self.writable, grows, self.path)
        if self.mapping is not None:
            self.former.append(self.mapping)
        self.mapping = mapping
        self.whole = PyMemoryView_FromObject(mapping)

    cdef int _open(self) except -1:
        if self.mapping is None:
            raise errors.closed(self.path)
        return 0

    @property
    def size(self):
        """Bytes of the file that may be touched."""
        return self._size()

    cdef inline int64_t _size(self) noexcept:
        if self.preallocator == NULL:
            return self.known
        return max(self.known, evtape_preallocator_ready(self.preallocator))

    @property
    def huge_pages(self):
        """Whether space is populated in huge pages: far cheaper to make, but flushed as a whole."""
        return self.huge

    @huge_pages.setter
    def huge_pages(self, bint huge):
        self.huge = huge
        if self.preallocator != NULL:
            evtape_preallocator_mode(self.preallocator, self._pages(), self.write_back)

    cdef int _pages(self) noexcept:
        return EVTAPE_PAGES_HUGE if self.huge else EVTAPE_PAGES_SMALL

    @property
    def reserved(self):
        """How large the file can grow under the present mapping."""
        return 0 if self.mapping is None else self.mapping.length

    @property
    def faults(self):
        """Pages that could not be read or stored and were replaced by zeros."""
        cdef uint64_t faults = 0 if self.mapping is None else self.mapping.faults()
        return faults + sum([(<_Mapping>m).faults() for m in self.former])

    def grow(self, int64_t size, /):
        """Preallocate the file up to `size` bytes at least, or raise OSError and leave it as it was."""
        cdef int error = ECANCELED
        while error == ECANCELED:  # another thread stopped the one in the background, because it forks
            error = self._allocate(size)
        if error == ENOTSUP:
            os.ftruncate(self.fd, size)
            error = 0
        if error != 0:
            raise errors.with_path(OSError(error, ""), self.path, f"extending the file to {size} bytes")
        self.extend(max(size, self._size()))

    cdef int _allocate(self, int64_t size) except -1:
        cdef int error, populate = self._pages()
        self._wait_stopped()
        self._open()
        cdef int64_t start = self._size()
        cdef _Mapping mapping = self.mapping
        cdef evtape_preallocator *preallocator
        if size <= start:  # a signal handler has extended it already
            return 0
        with cython.critical_section(self):
            preallocator = self.preallocator
            if preallocator != NULL:
                evtape_preallocator_announce(preallocator)
        with nogil:
            if preallocator != NULL:
                error = evtape_preallocator_wait(preallocator, size)
            elif size <= mapping.length:
                error = evtape_preallocate(self.fd, mapping.base, start, size, populate)
            else:
                error = evtape_preallocate(self.fd, NULL, start, size, EVTAPE_PAGES_NONE)
        return error

    cdef int _wait_stopped(self) except -1:
        """A thread that is being stopped may still be at work: two never extend one file."""
        cdef int spins = 0
        while self.stopping != 0:
            with nogil:
                evtape_pause(spins)
            spins += 1
        return 0

    def start_preallocator(self, bint write_back, /):
        """Start a native thread that preallocates, once the stream is large enough to pay for one.

        It also drops the pages that the writer has left, and with `write_back` starts to write them to the disk. False
        where there is no such thread.
        """
        cdef uint8_t *base
        self._wait_stopped()
        self._open()
        if self.preallocator == NULL:
            base = self.mapping.base
            self.preallocator = evtape_preallocator_start(
                self.fd, base, self.mapping.length, self.first, self.known, <const int64_t *>base
            )
            if self.preallocator != NULL:
                self.write_back = write_back
                evtape_preallocator_mode(self.preallocator, self._pages(), write_back)
        return self.preallocator != NULL

    def stop_preallocator(self):
        """End the thread. The appender lets go of it first."""
        cdef evtape_preallocator *preallocator
        cdef Appender appender = self.appender
        with cython.critical_section(self):
            preallocator = self.preallocator
            self.known = self._size()
            self.preallocator = NULL
            self.stopping += 1
        if appender is not None:  # after the region's is NULL, where the appender takes it from
            appender.pause()
        with nogil:
            evtape_preallocator_stop(preallocator)
        with cython.critical_section(self):
            self.stopping -= 1

    def forked(self):
        """In a forked child, which has no such thread: forget it."""
        evtape_preallocator_forked(self.preallocator)
        self.preallocator = NULL
        self.stopping = 0

    @cython.critical_section
    def extend(self, int64_t size, /):
        """Take note that the file now has `size` bytes."""
        self._open()
        if size > self.mapping.length:
            self._map(size)
        self.known = size

    @cython.critical_section
    def view(self, int64_t start, int64_t stop, /):
        """The bytes [start, stop) without a copy. Writable if the region is."""
        self._open()
        if not 0 <= start <= stop <= self._size():
            raise ValueError(f"{self.path}: bytes {start} to {stop} are not within its {self._size()}")
        return self.whole[start:stop]

    def load_header(self):
        """(WriteOffset, EventCount, StartTimestamp), loaded with acquire order."""
        self._open()
        cdef evtape_header header = evtape_load_header(self.mapping.base)
        return header.write_offset, header.event_count, header.start_timestamp

    def store_header(self, int64_t write_offset, int64_t event_count, /):
        """Publish (WriteOffset, EventCount)."""
        self._open()
        evtape_publish(self.mapping.base, write_offset, event_count)

    def drop_pages(self, int64_t start, int64_t stop, /):
        """Drop the pages of [start, stop) from this process's memory; the next access loads them again."""
        self._open()
        evtape_drop_pages(self.mapping.base, start, stop)

    def flush(self, int64_t start, int64_t stop, /):
        """Make the pages of [start, stop) durable."""
        self._open()
        cdef _Mapping mapping = self.mapping
        cdef int error
        with nogil:
            error = evtape_flush(self.fd, mapping.base, start, stop)
        if error != 0:
            raise errors.with_path(OSError(error, ""), self.path, f"flushing bytes {start} to {stop}")

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def close(self):
        """Release the mapping. Views stay valid and keep it alive."""
        self.stop_preallocator()
        with cython.critical_section(self):
            self.mapping = None
            self.whole = None
            self.former = []
            self.appender = None


# -------------------------------------------------------------------------------------------- append


cdef inline bint as_int64(object value, int64_t *result) except -1:
    cdef int overflow = 0
    if not PyLong_CheckExact(value):
        return False
    result[0] = PyLong_AsLongLongAndOverflow(value, &overflow)
    return overflow == 0


cdef struct Payload:
    const uint8_t *data
    Py_ssize_t size


@cython.final
cdef class Appender:
    """Writes entries at WriteOffset and publishes them.

    `limit` is the end of the preallocated bytes, and the only thing that the hot path looks at. When an event does not
    fit below it, `reserve(end)` is called, which preallocates more or raises. A writer that must not write has limit 0.
    """
    cdef Region region
    cdef _Mapping mapping  # keeps `base` alive while this appender may store through it
    cdef uint8_t *base
    cdef evtape_preallocator *preallocator  # the region's; asked before Python is
    cdef readonly int64_t offset
    cdef readonly int64_t count
    cdef readonly int64_t last_timestamp
    cdef int64_t _limit
    cdef bint halted
    cdef bint split_at_pages  # as in the region
    cdef object reserve
    cdef evtape_spinlock spinlock

    def __cinit__(self, Region region not None, int64_t last_timestamp, reserve):
        region._open()
        cdef evtape_header header = evtape_load_header(region.mapping.base)
        self.region = region
        self.mapping = region.mapping
        self.base = self.mapping.base
        self.offset = header.write_offset
        self.count = header.event_count
        self.last_timestamp = last_timestamp
        self._limit = 0
        self.split_at_pages = region.split_at_pages
        self.reserve = reserve
        region.appender = self

    cdef int _timestamp(self, object given, int64_t *timestamp) except -1:
        if not as_int64(given, timestamp):
            timestamp[0] = nanoseconds(given, self.region.path)
        return 0

    cdef inline int64_t _now(self) noexcept nogil:
        cdef int64_t now = evtape_now()
        return now if now > self.last_timestamp else self.last_timestamp

    cdef int _reserve(self, int64_t end) except -1:
        """The slow path, without the spinlock: preallocates up to `end` or raises."""
        self.reserve(end)
        self._enter_long()
        if self.region.mapping is not None:
            self.mapping = self.region.mapping
            self.base = self.mapping.base
            self.preallocator = self.region.preallocator
        evtape_spinlock_unlock_long(&self.spinlock)
        return 0

    cdef int _enter_long(self) except -1:
        while not evtape_spinlock_try_long(&self.spinlock):
            with nogil:
                evtape_spinlock_wait(&self.spinlock)
        return 0

    cdef inline bint _fits(self, int64_t end) noexcept nogil:
        """Whether `end` is preallocated, with the spinlock held. Half way through, more is asked for."""
        if end <= self._limit:
            return True
        if self._limit == 0 or self.preallocator == NULL:
            return False
        self._limit = evtape_preallocator_limit(self.preallocator, end)
        return end <= self._limit

    cdef int _fault(self) except -1:
        self.reserve(-1)
        raise errors.faulted(self.region.path)

    cdef inline int64_t _append(self, const uint8_t *data, Py_ssize_t size, object given) except -1:
        cdef int64_t timestamp = 0, ordinal = -1, end
        cdef uint8_t *at
        cdef bint faulted
        if given is not None:
            self._timestamp(given, &timestamp)
            if size == 0 and timestamp == 0:
                raise errors.zero_event(self.region.path)
        if size >= SHORT_BATCH:
            return self._append_large(data, size, NULL if given is None else &timestamp)
        while True:
            if not evtape_spinlock_try(&self.spinlock):
                with nogil:
                    evtape_spinlock_wait(&self.spinlock)
                continue
            end = self.offset + EVTAPE_ENTRY_SIZE + size
            if self._fits(end):
                break
            evtape_spinlock_unlock(&self.spinlock)
            self._reserve(end)
        if given is None:
            timestamp = self._now()
        at = self.base + self.offset
        evtape_write_entry(at, timestamp, data, <uint32_t>size, self.split_at_pages)
        faulted = self.mapping.faults() != 0
        if not faulted:
            ordinal = self.count
            self.last_timestamp = timestamp
            self.offset = end
            self.count = ordinal + 1
            evtape_publish(self.base, self.offset, self.count)
            faulted = self.mapping.faults() != 0
        evtape_spinlock_unlock(&self.spinlock)
        if faulted:
            self._fault()
        return ordinal

    cdef int64_t _append_large(self, const uint8_t *data, Py_ssize_t size, const int64_t *stamp) except -1:
        """One event so large that the GIL is released while it is stored."""
        cdef Payload row
        if size > <Py_ssize_t>0xFFFFFFFF:
            raise errors.payload_too_large(self.region.path, size)
        row.data, row.size = data, size
        return self._batch(&row, NULL, 0, 1, EVTAPE_ENTRY_SIZE + size, stamp)

    def append(self, data, timestamp=None):
        """Append one event and return its ordinal.

        `data` is any contiguous buffer; `timestamp` nanoseconds, datetime or datetime64, by default now and never
        lower than the last one. When this returns, every process can read the event. O(len(data)).
        """
        cdef Py_buffer buffer
        if PyBytes_CheckExact(data):
            return self._append(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), timestamp)
        get_payload(data, &buffer, self.region.path)
        try:
            return self._append(<const uint8_t *>buffer.buf, buffer.len, timestamp)
        finally:
            PyBuffer_Release(&buffer)

    def append_many(self, payloads, timestamps=None, /):
        """Append a sequence of buffers as one batch, published whole or not at all. Returns their ordinals.

        `timestamps` is an int64 array of the same length; without it all events get one reading of the clock.
        """
        cdef int64_t first = -1
        cdef int64_t[::1] given = timestamps
        cdef const int64_t *stamps = &given[0] if timestamps is not None and given.shape[0] else NULL
        cdef Py_ssize_t n = len(payloads)
        if EVTAPE_GIL and isinstance(payloads, (list, tuple)):
            first = self._append_short(PySequence_Fast_ITEMS(payloads), n, stamps)
        if first < 0:
            items = tuple(payloads)  # so that they cannot change while the GIL is released
            n = len(items)
            first = self._append_long(items, stamps)
        return range(first, first + n)

    cdef int64_t _append_short(self, PyObject **items, Py_ssize_t n, const int64_t *stamps) noexcept:
        """Write and publish a batch of bytes objects in one pass, without a list of their addresses.

        Returns -1 and publishes nothing if an item is not a bytes object, does not fit, or is otherwise unusual. The
        GIL is held throughout, so that the items stay alive. So this is only for short batches.
        """
        cdef int64_t timestamp, ordinal
        cdef uint8_t *at
        cdef uint8_t *stop
        cdef const uint8_t *data
        cdef Py_ssize_t i, size
        cdef bint split_at_pages = self.split_at_pages
        if n == 0 or not evtape_spinlock_try(&self.spinlock):
            return -1
        timestamp, ordinal = self._now(), self.count
        at = self.base + self.offset
        stop = self.base + min(self._limit, self.offset + SHORT_BATCH)
        for i in range(n):
            if i + PREFETCH_EVENTS < n:
                evtape_prefetch(items[i + PREFETCH_EVENTS])
            if not is_bytes(items[i]):
                return -1
            data, size = <const uint8_t *>bytes_of(items[i]), size_of(items[i])
            if stop - at < EVTAPE_ENTRY_SIZE + size:
                return -1
            if stamps != NULL:
                timestamp = stamps[i]
                if timestamp == 0 and size == 0:
                    return -1
            evtape_write_entry(at, timestamp, data, <uint32_t>size, split_at_pages)
            at += EVTAPE_ENTRY_SIZE + size
        if self.mapping.faults() != 0:
            return -1
        self.last_timestamp = timestamp
        self.offset = at - self.base
        self.count = ordinal + n
        evtape_publish(self.base, self.offset, self.count)
        evtape_spinlock_unlock(&self.spinlock)
        return ordinal

    cdef int64_t _append_long(self, tuple items, const int64_t *stamps) except -1:
        cdef Py_ssize_t n = len(items), i, held = 0
        cdef int64_t total = 0
        cdef Payload *rows = <Payload *>PyMem_Malloc(max(n, 1) * sizeof(Payload))
        cdef Py_buffer *buffers = NULL
        if rows == NULL:
            raise MemoryError()
        try:
            for i in range(n):
                item = items[i]
                if PyBytes_CheckExact(item):
                    rows[i].data = <const uint8_t *>PyBytes_AS_STRING(item)
                    rows[i].size = PyBytes_GET_SIZE(item)
                else:
                    if buffers == NULL:
                        buffers = <Py_buffer *>PyMem_Malloc((n - i) * sizeof(Py_buffer))
                        if buffers == NULL:
                            raise MemoryError()
                    get_payload(item, &buffers[held], self.region.path, i)
                    rows[i].data = <const uint8_t *>buffers[held].buf
                    rows[i].size = buffers[held].len
                    held += 1
                if rows[i].size > <Py_ssize_t>0xFFFFFFFF:
                    raise errors.payload_too_large(self.region.path, rows[i].size, f" {i}")
                if stamps != NULL and rows[i].size == 0 and stamps[i] == 0:
                    raise errors.zero_event(self.region.path, f" {i}")
                total += EVTAPE_ENTRY_SIZE + rows[i].size
            return self._batch(rows, NULL, 0, n, total, stamps)
        finally:
            for i in range(held):
                PyBuffer_Release(&buffers[i])
            PyMem_Free(buffers)
            PyMem_Free(rows)

    def append_rows(self, rows, timestamps=None, /):
        """Append each row of a 2-D array of bytes, shape (events, size), rows contiguous, as one batch.

        Returns their ordinals.
        """
        cdef Py_buffer buffer
        cdef int64_t[::1] stamps = timestamps
        cdef Py_ssize_t n, size, i
        cdef int64_t total, first
        PyObject_GetBuffer(rows, &buffer, PyBUF_STRIDES)
        try:
            n, size = buffer.shape[0], buffer.shape[1]
            if size > <Py_ssize_t>0xFFFFFFFF:
                raise errors.payload_too_large(self.region.path, size)
            if timestamps is not None and size == 0:
                for i in range(n):
                    if stamps[i] == 0:
                        raise errors.zero_event(self.region.path, f" {i}")
            total = n * (EVTAPE_ENTRY_SIZE + size)
            first = self._batch(NULL, &buffer, size, n, total, NULL if timestamps is None or n == 0 else &stamps[0])
            return range(first, first + n)
        finally:
            PyBuffer_Release(&buffer)

    cdef int64_t _batch(
        self, Payload *rows, Py_buffer *array, Py_ssize_t size, Py_ssize_t n, int64_t total, const int64_t *stamps
    ) except -1:
        """Write n entries, from `rows` or from the rows of `array`, and publish them with one store."""
        cdef int64_t ordinal, end
        cdef bint faulted
        while True:
            self._enter_long()
            end = self.offset + total
            if self._fits(end):
                break
            evtape_spinlock_unlock_long(&self.spinlock)
            self._reserve(end)
        ordinal = self.count
        if total < SHORT_BATCH:
            self._write_batch(rows, array, size, n, stamps)
        else:
            with nogil:
                self._write_batch(rows, array, size, n, stamps)
        faulted = self.mapping.faults() != 0
        evtape_spinlock_unlock_long(&self.spinlock)
        if faulted:
            self._fault()
        return ordinal

    cdef void _write_batch(
        self, Payload *rows, Py_buffer *array, Py_ssize_t size, Py_ssize_t n, const int64_t *stamps
    ) noexcept nogil:
        cdef int64_t timestamp = self._now()
        cdef uint8_t *at = self.base + self.offset
        cdef const uint8_t *data = <const uint8_t *>array.buf if array != NULL else NULL
        cdef Py_ssize_t i, stride = array.strides[0] if array != NULL else 0
        cdef bint split_at_pages = self.split_at_pages
        if n == 0:
            return
        for i in range(n):
            if stamps != NULL:
                timestamp = stamps[i]
            if array == NULL:
                data, size = rows[i].data, rows[i].size
                if i + PREFETCH_EVENTS < n:
                    evtape_prefetch(rows[i + PREFETCH_EVENTS].data)
            evtape_write_entry(at, timestamp, data, <uint32_t>size, split_at_pages)
            data += stride
            at += EVTAPE_ENTRY_SIZE + size
        if self.mapping.faults() != 0:
            return
        self.last_timestamp = timestamp
        self.offset = at - self.base
        self.count += n
        evtape_publish(self.base, self.offset, self.count)

    @property
    def limit(self):
        """The end of the preallocated bytes."""
        self._enter_long()
        cdef int64_t limit = self._limit
        evtape_spinlock_unlock_long(&self.spinlock)
        return limit

    @limit.setter
    def limit(self, int64_t limit):
        self._enter_long()
        self._limit = 0 if self.halted else limit
        evtape_spinlock_unlock_long(&self.spinlock)

    def position(self):
        """(WriteOffset, EventCount, timestamp of the last event) of one moment."""
        cdef int64_t offset, count, last_timestamp
        self._enter_long()
        offset, count, last_timestamp = self.offset, self.count, self.last_timestamp
        evtape_spinlock_unlock_long(&self.spinlock)
        # Created without the lock: a tuple may start a collection, and a finalizer may append.
        return offset, count, last_timestamp

    def pause(self):
        """Release the preallocator, which may end now; `limit` stays."""
        self._enter_long()
        self.preallocator = NULL
        evtape_spinlock_unlock_long(&self.spinlock)

    def halt(self):
        """Wait for a batch in another thread to end, then write no more: limit is 0 for good."""
        self._enter_long()
        self.halted = True
        self._limit = 0
        self.preallocator = NULL
        self.mapping = None
        evtape_spinlock_unlock_long(&self.spinlock)

    def forked(self):
        """In a forked child: write no more. A thread of the parent may be inside, so this does not wait."""
        self.halted = True
        self._limit = 0
        self.preallocator = NULL
        evtape_spinlock_unlock_long(&self.spinlock)


cdef int get_payload(object data, Py_buffer *buffer, str path, Py_ssize_t index=-1) except -1:
    """Get a contiguous view of `data`, or raise the error that says why there is none."""
    if isinstance(data, np.ndarray) and data.dtype.hasobject:
        raise errors.not_a_payload(path, data, "" if index < 0 else f" {index}")
    try:
        return PyObject_GetBuffer(data, buffer, PyBUF_SIMPLE)
    except Exception:
        raise errors.not_a_payload(path, data, "" if index < 0 else f" {index}") from None


# ---------------------------------------------------------------------------------------------- read


@cython.final
cdef class Scanner:
    """Walks entries in bulk. It stands at `offset`, before event `ordinal`, and remembers what it has met."""
    cdef Region region
    cdef readonly int64_t offset
    cdef readonly int64_t ordinal
    cdef readonly int64_t last_timestamp
    cdef readonly int64_t unsorted_at  # the first event with a lower timestamp than the one before it, or -1
    cdef readonly int64_t zero_ordinal  # the first entry of sixteen zero bytes, or -1
    cdef readonly int64_t zero_offset
    cdef readonly int64_t recorded  # the number of array elements that the last run filled

    def __cinit__(
        self, Region region not None, int64_t offset=EVTAPE_HEADER_SIZE, int64_t ordinal=0,
        int64_t last_timestamp=INT64_MIN,
    ):
        self.region = region
        self.offset = offset
        self.ordinal = ordinal
        self.last_timestamp = last_timestamp
        self.unsorted_at = -1
        self.zero_ordinal = -1
        self.zero_offset = -1

    def run(self, int64_t bound, int64_t count=-1, *, bint verify_checksums=False, int64_t stride=1,
            offsets=None, timestamps=None, sizes=None):
        """Walk entries below `bound`, at most `count`, comparing checksums if `verify_checksums`.

        Fills the given int64 arrays with every event whose ordinal is a multiple of `stride`, until they are full.
        Returns None, or why it stopped at an entry: "size", "checksum", "fault".
        """
        cdef int64_t[::1] into_offsets = offsets, into_timestamps = timestamps, into_sizes = sizes
        cdef int64_t *po = NULL
        cdef int64_t *pt = NULL
        cdef int64_t *ps = NULL
        cdef int64_t capacity = INT64_MAX
        cdef _Mapping mapping
        cdef int reason
        self.region._open()
        mapping = self.region.mapping
        if not 0 <= bound <= self.region._size():
            raise ValueError(f"{self.region.path}: bound {bound} is not within its {self.region._size()} bytes")
        if offsets is not None:
            capacity = into_offsets.shape[0]
            po = &into_offsets[0] if capacity else NULL
        if timestamps is not None:
            capacity = min(capacity, <int64_t>into_timestamps.shape[0])
            pt = &into_timestamps[0] if capacity else NULL
        if sizes is not None:
            capacity = min(capacity, <int64_t>into_sizes.shape[0])
            ps = &into_sizes[0] if capacity else NULL
        with nogil:
            reason = self._walk(mapping.base, bound, count, verify_checksums, stride, capacity, po, pt, ps)
        if mapping.faults() != 0:
            reason = FAULT
        return REASONS[reason]

    cdef int _walk(
        self, const uint8_t *base, int64_t bound, int64_t count, bint verify_checksums, int64_t stride,
        int64_t capacity, int64_t *offsets, int64_t *timestamps, int64_t *sizes,
    ) noexcept nogil:
        cdef evtape_entry entry
        cdef int64_t at = self.offset, ordinal = self.ordinal, last = self.last_timestamp, filled = 0
        cdef int64_t until_record = (stride - ordinal % stride) % stride
        cdef int reason = INTACT
        while at < bound and count != 0:
            if bound - at < EVTAPE_ENTRY_SIZE:
                reason = SIZE
                break
            entry = evtape_load_entry(base + at)
            if <int64_t>entry.size > bound - at - EVTAPE_ENTRY_SIZE:
                reason = SIZE
                break
            if verify_checksums and evtape_crc32(0, base + at + EVTAPE_ENTRY_SIZE, entry.size) != entry.checksum:
                reason = CHECKSUM
                break
            if until_record == 0:
                if filled == capacity:
                    break
                if offsets != NULL:
                    offsets[filled] = at
                if timestamps != NULL:
                    timestamps[filled] = entry.timestamp
                if sizes != NULL:
                    sizes[filled] = entry.size
                filled += 1
                until_record = stride
            until_record -= 1
            if entry.timestamp < last and self.unsorted_at < 0:
                self.unsorted_at = ordinal
            if entry.timestamp == 0 and entry.size == 0 and entry.checksum == 0 and self.zero_ordinal < 0:
                self.zero_ordinal = ordinal
                self.zero_offset = at
            last = entry.timestamp
            at += EVTAPE_ENTRY_SIZE + <int64_t>entry.size
            ordinal += 1
            count -= 1
        self.offset, self.ordinal, self.last_timestamp, self.recorded = at, ordinal, last, filled
        return reason

    def skip(self):
        """Step over the entry a run stopped at because of its checksum."""
        cdef evtape_entry entry
        self.region._open()
        entry = evtape_load_entry(self.region.mapping.base + self.offset)
        self.last_timestamp = max(self.last_timestamp, entry.timestamp)
        self.offset += EVTAPE_ENTRY_SIZE + <int64_t>entry.size
        self.ordinal += 1


@cython.final
@cython.no_gc
@cython.freelist(16)
cdef class Event:
    """One event: unpacks as (timestamp, data).

    `data` is a read-only memoryview; pickles and copies with its bytes.
    """
    cdef readonly int64_t timestamp
    cdef readonly object data
    cdef readonly int64_t ordinal
    cdef readonly int64_t offset
    cdef readonly uint32_t checksum

    def __init__(self, timestamp, data, ordinal=0, offset=0, checksum=None):
        self.timestamp = bounded("timestamp", timestamp, INT64_MIN, INT64_MAX)
        self.data = memoryview(data).toreadonly()
        self.ordinal = bounded("ordinal", ordinal, 0, INT64_MAX)
        self.offset = bounded("offset", offset, 0, INT64_MAX)
        self.checksum = crc32(data) if checksum is None else bounded("checksum", checksum, 0, UINT32_MAX)

    @property
    def bytes(self):
        """The payload as bytes: a copy. O(size)."""
        return bytes(self.data)

    @property
    def text(self):
        """The payload as text. Raises UnicodeDecodeError if it is not UTF-8. O(size)."""
        return str(self.data, "utf-8")

    @property
    def time(self):
        """The timestamp as numpy.datetime64[ns], UTC."""
        return to_datetime64(self.timestamp)

    def __iter__(self):
        cdef _Fields fields = _Fields.__new__(_Fields)
        fields.event = self
        return fields

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return (self.timestamp, self.data)[index]

    def __eq__(self, other):
        if not isinstance(other, (Event, tuple)):
            return NotImplemented
        return (self.timestamp, self.data) == tuple(other)

    def __hash__(self):
        return hash((self.timestamp, self.data))

    def __repr__(self):
        return describe_event(self)


@cython.final
@cython.no_gc
@cython.freelist(16)
cdef class _Fields:
    """The iterator that unpacks an Event. A tuple and its iterator would take twice as long."""
    cdef Event event
    cdef int given

    def __iter__(self):
        return self

    def __next__(self):
        self.given += 1
        if self.given == 1:
            return self.event.timestamp
        if self.given == 2:
            return self.event.data
        self.given = 2
        raise StopIteration


@cython.final
cdef class Events:
    """Iterates over the events from `offset` (event `ordinal`) to the byte `bound` or the ordinal `stop` (-1: none).

    `report_problem(ordinal, offset, reason)` is called at damage and is expected to raise. If it returns, the event is
    skipped, or for "zero" accepted.
    """
    cdef Region region
    cdef _Mapping mapping
    cdef object whole
    cdef int64_t offset, ordinal, bound, stop
    cdef int64_t dropped  # where the pages begin that were not dropped yet
    cdef int64_t prefetched  # up to where the pages were prefetched
    cdef int64_t first  # where the iteration began
    cdef bint verify_checksums
    cdef object report_problem

    def __cinit__(
        self, Region region not None, int64_t offset, int64_t ordinal, int64_t bound, *,
        int64_t stop=-1, bint verify_checksums, report_problem,
    ):
        region._open()
        if not EVTAPE_HEADER_SIZE <= offset <= bound <= region._size():
            raise ValueError(f"{region.path}: bytes {offset} to {bound} are not within its {region._size()}")
        self.region = region
        self.mapping = region.mapping
        self.whole = PyMemoryView_FromObject(region.whole).toreadonly()
        self.offset = self.dropped = self.prefetched = self.first = offset
        self.ordinal = ordinal
        self.bound = bound
        self.stop = stop
        self.verify_checksums = verify_checksums
        self.report_problem = report_problem

    def __iter__(self):
        return self

    @cython.critical_section
    def __next__(self):
        cdef evtape_entry entry
        cdef int64_t at, ordinal, after
        cdef int reason
        while self.offset < self.bound and self.ordinal != self.stop:
            at, ordinal = self.offset, self.ordinal
            reason = self._step(&entry)
            if reason == INTACT:
                return self._event(at, ordinal, &entry)
            after = self.offset
            if reason == ZERO:  # where this raises, nothing after the zeros can be trusted and the iteration is over
                self.offset = self.bound
            self.report_problem(ordinal, at, REASONS[reason])
            self.offset = after
            if reason == ZERO:
                return self._event(at, ordinal, &entry)
        raise StopIteration

    cdef inline int _step(self, evtape_entry *entry) noexcept:
        """Load and check the entry, and step over it. The walk ends at an entry that does not fit."""
        cdef const uint8_t *at = self.mapping.base + self.offset
        cdef int64_t left = self.bound - self.offset - EVTAPE_ENTRY_SIZE
        cdef bint intact = True
        if self.offset >= self.prefetched:
            self._move_window()
        if left >= 0:
            entry[0] = evtape_load_entry(at)
        if left < 0 or <int64_t>entry.size > left:
            self.offset = self.bound
            return SIZE
        if self.verify_checksums:
            intact = evtape_crc32(0, at + EVTAPE_ENTRY_SIZE, entry.size) == entry.checksum
        if self.mapping.faults() != 0:
            self.offset = self.bound
            return FAULT
        self.offset += EVTAPE_ENTRY_SIZE + <int64_t>entry.size
        self.ordinal += 1
        if not intact:
            return CHECKSUM
        return ZERO if entry.timestamp == 0 and entry.size == 0 else INTACT

    cdef void _move_window(self) noexcept:
        """Drop the pages far behind, and prefetch the next ones once this is about more than a few events."""
        if self.offset - self.dropped > KEEP_BEHIND:
            evtape_drop_pages(self.mapping.base, self.dropped, self.offset)
            self.dropped = self.offset
        if self.offset - self.first < 65536:
            self.prefetched = self.first + 65536
        else:
            self.prefetched = min(self.offset + PREFETCH_PAGES, self.bound)
            evtape_prefetch_pages(self.mapping.base, self.offset, self.prefetched)

    cdef inline Event _event(self, int64_t at, int64_t ordinal, evtape_entry *entry):
        cdef Event event = Event.__new__(Event)
        # A memoryview of a memoryview shares its buffer. Narrowing the new one in place saves the cost of a slice
        # object.
        cdef object data = PyMemoryView_FromObject(self.whole)
        cdef Py_buffer *buffer = PyMemoryView_GET_BUFFER(data)
        buffer.buf = <uint8_t *>buffer.buf + at + EVTAPE_ENTRY_SIZE
        buffer.len = entry.size
        buffer.shape[0] = entry.size
        event.timestamp = entry.timestamp
        event.data = data
        event.ordinal = ordinal
        event.offset = at
        event.checksum = entry.checksum
        return event


# --------------------------------------------------------------------------------------------- guard


def guard_enable():
    """Turn SIGBUS in a mapped stream into zeros and a mark, in this process."""
    cdef int error = evtape_guard_enable()
    if error != 0:
        raise OSError(error, "the SIGBUS guard could not be installed")


def guard_disable():
    """Restore the handler that was there before."""
    evtape_guard_disable()


def guard_enabled():
    """Whether the guard is installed."""
    return bool(evtape_guard_enabled())


evtape_forbid_instantiation(_Fields)
evtape_forbid_instantiation(_Mapping)

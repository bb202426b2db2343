# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: binding=False, freethreading_compatible=True
"""The native core: bytes in a mapped file, and nothing that decides. `evtape.core.pure` is the same in Python."""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_STRIDES, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE,
)
from cpython.exc cimport PyErr_CheckSignals
from cpython.long cimport PyLong_CheckExact
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport INT64_MAX, INT64_MIN, UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, malloc
from libc.string cimport memcpy

from c_functions cimport *

import mmap
import os

import numpy as np

from .. import errors
from .describe import describe_event
from .format import ARROW_REASONS, REASONS, bounded
from .times import nanoseconds, to_datetime64

cdef int64_t PAGE = mmap.PAGESIZE

NAME = "native"
SLEEPS = bool(evtape_live_supported())  # whether `Region.wait` can sleep until an append wakes it
PARALLEL = True  # whether long calls on a part of a stream release the GIL
INDEXES = os.name != "nt"  # whether a thread makes the index while a stream is written, at no cost to an append


evtape_layout_init()
evtape_crc32_init()

# Why a walk stops at an entry, in the order of REASONS in format.py.
cdef enum:
    INTACT
    SIZE
    CHECKSUM
    ZERO
    FAULT
    CHANGED

# Below this many bytes a batch is written without releasing the GIL: taking it back from a busy thread may cost
# milliseconds.
cdef enum:
    SHORT_BATCH = 1048576
    KEEP_BEHIND = 33554432  # bytes after which an iteration drops the pages that it has left
    PREFETCH_PAGES = 2097152  # bytes that are prefetched at once
    PREFETCH_FROM = 65536  # bytes after which a walk is about more than a few events
    SMALLEST_PAGE = 4096
    PREFETCH_ENTRIES = 6  # as EARLY in gather.c
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
    """One mapping of the file, or the memory of a buffer. It never moves, and lives as long as the last view of it.

    An Arrow array that refers to its bytes owns `shared`, and keeps the bytes there without this object.
    """
    cdef uint8_t *base
    cdef int64_t length
    cdef bint writable
    cdef bint borrowed  # the memory of a buffer: not aligned, and its pages are not ours to drop
    cdef evtape_guard_slot *slot
    cdef evtape_mapping *shared

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.base, self.length, not self.writable, flags)

    def __dealloc__(self):
        evtape_mapping_release(self.shared)

    cdef inline evtape_header header(self) noexcept nogil:
        return evtape_copy_header(self.base) if self.borrowed else evtape_load_header(self.base)

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
    cdef evtape_mapping *shared = evtape_mapping_new()
    cdef int64_t least = (max(size, 1) + EVTAPE_MAPPED_UNIT - 1) // EVTAPE_MAPPED_UNIT * EVTAPE_MAPPED_UNIT
    cdef int64_t length = least
    if shared == NULL:
        raise MemoryError()
    mapping.shared = shared
    if EVTAPE_RESERVE > 0 and grows:
        length = with_reserve(least, EVTAPE_RESERVE if writable else EVTAPE_RESERVE_LESS)
        if writable:
            if evtape_reserve_take(length):
                shared.reserved = length
            else:
                length = with_reserve(least, EVTAPE_RESERVE_LESS)
    cdef int error = evtape_map(fd, length, writable, &mapping.base)
    if error != 0 and length > least:
        # No address space for the reserve (RLIMIT_AS): map the size of the file, and map again when it grows.
        length = least
        evtape_reserve_give(shared.reserved)
        shared.reserved = 0
        error = evtape_map(fd, length, writable, &mapping.base)
    if error != 0:
        mapping.base = NULL
        raise errors.with_path(OSError(error, ""), path, f"mapping {size} bytes")
    mapping.length = shared.length = length
    mapping.writable = writable
    shared.base = mapping.base
    mapping.slot = shared.slot = evtape_guard_add(mapping.base, length)
    if mapping.slot == NULL:
        raise MemoryError()
    return mapping


cdef _Mapping borrow(object source):
    """The memory of a contiguous buffer.

    It may be a mapped file, which may be cut, so it is guarded as our mappings are. A page of the heap that holds other
    objects too is left out: the guard would replace them by zeros.
    """
    cdef _Mapping mapping = _Mapping.__new__(_Mapping)
    cdef evtape_mapping *shared = evtape_mapping_new()
    cdef object view
    cdef int64_t before, after
    if shared == NULL:
        raise MemoryError()
    mapping.shared = shared
    view = memoryview(source).cast("B")
    mapping.borrowed = True
    mapping.base = shared.base = <uint8_t *>PyMemoryView_GET_BUFFER(view).buf
    mapping.length = shared.length = PyMemoryView_GET_BUFFER(view).len
    shared.owner, shared.drop = <void *>view, drop_owner
    Py_INCREF(view)
    before = -<int64_t>mapping.base & (PAGE - 1)
    after = <int64_t>(mapping.base + mapping.length) & (PAGE - 1) if before != 0 else 0
    mapping.slot = evtape_guard_add(mapping.base + before, max(mapping.length - before - after, 0))
    shared.slot = mapping.slot
    if mapping.slot == NULL:
        raise MemoryError()
    return mapping


@cython.final
cdef class Region:
    """A file mapped into memory. `size` bytes of it may be touched; the file is extended under the mapping.

    `buffer`: contiguous memory in the place of a file; `fd` is -1 then. It is only read, and not copied.

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
    cdef readonly int64_t page_size  # of the pages in which space is populated, in bytes; see `set_page_size`
    cdef public int64_t bound  # the preallocator extends the file up to here; `grow` may extend it further
    cdef _Mapping mapping
    cdef evtape_preallocator *preallocator  # the thread that preallocates, or NULL
    cdef int stopping  # calls of stop_preallocator that wait for a thread, which may still be at work on the file
    cdef Appender appender  # the one that may hold on to the preallocator
    cdef Indexer indexer  # what the preallocator's thread does after the writer
    cdef object whole  # a memoryview of the mapping; every view that is handed out is a slice of it
    cdef list former  # mappings that were outgrown; other threads may still be storing through them

    def __cinit__(
        self, int fd, int64_t size, str path not None, *, bint writable=False, bint split_at_pages=False, buffer=None
    ):
        self.fd = fd
        self.path = path
        self.writable = writable
        self.split_at_pages = split_at_pages
        self.former = []
        self.page_size = EVTAPE_HUGE_PAGE
        self.bound = INT64_MAX
        if buffer is None:
            self._map(size)
        else:
            self.mapping = borrow(buffer)
            self.whole = PyMemoryView_FromObject(self.mapping)
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

    def set_page_size(self, int64_t size, /):
        """Populate space in pages of about so many bytes from here on.

        The larger a page, the cheaper it is to make, but a flush writes it as a whole.
        """
        self.page_size = size
        if self.preallocator != NULL:
            evtape_preallocator_mode(self.preallocator, self._pages(), self.write_back)

    cdef int _pages(self) noexcept:
        if self.page_size >= EVTAPE_HUGE_PAGE:
            return EVTAPE_PAGES_HUGE
        return EVTAPE_PAGES_MEDIUM if self.page_size >= EVTAPE_MEDIUM_PAGE else EVTAPE_PAGES_SMALL

    @property
    def reserved(self):
        """How large the file can grow under the present mapping, with the preallocator."""
        return 0 if self.mapping is None else min(self.mapping.length, self.bound)

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

    def start_preallocator(self, bint write_back, int64_t written=0, Region before=None, /):
        """Start a native thread that preallocates, once the stream is large enough to pay for one.

        It also drops the pages that the writer has left, and with `write_back` starts to write them to the disk.
        `written` is what the same writer has appended to other streams, and `before` the one of these that it writes
        now. False without such a thread.
        """
        cdef uint8_t *base
        self._wait_stopped()
        self._open()
        if self.preallocator == NULL:
            base = self.mapping.base
            self.preallocator = evtape_preallocator_start(
                self.fd, base, min(self.mapping.length, self.bound), self.first - written, self.known,
                <const int64_t *>base, 0 if self.appender is None else self.appender.since
            )
            if before is not None:
                before._hand_pace_to(self)
            if self.preallocator != NULL:
                self.write_back = write_back
                evtape_preallocator_mode(self.preallocator, self._pages(), write_back)
                self._trail()
        return self.preallocator != NULL

    @property
    def threaded(self):
        """Whether the preallocator runs in a thread now. One that is being stopped may still be at work."""
        cdef bint threaded
        with cython.critical_section(self):
            threaded = self.stopping != 0
            if self.preallocator != NULL and evtape_preallocator_has_thread(self.preallocator):
                threaded = True
        return threaded

    def trail(self, Indexer indexer not None, /):
        """Have the preallocator's thread, whenever there is one, make the index after the writer.

        `stop_preallocator` ends that; until then nothing else may use the indexer.
        """
        self.indexer = indexer
        self._trail()

    cdef int _trail(self) except -1:
        with cython.critical_section(self):
            if self.preallocator != NULL and self.indexer is not None:
                self.indexer._read(self.mapping)
                evtape_preallocator_trail(self.preallocator, evtape_indexer_step, &self.indexer.state)
        return 0

    @cython.critical_section
    cdef int _hand_pace_to(self, Region after) except -1:
        """The writer goes on in `after`, at the same pace."""
        if self.preallocator != NULL and after.preallocator != NULL:
            evtape_preallocator_continue(after.preallocator, self.preallocator)
        return 0

    @property
    def preallocates(self):
        """Whether a thread preallocates, or will once the stream is large enough."""
        return self.preallocator != NULL

    def stop_preallocator(self):
        """End the thread, and return once it has ended. The appender gives it up first."""
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
        self._wait_stopped()  # another call may have taken the thread, and what it works on is used next

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
        cdef evtape_header header = self.mapping.header()
        return header.write_offset, header.event_count, header.start_timestamp

    def store_header(self, int64_t write_offset, int64_t event_count, /):
        """Publish (WriteOffset, EventCount)."""
        self._open()
        evtape_publish(self.mapping.base, write_offset, event_count)

    def wait(self, int64_t offset, live, int64_t spin_ns, int64_t timeout_ns, /):
        """Wait until WriteOffset is not `offset`. False when `timeout_ns` are over, at the latest, and as soon as the
        page says that the stream ends there.

        Looks for `spin_ns`, then sleeps where `live` is a LivePage; None: returns. Handlers of signals run.
        """
        self._open()
        cdef _Mapping mapping = self.mapping
        if mapping.borrowed:
            return mapping.header().write_offset != offset
        cdef LivePage page = live
        cdef evtape_live *shared = NULL if page is None else <evtape_live *>page.mapping.base
        cdef int ended
        with nogil:
            ended = evtape_live_wait(mapping.base, shared, offset, spin_ns, timeout_ns)
        if ended == EVTAPE_INTERRUPTED:
            PyErr_CheckSignals()
        return ended == EVTAPE_PUBLISHED

    def drop_pages(self, int64_t start, int64_t stop, /):
        """Drop the pages of [start, stop) from this process's memory; the next access loads them again."""
        self._open()
        if not self.mapping.borrowed:
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
            self.indexer = None


@cython.final
cdef class LivePage:
    """The page that the followers of a stream share with its writer: the first page of the file in `fd`."""
    cdef _Mapping mapping

    def __cinit__(self, int fd, str path not None):
        self.mapping = map_file(fd, EVTAPE_LIVE_SIZE, True, False, path)

    @property
    def ended(self):
        """The WriteOffset after which the events go on in another stream; 0 where none does."""
        return (<evtape_live *>self.mapping.base).ended


@cython.final
cdef class Bell:
    """Makes `descriptor` readable once WriteOffset of the stream in the file `fd` is not what was asked about.

    `page` is the descriptor of the file with the LivePage. A thread that is not Python's waits. It may also ring for
    an earlier question, or because the file cannot be read. `path` is for messages.
    """
    cdef evtape_bell *bell

    def __cinit__(self, int fd, int page, str path not None):
        self.bell = evtape_bell_start(fd, page)
        if self.bell == NULL:
            raise errors.with_path(OSError(errno, ""), path, "starting a thread that waits for events")

    def __dealloc__(self):
        evtape_bell_stop(self.bell)

    @property
    def descriptor(self):
        """To be watched by an event loop; -1 after `stop`."""
        return -1 if self.bell == NULL else evtape_bell_fd(self.bell)

    @cython.critical_section
    def ask(self, int64_t offset, int64_t spin_ns, /):
        """Ring once WriteOffset is not `offset`; look for `spin_ns` before the thread sleeps."""
        if self.bell != NULL:
            evtape_bell_ask(self.bell, offset, spin_ns)

    @cython.critical_section
    def clear(self):
        """Make the descriptor not readable until it rings again."""
        if self.bell != NULL:
            evtape_bell_clear(self.bell)

    @cython.critical_section
    def stop(self):
        """Close the descriptor. The thread ends soon."""
        bell, self.bell = self.bell, NULL
        evtape_bell_stop(bell)


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
    fit below it, `reserve(end, first)` is called, which preallocates more, moves the appender to another region, or
    raises. `first` tells which region it was. A writer that must not write has limit 0.

    `first` is the ordinal of the first event in the region.
    """
    cdef Region region
    cdef _Mapping mapping  # keeps `base` alive while this appender may store through it
    cdef uint8_t *base
    cdef evtape_preallocator *preallocator  # the region's; asked before Python is
    cdef LivePage page  # keeps `live` mapped
    cdef evtape_live *live  # where followers say that they sleep, or NULL
    cdef readonly int64_t offset
    cdef readonly int64_t count  # the ordinal of the next event
    cdef readonly int64_t first  # the ordinal of the first event in the region
    cdef readonly int64_t last_timestamp
    cdef int64_t since  # when this appender was made, by the monotonic clock
    cdef int64_t _limit
    cdef bint halted
    cdef bint split_at_pages  # as in the region
    cdef object reserve
    cdef evtape_spinlock spinlock

    def __cinit__(self, Region region not None, int64_t last_timestamp, reserve, int64_t first=0):
        region._open()
        cdef evtape_header header = region.mapping.header()
        self.region = region
        self.mapping = region.mapping
        self.base = self.mapping.base
        self.offset = header.write_offset
        self.first = first
        self.count = first + header.event_count
        self.last_timestamp = last_timestamp
        self.since = evtape_monotonic()
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

    cdef int _reserve(self, int64_t end, int64_t first) except -1:
        """The slow path, without the spinlock: preallocates up to `end` or raises."""
        self.reserve(end, first)
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
        self.reserve(-1, self.first)
        raise errors.faulted(self.region.path)

    cdef inline int64_t _append(self, const uint8_t *data, Py_ssize_t size, object given) except -1:
        cdef int64_t timestamp = 0, ordinal = -1, end, first
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
            first = self.first
            evtape_spinlock_unlock(&self.spinlock)
            self._reserve(end, first)
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
            evtape_publish(self.base, end, ordinal + 1 - self.first)
            if self.live != NULL:
                evtape_live_ring(self.base, self.live, at - self.base)
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
        cdef const int64_t[::1] given = timestamps
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
        self._publish(at - self.base, ordinal + n, timestamp)
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
        cdef const int64_t[::1] stamps = timestamps
        cdef const int64_t *given = NULL
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
            if timestamps is not None and n > 0:
                given = &stamps[0]
            first = self._batch(NULL, &buffer, size, n, total, given)
            return range(first, first + n)
        finally:
            PyBuffer_Release(&buffer)

    cdef int64_t _batch(
        self, Payload *rows, Py_buffer *array, Py_ssize_t size, Py_ssize_t n, int64_t total, const int64_t *stamps
    ) except -1:
        """Write n entries, from `rows` or from the rows of `array`, and publish them with one store."""
        cdef int64_t ordinal, end, first
        cdef bint faulted
        while True:
            self._enter_long()
            end = self.offset + total
            if self._fits(end):
                break
            first = self.first
            evtape_spinlock_unlock_long(&self.spinlock)
            self._reserve(end, first)
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
        self._publish(at - self.base, self.count + n, timestamp)

    cdef void _publish(self, int64_t end, int64_t count, int64_t timestamp) noexcept nogil:
        """Publish a batch, and wake the followers that sleep."""
        cdef int64_t before = self.offset
        self.last_timestamp = timestamp
        self.offset = end
        self.count = count
        evtape_publish(self.base, end, count - self.first)
        if self.live != NULL:
            evtape_live_ring(self.base, self.live, before)

    def move_to(self, Region region not None, int64_t limit, LivePage page, /):
        """Go on in another region, which is mapped and holds no event that this appender does not know of.

        The ordinals go on. `limit` is the end of the bytes preallocated there, and `page` as in `share`. Followers that
        sleep at the end of the old region are woken.
        """
        cdef evtape_header header
        cdef evtape_live *live
        cdef int64_t end
        cdef Region before = self.region
        cdef _Mapping mapping
        region._open()
        mapping = region.mapping
        header = evtape_load_header(mapping.base)
        self._enter_long()
        before.appender = None
        region.appender = self
        self.region = region
        mapping, self.mapping = self.mapping, mapping  # the old one is unmapped after the lock
        page, self.page = self.page, page
        live, end = self.live, self.offset
        self.base = self.mapping.base
        self.preallocator = region.preallocator
        self.live = NULL if self.page is None else <evtape_live *>self.page.mapping.base
        self.split_at_pages = region.split_at_pages
        self.first = self.count
        self.offset = header.write_offset
        self.since = evtape_monotonic()
        if self.preallocator != NULL:  # it is asked for more half way through, as in one stream
            limit = min(limit, evtape_preallocator_limit(self.preallocator, EVTAPE_HEADER_SIZE))
        self._limit = 0 if self.halted else limit
        evtape_spinlock_unlock_long(&self.spinlock)
        if live != NULL:
            evtape_live_end(mapping.base, live, end)
        before._hand_pace_to(region)

    def share(self, LivePage page):
        """Wake the followers that sleep, as `page` says, after each publish. None: wake none."""
        self._enter_long()
        page, self.page = self.page, page  # the old one is unmapped after the lock
        self.live = NULL if self.page is None else <evtape_live *>self.page.mapping.base
        evtape_spinlock_unlock_long(&self.spinlock)

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
        self.live = NULL
        self.mapping = None
        evtape_spinlock_unlock_long(&self.spinlock)

    def forked(self):
        """In a forked child: write no more. A thread of the parent may be inside, so this does not wait."""
        self.halted = True
        self._limit = 0
        self.preallocator = NULL
        self.live = NULL
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
        cdef int64_t until_record = (stride - ordinal % stride) % stride, prefetched = at + PREFETCH_FROM
        cdef uint32_t usual = 0
        cdef int reason = INTACT
        cdef bint dense = False
        while at < bound and count != 0:
            if at >= prefetched:
                prefetched = min(at + PREFETCH_PAGES, bound)
                if dense:
                    evtape_prefetch_pages(<uint8_t *>base, at, prefetched)
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
            dense = verify_checksums or entry.size < SMALLEST_PAGE  # each page is needed
            at = evtape_entry_end(at, entry.size, &usual)
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


cdef bint is_ambiguous(const uint8_t *header, int64_t offset) noexcept nogil:
    cdef int64_t first = EVTAPE_SECTOR - offset % EVTAPE_SECTOR, i
    cdef bint zeros = True
    for i in range(EVTAPE_ENTRY_SIZE):
        if i == first:
            if zeros:
                return True
            zeros = True
        zeros = zeros and header[i] == 0
    return zeros


def first_ambiguous(Region region not None, int64_t offset, int64_t stop, int64_t torn_from=0, /):
    """Offset of the first ambiguous entry from `torn_from` on, or -1. O(entries).

    The walk begins at the entry at `offset` and ends at `stop`. An entry is ambiguous if a lost sector would leave the
    same header: the header is zeros, or it crosses the end of a sector and one of its two parts is zeros. Returns -1
    for a file that cannot be read; the next walk says so.
    """
    cdef _Mapping mapping
    cdef const uint8_t *base
    cdef int64_t at = offset, found = -1
    region._open()
    if not 0 <= offset <= stop <= region._size():
        raise ValueError(f"{region.path}: bytes {offset} to {stop} are not within its {region._size()}")
    mapping = region.mapping
    base = mapping.base
    with nogil:
        while stop - at >= EVTAPE_ENTRY_SIZE:
            if at >= torn_from and is_ambiguous(base + at, at):
                found = at
                break
            at += EVTAPE_ENTRY_SIZE + <int64_t>evtape_load_entry(base + at).size
    return found if mapping.faults() == 0 else -1


# ------------------------------------------------------------------------------------------- index


@cython.final
cdef class Indexer:
    """Makes the records of an index, one for each block of 64 events; see docs/format.md, "The index file".

    It stands at `offset`, before the first event of block number `block`, and remembers what a record needs to know
    of the events before: the timestamp of the last one, the highest one, and whether they go backwards somewhere.
    """
    cdef Region region
    cdef _Mapping mapping  # keeps what the thread reads alive
    cdef evtape_indexer state

    def __cinit__(
        self, Region region not None, int64_t offset=EVTAPE_HEADER_SIZE, int64_t block=0,
        int64_t last_timestamp=INT64_MIN, int64_t running=INT64_MIN, bint unsorted=False,
    ):
        region._open()
        self.region = region
        self.state.place.start_timestamp = region.mapping.header().start_timestamp
        self.state.place.offset = offset
        self.state.place.block = block
        self.state.place.last = last_timestamp
        self.state.place.running = running
        self.state.place.unsorted = unsorted
        self.state.fd = -1
        self._read(region.mapping)

    cdef void _read(self, _Mapping mapping) noexcept:
        self.mapping = mapping
        self.state.slot = mapping.slot

    @property
    def offset(self):
        """Where the next block begins."""
        return self.state.place.offset

    @property
    def block(self):
        """The number of the next block."""
        return self.state.place.block

    @property
    def last_timestamp(self):
        """The timestamp of the event before."""
        return self.state.place.last

    @property
    def running(self):
        """The highest timestamp before."""
        return self.state.place.running

    @property
    def unsorted(self):
        """Whether the timestamps go backwards somewhere before."""
        return bool(self.state.place.unsorted)

    @property
    def stopped(self):
        """Whether an entry was met that an index cannot go beyond: it does not fit, or is sixteen zero bytes."""
        return bool(self.state.place.stopped)

    @property
    def error(self):
        """errno of what kept the records from the file, or 0."""
        return self.state.error

    def run(self, int64_t bound, into, /, partial=False):
        """Make records of blocks below `bound` until the bytearray `into` is full. Returns their number.

        A block of fewer than 64 events gets one only with `partial`, and only at `bound`. -1: the file could not be
        read.
        """
        cdef uint8_t[::1] records = into
        cdef int64_t made = 0, most = records.shape[0] // EVTAPE_INDEX_RECORD
        cdef bint also_partial = partial
        cdef _Mapping mapping
        self.region._open()
        mapping = self.region.mapping
        if not EVTAPE_HEADER_SIZE <= self.state.place.offset or not 0 <= bound <= self.region._size():
            raise ValueError(f"{self.region.path}: bound {bound} is not within its {self.region._size()} bytes")
        with nogil:
            while made < most and evtape_index_block(
                mapping.base, bound, also_partial, &self.state.place, &records[made * EVTAPE_INDEX_RECORD]
            ):
                made += 1
        return made if mapping.faults() == 0 else -1

    def store(self):
        """Write the records to the file that the thread has made and not written yet, once it has ended."""
        with nogil:
            evtape_indexer_store(&self.state)

    def store_to(self, int fd, int64_t position, /):
        """Where the thread of `Region.trail` writes the records: the index file, and where the next one belongs."""
        self.state.fd = fd
        self.state.position = position


def index_check(records, int64_t start_timestamp, int64_t block, /):
    """How many of the records in a buffer, the first being that of `block`, have the right checksum, up to the first
    that has not. O(records).
    """
    cdef const uint8_t[::1] data = records
    cdef int64_t count = data.shape[0] // EVTAPE_INDEX_RECORD
    if count == 0:
        return 0
    with nogil:
        count = evtape_index_check(&data[0], count, start_timestamp, block)
    return count


@cython.final
@cython.no_gc
@cython.freelist(16)
cdef class Event:
    """One event: unpacks as (timestamp, data).

    `data` is a read-only memoryview; pickles and copies with its bytes.
    """
    cdef readonly int64_t timestamp
    cdef readonly int64_t ordinal
    cdef readonly int64_t offset
    cdef readonly uint32_t checksum
    cdef readonly object _schema
    cdef uint32_t size
    cdef object whole  # a memoryview in which the payload is, of `size`; None once it has a view of its own
    cdef object view

    def __init__(self, timestamp, data, ordinal=0, offset=0, checksum=None, schema=None):
        self.timestamp = bounded("timestamp", timestamp, INT64_MIN, INT64_MAX)
        self.whole, self.view = None, memoryview(data).toreadonly()
        self.ordinal = bounded("ordinal", ordinal, 0, INT64_MAX)
        self.offset = bounded("offset", offset, 0, INT64_MAX)
        self.checksum = crc32(data) if checksum is None else bounded("checksum", checksum, 0, UINT32_MAX)
        self._schema = schema

    @property
    def value(self):
        """The payload as the schema of the stream says: a row, text, or what the JSON is; bytes without a schema.

        Raises SchemaError if the payload does not fit the schema. O(size).
        """
        return bytes(self.data) if self._schema is None else self._schema.decode(self)

    cdef inline const char *_payload(self) noexcept:
        """Where the payload is in `whole`."""
        return <const char *>PyMemoryView_GET_BUFFER(self.whole).buf + self.offset + EVTAPE_ENTRY_SIZE

    cdef object _data(self):
        """The memoryview of the payload. To make one takes longer than the rest, and not every program needs it."""
        cdef Py_buffer *buffer
        with cython.critical_section(self):
            if self.whole is not None:
                # A memoryview of a memoryview shares its buffer. Narrowing the new one in place saves the cost of a
                # slice object.
                self.view = PyMemoryView_FromObject(self.whole)
                buffer = PyMemoryView_GET_BUFFER(self.view)
                buffer.buf = <uint8_t *>buffer.buf + self.offset + EVTAPE_ENTRY_SIZE
                buffer.len = self.size
                buffer.shape[0] = self.size
                self.whole = None
            return self.view

    @property
    def data(self):
        return self._data()

    @property
    def bytes(self):
        """The payload as bytes: a copy. O(size)."""
        with cython.critical_section(self):
            if self.whole is not None:
                return PyBytes_FromStringAndSize(self._payload(), self.size)
        return bytes(self.view)

    @property
    def text(self):
        """The payload as text. Raises UnicodeDecodeError if it is not UTF-8. O(size)."""
        with cython.critical_section(self):
            if self.whole is not None:
                return PyUnicode_DecodeUTF8(self._payload(), self.size, NULL)
        return str(self.view, "utf-8")

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
        return (self.timestamp, self._data())[index]

    def __eq__(self, other):
        if not isinstance(other, (Event, tuple)):
            return NotImplemented
        return (self.timestamp, self._data()) == tuple(other)

    def __hash__(self):
        return hash((self.timestamp, self._data()))

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
            return self.event._data()
        self.given = 2
        raise StopIteration


cdef inline Event event_at(object whole, int64_t at, int64_t ordinal, evtape_entry *entry, object schema):
    """The event at an offset; `whole` is a read-only memoryview of the mapping."""
    cdef Event event = Event.__new__(Event)
    event.timestamp = entry.timestamp
    event.whole = whole
    event.size = entry.size
    event.ordinal = ordinal
    event.offset = at
    event.checksum = entry.checksum
    event._schema = schema
    return event


@cython.final
cdef class Events:
    """Iterates over the events from `offset` (event `ordinal`) to the byte `bound` or the ordinal `stop` (-1: none).

    `report_problem(ordinal, offset, reason)` is called at damage and is expected to raise. If it returns, the event is
    skipped, or for "zero" accepted.

    `after` is the offset and the header of the event that was returned last, or (-1, b""). Before another event is
    returned, that header has to be in its place still. Else the stream was cut, and the event may not be the next one.

    At `bound` a walk that has returned an event looks for `spin_ns` whether there are more, and goes on with them as
    `proceed` does.
    """
    cdef Region region
    cdef _Mapping mapping
    cdef object whole
    cdef readonly int64_t offset
    cdef readonly int64_t ordinal
    cdef int64_t last  # offset of the event that was returned last, or -1
    cdef evtape_entry header  # of that event
    cdef int64_t bound, stop
    cdef int64_t dropped  # where the pages begin that were not dropped yet
    cdef int64_t prefetched  # up to where the pages were prefetched
    cdef int64_t first  # where the iteration began
    cdef int64_t spin_ns
    cdef bint verify_checksums
    cdef object report_problem
    cdef object schema  # of the events

    def __cinit__(
        self, Region region not None, int64_t offset, int64_t ordinal, int64_t bound, *,
        int64_t stop=-1, bint verify_checksums, report_problem, tuple after not None=(-1, b""), int64_t spin_ns=0,
        schema=None,
    ):
        cdef bytes header
        region._open()
        if not EVTAPE_HEADER_SIZE <= offset <= bound <= region._size():
            raise ValueError(f"{region.path}: bytes {offset} to {bound} are not within its {region._size()}")
        self.region = region
        self.mapping = region.mapping
        self.whole = PyMemoryView_FromObject(region.whole).toreadonly()
        self.offset = self.dropped = self.prefetched = self.first = offset
        self.last, header = after
        if self.last >= 0:
            if len(header) != EVTAPE_ENTRY_SIZE or not EVTAPE_HEADER_SIZE <= self.last <= offset - EVTAPE_ENTRY_SIZE:
                raise ValueError(f"{region.path}: the event at offset {self.last} is not before offset {offset}")
            self.header = evtape_load_entry(<const uint8_t *><const char *>header)
        self.ordinal = ordinal
        self.bound = bound
        self.stop = stop
        self.spin_ns = spin_ns
        self.verify_checksums = verify_checksums
        self.report_problem = report_problem
        self.schema = schema

    @property
    def after(self):
        """The offset and the header of the event that was returned last."""
        cdef uint8_t header[EVTAPE_ENTRY_SIZE]
        with cython.critical_section(self):
            evtape_store_entry(header, self.header.timestamp, self.header.size, self.header.checksum)
            return (self.last, (<char *>header)[:EVTAPE_ENTRY_SIZE]) if self.last >= 0 else (-1, b"")

    def __iter__(self):
        return self

    @cython.critical_section
    def __next__(self):
        cdef evtape_entry entry
        cdef int64_t at, ordinal, after
        cdef int reason
        while (self.offset < self.bound or self._spin()) and self.ordinal != self.stop:
            at, ordinal = self.offset, self.ordinal
            reason = self._step(&entry)
            if self.last >= 0 and reason != FAULT and self._changed():
                self.offset = self.bound
                reason = CHANGED
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

    def proceed(self, int64_t stop, /):
        """Go on to the present WriteOffset and the ordinal `stop`. True if there are events.

        False, and nothing has changed, if there are none, or if that is not certain: the file has outgrown the region,
        it was mapped again, or the event that was returned last is not there any more.
        """
        if not self._go_on():
            return False
        self.stop = stop
        return self.ordinal != stop

    cdef bint _go_on(self) noexcept:
        """Set `bound` to the present WriteOffset, if there are events and it is certain that they are the next ones."""
        cdef int64_t bound = self.mapping.header().write_offset
        if self.last < 0 or self.region.mapping is not self.mapping or not self.offset < bound <= self.region._size():
            return False
        if self._changed():
            return False
        self.bound = bound
        return True

    cdef bint _spin(self) noexcept:
        """Wait for more events at the end of the walk. The loop of the caller is as fast as an append by this."""
        cdef _Mapping mapping = self.mapping
        cdef int64_t offset = self.offset, spin_ns = self.spin_ns
        if spin_ns == 0 or self.ordinal == self.stop or self.last < 0 or mapping.borrowed:
            return False
        with nogil:
            evtape_live_wait(mapping.base, NULL, offset, spin_ns, spin_ns)
        return self._go_on()

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
            evtape_prefetch_entry(at + EVTAPE_ENTRY_SIZE + entry.size, entry.size, left - <int64_t>entry.size)
        if self.mapping.faults() != 0:
            self.offset = self.bound
            return FAULT
        self.offset += EVTAPE_ENTRY_SIZE + <int64_t>entry.size
        self.ordinal += 1
        if not intact:
            return CHECKSUM
        return INTACT if entry.size != 0 else self._step_over_empty(at, entry)

    cdef int _step_over_empty(self, const uint8_t *at, const evtape_entry *entry) noexcept:
        """A file that was cut within a timestamp reads as an empty event there, and zeros to the end of the page."""
        cdef const uint8_t *end = at + EVTAPE_ENTRY_SIZE
        cdef int64_t offset = end - self.mapping.base
        if entry.timestamp == 0:
            return ZERO
        if not evtape_is_followed(end, self.bound - offset) and not evtape_reaches(self.region.fd, offset):
            self.offset = self.bound
            return FAULT
        return INTACT

    cdef inline bint _changed(self) noexcept:
        """Whether the header of the event that was returned last is another one now. Looked at after the next entry."""
        cdef evtape_entry entry = evtape_load_entry(self.mapping.base + self.last)
        return (
            entry.timestamp != self.header.timestamp
            or entry.size != self.header.size
            or entry.checksum != self.header.checksum
        )

    cdef void _move_window(self) noexcept:
        """Drop the pages far behind, and prefetch the next ones once this is about more than a few events."""
        if self.mapping.borrowed:
            self.prefetched = self.bound
            return
        if self.offset - self.dropped > KEEP_BEHIND:
            evtape_drop_pages(self.mapping.base, self.dropped, self.offset)
            self.dropped = self.offset
        if self.offset - self.first < PREFETCH_FROM:
            self.prefetched = self.first + PREFETCH_FROM
        else:
            self.prefetched = min(self.offset + PREFETCH_PAGES, self.bound)
            evtape_prefetch_pages(self.mapping.base, self.offset, self.prefetched)

    cdef inline Event _event(self, int64_t at, int64_t ordinal, evtape_entry *entry):
        self.last = at
        self.header = entry[0]
        return event_at(self.whole, at, ordinal, entry, self.schema)


# -------------------------------------------------------------------------------------------- gather


cdef _Mapping mapping_below(Region region, int64_t bound):
    region._open()
    if not 0 <= bound <= region._size():
        raise ValueError(f"{region.path}: bound {bound} is not within its {region._size()} bytes")
    return region.mapping


def step_all(Region region not None, int64_t bound, int64_t[::1] offsets, int64_t[::1] steps, /):
    """Move each offset over as many entries as `steps` says, which becomes 0.

    Returns -1, or the number of a place that has no entry below `bound` to move over; its offset is where that is.
    """
    cdef _Mapping mapping = mapping_below(region, bound)
    cdef int64_t n = offsets.shape[0], bad = -1
    if steps.shape[0] != n:
        raise ValueError(f"{region.path}: {n} offsets but {steps.shape[0]} steps")
    if n:
        with nogil:
            bad = evtape_step_all(mapping.base, bound, &offsets[0], &steps[0], n)
    if mapping.faults() != 0:
        raise errors.faulted(region.path)
    return bad


def headers_at(
    Region region not None, int64_t bound, const int64_t[::1] offsets, int64_t[::1] timestamps, int64_t[::1] sizes, /
):
    """Read timestamp and payload size of the entries at the offsets.

    Returns -1, or the number of the first place without an entry that fits below `bound`.
    """
    cdef _Mapping mapping = mapping_below(region, bound)
    cdef int64_t n = offsets.shape[0], bad = -1
    if timestamps.shape[0] != n or sizes.shape[0] != n:
        raise ValueError(f"{region.path}: the columns of {n} offsets have other lengths")
    if n:
        with nogil:
            bad = evtape_headers_at(mapping.base, bound, &offsets[0], n, &timestamps[0], &sizes[0])
    if mapping.faults() != 0:
        raise errors.faulted(region.path)
    return bad


def gather(
    Region region not None, int64_t bound, const int64_t[::1] offsets, const int64_t[::1] ends, into, /, *,
    bint verify_checksums,
):
    """Copy the payloads at the offsets to the writable buffer `into`, payload i up to byte ends[i].

    Returns -1, or the number of the first place whose entry has another size, or whose payload another checksum.
    """
    cdef _Mapping mapping = mapping_below(region, bound)
    cdef uint8_t[::1] data = into
    cdef int64_t i, n = offsets.shape[0], bad = -1, last = 0
    if ends.shape[0] != n:
        raise ValueError(f"{region.path}: {n} offsets but {ends.shape[0]} ends")
    for i in range(n):
        if ends[i] < last:
            raise ValueError(f"{region.path}: ends go backwards at {i}")
        last = ends[i]
    if last > data.shape[0]:
        raise ValueError(f"{region.path}: {last} bytes do not fit into {data.shape[0]}")
    if n:
        with nogil:
            bad = evtape_gather(
                mapping.base, bound, &offsets[0], n, &ends[0], &data[0] if last else NULL, verify_checksums
            )
    if mapping.faults() != 0:
        raise errors.faulted(region.path)
    return bad


def events_at(
    Region region not None, int64_t bound, const int64_t[::1] offsets, const int64_t[::1] ordinals, /, *,
    bint verify_checksums, schema=None,
):
    """The events at the offsets, a list. Without the first one that is damaged or sixteen zero bytes, and those after.

    Each has its ordinal from the array.
    """
    cdef _Mapping mapping = mapping_below(region, bound)
    cdef const uint8_t *base = mapping.base
    cdef evtape_entry entry
    cdef int64_t i, at, n = offsets.shape[0]
    cdef object whole = PyMemoryView_FromObject(region.whole).toreadonly()
    cdef list events = []
    if ordinals.shape[0] != n:
        raise ValueError(f"{region.path}: {n} offsets but {ordinals.shape[0]} ordinals")
    for i in range(n):
        at = offsets[i]
        if i + PREFETCH_ENTRIES < n:
            evtape_prefetch_at(base, bound, offsets[i + PREFETCH_ENTRIES])
        if at < EVTAPE_HEADER_SIZE or at > bound - EVTAPE_ENTRY_SIZE:
            break
        entry = evtape_load_entry(base + at)
        if <int64_t>entry.size > bound - EVTAPE_ENTRY_SIZE - at or (entry.timestamp == 0 and entry.size == 0):
            break
        if verify_checksums and evtape_crc32(0, base + at + EVTAPE_ENTRY_SIZE, entry.size) != entry.checksum:
            break
        events.append(event_at(whole, at, ordinals[i], &entry, schema))
    if mapping.faults() != 0:
        raise errors.faulted(region.path)
    return events


# --------------------------------------------------------------------------------------------- Arrow


cdef evtape_plan *make_plan(columns, int64_t size) except NULL:
    """The columns, which are `Column`s of columns.py, as the C code has them."""
    cdef evtape_plan *plan = evtape_plan_new(len(columns), size)
    cdef evtape_column rest
    cdef const int64_t[::1] positions
    cdef bytes name, form
    cdef int i, error = 0
    if plan == NULL:
        raise MemoryError()
    try:
        for i, column in enumerate(columns):
            name, form = column.name.encode(), column.format.encode()
            positions = column.positions
            rest.flags, rest.kind, rest.children = column.flags, column.kind, column.children
            rest.width, rest.swap, rest.check = column.width, column.swap, column.check
            rest.count = positions.shape[0]
            rest.positions = <int64_t *>(&positions[0]) if rest.count else <int64_t *>NULL
            error = evtape_plan_set(plan, i, name, form, &rest)
            if error != 0:
                raise MemoryError()
    except BaseException:
        evtape_plan_free(plan)
        raise
    return plan


cdef void free_schema(capsule) noexcept:
    evtape_arrow_schema_free(<ArrowSchema *>PyCapsule_GetPointer(capsule, "arrow_schema"))


cdef void free_stream(capsule) noexcept:
    evtape_arrow_stream_free(<ArrowArrayStream *>PyCapsule_GetPointer(capsule, "arrow_array_stream"))


def arrow_schema(columns, /):
    """A capsule of the ArrowSchema of a table of these columns."""
    cdef evtape_plan *plan = make_plan(columns, -1)
    cdef ArrowSchema *schema = evtape_arrow_schema(plan)
    evtape_plan_free(plan)
    if schema == NULL:
        raise MemoryError()
    try:
        return PyCapsule_New(schema, "arrow_schema", free_schema)
    except BaseException:
        evtape_arrow_schema_free(schema)
        raise


def arrow_fields(capsule, /):
    """Name and format of each column of the schema in a capsule."""
    cdef ArrowSchema *schema = <ArrowSchema *>PyCapsule_GetPointer(capsule, "arrow_schema")
    cdef int64_t i
    return [(text_of(schema.children[i].name), text_of(schema.children[i].format)) for i in range(schema.n_children)]


cdef str text_of(const char *text):
    return "" if text == NULL else (<bytes>text).decode(errors="replace")


cdef char *explain(void *owner, int64_t ordinal, int64_t offset, int reason, int column) noexcept with gil:
    """Ask Python why a batch cannot be made. NULL: it can, or memory is short."""
    try:
        text = (<object>owner)(ordinal, offset, ARROW_REASONS[reason], column)
        return NULL if text is None else evtape_copy_text((<str>text).encode(errors="replace"))
    except BaseException as error:
        return evtape_copy_text(repr(error).encode(errors="replace"))


cdef void release_owner(void *owner) noexcept with gil:
    Py_DECREF(<object>owner)


cdef void drop_owner(void *owner) noexcept nogil:
    """A consumer may release a stream when the interpreter has ended, which then has freed the owner."""
    if Py_IsInitialized():
        release_owner(owner)


cdef int64_t *copy_numbers(values) except? NULL:
    cdef const int64_t[::1] numbers = values
    cdef size_t size = numbers.shape[0] * sizeof(int64_t)
    cdef int64_t *copy = <int64_t *>malloc(size + 1)
    if copy == NULL:
        raise MemoryError()
    if size:
        memcpy(copy, &numbers[0], size)
    return copy


def arrow_stream(
    Region region not None, columns, int64_t size, int64_t offset, int64_t ordinal, int64_t bound, int64_t stop, *,
    offsets=None, ordinals=None, starts=None, int64_t batch_events, bint verify_checksums, bint nulls, report,
):
    """A capsule of an ArrowArrayStream of the events [ordinal, stop), the first of which is at `offset`.

    Or of the events at the int64 array `offsets`, whose numbers are `ordinals`. No entry reaches beyond `bound`. Every
    payload must have `size` bytes (-1: any). `report(ordinal, offset, reason, column)` returns why a batch cannot be
    made, or None to accept an event of zeros. `starts`: where each batch begins, so that a second thread makes every
    other one. The stream needs the region no more.
    """
    cdef evtape_batches *batches
    cdef ArrowArrayStream *stream
    region._open()
    if not EVTAPE_HEADER_SIZE <= offset <= bound <= region._size():
        raise ValueError(f"{region.path}: bytes {offset} to {bound} are not within its {region._size()}")
    batches = <evtape_batches *>calloc(1, sizeof(evtape_batches))
    if batches == NULL:
        raise MemoryError()
    try:
        batches.mapping = evtape_mapping_retain(region.mapping.shared)
        batches.plan = make_plan(columns, size)
        batches.offset, batches.ordinal, batches.bound, batches.stop = offset, ordinal, bound, stop
        if offsets is not None:
            require_within(region, offsets, bound)
            batches.offsets, batches.ordinals = copy_numbers(offsets), copy_numbers(ordinals)
            batches.ordinal, batches.stop = 0, len(offsets)
        batches.batch_events = max(batch_events, 1)
        if starts is not None:
            if len(starts) != (batches.stop - batches.ordinal + batches.batch_events - 1) // batches.batch_events:
                raise ValueError(f"{region.path}: {len(starts)} starts for another number of batches")
            require_within(region, starts, bound)
            batches.starts = copy_numbers(starts)
        batches.verify_checksums, batches.nulls = verify_checksums, nulls
        batches.last_offset = -1
        batches.prefetched = batches.dropped = offset
        batches.report, batches.drop = explain, drop_owner
        batches.owner = <void *>report
        Py_INCREF(report)
        stream = evtape_arrow_stream(batches)
        if stream == NULL:
            raise MemoryError()
    except BaseException:
        evtape_batches_free(batches)
        raise
    try:
        return PyCapsule_New(stream, "arrow_array_stream", free_stream)
    except BaseException:
        evtape_arrow_stream_free(stream)
        raise


cdef int next_stream(void *owner, ArrowArrayStream *out, char **error_text) noexcept with gil:
    """Move the stream of the next capsule into `out`, if there is one."""
    cdef ArrowArrayStream *given
    try:
        capsule = (<object>owner)()
        if capsule is not None:
            given = <ArrowArrayStream *>PyCapsule_GetPointer(capsule, "arrow_array_stream")
            out[0] = given[0]
            given.release = NULL
        return 0
    except BaseException as error:
        error_text[0] = evtape_copy_text(str(error).encode(errors="replace"))
        return EIO


def arrow_chain(columns, next_capsule, /):
    """A capsule of an ArrowArrayStream of the batches of other such streams, one after the other.

    `next_capsule()` returns the capsule of the next one, which has these columns, or None after the last. What it
    raises is the error of the stream.
    """
    cdef evtape_plan *plan = make_plan(columns, -1)
    cdef ArrowArrayStream *stream = evtape_arrow_chain(plan, next_stream, <void *>next_capsule, drop_owner)
    if stream == NULL:
        evtape_plan_free(plan)
        raise MemoryError()
    Py_INCREF(next_capsule)
    try:
        return PyCapsule_New(stream, "arrow_array_stream", free_stream)
    except BaseException:
        evtape_arrow_stream_free(stream)
        raise


cdef int require_within(Region region, offsets, int64_t bound) except -1:
    if len(offsets) and not EVTAPE_HEADER_SIZE <= offsets.min() <= offsets.max() <= bound:
        raise ValueError(f"{region.path}: offsets {offsets.min()} to {offsets.max()} are not within its {bound} bytes")
    return 0


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

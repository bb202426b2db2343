# The C functions, types and constants that native.pyx calls.

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from *:
    long long PyLong_AsLongLongAndOverflow(object, int *) except? -1
    object PyMemoryView_FromObject(object)
    PyObject **PySequence_Fast_ITEMS(object)
    # The same checks and fields, for a borrowed pointer.
    bint is_bytes "PyBytes_CheckExact"(PyObject *) noexcept
    char *bytes_of "PyBytes_AS_STRING"(PyObject *) noexcept
    Py_ssize_t size_of "PyBytes_GET_SIZE"(PyObject *) noexcept
    Py_buffer *PyMemoryView_GET_BUFFER(object)

cdef extern from "instantiation.h":
    void evtape_forbid_instantiation(object kind)

cdef extern from "errno.h" nogil:
    int ECANCELED
    int ENOTSUP

cdef extern from "clock.h" nogil:
    int64_t evtape_now()

cdef extern from "crc32.h" nogil:
    void evtape_crc32_init()
    uint32_t evtape_crc32(uint32_t crc, const void *data, size_t n)
    int evtape_crc32_implementations(const char **names, int capacity)
    int evtape_crc32_use(const char *name)

cdef extern from "entry.h" nogil:
    void evtape_write_entry(uint8_t *at, int64_t timestamp, const void *data, uint32_t size, bint split_at_pages)
    void evtape_prefetch(const void *data)

cdef extern from "fault_guard.h" nogil:
    ctypedef struct evtape_guard_slot:
        pass
    int evtape_guard_enable()
    int evtape_guard_disable()
    int evtape_guard_enabled()
    evtape_guard_slot *evtape_guard_add(void *start, size_t length)
    void evtape_guard_remove(evtape_guard_slot *slot)
    uint64_t evtape_guard_faults(const evtape_guard_slot *slot)

cdef extern from "spinlock.h" nogil:
    ctypedef struct evtape_spinlock:
        pass
    bint evtape_spinlock_try(evtape_spinlock *lock)
    void evtape_spinlock_unlock(evtape_spinlock *lock)
    bint evtape_spinlock_try_long(evtape_spinlock *lock)
    void evtape_spinlock_unlock_long(evtape_spinlock *lock)
    void evtape_spinlock_wait(evtape_spinlock *lock)
    void evtape_pause(int spins)
    const bint EVTAPE_GIL

cdef extern from "layout.h" nogil:
    ctypedef struct evtape_header:
        int64_t write_offset
        int64_t event_count
        int64_t start_timestamp
    ctypedef struct evtape_entry:
        int64_t timestamp
        uint32_t size
        uint32_t checksum
    enum:
        EVTAPE_HEADER_SIZE
        EVTAPE_ENTRY_SIZE
    void evtape_layout_init()
    void evtape_publish(uint8_t *base, int64_t write_offset, int64_t event_count)
    evtape_header evtape_load_header(const uint8_t *base)
    evtape_entry evtape_load_entry(const uint8_t *at)

cdef extern from "preallocate.h" nogil:
    enum:
        EVTAPE_PAGES_NONE
        EVTAPE_PAGES_HUGE
        EVTAPE_PAGES_SMALL
    int evtape_preallocate(int fd, void *base, int64_t start, int64_t stop, int populate)

cdef extern from "preallocator.h" nogil:
    ctypedef struct evtape_preallocator:
        pass
    evtape_preallocator *evtape_preallocator_start(
        int fd, void *base, int64_t reserved, int64_t first, int64_t ready, const int64_t *write_offset
    )
    int64_t evtape_preallocator_ready(evtape_preallocator *p)
    int64_t evtape_preallocator_limit(evtape_preallocator *p, int64_t end)
    void evtape_preallocator_mode(evtape_preallocator *p, int populate, int write_back)
    void evtape_preallocator_announce(evtape_preallocator *p)
    int evtape_preallocator_wait(evtape_preallocator *p, int64_t end)
    void evtape_preallocator_stop(evtape_preallocator *p)
    void evtape_preallocator_forked(evtape_preallocator *p)

cdef extern from "region.h" nogil:
    const int64_t EVTAPE_RESERVE
    const int64_t EVTAPE_RESERVE_LESS
    const int64_t EVTAPE_MAPPED_UNIT
    bint evtape_reserve_take(int64_t length)
    void evtape_reserve_give(int64_t length)
    int evtape_map(int fd, int64_t length, int writable, uint8_t **base)
    void evtape_unmap(uint8_t *base, int64_t length)
    void evtape_drop_pages(uint8_t *base, int64_t start, int64_t stop)
    void evtape_prefetch_pages(uint8_t *base, int64_t start, int64_t stop)
    int evtape_flush(int fd, uint8_t *base, int64_t start, int64_t stop)

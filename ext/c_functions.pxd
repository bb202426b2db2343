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
    int Py_IsInitialized() nogil

cdef extern from "instantiation.h":
    void evtape_forbid_instantiation(object kind)

cdef extern from "arrow_columns.h" nogil:
    ctypedef struct evtape_column:
        int64_t flags
        int kind
        int children
        int width
        int swap
        int check
        int64_t count
        int64_t *positions
    ctypedef struct evtape_plan:
        pass
    char *evtape_copy_text(const char *text)
    evtape_plan *evtape_plan_new(int columns, int64_t size)
    void evtape_plan_free(evtape_plan *plan)
    int evtape_plan_set(evtape_plan *plan, int i, const char *name, const char *format, const evtape_column *rest)

cdef extern from "arrow.h" nogil:
    struct ArrowSchema:
        const char *format
        const char *name
        int64_t n_children
        ArrowSchema **children
    struct ArrowArrayStream:
        void (*release)(ArrowArrayStream *) noexcept
    ctypedef struct evtape_batches:
        evtape_mapping *mapping
        evtape_plan *plan
        int64_t offset
        int64_t ordinal
        int64_t bound
        int64_t stop
        int64_t *offsets
        int64_t *ordinals
        int64_t batch_events
        int64_t *starts
        int verify_checksums
        int nulls
        char *(*report)(void *owner, int64_t ordinal, int64_t offset, int reason, int column) noexcept
        void *owner
        void (*drop)(void *owner) noexcept
        int64_t last_offset
        int64_t prefetched
        int64_t dropped
    void evtape_batches_free(evtape_batches *batches)
    ArrowArrayStream *evtape_arrow_stream(evtape_batches *batches)
    ArrowSchema *evtape_arrow_schema(const evtape_plan *plan)
    void evtape_arrow_stream_free(ArrowArrayStream *stream)
    void evtape_arrow_schema_free(ArrowSchema *schema)

cdef extern from "arrow_chain.h" nogil:
    ArrowArrayStream *evtape_arrow_chain(
        evtape_plan *plan,
        int (*next)(void *owner, ArrowArrayStream *out, char **error_text) noexcept,
        void *owner,
        void (*drop)(void *owner) noexcept,
    )

cdef extern from "errno.h" nogil:
    int errno
    int EIO
    int ECANCELED
    int ENOTSUP

cdef extern from "clock.h" nogil:
    int64_t evtape_now()
    int64_t evtape_monotonic()

cdef extern from "crc32.h" nogil:
    void evtape_crc32_init()
    uint32_t evtape_crc32(uint32_t crc, const void *data, size_t n)
    int evtape_crc32_implementations(const char **names, int capacity)
    int evtape_crc32_use(const char *name)

cdef extern from "entry.h" nogil:
    void evtape_write_entry(uint8_t *at, int64_t timestamp, const void *data, uint32_t size, bint split_at_pages)
    void evtape_prefetch(const void *data)
    void evtape_prefetch_entry(const uint8_t *at, uint32_t size, int64_t left)
    bint evtape_is_followed(const uint8_t *end, int64_t left)

cdef extern from "fault_guard.h" nogil:
    ctypedef struct evtape_guard_slot:
        pass
    int evtape_guard_enable()
    int evtape_guard_disable()
    int evtape_guard_enabled()
    evtape_guard_slot *evtape_guard_add(void *start, size_t length)
    void evtape_guard_remove(evtape_guard_slot *slot)
    uint64_t evtape_guard_faults(const evtape_guard_slot *slot)

cdef extern from "bell.h" nogil:
    ctypedef struct evtape_bell:
        pass
    evtape_bell *evtape_bell_start(int stream, int page)
    int evtape_bell_fd(const evtape_bell *bell)
    void evtape_bell_ask(evtape_bell *bell, int64_t offset, int64_t spin_ns)
    void evtape_bell_clear(evtape_bell *bell)
    void evtape_bell_stop(evtape_bell *bell)

cdef extern from "mapping.h" nogil:
    ctypedef struct evtape_mapping:
        uint8_t *base
        int64_t length
        int64_t reserved
        evtape_guard_slot *slot
        void (*drop)(void *owner)
        void *owner
    evtape_mapping *evtape_mapping_new()
    evtape_mapping *evtape_mapping_retain(evtape_mapping *mapping)
    void evtape_mapping_release(evtape_mapping *mapping)

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
        EVTAPE_SECTOR
    void evtape_layout_init()
    void evtape_publish(uint8_t *base, int64_t write_offset, int64_t event_count)
    evtape_header evtape_load_header(const uint8_t *base)
    evtape_header evtape_copy_header(const uint8_t *base)
    evtape_entry evtape_load_entry(const uint8_t *at)
    void evtape_store_entry(uint8_t *at, int64_t timestamp, uint32_t size, uint32_t checksum)

cdef extern from "live.h" nogil:
    enum:
        EVTAPE_LIVE_SIZE
        EVTAPE_PUBLISHED
        EVTAPE_TIME_OVER
        EVTAPE_INTERRUPTED
    ctypedef struct evtape_live:
        int64_t ended
    int evtape_live_supported()
    void evtape_live_ring(uint8_t *base, evtape_live *live, int64_t old)
    void evtape_live_end(uint8_t *base, evtape_live *live, int64_t offset)
    int evtape_live_wait(
        const uint8_t *base, evtape_live *live, int64_t offset, int64_t spin_ns, int64_t timeout_ns
    )

cdef extern from "paging.h" nogil:
    int64_t EVTAPE_HUGE_PAGE
    int64_t EVTAPE_MEDIUM_PAGE

cdef extern from "preallocate.h" nogil:
    enum:
        EVTAPE_PAGES_NONE
        EVTAPE_PAGES_HUGE
        EVTAPE_PAGES_SMALL
        EVTAPE_PAGES_MEDIUM
    int evtape_preallocate(int fd, void *base, int64_t start, int64_t stop, int populate)

cdef extern from "preallocator.h" nogil:
    ctypedef struct evtape_preallocator:
        pass
    evtape_preallocator *evtape_preallocator_start(
        int fd, void *base, int64_t reserved, int64_t first, int64_t ready, const int64_t *write_offset,
        int64_t since
    )
    int64_t evtape_preallocator_ready(evtape_preallocator *p)
    int64_t evtape_preallocator_limit(evtape_preallocator *p, int64_t end)
    void evtape_preallocator_mode(evtape_preallocator *p, int populate, int write_back)
    void evtape_preallocator_continue(evtape_preallocator *p, evtape_preallocator *before)
    void evtape_preallocator_announce(evtape_preallocator *p)
    int evtape_preallocator_wait(evtape_preallocator *p, int64_t end)
    void evtape_preallocator_stop(evtape_preallocator *p)
    void evtape_preallocator_forked(evtape_preallocator *p)
    ctypedef bint (*evtape_trailing_work)(
        void *argument, const uint8_t *base, int64_t write_offset, int64_t least
    )
    void evtape_preallocator_trail(evtape_preallocator *p, evtape_trailing_work work, void *argument)
    bint evtape_preallocator_has_thread(evtape_preallocator *p)

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
    bint evtape_reaches(int fd, int64_t end)

cdef extern from "index.h" nogil:
    enum:
        EVTAPE_INDEX_EVENTS
        EVTAPE_INDEX_RECORD
    ctypedef struct evtape_index_place:
        int64_t start_timestamp
        int64_t offset
        int64_t block
        int64_t last
        int64_t running
        bint unsorted
        bint stopped
    ctypedef struct evtape_indexer:
        evtape_index_place place
        int fd
        int64_t position
        int64_t filled
        int error
        const evtape_guard_slot *slot
    bint evtape_index_block(
        const uint8_t *base, int64_t bound, bint partial, evtape_index_place *place, uint8_t *record
    )
    int64_t evtape_index_check(const uint8_t *records, int64_t count, int64_t start_timestamp, int64_t block)
    bint evtape_indexer_step(void *indexer, const uint8_t *base, int64_t bound, int64_t least)
    void evtape_indexer_store(evtape_indexer *indexer)

cdef extern from "walk.h" nogil:
    int64_t evtape_entry_end(int64_t at, uint32_t size, uint32_t *usual)

cdef extern from "gather.h" nogil:
    int64_t evtape_step_all(const uint8_t *base, int64_t bound, int64_t *offsets, int64_t *steps, int64_t count)
    int64_t evtape_headers_at(
        const uint8_t *base, int64_t bound, const int64_t *offsets, int64_t count, int64_t *timestamps, int64_t *sizes
    )
    int64_t evtape_gather(
        const uint8_t *base, int64_t bound, const int64_t *offsets, int64_t count, const int64_t *ends, uint8_t *into,
        bint verify
    )
    void evtape_prefetch_at(const uint8_t *base, int64_t bound, int64_t offset)

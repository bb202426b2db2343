/* What the operating system does for a mapped region: map, unmap, allocate, flush. Each returns 0
 * or an errno. */
#ifndef EVTAPE_REGION_H
#define EVTAPE_REGION_H

#include <errno.h>
#include <stdint.h>

#ifdef _WIN32
/* Written with care and not yet run. */
#include <io.h>
#include <windows.h>

/* A view cannot reach past the end of the file here, so nothing is reserved and a region grows by a
 * new view. */
#define EVTAPE_RESERVE 0
#define EVTAPE_RESERVE_LESS 0
#define EVTAPE_MAPPED_UNIT 1

static inline int evtape_space_take(int64_t length) {
    (void)length;
    return 1;
}
static inline void evtape_space_give(int64_t length) {
    (void)length;
}

static inline int evtape_map(int fd, int64_t length, int writable, uint8_t **base) {
    HANDLE file = (HANDLE)_get_osfhandle(fd);
    HANDLE map = CreateFileMappingW(file, NULL, writable ? PAGE_READWRITE : PAGE_READONLY,
                                    (DWORD)(length >> 32), (DWORD)length, NULL);
    if (map == NULL)
        return GetLastError() == ERROR_DISK_FULL ? ENOSPC : EIO;
    *base = MapViewOfFile(map, writable ? FILE_MAP_WRITE : FILE_MAP_READ, 0, 0, (SIZE_T)length);
    CloseHandle(map); /* the view keeps the section alive */
    return *base == NULL ? ENOMEM : 0;
}

static inline void evtape_unmap(uint8_t *base, int64_t length) {
    (void)length;
    UnmapViewOfFile(base);
}

static inline void evtape_let_go(uint8_t *base, int64_t start, int64_t stop) {
    (void)base, (void)start, (void)stop; /* the system trims the working set by itself */
}

static inline void evtape_look_ahead(uint8_t *base, int64_t start, int64_t stop) {
    (void)base, (void)start, (void)stop;
}

static inline int evtape_flush(int fd, uint8_t *base, int64_t start, int64_t stop) {
    if (!FlushViewOfFile(base + start, (SIZE_T)(stop - start)))
        return EIO;
    return FlushFileBuffers((HANDLE)_get_osfhandle(fd)) ? 0 : EIO;
}

#else
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Address space mapped beyond the end of a file that is written, so that the file can be extended
 * under the mapping. It costs no memory, but 47 bits of address space are all there is: a file that
 * is only read reserves nothing before it has grown, and all reserves together have a bound, after
 * which less is reserved. */
#ifndef EVTAPE_RESERVE
#define EVTAPE_RESERVE ((int64_t)64 << 30)
#endif
#define EVTAPE_RESERVE_LESS                                                                        \
    (EVTAPE_RESERVE < ((int64_t)1 << 30) ? EVTAPE_RESERVE : (int64_t)1 << 30)
#define EVTAPE_RESERVES ((int64_t)32 << 40)

/* No machine that this runs on has smaller pages. */
#define EVTAPE_MAPPED_UNIT 4096

static _Atomic(int64_t) evtape_space;

/* Counts `length` bytes of mappings of files that are written; 0 where that would be too many. */
static inline int evtape_space_take(int64_t length) {
    if (atomic_fetch_add(&evtape_space, length) + length <= EVTAPE_RESERVES)
        return 1;
    atomic_fetch_sub(&evtape_space, length);
    return 0;
}

static inline void evtape_space_give(int64_t length) {
    atomic_fetch_sub(&evtape_space, length);
}

/* Large pages can stand in a mapping only where it begins at a multiple of their size. */
#define EVTAPE_ALIGNMENT ((size_t)2 << 20)

static inline int evtape_map(int fd, int64_t length, int writable, uint8_t **base) {
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t size = ((size_t)length + page - 1) & ~(page - 1);
    if (!writable && size < EVTAPE_ALIGNMENT) { /* No large page can stand in it. */
        void *small = mmap(NULL, size, protection, MAP_SHARED, fd, 0);
        *base = small;
        return small == MAP_FAILED ? errno : 0;
    }
    /* Address space is taken first, wide enough to hold an aligned piece of it, and what is not
     * needed is given back. */
    uint8_t *space =
        mmap(NULL, size + EVTAPE_ALIGNMENT, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (space == MAP_FAILED)
        return errno;
    size_t before = (EVTAPE_ALIGNMENT - (uintptr_t)space % EVTAPE_ALIGNMENT) % EVTAPE_ALIGNMENT;
    if (before != 0)
        munmap(space, before);
    munmap(space + before + size, EVTAPE_ALIGNMENT - before);
    if (mmap(space + before, size, protection, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        int error = errno;
        munmap(space + before, size);
        return error;
    }
    *base = space + before;
    return 0;
}

static inline void evtape_unmap(uint8_t *base, int64_t length) {
    munmap(base, (size_t)length);
}

/* Takes the whole pages within [start, stop) out of the page table. The mapping is shared and of a
 * file, so nothing is lost: the pages stay in the page cache, where the kernel can drop them. */
static inline void evtape_let_go(uint8_t *base, int64_t start, int64_t stop) {
    int64_t page = (int64_t)sysconf(_SC_PAGESIZE);
    int64_t first = (start + page - 1) & ~(page - 1);
    int64_t last = stop & ~(page - 1);
    if (last > first)
        (void)madvise(base + first, (size_t)(last - first), MADV_DONTNEED);
}

/* Brings [start, stop) into the page table before it is read, by one call instead of a fault for
 * each sixteen pages. Only a matter of time: a kernel that cannot do it leaves it to the faults. */
static inline void evtape_look_ahead(uint8_t *base, int64_t start, int64_t stop) {
#ifdef __linux__
    int64_t page = (int64_t)sysconf(_SC_PAGESIZE);
    int64_t first = start & ~(page - 1);
    (void)madvise(base + first, (size_t)(stop - first), 22 /* MADV_POPULATE_READ, Linux 5.14 */);
#else
    (void)base, (void)start, (void)stop;
#endif
}

/* Makes [start, stop) durable, whole pages of it. macOS needs F_FULLFSYNC for what Linux calls a
 * flush. */
static inline int evtape_flush(int fd, uint8_t *base, int64_t start, int64_t stop) {
    int64_t page = (int64_t)sysconf(_SC_PAGESIZE);
    int64_t first = start & ~(page - 1);
    if (msync(base + first, (size_t)(stop - first), MS_SYNC) != 0)
        return errno;
#ifdef __APPLE__
    if (fcntl(fd, F_FULLFSYNC) != 0 && fsync(fd) != 0)
        return errno;
#else
    (void)fd;
#endif
    return 0;
}
#endif

#endif

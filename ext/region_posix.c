/* region_posix.c - see region.h.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* MAP_ANONYMOUS, madvise */
#endif

#ifndef _WIN32

#include "region.h"

#include "paging.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE ((size_t)EVTAPE_HUGE_PAGE)

static _Atomic(int64_t) evtape_reserved;

int evtape_reserve_take(int64_t length) {
    if (atomic_fetch_add(&evtape_reserved, length) + length <= EVTAPE_RESERVES)
        return 1;
    atomic_fetch_sub(&evtape_reserved, length);
    return 0;
}

void evtape_reserve_give(int64_t length) {
    atomic_fetch_sub(&evtape_reserved, length);
}

int evtape_map(int fd, int64_t length, int writable, uint8_t **base) {
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t size = ((size_t)length + page - 1) & ~(page - 1);
    if (size < HUGE_PAGE) { /* A huge page does not fit. */
        void *small = mmap(NULL, size, protection, MAP_SHARED, fd, 0);
        *base = small;
        return small == MAP_FAILED ? errno : 0;
    }
    /* Reserve address space first, large enough to contain an aligned part of the wanted size. Then
     * give back the rest. */
    uint8_t *space = mmap(NULL, size + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (space == MAP_FAILED)
        return errno;
    size_t before = (HUGE_PAGE - (uintptr_t)space % HUGE_PAGE) % HUGE_PAGE;
    if (before != 0)
        munmap(space, before);
    munmap(space + before + size, HUGE_PAGE - before);
    if (mmap(space + before, size, protection, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        int error = errno;
        munmap(space + before, size);
        return error;
    }
    *base = space + before;
    return 0;
}

void evtape_unmap(uint8_t *base, int64_t length) {
    munmap(base, (size_t)length);
}

void evtape_drop_pages(uint8_t *base, int64_t start, int64_t stop) {
    int64_t page = (int64_t)sysconf(_SC_PAGESIZE);
    int64_t first = (start + page - 1) & ~(page - 1);
    int64_t last = stop & ~(page - 1);
    if (last > first)
        (void)madvise(base + first, (size_t)(last - first), MADV_DONTNEED);
}

/* One call replaces a page fault for each sixteen pages. This only saves time, so
 * errors are ignored. */
void evtape_prefetch_pages(uint8_t *base, int64_t start, int64_t stop) {
#ifdef __linux__
    int64_t page = (int64_t)sysconf(_SC_PAGESIZE);
    int64_t first = start & ~(page - 1);
    (void)madvise(base + first, (size_t)(stop - first), 22 /* MADV_POPULATE_READ, Linux 5.14 */);
#else
    (void)base, (void)start, (void)stop;
#endif
}

void evtape_populate_pages(uint8_t *memory, int64_t bytes) {
#ifdef __linux__
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = ((uintptr_t)memory + page - 1) & ~(page - 1);
    uintptr_t last = ((uintptr_t)memory + (uintptr_t)bytes) & ~(page - 1);
    if (last > first)
        (void)madvise((void *)first, last - first, 23 /* MADV_POPULATE_WRITE, Linux 5.14 */);
#else
    (void)memory, (void)bytes;
#endif
}

/* On macOS only F_FULLFSYNC does what Linux does in a flush. */
int evtape_flush(int fd, uint8_t *base, int64_t start, int64_t stop) {
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

int evtape_reaches(int fd, int64_t end) {
    off_t size = lseek(fd, 0, SEEK_END); /* fstat would make the next flush of the writer slower */
    return size < 0 || size >= end;
}

#else
typedef int evtape_region_not_on_windows; /* a translation unit must not be empty */
#endif

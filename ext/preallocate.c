/* preallocate.c - see preallocate.h.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* fallocate, sched_getcpu, sched_setaffinity */
#endif

#ifndef _WIN32

#include "preallocate.h"

#include "clock.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#if defined(__linux__)
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; an older kernel returns EINVAL */
#endif
#endif

/* From this size on a second thread helps to populate space in one call (a stream with a
 * `capacity`). Starting and joining the thread takes about 0.1 ms. At 100,000 events of 1 KiB a
 * whole job takes 159 ns per event with the thread and 207 ns without. At 10,000 events the
 * thread gains nothing. */
#ifndef EVTAPE_TOGETHER_FROM
#define EVTAPE_TOGETHER_FROM ((int64_t)32 << 20)
#endif

int64_t evtape_page_size(void) {
    long size = sysconf(_SC_PAGESIZE);
    return size > 0 ? size : 4096;
}

/* ---- the file ---- */

int evtape_truncate(int fd, int64_t size) {
    while (ftruncate(fd, (off_t)size) != 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

/* For file systems that cannot allocate, and to fill the page cache (see fill_page_cache). A hole
 * in the file would make the writer's store fail with SIGBUS on a full disk; writing zeros fails
 * here instead. It only writes beyond the file's size, because there may be data below.
 *
 * One call writes up to the next multiple of `unit`, because the kernel chooses the size of a page by
 * the length of a write. The few zeros stay in the cache of the processor: 2 MiB take 190 us from 16
 * KiB and 210 to 300 us from 256 KiB. */
static int write_zeros(int fd, int64_t from, int64_t to, int64_t unit) {
    static const char zeros[16 << 10];
    enum { SEGMENTS = EVTAPE_HUGE_PAGE / sizeof zeros };
    while (from < to) {
        struct iovec segments[SEGMENTS];
        int64_t left = evtape_min64(to - from, unit - from % unit);
        int count = 0;
        for (; left > 0; left -= (int64_t)sizeof zeros)
            segments[count++] = (struct iovec){(void *)(uintptr_t)zeros,
                                               (size_t)evtape_min64(left, (int64_t)sizeof zeros)};
        ssize_t n = pwritev(fd, segments, count, (off_t)from);
        if (n < 0 && errno != EINTR)
            return errno;
        if (n == 0)
            return EIO;
        if (n > 0)
            from += n;
    }
    return 0;
}

#if defined(__linux__)
static int allocate(int fd, int64_t from, int64_t to, int64_t size) {
    int error;
    do {
        error = fallocate(fd, 0, (off_t)from, (off_t)(to - from)) == 0 ? 0 : errno;
    } while (error == EINTR);
    if (error == EOPNOTSUPP || error == ENOSYS)
        error = write_zeros(fd, evtape_max64(from, size), to, EVTAPE_HUGE_PAGE);
    return error;
}
#elif defined(__APPLE__)
/* Not run. F_PREALLOCATE reserves blocks after the end of the file and does not move the end.
 * ftruncate moves it. */
static int allocate(int fd, int64_t from, int64_t to, int64_t size) {
    (void)from;
    if (to <= size)
        return 0;
    fstore_t store = {.fst_flags = F_ALLOCATECONTIG,
                      .fst_posmode = F_PEOFPOSMODE,
                      .fst_offset = 0,
                      .fst_length = (off_t)(to - size)};
    if (fcntl(fd, F_PREALLOCATE, &store) == -1) {
        store.fst_flags = F_ALLOCATEALL;
        if (fcntl(fd, F_PREALLOCATE, &store) == -1) {
            if (errno == ENOTSUP || errno == EINVAL)
                return write_zeros(fd, size, to, EVTAPE_HUGE_PAGE);
            return errno;
        }
    }
    return evtape_truncate(fd, to);
}
#else
static int allocate(int fd, int64_t from, int64_t to, int64_t size) {
    return write_zeros(fd, evtape_max64(from, size), to, EVTAPE_HUGE_PAGE);
}
#endif

/* Allocates the file's blocks and sets its size. After a failure the size is unchanged. Stores the
 * size before the call in *size_before; nothing has been stored at or beyond it. */
int evtape_pages_allocate(int fd, int64_t from, int64_t to, int64_t *size_before) {
    struct stat before;
    if (fstat(fd, &before) != 0)
        return errno;
    *size_before = (int64_t)before.st_size;
    int error = allocate(fd, from, to, (int64_t)before.st_size);
    if (error == 0)
        return 0;
    struct stat after;
    if (fstat(fd, &after) == 0 && after.st_size > before.st_size)
        (void)evtape_truncate(fd, (int64_t)before.st_size);
    return error;
}

/* ---- the mapping ---- */

#if defined(__linux__)
/* Puts the pages of [from, to) into the page cache with a write, before they are mapped. The kernel
 * uses pages as large as the write and its alignment allow. Per 2 MiB, with the mapping: 220 us as
 * one huge page, 260 to 330 us if a fault makes the huge page, 400 us as pages of 128 KiB, 1,200 us
 * as small pages.
 *
 * all == false: only the rest of a huge page in which the file ended. The page cache contains small
 * pages of it, so a fault would fill it with small pages too.
 *
 * The header, if it was written before, keeps a small page of its own, so that flushing it writes 4
 * KiB. A failed write is ignored: the pages are then faulted in. A file that another process has
 * cut is not extended again. */
static void fill_page_cache(int fd, int64_t from, int64_t to, int64_t size_before, int64_t unit,
                            bool all) {
    int64_t start = evtape_max64(from, size_before);
    if (!all && start % unit == 0)
        return;
    int64_t end = all ? to : evtape_min64(to, evtape_round_up(start, unit));
    struct stat now;
    if (start < end && fstat(fd, &now) == 0 && (int64_t)now.st_size >= end)
        (void)write_zeros(fd, start, end, unit);
}

/* Advises the kernel which pages to use for [from, to). The call waits for every thread that
 * populates, so do not call it for each piece. */
void evtape_pages_advise(char *base, int64_t from, int64_t to, int populate) {
    int64_t start = evtape_round_down(from, evtape_page_size());
    int saved = errno;
    if (populate != EVTAPE_PAGES_NONE)
        (void)madvise(base + start, (size_t)(to - start),
                      populate == EVTAPE_PAGES_HUGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    errno = saved;
}

/* Returns the reason why a page of the file cannot be populated: the error that the file system
 * returns when a zero is written there. */
static int why_no_page(int fd, int64_t at) {
    static const char zero = 0;
    ssize_t n;
    do {
        n = pwrite(fd, &zero, 1, (off_t)at);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? errno : EIO;
}

/* The processor time of the last huge page in this process. It is ten times as long if the host must
 * first give the guest the memory, which then concerns many pages in a row. */
static _Atomic(int64_t) huge_page_ns = 250000;

int64_t evtape_huge_page_ns(void) {
    return atomic_load_explicit(&huge_page_ns, memory_order_relaxed);
}

static void note_huge_page(int64_t ns, int64_t bytes, int populate) {
    if (populate == EVTAPE_PAGES_HUGE && bytes >= EVTAPE_HUGE_PAGE)
        atomic_store_explicit(&huge_page_ns, ns * EVTAPE_HUGE_PAGE / bytes, memory_order_relaxed);
}

/* Populates the pages of [from, to). Returns 0 or an errno.
 *
 * alone: no other thread populates, so the pages may be written first, which is cheaper. Two writes
 * to one file wait for each other, two faults do not.
 *
 * EFAULT means that the file system refuses a page: it copies on write and is full, a quota is
 * exhausted, or the disk is damaged. A store into the page would raise SIGBUS. All other errors are
 * ignored: EINVAL comes from an old kernel and ENOMEM from a small cgroup, and the later store
 * faults the page in. */
int evtape_pages_populate(int fd, char *base, int64_t from, int64_t to, int64_t size_before,
                          int populate, bool alone) {
    int64_t page = evtape_page_size();
    char *start = base + evtape_round_down(from, page);
    size_t length = (size_t)(evtape_round_up(to, page) - evtape_round_down(from, page));
    int saved = errno, error = 0;
    int64_t began = evtape_thread_time();
    if (populate == EVTAPE_PAGES_HUGE)
        fill_page_cache(fd, from, to, size_before, EVTAPE_HUGE_PAGE, alone);
    else if (populate == EVTAPE_PAGES_MEDIUM)
        fill_page_cache(fd, from, to, size_before, EVTAPE_MEDIUM_PAGE, true);
    while (madvise(start, length, MADV_POPULATE_WRITE) != 0) {
        if (errno == EINTR || errno == EAGAIN)
            continue;
        error = errno == EFAULT ? why_no_page(fd, to - 1) : 0; /* no data at the last byte yet */
        break;
    }
    note_huge_page(evtape_thread_time() - began, (int64_t)length, populate);
    errno = saved;
    return error;
}
#else
int64_t evtape_huge_page_ns(void) {
    return 250000;
}

void evtape_pages_advise(char *base, int64_t from, int64_t to, int populate) {
    (void)base, (void)from, (void)to, (void)populate;
}

/* Not run. Other systems have no call that populates writable pages without a store. */
int evtape_pages_populate(int fd, char *base, int64_t from, int64_t to, int64_t size_before,
                          int populate, bool alone) {
    (void)fd, (void)base, (void)from, (void)to, (void)size_before, (void)populate, (void)alone;
    return 0;
}
#endif

/* ---- threads that populate ---- */

int evtape_current_cpu(void) {
#if defined(__linux__)
    return sched_getcpu();
#else
    return -1;
#endif
}

/* A populating thread may run on every processor except the one on which the writer runs. Some
 * schedulers alternate two threads of a process on one processor for milliseconds although another
 * one is idle. A fast writer is done in that time: a million events took 190 ns each that way, and
 * 144 ns this way. The thread moves itself, because an attribute of pthread_create would make the
 * writer wait. If the writer moves, the thread calls this again. */
void evtape_run_elsewhere(int writer_cpu) {
#if defined(__linux__)
    static _Thread_local cpu_set_t at_first;
    if (writer_cpu < 0 || writer_cpu >= CPU_SETSIZE ||
        (CPU_COUNT(&at_first) == 0 && sched_getaffinity(0, sizeof at_first, &at_first) != 0))
        return;
    cpu_set_t allowed = at_first;
    CPU_CLR(writer_cpu, &allowed);
    if (CPU_COUNT(&allowed) > 0)
        (void)sched_setaffinity(0, sizeof allowed, &allowed);
#else
    (void)writer_cpu;
#endif
}

/* The thread blocks all signals except those that its own faults raise. If such a signal is
 * blocked, the kernel kills the process instead of calling the handler. */
bool evtape_start_quietly(pthread_t *thread, void *(*run)(void *), void *argument) {
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = pthread_create(thread, NULL, run, argument) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

/* ---- all space in one call ---- */

struct half {
    int fd, writer_cpu, populate, error;
    char *base;
    int64_t from, to, size_before;
};

static void *populate_half(void *argument) {
    struct half *h = argument;
    evtape_run_elsewhere(h->writer_cpu);
    h->error =
        evtape_pages_populate(h->fd, h->base, h->from, h->to, h->size_before, h->populate, false);
    return NULL;
}

/* Two threads populate a large space, half of it each. */
static int populate_together(int fd, char *base, int64_t from, int64_t to, int64_t size_before,
                             int populate) {
    int64_t middle = evtape_round_down(from + (to - from) / 2, EVTAPE_HUGE_PAGE);
    struct half upper = {fd, evtape_current_cpu(), populate, 0, base, middle, to, size_before};
    pthread_t thread;
    bool helped =
        to - from >= EVTAPE_TOGETHER_FROM && evtape_start_quietly(&thread, populate_half, &upper);
    int error =
        evtape_pages_populate(fd, base, from, helped ? middle : to, size_before, populate, !helped);
    if (helped)
        pthread_join(thread, NULL);
    return error != 0 ? error : upper.error;
}

int evtape_preallocate(int fd, void *base, int64_t from, int64_t to, int populate) {
    if (from < 0 || to < from)
        return EINVAL;
    if (from == to)
        return 0;
    int64_t size_before = 0;
    int error = evtape_pages_allocate(fd, from, to, &size_before);
    if (error == 0 && populate != EVTAPE_PAGES_NONE) {
        evtape_pages_advise(base, from, to, populate);
        error = populate_together(fd, base, from, to, size_before, populate);
        if (error != 0 && size_before < to)
            (void)evtape_truncate(fd, size_before);
    }
    return error;
}

#else
typedef int evtape_preallocate_not_on_windows; /* a translation unit must not be empty */
#endif /* _WIN32 */

/* preallocate.c - see preallocate.h.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* fallocate, sched_getcpu, sched_setaffinity */
#endif

#ifndef _WIN32

#include "preallocate.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__linux__)
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; an older kernel answers EINVAL */
#endif
#endif

/* From this on a second thread helps where all room is made at once (a stream that is told its
 * capacity). Starting it and waiting for its end costs about 0.1 ms: at 100,000 events of 1 KiB a
 * whole job takes 159 ns per event with it and 207 without, at 10,000 there is nothing to gain. */
#ifndef EVTAPE_TOGETHER_FROM
#define EVTAPE_TOGETHER_FROM ((int64_t)32 << 20)
#endif

int64_t evtape_page_size(void) {
    long size = sysconf(_SC_PAGESIZE);
    return size > 0 ? size : 4096;
}

/* ---- room: the file ---- */

int evtape_truncate(int fd, int64_t size) {
    while (ftruncate(fd, (off_t)size) != 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

/* For file systems that cannot allocate (a hole would be found out by the writer's store, as
 * SIGBUS, when the disk is full; writing zeros finds it out here) and for broken large pages, see
 * pages_populate. Only bytes beyond the size are ever written: below it there may be data. */
static int write_zeros(int fd, int64_t from, int64_t to) {
    static const char zeros[256 << 10];
    while (from < to) {
        int64_t unit = (int64_t)sizeof zeros;
        ssize_t n =
            pwrite(fd, zeros, (size_t)evtape_min64(to - from, unit - from % unit), (off_t)from);
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
        error = write_zeros(fd, evtape_max64(from, size), to);
    return error;
}
#elif defined(__APPLE__)
/* Not run. F_PREALLOCATE reserves blocks behind the end of the file without moving the end;
 * ftruncate then moves it. */
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
                return write_zeros(fd, size, to);
            return errno;
        }
    }
    return evtape_truncate(fd, to);
}
#else
static int allocate(int fd, int64_t from, int64_t to, int64_t size) {
    return write_zeros(fd, evtape_max64(from, size), to);
}
#endif

/* Makes the file's blocks and size; on a failure the size is what it was. *size_before: that size;
 * nobody has stored anything there or beyond it. */
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

/* ---- room: the mapping ---- */

#if defined(__linux__)
/* Where a file ends within a large page, that page can no longer be had whole: small ones of it are
 * in the page cache. The kernel would fill the gap with small pages, at 2.2 ms per 2 MiB here;
 * writing zeros up to the next multiple makes it use middle-sized ones, 0.55 ms (a whole large page
 * takes 0.39). It also leaves the header, where it was written before, a small page of its own, so
 * that flushing it costs 4 KiB. What cannot be written is left to the faults. */
static void fill_broken_page(int fd, int64_t from, int64_t to, int64_t size_before) {
    int64_t start = evtape_max64(from, size_before);
    if (start % EVTAPE_HUGE_PAGE != 0)
        (void)write_zeros(fd, start, evtape_min64(to, evtape_round_up(start, EVTAPE_HUGE_PAGE)));
}

/* Says which pages [from, to) wants. It waits for everybody who populates, so it is not for each
 * piece. */
void evtape_pages_advise(char *base, int64_t from, int64_t to, int populate) {
    int64_t start = evtape_round_down(from, evtape_page_size());
    int saved = errno;
    if (populate != EVTAPE_PAGES_NONE)
        (void)madvise(base + start, (size_t)(to - start),
                      populate == EVTAPE_PAGES_SMALL ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
    errno = saved;
}

/* Why pages of the file cannot be had: what the file system says when a zero is written there. */
static int why_no_page(int fd, int64_t at) {
    static const char zero = 0;
    ssize_t n;
    do {
        n = pwrite(fd, &zero, 1, (off_t)at);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? errno : EIO;
}

/* Brings the pages of [from, to) in; 0 or an errno. EFAULT is a page that the file system will not
 * give: it copies on write and is full, a quota is used up, or the disk is bad. The store would be
 * a SIGBUS. Anything else cannot fail the caller: EINVAL is an old kernel, ENOMEM a tight cgroup,
 * and the store itself faults later, as it would have anyway. */
int evtape_pages_populate(int fd, char *base, int64_t from, int64_t to, int64_t size_before,
                          int populate) {
    int64_t page = evtape_page_size();
    char *start = base + evtape_round_down(from, page);
    size_t length = (size_t)(evtape_round_up(to, page) - evtape_round_down(from, page));
    int saved = errno, error = 0;
    if (populate == EVTAPE_PAGES_HUGE)
        fill_broken_page(fd, from, to, size_before);
    while (madvise(start, length, MADV_POPULATE_WRITE) != 0) {
        if (errno == EINTR || errno == EAGAIN)
            continue;
        error =
            errno == EFAULT ? why_no_page(fd, to - 1) : 0; /* the last byte: nobody is there yet */
        break;
    }
    errno = saved;
    return error;
}
#else
void evtape_pages_advise(char *base, int64_t from, int64_t to, int populate) {
    (void)base, (void)from, (void)to, (void)populate;
}

/* Not run. Other systems have no call that maps pages writable without storing into them. */
int evtape_pages_populate(int fd, char *base, int64_t from, int64_t to, int64_t size_before,
                          int populate) {
    (void)fd, (void)base, (void)from, (void)to, (void)size_before, (void)populate;
    return 0;
}
#endif

/* ---- threads that make room ---- */

int evtape_current_cpu(void) {
#if defined(__linux__)
    return sched_getcpu();
#else
    return -1;
#endif
}

/* A thread that makes room may run on every processor but the one that the writer was on when it
 * was started. Some schedulers let two threads of a process take turns on one for milliseconds,
 * although another is idle, and in that time a fast writer is done: a million events took 190 ns
 * each that way, and 144 this way. The thread moves itself: an attribute of pthread_create would
 * have the writer wait for it. */
void evtape_run_elsewhere(int writer_cpu) {
#if defined(__linux__)
    cpu_set_t allowed;
    if (writer_cpu < 0 || writer_cpu >= CPU_SETSIZE ||
        sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return;
    CPU_CLR(writer_cpu, &allowed);
    if (CPU_COUNT(&allowed) > 0)
        (void)sched_setaffinity(0, sizeof allowed, &allowed);
#else
    (void)writer_cpu;
#endif
}

/* The thread takes no signals, except those that a fault of its own raises: while one of these is
 * blocked the kernel kills the process instead of asking the handler. */
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

/* ---- room in one go ---- */

struct half {
    int fd, writer_cpu, populate, error;
    char *base;
    int64_t from, to, size_before;
};

static void *populate_half(void *argument) {
    struct half *h = argument;
    evtape_run_elsewhere(h->writer_cpu);
    h->error = evtape_pages_populate(h->fd, h->base, h->from, h->to, h->size_before, h->populate);
    return NULL;
}

/* Much room at once is brought in by two threads, half of it each. */
static int populate_together(int fd, char *base, int64_t from, int64_t to, int64_t size_before,
                             int populate) {
    int64_t middle = evtape_round_down(from + (to - from) / 2, EVTAPE_HUGE_PAGE);
    struct half upper = {fd, evtape_current_cpu(), populate, 0, base, middle, to, size_before};
    pthread_t thread;
    bool helped =
        to - from >= EVTAPE_TOGETHER_FROM && evtape_start_quietly(&thread, populate_half, &upper);
    int error = evtape_pages_populate(fd, base, from, helped ? middle : to, size_before, populate);
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

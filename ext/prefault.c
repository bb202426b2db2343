/* prefault.c - see prefault.h.
 *
 * Where the bytes of a mapped stream stand, in file order:
 *
 *     0 .. 2 MiB | dropped ..... | kept | position | populated | ready .. allocated | reserved
 *     header's     page table      the writer's     no fault     on disk,  no pages   address space
 *     page, kept   entries let go  neighbourhood    here
 *
 * `ready` and `allocated` are moved by whoever holds `making`: the thread, or a writer in wait()
 * that would otherwise stand still. Everything that frees or flushes lies behind the writer and is
 * done by the thread alone.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* fallocate, sync_file_range, pthread_setname_np */
#endif

#ifndef _WIN32

#include "prefault.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__linux__)
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; an older kernel answers EINVAL */
#endif
#endif

/* All figures: 2-core x86-64 guest that others kept busy, ext4, Linux 6.18, 1 KiB events, whole
 * job, as `prefault_check --bench` measures it; processor time says more there than the clock. The
 * compiler's command line can set these constants, so that they can be measured again. */

/* One piece is one large page. Room that does not begin and end on multiples of it is made of small
 * pages: steps of 256 KiB, 512 KiB, 1 MiB ... cost 1,050 ns per event at 10,000 events, pieces of 2
 * MiB 230. */
#define PIECE EVTAPE_ROOM_ALIGNMENT

/* The file is extended by an eighth of what this writer has grown it by, at least and at most this.
 */
#ifndef EVTAPE_STEP_MIN
#define EVTAPE_STEP_MIN ((int64_t)2 << 20)
#endif
#ifndef EVTAPE_STEP_MAX
#define EVTAPE_STEP_MAX ((int64_t)8 << 20)
#endif

/* The thread is started when the file has grown by this since it was opened: whoever adds a few
 * events to a long stream needs none. At 10,000 events (10 MiB) a thread from 2 MiB on makes the
 * appends as much cheaper as it makes the end dearer, which has to wait for a piece that nobody
 * will use: 253 to 1,312 ns per event with it, 244 to 301 without. At 1,000,000 events it is 142 ns
 * with a thread, and 223 where all room is made in line. */
#ifndef EVTAPE_THREAD_FROM
#define EVTAPE_THREAD_FROM ((int64_t)16 << 20)
#endif

/* How far ahead of the writer the thread goes at most before it sleeps. 4 MiB costs the writer
 * 170-218 ns of processor time per event, 16 MiB 142-172, 32 and 64 MiB 130-192: no more to be had.
 */
#ifndef EVTAPE_AHEAD_MAX
#define EVTAPE_AHEAD_MAX ((int64_t)16 << 20)
#endif

/* From this on a second thread helps where all room is made at once (a stream that is told its
 * capacity). Starting it and waiting for its end costs about 0.1 ms: at 100,000 events of 1 KiB a
 * whole job takes 159 ns per event with it and 207 without, at 10,000 there is nothing to gain. */
#ifndef EVTAPE_TOGETHER_FROM
#define EVTAPE_TOGETHER_FROM ((int64_t)32 << 20)
#endif

/* What stays mapped behind the writer, and how much is let go at once. Letting go is free:
 * unmapping at the end would cost the same (process time 260-290 ns per event with it, 303-340
 * without). */
#ifndef EVTAPE_KEEP_BEHIND
#define EVTAPE_KEEP_BEHIND ((int64_t)16 << 20)
#endif
#ifndef EVTAPE_DROP_STEP
#define EVTAPE_DROP_STEP ((int64_t)16 << 20)
#endif

/* Write-back, where it is asked for, begins this far behind the writer, in ranges of this size. It
 * adds 45 ns of processor time per event to the thread and makes a job that is never flushed slower
 * (554 against 318). */
#ifndef EVTAPE_FLUSH_BEHIND
#define EVTAPE_FLUSH_BEHIND ((int64_t)8 << 20)
#endif
#ifndef EVTAPE_FLUSH_STEP
#define EVTAPE_FLUSH_STEP ((int64_t)8 << 20)
#endif

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static int64_t max64(int64_t a, int64_t b) {
    return a > b ? a : b;
}
static int64_t round_down(int64_t value, int64_t unit) {
    return value - value % unit;
}
static int64_t round_up(int64_t value, int64_t unit) {
    return value > INT64_MAX - unit ? INT64_MAX : round_down(value + unit - 1, unit);
}

static int64_t page_size(void) {
    long size = sysconf(_SC_PAGESIZE);
    return size > 0 ? size : 4096;
}

/* ---- room: the file ---- */

static int truncate_to(int fd, int64_t size) {
    while (ftruncate(fd, (off_t)size) != 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

/* For file systems that cannot allocate (a hole would be found out by the writer's store, as
 * SIGBUS, when the disk is full; writing zeros finds it out here) and for broken large pages, see
 * room_populate. Only bytes beyond the size are ever written: below it there may be data. */
static int write_zeros(int fd, int64_t from, int64_t to) {
    static const char zeros[256 << 10];
    while (from < to) {
        int64_t unit = (int64_t)sizeof zeros;
        ssize_t n = pwrite(fd, zeros, (size_t)min64(to - from, unit - from % unit), (off_t)from);
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
        error = write_zeros(fd, max64(from, size), to);
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
    return truncate_to(fd, to);
}
#else
static int allocate(int fd, int64_t from, int64_t to, int64_t size) {
    return write_zeros(fd, max64(from, size), to);
}
#endif

/* Makes the file's blocks and size; on a failure the size is what it was. *size_before: that size;
 * nobody has stored anything there or beyond it. */
static int room_allocate(int fd, int64_t from, int64_t to, int64_t *size_before) {
    struct stat before;
    if (fstat(fd, &before) != 0)
        return errno;
    *size_before = (int64_t)before.st_size;
    int error = allocate(fd, from, to, (int64_t)before.st_size);
    if (error == 0)
        return 0;
    struct stat after;
    if (fstat(fd, &after) == 0 && after.st_size > before.st_size)
        (void)truncate_to(fd, (int64_t)before.st_size);
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
    int64_t start = max64(from, size_before);
    if (start % PIECE != 0)
        (void)write_zeros(fd, start, min64(to, round_up(start, PIECE)));
}

/* Says which pages [from, to) wants. It waits for everybody who populates, so it is not for each
 * piece. */
static void room_advise(char *base, int64_t from, int64_t to, int populate) {
    int64_t start = round_down(from, page_size());
    int saved = errno;
    if (populate != EVTAPE_ROOM_ALLOCATE)
        (void)madvise(base + start, (size_t)(to - start),
                      populate == EVTAPE_ROOM_SMALL ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
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
static int room_populate(int fd, char *base, int64_t from, int64_t to, int64_t size_before,
                         int populate) {
    int64_t page = page_size();
    char *start = base + round_down(from, page);
    size_t length = (size_t)(round_up(to, page) - round_down(from, page));
    int saved = errno, error = 0;
    if (populate == EVTAPE_ROOM_LARGE)
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
static void room_advise(char *base, int64_t from, int64_t to, int populate) {
    (void)base, (void)from, (void)to, (void)populate;
}

/* Not run. Other systems have no call that maps pages writable without storing into them. */
static int room_populate(int fd, char *base, int64_t from, int64_t to, int64_t size_before,
                         int populate) {
    (void)fd, (void)base, (void)from, (void)to, (void)size_before, (void)populate;
    return 0;
}
#endif

/* ---- threads that make room ---- */

static int current_cpu(void) {
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
static void run_elsewhere(int writer_cpu) {
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
static bool start_quietly(pthread_t *thread, void *(*run)(void *), void *argument) {
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
    run_elsewhere(h->writer_cpu);
    h->error = room_populate(h->fd, h->base, h->from, h->to, h->size_before, h->populate);
    return NULL;
}

/* Much room at once is brought in by two threads, half of it each. */
static int populate_together(int fd, char *base, int64_t from, int64_t to, int64_t size_before,
                             int populate) {
    int64_t middle = round_down(from + (to - from) / 2, PIECE);
    struct half upper = {fd, current_cpu(), populate, 0, base, middle, to, size_before};
    pthread_t thread;
    bool helped =
        to - from >= EVTAPE_TOGETHER_FROM && start_quietly(&thread, populate_half, &upper);
    int error = room_populate(fd, base, from, helped ? middle : to, size_before, populate);
    if (helped)
        pthread_join(thread, NULL);
    return error != 0 ? error : upper.error;
}

int evtape_room_make(int fd, void *base, int64_t from, int64_t to, int populate) {
    if (from < 0 || to < from)
        return EINVAL;
    if (from == to)
        return 0;
    int64_t size_before = 0;
    int error = room_allocate(fd, from, to, &size_before);
    if (error == 0 && populate != EVTAPE_ROOM_ALLOCATE) {
        room_advise(base, from, to, populate);
        error = populate_together(fd, base, from, to, size_before, populate);
        if (error != 0 && size_before < to)
            (void)truncate_to(fd, size_before);
    }
    return error;
}

/* ---- room ahead of a writer ---- */

struct room_ahead {
    evtape_ahead shared; /* first, so that the one is the other */

    /* Set by start() and never changed. */
    int fd;
    char *base;
    int64_t reserved;
    int64_t first; /* the file's size when it was opened; growth decides about steps and thread */
    const int64_t *write_offset;

    _Atomic(int) populate;
    _Atomic(int) write_back;

    /* 1: more room was asked for since the thread last looked. Cleared by the thread before it
     * looks at the offsets, so a kick is never lost. */
    _Atomic(int) kicked;
    /* 1: the thread may be waiting on `work`, so that a kick must signal. Both are sequentially
     * consistent: either the kicker sees the sleeper or the sleeper sees the kick. */
    _Atomic(int) sleeping;
    /* Also read without the lock, between pieces. Never reset. */
    _Atomic(int) stopping;

    pthread_mutex_t lock;
    pthread_cond_t work;     /* the thread waits: kicked or stopping */
    pthread_cond_t progress; /* writers wait: making ended; stop() waits: waiters == 0 */

    /* Under the lock. shared.ready <= claimed <= allocated <= reserved. */
    int64_t allocated;
    int64_t size_before; /* of the file, when `allocated` was moved last */
    int64_t claimed;     /* the pieces below are made, or somebody makes them */
    /* Where the piece begins that each of the two makes; NOTHING while it makes none. The writer
     * and the thread work side by side, and what is ready ends where either is still at work. */
    int64_t making[2];
    _Atomic(int)
        waiters; /* calls of begin() whose wait() has not returned; lowered under the lock */
    int has_thread;
    pthread_t thread;
    int writer_cpu; /* where the writer was when the thread was started; -1: not known */

    /* Owned by the thread. Multiples of 2 MiB, at least 2 MiB: the header's page is never let go.
     */
    int64_t flushed;
    int64_t dropped;
};

enum { THREAD = 0, WRITER = 1 }; /* who makes a piece */
#define NOTHING INT64_MAX

static struct room_ahead *inner(evtape_ahead *ahead) {
    return (struct room_ahead *)ahead;
}

/* Where the writer is: WriteOffset, or further on in a batch that is not published yet. The file
 * may be anybody's, so a nonsensical WriteOffset only moves the point within [0, ready]. */
static int64_t writer_position(struct room_ahead *a) {
    int64_t offset = __atomic_load_n(a->write_offset, __ATOMIC_ACQUIRE);
    int64_t reached = atomic_load_explicit(&a->shared.reached, memory_order_relaxed);
    return min64(max64(max64(offset, reached), 0), evtape_ahead_ready(&a->shared));
}

/* How far ahead the thread goes: in proportion to the stream, because what is populated and never
 * used is wasted, and the end has to wait for a piece that is being made. */
static int64_t ahead_distance(const struct room_ahead *a, int64_t position) {
    int64_t distance = round_down((position - a->first) / 4, PIECE);
    return min64(max64(distance, PIECE + PIECE / 2), EVTAPE_AHEAD_MAX);
}

static int64_t step_size(const struct room_ahead *a) {
    int64_t step = round_down((a->allocated - a->first) / 8, PIECE);
    return min64(max64(step, EVTAPE_STEP_MIN), EVTAPE_STEP_MAX);
}

/* Extends the file by a step; where that fails, by what is needed to reach `need`, so that the last
 * pages of a full disk can be used too. need == 0: nobody needs it yet. */
static int extend(struct room_ahead *a, int64_t need) {
    int64_t from = a->allocated;
    int64_t to = min64(round_up(max64(from + step_size(a), need), PIECE), a->reserved);
    int error = from < to ? room_allocate(a->fd, from, to, &a->size_before) : EFBIG;
    if (error != 0 && need > from) {
        to = min64(round_up(need, page_size()), a->reserved);
        error = room_allocate(a->fd, from, to, &a->size_before);
        if (error != 0) {
            to = need; /* a file size limit need not be a multiple of anything */
            error = room_allocate(a->fd, from, to, &a->size_before);
        }
    }
    if (error == 0)
        a->allocated = to;
    return error;
}

/* Brings in what was claimed, or, where the file system does not give that much, what is needed of
 * it; *to says how much. A file system that has no room for a page may have written others back to
 * find some, and these need room again when they are stored to; so that begins where the writer
 * is. */
static int populate_piece(struct room_ahead *a, int64_t from, int64_t *to, int64_t size_before,
                          int64_t need) {
    int populate = atomic_load_explicit(&a->populate, memory_order_relaxed);
    if (populate == EVTAPE_ROOM_ALLOCATE)
        return 0;
    int error = room_populate(a->fd, a->base, from, *to, size_before, populate);
    int64_t less = round_up(need, page_size());
    if (error != 0 && less > from && less < *to) {
        *to = less;
        from = min64(from, writer_position(a));
        error = room_populate(a->fd, a->base, from, less, size_before, populate);
    }
    return error;
}

/* After a piece could not be made, or not whole: it, and what was claimed beyond it, is to be made
 * again. Where nobody is at work there, the file is shortened to what can be used. */
static void give_back(struct room_ahead *a, int who, int64_t made) {
    a->claimed = min64(a->claimed, made);
    if (a->making[1 - who] == NOTHING && truncate_to(a->fd, made) == 0)
        a->allocated = a->claimed;
}

/* Makes one piece of room. Called with the lock held, which is let go while pages are brought in:
 * that is where the time goes. need: where the writer wants to get to, 0 for the thread. */
static int make_piece(struct room_ahead *a, int who, int64_t need) {
    if (a->claimed == a->allocated) {
        int error = extend(a, need);
        if (error != 0)
            return error;
    }
    int64_t from = a->claimed, to = min64(round_down(from, PIECE) + PIECE, a->allocated);
    int64_t made = to, size_before = a->size_before;
    a->claimed = to;
    a->making[who] = from;
    pthread_mutex_unlock(&a->lock);
    int error = populate_piece(a, from, &made, size_before, need);
    pthread_mutex_lock(&a->lock);
    a->making[who] = NOTHING;
    if (error != 0 || made < to)
        give_back(a, who, error != 0 ? from : made);
    int64_t ready = min64(a->claimed, min64(a->making[THREAD], a->making[WRITER]));
    /* While somebody is at work there is nothing to ask for; the thread lowers this before it
     * sleeps. */
    atomic_store_explicit(&a->shared.kick_at, ready, memory_order_relaxed);
    atomic_store_explicit(&a->shared.ready, ready, memory_order_release);
    if (atomic_load(&a->waiters) > 0)
        pthread_cond_broadcast(&a->progress);
    return error;
}

/* ---- the thread ---- */

/* One piece, if the way ahead is too short. */
static bool make_ahead(struct room_ahead *a, int64_t position, bool *failed) {
    pthread_mutex_lock(&a->lock);
    bool wanted = a->claimed < a->reserved && a->claimed - position < ahead_distance(a, position);
    if (wanted)
        *failed = make_piece(a, THREAD, 0) != 0;
    pthread_mutex_unlock(&a->lock);
    return wanted;
}

/* Starts write-back of one range far behind the writer. Only the flag WRITE: the flags that wait
 * also take the error of a failed write-back off the open file, and the writer's own flush would
 * then not see it. */
static bool write_back(struct room_ahead *a, int64_t position) {
#if defined(__linux__)
    if (!atomic_load_explicit(&a->write_back, memory_order_relaxed) ||
        position - EVTAPE_FLUSH_BEHIND - EVTAPE_FLUSH_STEP < a->flushed)
        return false;
    (void)sync_file_range(a->fd, (off_t)a->flushed, (off_t)EVTAPE_FLUSH_STEP,
                          SYNC_FILE_RANGE_WRITE);
    a->flushed += EVTAPE_FLUSH_STEP;
    return true;
#else
    (void)a, (void)position;
    return false;
#endif
}

/* Lets the page table entries behind the writer go, which is what the process's resident memory
 * counts. The pages, dirty ones too, stay in the page cache: the mapping is shared and of a file,
 * so nothing is lost, wherever this is done. */
static bool drop_behind(struct room_ahead *a, int64_t position) {
    if (position - EVTAPE_KEEP_BEHIND - EVTAPE_DROP_STEP < a->dropped)
        return false;
#if defined(__linux__)
    (void)madvise(a->base + a->dropped, (size_t)EVTAPE_DROP_STEP, MADV_DONTNEED);
#endif
    a->dropped += EVTAPE_DROP_STEP;
    return true;
}

/* Sleeps until somebody kicks. A kick from here on means that half of the way ahead has been used.
 */
static void thread_sleep(struct room_ahead *a, int64_t position, bool failed) {
    int64_t ready = evtape_ahead_ready(&a->shared);
    int64_t kick_at = failed ? ready : max64(ready - ahead_distance(a, position) / 2, 0);
    pthread_mutex_lock(&a->lock);
    if (a->making[WRITER] == NOTHING)
        atomic_store_explicit(&a->shared.kick_at, kick_at, memory_order_relaxed);
    atomic_store(&a->sleeping, 1);
    while (!atomic_load(&a->kicked) && !atomic_load(&a->stopping))
        pthread_cond_wait(&a->work, &a->lock);
    atomic_store(&a->sleeping, 0);
    atomic_store(&a->kicked, 0);
    pthread_mutex_unlock(&a->lock);
}

static void *thread_main(void *argument) {
    struct room_ahead *a = argument;
#if defined(__linux__)
    pthread_setname_np(pthread_self(), "evtape-ahead");
#elif defined(__APPLE__)
    pthread_setname_np("evtape-ahead"); /* not run */
#endif
    run_elsewhere(a->writer_cpu);
    bool failed = false;
    while (!atomic_load(&a->stopping)) {
        int64_t position = writer_position(a);
        /* Letting go comes first: it takes microseconds, and a fast writer wants room for ever.
         * Write-back comes last: it may block on a busy disk, and meanwhile the writer makes its
         * room itself. */
        if (drop_behind(a, position))
            continue;
        if (!failed && make_ahead(a, position, &failed))
            continue;
        if (write_back(a, position))
            continue;
        thread_sleep(a, position, failed);
        failed =
            false; /* whoever kicked may know of room; without need the failure stays unreported */
    }
    return NULL;
}

static void thread_start(struct room_ahead *a) {
    a->writer_cpu = current_cpu();
    a->has_thread = start_quietly(&a->thread, thread_main, a);
}

/* ---- the writer's side ---- */

evtape_ahead *evtape_ahead_start(int fd, void *base, int64_t reserved, int64_t first, int64_t ready,
                                 const int64_t *write_offset) {
    struct room_ahead *a = calloc(1, sizeof *a);
    if (a == NULL)
        return NULL;
    a->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (a->fd < 0) {
        int error = errno;
        free(a);
        errno = error;
        return NULL;
    }
    a->base = base;
    a->reserved = reserved;
    a->first = first;
    a->write_offset = write_offset;
    a->allocated = a->claimed = ready;
    a->making[THREAD] = a->making[WRITER] = NOTHING;
    a->writer_cpu = -1;
    a->flushed = a->dropped =
        max64(round_down(__atomic_load_n(write_offset, __ATOMIC_ACQUIRE), PIECE), PIECE);
    atomic_init(&a->shared.ready, ready);
    atomic_init(&a->shared.kick_at, ready);
    atomic_init(&a->populate, EVTAPE_ROOM_LARGE);
    room_advise(base, 0, reserved, EVTAPE_ROOM_LARGE);
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->work, NULL);
    pthread_cond_init(&a->progress, NULL);
    return &a->shared;
}

void evtape_ahead_mode(evtape_ahead *ahead, int populate, int write_back) {
    struct room_ahead *a = inner(ahead);
    if (atomic_exchange_explicit(&a->populate, populate, memory_order_relaxed) != populate)
        room_advise(a->base, 0, a->reserved, populate);
    atomic_store_explicit(&a->write_back, write_back, memory_order_relaxed);
}

void evtape_ahead_kick(evtape_ahead *ahead) {
    struct room_ahead *a = inner(ahead);
    if (atomic_exchange(&a->kicked, 1) || !atomic_load(&a->sleeping))
        return;
    pthread_mutex_lock(&a->lock);
    pthread_cond_signal(&a->work);
    pthread_mutex_unlock(&a->lock);
}

/* With the lock held: makes room in line until `end` or a failure, one piece at a time, so that the
 * thread and the writer share the work instead of one of them watching the other. */
static int wait_locked(struct room_ahead *a, int64_t end) {
    while (evtape_ahead_ready(&a->shared) < end) {
        if (atomic_load(&a->stopping))
            return ECANCELED;
        /* What is needed may all be claimed: then the next piece is made rather than waited. */
        bool useful =
            a->making[WRITER] == NOTHING && a->claimed < end + PIECE && a->claimed < a->reserved;
        int error = useful ? make_piece(a, WRITER, end) : 0;
        if (error != 0 && a->claimed < end)
            return error;
        if (!useful || error != 0)
            pthread_cond_wait(&a->progress, &a->lock);
    }
    return 0;
}

void evtape_ahead_begin(evtape_ahead *ahead) {
    atomic_fetch_add(&inner(ahead)->waiters, 1);
}

/* After the unlock nothing is touched, because stop() may have freed it. */
int evtape_ahead_wait(evtape_ahead *ahead, int64_t end) {
    struct room_ahead *a = inner(ahead);
    int error = EFBIG;
    pthread_mutex_lock(&a->lock);
    if (end <= a->reserved) {
        if (!a->has_thread && end - a->first >= EVTAPE_THREAD_FROM && !atomic_load(&a->stopping))
            thread_start(a);
        error = wait_locked(a, end);
    }
    if (error == 0 && end > atomic_load_explicit(&ahead->reached, memory_order_relaxed))
        atomic_store_explicit(&ahead->reached, end, memory_order_relaxed);
    if (atomic_fetch_sub(&a->waiters, 1) == 1)
        pthread_cond_broadcast(&a->progress);
    pthread_mutex_unlock(&a->lock);
    return error;
}

void evtape_ahead_stop(evtape_ahead *ahead) {
    struct room_ahead *a = inner(ahead);
    if (a == NULL)
        return;
    pthread_mutex_lock(&a->lock);
    atomic_store(&a->stopping, 1);
    pthread_cond_broadcast(&a->work);
    pthread_cond_broadcast(&a->progress);
    while (atomic_load(&a->waiters) > 0)
        pthread_cond_wait(&a->progress, &a->lock);
    int has_thread = a->has_thread;
    pthread_mutex_unlock(&a->lock);
    if (has_thread)
        pthread_join(a->thread, NULL);
    pthread_cond_destroy(&a->progress);
    pthread_cond_destroy(&a->work);
    pthread_mutex_destroy(&a->lock);
    close(a->fd);
    free(a);
}

/* The lock may be held, and the conditions be waited on, by threads that the child does not have;
 * so neither is touched, not even to destroy it. */
void evtape_ahead_forked(evtape_ahead *ahead) {
    struct room_ahead *a = inner(ahead);
    if (a == NULL)
        return;
    close(a->fd);
    free(a);
}

#else
typedef int evtape_prefault_not_on_windows; /* a translation unit must not be empty */
#endif /* _WIN32 */

/* preallocator.c - see preallocator.h.
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
#define _GNU_SOURCE /* sync_file_range, pthread_setname_np */
#endif

#ifndef _WIN32

#include "preallocator.h"

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

/* All figures: 2-core x86-64 guest that others kept busy, ext4, Linux 6.18, 1 KiB events, whole
 * job, as `preallocator_check --bench` measures it; processor time says more there than the clock.
 * The compiler's command line can set these constants, so that they can be measured again. */

/* One piece is one large page. Room that does not begin and end on multiples of it is made of small
 * pages: steps of 256 KiB, 512 KiB, 1 MiB ... cost 1,050 ns per event at 10,000 events, pieces of 2
 * MiB 230. */

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

/* ---- room ahead of a writer ---- */

struct preallocator {
    evtape_preallocator shared; /* first, so that the one is the other */

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

static struct preallocator *inner(evtape_preallocator *ahead) {
    return (struct preallocator *)ahead;
}

/* Where the writer is: WriteOffset, or further on in a batch that is not published yet. The file
 * may be anybody's, so a nonsensical WriteOffset only moves the point within [0, ready]. */
static int64_t writer_position(struct preallocator *a) {
    int64_t offset = __atomic_load_n(a->write_offset, __ATOMIC_ACQUIRE);
    int64_t reached = atomic_load_explicit(&a->shared.reached, memory_order_relaxed);
    return evtape_min64(evtape_max64(evtape_max64(offset, reached), 0),
                        evtape_preallocator_ready(&a->shared));
}

/* How far ahead the thread goes: in proportion to the stream, because what is populated and never
 * used is wasted, and the end has to wait for a piece that is being made. */
static int64_t ahead_distance(const struct preallocator *a, int64_t position) {
    int64_t distance = evtape_round_down((position - a->first) / 4, EVTAPE_HUGE_PAGE);
    return evtape_min64(evtape_max64(distance, EVTAPE_HUGE_PAGE + EVTAPE_HUGE_PAGE / 2),
                        EVTAPE_AHEAD_MAX);
}

static int64_t step_size(const struct preallocator *a) {
    int64_t step = evtape_round_down((a->allocated - a->first) / 8, EVTAPE_HUGE_PAGE);
    return evtape_min64(evtape_max64(step, EVTAPE_STEP_MIN), EVTAPE_STEP_MAX);
}

/* Extends the file by a step; where that fails, by what is needed to reach `need`, so that the last
 * pages of a full disk can be used too. need == 0: nobody needs it yet. */
static int extend(struct preallocator *a, int64_t need) {
    int64_t from = a->allocated;
    int64_t to = evtape_min64(
        evtape_round_up(evtape_max64(from + step_size(a), need), EVTAPE_HUGE_PAGE), a->reserved);
    int error = from < to ? evtape_pages_allocate(a->fd, from, to, &a->size_before) : EFBIG;
    if (error != 0 && need > from) {
        to = evtape_min64(evtape_round_up(need, evtape_page_size()), a->reserved);
        error = evtape_pages_allocate(a->fd, from, to, &a->size_before);
        if (error != 0) {
            to = need; /* a file size limit need not be a multiple of anything */
            error = evtape_pages_allocate(a->fd, from, to, &a->size_before);
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
static int populate_piece(struct preallocator *a, int64_t from, int64_t *to, int64_t size_before,
                          int64_t need) {
    int populate = atomic_load_explicit(&a->populate, memory_order_relaxed);
    if (populate == EVTAPE_PAGES_NONE)
        return 0;
    int error = evtape_pages_populate(a->fd, a->base, from, *to, size_before, populate);
    int64_t less = evtape_round_up(need, evtape_page_size());
    if (error != 0 && less > from && less < *to) {
        *to = less;
        from = evtape_min64(from, writer_position(a));
        error = evtape_pages_populate(a->fd, a->base, from, less, size_before, populate);
    }
    return error;
}

/* After a piece could not be made, or not whole: it, and what was claimed beyond it, is to be made
 * again. Where nobody is at work there, the file is shortened to what can be used. */
static void give_back(struct preallocator *a, int who, int64_t made) {
    a->claimed = evtape_min64(a->claimed, made);
    if (a->making[1 - who] == NOTHING && evtape_truncate(a->fd, made) == 0)
        a->allocated = a->claimed;
}

/* Makes one piece of room. Called with the lock held, which is let go while pages are brought in:
 * that is where the time goes. need: where the writer wants to get to, 0 for the thread. */
static int make_piece(struct preallocator *a, int who, int64_t need) {
    if (a->claimed == a->allocated) {
        int error = extend(a, need);
        if (error != 0)
            return error;
    }
    int64_t from = a->claimed,
            to = evtape_min64(evtape_round_down(from, EVTAPE_HUGE_PAGE) + EVTAPE_HUGE_PAGE,
                              a->allocated);
    int64_t made = to, size_before = a->size_before;
    a->claimed = to;
    a->making[who] = from;
    pthread_mutex_unlock(&a->lock);
    int error = populate_piece(a, from, &made, size_before, need);
    pthread_mutex_lock(&a->lock);
    a->making[who] = NOTHING;
    if (error != 0 || made < to)
        give_back(a, who, error != 0 ? from : made);
    int64_t ready = evtape_min64(a->claimed, evtape_min64(a->making[THREAD], a->making[WRITER]));
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
static bool make_ahead(struct preallocator *a, int64_t position, bool *failed) {
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
static bool write_back(struct preallocator *a, int64_t position) {
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
static bool drop_behind(struct preallocator *a, int64_t position) {
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
static void thread_sleep(struct preallocator *a, int64_t position, bool failed) {
    int64_t ready = evtape_preallocator_ready(&a->shared);
    int64_t kick_at = failed ? ready : evtape_max64(ready - ahead_distance(a, position) / 2, 0);
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
    struct preallocator *a = argument;
#if defined(__linux__)
    pthread_setname_np(pthread_self(), "evtape-ahead");
#elif defined(__APPLE__)
    pthread_setname_np("evtape-ahead"); /* not run */
#endif
    evtape_run_elsewhere(a->writer_cpu);
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

static void thread_start(struct preallocator *a) {
    a->writer_cpu = evtape_current_cpu();
    a->has_thread = evtape_start_quietly(&a->thread, thread_main, a);
}

/* ---- the writer's side ---- */

evtape_preallocator *evtape_preallocator_start(int fd, void *base, int64_t reserved, int64_t first,
                                               int64_t ready, const int64_t *write_offset) {
    struct preallocator *a = calloc(1, sizeof *a);
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
    a->flushed = a->dropped = evtape_max64(
        evtape_round_down(__atomic_load_n(write_offset, __ATOMIC_ACQUIRE), EVTAPE_HUGE_PAGE),
        EVTAPE_HUGE_PAGE);
    atomic_init(&a->shared.ready, ready);
    atomic_init(&a->shared.kick_at, ready);
    atomic_init(&a->populate, EVTAPE_PAGES_HUGE);
    evtape_pages_advise(base, 0, reserved, EVTAPE_PAGES_HUGE);
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->work, NULL);
    pthread_cond_init(&a->progress, NULL);
    return &a->shared;
}

void evtape_preallocator_mode(evtape_preallocator *ahead, int populate, int write_back) {
    struct preallocator *a = inner(ahead);
    if (atomic_exchange_explicit(&a->populate, populate, memory_order_relaxed) != populate)
        evtape_pages_advise(a->base, 0, a->reserved, populate);
    atomic_store_explicit(&a->write_back, write_back, memory_order_relaxed);
}

void evtape_preallocator_wake(evtape_preallocator *ahead) {
    struct preallocator *a = inner(ahead);
    if (atomic_exchange(&a->kicked, 1) || !atomic_load(&a->sleeping))
        return;
    pthread_mutex_lock(&a->lock);
    pthread_cond_signal(&a->work);
    pthread_mutex_unlock(&a->lock);
}

/* With the lock held: makes room in line until `end` or a failure, one piece at a time, so that the
 * thread and the writer share the work instead of one of them watching the other. */
static int wait_locked(struct preallocator *a, int64_t end) {
    while (evtape_preallocator_ready(&a->shared) < end) {
        if (atomic_load(&a->stopping))
            return ECANCELED;
        /* What is needed may all be claimed: then the next piece is made rather than waited. */
        bool useful = a->making[WRITER] == NOTHING && a->claimed < end + EVTAPE_HUGE_PAGE &&
                      a->claimed < a->reserved;
        int error = useful ? make_piece(a, WRITER, end) : 0;
        if (error != 0 && a->claimed < end)
            return error;
        if (!useful || error != 0)
            pthread_cond_wait(&a->progress, &a->lock);
    }
    return 0;
}

void evtape_preallocator_announce(evtape_preallocator *ahead) {
    atomic_fetch_add(&inner(ahead)->waiters, 1);
}

/* After the unlock nothing is touched, because stop() may have freed it. */
int evtape_preallocator_wait(evtape_preallocator *ahead, int64_t end) {
    struct preallocator *a = inner(ahead);
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

void evtape_preallocator_stop(evtape_preallocator *ahead) {
    struct preallocator *a = inner(ahead);
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
void evtape_preallocator_forked(evtape_preallocator *ahead) {
    struct preallocator *a = inner(ahead);
    if (a == NULL)
        return;
    close(a->fd);
    free(a);
}

#else

#include "preallocator.h"

#include <errno.h>

/* There is no preallocator: the writer extends the file itself. Not run. */

int evtape_preallocate(int fd, void *base, int64_t from, int64_t to, int populate) {
    (void)fd, (void)base, (void)from, (void)to, (void)populate;
    return ENOTSUP;
}
evtape_preallocator *evtape_preallocator_start(int fd, void *base, int64_t reserved, int64_t first,
                                               int64_t ready, const int64_t *write_offset) {
    (void)fd, (void)base, (void)reserved, (void)ready, (void)write_offset;
    errno = ENOTSUP;
    return NULL;
}
void evtape_preallocator_mode(evtape_preallocator *ahead, int populate, int write_back) {
    (void)ahead, (void)populate, (void)write_back;
}
void evtape_preallocator_wake(evtape_preallocator *ahead) {
    (void)ahead;
}
void evtape_preallocator_announce(evtape_preallocator *ahead) {
    (void)ahead;
}
int evtape_preallocator_wait(evtape_preallocator *ahead, int64_t end) {
    (void)ahead, (void)end;
    return ENOTSUP;
}
void evtape_preallocator_stop(evtape_preallocator *ahead) {
    (void)ahead;
}
void evtape_preallocator_forked(evtape_preallocator *ahead) {
    (void)ahead;
}
#endif /* _WIN32 */

/* preallocator.c - see preallocator.h.
 *
 * The parts of a mapped stream, in file order:
 *
 *     0 .. 2 MiB | dropped ... | kept | position | populated | ready .. allocated | reserved
 *     the page   not in the    pages   of the      no fault    on disk, no pages    address space
 *     of the     page table    near    writer      here
 *     header                   it
 *
 * The holder of a piece in `making` moves `ready` and `allocated`. This is the thread, or a writer
 * in wait() that would otherwise be idle. Only the thread drops and flushes pages, and only behind
 * the writer.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sync_file_range, pthread_setname_np */
#endif

#ifndef _WIN32

#include "preallocator.h"

#include "clock.h"
#include "pace.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* All figures: a 2-core x86-64 guest under load, ext4, Linux 6.18, events of 1 KiB, whole
 * jobs, as `preallocator_check --bench` measures them. Under load processor time is more
 * reliable than elapsed time. The compiler's command line can set these constants, so that
 * they can be measured again. */

/* Each extension of the file is an eighth of the growth by this writer, within these two bounds. A
 * file of less than 2 MiB is doubled. */
#ifndef EVTAPE_STEP_FIRST
#define EVTAPE_STEP_FIRST ((int64_t)64 << 10)
#endif
#ifndef EVTAPE_STEP_MIN
#define EVTAPE_STEP_MIN ((int64_t)2 << 20)
#endif
#ifndef EVTAPE_STEP_MAX
#define EVTAPE_STEP_MAX ((int64_t)8 << 20)
#endif

/* The thread starts when the file has grown by this much since it was opened: by the first figure
 * for a paced writer, by the second one for any other. A writer that adds a few events to a long
 * stream needs no thread. At 10,000 events (10 MiB) in a loop, a thread from 2 MiB on makes the
 * appends cheaper and the end more expensive, because the end must wait for a piece that the writer
 * never uses: 253 to 1,312 ns per event with the thread, 244 to 301 ns without. At 1,000,000 events
 * it is 142 ns with a thread, and 223 ns if the writer prepares all space itself. */
#ifndef EVTAPE_THREAD_FROM_PACED
#define EVTAPE_THREAD_FROM_PACED ((int64_t)2 << 20)
#endif
#ifndef EVTAPE_THREAD_FROM
#define EVTAPE_THREAD_FROM ((int64_t)16 << 20)
#endif

/* The maximum distance between the writer and the end of the prepared space. 4 MiB costs the writer
 * 170 to 218 ns of processor time per event, 16 MiB 142 to 172 ns, 32 and 64 MiB 130 to 192 ns. A
 * loop that reads the clock between its appends uses 32 MiB in 8 ms, which is as long as the
 * slowest huge pages take. */
#ifndef EVTAPE_DISTANCE_MAX
#define EVTAPE_DISTANCE_MAX ((int64_t)32 << 20)
#endif

/* If the thread can stay ahead of the writer, the distance is a time, within the same bounds. It
 * covers slow huge pages and the time in which other processes run in the thread's place. */
#ifndef EVTAPE_DISTANCE_NS
#define EVTAPE_DISTANCE_NS ((int64_t)100000000)
#endif

/* The size of the mapped part behind the writer, and the size of one drop. Dropping pages is free,
 * because unmapping them at the end would cost the same: 260 to 290 ns of process time per event
 * with it, 303 to 340 ns without. */
#ifndef EVTAPE_KEEP_BEHIND
#define EVTAPE_KEEP_BEHIND ((int64_t)16 << 20)
#endif
#ifndef EVTAPE_DROP_STEP
#define EVTAPE_DROP_STEP ((int64_t)4 << 20)
#endif

/* Write-back, if it is enabled, starts this far behind the writer, in ranges of this size. It adds
 * 45 ns of processor time per event to the thread. It makes a job that is never flushed slower (554
 * ns instead of 318 ns). */
#ifndef EVTAPE_FLUSH_BEHIND
#define EVTAPE_FLUSH_BEHIND ((int64_t)8 << 20)
#endif
#ifndef EVTAPE_FLUSH_STEP
#define EVTAPE_FLUSH_STEP ((int64_t)2 << 20)
#endif

/* The distance at which the work that follows the writer comes before new space. The lines that it
 * reads are in a cache that the processors share, and a close waits for the rest of it. */
#ifndef EVTAPE_TRAIL_MAX
#define EVTAPE_TRAIL_MAX ((int64_t)4 << 20)
#endif

/* How long a writer spins for a piece of the thread before it sleeps. Waking up takes 50 us. */
#ifndef EVTAPE_SPIN_NS
#define EVTAPE_SPIN_NS ((int64_t)60000)
#endif

/* ---- state and space ---- */

struct preallocator {
    evtape_preallocator shared; /* first, so that both have one address */

    /* Set by start() and never changed. */
    int fd;
    char *base;
    int64_t reserved;
    int64_t first; /* the file's size at its opening; its growth decides steps and thread */
    const int64_t *write_offset;

    _Atomic(int) populate;
    int advised; /* the `populate` that the kernel was last advised of; under the lock */
    _Atomic(int) write_back;

    /* 1: more space was requested since the thread last looked. The thread clears it before it
     * looks at the offsets, so a kick is never lost. */
    _Atomic(int) kicked;
    /* 1: the thread may be waiting on `work`, so a kick must signal. Both fields are sequentially
     * consistent: either the kicker sees the sleeper or the sleeper sees the kick. */
    _Atomic(int) sleeping;
    /* Also read without the lock, between pieces. It is never reset. */
    _Atomic(int) stopping;

    pthread_mutex_t lock;
    pthread_cond_t work;     /* the thread waits: kicked or stopping */
    pthread_cond_t progress; /* writers wait: making ended; stop() waits: waiters == 0 */

    /* Under the lock. shared.ready <= claimed <= allocated <= reserved. */
    int64_t allocated;
    int64_t size_before; /* of the file, when `allocated` last moved */
    int64_t claimed;     /* every piece below is ready or being prepared */
    /* The start of the piece that the thread or the writer is preparing; NOTHING if it prepares
     * none. The two work in parallel, and `ready` ends at the lower start. */
    int64_t making[2];
    bool making_huge[2];
    evtape_pace pace;          /* under the lock, except its `observed_at` */
    _Atomic(int64_t) asked_at; /* when the writer ran out of space; 0: it has some */
    _Atomic(int) waiters; /* announced wait() calls, not yet returned; decremented under the lock */
    _Atomic(int) has_thread; /* written under the lock */
    pthread_t thread;
    _Atomic(int) writer_cpu;                /* where the writer last asked for space; -1: unknown */
    void *trailing_argument;                /* set before `trailing_work` */
    _Atomic(evtape_trailing_work) trailing; /* NULL: none */

    /* Owned by the thread. Multiples of 2 MiB, at least 2 MiB: the header's page
     * is never dropped. */
    int64_t flushed;
    int64_t dropped;
};

enum { THREAD = 0, WRITER = 1 }; /* indices of `making` */
#define NOTHING INT64_MAX

static struct preallocator *inner(evtape_preallocator *preallocator) {
    return (struct preallocator *)preallocator;
}

/* The writer's position: WriteOffset, or further on in a batch that is not published yet. The file
 * may be hostile, so an invalid WriteOffset only moves the position within [0, ready]. */
static int64_t writer_position(struct preallocator *p) {
    int64_t offset = __atomic_load_n(p->write_offset, __ATOMIC_ACQUIRE);
    int64_t reached = atomic_load_explicit(&p->shared.reached, memory_order_relaxed);
    return evtape_min64(evtape_max64(evtape_max64(offset, reached), 0),
                        evtape_preallocator_ready(&p->shared));
}

/* ---- pieces ---- */

/* Whether a paced writer flushes its stream. After each flush the next store faults, and the fault
 * and the flush after it concern a whole page: 160 us and 2 MiB for a huge one. */
static bool is_flushed(struct preallocator *p) {
    return evtape_pace_is_steady(&p->pace) &&
           atomic_load_explicit(&p->write_back, memory_order_relaxed);
}

/* Whether a huge page that the thread begins now is ready long before the writer needs it. */
static bool is_far_ahead(struct preallocator *p, int64_t from) {
    int64_t lead = from - writer_position(p);
    return lead > 0 &&
           lead > (p->pace.late_ns + EVTAPE_HUGE_NS_MAX / 2) * EVTAPE_HUGE_PAGE / p->pace.use_ns;
}

/* Returns the end of the piece that begins at `from`. */
static int64_t piece_end(struct preallocator *p, int who, int64_t from, int64_t need) {
    int64_t page_end =
        evtape_min64(evtape_round_down(from, EVTAPE_HUGE_PAGE) + EVTAPE_HUGE_PAGE, p->allocated);
    if (evtape_pace_in_a_hurry(&p->pace) || need >= page_end ||
        (who == THREAD && from % EVTAPE_HUGE_PAGE == 0 && is_far_ahead(p, from) &&
         !is_flushed(p)) ||
        atomic_load_explicit(&p->populate, memory_order_relaxed) == EVTAPE_PAGES_NONE)
        return page_end;
    int64_t size = EVTAPE_PIECE_MAX;
    while (size > EVTAPE_PIECE_MIN && p->pace.small_ns * size / EVTAPE_HUGE_PAGE > EVTAPE_PIECE_NS)
        size /= 2;
    return evtape_min64(evtape_round_down(from, size) + size, page_end);
}

/* The distance to prepare, in proportion to the stream. Populated space that is never used is
 * wasted, and the end must wait for a piece that is being prepared. */
static int64_t target_distance(const struct preallocator *p, int64_t position) {
    int64_t grown = position - p->first, distance = grown / 4;
    if (!evtape_pace_in_a_hurry(&p->pace))
        distance = evtape_min64(EVTAPE_DISTANCE_NS * EVTAPE_HUGE_PAGE / p->pace.use_ns, grown);
    distance = evtape_round_down(distance, EVTAPE_HUGE_PAGE);
    return evtape_min64(evtape_max64(distance, EVTAPE_HUGE_PAGE + EVTAPE_HUGE_PAGE / 2),
                        EVTAPE_DISTANCE_MAX);
}

static int64_t step_size(const struct preallocator *p) {
    int64_t step = evtape_round_down((p->allocated - p->first) / 8, EVTAPE_HUGE_PAGE);
    return evtape_min64(evtape_max64(step, EVTAPE_STEP_MIN), EVTAPE_STEP_MAX);
}

/* Extends the file by a step. If this fails, extends it by what is needed to reach `need`, so that
 * the last pages of a full disk can be used. need == 0: no writer waits for this space. */
static int extend(struct preallocator *p, int64_t need) {
    int64_t from = p->allocated;
    int64_t to = evtape_round_up(evtape_max64(from + step_size(p), need), EVTAPE_HUGE_PAGE);
    if (evtape_max64(from, need) < EVTAPE_HUGE_PAGE) /* a stream of ten events holds no megabytes */
        to = evtape_min64(evtape_round_up(evtape_max64(2 * from, need), EVTAPE_STEP_FIRST),
                          EVTAPE_HUGE_PAGE);
    to = evtape_min64(to, p->reserved);
    int error = from < to ? evtape_pages_allocate(p->fd, from, to, &p->size_before) : EFBIG;
    if (error != 0 && need > from) {
        to = evtape_min64(evtape_round_up(need, evtape_page_size()), p->reserved);
        error = evtape_pages_allocate(p->fd, from, to, &p->size_before);
        if (error != 0) {
            to = need; /* a file size limit may be any number */
            error = evtape_pages_allocate(p->fd, from, to, &p->size_before);
        }
    }
    if (error == 0)
        p->allocated = to;
    return error;
}

/* Populates the claimed piece. If the file system refuses so much, populates the part that is
 * needed; *to returns its end. A file system without space for a page may have written other pages
 * back to find some. These pages need new space at the next store, so the second attempt begins at
 * the writer's position. */
static int populate_piece(struct preallocator *p, int64_t from, int64_t *to, int64_t size_before,
                          int64_t need, bool alone) {
    int populate = atomic_load_explicit(&p->populate, memory_order_relaxed);
    if (populate == EVTAPE_PAGES_NONE)
        return 0;
    int error = evtape_pages_populate(p->fd, p->base, from, *to, size_before, populate, alone);
    int64_t less = evtape_round_up(need, evtape_page_size());
    if (error != 0 && less > from && less < *to) {
        *to = less;
        from = evtape_min64(from, writer_position(p));
        error = evtape_pages_populate(p->fd, p->base, from, less, size_before, populate, false);
    }
    return error;
}

/* After a failure or a partial success: the piece, and the claimed space beyond it, must
 * be prepared again. If the other side prepares nothing there, the file is shortened to
 * the usable part. */
static void give_back(struct preallocator *p, int who, int64_t made) {
    p->claimed = evtape_min64(p->claimed, made);
    if (p->making[1 - who] == NOTHING && evtape_truncate(p->fd, made) == 0)
        p->allocated = p->claimed;
}

/* Prepares one piece. Called with the lock held; releases it while the pages are populated, which
 * takes most of the time. need: the offset that the writer wants to reach, 0 for the thread. */
static int make_piece(struct preallocator *p, int who, int64_t need) {
    if (p->claimed == p->allocated) {
        int error = extend(p, need);
        if (error != 0)
            return error;
    }
    int64_t from = p->claimed, to = piece_end(p, who, from, need);
    int64_t made = to, size_before = p->size_before;
    bool huge = to - from == EVTAPE_HUGE_PAGE;
    int populate = atomic_load_explicit(&p->populate, memory_order_relaxed);
    if (p->advised != populate)
        evtape_pages_advise(p->base, 0, p->reserved, p->advised = populate);
    bool alone = p->making[1 - who] == NOTHING || !(huge || p->making_huge[1 - who]);
    p->claimed = to;
    p->making[who] = from;
    p->making_huge[who] = huge;
    pthread_mutex_unlock(&p->lock);
    int64_t start = evtape_thread_time(), entered = evtape_monotonic();
    int error = populate_piece(p, from, &made, size_before, need, alone);
    int64_t ns = evtape_thread_time() - start, elapsed = evtape_monotonic() - entered;
    pthread_mutex_lock(&p->lock);
    p->making[who] = NOTHING;
    if (error == 0 && made == to && to - from >= EVTAPE_PIECE_MIN)
        evtape_pace_of_piece(&p->pace, who == THREAD, to - from, ns, elapsed);
    if (error != 0 || made < to)
        give_back(p, who, error != 0 ? from : made);
    int64_t ready = evtape_min64(p->claimed, evtape_min64(p->making[THREAD], p->making[WRITER]));
    /* While a piece is being prepared a request is useless. The thread lowers kick_at
     * before it sleeps. */
    atomic_store_explicit(&p->shared.kick_at, ready, memory_order_relaxed);
    atomic_store_explicit(&p->shared.ready, ready, memory_order_release);
    if (atomic_load(&p->waiters) > 0)
        pthread_cond_broadcast(&p->progress);
    return error;
}

/* ---- the thread ---- */

/* Prepares one piece if the prepared space is too short. */
static bool preallocate_piece(struct preallocator *p, int64_t position, bool *failed) {
    pthread_mutex_lock(&p->lock);
    if (atomic_load(&p->waiters) == 0)
        evtape_pace_of_writer(&p->pace, position, evtape_monotonic());
    bool wanted = p->claimed < p->reserved && p->claimed - position < target_distance(p, position);
    if (wanted)
        *failed = make_piece(p, THREAD, 0) != 0;
    pthread_mutex_unlock(&p->lock);
    return wanted;
}

/* Starts write-back of one range far behind the writer. It uses only the flag WRITE. The flags
 * that wait also consume the error of a failed write-back, and the writer's own flush would then
 * not see it. */
static bool write_back(struct preallocator *p, int64_t position) {
#if defined(__linux__)
    if (!atomic_load_explicit(&p->write_back, memory_order_relaxed) ||
        position - EVTAPE_FLUSH_BEHIND - EVTAPE_FLUSH_STEP < p->flushed)
        return false;
    (void)sync_file_range(p->fd, (off_t)p->flushed, (off_t)EVTAPE_FLUSH_STEP,
                          SYNC_FILE_RANGE_WRITE);
    p->flushed += EVTAPE_FLUSH_STEP;
    return true;
#else
    (void)p, (void)position;
    return false;
#endif
}

/* Drops the page table entries behind the writer, which count as the process's resident
 * memory. Nothing is lost: the mapping is shared, so its pages, dirty ones included, stay in
 * the page cache. */
static bool drop_behind(struct preallocator *p, int64_t position, int64_t keep) {
    if (position - keep - EVTAPE_DROP_STEP < p->dropped)
        return false;
#if defined(__linux__)
    (void)madvise(p->base + p->dropped, (size_t)EVTAPE_DROP_STEP, MADV_DONTNEED);
#endif
    p->dropped += EVTAPE_DROP_STEP;
    return true;
}

/* Does a piece of the work that follows the writer. Only what is published is worked on. */
static bool trail(struct preallocator *p, int64_t least) {
    evtape_trailing_work work = atomic_load_explicit(&p->trailing, memory_order_acquire);
    if (work == NULL)
        return false;
    int64_t offset = __atomic_load_n(p->write_offset, __ATOMIC_ACQUIRE);
    return offset <= evtape_preallocator_ready(&p->shared) &&
           work(p->trailing_argument, (const uint8_t *)p->base, offset, least);
}

/* Sleeps until a kick. From now on a kick means that half of the prepared space has been used. */
static void thread_sleep(struct preallocator *p, int64_t position, bool failed) {
    pthread_mutex_lock(&p->lock);
    int64_t ready = evtape_preallocator_ready(&p->shared);
    int64_t kick_at = failed ? ready : evtape_max64(ready - target_distance(p, position) / 2, 0);
    if (p->making[WRITER] == NOTHING)
        atomic_store_explicit(&p->shared.kick_at, kick_at, memory_order_relaxed);
    atomic_store(&p->sleeping, 1);
    while (!atomic_load(&p->kicked) && !atomic_load(&p->stopping))
        pthread_cond_wait(&p->work, &p->lock);
    atomic_store(&p->sleeping, 0);
    atomic_store(&p->kicked, 0);
    pthread_mutex_unlock(&p->lock);
}

static void *thread_main(void *argument) {
    struct preallocator *p = argument;
#if defined(__linux__)
    pthread_setname_np(pthread_self(), "evtape-prealloc");
#elif defined(__APPLE__)
    pthread_setname_np("evtape-prealloc"); /* not run */
#endif
    int writer_cpu = -1;
    bool failed = false;
    while (!atomic_load(&p->stopping)) {
        int cpu = atomic_load_explicit(&p->writer_cpu, memory_order_relaxed);
        if (cpu != writer_cpu)
            evtape_run_elsewhere(writer_cpu = cpu);
        int64_t position = writer_position(p);
        /* Space comes first, but a fast writer always wants more, so that memory would grow.
         * Write-back comes last: it may block on a busy disk, and the writer then prepares its
         * space itself. */
        /* Before pages are dropped: one that is read after that faults again, and the distance would
         * grow for ever. */
        while (!atomic_load(&p->stopping) && trail(p, EVTAPE_TRAIL_MAX))
            ;
        (void)drop_behind(p, position, 2 * EVTAPE_KEEP_BEHIND);
        if (!failed && preallocate_piece(p, position, &failed))
            continue;
        if (drop_behind(p, position, EVTAPE_KEEP_BEHIND))
            continue;
        if (write_back(p, position))
            continue;
        if (trail(p, 0))
            continue;
        thread_sleep(p, position, failed);
        /* The kicker may know of free space. A failure without a need is not reported. */
        failed = false;
    }
    return NULL;
}

static void thread_start(struct preallocator *p) {
    p->has_thread = evtape_start_quietly(&p->thread, thread_main, p);
}

/* ---- the writer's side ---- */

evtape_preallocator *evtape_preallocator_start(int fd, void *base, int64_t reserved, int64_t first,
                                               int64_t ready, const int64_t *write_offset,
                                               int64_t since) {
    struct preallocator *p = calloc(1, sizeof *p);
    if (p == NULL)
        return NULL;
    p->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (p->fd < 0) {
        int error = errno;
        free(p);
        errno = error;
        return NULL;
    }
    p->base = base;
    p->reserved = reserved;
    p->first = first;
    p->write_offset = write_offset;
    p->allocated = p->claimed = ready;
    p->making[THREAD] = p->making[WRITER] = NOTHING;
    evtape_pace_init(&p->pace, first, since != 0 ? since : evtape_monotonic(),
                     evtape_huge_page_ns());
    atomic_init(&p->writer_cpu, -1);
    p->flushed = p->dropped = evtape_max64(
        evtape_round_down(__atomic_load_n(write_offset, __ATOMIC_ACQUIRE), EVTAPE_HUGE_PAGE),
        EVTAPE_HUGE_PAGE);
    atomic_init(&p->shared.ready, ready);
    atomic_init(&p->shared.kick_at, ready);
    atomic_init(&p->populate, EVTAPE_PAGES_HUGE);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->progress, NULL);
    return &p->shared;
}

void evtape_preallocator_mode(evtape_preallocator *preallocator, int populate, int write_back) {
    struct preallocator *p = inner(preallocator);
    atomic_store_explicit(&p->populate, populate, memory_order_relaxed);
    atomic_store_explicit(&p->write_back, write_back, memory_order_relaxed);
}

void evtape_preallocator_trail(evtape_preallocator *preallocator, evtape_trailing_work work,
                               void *argument) {
    struct preallocator *p = inner(preallocator);
    p->trailing_argument = argument;
    atomic_store_explicit(&p->trailing, work, memory_order_release);
}

int evtape_preallocator_has_thread(evtape_preallocator *preallocator) {
    return atomic_load_explicit(&inner(preallocator)->has_thread, memory_order_relaxed);
}

void evtape_preallocator_continue(evtape_preallocator *preallocator,
                                  evtape_preallocator *preallocator_before) {
    struct preallocator *p = inner(preallocator), *before = inner(preallocator_before);
    pthread_mutex_lock(&before->lock);
    int64_t use = before->pace.use_ns, small = before->pace.small_ns, best = before->pace.best_ns;
    int64_t huge = before->pace.huge_ns, late = before->pace.late_ns;
    int has_thread = before->has_thread;
    pthread_mutex_unlock(&before->lock);
    pthread_mutex_lock(&p->lock);
    p->pace.use_ns = use;
    p->pace.small_ns = small;
    p->pace.best_ns = best;
    p->pace.huge_ns = huge;
    p->pace.late_ns = late;
    p->pace.observed = writer_position(p);
    p->pace.observed_at = evtape_monotonic();
    if (has_thread && !p->has_thread && !atomic_load(&p->stopping))
        thread_start(p);
    pthread_mutex_unlock(&p->lock);
    evtape_preallocator_wake(preallocator);
}

static void note_processor(struct preallocator *p) {
    atomic_store_explicit(&p->writer_cpu, evtape_current_cpu(), memory_order_relaxed);
}

void evtape_preallocator_wake(evtape_preallocator *preallocator) {
    struct preallocator *p = inner(preallocator);
    note_processor(p);
    if (atomic_exchange(&p->kicked, 1) || !atomic_load(&p->sleeping))
        return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
}

/* With the lock held: spins until a piece is finished. A short one is finished before this thread
 * would be asleep. Returns whether one was. */
static bool spin_for_piece(struct preallocator *p) {
    int64_t ready = evtape_preallocator_ready(&p->shared), start = evtape_monotonic();
    pthread_mutex_unlock(&p->lock);
    while (evtape_preallocator_ready(&p->shared) == ready && !atomic_load(&p->stopping) &&
           evtape_monotonic() - start < EVTAPE_SPIN_NS)
        ;
    pthread_mutex_lock(&p->lock);
    return evtape_preallocator_ready(&p->shared) != ready || atomic_load(&p->stopping);
}

/* With the lock held: prepares space up to `end` or until a failure, one piece at a time. So the
 * thread and the writer share the work. If the thread is preparing all that is needed, a writer in
 * a hurry prepares the next piece, and any other writer does if the thread is late. */
static int wait_locked(struct preallocator *p, int64_t end) {
    while (evtape_preallocator_ready(&p->shared) < end) {
        if (atomic_load(&p->stopping))
            return ECANCELED;
        bool useful = p->making[WRITER] == NOTHING && p->claimed < end + EVTAPE_HUGE_PAGE &&
                      p->claimed < p->reserved;
        if (p->claimed >= end && p->pace.use_ns >= p->pace.best_ns && spin_for_piece(p))
            continue;
        int error = useful && p->making[WRITER] == NOTHING ? make_piece(p, WRITER, end) : 0;
        if (error != 0 && p->claimed < end)
            return error;
        if ((!useful || error != 0) && evtape_preallocator_ready(&p->shared) < end &&
            (p->making[THREAD] != NOTHING || p->making[WRITER] != NOTHING))
            pthread_cond_wait(&p->progress, &p->lock);
    }
    return 0;
}

/* The time between the two, with the wait and the way through Python, does not count as use. */
void evtape_preallocator_mark(evtape_preallocator *preallocator, int begins) {
    struct preallocator *p = inner(preallocator);
    if (begins && p->asked_at != 0) {
        p->pace.observed_at += evtape_monotonic() - p->asked_at;
        p->asked_at = 0;
        atomic_store_explicit(&preallocator->waited, 0, memory_order_relaxed);
    } else if (!begins) {
        p->asked_at = evtape_monotonic();
    }
}

void evtape_preallocator_announce(evtape_preallocator *preallocator) {
    atomic_fetch_add(&inner(preallocator)->waiters, 1);
}

/* Touches nothing after the unlock, because stop() may have freed it. */
int evtape_preallocator_wait(evtape_preallocator *preallocator, int64_t end) {
    struct preallocator *p = inner(preallocator);
    int error = EFBIG;
    note_processor(p);
    if (p->asked_at == 0) /* the first time */
        evtape_preallocator_mark(preallocator, 0);
    pthread_mutex_lock(&p->lock);
    if (end <= p->reserved) {
        int64_t asked_at = p->asked_at;
        if (asked_at != 0 && atomic_load(&p->waiters) == 1)
            evtape_pace_of_writer(&p->pace, writer_position(p), asked_at);
        int64_t from =
            evtape_pace_is_steady(&p->pace) ? EVTAPE_THREAD_FROM_PACED : EVTAPE_THREAD_FROM;
        if (!p->has_thread && end - p->first >= from && !atomic_load(&p->stopping))
            thread_start(p);
        error = wait_locked(p, end);
    }
    atomic_store_explicit(&preallocator->waited, 1, memory_order_relaxed);
    if (error == 0 && end > atomic_load_explicit(&preallocator->reached, memory_order_relaxed))
        atomic_store_explicit(&preallocator->reached, end, memory_order_relaxed);
    if (atomic_fetch_sub(&p->waiters, 1) == 1)
        pthread_cond_broadcast(&p->progress);
    pthread_mutex_unlock(&p->lock);
    return error;
}

void evtape_preallocator_stop(evtape_preallocator *preallocator) {
    struct preallocator *p = inner(preallocator);
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stopping, 1);
    pthread_cond_broadcast(&p->work);
    pthread_cond_broadcast(&p->progress);
    while (atomic_load(&p->waiters) > 0)
        pthread_cond_wait(&p->progress, &p->lock);
    int has_thread = p->has_thread;
    pthread_mutex_unlock(&p->lock);
    if (has_thread)
        pthread_join(p->thread, NULL);
    pthread_cond_destroy(&p->progress);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    close(p->fd);
    free(p);
}

/* Threads that the child does not have may hold the lock or wait on the conditions. So the child
 * does not touch them, not even to destroy them. */
void evtape_preallocator_forked(evtape_preallocator *preallocator) {
    struct preallocator *p = inner(preallocator);
    if (p == NULL)
        return;
    close(p->fd);
    free(p);
}

#else

#include "preallocator.h"

#include <errno.h>

/* Windows has no preallocator: the writer extends the file itself. Not run. */

int evtape_preallocate(int fd, void *base, int64_t from, int64_t to, int populate) {
    (void)fd, (void)base, (void)from, (void)to, (void)populate;
    return ENOTSUP;
}
evtape_preallocator *evtape_preallocator_start(int fd, void *base, int64_t reserved, int64_t first,
                                               int64_t ready, const int64_t *write_offset,
                                               int64_t since) {
    (void)fd, (void)base, (void)reserved, (void)first, (void)ready, (void)write_offset;
    (void)since;
    errno = ENOTSUP;
    return NULL;
}
void evtape_preallocator_mode(evtape_preallocator *preallocator, int populate, int write_back) {
    (void)preallocator, (void)populate, (void)write_back;
}
void evtape_preallocator_trail(evtape_preallocator *preallocator, evtape_trailing_work work,
                               void *argument) {
    (void)preallocator, (void)work, (void)argument;
}
int evtape_preallocator_has_thread(evtape_preallocator *preallocator) {
    (void)preallocator;
    return 0;
}

void evtape_preallocator_continue(evtape_preallocator *preallocator, evtape_preallocator *before) {
    (void)preallocator, (void)before;
}
void evtape_preallocator_mark(evtape_preallocator *preallocator, int begins) {
    (void)preallocator, (void)begins;
}
void evtape_preallocator_wake(evtape_preallocator *preallocator) {
    (void)preallocator;
}
void evtape_preallocator_announce(evtape_preallocator *preallocator) {
    (void)preallocator;
}
int evtape_preallocator_wait(evtape_preallocator *preallocator, int64_t end) {
    (void)preallocator, (void)end;
    return ENOTSUP;
}
void evtape_preallocator_stop(evtape_preallocator *preallocator) {
    (void)preallocator;
}
void evtape_preallocator_forked(evtape_preallocator *preallocator) {
    (void)preallocator;
}
#endif /* _WIN32 */

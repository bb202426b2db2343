/* preallocator.h - prepares space in a mapped file ahead of the writer, so that the writer never
 * faults.
 *
 * A store into a page that is not mapped costs a page fault per 4 KiB. These faults are most of the
 * time of a simple mapped writer. The preallocator allocates the file, so that a full disk is an
 * errno and never a signal, and populates many pages at once, as many as the writer can wait for.
 * Once the stream is large enough to pay for a thread, a native thread does this ahead of the
 * writer.
 *
 * A writer uses it like this:
 *
 *     p = evtape_preallocator_start(fd, base, reserved, size, ready, &header->write_offset);
 *     ...
 *     if (end > limit) {                               // the only test on the hot path
 *         limit = evtape_preallocator_limit(p, end);   // no system call if the space is ready
 *         if (limit < end) {
 *             evtape_preallocator_announce(p);
 *             error = evtape_preallocator_wait(p, end);  // without the GIL
 *             limit = error ? limit : evtape_preallocator_limit(p, end);
 *         }
 *     }
 *     ...
 *     evtape_preallocator_stop(p);
 *     ftruncate(fd, write_offset);
 */
#ifndef EVTAPE_PREALLOCATOR_H
#define EVTAPE_PREALLOCATOR_H

#include "preallocate.h"

#include <stdatomic.h>
#include <stdbool.h>

/* The preallocator of one writer. The inline functions below use these fields; preallocator.c
 * has the others. */
typedef struct evtape_preallocator {
    /* The writer may store below this offset without a fault. It only grows. */
    _Atomic(int64_t) ready;
    /* A writer beyond this offset should ask for more space. Below it the prepared space is
     * sufficient. kick_at <= ready. */
    _Atomic(int64_t) kick_at;
    /* The furthest end that the writer asked for. It shows the writer's position while a batch is
     * stored but not yet published. */
    _Atomic(int64_t) reached;
    /* 1: a wait() has returned, and the writer has not used its space yet. */
    _Atomic(int) waited;
} evtape_preallocator;

/* Creates a preallocator. Returns NULL and sets errno on failure.
 *
 * fd, base: the stream and its mapping (file offset 0). The descriptor is duplicated.
 *
 * reserved: the number of mapped bytes, which is the upper bound of the file's size.
 *
 * first: the size of the file when it was opened.
 *
 * ready: the number of bytes that are allocated, and preferably populated.
 *
 * write_offset: the live WriteOffset in the mapping. It is read with an atomic load at any time
 * until stop() returns.
 *
 * since: evtape_monotonic() of the moment at which the writer began to use the first space, 0: now.
 * The writer's pace decides how much is prepared at once.
 *
 * The thread does not start before the stream has grown by EVTAPE_THREAD_FROM (preallocator.c)
 * since it was opened, or by EVTAPE_THREAD_FROM_PACED if the writer is slow. */
evtape_preallocator *evtape_preallocator_start(int fd, void *base, int64_t reserved, int64_t first,
                                               int64_t ready, const int64_t *write_offset,
                                               int64_t since);

/* Sets how space is populated (default EVTAPE_PAGES_HUGE), and whether write-back starts early for
 * the pages far behind the writer (default 0). Write-back shortens the flush at the end and slows
 * down the appends before it. */
void evtape_preallocator_mode(evtape_preallocator *p, int populate, int write_back);

/* Work that follows the writer. It gets the mapping and WriteOffset, does a short piece, and returns
 * whether there is more. It does nothing while less than `least` bytes are left to do. */
typedef bool (*evtape_trailing_work)(void *argument, const uint8_t *base, int64_t write_offset,
                                     int64_t least);

/* Has the thread do this work: when it has nothing else to do, and before that once the work is
 * EVTAPE_TRAIL_MAX late, because the pages of the stream are dropped further on. The argument must
 * live until stop(). It may be called once, at any time. */
void evtape_preallocator_trail(evtape_preallocator *p, evtape_trailing_work work, void *argument);

/* Returns 1 if the thread was started. */
int evtape_preallocator_has_thread(evtape_preallocator *p);

/* The writer of `before` goes on in the stream of `p`: its pace is known there. */
void evtape_preallocator_continue(evtape_preallocator *p, evtape_preallocator *before);

/* Asks for more space. It makes no system call while the thread is working. Any thread
 * may call it. */
void evtape_preallocator_wake(evtape_preallocator *p);

/* Announces a wait(), so that a stop() from now on does not free what wait() uses. The caller must
 * prevent stop() from starting during this call, for example by holding the GIL. */
void evtape_preallocator_announce(evtape_preallocator *p);

/* Blocks until ready >= end. It prepares the space itself if the thread is not about to. Call it
 * once after each announce(), without the GIL.
 *
 * Returns 0, an errno (ENOSPC, EFBIG ...), or ECANCELED if stop() was called. EFBIG also means that
 * end > reserved. A failure of the thread ahead of the writer is not reported. This call tries
 * again, so the writer continues once space is available. */
int evtape_preallocator_wait(evtape_preallocator *p, int64_t end);

/* Joins the thread, closes the descriptor and frees the preallocator. NULL is allowed. Each
 * announced wait() ends first, with ECANCELED. The caller must ensure that no further
 * wait() is announced. */
void evtape_preallocator_stop(evtape_preallocator *p);

/* Replaces stop() in a forked child, in which the thread does not exist and locks may
 * never be released. */
void evtape_preallocator_forked(evtape_preallocator *p);

/* Measures the writer's pace: it is out of space (begins == 0), or begins to use what it waited for
 * (begins == 1). */
void evtape_preallocator_mark(evtape_preallocator *p, int begins);

static inline int64_t evtape_preallocator_ready(evtape_preallocator *p) {
    return atomic_load_explicit(&p->ready, memory_order_acquire);
}

/* Records that the writer wants to store up to `end`, asks for more space if it is time to, and
 * returns the limit below which the writer need not call again. If the result is < end, the writer
 * must call wait(). */
static inline int64_t evtape_preallocator_limit(evtape_preallocator *p, int64_t end) {
    int64_t ready = evtape_preallocator_ready(p);
    int64_t kick_at = atomic_load_explicit(&p->kick_at, memory_order_relaxed);
    if (end > atomic_load_explicit(&p->reached, memory_order_relaxed))
        atomic_store_explicit(&p->reached, end, memory_order_relaxed);
    if (end > ready)
        evtape_preallocator_mark(p, 0);
    else if (atomic_load_explicit(&p->waited, memory_order_relaxed))
        evtape_preallocator_mark(p, 1);
    if (end <= kick_at)
        return kick_at < ready ? kick_at : ready;
    evtape_preallocator_wake(p);
    return ready;
}

#endif

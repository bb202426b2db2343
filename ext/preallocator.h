/* preallocator.h - space in a mapped file, made ahead of the writer, so that the writer never
 * faults.
 *
 * Cold stores into a mapping cost a page fault per 4 KiB, and that is most of what a naive mapped
 * writer pays. Here the file is allocated (a full disk is an errno, never a signal), the pages are
 * brought in by the megabyte, and a native thread does it ahead of the writer once the stream is
 * large enough to pay for a thread.
 *
 * How a writer uses it:
 *
 *     ahead = evtape_preallocator_start(fd, base, reserved, size, ready, &header->write_offset);
 *     ...
 *     if (end > limit) {                              // the only test on the hot path
 *         limit = evtape_preallocator_limit(ahead, end);     // no system call when room is there
 *         if (limit < end) {
 *             evtape_preallocator_announce(ahead);
 *             error = evtape_preallocator_wait(ahead, end);  // without the GIL
 *             limit = error ? limit : evtape_preallocator_limit(ahead, end);
 *         }
 *     }
 *     ...
 *     evtape_preallocator_stop(ahead); ftruncate(fd, write_offset);
 */
#ifndef EVTAPE_PREALLOCATOR_H
#define EVTAPE_PREALLOCATOR_H

#include "preallocate.h"

#include <stdatomic.h>

/* Room ahead of one writer. The fields here are for the inline functions below; the rest is in
 * preallocator.c. */
typedef struct evtape_preallocator {
    /* The writer may store below this without a fault. Only grows. */
    _Atomic(int64_t) ready;
    /* A writer beyond this point should ask for more; below it the room ahead is enough. <= ready.
     */
    _Atomic(int64_t) kick_at;
    /* The furthest end that the writer asked for: where it is while a batch is stored but not yet
     * published. */
    _Atomic(int64_t) reached;
} evtape_preallocator;

/* fd, base: the stream and its mapping (file offset 0); reserved: how many bytes are mapped, never
 * gone beyond; first: the file's size when it was opened; ready: how many bytes are allocated (and,
 * better, populated) by now; write_offset: the live WriteOffset in the mapping, read with an atomic
 * load at any time until stop() returns. The descriptor is duplicated. No thread is started before
 * the stream has grown by EVTAPE_THREAD_FROM (preallocator.c) since then. NULL and errno when
 * that fails. */
evtape_preallocator *evtape_preallocator_start(int fd, void *base, int64_t reserved, int64_t first,
                                               int64_t ready, const int64_t *write_offset);

/* Changes how room is populated (default EVTAPE_PAGES_HUGE) and whether write-back of what lies far
 * behind the writer is started early (default 0: it makes the flush at the end shorter and the
 * appends before it slower). */
void evtape_preallocator_mode(evtape_preallocator *ahead, int populate, int write_back);

/* Asks for more room ahead. No system call while the thread is at work. Safe from any thread. */
void evtape_preallocator_wake(evtape_preallocator *ahead);

/* Announces a wait(), so that a stop() from here on does not free what wait() uses. Call it with
 * what keeps stop() from beginning, the GIL for one. */
void evtape_preallocator_announce(evtape_preallocator *ahead);

/* Blocks until ready >= end; makes the room itself when nobody else is about to. Returns 0, an
 * errno (ENOSPC, EFBIG,
 * ...; EFBIG also where end > reserved) or ECANCELED when stop() was called. Call it once after
 * each begin(), without the GIL. A failure that was met ahead of need is not reported; room is
 * tried again here, so that a writer goes on once there is some. */
int evtape_preallocator_wait(evtape_preallocator *ahead, int64_t end);

/* Joins the thread, closes the descriptor, frees. NULL is allowed. Each wait() that was begun ends
 * first, with ECANCELED; the caller must see to it that none begins from here on. */
void evtape_preallocator_stop(evtape_preallocator *ahead);

/* Instead of stop() in a forked child, where the thread does not exist and locks may be held for
 * ever. */
void evtape_preallocator_forked(evtape_preallocator *ahead);

static inline int64_t evtape_preallocator_ready(evtape_preallocator *ahead) {
    return atomic_load_explicit(&ahead->ready, memory_order_acquire);
}

/* For a writer that wants to store up to `end`: notes where it is, asks for more room where that is
 * due, and returns the limit below which it need not call again. A result < end means that it must
 * wait(). */
static inline int64_t evtape_preallocator_limit(evtape_preallocator *ahead, int64_t end) {
    int64_t ready = evtape_preallocator_ready(ahead);
    int64_t kick_at = atomic_load_explicit(&ahead->kick_at, memory_order_relaxed);
    if (end > atomic_load_explicit(&ahead->reached, memory_order_relaxed))
        atomic_store_explicit(&ahead->reached, end, memory_order_relaxed);
    if (end <= kick_at)
        return kick_at < ready ? kick_at : ready;
    evtape_preallocator_wake(ahead);
    return ready;
}

#endif

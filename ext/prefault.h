/* prefault.h - room in a mapped file, made before the writer gets there, so that the writer never
 * faults.
 *
 * Cold stores into a mapping cost a page fault per 4 KiB, and that is most of what a naive mapped
 * writer pays. Here the file is allocated (a full disk is an errno, never a signal), the pages are
 * brought in by the megabyte, and a native thread does it ahead of the writer once the stream is
 * large enough to pay for a thread.
 *
 * How a writer uses it:
 *
 *     ahead = evtape_ahead_start(fd, base, reserved, size, ready, &header->write_offset);
 *     ...
 *     if (end > limit) {                              // the only test on the hot path
 *         limit = evtape_ahead_limit(ahead, end);     // no system call when room is there
 *         if (limit < end) {
 *             evtape_ahead_begin(ahead);
 *             error = evtape_ahead_wait(ahead, end);  // without the GIL
 *             limit = error ? limit : evtape_ahead_limit(ahead, end);
 *         }
 *     }
 *     ...
 *     evtape_ahead_stop(ahead); ftruncate(fd, write_offset);
 *
 * Map at an address that is a multiple of 2 MiB (EVTAPE_ROOM_ALIGNMENT): only then can a large page
 * stand in it.
 */
#ifndef EVTAPE_PREFAULT_H
#define EVTAPE_PREFAULT_H

#include <stdint.h>

/* The size of a large page: where a mapping should begin and what steps are multiples of. */
#define EVTAPE_ROOM_ALIGNMENT ((int64_t)2 << 20)

/* How room is brought into the mapping (the argument `populate`). Large pages make it 4 times
 * cheaper, but one store into a page that was flushed makes the whole of it dirty again: flushing
 * the header alone then writes 2 MiB (450 us here) instead of 4 KiB (150 us). So a stream that is
 * flushed again and again wants small pages. */
enum {
    EVTAPE_ROOM_ALLOCATE = 0, /* allocated only; the first store into each page faults */
    EVTAPE_ROOM_LARGE = 1,    /* populated, in large pages where file system and alignment allow */
    EVTAPE_ROOM_SMALL = 2,    /* populated, in pages of the smallest size */
};

#ifdef _WIN32

#include <errno.h>

typedef struct evtape_ahead {
    int64_t ready;
} evtape_ahead;

static inline int evtape_room_make(int fd, void *base, int64_t from, int64_t to, int populate) {
    (void)fd, (void)base, (void)from, (void)to, (void)populate;
    return ENOTSUP;
}
static inline evtape_ahead *evtape_ahead_start(int fd, void *base, int64_t reserved, int64_t first,
                                               int64_t ready, const int64_t *write_offset) {
    (void)fd, (void)base, (void)reserved, (void)ready, (void)write_offset;
    errno = ENOTSUP;
    return NULL;
}
static inline int64_t evtape_ahead_ready(evtape_ahead *ahead) {
    return ahead->ready;
}
static inline int64_t evtape_ahead_limit(evtape_ahead *ahead, int64_t end) {
    (void)end;
    return ahead->ready;
}
static inline void evtape_ahead_mode(evtape_ahead *ahead, int populate, int write_back) {
    (void)ahead, (void)populate, (void)write_back;
}
static inline void evtape_ahead_kick(evtape_ahead *ahead) {
    (void)ahead;
}
static inline void evtape_ahead_begin(evtape_ahead *ahead) {
    (void)ahead;
}
static inline int evtape_ahead_wait(evtape_ahead *ahead, int64_t end) {
    (void)ahead, (void)end;
    return ENOTSUP;
}
static inline void evtape_ahead_stop(evtape_ahead *ahead) {
    (void)ahead;
}
static inline void evtape_ahead_forked(evtape_ahead *ahead) {
    (void)ahead;
}

#else

#include <stdatomic.h>

/* Allocates the file's bytes [from, to) and makes the file at least `to` long; with populate != 0
 * also brings the pages of [from, to) of the mapping that begins at base (file offset 0) into it,
 * writable. Returns 0 or an errno (ENOSPC, EDQUOT, EFBIG, EIO ...); after a failure the file is as
 * long as it was before. Room that is allocated but could not be populated is no failure: it costs
 * time later, not bytes. Calls for one file must not overlap. Nobody may have stored at or beyond
 * the file's size before: that is where zeros are written when the file system cannot allocate. */
int evtape_room_make(int fd, void *base, int64_t from, int64_t to, int populate);

/* Room ahead of one writer. The fields here are for the inline functions below; the rest is in
 * prefault.c. */
typedef struct evtape_ahead {
    /* The writer may store below this without a fault. Only grows. */
    _Atomic(int64_t) ready;
    /* A writer beyond this point should ask for more; below it the room ahead is enough. <= ready.
     */
    _Atomic(int64_t) kick_at;
    /* The furthest end that the writer asked for: where it is while a batch is stored but not yet
     * published. */
    _Atomic(int64_t) reached;
} evtape_ahead;

/* fd, base: the stream and its mapping (file offset 0); reserved: how many bytes are mapped, never
 * gone beyond; first: the file's size when it was opened; ready: how many bytes are allocated (and,
 * better, populated) by now; write_offset: the live WriteOffset in the mapping, read with an atomic
 * load at any time until stop() returns. The descriptor is duplicated. No thread is started before
 * the stream has grown by EVTAPE_THREAD_FROM (prefault.c) since then. NULL and errno when
 * that fails. */
evtape_ahead *evtape_ahead_start(int fd, void *base, int64_t reserved, int64_t first, int64_t ready,
                                 const int64_t *write_offset);

/* Changes how room is populated (default EVTAPE_ROOM_LARGE) and whether write-back of what lies far
 * behind the writer is started early (default 0: it makes the flush at the end shorter and the
 * appends before it slower). */
void evtape_ahead_mode(evtape_ahead *ahead, int populate, int write_back);

/* Asks for more room ahead. No system call while the thread is at work. Safe from any thread. */
void evtape_ahead_kick(evtape_ahead *ahead);

/* Announces a wait(), so that a stop() from here on does not free what wait() uses. Call it with
 * what keeps stop() from beginning, the GIL for one. */
void evtape_ahead_begin(evtape_ahead *ahead);

/* Blocks until ready >= end; makes the room itself when nobody else is about to. Returns 0, an
 * errno (ENOSPC, EFBIG,
 * ...; EFBIG also where end > reserved) or ECANCELED when stop() was called. Call it once after
 * each begin(), without the GIL. A failure that was met ahead of need is not reported; room is
 * tried again here, so that a writer goes on once there is some. */
int evtape_ahead_wait(evtape_ahead *ahead, int64_t end);

/* Joins the thread, closes the descriptor, frees. NULL is allowed. Each wait() that was begun ends
 * first, with ECANCELED; the caller must see to it that none begins from here on. */
void evtape_ahead_stop(evtape_ahead *ahead);

/* Instead of stop() in a forked child, where the thread does not exist and locks may be held for
 * ever. */
void evtape_ahead_forked(evtape_ahead *ahead);

static inline int64_t evtape_ahead_ready(evtape_ahead *ahead) {
    return atomic_load_explicit(&ahead->ready, memory_order_acquire);
}

/* For a writer that wants to store up to `end`: notes where it is, asks for more room where that is
 * due, and returns the limit below which it need not call again. A result < end means that it must
 * wait(). */
static inline int64_t evtape_ahead_limit(evtape_ahead *ahead, int64_t end) {
    int64_t ready = evtape_ahead_ready(ahead);
    int64_t kick_at = atomic_load_explicit(&ahead->kick_at, memory_order_relaxed);
    if (end > atomic_load_explicit(&ahead->reached, memory_order_relaxed))
        atomic_store_explicit(&ahead->reached, end, memory_order_relaxed);
    if (end <= kick_at)
        return kick_at < ready ? kick_at : ready;
    evtape_ahead_kick(ahead);
    return ready;
}

#endif /* _WIN32 */
#endif

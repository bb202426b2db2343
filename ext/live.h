/* live.h - how a writer wakes followers in other processes.
 *
 * A follower that has read up to WriteOffset sleeps until WriteOffset changes: in the kernel (a
 * futex), on the low half of WriteOffset in the mapping of the stream. A plain store wakes no one,
 * so the follower first says in a page that it shares with the writer that it is about to sleep.
 * The writer looks at this page after it has published. If no follower sleeps, the look is all.
 *
 *     writer                              follower at `offset`
 *     publish: WriteOffset = new          armed = max(armed, offset)
 *     full fence                          full fence
 *     armed >= old?  wake                 WriteOffset == offset?  sleep while it is
 *
 * Because of the fences at least one of the two loads sees the other side's store. The kernel
 * compares WriteOffset again before the follower sleeps. So no wake-up is lost.
 *
 * A segment of a journal ends at an offset at which nothing is ever published. There the writer
 * stores `ended` in the place of WriteOffset, and the follower looks at it as well. The kernel does
 * not compare it: a roll between this look and the sleep does not end the sleep. So a follower of a
 * journal sleeps for 20 ms at most.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_LIVE_H
#define EVTAPE_LIVE_H

#include <stdatomic.h>
#include <stdint.h>

#define EVTAPE_LIVE_SIZE 4096 /* bytes of the shared page */

#if defined(__GNUC__)
#define EVTAPE_COLD __attribute__((cold)) /* seldom called: keep it out of the way of the caller */
#else
#define EVTAPE_COLD
#endif

/* The shared page. Any process that may write to it may store anything. A wrong value costs a
 * needless system call or a sleep to its end, no event. */
typedef struct {
    uint8_t identity[64]; /* of the stream; checked before the page is mapped */
    /* The highest WriteOffset at which a follower sleeps. It has a cache line of its own. */
    _Alignas(64) _Atomic(int64_t) armed;
    /* The WriteOffset after which the events go on in another stream; 0: none. */
    _Alignas(64) _Atomic(int64_t) ended;
} evtape_live;

_Static_assert(sizeof(evtape_live) == 192, "the layout of the page is fixed");

/* Why evtape_live_wait returned. */
enum {
    EVTAPE_PUBLISHED = 0,   /* WriteOffset is not `offset` */
    EVTAPE_TIME_OVER = 1,   /* it still is */
    EVTAPE_INTERRUPTED = 2, /* a signal arrived */
    EVTAPE_ENDED = 3,       /* it still is, and the events after it are in another stream */
};

/* Whether this system has such a sleep. */
int evtape_live_supported(void);

/* Wakes the followers that sleep. base: the mapping of the stream. */
EVTAPE_COLD void evtape_live_wake(uint8_t *base, evtape_live *live);

/* Says that the events after WriteOffset, which is `offset`, are in another stream, and wakes the
 * followers that sleep. */
EVTAPE_COLD void evtape_live_end(uint8_t *base, evtape_live *live, int64_t offset);

/* Waits until WriteOffset is not `offset`: looks at it again and again for spin_ns, then sleeps, for
 * timeout_ns in all. Without a page (NULL) it only looks. */
int evtape_live_wait(const uint8_t *base, evtape_live *live, int64_t offset, int64_t spin_ns,
                     int64_t timeout_ns);

static inline void evtape_full_fence(void) {
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
    /* Cheaper than mfence, which also waits for other kinds of stores. */
    __asm__ volatile("lock addl $0, (%%rsp)" ::: "memory", "cc");
#else
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

/* To be called after each publish. old: WriteOffset before it. */
static inline void evtape_live_ring(uint8_t *base, evtape_live *live, int64_t old) {
    evtape_full_fence();
    if (__builtin_expect(atomic_load_explicit(&live->armed, memory_order_relaxed) >= old, 0))
        evtape_live_wake(base, live);
}

#endif

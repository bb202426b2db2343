/* pace.h - how fast a writer uses space, and how fast space is made.
 *
 * The preallocator measures both and chooses by them what it prepares at once and how far ahead.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_PACE_H
#define EVTAPE_PACE_H

#include "preallocate.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* A piece is what is populated at once, and so what a writer may have to wait for. A huge page is
 * the cheapest: 220 us per 2 MiB. But it takes 2 to 8 ms if the host must first give the guest the
 * memory, and longer if the thread is interrupted. So a piece is a huge page only far ahead of the
 * writer, or for a writer in such a hurry that it must wait in any case (see piece_end in
 * preallocator.c).
 *
 * Any other piece takes about EVTAPE_PIECE_NS, within these bounds. Pieces of 128 KiB take 24 us,
 * 400 us per 2 MiB. Pieces of 64 KiB take 15 us, 480 us per 2 MiB. */
#ifndef EVTAPE_PIECE_NS
#define EVTAPE_PIECE_NS ((int64_t)40000)
#endif
#ifndef EVTAPE_PIECE_MIN
#define EVTAPE_PIECE_MIN ((int64_t)16 << 10)
#endif
#ifndef EVTAPE_PIECE_MAX
#define EVTAPE_PIECE_MAX ((int64_t)128 << 10)
#endif

/* No writer should wait for a huge page that takes longer than this. If memory is that slow, small
 * pieces cost the same per byte. */
#ifndef EVTAPE_HUGE_NS_MAX
#define EVTAPE_HUGE_NS_MAX ((int64_t)1000000)
#endif

/* The assumed time for 2 MiB in small pieces, until it is measured. */
#ifndef EVTAPE_SMALL_NS
#define EVTAPE_SMALL_NS ((int64_t)400000)
#endif

/* Measured times, in nanoseconds per 2 MiB. */
typedef struct {
    int64_t use_ns;    /* the writer's time to use them, without its waits */
    int64_t small_ns;  /* the processor time to populate them in small pieces */
    int64_t best_ns;   /* the shortest time of 64 pieces of 128 KiB */
    int64_t window_ns; /* the same for the `window` pieces after these */
    int window;
    int64_t huge_ns; /* the processor time of a huge page; rises at once and falls slowly */
    int64_t late_ns; /* the longest time of a piece of the thread; falls slowly */
    /* The writer's position and the time when its pace was last measured. */
    int64_t observed;
    _Atomic(int64_t) observed_at;
} evtape_pace;

#define EVTAPE_UNKNOWN_NS ((int64_t)10000000000) /* use_ns of a writer that has used nothing yet */
#define EVTAPE_OBSERVED_MIN ((int64_t)64 << 10)

/* position: of the writer at the time `now`; huge_ns: the last known time of a huge page. */
static inline void evtape_pace_init(evtape_pace *pace, int64_t position, int64_t now,
                                    int64_t huge_ns) {
    pace->use_ns = pace->window_ns = EVTAPE_UNKNOWN_NS;
    pace->small_ns = pace->best_ns = EVTAPE_SMALL_NS;
    pace->huge_ns = huge_ns;
    pace->late_ns = EVTAPE_HUGE_NS_MAX;
    pace->observed = position;
    pace->observed_at = now;
}

/* The writer has come to `position`. A longer time than before counts little, because another
 * process may have run in the writer's place. */
static inline void evtape_pace_of_writer(evtape_pace *pace, int64_t position, int64_t now) {
    int64_t bytes = position - pace->observed;
    if (bytes < EVTAPE_OBSERVED_MIN)
        return;
    int64_t ns = evtape_min64(evtape_max64(now - pace->observed_at, 1), 1000000000);
    /* At least 1: a batch of hundreds of MiB can be stored within the time of one look at the clock,
     * and others divide by this. */
    ns = evtape_max64(evtape_min64(ns * EVTAPE_HUGE_PAGE / bytes, EVTAPE_UNKNOWN_NS), 1);
    pace->use_ns = pace->use_ns == EVTAPE_UNKNOWN_NS ? ns
                   : ns < pace->use_ns ? (pace->use_ns + ns) / 2
                                       : evtape_min64(ns, pace->use_ns + pace->use_ns / 8);
    pace->observed = position;
    pace->observed_at = now;
}

/* A piece took `ns` of processor time, and `elapsed` with its interruptions. */
static inline void evtape_pace_of_piece(evtape_pace *pace, bool by_thread, int64_t bytes,
                                        int64_t ns, int64_t elapsed) {
    if (bytes == EVTAPE_PIECE_MAX) {
        pace->window_ns = evtape_min64(pace->window_ns, elapsed * EVTAPE_HUGE_PAGE / bytes);
        if (++pace->window == 64) {
            pace->best_ns = pace->window_ns;
            pace->window_ns = EVTAPE_UNKNOWN_NS;
            pace->window = 0;
        }
    }
    ns = ns * EVTAPE_HUGE_PAGE / bytes;
    if (bytes == EVTAPE_HUGE_PAGE) {
        pace->huge_ns = evtape_max64(ns, (3 * pace->huge_ns + ns) / 4);
        pace->small_ns = evtape_min64(pace->small_ns, (7 * pace->small_ns + 2 * ns) / 8);
    } else {
        pace->small_ns = (7 * pace->small_ns + ns) / 8;
        pace->huge_ns = evtape_min64(pace->huge_ns, (7 * pace->huge_ns + ns) / 8);
    }
    if (by_thread)
        pace->late_ns = evtape_max64(elapsed, pace->late_ns - pace->late_ns / 128);
}

/* Whether the writer uses space about as fast as small pieces can be made. It then waits in any
 * case, and least in total for the cheapest pieces. On a busy machine the same loop takes twice as
 * long. */
static inline bool evtape_pace_in_a_hurry(const evtape_pace *pace) {
    return pace->use_ns < 2 * pace->best_ns && pace->huge_ns < EVTAPE_HUGE_NS_MAX;
}

/* Whether the writer has a pace of its own, below 600 MB/s, and is not a loop on a busy machine. */
static inline bool evtape_pace_is_steady(const evtape_pace *pace) {
    return pace->use_ns > 8 * pace->best_ns;
}

#endif

/* walk.h - what keeps a walk over entries from waiting for the memory.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_WALK_H
#define EVTAPE_WALK_H

#include "layout.h"

/* Prefetches one line of the cache. The empty assembly keeps the call: gcc takes a function that
 * only prefetches for one without an effect, and removes it. */
static inline void evtape_prefetch_line(const void *at) {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(at);
    __asm__ volatile("");
#else
    (void)at;
#endif
}

/* Where the entry at `at` ends. Most events have the size of the event before, which is `*usual`.
 * With a branch on that, the processor goes on to the next header before it has loaded this size. A
 * walk that adds each loaded size waits for the memory at each event. */
static inline int64_t evtape_entry_end(int64_t at, uint32_t size, uint32_t *usual) {
    uint32_t expected = *usual, guess = expected;
#if defined(__GNUC__) || defined(__clang__)
    __asm__("" : "+r"(guess)); /* else the compiler takes `size` for it */
#endif
    if (size == expected)
        return at + EVTAPE_ENTRY_SIZE + (int64_t)guess;
    *usual = size;
    return at + EVTAPE_ENTRY_SIZE + (int64_t)size;
}

#endif

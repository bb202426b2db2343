/* preallocate.h - allocates and populates space in a mapped file, in one call.
 *
 * The mapping must begin at a multiple of EVTAPE_HUGE_PAGE. Otherwise it cannot have huge pages.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_PREALLOCATE_H
#define EVTAPE_PREALLOCATE_H

#include "paging.h"

#include <stdint.h>

/* How space is populated (the argument `populate`). Huge pages make populating 4 times cheaper. But
 * one store into a flushed huge page makes the whole page dirty again, so a flush of the header
 * alone then writes 2 MiB (450 us) instead of 4 KiB (150 us). So a stream that is flushed often
 * uses small pages. */
enum {
    EVTAPE_PAGES_NONE = 0,  /* allocated only; the first store into each page faults */
    EVTAPE_PAGES_HUGE = 1,  /* populated, in huge pages if file system and alignment allow */
    EVTAPE_PAGES_SMALL = 2, /* populated, in pages of the smallest size */
    EVTAPE_PAGES_MEDIUM =
        3, /* populated, in pages of EVTAPE_MEDIUM_PAGE if the file system allows */
};

/* Allocates the file's bytes [from, to) and makes the file at least `to` long. If populate != 0, it
 * also populates the pages of [from, to), writable, in the mapping that begins at `base` (file
 * offset 0).
 *
 * Returns 0 or an errno (ENOSPC, EDQUOT, EFBIG, EIO ...). After a failure the file has its previous
 * size. A page that the file system refuses is a failure. A kernel that cannot populate pages is
 * not: the later stores fault them in.
 *
 * Calls for one file must not overlap. Nothing may have been stored at or beyond the file's size
 * before, because zeros are written there if the file system cannot allocate. */
int evtape_preallocate(int fd, void *base, int64_t from, int64_t to, int populate);

#ifndef _WIN32

/* ---- shared with preallocator.c ---- */

#include <pthread.h>
#include <stdbool.h>

static inline int64_t evtape_min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static inline int64_t evtape_max64(int64_t a, int64_t b) {
    return a > b ? a : b;
}
static inline int64_t evtape_round_down(int64_t value, int64_t unit) {
    return value - value % unit;
}
static inline int64_t evtape_round_up(int64_t value, int64_t unit) {
    return value > INT64_MAX - unit ? INT64_MAX : evtape_round_down(value + unit - 1, unit);
}

int64_t evtape_page_size(void);
int evtape_truncate(int fd, int64_t size);
int evtape_pages_allocate(int fd, int64_t from, int64_t to, int64_t *size_before);
void evtape_pages_advise(char *base, int64_t from, int64_t to, int populate);
int evtape_pages_populate(int fd, char *base, int64_t from, int64_t to, int64_t size_before,
                          int populate, bool alone);
int64_t evtape_huge_page_ns(void);
int evtape_current_cpu(void);
void evtape_run_elsewhere(int writer_cpu);
bool evtape_start_quietly(pthread_t *thread, void *(*run)(void *), void *argument);

#endif
#endif

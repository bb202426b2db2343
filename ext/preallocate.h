/* preallocate.h - space in a mapped file, allocated and populated in one call.
 *
 * Map at an address that is a multiple of EVTAPE_HUGE_PAGE: only then can a huge page stand in it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_PREALLOCATE_H
#define EVTAPE_PREALLOCATE_H

#include "paging.h"

#include <stdint.h>

/* How room is brought into the mapping (the argument `populate`). Large pages make it 4 times
 * cheaper, but one store into a page that was flushed makes the whole of it dirty again: flushing
 * the header alone then writes 2 MiB (450 us here) instead of 4 KiB (150 us). So a stream that is
 * flushed again and again wants small pages. */
enum {
    EVTAPE_PAGES_NONE = 0,  /* allocated only; the first store into each page faults */
    EVTAPE_PAGES_HUGE = 1,  /* populated, in large pages where file system and alignment allow */
    EVTAPE_PAGES_SMALL = 2, /* populated, in pages of the smallest size */
};

/* Allocates the file's bytes [from, to) and makes the file at least `to` long; with populate != 0
 * also brings the pages of [from, to) of the mapping that begins at base (file offset 0) into it,
 * writable. Returns 0 or an errno (ENOSPC, EDQUOT, EFBIG, EIO ...); after a failure the file is as
 * long as it was before. Room that is allocated but could not be populated is no failure: it costs
 * time later, not bytes. Calls for one file must not overlap. Nobody may have stored at or beyond
 * the file's size before: that is where zeros are written when the file system cannot allocate. */
int evtape_preallocate(int fd, void *base, int64_t from, int64_t to, int populate);

#ifndef _WIN32

/* ---- what preallocator.c shares ---- */

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
                          int populate);
int evtape_current_cpu(void);
void evtape_run_elsewhere(int writer_cpu);
bool evtape_start_quietly(pthread_t *thread, void *(*run)(void *), void *argument);

#endif
#endif

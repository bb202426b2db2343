/* gather.h - reads entries at many places of a stream at once.
 *
 * Each place is a miss of the cache, and a walk from it is a chain of them. So the functions work on
 * several places in turn and prefetch what each needs next.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_GATHER_H
#define EVTAPE_GATHER_H

#include "walk.h"

#include <stdbool.h>
#include <stdint.h>

/* Moves each offset over as many entries as `steps` says. Returns -1, or the number of a place that
 * has no entry below `bound` to move over; its offset is where that is. Every offset must be at
 * least EVTAPE_HEADER_SIZE. */
int64_t evtape_step_all(const uint8_t *base, int64_t bound, int64_t *offsets, int64_t *steps,
                        int64_t count);

/* Reads the headers at the offsets; `timestamps` and `sizes` may be NULL. Returns -1, or the number
 * of the first place without an entry that fits below `bound`. */
int64_t evtape_headers_at(const uint8_t *base, int64_t bound, const int64_t *offsets, int64_t count,
                          int64_t *timestamps, int64_t *sizes);

/* Copies the payloads at the offsets to `into`, payload i up to byte ends[i], and with `verify`
 * compares their checksums. Returns -1, or the number of the first place whose entry has another
 * size or whose payload has another checksum. */
int64_t evtape_gather(const uint8_t *base, int64_t bound, const int64_t *offsets, int64_t count,
                      const int64_t *ends, uint8_t *into, bool verify);

/* Prefetches the header and the first bytes of the payload at an offset. */
static inline void evtape_prefetch_at(const uint8_t *base, int64_t bound, int64_t offset) {
    if (offset < bound) {
        evtape_prefetch_line(base + offset);
        evtape_prefetch_line(base + offset + 64);
        evtape_prefetch_line(base + offset + 128);
    }
}

#endif

/* gather.c - see gather.h.
 *
 * SPDX-License-Identifier: MIT
 */
#include "gather.h"

#include "crc32.h"
#include "layout.h"

#define TOGETHER 16     /* places that are walked in turn */
#define EARLY 6         /* an entry is prefetched this many places early */
#define PREFETCHED 4096 /* bytes of a payload that are prefetched at most */

/* Prefetches a short payload; the processor prefetches a long one itself. */
static void prefetch_payload(const uint8_t *base, int64_t bound, int64_t offset, int64_t size) {
    int64_t end = offset + EVTAPE_ENTRY_SIZE + (size < PREFETCHED ? size : PREFETCHED);
    for (int64_t at = offset + 192; at < end && at < bound; at += 64)
        evtape_prefetch_line(base + at);
}

/* Whether an entry at `offset` fits below `bound`. */
static bool load(const uint8_t *base, int64_t bound, int64_t offset, evtape_entry *entry) {
    if (offset < EVTAPE_HEADER_SIZE || offset > bound - EVTAPE_ENTRY_SIZE)
        return false;
    *entry = evtape_load_entry(base + offset);
    return (int64_t)entry->size <= bound - EVTAPE_ENTRY_SIZE - offset;
}

int64_t evtape_step_all(const uint8_t *base, int64_t bound, int64_t *offsets, int64_t *steps,
                        int64_t count) {
    for (int64_t first = 0; first < count; first += TOGETHER) {
        int64_t end = first + TOGETHER < count ? first + TOGETHER : count;
        for (bool again = true; again;) {
            again = false;
            for (int64_t i = first; i < end; i++) {
                evtape_entry entry;
                if (steps[i] <= 0)
                    continue;
                if (!load(base, bound, offsets[i], &entry))
                    return i;
                offsets[i] += EVTAPE_ENTRY_SIZE + (int64_t)entry.size;
                steps[i]--;
                evtape_prefetch_at(base, bound, offsets[i]);
                again = true;
            }
        }
    }
    return -1;
}

int64_t evtape_headers_at(const uint8_t *base, int64_t bound, const int64_t *offsets, int64_t count,
                          int64_t *timestamps, int64_t *sizes) {
    for (int64_t i = 0; i < count; i++) {
        evtape_entry entry;
        if (i + EARLY < count)
            evtape_prefetch_at(base, bound, offsets[i + EARLY]);
        if (!load(base, bound, offsets[i], &entry))
            return i;
        if (timestamps != NULL)
            timestamps[i] = entry.timestamp;
        if (sizes != NULL)
            sizes[i] = entry.size;
    }
    return -1;
}

int64_t evtape_gather(const uint8_t *base, int64_t bound, const int64_t *offsets, int64_t count,
                      const int64_t *ends, uint8_t *into, bool verify) {
    int64_t at = 0;
    for (int64_t i = 0; i < count; i++) {
        evtape_entry entry;
        if (i + EARLY < count)
            evtape_prefetch_at(base, bound, offsets[i + EARLY]);
        if (i + 2 < count)
            prefetch_payload(base, bound, offsets[i + 2], ends[i + 2] - ends[i + 1]);
        if (!load(base, bound, offsets[i], &entry) || (int64_t)entry.size != ends[i] - at)
            return i;
        const uint8_t *payload = base + offsets[i] + EVTAPE_ENTRY_SIZE;
        if (!verify)
            memcpy(into + at, payload, entry.size);
        else if (evtape_copy_crc32(into + at, payload, entry.size) != entry.checksum)
            return i;
        at = ends[i];
    }
    return -1;
}

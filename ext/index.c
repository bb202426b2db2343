/* index.c - see index.h.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pwrite */
#endif

#include "index.h"

#include "crc32.h"
#include "layout.h"
#include "walk.h"

#include <errno.h>
#ifndef _WIN32
#include <unistd.h>
#endif

enum { EQUAL_SIZES = 1, UNSORTED = 2 }; /* flags of a record */

#define EARLY 8 /* a header is prefetched this many events early */
#define CHECKSUM_AT (EVTAPE_INDEX_RECORD - 4)
#define STEP_BLOCKS 64 /* of one step: a close waits for it, and the space of the writer */

static void put64(uint8_t *at, int64_t value) {
    uint64_t word = EVTAPE_LE64(value);
    memcpy(at, &word, 8);
}

static void put32(uint8_t *at, uint32_t value) {
    uint32_t word = EVTAPE_LE32(value);
    memcpy(at, &word, 4);
}

/* The checksum also covers the stream and the place in its index, so a record is valid in no other
 * place. */
static uint32_t checksum_of(const uint8_t *record, int64_t start_timestamp, int64_t block) {
    uint8_t place[16];
    put64(place, start_timestamp);
    put64(place + 8, block);
    return evtape_crc32(evtape_crc32(0, place, sizeof place), record, CHECKSUM_AT);
}

bool evtape_index_block(const uint8_t *base, int64_t bound, bool partial, evtape_index_place *place,
                        uint8_t *record) {
    uint8_t headers[EVTAPE_INDEX_EVENTS * EVTAPE_ENTRY_SIZE];
    int64_t at = place->offset, last = place->last, lowest = INT64_MAX, highest = INT64_MIN;
    bool unsorted = place->unsorted;
    uint32_t size = 0, usual = 0, differs = 0;
    int events = 0;
    if (place->stopped)
        return false;
    for (; events < EVTAPE_INDEX_EVENTS && at < bound; events++) {
        if (bound - at < EVTAPE_ENTRY_SIZE)
            break;
        evtape_entry entry = evtape_load_entry(base + at);
        bool zero = entry.timestamp == 0 && entry.size == 0 && entry.checksum == 0;
        if ((int64_t)entry.size > bound - at - EVTAPE_ENTRY_SIZE || zero)
            break;
        memcpy(headers + events * EVTAPE_ENTRY_SIZE, base + at, EVTAPE_ENTRY_SIZE);
        if (events == 0)
            size = entry.size;
        differs |= entry.size ^ size;
        unsorted |= entry.timestamp < last;
        last = entry.timestamp;
        lowest = last < lowest ? last : lowest;
        highest = last > highest ? last : highest;
        at = evtape_entry_end(at, entry.size, &usual);
        /* A header says where the next one is, so the processor waits for each. Events are often of
         * one size. */
        evtape_prefetch_line(base + at + EARLY * (EVTAPE_ENTRY_SIZE + (int64_t)entry.size));
    }
    if (events < EVTAPE_INDEX_EVENTS) {
        place->stopped = at < bound;
        if (place->stopped || !partial || events == 0)
            return false;
    }
    int64_t running = highest > place->running ? highest : place->running;
    put64(record, place->offset);
    put64(record + 8, lowest);
    put64(record + 16, highest);
    put64(record + 24, running);
    put32(record + 32, evtape_crc32(0, headers, (size_t)events * EVTAPE_ENTRY_SIZE));
    put32(record + 36, differs ? 0 : size);
    put32(record + 40,
          (uint32_t)events | (differs ? 0u : EQUAL_SIZES << 16) | (unsorted ? UNSORTED << 16 : 0u));
    put32(record + CHECKSUM_AT, checksum_of(record, place->start_timestamp, place->block));
    place->offset = at;
    place->block++;
    place->last = last;
    place->running = running;
    place->unsorted = unsorted;
    return true;
}

int64_t evtape_index_check(const uint8_t *records, int64_t count, int64_t start_timestamp,
                           int64_t block) {
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *record = records + i * EVTAPE_INDEX_RECORD;
        uint32_t stored;
        memcpy(&stored, record + CHECKSUM_AT, 4);
        if (EVTAPE_LE32(stored) != checksum_of(record, start_timestamp, block + i))
            return i;
    }
    return count;
}

void evtape_indexer_store(evtape_indexer *indexer) {
#ifndef _WIN32
    int64_t done = 0;
    while (indexer->error == 0 && done < indexer->filled) {
        ssize_t count = pwrite(indexer->fd, indexer->buffer + done,
                               (size_t)(indexer->filled - done), (off_t)(indexer->position + done));
        if (count > 0)
            done += count;
        else if (count == 0 || errno != EINTR)
            indexer->error = count == 0 ? EIO : errno;
    }
    indexer->position += done;
#endif
    indexer->filled = 0;
}

bool evtape_indexer_step(void *argument, const uint8_t *base, int64_t bound, int64_t least) {
    evtape_indexer *indexer = argument;
    int made = 0;
    if (bound - indexer->place.offset < least)
        return false;
    while (indexer->error == 0 && made < STEP_BLOCKS) {
        if (indexer->filled == (int64_t)sizeof indexer->buffer)
            evtape_indexer_store(indexer);
        if (!evtape_index_block(base, bound, false, &indexer->place,
                                indexer->buffer + indexer->filled))
            break;
        indexer->filled += EVTAPE_INDEX_RECORD;
        made++;
    }
    if (evtape_guard_faults(indexer->slot) != 0) { /* what was read may be zeros */
        indexer->error = EFAULT;
        indexer->filled = 0;
    }
    if (indexer->error == 0 && made == STEP_BLOCKS)
        return true;
    if (indexer->filled > 0)
        evtape_indexer_store(indexer);
    return false;
}

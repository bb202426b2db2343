/* entry.c - see entry.h.
 *
 * SPDX-License-Identifier: MIT
 */
#include "entry.h"

static void copy_split_at_pages(uint8_t *to, const uint8_t *from, size_t n) {
    while (n > 0) {
        size_t piece = EVTAPE_SMALLEST_PAGE - (uintptr_t)to % EVTAPE_SMALLEST_PAGE;
        if (piece > n)
            piece = n;
        memcpy(to, from, piece);
        to += piece, from += piece, n -= piece;
    }
}

/* The CRC is computed from the copy, because another thread may change the source. */
void evtape_write_entry_split(uint8_t *at, int64_t timestamp, const void *data, uint32_t size) {
    uint8_t *copy = at + EVTAPE_ENTRY_SIZE;
    uint8_t header[EVTAPE_ENTRY_SIZE];
    copy_split_at_pages(copy, data, size);
    evtape_store_entry(header, timestamp, size, evtape_crc32(0, copy, size));
    copy_split_at_pages(at, header, EVTAPE_ENTRY_SIZE);
}

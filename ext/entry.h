/* Writing one entry: header, payload and CRC-32, straight into the mapping.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_ENTRY_H
#define EVTAPE_ENTRY_H

#include "crc32.h"
#include "layout.h"

/* The same bytes, stored so that no single store crosses the end of a page. */
void evtape_write_entry_by_page(uint8_t *at, int64_t timestamp, const void *data, uint32_t size);

/* Nobody sees the entry before it is published. by_page: see `Region` in _core.pyx. */
static inline void evtape_write_entry(uint8_t *at, int64_t timestamp, const void *data,
                                      uint32_t size, int by_page) {
    if (by_page)
        evtape_write_entry_by_page(at, timestamp, data, size);
    else
        evtape_store_entry(at, timestamp, size,
                           evtape_copy_crc32(at + EVTAPE_ENTRY_SIZE, data, size));
}

#endif

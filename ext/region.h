/* region.h - the operations on a mapped region: map, unmap, drop, prefetch, flush.
 *
 * A function that can fail returns 0 or an errno.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_REGION_H
#define EVTAPE_REGION_H

#include <errno.h>
#include <stdint.h>

#ifdef _WIN32
/* A view on Windows cannot extend past the end of the file. So nothing is reserved, and a region
 * grows by a new view. */
#define EVTAPE_RESERVE 0
#define EVTAPE_RESERVE_LESS 0
#define EVTAPE_MAPPED_UNIT 1
#else
/* Address space that is mapped beyond the end of a file that is written, so that the file can be
 * extended under the mapping. It takes no memory, but a process has only 47 bits of address space.
 * So a file that is only read reserves nothing before it has grown. All reserves together have a
 * bound, EVTAPE_RESERVES; beyond it a mapping reserves EVTAPE_RESERVE_LESS. */
#ifndef EVTAPE_RESERVE
#define EVTAPE_RESERVE ((int64_t)64 << 30)
#endif
#define EVTAPE_RESERVE_LESS                                                                        \
    (EVTAPE_RESERVE < ((int64_t)1 << 30) ? EVTAPE_RESERVE : (int64_t)1 << 30)
#define EVTAPE_RESERVES ((int64_t)32 << 40)

/* No supported machine has smaller pages. */
#define EVTAPE_MAPPED_UNIT 4096
#endif

/* Adds `length` to the reserves of all mappings. Returns 0 if the sum
 * would exceed EVTAPE_RESERVES. */
int evtape_reserve_take(int64_t length);
void evtape_reserve_give(int64_t length);

/* Maps the first `length` bytes of the file. The address is a multiple of the huge page, unless the
 * mapping is smaller than one. */
int evtape_map(int fd, int64_t length, int writable, uint8_t **base);
void evtape_unmap(uint8_t *base, int64_t length);

/* Drops the whole pages within [start, stop) from the page table. Nothing is lost: the mapping is
 * shared, so the pages stay in the page cache, from which the kernel can evict them. */
void evtape_drop_pages(uint8_t *base, int64_t start, int64_t stop);

/* Prefetches the pages of [start, stop) into the page table. A kernel that cannot do this faults
 * each page in later. */
void evtape_prefetch_pages(uint8_t *base, int64_t start, int64_t stop);

/* Populates new memory with pages, all at once. This only saves time. */
void evtape_populate_pages(uint8_t *memory, int64_t bytes);

/* Makes the whole pages that contain [start, stop) durable. */
int evtape_flush(int fd, uint8_t *base, int64_t start, int64_t stop);

/* Returns 0 if the file is known to end before `end`. */
int evtape_reaches(int fd, int64_t end);

#endif

/* region.h - what the operating system does for a mapped region: map, unmap, drop, prefetch, flush.
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
/* A view cannot reach past the end of the file here, so nothing is reserved and a region grows by a
 * new view. */
#define EVTAPE_RESERVE 0
#define EVTAPE_RESERVE_LESS 0
#define EVTAPE_MAPPED_UNIT 1
#else
/* Address space mapped beyond the end of a file that is written, so that the file can be extended
 * under the mapping. It costs no memory, but 47 bits of address space are all there is: a file that
 * is only read reserves nothing before it has grown, and all reserves together have a bound, after
 * which less is reserved. */
#ifndef EVTAPE_RESERVE
#define EVTAPE_RESERVE ((int64_t)64 << 30)
#endif
#define EVTAPE_RESERVE_LESS                                                                        \
    (EVTAPE_RESERVE < ((int64_t)1 << 30) ? EVTAPE_RESERVE : (int64_t)1 << 30)
#define EVTAPE_RESERVES ((int64_t)32 << 40)

/* No machine that this runs on has smaller pages. */
#define EVTAPE_MAPPED_UNIT 4096
#endif

/* Counts `length` bytes of mappings of files that are written; 0 if that would be too many. */
int evtape_reserve_take(int64_t length);
void evtape_reserve_give(int64_t length);

/* Maps the first `length` bytes of the file, at a multiple of the huge page unless it is smaller.
 */
int evtape_map(int fd, int64_t length, int writable, uint8_t **base);
void evtape_unmap(uint8_t *base, int64_t length);

/* Takes the whole pages within [start, stop) out of the page table. The mapping is shared and of a
 * file, so nothing is lost: the pages stay in the page cache, where the kernel can drop them. */
void evtape_drop_pages(uint8_t *base, int64_t start, int64_t stop);

/* Brings [start, stop) into the page table before it is read. A kernel that cannot do it leaves it
 * to the page faults. */
void evtape_prefetch_pages(uint8_t *base, int64_t start, int64_t stop);

/* Makes [start, stop) durable, whole pages of it. */
int evtape_flush(int fd, uint8_t *base, int64_t start, int64_t stop);

#endif

/* paging.h - the sizes of pages. Mappings are aligned to a huge page, and files are extended in
 * multiples of it. A flush writes a page as a whole, so a stream that is flushed has smaller ones.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_PAGING_H
#define EVTAPE_PAGING_H

#include <stdint.h>

#define EVTAPE_HUGE_PAGE ((int64_t)2 << 20)
#define EVTAPE_MEDIUM_PAGE ((int64_t)64 << 10)

#endif

/* paging.h - the size of a huge page. Mappings are aligned to it, and files are extended in
 * multiples of it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_PAGING_H
#define EVTAPE_PAGING_H

#include <stdint.h>

#define EVTAPE_HUGE_PAGE ((int64_t)2 << 20)

#endif

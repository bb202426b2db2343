/* A mapping of a file that several owners share, also owners that know nothing of Python: the arrays
 * that a consumer of Arrow holds are released from any thread, without the GIL.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_MAPPING_H
#define EVTAPE_MAPPING_H

#include "fault_guard.h"

#include <stdatomic.h>
#include <stdint.h>

typedef struct {
    /* Owners. The last one unmaps. */
    _Atomic(int64_t) references;
    /* The mapping is [base, base + length); NULL until it is made. */
    uint8_t *base;
    int64_t length;
    /* Its part of the address space that all mappings share; see region.h. */
    int64_t reserved;
    /* Its faults; NULL until it is guarded. */
    evtape_guard_slot *slot;
    /* For memory that is borrowed: ends the loan, in the place of unmapping. Pages of such memory
     * are never dropped, because they may be lost then. */
    void (*drop)(void *owner);
    void *owner;
} evtape_mapping;

/* Returns an empty mapping with one owner, or NULL: out of memory. */
evtape_mapping *evtape_mapping_new(void);

/* Adds an owner. */
evtape_mapping *evtape_mapping_retain(evtape_mapping *mapping);

/* Ends one ownership. NULL is allowed. */
void evtape_mapping_release(evtape_mapping *mapping);

#endif

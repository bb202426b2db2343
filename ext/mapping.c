/* mapping.c - see mapping.h.
 *
 * SPDX-License-Identifier: MIT
 */
#include "mapping.h"

#include "region.h"

#include <stdlib.h>

evtape_mapping *evtape_mapping_new(void) {
    evtape_mapping *mapping = calloc(1, sizeof *mapping);
    if (mapping != NULL)
        atomic_store(&mapping->references, 1);
    return mapping;
}

evtape_mapping *evtape_mapping_retain(evtape_mapping *mapping) {
    atomic_fetch_add_explicit(&mapping->references, 1, memory_order_relaxed);
    return mapping;
}

void evtape_mapping_release(evtape_mapping *mapping) {
    if (mapping == NULL ||
        atomic_fetch_sub_explicit(&mapping->references, 1, memory_order_acq_rel) != 1)
        return;
    evtape_guard_remove(mapping->slot);
    if (mapping->drop != NULL)
        mapping->drop(mapping->owner);
    else if (mapping->base != NULL)
        evtape_unmap(mapping->base, mapping->length);
    evtape_reserve_give(mapping->reserved);
    free(mapping);
}

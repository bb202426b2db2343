/* index.h - the records of the index file, made from the headers of the entries.
 *
 * A record describes one block: up to 64 events that follow each other. docs/format.md, "The index
 * file", has its layout. A record is a function of the entries up to the end of its block. So the
 * same stream always gives the same records, and a comparison of records compares the headers.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_INDEX_H
#define EVTAPE_INDEX_H

#include "fault_guard.h"

#include <stdbool.h>
#include <stdint.h>

#define EVTAPE_INDEX_EVENTS 64 /* events of a block; the last one of a closed stream has fewer */
#define EVTAPE_INDEX_RECORD 48 /* bytes of a record */

/* Where the next block begins, and what a record needs to know of the events before it. */
typedef struct {
    int64_t start_timestamp; /* of the stream; part of the checksum of each record */
    int64_t offset;
    int64_t block;
    int64_t last;    /* the timestamp of the event before; INT64_MIN without one */
    int64_t running; /* the highest timestamp before; INT64_MIN without one */
    bool unsorted;   /* whether the timestamps go backwards somewhere before */
    /* Whether the walk met an entry that does not fit below the bound, or sixteen zero bytes. An
     * index ends there. */
    bool stopped;
} evtape_index_place;

/* Makes the record of the next block and moves the place past it. Returns whether it did: the block
 * must be complete below `bound`, except that with `partial` one event is enough. Reads nothing
 * outside [place->offset, bound), which the caller has checked against the mapping. */
bool evtape_index_block(const uint8_t *base, int64_t bound, bool partial, evtape_index_place *place,
                        uint8_t *record);

/* Returns how many of the `count` records from block `block` on have the right checksum, up to the
 * first that has not. */
int64_t evtape_index_check(const uint8_t *records, int64_t count, int64_t start_timestamp,
                           int64_t block);

/* Makes records and appends them to a file, a piece at a time, for a thread that runs after the
 * writer. One thread at a time uses it. */
typedef struct {
    evtape_index_place place;
    int fd;                        /* of the index file; -1: none */
    int64_t position;              /* where in the file the records of the buffer belong */
    int64_t filled;                /* bytes in the buffer */
    int error;                     /* errno of the write that failed; no record is made after it */
    const evtape_guard_slot *slot; /* of the mapping that is read */
    uint8_t buffer[EVTAPE_INDEX_RECORD * 128];
} evtape_indexer;

/* Makes the records of a few thousand events below `bound`, if at least `least` bytes of the stream
 * have none yet. Returns whether there may be more. If there are no more, the buffer is written to
 * the file. */
bool evtape_indexer_step(void *indexer, const uint8_t *base, int64_t bound, int64_t least);

/* Writes the buffer to the file. */
void evtape_indexer_store(evtape_indexer *indexer);

#endif

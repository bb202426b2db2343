/* A stream of events as a stream of Arrow record batches: the Arrow C data and C stream interfaces.
 *
 * The batches are made as the consumer asks for them, from any thread and without the GIL. Payloads
 * are views of the mapping, which stays mapped until the last array that refers to it is released.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_ARROW_H
#define EVTAPE_ARROW_H

#include "arrow_columns.h"
#include "mapping.h"

#include <stdint.h>

/* ---- the ABI, as the Arrow project fixes it ---- */

#define ARROW_FLAG_NULLABLE 2

struct ArrowSchema {
    const char *format;
    const char *name;
    const char *metadata;
    int64_t flags;
    int64_t n_children;
    struct ArrowSchema **children;
    struct ArrowSchema *dictionary;
    void (*release)(struct ArrowSchema *);
    void *private_data;
};

struct ArrowArray {
    int64_t length;
    int64_t null_count;
    int64_t offset;
    int64_t n_buffers;
    int64_t n_children;
    const void **buffers;
    struct ArrowArray **children;
    struct ArrowArray *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};

struct ArrowArrayStream {
    int (*get_schema)(struct ArrowArrayStream *, struct ArrowSchema *out);
    int (*get_next)(struct ArrowArrayStream *, struct ArrowArray *out);
    const char *(*get_last_error)(struct ArrowArrayStream *);
    void (*release)(struct ArrowArrayStream *);
    void *private_data;
};

/* ---- events ---- */

/* Why a batch cannot be made. The order is that of ARROW_REASONS in core/format.py. */
enum {
    EVTAPE_BATCH_OK,
    EVTAPE_BATCH_SIZE,     /* an entry does not fit below the bound */
    EVTAPE_BATCH_CHECKSUM, /* a payload does not match its checksum */
    EVTAPE_BATCH_ZERO,     /* sixteen zero bytes, which may be an event */
    EVTAPE_BATCH_FAULT,    /* the file could not be read */
    EVTAPE_BATCH_CHANGED,  /* the event before is not the one that was read */
    EVTAPE_BATCH_LENGTH,   /* a payload does not have the plan's size */
    EVTAPE_BATCH_LONG,     /* a payload is too long for a view */
    EVTAPE_BATCH_VALUE,    /* a value cannot be one of its column's type */
    EVTAPE_BATCH_MEMORY
};

/* Says in words why a batch cannot be made; the text is freed by the caller. NULL: accept the
 * sixteen zero bytes, or out of memory. `column` is -1, or that of the value. */
typedef char *(*evtape_batch_report)(void *owner, int64_t ordinal, int64_t offset, int reason,
                                     int column);

/* The events of a stream, and where in them the consumer is. Everything that is pointed to belongs
 * to this struct. */
typedef struct {
    evtape_mapping *mapping;
    evtape_plan *plan;
    int64_t offset, ordinal; /* of the next event */
    int64_t bound;           /* no entry reaches beyond */
    int64_t stop;            /* the ordinal to stop before; with `offsets` their number */
    /* NULL: every event from `offset` on. Else the events there, in this order, and their
     * ordinals. `ordinal` is then the number of the next one. */
    int64_t *offsets, *ordinals;
    int64_t batch_events;
    /* Where each batch begins, as the index has it, or NULL. A batch that begins elsewhere is no
     * error: `starts` are not used then. */
    int64_t *starts;
    struct evtape_ahead *ahead; /* makes batches in a thread, or NULL */
    int quiet; /* whether failures are not reported, because a batch is made again */
    int verify_checksums;
    int nulls; /* whether a payload or a value that does not fit is null, and no error */
    evtape_batch_report report;
    void *owner; /* what `report` needs */
    void (*drop)(void *owner);

    /* The event that was read last. Its header has to be there still when others were read. */
    int64_t last_offset;
    uint8_t last_header[16];
    uint32_t usual_size;         /* of the payloads: that of the last one */
    int64_t prefetched, dropped; /* pages up to here */
    int error;                   /* errno of the failure that ended the stream, or 0 */
    char *error_text;
} evtape_batches;

/* Ends what the batches own, and frees them. NULL is allowed. */
void evtape_batches_free(evtape_batches *batches);

/* Makes a batch of the next `rows` events. Returns 0, or the errno of the failure, and `out` is not to
 * be released. */
int evtape_make_batch(evtape_batches *batches, int64_t rows, struct ArrowArray *out);

/* Returns a stream that owns `batches`; NULL: out of memory, and `batches` is still the caller's. */
struct ArrowArrayStream *evtape_arrow_stream(evtape_batches *batches);

/* Returns the schema of the plan, or NULL: out of memory. */
struct ArrowSchema *evtape_arrow_schema(const evtape_plan *plan);

/* Release what a capsule holds, if its consumer has not, and free it. */
void evtape_arrow_stream_free(struct ArrowArrayStream *stream);
void evtape_arrow_schema_free(struct ArrowSchema *schema);

#endif

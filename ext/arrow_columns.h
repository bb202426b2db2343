/* The columns of an Arrow table of events: what they are, and how they are filled from entries.
 *
 * A plan lists the columns in depth-first order, each before its children, as Python decided them.
 * A batch is filled a block of events at a time and a column at a time within a block. So a loop
 * over events knows its column, and the bytes of a block are still in the processor's cache when
 * the next column needs them.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_ARROW_COLUMNS_H
#define EVTAPE_ARROW_COLUMNS_H

#include <stdint.h>

/* The source of a column. The order is that of `Kind` in core/columns.py. */
enum {
    EVTAPE_ORDINAL,   /* int64 */
    EVTAPE_TIME,      /* int64 */
    EVTAPE_PAYLOAD,   /* views of whole payloads */
    EVTAPE_FIXED,     /* `width` bytes */
    EVTAPE_BOOL,      /* a byte -> a bit */
    EVTAPE_TEXT,      /* `width` bytes of UTF-8, padded with zeros -> a view */
    EVTAPE_WIDE_TEXT, /* `width` bytes of UTF-32, padded with zeros -> a view of a copy */
    EVTAPE_DATE,      /* int64 days -> int32 days */
    EVTAPE_NESTED     /* a struct or a fixed-size list: its children have the values */
};

typedef struct {
    char *name, *format; /* as in ArrowSchema */
    int64_t flags;       /* as in ArrowSchema */
    int kind;
    int children;       /* direct ones, which follow */
    int32_t width;      /* bytes of one element in the payload */
    int32_t swap;       /* bytes of a number in it that are in the other order, or 0 */
    int check;          /* EVTAPE_PAYLOAD: is UTF-8; EVTAPE_FIXED: the lowest int64 is null */
    int64_t count;      /* elements of one event */
    int64_t *positions; /* where they are in the payload, shape (count,) */
} evtape_column;

typedef struct {
    int columns;
    int64_t size; /* bytes that each payload must have, or -1 */
    int payloads; /* whether any column is made from payloads */
    int views;    /* whether any column has views of the mapping */
    evtape_column column[];
} evtape_plan;

/* Returns a copy of the text, to be freed, or NULL: out of memory. */
char *evtape_copy_text(const char *text);

/* Returns a plan with room for `columns` columns, all zero, or NULL: out of memory. */
evtape_plan *evtape_plan_new(int columns, int64_t size);
void evtape_plan_free(evtape_plan *plan);

/* Copies the texts and positions into column i. Returns 0 or ENOMEM. */
int evtape_plan_set(evtape_plan *plan, int i, const char *name, const char *format,
                    const evtape_column *rest);

#define EVTAPE_BLOCK 256

/* Events that are filled in together. */
typedef struct {
    int events;
    int misfits;          /* how many have no data */
    int64_t row;          /* of the first one in its batch */
    const uint8_t *start; /* where the views of the mapping count from */
    int64_t ordinal[EVTAPE_BLOCK];
    int64_t time[EVTAPE_BLOCK];
    const uint8_t *data[EVTAPE_BLOCK]; /* NULL: the payload does not fit, all its values are null */
    uint32_t size[EVTAPE_BLOCK];
} evtape_block;

/* A column that is being filled. */
typedef struct {
    const evtape_column *column;
    int64_t capacity; /* elements */
    int64_t nulls;
    uint8_t *validity; /* NULL until there is a null */
    uint8_t *values;
    uint8_t *heap; /* what the views of EVTAPE_WIDE_TEXT refer to */
    int64_t heap_used, heap_capacity;
} evtape_builder;

/* Prepares for `rows` events. Returns 0 or ENOMEM; evtape_builder_free is due either way. */
int evtape_builder_init(evtape_builder *builder, const evtape_column *column, int64_t rows);
void evtape_builder_free(evtape_builder *builder);

#define EVTAPE_FILLED (-1)
#define EVTAPE_NO_MEMORY (-2)

/* Fills in a block. Returns EVTAPE_FILLED, EVTAPE_NO_MEMORY, or the number in the block of an event
 * with a value that does not fit. With `nulls` such a value is null. */
int evtape_fill(evtape_builder *builder, const evtape_block *block, int nulls);

#endif

/* arrow.c - see arrow.h.
 *
 * SPDX-License-Identifier: MIT
 */
#include "arrow.h"

#include "arrow_ahead.h"
#include "crc32.h"
#include "layout.h"
#include "region.h"
#include "walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PREFETCH_PAGES ((int64_t)2 << 20) /* bytes that are prefetched at once */
#define KEEP_BEHIND ((int64_t)32 << 20)   /* bytes after which left pages are dropped */
#define EARLY 64

/* ---- the schema ---- */

static void release_schema(struct ArrowSchema *schema) {
    for (int64_t i = 0; i < schema->n_children; i++) {
        struct ArrowSchema *child = schema->children[i];
        if (child != NULL && child->release != NULL)
            child->release(child);
        free(child);
    }
    free(schema->children);
    free((char *)schema->format);
    free((char *)schema->name);
    schema->release = NULL;
}

/* Begins a schema with room for its children. Returns 0 or ENOMEM; release it either way. */
static int begin_schema(struct ArrowSchema *out, const char *format, const char *name,
                        int64_t flags, int children) {
    memset(out, 0, sizeof *out);
    out->release = release_schema;
    out->flags = flags;
    out->format = evtape_copy_text(format);
    out->name = evtape_copy_text(name);
    out->children = calloc((size_t)children + 1, sizeof *out->children);
    if (out->format == NULL || out->name == NULL || out->children == NULL)
        return ENOMEM;
    for (; out->n_children < children; out->n_children++) {
        struct ArrowSchema *child = calloc(1, sizeof *child);
        if (child == NULL)
            return ENOMEM;
        out->children[out->n_children] = child;
    }
    return 0;
}

/* Makes the schema of column *next and moves *next past it and its children. */
static int column_schema(const evtape_plan *plan, int *next, struct ArrowSchema *out) {
    const evtape_column *column = &plan->column[(*next)++];
    if (begin_schema(out, column->format, column->name, column->flags, column->children) != 0)
        return ENOMEM;
    for (int i = 0; i < column->children; i++)
        if (column_schema(plan, next, out->children[i]) != 0)
            return ENOMEM;
    return 0;
}

/* How many columns are no children. */
static int top_columns(const evtape_plan *plan) {
    int top = plan->columns;
    for (int i = 0; i < plan->columns; i++)
        top -= plan->column[i].children;
    return top;
}

static int table_schema(const evtape_plan *plan, struct ArrowSchema *out) {
    int next = 0, top = top_columns(plan);
    int error = begin_schema(out, "+s", "", 0, top);
    for (int i = 0; error == 0 && i < top; i++)
        error = column_schema(plan, &next, out->children[i]);
    if (error != 0)
        release_schema(out);
    return error;
}

struct ArrowSchema *evtape_arrow_schema(const evtape_plan *plan) {
    struct ArrowSchema *schema = malloc(sizeof *schema);
    if (schema != NULL && table_schema(plan, schema) != 0) {
        free(schema);
        return NULL;
    }
    return schema;
}

void evtape_arrow_schema_free(struct ArrowSchema *schema) {
    if (schema->release != NULL)
        schema->release(schema);
    free(schema);
}

/* ---- arrays ---- */

/* What an array owns. Each child has its own, because a consumer may keep one and release the rest. */
typedef struct {
    evtape_mapping *mapping; /* that `buffers` point into, or NULL */
    evtape_builder builder;
    int64_t data_size;
    const void *buffers[4];
} array_data;

static void release_array(struct ArrowArray *array) {
    array_data *data = array->private_data;
    for (int64_t i = 0; i < array->n_children; i++) {
        struct ArrowArray *child = array->children[i];
        if (child != NULL && child->release != NULL)
            child->release(child);
        free(child);
    }
    free(array->children);
    if (data != NULL) {
        evtape_mapping_release(data->mapping);
        evtape_builder_free(&data->builder);
    }
    free(data);
    array->release = NULL;
}

static int begin_array(struct ArrowArray *out, int64_t length, int children) {
    array_data *data = calloc(1, sizeof *data);
    memset(out, 0, sizeof *out);
    out->release = release_array;
    out->private_data = data;
    out->length = length;
    out->children = calloc((size_t)children + 1, sizeof *out->children);
    if (data == NULL || out->children == NULL)
        return ENOMEM;
    out->buffers = data->buffers;
    out->n_buffers = 1;
    for (; out->n_children < children; out->n_children++) {
        struct ArrowArray *child = calloc(1, sizeof *child);
        if (child == NULL)
            return ENOMEM;
        out->children[out->n_children] = child;
    }
    return 0;
}

/* A batch while it is filled. */
typedef struct {
    evtape_batches *of;
    evtape_builder *builders; /* one for each column of the plan */
    int64_t rows;             /* filled */
    int64_t low, high;        /* the bytes of the mapping that views may refer to */
} batch;

/* Gives the array the buffers of its builder. */
static void take_buffers(struct ArrowArray *out, evtape_builder *builder, const batch *batch) {
    array_data *data = out->private_data;
    int kind = builder->column->kind;
    data->builder = *builder;
    memset(builder, 0, sizeof *builder);
    out->null_count = data->builder.nulls;
    data->buffers[0] = data->builder.validity;
    if (kind == EVTAPE_NESTED)
        return;
    data->buffers[1] = data->builder.values;
    out->n_buffers = 2;
    if (kind != EVTAPE_PAYLOAD && kind != EVTAPE_TEXT && kind != EVTAPE_WIDE_TEXT)
        return;
    if (kind == EVTAPE_WIDE_TEXT) {
        data->buffers[2] = data->builder.heap == NULL ? (uint8_t *)"" : data->builder.heap;
        data->data_size = data->builder.heap_used;
    } else {
        data->mapping = evtape_mapping_retain(batch->of->mapping);
        data->buffers[2] = data->mapping->base + batch->low;
        data->data_size = batch->high - batch->low;
    }
    data->buffers[3] = &data->data_size;
    out->n_buffers = 4;
}

static int column_array(const batch *batch, int *next, int64_t length, struct ArrowArray *out) {
    evtape_builder *builder = &batch->builders[(*next)++];
    const evtape_column *column = builder->column;
    if (begin_array(out, length, column->children) != 0)
        return ENOMEM;
    take_buffers(out, builder, batch);
    for (int i = 0; i < column->children; i++) {
        /* A list has `width` elements, of which its only child is made. */
        int64_t times = column->width > 0 ? column->width : 1;
        if (column_array(batch, next, length * times, out->children[i]) != 0)
            return ENOMEM;
    }
    return 0;
}

static int table_array(const batch *batch, struct ArrowArray *out) {
    int next = 0, top = top_columns(batch->of->plan);
    int error = begin_array(out, batch->rows, top);
    for (int i = 0; error == 0 && i < top; i++)
        error = column_array(batch, &next, batch->rows, out->children[i]);
    if (error != 0)
        release_array(out);
    return error;
}

/* ---- reading entries ---- */

/* Ends the stream with an error. */
static int fail(evtape_batches *s, int64_t ordinal, int64_t offset, int reason, int column) {
    s->error = reason == EVTAPE_BATCH_MEMORY ? ENOMEM : reason < EVTAPE_BATCH_LENGTH ? EIO : EINVAL;
    if (s->error_text == NULL && s->error != ENOMEM && !s->quiet)
        s->error_text = s->report(s->owner, ordinal, offset, reason, column);
    return s->error;
}

/* Whether the sixteen zero bytes are an event; then the text stays NULL. */
static int is_zero_event(evtape_batches *s, int64_t ordinal, int64_t offset) {
    if (s->quiet)
        return 0;
    s->error_text = s->report(s->owner, ordinal, offset, EVTAPE_BATCH_ZERO, -1);
    return s->error_text == NULL;
}

static void drop_behind(evtape_batches *s, int64_t offset) {
    if (s->mapping->drop == NULL && offset - s->dropped > KEEP_BEHIND) {
        evtape_drop_pages(s->mapping->base, s->dropped, offset);
        s->dropped = offset;
    }
}

static void move_window(evtape_batches *s) {
    if (s->mapping->drop != NULL) { /* borrowed memory */
        s->prefetched = s->bound;
        return;
    }
    s->prefetched = s->offset + PREFETCH_PAGES < s->bound ? s->offset + PREFETCH_PAGES : s->bound;
    evtape_prefetch_pages(s->mapping->base, s->offset, s->prefetched);
    drop_behind(s, s->offset);
}

/* Where the next entry is, and its ordinal. */
static int64_t next_entry(evtape_batches *s, int64_t *ordinal) {
    if (s->offsets != NULL) {
        *ordinal = s->ordinals[s->ordinal];
        return s->offsets[s->ordinal];
    }
    if (s->offset >= s->prefetched)
        move_window(s);
    *ordinal = s->ordinal;
    return s->offset;
}

/* Prefetches what lies some entries ahead. The processor itself does not beyond the end of a page. */
static inline void prefetch_ahead(const evtape_batches *s) {
    int64_t ahead = s->offset + EARLY * (EVTAPE_ENTRY_SIZE + (int64_t)s->usual_size);
    if (s->offsets != NULL)
        ahead = s->ordinal + EARLY < s->stop ? s->offsets[s->ordinal + EARLY] : s->bound;
    if (ahead < s->bound - 64) {
        evtape_prefetch_line(s->mapping->base + ahead);
        evtape_prefetch_line(s->mapping->base + ahead + 64);
    }
}

static void step(evtape_batches *s, int64_t at, const evtape_entry *entry) {
    memcpy(s->last_header, s->mapping->base + at, EVTAPE_ENTRY_SIZE);
    s->last_offset = at;
    s->offset = evtape_entry_end(at, entry->size, &s->usual_size);
    s->ordinal++;
    prefetch_ahead(s);
}

/* Whether the payload can be read, and is in the plan's form. */
static int check_entry(evtape_batches *s, int64_t at, int64_t ordinal, const evtape_entry *entry) {
    const evtape_plan *plan = s->plan;
    const uint8_t *data = s->mapping->base + at + EVTAPE_ENTRY_SIZE;
    if (plan->payloads && s->verify_checksums &&
        evtape_crc32(0, data, entry->size) != entry->checksum)
        return EVTAPE_BATCH_CHECKSUM;
    if (entry->size == 0 && entry->timestamp == 0 && entry->checksum == 0 &&
        !is_zero_event(s, ordinal, at))
        return EVTAPE_BATCH_ZERO;
    if (plan->payloads && plan->size >= 0 && entry->size != plan->size)
        return EVTAPE_BATCH_LENGTH;
    return plan->views && entry->size > INT32_MAX - EVTAPE_ENTRY_SIZE ? EVTAPE_BATCH_LONG
                                                                      : EVTAPE_BATCH_OK;
}

/* How many of the next events may have this size, so that they and their views fit. */
static int64_t usual_events(const batch *batch, int64_t size) {
    const evtape_batches *s = batch->of;
    int64_t end = s->bound < s->prefetched ? s->bound : s->prefetched;
    if (s->offsets != NULL || size == 0 || size > INT32_MAX - EVTAPE_ENTRY_SIZE)
        return 0;
    if (s->plan->views && end - batch->low > INT32_MAX)
        end = batch->low + INT32_MAX;
    return (end - s->offset) / (EVTAPE_ENTRY_SIZE + size);
}

/* Reads up to `most` intact events of one size into the block: of the plan's, or else of the event
 * before. Then the place of each is known, and none waits for the one before. */
static void load_usual(batch *batch, evtape_block *block, int most) {
    evtape_batches *s = batch->of;
    const evtape_plan *plan = s->plan;
    int verify = plan->payloads && s->verify_checksums, count = 0;
    int64_t size = plan->payloads && plan->size >= 0 ? plan->size : s->usual_size;
    int64_t stride = EVTAPE_ENTRY_SIZE + size, limit = usual_events(batch, size);
    const uint8_t *at = s->mapping->base + s->offset, *stop = s->mapping->base + s->bound;
    most = limit < most ? (int)limit : most;
    for (; count < most; count++, at += stride) {
        const uint8_t *data = at + EVTAPE_ENTRY_SIZE;
        evtape_entry entry = evtape_load_entry(at);
        if (stop - at > EARLY * stride + 64) {
            evtape_prefetch_line(at + EARLY * stride);
            evtape_prefetch_line(at + EARLY * stride + 64);
        }
        if (entry.size != size || (verify && evtape_crc32(0, data, (size_t)size) != entry.checksum))
            break;
        block->ordinal[count] = s->ordinal + count;
        block->time[count] = entry.timestamp;
        block->data[count] = data;
        block->size[count] = (uint32_t)size;
    }
    if (count == 0)
        return;
    block->events = count;
    s->ordinal += count;
    s->offset += count * stride;
    s->usual_size = (uint32_t)size;
    s->last_offset = s->offset - stride;
    memcpy(s->last_header, at - stride, EVTAPE_ENTRY_SIZE);
    if (plan->views)
        batch->high = s->offset > batch->high ? s->offset : batch->high;
}

/* Reads up to `most` events into the block. Returns 0, or the errno of a failure. A batch ends early
 * where its views would reach across more than 2 GiB: then the block has fewer events. */
static int load_block(batch *batch, evtape_block *block, int most) {
    evtape_batches *s = batch->of;
    const uint8_t *base = s->mapping->base;
    block->events = block->misfits = 0;
    load_usual(batch, block, most);
    while (block->events < most) {
        int i = block->events, reason;
        int64_t ordinal, at = next_entry(s, &ordinal);
        if (s->bound - at < EVTAPE_ENTRY_SIZE)
            return fail(s, ordinal, at, EVTAPE_BATCH_SIZE, -1);
        evtape_entry entry = evtape_load_entry(base + at);
        int64_t end = at + EVTAPE_ENTRY_SIZE + (int64_t)entry.size;
        if (end > s->bound)
            return fail(s, ordinal, at, EVTAPE_BATCH_SIZE, -1);
        reason = check_entry(s, at, ordinal, &entry);
        if (reason != EVTAPE_BATCH_OK && (reason < EVTAPE_BATCH_LENGTH || !s->nulls))
            return fail(s, ordinal, at, reason, -1);
        if (reason == EVTAPE_BATCH_OK && s->plan->views) {
            int64_t low = at < batch->low ? at : batch->low;
            int64_t high = end > batch->high ? end : batch->high;
            if (high - low > INT32_MAX)
                return 0;
            batch->low = low;
            batch->high = high;
        }
        step(s, at, &entry);
        block->ordinal[i] = ordinal;
        block->time[i] = entry.timestamp;
        block->data[i] = reason == EVTAPE_BATCH_OK ? base + at + EVTAPE_ENTRY_SIZE : NULL;
        block->size[i] = entry.size;
        block->misfits += reason != EVTAPE_BATCH_OK;
        block->events++;
    }
    return 0;
}

/* The lowest offset of the events that may come into a batch whose events are listed. The first of
 * them always fits. */
static int64_t lowest_offset(const evtape_batches *s, int64_t rows) {
    if (s->offsets == NULL)
        return s->offset;
    int64_t low = s->offsets[s->ordinal], high = low + EVTAPE_ENTRY_SIZE;
    if (high <= s->bound)
        high += (int64_t)evtape_load_entry(s->mapping->base + low).size;
    for (int64_t i = s->ordinal; i < s->ordinal + rows; i++) {
        int64_t at = s->offsets[i];
        int64_t new_low = at < low ? at : low, new_high = at > high ? at : high;
        if (new_high - new_low > INT32_MAX)
            break;
        low = new_low, high = new_high;
    }
    return low;
}

/* ---- batches ---- */

static int fill_block(batch *batch, const evtape_block *block) {
    evtape_batches *s = batch->of;
    for (int c = 0; c < s->plan->columns; c++) {
        int i = evtape_fill(&batch->builders[c], block, s->nulls);
        if (i == EVTAPE_NO_MEMORY)
            return fail(s, 0, 0, EVTAPE_BATCH_MEMORY, -1);
        if (i != EVTAPE_FILLED) {
            int64_t at = block->data[i] - s->mapping->base - EVTAPE_ENTRY_SIZE;
            return fail(s, block->ordinal[i], at, EVTAPE_BATCH_VALUE, c);
        }
    }
    return 0;
}

static int fill_batch(batch *batch, int64_t rows) {
    evtape_block block;
    while (batch->rows < rows) {
        int most = rows - batch->rows < EVTAPE_BLOCK ? (int)(rows - batch->rows) : EVTAPE_BLOCK;
        block.row = batch->rows;
        block.start = batch->of->mapping->base + batch->low;
        int error = load_block(batch, &block, most);
        if (error == 0)
            error = fill_block(batch, &block);
        if (error != 0)
            return error;
        batch->rows += block.events;
        if (block.events < most)
            break;
    }
    return 0;
}

/* Whether what was read is what the stream has. A file that was cut reads as zeros, and one that was
 * cut and written again has other events. */
static int check_unchanged(evtape_batches *s, int64_t before, const uint8_t *header) {
    int fault = evtape_guard_faults(s->mapping->slot) != 0;
    if (!fault && (before < 0 || memcmp(s->mapping->base + before, header, EVTAPE_ENTRY_SIZE) == 0))
        return s->error;
    /* Whatever else was found comes from this. */
    free(s->error_text);
    s->error_text = NULL;
    return fail(s, s->ordinal, s->offset, fault ? EVTAPE_BATCH_FAULT : EVTAPE_BATCH_CHANGED, -1);
}

int evtape_make_batch(evtape_batches *s, int64_t rows, struct ArrowArray *out) {
    uint8_t header[EVTAPE_ENTRY_SIZE];
    int64_t before = s->last_offset, low = lowest_offset(s, rows);
    batch batch = {s, NULL, 0, low, low};
    memset(out, 0, sizeof *out);
    memcpy(header, s->last_header, sizeof header);
    batch.builders = calloc((size_t)s->plan->columns + 1, sizeof *batch.builders);
    int error = batch.builders == NULL ? ENOMEM : 0;
    for (int c = 0; error == 0 && c < s->plan->columns; c++)
        error = evtape_builder_init(&batch.builders[c], &s->plan->column[c], rows);
    if (error != 0)
        s->error = error;
    else if (fill_batch(&batch, rows) != ENOMEM)
        error = check_unchanged(s, before, header);
    else
        error = ENOMEM;
    if (error == 0)
        error = s->error = table_array(&batch, out);
    for (int c = 0; batch.builders != NULL && c < s->plan->columns; c++)
        evtape_builder_free(&batch.builders[c]);
    free(batch.builders);
    return error;
}

void evtape_batches_free(evtape_batches *s) {
    if (s == NULL)
        return;
    evtape_ahead_stop(s->ahead);
    if (s->owner != NULL)
        s->drop(s->owner);
    evtape_mapping_release(s->mapping);
    evtape_plan_free(s->plan);
    free(s->offsets);
    free(s->ordinals);
    free(s->starts);
    free(s->error_text);
    free(s);
}

/* ---- the stream ---- */

static int get_schema(struct ArrowArrayStream *stream, struct ArrowSchema *out) {
    const evtape_batches *s = stream->private_data;
    return table_schema(s->plan, out);
}

static void make_alone(evtape_batches *s) {
    evtape_ahead_stop(s->ahead);
    s->ahead = NULL;
    free(s->starts);
    s->starts = NULL;
}

/* Takes a batch that was made ahead. Returns 0 if there is none, or if its events are damaged or not
 * the next ones; then the consumer makes it, and every other one. */
static int take_batch(evtape_batches *s, struct ArrowArray *out) {
    int64_t before = s->last_offset, start = s->offset;
    uint8_t header[EVTAPE_ENTRY_SIZE];
    memcpy(header, s->last_header, sizeof header);
    if (s->ahead == NULL)
        s->ahead = evtape_ahead_start(s);
    if (s->ahead == NULL || !evtape_ahead_take(s->ahead, s, out)) {
        make_alone(s);
        return 0;
    }
    drop_behind(s, start);
    if (check_unchanged(s, before, header) != 0)
        out->release(out);
    return 1;
}

static int get_next(struct ArrowArrayStream *stream, struct ArrowArray *out) {
    evtape_batches *s = stream->private_data;
    memset(out, 0, sizeof *out);
    if (s->error != 0)
        return s->error;
    int64_t rows = s->stop - s->ordinal;
    if (rows <= 0)
        return 0;
    if (s->starts != NULL && take_batch(s, out))
        return s->error;
    return evtape_make_batch(s, rows < s->batch_events ? rows : s->batch_events, out);
}

static const char *get_last_error(struct ArrowArrayStream *stream) {
    const evtape_batches *s = stream->private_data;
    return s->error == ENOMEM ? "out of memory" : s->error_text;
}

static void release_stream(struct ArrowArrayStream *stream) {
    evtape_batches_free(stream->private_data);
    stream->private_data = NULL;
    stream->release = NULL;
}

struct ArrowArrayStream *evtape_arrow_stream(evtape_batches *batches) {
    struct ArrowArrayStream *stream = calloc(1, sizeof *stream);
    if (stream == NULL)
        return NULL;
    stream->get_schema = get_schema;
    stream->get_next = get_next;
    stream->get_last_error = get_last_error;
    stream->release = release_stream;
    stream->private_data = batches;
    return stream;
}

void evtape_arrow_stream_free(struct ArrowArrayStream *stream) {
    if (stream->release != NULL)
        stream->release(stream);
    free(stream);
}

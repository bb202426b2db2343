/* arrow_check.c - tests ext/arrow.c with hostile streams, without Python.
 *
 *     cc -std=gnu11 -g -fsanitize=address,undefined -pthread -Iext tests/native/arrow_check.c \
 *         ext/arrow.c ext/arrow_columns.c ext/mapping.c ext/region_posix.c ext/fault_guard.c \
 *         ext/crc32.c -o arrow_check
 *     ASAN_OPTIONS=handle_sigbus=0 ./arrow_check
 *
 * Each round makes a stream of random payloads, changes or cuts it, and reads it as a table of random
 * columns, as a consumer may: with other batch sizes, with listed events, to its end or not. Then it
 * moves a child out of each batch, releases everything in a random order, and reads every view. A
 * view that leaves its buffer, and with a sanitizer every access that leaves its memory, fails.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "arrow.h"
#include "crc32.h"
#include "layout.h"
#include "region.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROUNDS 4000
#define EVENTS 600
#define WIDTH 32 /* bytes of most payloads */
#define BATCHES 800

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "round %d, line %d: %s\n", round_number, __LINE__, #what);             \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static int round_number;
static uint64_t state = 88172645463325252u;
static int64_t offsets[EVENTS];
static uint8_t bytes[24 + EVENTS * (16 + 100)];

/* A number from 0 to n - 1. */
static unsigned pick(unsigned n) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return n == 0 ? 0 : (unsigned)(state >> 11) % n;
}

static char *report(void *owner, int64_t ordinal, int64_t offset, int reason, int column) {
    (void)owner, (void)ordinal, (void)offset, (void)column;
    return reason == EVTAPE_BATCH_ZERO && pick(2) ? NULL : evtape_copy_text("damaged");
}

static int drops;

static void drop(void *owner) {
    (void)owner;
    drops++;
}

/* Makes a stream of `events` events in `bytes` and returns its size. */
static int64_t make_stream(int events) {
    int64_t at = EVTAPE_HEADER_SIZE;
    for (int i = 0; i < events; i++) {
        unsigned size = pick(20) ? WIDTH : pick(100);
        uint8_t *data = bytes + at + EVTAPE_ENTRY_SIZE;
        for (unsigned k = 0; k < size; k++)
            data[k] = pick(3) ? (uint8_t)(32 + pick(90)) : (uint8_t)pick(256);
        if (pick(3) == 0)
            memset(data, 0, size);
        offsets[i] = at;
        evtape_store_entry(bytes + at, pick(4) ? (int64_t)state : 0, size,
                           evtape_crc32(0, data, size));
        at += EVTAPE_ENTRY_SIZE + size;
    }
    if (pick(3) == 0)
        bytes[EVTAPE_HEADER_SIZE + pick((unsigned)at - EVTAPE_HEADER_SIZE)] = (uint8_t)pick(256);
    return at;
}

static evtape_mapping *map_stream(int fd, int64_t size) {
    evtape_mapping *mapping = evtape_mapping_new();
    CHECK(mapping != NULL);
    mapping->length = (size + EVTAPE_MAPPED_UNIT - 1) / EVTAPE_MAPPED_UNIT * EVTAPE_MAPPED_UNIT;
    CHECK(evtape_map(fd, mapping->length, 0, &mapping->base) == 0);
    mapping->slot = evtape_guard_add(mapping->base, (size_t)mapping->length);
    return mapping;
}

/* Sets column i to one of `count` elements of `width` bytes at random places of the payload. */
static void set(evtape_plan *plan, int i, const char *format, int kind, int width, int count,
                int swap, int check) {
    int64_t positions[3];
    for (int k = 0; k < count; k++)
        positions[k] = kind == EVTAPE_PAYLOAD ? 0 : pick((unsigned)(WIDTH - width + 1));
    evtape_column rest = {NULL,  NULL,     ARROW_FLAG_NULLABLE, kind, 0, width, swap, check,
                          count, positions};
    CHECK(evtape_plan_set(plan, i, "name", format, &rest) == 0);
}

static evtape_plan *payload_plan(void) {
    evtape_plan *plan = evtape_plan_new(3, -1);
    set(plan, 0, "l", EVTAPE_ORDINAL, 0, 1, 0, 0);
    set(plan, 1, "tsn:UTC", EVTAPE_TIME, 0, 1, 0, 0);
    set(plan, 2, "vu", EVTAPE_PAYLOAD, 0, 1, 0, (int)pick(2));
    return plan;
}

static evtape_plan *fields_plan(void) {
    static const int widths[] = {1, 2, 4, 8, 3};
    evtape_plan *plan = evtape_plan_new(9, WIDTH);
    int width = widths[pick(5)];
    set(plan, 0, "l", EVTAPE_ORDINAL, 0, 1, 0, 0);
    set(plan, 1, "i", EVTAPE_FIXED, width, 1, width != 3 && pick(2) ? width : 0, 0);
    set(plan, 2, "tsn:UTC", EVTAPE_FIXED, 8, 1, pick(2) ? 8 : 0, 1);
    set(plan, 3, "b", EVTAPE_BOOL, 1, 1, 0, 0);
    set(plan, 4, "tdD", EVTAPE_DATE, 8, 1, 0, 0);
    set(plan, 5, "+w:3", EVTAPE_NESTED, 3, 1, 0, 0);
    plan->column[5].children = 1;
    set(plan, 6, "s", EVTAPE_FIXED, 2, 3, 0, 0);
    set(plan, 7, "vu", EVTAPE_WIDE_TEXT, 4 * (int)pick(6), 1, pick(2) ? 4 : 0, 0);
    set(plan, 8, "vu", EVTAPE_TEXT, (int)pick(20), 1, 0, 0);
    return plan;
}

/* Lists random events, and now and then places where none begins. */
static void list_events(evtape_batches *batches, int events, int64_t size) {
    int count = 1 + (int)pick((unsigned)events);
    batches->offsets = malloc((size_t)count * 8);
    batches->ordinals = malloc((size_t)count * 8);
    for (int i = 0; i < count; i++) {
        int event = (int)pick((unsigned)events);
        int64_t anywhere = EVTAPE_HEADER_SIZE + pick((unsigned)size - EVTAPE_HEADER_SIZE);
        batches->offsets[i] = pick(50) ? offsets[event] : anywhere;
        batches->ordinals[i] = event;
    }
    batches->ordinal = 0;
    batches->stop = count;
}

static struct ArrowArrayStream *open_stream(evtape_mapping *mapping, int events, int64_t size) {
    evtape_batches *batches = calloc(1, sizeof *batches);
    batches->mapping = evtape_mapping_retain(mapping);
    batches->plan = pick(2) ? payload_plan() : fields_plan();
    batches->offset = batches->prefetched = batches->dropped = EVTAPE_HEADER_SIZE;
    batches->bound = size;
    batches->stop = events;
    batches->batch_events = 1 + pick(700);
    batches->verify_checksums = (int)pick(2);
    batches->nulls = (int)pick(2);
    batches->report = report;
    batches->owner = &drops;
    batches->drop = drop;
    batches->last_offset = -1;
    if (pick(2))
        list_events(batches, events, size);
    return evtape_arrow_stream(batches);
}

/* Reads all that the views of an array refer to. */
static void read_views(const struct ArrowArray *array) {
    const uint8_t *views = array->buffers[1], *data = array->buffers[2];
    int64_t size = *(const int64_t *)array->buffers[3];
    volatile unsigned sum = 0;
    for (int64_t row = 0; row < array->length; row++) {
        int32_t view[4];
        memcpy(view, views + 16 * row, 16);
        CHECK(view[0] >= 0);
        if (view[0] <= 12)
            continue;
        CHECK(view[2] == 0 && view[3] >= 0 && view[3] + (int64_t)view[0] <= size);
        for (int32_t i = 0; i < view[0]; i++)
            sum += data[view[3] + i];
    }
}

/* Keeps the last column of a batch, releases the rest, and then reads it. */
static void use_batch(struct ArrowArray *array) {
    struct ArrowArray *last = array->children[array->n_children - 1];
    struct ArrowArray kept = *last;
    last->release = NULL;
    array->release(array);
    CHECK(array->release == NULL && kept.n_buffers == 4);
    read_views(&kept);
    kept.release(&kept);
}

static int read_batches(struct ArrowArrayStream *stream, struct ArrowArray *arrays) {
    for (int count = 0; count < BATCHES; count++) {
        int error = stream->get_next(stream, &arrays[count]);
        if (error != 0) {
            CHECK(stream->get_last_error(stream) != NULL);
            CHECK(stream->get_next(stream, &arrays[count]) == error); /* and stays so */
            return count;
        }
        if (arrays[count].release == NULL)
            return count;
    }
    return BATCHES;
}

static void one_round(void) {
    static struct ArrowArray arrays[BATCHES];
    int events = 1 + (int)pick(EVENTS - 1), fd;
    int64_t size = make_stream(events);
    char path[] = "/tmp/arrow_check.XXXXXX";
    CHECK((fd = mkstemp(path)) >= 0);
    CHECK(unlink(path) == 0 && write(fd, bytes, (size_t)size) == size);
    evtape_mapping *mapping = map_stream(fd, size);
    struct ArrowArrayStream *stream = open_stream(mapping, events, size);
    struct ArrowSchema schema;
    CHECK(stream->get_schema(stream, &schema) == 0);
    schema.release(&schema);
    evtape_mapping_release(mapping);
    if (pick(10) == 0)
        CHECK(ftruncate(fd, pick((unsigned)size)) == 0);
    int count = read_batches(stream, arrays), early = (int)pick(2);
    if (early)
        evtape_arrow_stream_free(stream);
    for (int i = 0; i < count; i++)
        use_batch(&arrays[i]);
    if (!early)
        evtape_arrow_stream_free(stream);
    close(fd);
}

int main(void) {
    evtape_crc32_init();
    evtape_layout_init();
    CHECK(evtape_guard_enable() == 0);
    for (round_number = 0; round_number < ROUNDS; round_number++)
        one_round();
    CHECK(drops == ROUNDS);
    return 0;
}

/* arrow_columns.c - see arrow_columns.h.
 *
 * SPDX-License-Identifier: MIT
 */
#include "arrow_columns.h"

#include "region.h"
#include "utf8.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VIEW_SIZE 16
#define POPULATED_FROM                                                                             \
    (64 << 10)        /* bytes of new memory that one call makes, and not a fault a page */
#define INLINE_MAX 12 /* bytes that a view itself can hold */

/* ---- the plan ---- */

char *evtape_copy_text(const char *text) {
    size_t bytes = strlen(text) + 1;
    char *copy = malloc(bytes);
    return copy == NULL ? NULL : memcpy(copy, text, bytes);
}

evtape_plan *evtape_plan_new(int columns, int64_t size) {
    evtape_plan *plan = calloc(1, sizeof *plan + (size_t)columns * sizeof(evtape_column));
    if (plan != NULL) {
        plan->columns = columns;
        plan->size = size;
    }
    return plan;
}

void evtape_plan_free(evtape_plan *plan) {
    if (plan == NULL)
        return;
    for (int i = 0; i < plan->columns; i++) {
        free(plan->column[i].name);
        free(plan->column[i].format);
        free(plan->column[i].positions);
    }
    free(plan);
}

int evtape_plan_set(evtape_plan *plan, int i, const char *name, const char *format,
                    const evtape_column *rest) {
    evtape_column *column = &plan->column[i];
    size_t bytes = (size_t)rest->count * sizeof *rest->positions;
    *column = *rest;
    column->name = evtape_copy_text(name);
    column->format = evtape_copy_text(format);
    column->positions = malloc(bytes + 1);
    if (column->name == NULL || column->format == NULL || column->positions == NULL)
        return ENOMEM;
    if (bytes != 0)
        memcpy(column->positions, rest->positions, bytes);
    plan->payloads |= rest->kind >= EVTAPE_PAYLOAD;
    plan->views |= rest->kind == EVTAPE_PAYLOAD || rest->kind == EVTAPE_TEXT;
    return 0;
}

/* ---- builders ---- */

/* Bytes of one element of the finished column; 0 for bits and for no values. */
static int64_t element_size(const evtape_column *column) {
    switch (column->kind) {
    case EVTAPE_ORDINAL:
    case EVTAPE_TIME:
        return 8;
    case EVTAPE_FIXED:
        return column->width;
    case EVTAPE_DATE:
        return 4;
    case EVTAPE_PAYLOAD:
    case EVTAPE_TEXT:
    case EVTAPE_WIDE_TEXT:
        return VIEW_SIZE;
    default:
        return 0;
    }
}

int evtape_builder_init(evtape_builder *builder, const evtape_column *column, int64_t rows) {
    memset(builder, 0, sizeof *builder);
    builder->column = column;
    builder->capacity = rows * column->count;
    if (column->kind == EVTAPE_NESTED)
        return 0;
    int64_t bytes = builder->capacity * element_size(column) + 1;
    if (column->kind == EVTAPE_BOOL)
        builder->values = calloc(1, (size_t)builder->capacity / 8 + 1);
    else
        builder->values = malloc((size_t)bytes);
    if (builder->values == NULL)
        return ENOMEM;
    if (column->kind != EVTAPE_BOOL && bytes >= POPULATED_FROM)
        evtape_populate_pages(builder->values, bytes);
    return 0;
}

void evtape_builder_free(evtape_builder *builder) {
    free(builder->validity);
    free(builder->values);
    free(builder->heap);
}

static int set_null(evtape_builder *builder, int64_t element) {
    size_t bytes = (size_t)builder->capacity / 8 + 1;
    if (builder->validity == NULL) {
        builder->validity = malloc(bytes);
        if (builder->validity == NULL)
            return ENOMEM;
        memset(builder->validity, 0xFF, bytes);
    }
    builder->validity[element / 8] &= (uint8_t)~(1u << element % 8);
    builder->nulls++;
    return 0;
}

/* All elements of an event that does not fit are null. */
static int set_event_null(evtape_builder *builder, int64_t row) {
    int64_t count = builder->column->count, size = element_size(builder->column);
    if (size != 0)
        memset(builder->values + row * count * size, 0, (size_t)(count * size));
    for (int64_t k = 0; k < count; k++)
        if (set_null(builder, row * count + k) != 0)
            return ENOMEM;
    return 0;
}

/* ---- numbers ---- */

/* Copies one element of each event. A constant width makes the copy one load and one store. */
#define COPY_EACH(width)                                                                           \
    for (int i = 0; i < block->events; i++, to += (width))                                         \
    memcpy(to, block->data[i] + position, (width))

static void copy_whole_block(const evtape_column *column, const evtape_block *block, uint8_t *to) {
    int64_t position = column->positions[0];
    switch (column->width) {
    case 1:
        COPY_EACH(1);
        break;
    case 2:
        COPY_EACH(2);
        break;
    case 4:
        COPY_EACH(4);
        break;
    case 8:
        COPY_EACH(8);
        break;
    default:
        COPY_EACH((size_t)column->width);
    }
}

static void copy_elements(const evtape_column *column, const uint8_t *data, uint8_t *to) {
    for (int64_t k = 0; k < column->count; k++, to += column->width)
        memcpy(to, data + column->positions[k], (size_t)column->width);
}

static void swap_numbers(uint8_t *at, int64_t bytes, int32_t size) {
    for (uint8_t *stop = at + bytes; at < stop; at += size)
        for (int32_t i = 0; i < size / 2; i++) {
            uint8_t byte = at[i];
            at[i] = at[size - 1 - i];
            at[size - 1 - i] = byte;
        }
}

static int null_lowest(evtape_builder *builder, int64_t first, int64_t stop) {
    for (int64_t k = first; k < stop; k++) {
        int64_t value;
        memcpy(&value, builder->values + k * 8, 8);
        if (value == INT64_MIN && set_null(builder, k) != 0)
            return EVTAPE_NO_MEMORY;
    }
    return EVTAPE_FILLED;
}

static int fill_fixed(evtape_builder *builder, const evtape_block *block) {
    const evtape_column *column = builder->column;
    int64_t bytes = column->count * column->width;
    uint8_t *to = builder->values + block->row * bytes;
    if (column->count == 1 && block->misfits == 0)
        copy_whole_block(column, block, to);
    else
        for (int i = 0; i < block->events; i++)
            if (block->data[i] != NULL)
                copy_elements(column, block->data[i], to + i * bytes);
    if (column->swap > 1)
        swap_numbers(to, block->events * bytes, column->swap);
    if (!column->check)
        return EVTAPE_FILLED;
    return null_lowest(builder, block->row * column->count,
                       (block->row + block->events) * column->count);
}

static int fill_bool(evtape_builder *builder, const evtape_block *block) {
    const evtape_column *column = builder->column;
    for (int i = 0; i < block->events; i++) {
        int64_t element = (block->row + i) * column->count;
        for (int64_t k = 0; block->data[i] != NULL && k < column->count; k++, element++)
            if (block->data[i][column->positions[k]] != 0)
                builder->values[element / 8] |= (uint8_t)(1u << element % 8);
    }
    return EVTAPE_FILLED;
}

/* ---- values that may not fit ----
 *
 * Each of these functions stores element `element` from the bytes at `data`. It returns 0, EINVAL if
 * they have no such value, or ENOMEM. */

static void store_view(evtape_builder *builder, int64_t element, const uint8_t *data, uint32_t size,
                       int64_t offset) {
    uint32_t view[4] = {size, 0, 0, 0};
    if (size <= INLINE_MAX) {
        memcpy(view + 1, data, size);
    } else {
        memcpy(view + 1, data, 4);
        view[3] = (uint32_t)offset;
    }
    memcpy(builder->values + element * VIEW_SIZE, view, VIEW_SIZE);
}

static int store_text(evtape_builder *builder, int64_t element, const uint8_t *data,
                      const uint8_t *start) {
    uint32_t size = (uint32_t)builder->column->width;
    while (size > 0 && data[size - 1] == 0)
        size--;
    if (!evtape_utf8_valid(data, size))
        return EINVAL;
    store_view(builder, element, data, size, data - start);
    return 0;
}

static int reserve_heap(evtape_builder *builder, int64_t bytes) {
    int64_t capacity = builder->heap_capacity < 4096 ? 4096 : builder->heap_capacity;
    while (capacity < builder->heap_used + bytes)
        capacity *= 2;
    if (capacity == builder->heap_capacity)
        return 0;
    uint8_t *heap = realloc(builder->heap, (size_t)capacity);
    if (heap == NULL)
        return ENOMEM;
    builder->heap = heap;
    builder->heap_capacity = capacity;
    return 0;
}

static int store_wide_text(evtape_builder *builder, int64_t element, const uint8_t *data) {
    const evtape_column *column = builder->column;
    int32_t length = column->width / 4;
    uint32_t size = 0, c;
    while (length > 0 && (memcpy(&c, data + 4 * (length - 1), 4), c == 0))
        length--;
    if (reserve_heap(builder, (int64_t)length * EVTAPE_UTF8_MAX) != 0)
        return ENOMEM;
    uint8_t *to = builder->heap + builder->heap_used;
    for (int32_t i = 0; i < length; i++) {
        memcpy(&c, data + 4 * i, 4);
        if (column->swap != 0)
            swap_numbers((uint8_t *)&c, 4, 4);
        size_t step = evtape_utf8_encode(to + size, c);
        if (step == 0)
            return EINVAL;
        size += (uint32_t)step;
    }
    store_view(builder, element, to, size, builder->heap_used);
    if (size > INLINE_MAX)
        builder->heap_used += size;
    return 0;
}

static int store_date(evtape_builder *builder, int64_t element, const uint8_t *data) {
    uint8_t bytes[8];
    int64_t value;
    memcpy(bytes, data, 8);
    if (builder->column->swap != 0)
        swap_numbers(bytes, 8, 8);
    memcpy(&value, bytes, 8);
    int32_t days = (int32_t)value;
    memcpy(builder->values + element * 4, &days, 4);
    if (value == INT64_MIN)
        return set_null(builder, element);
    return days == value ? 0 : EINVAL;
}

static int store_payload(evtape_builder *builder, int64_t element, const uint8_t *data,
                         uint32_t size, const uint8_t *start) {
    if (builder->column->check && !evtape_utf8_valid(data, size))
        return EINVAL;
    store_view(builder, element, data, size, data - start);
    return 0;
}

static int store_element(evtape_builder *builder, int64_t element, const evtape_block *block, int i,
                         int64_t position) {
    const uint8_t *data = block->data[i] + position;
    switch (builder->column->kind) {
    case EVTAPE_TEXT:
        return store_text(builder, element, data, block->start);
    case EVTAPE_WIDE_TEXT:
        return store_wide_text(builder, element, data);
    case EVTAPE_DATE:
        return store_date(builder, element, data);
    default:
        return store_payload(builder, element, data, block->size[i], block->start);
    }
}

static int fill_elements(evtape_builder *builder, const evtape_block *block, int nulls) {
    const evtape_column *column = builder->column;
    int64_t size = element_size(column);
    for (int i = 0; i < block->events; i++) {
        int64_t element = (block->row + i) * column->count;
        for (int64_t k = 0; block->data[i] != NULL && k < column->count; k++, element++) {
            int error = store_element(builder, element, block, i, column->positions[k]);
            if (error == EINVAL && !nulls)
                return i;
            if (error == EINVAL) {
                memset(builder->values + element * size, 0, (size_t)size);
                error = set_null(builder, element);
            }
            if (error != 0)
                return EVTAPE_NO_MEMORY;
        }
    }
    return EVTAPE_FILLED;
}

/* ---- a block ---- */

static int fill_payload_column(evtape_builder *builder, const evtape_block *block, int nulls) {
    switch (builder->column->kind) {
    case EVTAPE_FIXED:
        return fill_fixed(builder, block);
    case EVTAPE_BOOL:
        return fill_bool(builder, block);
    default:
        return fill_elements(builder, block, nulls);
    }
}

int evtape_fill(evtape_builder *builder, const evtape_block *block, int nulls) {
    size_t bytes = (size_t)block->events * 8;
    switch (builder->column->kind) {
    case EVTAPE_NESTED:
        return EVTAPE_FILLED;
    case EVTAPE_ORDINAL:
        memcpy(builder->values + block->row * 8, block->ordinal, bytes);
        return EVTAPE_FILLED;
    case EVTAPE_TIME:
        memcpy(builder->values + block->row * 8, block->time, bytes);
        return EVTAPE_FILLED;
    }
    for (int i = 0; block->misfits != 0 && i < block->events; i++)
        if (block->data[i] == NULL && set_event_null(builder, block->row + i) != 0)
            return EVTAPE_NO_MEMORY;
    return fill_payload_column(builder, block, nulls);
}

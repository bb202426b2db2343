/* arrow_ahead.c - see arrow_ahead.h.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pthread_setname_np */
#endif

#include "arrow_ahead.h"

#ifndef _WIN32

#include "preallocate.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EMPTY, MAKING, MADE };

typedef struct {
    int state;
    evtape_batches after; /* as the batch left it */
    struct ArrowArray array;
} slot;

struct evtape_ahead {
    evtape_batches first; /* as it was before the first batch */
    int64_t count;        /* of all batches */
    pid_t process;        /* a child after a fork has no thread, and a lock in any state */
    pthread_t thread;
    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t work;  /* there is a batch to make, or `stopped` */
    pthread_cond_t made;
    int64_t begun, taken; /* batches */
    int stopped;
    slot slots[EVTAPE_AHEAD];
};

static int may_begin(const evtape_ahead *ahead) {
    return ahead->begun < ahead->count && ahead->begun < ahead->taken + EVTAPE_AHEAD;
}

/* Makes the next batch that no thread has begun. The lock is held, except while it is made. */
static void make_one(evtape_ahead *ahead) {
    int64_t number = ahead->begun++;
    slot *slot = &ahead->slots[number % EVTAPE_AHEAD];
    evtape_batches *s = &slot->after;
    slot->state = MAKING;
    pthread_mutex_unlock(&ahead->lock);
    *s = ahead->first;
    s->ordinal += number * s->batch_events;
    s->offset = s->prefetched = s->dropped = s->starts[number];
    int64_t rows = s->stop - s->ordinal;
    evtape_make_batch(s, rows < s->batch_events ? rows : s->batch_events, &slot->array);
    pthread_mutex_lock(&ahead->lock);
    slot->state = MADE;
    pthread_cond_broadcast(&ahead->made);
}

static void *run(void *argument) {
    evtape_ahead *ahead = argument;
    pthread_mutex_lock(&ahead->lock);
    while (!ahead->stopped) {
        if (may_begin(ahead))
            make_one(ahead);
        else
            pthread_cond_wait(&ahead->work, &ahead->lock);
    }
    pthread_mutex_unlock(&ahead->lock);
    return NULL;
}

evtape_ahead *evtape_ahead_start(const evtape_batches *s) {
    evtape_ahead *ahead = NULL;
    if (sysconf(_SC_NPROCESSORS_ONLN) > 1)
        ahead = calloc(1, sizeof *ahead);
    if (ahead == NULL)
        return NULL;
    ahead->first = *s;
    ahead->first.quiet = 1;
    ahead->first.last_offset = -1;
    ahead->count = (s->stop - s->ordinal + s->batch_events - 1) / s->batch_events;
    ahead->process = getpid();
    pthread_mutex_init(&ahead->lock, NULL);
    pthread_cond_init(&ahead->work, NULL);
    pthread_cond_init(&ahead->made, NULL);
    if (evtape_start_quietly(&ahead->thread, run, ahead))
        return ahead;
    free(ahead);
    return NULL;
}

int evtape_ahead_take(evtape_ahead *ahead, evtape_batches *s, struct ArrowArray *out) {
    const evtape_batches *first = &ahead->first;
    int64_t number = ahead->taken;
    if (ahead->process != getpid() || s->offset != first->starts[number] ||
        s->ordinal != first->ordinal + number * first->batch_events)
        return 0;
    pthread_mutex_lock(&ahead->lock);
    slot *slot = &ahead->slots[number % EVTAPE_AHEAD];
    while (slot->state != MADE) {
        if (may_begin(ahead))
            make_one(ahead);
        else
            pthread_cond_wait(&ahead->made, &ahead->lock);
    }
    if (slot->array.release != NULL) {
        s->offset = slot->after.offset;
        s->ordinal = slot->after.ordinal;
        s->last_offset = slot->after.last_offset;
        memcpy(s->last_header, slot->after.last_header, sizeof s->last_header);
    }
    *out = slot->array;
    slot->state = EMPTY;
    ahead->taken++;
    pthread_cond_signal(&ahead->work);
    pthread_mutex_unlock(&ahead->lock);
    return out->release != NULL;
}

void evtape_ahead_stop(evtape_ahead *ahead) {
    if (ahead == NULL || ahead->process != getpid()) /* a child leaves it as the fork found it */
        return;
    pthread_mutex_lock(&ahead->lock);
    ahead->stopped = 1;
    pthread_cond_signal(&ahead->work);
    pthread_mutex_unlock(&ahead->lock);
    pthread_join(ahead->thread, NULL);
    pthread_cond_destroy(&ahead->made);
    pthread_cond_destroy(&ahead->work);
    pthread_mutex_destroy(&ahead->lock);
    for (int i = 0; i < EVTAPE_AHEAD; i++)
        if (ahead->slots[i].state == MADE && ahead->slots[i].array.release != NULL)
            ahead->slots[i].array.release(&ahead->slots[i].array);
    free(ahead);
}

#else

evtape_ahead *evtape_ahead_start(const evtape_batches *s) {
    (void)s;
    return NULL;
}

int evtape_ahead_take(evtape_ahead *ahead, evtape_batches *s, struct ArrowArray *out) {
    (void)ahead, (void)s, (void)out;
    return 0;
}

void evtape_ahead_stop(evtape_ahead *ahead) {
    (void)ahead;
}

#endif

/* arrow_ahead.h - makes batches of a long stream in a second thread while the consumer works on, or
 * makes, another one.
 *
 * It only saves time. A batch that the thread cannot make is left to the consumer, who meets the
 * same damage and reports it. The thread never calls Python.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_ARROW_AHEAD_H
#define EVTAPE_ARROW_AHEAD_H

#include "arrow.h"

/* Batches that wait for the consumer at most, and so what they add to its memory. */
#define EVTAPE_AHEAD 3

typedef struct evtape_ahead evtape_ahead;

/* Starts the thread for what `s` has left. s->starts says where the batches begin. NULL: no thread,
 * and the consumer makes every batch. */
evtape_ahead *evtape_ahead_start(const evtape_batches *s);

/* Takes the next batch, made by either thread, and moves `s` past it. Returns 0 if it cannot be used;
 * then the consumer goes on alone, after evtape_ahead_stop. */
int evtape_ahead_take(evtape_ahead *ahead, evtape_batches *s, struct ArrowArray *out);

/* Ends the thread and releases what it has made. NULL is allowed. */
void evtape_ahead_stop(evtape_ahead *ahead);

#endif

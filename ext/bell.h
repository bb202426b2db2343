/* bell.h - makes a descriptor readable when an event is published, for an event loop.
 *
 * A thread sleeps as a follower does (live.h) and then writes to an eventfd. A thread of Python would
 * first have to wait for the GIL, which the loop's thread wants at the same moment.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_BELL_H
#define EVTAPE_BELL_H

#include <stdint.h>

typedef struct evtape_bell evtape_bell;

/* Starts the thread. stream, page: the descriptors of the stream and of the page that its followers
 * share with the writer; they may be closed afterwards. Returns NULL and sets errno on failure;
 * ENOTSUP: this system has no such sleep. */
evtape_bell *evtape_bell_start(int stream, int page);

/* The descriptor. It must not be used after stop(). */
int evtape_bell_fd(const evtape_bell *bell);

/* Rings once WriteOffset is not `offset`: looks for spin_ns, then sleeps. The bell may also ring for
 * the question before this one, or because the file cannot be read. */
void evtape_bell_ask(evtape_bell *bell, int64_t offset, int64_t spin_ns);

/* Makes the descriptor not readable again. */
void evtape_bell_clear(evtape_bell *bell);

/* Closes the descriptor at once. The thread ends within 50 ms; nothing has to wait for it. NULL is
 * allowed. In a forked child, which has no such thread, only the descriptor is closed. */
void evtape_bell_stop(evtape_bell *bell);

#endif

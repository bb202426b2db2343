/* Several streams of Arrow record batches, one after the other, as one stream.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_ARROW_CHAIN_H
#define EVTAPE_ARROW_CHAIN_H

#include "arrow.h"

/* Moves the next stream into `out`, which has no `release` after the last one. Returns 0, or an
 * error with its text, which the caller frees. */
typedef int (*evtape_next_stream)(void *owner, struct ArrowArrayStream *out, char **error_text);

/* Returns a stream of the batches of all streams; NULL: out of memory, and `plan` is still the
 * caller's. `drop` is called with `owner` at the end, and not if this fails. */
struct ArrowArrayStream *evtape_arrow_chain(evtape_plan *plan, evtape_next_stream next, void *owner,
                                            void (*drop)(void *owner));

#endif

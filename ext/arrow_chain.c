/* arrow_chain.c - see arrow_chain.h.
 *
 * SPDX-License-Identifier: MIT
 */
#include "arrow_chain.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    evtape_plan *plan;
    struct ArrowArrayStream current; /* without `release`: there is none */
    evtape_next_stream next;
    void *owner;
    void (*drop)(void *owner);
    int ended;
    int error; /* errno of the failure that ended the stream, or 0 */
    char *error_text;
} chain;

static void release_current(chain *c) {
    if (c->current.release != NULL)
        c->current.release(&c->current);
    memset(&c->current, 0, sizeof c->current);
}

static int get_schema(struct ArrowArrayStream *stream, struct ArrowSchema *out) {
    const chain *c = stream->private_data;
    struct ArrowSchema *made = evtape_arrow_schema(c->plan);
    if (made == NULL)
        return ENOMEM;
    *out = *made;
    free(made);
    return 0;
}

/* The next batch of the current stream. One without `release`: it has no more. */
static int next_of_current(chain *c, struct ArrowArray *out) {
    c->error = c->current.get_next(&c->current, out);
    if (c->error != 0) {
        const char *text = c->current.get_last_error(&c->current);
        c->error_text = text == NULL ? NULL : evtape_copy_text(text);
    }
    return c->error;
}

static int get_next(struct ArrowArrayStream *stream, struct ArrowArray *out) {
    chain *c = stream->private_data;
    memset(out, 0, sizeof *out);
    while (c->error == 0 && !c->ended) {
        if (c->current.release == NULL) {
            c->error = c->next(c->owner, &c->current, &c->error_text);
            c->ended = c->current.release == NULL;
        } else if (next_of_current(c, out) != 0 || out->release != NULL) {
            break;
        } else {
            release_current(c);
        }
    }
    return c->error;
}

static const char *get_last_error(struct ArrowArrayStream *stream) {
    const chain *c = stream->private_data;
    return c->error == ENOMEM ? "out of memory" : c->error_text;
}

static void release_stream(struct ArrowArrayStream *stream) {
    chain *c = stream->private_data;
    release_current(c);
    c->drop(c->owner);
    evtape_plan_free(c->plan);
    free(c->error_text);
    free(c);
    stream->private_data = NULL;
    stream->release = NULL;
}

struct ArrowArrayStream *evtape_arrow_chain(evtape_plan *plan, evtape_next_stream next, void *owner,
                                            void (*drop)(void *owner)) {
    struct ArrowArrayStream *stream = calloc(1, sizeof *stream);
    chain *c = calloc(1, sizeof *c);
    if (stream == NULL || c == NULL) {
        free(stream);
        free(c);
        return NULL;
    }
    c->plan = plan;
    c->next = next;
    c->owner = owner;
    c->drop = drop;
    stream->get_schema = get_schema;
    stream->get_next = get_next;
    stream->get_last_error = get_last_error;
    stream->release = release_stream;
    stream->private_data = c;
    return stream;
}

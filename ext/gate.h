/* A gate that lets one thread at a time into an appender.
 *
 * With the GIL, a short section (one event) needs nothing but to see that nobody is inside: it
 * cannot be interrupted. Only a long section, which releases the GIL, closes the gate. Without the
 * GIL both close it. It is never contended in the usual case of one writing thread, and then costs
 * one load, or one exchange.
 */
#ifndef EVTAPE_GATE_H
#define EVTAPE_GATE_H

#include <Python.h>
#include <stdatomic.h>

#ifdef _WIN32
#include <windows.h>
#define evtape_pause(spins) ((spins) < 64 ? (void)SwitchToThread() : Sleep(1))
#else
#include <sched.h>
#include <time.h>
static inline void evtape_pause(int spins) {
    struct timespec nap = {0, 50000};
    if (spins < 64)
        sched_yield();
    else
        nanosleep(&nap, NULL);
}
#endif

typedef struct {
    atomic_int closed;
} evtape_gate;

static inline int evtape_gate_try_long(evtape_gate *gate) {
    return atomic_exchange_explicit(&gate->closed, 1, memory_order_acquire) == 0;
}

static inline void evtape_gate_leave_long(evtape_gate *gate) {
    atomic_store_explicit(&gate->closed, 0, memory_order_release);
}

#ifdef Py_GIL_DISABLED
#define EVTAPE_GIL 0
#define evtape_gate_try evtape_gate_try_long
#define evtape_gate_leave evtape_gate_leave_long
#else
#define EVTAPE_GIL 1
static inline int evtape_gate_try(evtape_gate *gate) {
    return atomic_load_explicit(&gate->closed, memory_order_relaxed) == 0;
}
static inline void evtape_gate_leave(evtape_gate *gate) {
    (void)gate;
}
#endif

/* Called without the GIL: returns when the gate was seen open, which does not mean that it still
 * is. */
static inline void evtape_gate_wait(evtape_gate *gate) {
    for (int spins = 0; atomic_load_explicit(&gate->closed, memory_order_relaxed); spins++)
        evtape_pause(spins);
}

#endif

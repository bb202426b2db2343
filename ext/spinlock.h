/* A gate that lets one thread at a time into an appender.
 *
 * With the GIL, a short section (one event) needs nothing but to see that nobody is inside: it
 * cannot be interrupted. Only a long section, which releases the GIL, closes the gate. Without the
 * GIL both close it. It is never contended in the usual case of one writing thread, and then costs
 * one load, or one exchange.
 */
#ifndef EVTAPE_SPINLOCK_H
#define EVTAPE_SPINLOCK_H

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
} evtape_spinlock;

static inline int evtape_spinlock_try_long(evtape_spinlock *lock) {
    return atomic_exchange_explicit(&lock->closed, 1, memory_order_acquire) == 0;
}

static inline void evtape_spinlock_unlock_long(evtape_spinlock *lock) {
    atomic_store_explicit(&lock->closed, 0, memory_order_release);
}

#ifdef Py_GIL_DISABLED
#define EVTAPE_GIL 0
#define evtape_spinlock_try evtape_spinlock_try_long
#define evtape_spinlock_unlock evtape_spinlock_unlock_long
#else
#define EVTAPE_GIL 1
static inline int evtape_spinlock_try(evtape_spinlock *lock) {
    return atomic_load_explicit(&lock->closed, memory_order_relaxed) == 0;
}
static inline void evtape_spinlock_unlock(evtape_spinlock *lock) {
    (void)lock;
}
#endif

/* Called without the GIL: returns when the gate was seen open, which does not mean that it still
 * is. */
static inline void evtape_spinlock_wait(evtape_spinlock *lock) {
    for (int spins = 0; atomic_load_explicit(&lock->closed, memory_order_relaxed); spins++)
        evtape_pause(spins);
}

#endif

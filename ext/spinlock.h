/* A spinlock that admits one thread at a time to an appender.
 *
 * With the GIL, a short section (one event) cannot be interrupted. So it only checks that no thread
 * holds the lock. A long section, which releases the GIL, takes the lock. Without the GIL both take
 * the lock. With one writing thread the lock is never contended and costs one load or one exchange.
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

/* Waits until the lock was free at one moment, which does not mean that it still is. Call it
 * without the GIL. */
static inline void evtape_spinlock_wait(evtape_spinlock *lock) {
    for (int spins = 0; atomic_load_explicit(&lock->closed, memory_order_relaxed); spins++)
        evtape_pause(spins);
}

#endif

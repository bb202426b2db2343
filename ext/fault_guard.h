/* fault_guard.h - turns a SIGBUS inside a registered mapping into a page of zeros and a counted
 * fault.
 *
 * An access to a mapped file raises SIGBUS if the file no longer has bytes there (another program
 * shortened it), or if the medium cannot read or write them. The guard puts an anonymous page of
 * zeros there, counts the fault on the mapping's slot, and lets the access finish. The code that
 * made the access checks the count afterwards and raises. No handler ever jumps through frames of
 * Python.
 *
 * A replaced page stays zero until the file is mapped again, even if the file grows. So do not
 * trust a mapping whose slot has a count other than 0.
 *
 * The guard covers loads and stores only. A system call with a pointer into the mapping (write,
 * send) does not raise SIGBUS; it fails with EFAULT.
 */
#ifndef EVTAPE_FAULT_GUARD_H
#define EVTAPE_FAULT_GUARD_H

#include <stddef.h>
#include <stdint.h>

#ifdef _WIN32

/* Windows refuses to shorten a mapped file and has no SIGBUS, so there is nothing to guard. add()
 * returns a slot that never counts a fault, because NULL means "out of memory". */
typedef struct evtape_guard_slot {
    uint64_t faults;
} evtape_guard_slot;

static inline int evtape_guard_enable(void) {
    return 0;
}
static inline int evtape_guard_disable(void) {
    return 0;
}
static inline int evtape_guard_enabled(void) {
    return 0;
}
static inline evtape_guard_slot *evtape_guard_add(void *start, size_t length) {
    static evtape_guard_slot slot;
    (void)start;
    (void)length;
    return &slot;
}
static inline void evtape_guard_remove(evtape_guard_slot *slot) {
    (void)slot;
}
static inline uint64_t evtape_guard_faults(const evtape_guard_slot *slot) {
    (void)slot;
    return 0;
}
static inline uint64_t evtape_guard_faults_total(void) {
    return 0;
}

#else

#include <stdatomic.h>

/* One registered mapping. Slots are reused and never freed, because a handler may read them
 * at any moment. */
typedef struct evtape_guard_slot {
    /* Odd while `start` and `stop` change. A thread that faults inside its own mapping finds the
     * slot of this mapping stable. So a handler skips every slot that is odd or that changes while
     * it is read. */
    _Atomic(uint64_t) version;
    /* The guarded bytes are [start, stop). start == stop in a slot without a mapping. */
    _Atomic(uintptr_t) start;
    _Atomic(uintptr_t) stop;
    /* The number of pages replaced by zeros since add(). */
    _Atomic(uint64_t) faults;
    /* 1 from add() to remove(). A compare-and-swap sets it, so two threads never get
     * the same slot. */
    _Atomic(int) taken;
} evtape_guard_slot;

/* Installs the handler on top of the current one; does nothing if it is already on top.
 * Returns 0 or an errno. ELOOP: other handlers were installed over ours more often than there
 * are entry points. */
int evtape_guard_enable(void);

/* Restores the previous handler. Returns 0, or EBUSY if another handler was installed over ours.
 * Ours then stays beneath it and only passes signals on. */
int evtape_guard_disable(void);

/* Returns 1 if our handler receives SIGBUS first. */
int evtape_guard_enabled(void);

/* Guards [start, start + length), which begins at a page. Lock-free. NULL: out of memory. */
evtape_guard_slot *evtape_guard_add(void *start, size_t length);

/* Ends the guard. Call it before munmap, when no thread can access the mapping any more.
 * NULL is allowed. */
void evtape_guard_remove(evtape_guard_slot *slot);

/* Returns the number of faults in this mapping. A fault is counted before its access finishes, so a
 * thread that reads first and checks afterwards always sees its own faults. */
static inline uint64_t evtape_guard_faults(const evtape_guard_slot *slot) {
    return atomic_load_explicit(&((evtape_guard_slot *)slot)->faults, memory_order_acquire);
}

/* Returns the number of faults since the process began. */
uint64_t evtape_guard_faults_total(void);

#endif /* _WIN32 */
#endif

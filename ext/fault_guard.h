/* fault_guard.h - a SIGBUS inside a registered mapping becomes a page of zeros and a counted fault.
 *
 * A mapping of a file faults with SIGBUS where the file no longer has bytes (somebody shortened it)
 * or where the medium cannot give or take them. The guard puts an anonymous page of zeros there,
 * counts the fault on the mapping's slot and lets the access finish. Whoever made the access looks
 * at the count afterwards and raises; nothing ever jumps out of a handler through frames of Python.
 *
 * A page that was replaced stays zeros until its mapping is made anew, also when the file grows
 * again: a slot whose count is not 0 stands for a mapping that must not be trusted any more.
 *
 * The guard sees loads and stores only. A system call that is given a pointer into the mapping
 * (write, send) does not raise SIGBUS there; it fails with EFAULT.
 */
#ifndef EVTAPE_FAULT_GUARD_H
#define EVTAPE_FAULT_GUARD_H

#include <stddef.h>
#include <stdint.h>

#ifdef _WIN32

/* Windows refuses to shorten a file that is mapped and has no SIGBUS: there is nothing to guard.
 * add() returns a slot that nobody counts on, because NULL stands for "out of memory". */
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

/* One registered mapping. Slots are recycled and never freed, because a handler may read them at
 * any moment. */
typedef struct evtape_guard_slot {
    /* Odd while start and stop are being changed. A thread that faults inside its own mapping finds
     * that mapping's slot at rest, so a handler skips every slot that is odd or changes while it is
     * read. */
    _Atomic(uint64_t) version;
    /* The guarded bytes are [start, stop); start == stop in a slot without a mapping. */
    _Atomic(uintptr_t) start;
    _Atomic(uintptr_t) stop;
    /* Pages replaced by zeros since add(). */
    _Atomic(uint64_t) faults;
    /* 1 from add() to remove(); taken with compare-and-swap, so two threads never get one slot. */
    _Atomic(int) taken;
} evtape_guard_slot;

/* Installs the handler on top of whatever is there; does nothing when it already is on top. Returns
 * 0 or an errno (ELOOP when handlers were stacked over ours more often than there are entry
 * points). */
int evtape_guard_enable(void);

/* Puts back what was there before. Returns 0, or EBUSY when somebody else's handler stands on ours:
 * then ours stays beneath it and only passes signals on. */
int evtape_guard_disable(void);

/* 1 when SIGBUS comes to our handler first. */
int evtape_guard_enabled(void);

/* Guards [start, start + length), which begins on a page. NULL: out of memory. Lock-free. */
evtape_guard_slot *evtape_guard_add(void *start, size_t length);

/* Ends the guard; call it before munmap and when no thread can touch the mapping any more. NULL is
 * allowed. */
void evtape_guard_remove(evtape_guard_slot *slot);

/* Faults met in this mapping. A fault is counted before the access that met it finishes, so a
 * thread that reads first and asks afterwards always learns of its own. */
static inline uint64_t evtape_guard_faults(const evtape_guard_slot *slot) {
    return atomic_load_explicit(&((evtape_guard_slot *)slot)->faults, memory_order_acquire);
}

/* Faults met in the process since it began. */
uint64_t evtape_guard_faults_total(void);

#endif /* _WIN32 */
#endif

/* live.c - see live.h.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* syscall */
#endif

#include "live.h"

#include "clock.h"
#include "layout.h"

#if defined(__linux__) && defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#define relax() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define relax() __asm__ volatile("yield")
#else
#define relax() ((void)0)
#endif

int evtape_live_supported(void) {
    return 1;
}

static int64_t write_offset(const uint8_t *base) {
    return atomic_load_explicit((const _Atomic(int64_t) *)base, memory_order_acquire);
}

/* The futex is not private to a process. Its key is the file and the page, so all mappings of the
 * stream share it. */
void evtape_live_wake(uint8_t *base, evtape_live *live) {
    (void)syscall(SYS_futex, base, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    /* A value above WriteOffset was not stored by a follower of this stream as it is now. It would
     * cost a system call at every publish. A follower that has seen the last publish may sleep by
     * now, and the value was high enough for it. So the value must not become lower than that. */
    int64_t armed = atomic_load_explicit(&live->armed, memory_order_relaxed);
    int64_t offset = write_offset(base);
    if (armed > offset)
        (void)atomic_compare_exchange_strong(&live->armed, &armed, offset);
}

void evtape_live_end(uint8_t *base, evtape_live *live, int64_t offset) {
    atomic_store_explicit(&live->ended, offset, memory_order_release);
    evtape_full_fence();
    if (atomic_load_explicit(&live->armed, memory_order_relaxed) >= offset)
        (void)syscall(SYS_futex, base, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static int has_ended(const evtape_live *live, int64_t offset) {
    return live != NULL && atomic_load_explicit(&live->ended, memory_order_acquire) == offset;
}

static void arm(evtape_live *live, int64_t offset) {
    int64_t armed = atomic_load_explicit(&live->armed, memory_order_relaxed);
    while (armed < offset && !atomic_compare_exchange_weak(&live->armed, &armed, offset))
        ;
    evtape_full_fence();
}

int evtape_live_wait(const uint8_t *base, evtape_live *live, int64_t offset, int64_t spin_ns,
                     int64_t timeout_ns) {
    if (write_offset(base) != offset)
        return EVTAPE_PUBLISHED;
    int64_t start = evtape_monotonic(), spun = 0;
    while (spun < spin_ns && spun < timeout_ns) {
        for (int i = 0; i < 16; i++) {
            if (write_offset(base) != offset)
                return EVTAPE_PUBLISHED;
            relax();
        }
        if (has_ended(live, offset))
            return EVTAPE_ENDED;
        spun = evtape_monotonic() - start;
    }
    if (live == NULL || spun >= timeout_ns)
        return EVTAPE_TIME_OVER;
    arm(live, offset);
    if (write_offset(base) != offset)
        return EVTAPE_PUBLISHED;
    if (has_ended(live, offset))
        return EVTAPE_ENDED;
    int64_t left = timeout_ns - spun;
    struct timespec time = {left / 1000000000, left % 1000000000};
    long slept = syscall(SYS_futex, base, FUTEX_WAIT, (uint32_t)offset, &time, NULL, 0);
    int error = slept == 0 ? 0 : errno;
    if (write_offset(base) != offset)
        return EVTAPE_PUBLISHED;
    if (has_ended(live, offset))
        return EVTAPE_ENDED;
    return error == EINTR ? EVTAPE_INTERRUPTED : EVTAPE_TIME_OVER;
}

#else

/* Other systems have no sleep on a shared mapping that is used here: followers poll. Not run. */

int evtape_live_supported(void) {
    return 0;
}
void evtape_live_wake(uint8_t *base, evtape_live *live) {
    (void)base, (void)live;
}
void evtape_live_end(uint8_t *base, evtape_live *live, int64_t offset) {
    (void)base, (void)live, (void)offset;
}
int evtape_live_wait(const uint8_t *base, evtape_live *live, int64_t offset, int64_t spin_ns,
                     int64_t timeout_ns) {
    (void)live;
    int64_t start = evtape_monotonic(), limit = spin_ns < timeout_ns ? spin_ns : timeout_ns;
    do {
        if (evtape_load_header(base).write_offset != offset)
            return EVTAPE_PUBLISHED;
    } while (evtape_monotonic() - start < limit);
    return EVTAPE_TIME_OVER;
}

#endif

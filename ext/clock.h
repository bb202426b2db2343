/* Unix time in nanoseconds, from the same clock as time.time_ns(). */
#ifndef EVTAPE_CLOCK_H
#define EVTAPE_CLOCK_H

#include <stdint.h>

#ifdef _WIN32
#include <windows.h>
static inline int64_t evtape_now(void) {
    FILETIME t; /* units of 100 ns since 1601 */
    GetSystemTimePreciseAsFileTime(&t);
    int64_t ticks = (int64_t)(((uint64_t)t.dwHighDateTime << 32) | t.dwLowDateTime);
    return (ticks - 116444736000000000LL) * 100;
}
#else
#include <time.h>
static inline int64_t evtape_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
#endif

#endif

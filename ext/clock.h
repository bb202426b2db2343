/* evtape_now: Unix time in nanoseconds, from the same clock as time.time_ns().
 * evtape_monotonic: nanoseconds of a clock that is never set.
 * evtape_thread_time: nanoseconds of processor time of the calling thread. */
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
static inline int64_t evtape_monotonic(void) {
    return (int64_t)GetTickCount64() * 1000000;
}
static inline int64_t evtape_thread_time(void) {
    return 0; /* not needed: Windows has no preallocator */
}
#else
#include <time.h>
static inline int64_t evtape_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
static inline int64_t evtape_thread_time(void) {
    struct timespec t = {0, 0};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
static inline int64_t evtape_monotonic(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
#endif

#endif

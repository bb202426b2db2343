/* live_check.c - tests ext/live.c without Python: no wake-up is lost.
 *
 *     cc -std=gnu11 -O2 -pthread -Iext tests/native/live_check.c ext/live.c -o live_check
 *     ./live_check DIRECTORY FOLLOWERS ROUNDS TIMEOUT_MS [threads] [stale]
 *
 * A writer publishes when all followers have seen the last publish, and each follower goes to sleep
 * at about that time. So a wake-up that is lost holds everybody up until the timeout. With `threads`
 * all share one mapping, for ThreadSanitizer; otherwise they are processes. With `stale` the page
 * often holds a value that is too high, as a follower of the stream before recovery has left it.
 *
 * Prints "rounds R slept S lost L". The exit code is 0 if the program ran to its end.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#ifndef __linux__
int main(void) {
    return 0;
}
#else

#include "clock.h"
#include "layout.h"
#include "live.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define FOLLOWERS_MAX 8
#define FIRST 24 /* WriteOffset of an empty stream */
#define EVENT 16
#define JITTER 256 /* of the moments at which a wait begins and an event is published */
#define COLD 128   /* cache lines: more than a processor lets wait */

/* What the harness shares, apart from what it tests. */
typedef struct {
    _Alignas(64) _Atomic(int64_t) published_at; /* the time of the last publish */
    struct {
        _Alignas(64) _Atomic(int64_t) seen; /* the WriteOffset that this follower has seen */
        _Atomic(int64_t) slept, lost;
    } followers[FOLLOWERS_MAX];
} board;

static board *shared;
static char stream_path[512], live_path[512];
static int64_t last, timeout_ns;
static bool stale;

static void *map(const char *path, int size, int protection) {
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    void *at = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, size) == 0)
        at = mmap(NULL, (size_t)size, protection, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        perror(path);
        exit(2);
    }
    close(fd);
    return at;
}

static uint32_t next_random(uint32_t *random) {
    return (*random = *random * 1664525u + 1013904223u) >> 16;
}

static void delay(int64_t count) {
    for (volatile int64_t i = 0; i < count; i++)
        ;
}

/* A payload in cold memory, as a writer of a large stream has it. Its stores take long, and
 * WriteOffset becomes visible after them. */
static uint8_t cold[COLD * 64];

static void make_cold(void) {
#if defined(__x86_64__)
    for (int i = 0; i < COLD; i++)
        _mm_clflush(cold + i * 64);
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

static void store_cold(uint32_t random) {
    for (uint32_t i = 0; i < COLD; i++)
        *(volatile uint8_t *)(cold + i * 64) = (uint8_t)random;
}

static void follow(int number, const uint8_t *stream, evtape_live *live) {
    uint32_t random = 7u + (uint32_t)number;
    int64_t at = FIRST, mean = 0;
    while (at < last) {
        delay(mean + next_random(&random) % JITTER);
        int64_t began = evtape_monotonic();
        int ended = evtape_live_wait(stream, live, at, 0, timeout_ns);
        int64_t now = evtape_monotonic();
        if (ended != EVTAPE_PUBLISHED)
            continue;
        /* So the next wait begins when the next event is published. */
        if (began < shared->published_at)
            mean += mean < 50000 ? 4 : 0;
        else
            mean -= mean > 4 ? 4 : 0;
        shared->followers[number].slept += now - began > 2000;
        /* It slept to the end although the event was there for half of the time. */
        if (now - began >= timeout_ns && now - shared->published_at > timeout_ns / 2)
            shared->followers[number].lost++;
        at = evtape_load_header(stream).write_offset;
        atomic_store_explicit(&shared->followers[number].seen, at, memory_order_release);
    }
}

static void write_all(int followers, uint8_t *stream, evtape_live *live) {
    uint32_t random = 1;
    for (int64_t at = FIRST; at < last; at += EVENT) {
        make_cold();
        for (int i = 0; i < followers; i++)
            while (atomic_load_explicit(&shared->followers[i].seen, memory_order_acquire) < at)
                if (evtape_monotonic() - shared->published_at > 50000)
                    sched_yield();
        delay(1000 + next_random(&random) % JITTER);
        if (stale && random >> 29 == 0)
            live->armed = INT64_MAX;
        atomic_store_explicit(&shared->published_at, evtape_monotonic(), memory_order_release);
        store_cold(random);
        evtape_publish(stream, at + EVENT, at / EVENT);
        evtape_live_ring(stream, live, at);
    }
}

struct task {
    int number;
    const uint8_t *stream;
    evtape_live *live;
};

static void *follow_in_thread(void *argument) {
    struct task *task = argument;
    follow(task->number, task->stream, task->live);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr,
                "usage: live_check DIRECTORY FOLLOWERS ROUNDS TIMEOUT_MS [threads] [stale]\n");
        return 2;
    }
    int followers = atoi(argv[2]);
    int64_t rounds = atoll(argv[3]);
    bool threads = false;
    for (int i = 5; i < argc; i++) {
        threads = threads || strcmp(argv[i], "threads") == 0;
        stale = stale || strcmp(argv[i], "stale") == 0;
    }
    if (followers < 1 || followers > FOLLOWERS_MAX)
        return 2;
    last = FIRST + rounds * EVENT;
    timeout_ns = atoll(argv[4]) * 1000000;
    snprintf(stream_path, sizeof stream_path, "%s/live_check.tape", argv[1]);
    snprintf(live_path, sizeof live_path, "%s/live_check.tape.live", argv[1]);
    unlink(stream_path);
    unlink(live_path);
    evtape_layout_init();
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint8_t *stream = map(stream_path, 4096, PROT_READ | PROT_WRITE);
    evtape_live *live = map(live_path, EVTAPE_LIVE_SIZE, PROT_READ | PROT_WRITE);
    if (shared == MAP_FAILED)
        return 2;
    evtape_publish(stream, FIRST, 0);
    for (int i = 0; i < followers; i++)
        shared->followers[i].seen = FIRST;
    bool failed = false;
    if (threads) {
        pthread_t ids[FOLLOWERS_MAX];
        struct task tasks[FOLLOWERS_MAX];
        for (int i = 0; i < followers; i++) {
            tasks[i] = (struct task){i, stream, live};
            if (pthread_create(&ids[i], NULL, follow_in_thread, &tasks[i]) != 0)
                return 2;
        }
        write_all(followers, stream, live);
        for (int i = 0; i < followers; i++)
            pthread_join(ids[i], NULL);
    } else {
        for (int i = 0; i < followers; i++) {
            if (fork() == 0) {
                /* As a follower: mappings of its own, and the stream cannot be written to. */
                follow(i, map(stream_path, 4096, PROT_READ),
                       map(live_path, EVTAPE_LIVE_SIZE, PROT_READ | PROT_WRITE));
                _exit(0);
            }
        }
        write_all(followers, stream, live);
        for (int i = 0, status; i < followers; i++)
            failed = wait(&status) < 0 || status != 0 || failed;
    }
    int64_t slept = 0, lost = 0;
    for (int i = 0; i < followers; i++) {
        slept += shared->followers[i].slept;
        lost += shared->followers[i].lost;
    }
    printf("rounds %lld slept %lld lost %lld\n", (long long)rounds, (long long)slept,
           (long long)lost);
    return failed ? 1 : 0;
}

#endif

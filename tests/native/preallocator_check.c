/* preallocator_check.c - tests and measures ext/preallocate.c and ext/preallocator.c, no Python.
 *
 *     cc -std=c11 -O2 -pthread -Iext tests/native/preallocator_check.c ext/preallocat*.c \
 *         -o preallocator_check
 *     ./preallocator_check [directory]
 *         runs the tests
 *     ./preallocator_check --bench [directory [events [rounds [job]]]]
 *         measures whole jobs, interleaved, and prints medians
 *
 * The exit code is 0 if all tests pass. The program names and skips each test that cannot run
 * (without root or tmpfs).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#ifdef _WIN32
int main(void) {
    return 0;
}
#else

#include "pace.h"
#include "preallocator.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/mount.h>
#endif

#define MIB ((int64_t)1 << 20)

static int failures;

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            printf("FAILED %s:%d: %s (errno %d)\n", __FILE__, __LINE__, #what, errno);             \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)

/* ---- a stream without a format ---- */

struct tape {
    int fd;
    char path[512];
    char *raw;
    char *base;
    int64_t reserved;
};

static int64_t *offset_of(struct tape *t) {
    return (int64_t *)(void *)t->base;
}
static void publish(struct tape *t, int64_t end) {
    __atomic_store_n(offset_of(t), end, __ATOMIC_RELEASE);
}

static int64_t size_of(int fd) {
    struct stat s;
    return fstat(fd, &s) == 0 ? (int64_t)s.st_size : -1;
}

static void tape_open(struct tape *t, const char *directory, int64_t reserved) {
    snprintf(t->path, sizeof t->path, "%s/preallocator_check.%ld.tape", directory, (long)getpid());
    t->fd = open(t->path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (t->fd < 0) {
        perror(t->path);
        exit(1);
    }
    int64_t unit = EVTAPE_HUGE_PAGE;
    t->reserved = reserved;
    t->raw = mmap(NULL, (size_t)(reserved + unit), PROT_NONE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    t->base = (char *)(((uintptr_t)t->raw + (uintptr_t)unit - 1) & ~((uintptr_t)unit - 1));
    void *m =
        mmap(t->base, (size_t)reserved, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, t->fd, 0);
    if (t->raw == MAP_FAILED || m == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
}

static void tape_close(struct tape *t) {
    munmap(t->raw, (size_t)(t->reserved + EVTAPE_HUGE_PAGE));
    close(t->fd);
    unlink(t->path);
}

static int announce_and_wait(evtape_preallocator *p, int64_t end) {
    evtape_preallocator_announce(p);
    return evtape_preallocator_wait(p, end);
}

/* The writer's slow path, as preallocator.h describes it. */
static int get_space(evtape_preallocator *p, int64_t end, int64_t *limit) {
    int64_t got = evtape_preallocator_limit(p, end);
    if (got < end) {
        int error = announce_and_wait(p, end);
        if (error != 0)
            return error;
        got = evtape_preallocator_limit(p, end);
    }
    *limit = got;
    return 0;
}

/* Appends until `stop_at`. Every byte is a function of its position, so that a wrong page shows. */
static int fill(struct tape *t, evtape_preallocator *p, int64_t *position, int64_t stop_at,
                int64_t unit) {
    int64_t limit = 0;
    while (*position + unit <= stop_at) {
        int64_t end = *position + unit;
        if (end > limit) {
            int error = get_space(p, end, &limit);
            if (error != 0)
                return error;
        }
        memset(t->base + *position, (int)(1 + (*position / unit) % 251), (size_t)unit);
        *position = end;
        publish(t, end);
    }
    return 0;
}

static bool filled(struct tape *t, int64_t from, int64_t to, int64_t unit) {
    for (int64_t p = from; p + unit <= to; p += unit) {
        int want = 1 + (int)((p / unit) % 251);
        char byte = 0;
        if (t->base[p] != (char)want || t->base[p + unit - 1] != (char)want)
            return false;
        if (pread(t->fd, &byte, 1, (off_t)(p + unit / 2)) != 1 || byte != (char)want)
            return false;
    }
    return true;
}

/* ---- tests ---- */

static void test_preallocate(const char *directory) {
    struct tape t;
    tape_open(&t, directory, 64 * MIB);
    for (int populate = EVTAPE_PAGES_NONE; populate <= EVTAPE_PAGES_MEDIUM; populate++) {
        int64_t from = populate * 6 * MIB;
        CHECK(evtape_preallocate(t.fd, t.base, from, from + 6 * MIB, populate) == 0);
        CHECK(size_of(t.fd) == from + 6 * MIB);
        t.base[from + 6 * MIB - 1] = 1;
    }
    CHECK(evtape_preallocate(t.fd, t.base, 24 * MIB, 24 * MIB + 100, EVTAPE_PAGES_HUGE) == 0);
    CHECK(size_of(t.fd) == 24 * MIB + 100);
    /* A call below the file's size keeps the data and does not shorten the file. */
    CHECK(evtape_preallocate(t.fd, t.base, 0, MIB, EVTAPE_PAGES_HUGE) == 0);
    CHECK(size_of(t.fd) == 24 * MIB + 100 && t.base[6 * MIB - 1] == 1);
    /* If the file ends within a huge page, the rest of the page is filled and the data stays. */
    CHECK(ftruncate(t.fd, 0) == 0 && pwrite(t.fd, "abcdefgh", 8, 0) == 8);
    CHECK(evtape_preallocate(t.fd, t.base, 4, 5 * MIB, EVTAPE_PAGES_HUGE) == 0);
    CHECK(size_of(t.fd) == 5 * MIB && memcmp(t.base, "abcdefgh\0", 10) == 0);
    memset(t.base + 8, 'i', (size_t)(5 * MIB - 8));
    CHECK(evtape_preallocate(t.fd, t.base, 8, 9 * MIB, EVTAPE_PAGES_HUGE) == 0);
    CHECK(t.base[8] == 'i' && t.base[5 * MIB - 1] == 'i' && t.base[5 * MIB] == 0);
    CHECK(ftruncate(t.fd, (off_t)(24 * MIB + 100)) == 0);
    CHECK(evtape_preallocate(t.fd, t.base, 5, 5, EVTAPE_PAGES_HUGE) == 0);
    CHECK(evtape_preallocate(t.fd, t.base, 6, 5, EVTAPE_PAGES_HUGE) == EINVAL);
    CHECK(evtape_preallocate(-1, t.base, 0, MIB, EVTAPE_PAGES_HUGE) == EBADF);
    tape_close(&t);
}

static void test_growth(const char *directory, int64_t bytes, int populate, int write_back) {
    struct tape t;
    tape_open(&t, directory, bytes + 64 * MIB);
    CHECK(evtape_preallocate(t.fd, t.base, 0, EVTAPE_HUGE_PAGE, populate) == 0);
    publish(&t, 24);
    evtape_preallocator *p =
        evtape_preallocator_start(t.fd, t.base, t.reserved, 0, EVTAPE_HUGE_PAGE, offset_of(&t), 0);
    CHECK(p != NULL);
    evtape_preallocator_mode(p, populate, write_back);
    int64_t position = 1040;
    CHECK(fill(&t, p, &position, bytes, 1040) == 0);
    CHECK(evtape_preallocator_ready(p) >= position &&
          size_of(t.fd) >= evtape_preallocator_ready(p));
    /* After the writer there is at most the largest step and the largest distance. */
    CHECK(size_of(t.fd) <= position + 48 * MIB);
    evtape_preallocator_stop(p);
    CHECK(ftruncate(t.fd, (off_t)position) == 0);
    CHECK(filled(&t, 1040, position, 1040));
    tape_close(&t);
}

static int64_t resident_bytes(void) {
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f == NULL || fscanf(f, "%*d %ld", &pages) != 1)
        pages = 0;
    if (f != NULL)
        fclose(f);
    return (int64_t)pages * sysconf(_SC_PAGESIZE);
}

static void test_resident_memory(const char *directory, int64_t bytes) {
    struct tape t;
    tape_open(&t, directory, bytes + 64 * MIB);
    CHECK(evtape_preallocate(t.fd, t.base, 0, EVTAPE_HUGE_PAGE, EVTAPE_PAGES_HUGE) == 0);
    publish(&t, 24);
    evtape_preallocator *p =
        evtape_preallocator_start(t.fd, t.base, t.reserved, 0, EVTAPE_HUGE_PAGE, offset_of(&t), 0);
    int64_t position = 65536, highest = 0;
    for (int64_t to = 32 * MIB; to <= bytes; to += 32 * MIB) {
        CHECK(fill(&t, p, &position, to, 65536) == 0);
        int64_t now = resident_bytes();
        highest = now > highest ? now : highest;
    }
    printf("  %lld MiB written, at most %lld MiB resident\n", (long long)(bytes / MIB),
           (long long)(highest / MIB));
#if defined(__linux__) && !defined(__SANITIZE_THREAD__) /* its shadow memory counts too */
    CHECK(highest < 256 * MIB);
#endif
    evtape_preallocator_stop(p);
    CHECK(filled(&t, 65536, position, 65536));
    tape_close(&t);
}

/* The preallocator never extends the file beyond the mapping. */
static void test_reserved_is_the_end(const char *directory) {
    struct tape t;
    tape_open(&t, directory, 12 * MIB);
    CHECK(evtape_preallocate(t.fd, t.base, 0, 4096, EVTAPE_PAGES_HUGE) == 0);
    publish(&t, 24);
    evtape_preallocator *p =
        evtape_preallocator_start(t.fd, t.base, t.reserved, 0, 4096, offset_of(&t), 0);
    int64_t position = 1024;
    CHECK(fill(&t, p, &position, 12 * MIB, 1024) == 0);
    CHECK(position == 12 * MIB && size_of(t.fd) == 12 * MIB);
    CHECK(announce_and_wait(p, 12 * MIB + 1) == EFBIG);
    CHECK(announce_and_wait(p, 12 * MIB) == 0);
    CHECK(size_of(t.fd) == 12 * MIB);
    evtape_preallocator_stop(p);
    tape_close(&t);
}

#ifdef __linux__
static bool small_disk(char *path, size_t size) {
    snprintf(path, size, "/tmp/preallocator_check.XXXXXX");
    if (mkdtemp(path) == NULL)
        return false;
    if (mount("tmpfs", path, "tmpfs", 0, "size=4m") == 0)
        return true;
    printf("  skipped: cannot mount a tmpfs (%s)\n", strerror(errno));
    rmdir(path);
    return false;
}

static void test_full_disk(bool with_thread) {
    char directory[64], ballast[96];
    if (!small_disk(directory, sizeof directory))
        return;
    snprintf(ballast, sizeof ballast, "%s/ballast", directory);
    int other = open(ballast, O_RDWR | O_CREAT, 0600);
    CHECK(posix_fallocate(other, 0, 2 * MIB) == 0);
    struct tape t;
    tape_open(&t, directory, 64 * MIB);
    CHECK(evtape_preallocate(t.fd, t.base, 0, 4 * MIB, EVTAPE_PAGES_HUGE) == ENOSPC);
    CHECK(size_of(t.fd) == 0);
    CHECK(evtape_preallocate(t.fd, t.base, 0, 4096, EVTAPE_PAGES_HUGE) == 0);
    publish(&t, 24);
    evtape_preallocator *p =
        evtape_preallocator_start(t.fd, t.base, t.reserved, 0, 4096, offset_of(&t), 0);
    /* On so small a disk only a wait that cannot succeed starts the thread. */
    if (with_thread)
        CHECK(announce_and_wait(p, 16 * MIB) == ENOSPC);
    int64_t position = 1024;
    CHECK(fill(&t, p, &position, 16 * MIB, 1024) == ENOSPC);
    CHECK(position >= MIB + MIB / 2 && position <= 2 * MIB); /* it used the last free pages */
    CHECK(size_of(t.fd) == evtape_preallocator_ready(p));
    int64_t stuck = position;
    CHECK(fill(&t, p, &position, 16 * MIB, 1024) == ENOSPC && position == stuck);
    close(other);
    unlink(ballast);
    CHECK(fill(&t, p, &position, 16 * MIB, 1024) == ENOSPC);
    CHECK(position > stuck + MIB);
    CHECK(filled(&t, 1024, position, 1024));
    evtape_preallocator_stop(p);
    tape_close(&t);
    CHECK(umount(directory) == 0);
    rmdir(directory);
}
#endif

static void test_file_size_limit(const char *directory, int64_t bytes) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        failures = 0;
        struct rlimit limit = {(rlim_t)bytes, (rlim_t)bytes};
        signal(SIGXFSZ, SIG_IGN); /* like Python */
        struct tape t;
        tape_open(&t, directory, 64 * MIB);
        CHECK(evtape_preallocate(t.fd, t.base, 0, 4096, EVTAPE_PAGES_HUGE) == 0);
        publish(&t, 24);
        evtape_preallocator *p =
            evtape_preallocator_start(t.fd, t.base, t.reserved, 0, 4096, offset_of(&t), 0);
        CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
        int64_t position = 1000;
        CHECK(fill(&t, p, &position, 32 * MIB, 1000) == EFBIG);
        CHECK(position == bytes - bytes % 1000 && size_of(t.fd) <= bytes);
        CHECK(evtape_preallocate(t.fd, t.base, bytes, bytes + 1, EVTAPE_PAGES_HUGE) == EFBIG);
        CHECK(filled(&t, 1000, position, 1000));
        evtape_preallocator_stop(p);
        tape_close(&t);
        fflush(stdout);
        _exit(failures != 0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static int open_descriptors(void) {
    int count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) != -1;
    return count;
}

static void test_stop_anywhere(const char *directory) {
    struct tape t;
    tape_open(&t, directory, 128 * MIB);
    CHECK(evtape_preallocate(t.fd, t.base, 0, 4096, EVTAPE_PAGES_HUGE) == 0);
    int before = open_descriptors();
    evtape_preallocator_stop(NULL);
    for (int i = 0; i < 100; i++) {
        publish(&t, 24);
        CHECK(ftruncate(t.fd, 4096) == 0);
        evtape_preallocator *p =
            evtape_preallocator_start(t.fd, t.base, t.reserved, 0, 4096, offset_of(&t), 0);
        int64_t position = 1024;
        /* 0: untouched, 1: small and without a thread, 2: the thread has just started,
         * 3: it works or sleeps */
        static const int64_t until[] = {0, MIB, 17 * MIB, 40 * MIB};
        CHECK(fill(&t, p, &position, until[i % 4], 1024) == 0);
        for (int k = 0; k < i % 3; k++)
            evtape_preallocator_wake(p);
        if (i % 8 == 7)
            usleep(3000);
        evtape_preallocator_stop(p);
    }
    CHECK(open_descriptors() == before);
    tape_close(&t);
}

struct waiter {
    evtape_preallocator *p;
    int64_t end;
    int result;
};

static void *wait_main(void *argument) {
    struct waiter *w = argument;
    for (int64_t end = MIB; end <= w->end && w->result == 0; end += MIB)
        w->result = announce_and_wait(w->p, end);
    return NULL;
}

/* Several threads may wait at once, and stop() releases them. */
static void test_waiters(const char *directory) {
    for (int round = 0; round < 10; round++) {
        struct tape t;
        tape_open(&t, directory, 256 * MIB);
        CHECK(evtape_preallocate(t.fd, t.base, 0, 4096, EVTAPE_PAGES_HUGE) == 0);
        publish(&t, 24);
        evtape_preallocator *p =
            evtape_preallocator_start(t.fd, t.base, t.reserved, 0, 4096, offset_of(&t), 0);
        pthread_t threads[4];
        struct waiter waiters[4];
        for (int i = 0; i < 4; i++) {
            waiters[i] = (struct waiter){p, 64 * MIB, 0};
            pthread_create(&threads[i], NULL, wait_main, &waiters[i]);
        }
        for (int i = 0; i < 1000; i++)
            evtape_preallocator_wake(p);
        for (int i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
        for (int i = 0; i < 4; i++)
            CHECK(waiters[i].result == 0);
        CHECK(evtape_preallocator_ready(p) >= 64 * MIB && size_of(t.fd) >= 64 * MIB);
        evtape_preallocator_stop(p);
        tape_close(&t);
    }
}

static void test_fork(const char *directory) {
    struct tape t;
    tape_open(&t, directory, 128 * MIB);
    CHECK(evtape_preallocate(t.fd, t.base, 0, 4096, EVTAPE_PAGES_HUGE) == 0);
    publish(&t, 24);
    evtape_preallocator *p =
        evtape_preallocator_start(t.fd, t.base, t.reserved, 0, 4096, offset_of(&t), 0);
    int64_t position = 1024;
    for (int i = 1; i <= 16; i++) {
        CHECK(fill(&t, p, &position, i * 6 * MIB, 1024) == 0);
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            int before = open_descriptors();
            evtape_preallocator_forked(NULL);
            evtape_preallocator_forked(p);
            _exit(open_descriptors() != before - 1);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    CHECK(filled(&t, 1024, position, 1024));
    evtape_preallocator_stop(p);
    tape_close(&t);
}

/* An idle thread must not use processor time. */
static void test_idle(const char *directory) {
    struct tape t;
    tape_open(&t, directory, 128 * MIB);
    CHECK(evtape_preallocate(t.fd, t.base, 0, 4096, EVTAPE_PAGES_HUGE) == 0);
    publish(&t, 24);
    evtape_preallocator *p =
        evtape_preallocator_start(t.fd, t.base, t.reserved, 0, 4096, offset_of(&t), 0);
    int64_t position = 1024;
    CHECK(fill(&t, p, &position, 32 * MIB, 1024) == 0);
    usleep(100000);
    struct timespec a, b;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    usleep(300000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    CHECK((b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec < 5000000L);
    evtape_preallocator_stop(p);
    tape_close(&t);
}

/* A writer of unknown pace gets a short piece. */
static void test_first_piece_is_short(const char *directory) {
    struct tape t;
    tape_open(&t, directory, 64 * MIB);
    CHECK(evtape_preallocate(t.fd, t.base, 0, 4 * MIB, EVTAPE_PAGES_HUGE) == 0);
    publish(&t, 4 * MIB);
    evtape_preallocator *p =
        evtape_preallocator_start(t.fd, t.base, t.reserved, 4 * MIB, 4 * MIB, offset_of(&t), 0);
    int64_t limit = 0;
    CHECK(get_space(p, 4 * MIB + 1000, &limit) == 0);
    CHECK(limit >= 4 * MIB + 1000 && limit <= 4 * MIB + 128 * 1024);
    /* An event that fills a huge page gets one. */
    CHECK(get_space(p, 9 * MIB, &limit) == 0 && limit >= 9 * MIB);
    evtape_preallocator_stop(p);
    tape_close(&t);
}

/* A paced writer does not wait once the thread is ahead of it. A few waits are allowed, because
 * other processes may keep the thread from running. */
static void test_paced_writer(const char *directory) {
    struct tape t;
    tape_open(&t, directory, 128 * MIB);
    CHECK(evtape_preallocate(t.fd, t.base, 0, EVTAPE_HUGE_PAGE, EVTAPE_PAGES_HUGE) == 0);
    publish(&t, 24);
    evtape_preallocator *p =
        evtape_preallocator_start(t.fd, t.base, t.reserved, 0, EVTAPE_HUGE_PAGE, offset_of(&t), 0);
    int64_t position = 65536, limit = EVTAPE_HUGE_PAGE;
    int waits = 0;
    while (position + 65536 <= 24 * MIB) {
        usleep(1000);
        if (position + 65536 > limit) {
            bool late = evtape_preallocator_ready(p) < position + 65536;
            waits += late && position > 6 * MIB;
            CHECK(get_space(p, position + 65536, &limit) == 0);
        }
        memset(t.base + position, 1, 65536);
        position += 65536;
        publish(&t, position);
    }
    printf("  %d waits\n", waits);
    CHECK(waits <= 16);
    evtape_preallocator_stop(p);
    tape_close(&t);
}

/* A writer may store hundreds of MiB between two looks, or no time may have passed. Others divide by
 * the time that it takes for 2 MiB. */
static void test_pace_of_a_batch(void) {
    for (int64_t elapsed = -1; elapsed < 3; elapsed++) {
        evtape_pace pace;
        evtape_pace_init(&pace, 0, 1000, 1);
        for (int64_t i = 1; i < 9; i++) {
            evtape_pace_of_writer(&pace, i << 30, 1000 + i * elapsed);
            CHECK(pace.use_ns >= 1);
        }
    }
}

static void run_tests(const char *directory) {
    test_pace_of_a_batch();
    printf("preallocate\n");
    test_preallocate(directory);
    printf("growth\n");
    test_growth(directory, 300 * MIB, EVTAPE_PAGES_HUGE, 1);
    test_growth(directory, 300 * MIB, EVTAPE_PAGES_HUGE, 0);
    test_growth(directory, 100 * MIB, EVTAPE_PAGES_SMALL, 0);
    test_growth(directory, 100 * MIB, EVTAPE_PAGES_NONE, 0);
    test_growth(directory, 3 * MIB, EVTAPE_PAGES_HUGE, 0);
    test_reserved_is_the_end(directory);
    printf("resident memory\n");
    test_resident_memory(directory, 1024 * MIB);
#ifdef __linux__
    printf("full disk\n");
    test_full_disk(false);
    test_full_disk(true);
#endif
    printf("file size limit\n");
    test_file_size_limit(directory, MIB + 12345);
    test_file_size_limit(directory, 20 * MIB + 12345);
    printf("stop anywhere\n");
    test_stop_anywhere(directory);
    printf("waiters\n");
    test_waiters(directory);
    printf("fork\n");
    test_fork(directory);
    printf("idle\n");
    test_idle(directory);
    printf("pace\n");
    test_first_piece_is_short(directory);
    test_paced_writer(directory);
}

/* ---- measuring ---- */

enum job { NAIVE, WRITE, INLINE, PREALLOCATOR, PREALLOCATOR_WRITE_BACK, PREALLOCATOR_SMALL, JOBS };
static const char *const job_names[JOBS] = {
    "naive ftruncate + mmap", "1 MiB buffer + write()",   "space in line",
    "preallocator",           "preallocator, write-back", "preallocator, small pages"};

#define EVENT 1040
static char payload[1024];

static int64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Replaces the checksum: it reads the payload once, as fast as a vectorised CRC does. */
static void put(char *entry) {
    uint64_t header[2] = {0, 1024}, word;
    for (int i = 0; i < 128; i++) {
        memcpy(&word, payload + 8 * i, 8);
        header[0] += word;
    }
    memcpy(entry, header, 16);
    memcpy(entry + 16, payload, 1024);
}

static void job_write(struct tape *t, int64_t events) {
    size_t size = (size_t)MIB, used = 24;
    char *buffer = calloc(1, size);
    for (int64_t i = 0; i < events; i++) {
        if (used + EVENT > size) {
            if (write(t->fd, buffer, used) != (ssize_t)used)
                abort();
            used = 0;
        }
        put(buffer + used);
        used += EVENT;
    }
    if (write(t->fd, buffer, used) != (ssize_t)used)
        abort();
    free(buffer);
}

static void job_mapped(struct tape *t, int64_t events, enum job job) {
    int64_t end = 24 + events * EVENT, offset = 24, limit = EVTAPE_HUGE_PAGE, made = limit;
    evtape_preallocator *p = NULL;
    int error = 0;
    if (job == NAIVE) {
        error = ftruncate(t->fd, (off_t)end);
        limit = end;
    } else {
        /* A stream's header is written before its space is allocated. */
        int mode = job == PREALLOCATOR_SMALL ? EVTAPE_PAGES_SMALL : EVTAPE_PAGES_HUGE;
        if (pwrite(t->fd, payload, 24, 0) != 24)
            abort();
        error = evtape_preallocate(t->fd, t->base, 24, limit, mode);
    }
    publish(t, offset);
    if (job > INLINE) {
        p = evtape_preallocator_start(t->fd, t->base, t->reserved, 0, limit, offset_of(t), 0);
        evtape_preallocator_mode(p,
                                 job == PREALLOCATOR_SMALL ? EVTAPE_PAGES_SMALL : EVTAPE_PAGES_HUGE,
                                 job == PREALLOCATOR_WRITE_BACK);
    }
    for (int64_t i = 0; i < events && error == 0; i++) {
        if (offset + EVENT > limit && job == INLINE) {
            int64_t step = made / 8 / EVTAPE_HUGE_PAGE * EVTAPE_HUGE_PAGE;
            step = step < 2 * MIB ? 2 * MIB : step > 8 * MIB ? 8 * MIB : step;
            error = evtape_preallocate(t->fd, t->base, made, made + step, EVTAPE_PAGES_HUGE);
            limit = made += step;
        } else if (offset + EVENT > limit) {
            error = get_space(p, offset + EVENT, &limit);
        }
        put(t->base + offset);
        offset += EVENT;
        publish(t, offset);
    }
    evtape_preallocator_stop(p);
    if (error != 0 || ftruncate(t->fd, (off_t)end) != 0) {
        printf("no space: %s\n", strerror(error != 0 ? error : errno));
        exit(1);
    }
}

struct cost {
    double ns;        /* per event, elapsed time */
    double writer_ns; /* processor time of the writer, which a busy machine affects less */
    double all_ns;    /* processor time of the process */
};

/* Creates, appends, closes, cuts, unmaps. The time excludes the deletion. */
static struct cost job_run(const char *directory, int64_t events, enum job job) {
    struct tape t;
    int64_t start = now_ns(CLOCK_MONOTONIC);
    int64_t writer = now_ns(CLOCK_THREAD_CPUTIME_ID), all = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    tape_open(&t, directory, (24 + events * EVENT + 64 * MIB) / (2 * MIB) * (2 * MIB));
    if (job == WRITE)
        job_write(&t, events);
    else
        job_mapped(&t, events, job);
    munmap(t.raw, (size_t)(t.reserved + EVTAPE_HUGE_PAGE));
    close(t.fd);
    double n = (double)events;
    struct cost cost = {(double)(now_ns(CLOCK_MONOTONIC) - start) / n,
                        (double)(now_ns(CLOCK_THREAD_CPUTIME_ID) - writer) / n,
                        (double)(now_ns(CLOCK_PROCESS_CPUTIME_ID) - all) / n};
    unlink(t.path);
    return cost;
}

/* Memory that the host has not given to the guest yet costs far more than a page fault. So the
 * program touches it before each run, and every job finds the same state. */
static void warm_memory(int64_t bytes) {
    char *p = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return;
#ifdef __linux__
    madvise(p, (size_t)bytes, MADV_HUGEPAGE);
#endif
    for (int64_t i = 0; i < bytes; i += 4096)
        p[i] = 1;
    munmap(p, (size_t)bytes);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

#define ROUNDS_MAX 101

struct series {
    double ns[ROUNDS_MAX], writer_ns[ROUNDS_MAX], all_ns[ROUNDS_MAX];
};

static void sort_series(struct series *s, int rounds) {
    qsort(s->ns, (size_t)rounds, sizeof s->ns[0], by_value);
    qsort(s->writer_ns, (size_t)rounds, sizeof s->ns[0], by_value);
    qsort(s->all_ns, (size_t)rounds, sizeof s->ns[0], by_value);
}

static void report(struct series *series, int64_t events, int rounds, int only) {
    int middle = rounds / 2;
    printf("%lld events of 1 KiB, %d rounds, ns per event\n", (long long)events, rounds);
    printf("%-26s %7s %7s %7s %8s %8s %8s %8s\n", "", "best", "quarter", "median", "naive/x",
           "write/x", "writer's", "process");
    for (int job = 0; job < JOBS; job++) {
        struct series *s = &series[job];
        if (only < 0 || job == only)
            printf("%-26s %7.0f %7.0f %7.0f %8.2f %8.2f %8.0f %8.0f\n", job_names[job], s->ns[0],
                   s->ns[rounds / 4], s->ns[middle], series[NAIVE].ns[middle] / s->ns[middle],
                   series[WRITE].ns[middle] / s->ns[middle], s->writer_ns[middle],
                   s->all_ns[middle]);
    }
}

/* only: the number of the one job to run, or -1 for all. */
static void run_bench(const char *directory, int64_t events, int rounds, int only) {
    static struct series series[JOBS];
    memset(payload, 7, sizeof payload);
    rounds = rounds < 1 ? 1 : rounds > ROUNDS_MAX ? ROUNDS_MAX : rounds;
    for (int r = 0; r < rounds; r++) {
        for (int job = 0; job < JOBS; job++) {
            if (only >= 0 && job != only)
                continue;
            /* The kernel discards a freed file in the background; the next job would pay for it. */
            if (events > 100000) {
                sync();
                usleep(100000);
            }
            warm_memory(events * EVENT * 3 / 2 + 64 * MIB);
            struct cost cost = job_run(directory, events, (enum job)job);
            series[job].ns[r] = cost.ns;
            series[job].writer_ns[r] = cost.writer_ns;
            series[job].all_ns[r] = cost.all_ns;
        }
    }
    for (int job = 0; job < JOBS; job++)
        sort_series(&series[job], rounds);
    report(series, events, rounds, only);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        const char *directory = argc > 2 ? argv[2] : ".";
        int64_t events = argc > 3 ? atoll(argv[3]) : 0;
        int rounds = argc > 4 ? atoi(argv[4]) : 9;
        if (events > 0) {
            run_bench(directory, events, rounds, argc > 5 ? atoi(argv[5]) : -1);
        } else {
            run_bench(directory, 10000, rounds, -1);
            run_bench(directory, 1000000, rounds, -1);
        }
        return 0;
    }
    run_tests(argc > 1 ? argv[1] : ".");
    printf(failures ? "%d checks failed\n" : "all checks passed\n", failures);
    return failures != 0;
}

#endif

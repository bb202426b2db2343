/* Checks and measures every implementation in ext/crc32.c.
 *
 *     cc -O2 -Iext tests/native/crc32_check.c ext/crc32.c -pthread -o crc32_check
 *     ./crc32_check            check; prints each step, exits with 1 at the first difference
 *     ./crc32_check --bench    measure; -DWITH_ZLIB -lz and -DWITH_ISAL -lisal add these two
 *
 * The reference computes one bit at a time. It shares no code and no table with the
 * implementations. With -DWITH_ZLIB the program also compares the reference with zlib. Needs POSIX
 * (mmap, threads).
 *
 * SPDX-License-Identifier: MIT
 */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "crc32.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#if defined(WITH_ZLIB)
#include <zlib.h>
#endif
#if defined(WITH_ISAL)
#include <isa-l/crc.h>
#endif

enum { LONGEST = 4200, ALIGNMENTS = 64, MOST_IMPLEMENTATIONS = 8 };

static const char *implementation = "";
static const char *implementations[MOST_IMPLEMENTATIONS];
static int implementation_count;

/* ---- Tools ----------------------------------------------------------------------------------- */

static uint64_t random_state = UINT64_C(0x9e3779b97f4a7c15);

static uint64_t random64(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void fill(unsigned char *p, size_t n) {
    while (n-- > 0)
        *p++ = (unsigned char)(random64() >> 32);
}

/* Appends one byte, bit by bit, to the register itself, without the two inversions. */
static uint32_t reference_byte(uint32_t state, unsigned char byte) {
    state ^= byte;
    for (int bit = 0; bit < 8; bit++)
        state = state & 1 ? state >> 1 ^ UINT32_C(0xEDB88320) : state >> 1;
    return state;
}

static uint32_t reference(uint32_t crc, const unsigned char *p, size_t n) {
    uint32_t state = ~crc;
    while (n-- > 0)
        state = reference_byte(state, *p++);
    return ~state;
}

static void expect(int good, const char *what, size_t n, size_t at) {
    if (good)
        return;
    printf("FAILED  implementation %s, %s, length %zu, at %zu\n", implementation, what, n, at);
    exit(1);
}

/* Returns `size` bytes between two inaccessible pages. */
static unsigned char *fenced(size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *p =
        mmap(NULL, size + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || size % page != 0 || mprotect(p, page, PROT_NONE) != 0 ||
        mprotect(p + page + size, page, PROT_NONE) != 0) {
        perror("fenced");
        exit(2);
    }
    return p + page;
}

/* ---- Checks ---------------------------------------------------------------------------------- */

static uint32_t expected[ALIGNMENTS][LONGEST + 1];
static unsigned char *data; /* ALIGNMENTS + LONGEST bytes on a page boundary */

static void make_expected(void) {
    data = aligned_alloc(4096, 8192);
    fill(data, 8192);
    for (size_t at = 0; at < ALIGNMENTS; at++) {
        uint32_t state = ~(uint32_t)0;
        for (size_t n = 0; n <= LONGEST; n++) {
            expected[at][n] = ~state;
            state = reference_byte(state, data[at + n]);
#if defined(WITH_ZLIB)
            expect(expected[at][n] == crc32(0, data + at, (unsigned)n), "the reference", n, at);
#endif
        }
    }
    expect(reference(0, (const unsigned char *)"123456789", 9) == 0xCBF43926, "check value", 9, 0);
}

/* Every length at every alignment. */
static void check_lengths(void) {
    for (size_t at = 0; at < ALIGNMENTS; at++)
        for (size_t n = 0; n <= LONGEST; n++)
            expect(evtape_crc32(0, data + at, n) == expected[at][n], "crc", n, at);
    expect(evtape_crc32(0, NULL, 0) == 0, "crc of nothing", 0, 0);
    expect(evtape_crc32(0x12345678, NULL, 0) == 0x12345678, "crc of nothing more", 0, 0);
}

/* Splits a message at two random points, and uses one start value that no message produces. */
static void check_chains(void) {
    for (size_t n = 0; n <= LONGEST; n++) {
        for (int round = 0; round < 4; round++) {
            size_t at = random64() % ALIGNMENTS, j = random64() % (n + 1);
            size_t i = random64() % (j + 1);
            uint32_t crc = evtape_crc32(0, data + at, i);
            crc = evtape_crc32(crc, data + at + i, j - i);
            crc = evtape_crc32(crc, data + at + j, n - j);
            expect(crc == expected[at][n], "chain", n, at);
        }
        uint32_t start = (uint32_t)random64();
        expect(evtape_crc32(start, data, n) == reference(start, data, n), "start value", n, 0);
    }
    for (size_t n = 0; n <= 300; n++)
        for (size_t i = 0; i <= n; i++)
            expect(evtape_crc32(evtape_crc32(0, data, i), data + i, n - i) == expected[0][n], "cut",
                   n, i);
}

/* Checks the copied bytes, the CRC, and the unchanged bytes around the copy. */
static void check_copy(void) {
    enum { GUARD = 128 };
    static unsigned char image[GUARD + ALIGNMENTS + LONGEST + GUARD], before[sizeof image];
    fill(before, sizeof before);
    for (size_t n = 0; n <= LONGEST; n++) {
        for (size_t round = 0; round < (n <= 300 ? ALIGNMENTS : 4); round++) {
            size_t from = n <= 300 ? round : random64() % ALIGNMENTS;
            size_t to = GUARD + random64() % ALIGNMENTS;
            memcpy(image, before, sizeof image);
            expect(evtape_copy_crc32(image + to, data + from, n) == expected[from][n],
                   "crc of a copy", n, from);
            expect(memcmp(image + to, data + from, n) == 0, "copied bytes", n, from);
            expect(memcmp(image, before, to) == 0, "bytes before a copy", n, to);
            expect(memcmp(image + to + n, before + to + n, sizeof image - to - n) == 0,
                   "bytes after a copy", n, to);
        }
    }
}

/* Any access outside the source or the destination is a SIGSEGV here, because inaccessible pages
 * lie before and after both. */
static void check_fences(void) {
    const size_t size = 65536; /* a multiple of any page size */
    unsigned char *src = fenced(size), *dst = fenced(size);
    for (size_t n = 0; n <= LONGEST; n++) {
        for (int ends = 0; ends < 4; ends++) {
            unsigned char *from = ends & 1 ? src + size - n : src;
            unsigned char *to = ends & 2 ? dst + size - n : dst;
            memcpy(from, data, n);
            expect(evtape_crc32(0, from, n) == expected[0][n], "fenced crc", n, (size_t)ends);
            expect(evtape_copy_crc32(to, from, n) == expected[0][n] && memcmp(to, data, n) == 0,
                   "fenced copy", n, (size_t)ends);
        }
    }
}

static void check_long(void) {
    size_t size = ((size_t)1 << 22) + 77;
    unsigned char *p = malloc(size), *q = malloc(size);
    fill(p, size);
    uint32_t crc = reference(0, p, size);
    expect(evtape_crc32(0, p, size) == crc, "crc", size, 0);
    expect(evtape_copy_crc32(q, p, size) == crc && memcmp(p, q, size) == 0, "copy", size, 0);
    free(p);
    free(q);
}

/* A copy and its CRC agree while another thread rewrites the source. */
static volatile int scribble = 1;
static volatile uint64_t scribbled[512];

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define NO_RACES 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define NO_RACES 1
#endif

static void *scribbler(void *unused) {
    uint64_t value = 1;
    while (scribble)
        for (size_t i = 0; i < 512; i++)
            scribbled[i] = value *= UINT64_C(6364136223846793005);
    return unused;
}

static void check_changing_source(void) {
#if !defined(NO_RACES)
    pthread_t thread;
    static unsigned char copy[4096];
    scribble = 1;
    if (pthread_create(&thread, NULL, scribbler, NULL) != 0)
        exit(2);
    for (size_t round = 0; round < 200000; round++) {
        size_t n = round % 4 ? random64() % 200 : random64() % 4000;
        const unsigned char *src = (const unsigned char *)scribbled + random64() % 64;
        uint32_t crc = evtape_copy_crc32(copy, src, n);
        expect(crc == evtape_crc32(0, copy, n), "a source that changes", n, round);
    }
    scribble = 0;
    pthread_join(thread, NULL);
#endif
}

static void check_choice(void) {
    const char *names[1] = {""};
    implementation = evtape_crc32_implementation();
    expect(strcmp(implementation, implementations[0]) == 0, "the widest is the default", 0, 0);
    expect(evtape_crc32_use("no such name") == -1, "unknown name", 0, 0);
    expect(evtape_crc32_implementation() == implementation, "unknown name changes nothing", 0, 0);
    expect(evtape_crc32_implementations(names, 1) == implementation_count &&
               names[0] == implementations[0],
           "capacity", 0, 0);
    expect(strcmp(implementations[implementation_count - 1], "portable") == 0,
           "the last is portable", 0, 0);
    for (int i = 0; i < implementation_count; i++) {
        expect(evtape_crc32_use(implementations[i]) == 0, implementations[i], 0, 0);
        expect(evtape_crc32_implementation() == implementations[i], implementations[i], 0, 0);
    }
    expect(evtape_crc32_use("auto") == 0 && evtape_crc32_implementation() == implementations[0],
           "auto", 0, 0);
}

static int check(void) {
    make_expected();
    /* Before any call has picked an implementation. */
    expect(evtape_crc32(0, "123456789", 9) == 0xCBF43926, "first call", 9, 0);
    check_choice();
    for (int i = 0; i < implementation_count; i++) {
        implementation = implementations[i];
        evtape_crc32_use(implementation);
        check_lengths();
        check_chains();
        check_copy();
        check_fences();
        check_long();
        check_changing_source();
        printf("ok      %s\n", implementation);
    }
    return 0;
}

/* ---- Measurements ------------------------------------------------------------------------------
 *
 * All candidates take turns in each of ROUNDS rounds, so that a change of the clock or a busy
 * neighbour affects all of them. The program prints the median in nanoseconds per call. */

enum { ROUNDS = 15, MOST_CANDIDATES = 16 };
static volatile uint32_t sink;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double values[ROUNDS]) {
    qsort(values, ROUNDS, sizeof values[0], by_value);
    return values[ROUNDS / 2];
}

typedef uint32_t (*crc_call)(uint32_t crc, const void *p, size_t n);
typedef uint32_t (*copy_call)(void *dst, const void *src, size_t n);

#if defined(WITH_ZLIB)
static uint32_t call_zlib(uint32_t crc, const void *p, size_t n) {
    return (uint32_t)crc32(crc, p, (unsigned)n);
}
#endif
#if defined(WITH_ISAL)
static uint32_t call_isal(uint32_t crc, const void *p, size_t n) {
    return crc32_gzip_refl(crc, p, n);
}
#endif

struct candidate {
    const char *name;
    const char *implementation;
    crc_call call;
};

static int crc_candidates(struct candidate list[MOST_CANDIDATES]) {
    int count = 0;
    for (int i = 0; i < implementation_count; i++)
        list[count++] = (struct candidate){implementations[i], implementations[i], evtape_crc32};
#if defined(WITH_ISAL)
    list[count++] = (struct candidate){"ISA-L", "auto", call_isal};
#endif
#if defined(WITH_ZLIB)
    list[count++] = (struct candidate){"zlib", "auto", call_zlib};
#endif
    return count;
}

/* Chained calls take the result of the previous call as their start value and measure latency.
 * Independent calls may overlap and measure throughput, which an append loop sees. */
static double time_crc(const struct candidate *candidate, const unsigned char *p, size_t n,
                       int chained) {
    size_t calls = 4000000 / (n + 100);
    uint32_t crc = 0;
    evtape_crc32_use(candidate->implementation);
    double start = now();
    if (chained)
        for (size_t i = 0; i < calls; i++)
            crc = candidate->call(crc, p, n);
    else
        for (size_t i = 0; i < calls; i++)
            crc ^= candidate->call(0, p, n);
    double end = now();
    sink = crc;
    return (end - start) / (double)calls;
}

static void bench_crc(int chained) {
    static const size_t sizes[] = {16, 64, 100, 256, 1000, 1024, 4096, 65536};
    enum { SIZES = sizeof sizes / sizeof sizes[0] };
    static double times[MOST_CANDIDATES][SIZES][ROUNDS];
    struct candidate list[MOST_CANDIDATES];
    int count = crc_candidates(list);
    unsigned char *p = aligned_alloc(4096, 1 << 17);
    fill(p, 1 << 17);
    for (int round = 0; round < ROUNDS; round++)
        for (int s = 0; s < SIZES; s++)
            for (int i = 0; i < count; i++)
                times[i][s][round] = time_crc(&list[i], p + 16, sizes[s], chained);
    printf("\nCRC alone, ns per call, %s, data in L1 (64 KB: L2)\n%-20s",
           chained ? "chained (latency)" : "independent (throughput)", "");
    for (int s = 0; s < SIZES; s++)
        printf("%9zu", sizes[s]);
    for (int i = 0; i < count; i++) {
        printf("\n%-20s", list[i].name);
        for (int s = 0; s < SIZES; s++)
            printf("%9.1f", median(times[i][s]));
    }
    printf("\n");
    free(p);
}

static uint32_t call_copy(void *dst, const void *src, size_t n) {
    return evtape_copy_crc32(dst, src, n);
}

static uint32_t call_memcpy(void *dst, const void *src, size_t n) {
    memcpy(dst, src, n);
    return 0;
}

static uint32_t call_crc_of_copy(void *dst, const void *src, size_t n) {
    memcpy(dst, src, n);
    return evtape_crc32(0, dst, n);
}

static uint32_t call_crc_of_source(void *dst, const void *src, size_t n) {
    memcpy(dst, src, n);
    return evtape_crc32(0, src, n);
}

/* Like an append: a header of 16 bytes before each payload, dst always onward. */
static double time_copy(copy_call call, unsigned char *dst, size_t space, const unsigned char *src,
                        size_t set, size_t n, size_t bytes) {
    static size_t to, from;
    size_t calls = bytes / (n + 16);
    double start = now();
    for (size_t i = 0; i < calls; i++) {
        if (to + n + 16 > space)
            to = 0;
        if (from + n > set)
            from = 0;
        uint32_t crc = call(dst + to + 16, src + from, n);
        memcpy(dst + to + 12, &crc, 4);
        to += n + 16;
        from += n;
    }
    return (now() - start) / (double)calls;
}

static void bench_copy(const char *name, unsigned char *dst, size_t space, const unsigned char *src,
                       size_t set) {
    static const size_t sizes[] = {16, 64, 100, 256, 1000, 1024, 4096, 65536};
    static const struct {
        const char *name;
        copy_call call;
    } list[] = {{"evtape_copy_crc32", call_copy},
                {"memcpy, crc of dst", call_crc_of_copy},
                {"memcpy, crc of src", call_crc_of_source},
                {"memcpy alone", call_memcpy}};
    enum { SIZES = sizeof sizes / sizeof sizes[0], COUNT = sizeof list / sizeof list[0] };
    static double times[COUNT][SIZES][ROUNDS];
    for (int round = 0; round < ROUNDS; round++)
        for (int s = 0; s < SIZES; s++)
            for (int i = 0; i < COUNT; i++)
                times[i][s][round] = time_copy(list[i].call, dst, space, src,
                                               set < sizes[s] ? sizes[s] : set, sizes[s], 8 << 20);
    printf("\n%s, implementation %s, ns per call\n%-20s", name, evtape_crc32_implementation(), "");
    for (int s = 0; s < SIZES; s++)
        printf("%9zu", sizes[s]);
    for (int i = 0; i < COUNT; i++) {
        printf("\n%-20s", list[i].name);
        for (int s = 0; s < SIZES; s++)
            printf("%9.1f", median(times[i][s]));
    }
    printf("\n");
}

static int bench(void) {
    const size_t space = (size_t)256 << 20, set = 10000000;
    unsigned char *dst =
        mmap(NULL, space, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char *src = malloc(set);
    if (dst == MAP_FAILED || !src)
        return 2;
    memset(dst, 1, space);
    fill(src, set);
    bench_crc(0);
    bench_crc(1);
    for (int i = 0; i < implementation_count; i++) {
        evtape_crc32_use(implementations[i]);
        bench_copy("Copy and CRC, dst onward in 256 MB, src in 10 MB", dst, space, src, set);
        bench_copy("Copy and CRC, dst onward in 256 MB, src in L1", dst, space, src, 4096);
        bench_copy("Copy and CRC, dst in 128 KB, src in L1", dst, 128 << 10, src, 4096);
    }
    return 0;
}

int main(int argc, char **argv) {
    implementation_count = evtape_crc32_implementations(implementations, MOST_IMPLEMENTATIONS);
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        return bench();
    return check();
}

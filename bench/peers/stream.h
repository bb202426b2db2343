/* What every C contender shares: the format, the workload, the arguments and the report.
 *
 * The workload is the same in every language: `distinct` payloads cut one after another out of one block of SplitMix64
 * output (seed 0, little-endian words), used in turn. `distinct` is 10,000, or as many as fit about 10 MB, so that the
 * source does not live in the innermost cache and no two neighbouring events are equal. */
#ifndef BENCH_STREAM_H
#define BENCH_STREAM_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HEADER_SIZE 24
#define ENTRY_SIZE 16
#define DISTINCT_MAX 10000
#define SOURCE_BYTES_MAX (10000ull * 1024)

struct header {
    int64_t write_offset; /* where the next entry goes */
    int64_t event_count;
    int64_t start_timestamp;
};

struct workload {
    uint8_t *block;
    const uint8_t **payloads; /* for contenders that take a list of buffers: each allocated by itself, as one gets them */
    size_t size, distinct;
    int64_t events;
};

struct args {
    const char *mode, *dir, *crc;
    int64_t events, batch, gap;
    size_t size;
    int repeat, warmup, keep;
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static inline int64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline int64_t stamp_ns(void) { return clock_ns(CLOCK_REALTIME); }
static inline int64_t timer_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static struct args parse_args(int argc, char **argv)
{
    struct args args = {"prepared", ".", "best", 10000, 1000, 0, 1024, 1, 1, 0};
    for (int i = 1; i < argc; i += 2) {
        if (!strcmp(argv[i], "--keep")) {
            args.keep = 1;
            i--;
            continue;
        }
        if (i + 1 >= argc) {
            fprintf(stderr, "%s needs a value\n", argv[i]);
            exit(2);
        }
        const char *value = argv[i + 1];
        if (!strcmp(argv[i], "--mode")) args.mode = value;
        else if (!strcmp(argv[i], "--dir")) args.dir = value;
        else if (!strcmp(argv[i], "--crc")) args.crc = value;
        else if (!strcmp(argv[i], "--events")) args.events = atoll(value);
        else if (!strcmp(argv[i], "--batch")) args.batch = atoll(value);
        else if (!strcmp(argv[i], "--gap")) args.gap = atoll(value);
        else if (!strcmp(argv[i], "--size")) args.size = (size_t)atoll(value);
        else if (!strcmp(argv[i], "--repeat")) args.repeat = atoi(value);
        else if (!strcmp(argv[i], "--warmup")) args.warmup = atoi(value);
        else {
            fprintf(stderr, "unknown argument %s\n", argv[i]);
            exit(2);
        }
    }
    if (args.events < 1 || args.size < 1 || args.batch < 1 || args.repeat < 1) {
        fprintf(stderr, "--events, --size, --batch and --repeat are at least 1\n");
        exit(2);
    }
    return args;
}

static struct workload make_workload(const struct args *args)
{
    struct workload work = {.size = args->size, .events = args->events};
    size_t fitting = SOURCE_BYTES_MAX / args->size;
    work.distinct = fitting < 1 ? 1 : fitting > DISTINCT_MAX ? DISTINCT_MAX : fitting;
    size_t words = (work.distinct * work.size + 7) / 8;
    work.block = malloc(words * 8);
    work.payloads = malloc(work.distinct * sizeof *work.payloads);
    if (!work.block || !work.payloads) die("malloc");
    for (size_t i = 0; i < words; i++) {
        uint64_t z = (i + 1) * 0x9E3779B97F4A7C15ull;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        z ^= z >> 31;
        memcpy(work.block + i * 8, &z, 8); /* the peers run on little-endian machines only */
    }
    for (size_t i = 0; i < work.distinct; i++) {
        uint8_t *payload = malloc(work.size);
        if (!payload) die("malloc");
        work.payloads[i] = memcpy(payload, work.block + i * work.size, work.size);
    }
    return work;
}

static inline size_t stream_bytes(const struct workload *work)
{
    return HEADER_SIZE + (size_t)work->events * (ENTRY_SIZE + work->size);
}

static void print_report(const struct args *args, const char *crc, const double *ns_per_event, const char *extra)
{
    printf("{\"peer\":\"c-limits\",\"mode\":\"%s\",\"crc\":\"%s\",\"events\":%lld,\"size\":%zu,\"ns_per_event\":[",
           args->mode, crc, (long long)args->events, args->size);
    for (int i = 0; i < args->repeat; i++) printf("%s%.3f", i ? "," : "", ns_per_event[i]);
    printf("]%s}\n", extra);
}

#endif

/* The limits: what C reaches on this machine with the same format and the same work. One mode per question:
 *
 *   prepared  region allocated, advised and populated before the clock; one clock, copy, CRC and publication per event
 *   batch     as prepared, a list of payloads that were allocated one by one, one clock and one publication per --batch
 *             events
 *   array     as batch, rows of one contiguous block
 *   cold      naive mapping (ftruncate, mmap), the append loop alone
 *   whole     naive mapping, the whole job: create, append, cut, close
 *   buffer    the whole job through a 1 MiB buffer and write()
 *   latency   naive mapping, every append timed alone: percentiles. With --gap an append begins every so many ns.
 *   scan      map a written stream and verify the CRC of every event
 *   walk      map a written stream and collect the timestamps
 *   crc       the checksum of every payload, and nothing else
 *   durable-* each event or batch flushed before the next one: durable.h
 *
 * As a library it also has the follower of follow.h.
 *
 * A stream written without a CRC (--crc none) is not a valid one; every other mode leaves one that verifies. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "stream.h"
#include "checksum.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#define BUFFER_BYTES (1u << 20)
#define PAGE_BYTES 4096

static char path[4096];

struct region {
    int fd;
    uint8_t *base;
    size_t size;
};

static int create_file(void)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) die(path);
    return fd;
}

static struct region map_naive(size_t size)
{
    struct region region = {create_file(), NULL, size};
    if (ftruncate(region.fd, (off_t)size)) die("ftruncate");
    region.base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, region.fd, 0);
    if (region.base == MAP_FAILED) die("mmap");
    return region;
}

static void start_stream(uint8_t *base)
{
    struct header header = {HEADER_SIZE, 0, stamp_ns()};
    memcpy(base, &header, sizeof header);
}

static struct region map_prepared(size_t size)
{
    struct region region = map_naive(size);
    if (posix_fallocate(region.fd, 0, (off_t)size)) die("posix_fallocate");
    madvise(region.base, size, MADV_HUGEPAGE);
    if (madvise(region.base, size, MADV_POPULATE_WRITE))
        for (size_t at = 0; at < size; at += PAGE_BYTES) ((volatile uint8_t *)region.base)[at] = 0;
    start_stream(region.base);
    return region;
}

static void close_region(struct region *region)
{
    int64_t end = ((struct header *)region->base)->write_offset;
    if (munmap(region->base, region->size)) die("munmap");
    if (ftruncate(region->fd, end)) die("ftruncate");
    if (close(region->fd)) die("close");
}

static inline void publish(struct header *header, int64_t end, int64_t count)
{
    __atomic_store_n(&header->event_count, count, __ATOMIC_RELAXED);
    __atomic_store_n(&header->write_offset, end, __ATOMIC_RELEASE);
}

static inline __attribute__((always_inline)) uint8_t *put_entry(enum crc_kind kind, uint8_t *at, int64_t stamp,
                                                                const uint8_t *data, size_t size)
{
    uint32_t size_field = (uint32_t)size, crc = copy_crc(kind, at + ENTRY_SIZE, data, size);
    memcpy(at, &stamp, 8);
    memcpy(at + 8, &size_field, 4);
    memcpy(at + 12, &crc, 4);
    return at + ENTRY_SIZE + size;
}

static inline __attribute__((always_inline)) void append_loop(enum crc_kind kind, uint8_t *base,
                                                              const struct workload *work)
{
    struct header *header = (struct header *)base;
    uint8_t *at = base + HEADER_SIZE;
    for (int64_t i = 0, k = 0; i < work->events; i++) {
        at = put_entry(kind, at, stamp_ns(), work->block + (size_t)k * work->size, work->size);
        publish(header, at - base, i + 1);
        if ((size_t)++k == work->distinct) k = 0;
    }
}

static void append_each(enum crc_kind kind, uint8_t *base, const struct workload *work)
{
    if (kind == CRC_NONE) append_loop(CRC_NONE, base, work);
    else if (kind == CRC_ZLIB) append_loop(CRC_ZLIB, base, work);
    else append_loop(CRC_BEST, base, work);
}

static inline __attribute__((always_inline)) void batch_loop(enum crc_kind kind, uint8_t *base,
                                                             const struct workload *work, int64_t batch, int contiguous)
{
    uint8_t *at = base + HEADER_SIZE;
    int64_t k = 0;
    for (int64_t i = 0; i < work->events;) {
        int64_t stop = i + batch < work->events ? i + batch : work->events, stamp = stamp_ns();
        for (; i < stop; i++) {
            const uint8_t *data = contiguous ? work->block + (size_t)k * work->size : work->payloads[k];
            at = put_entry(kind, at, stamp, data, work->size);
            if ((size_t)++k == work->distinct) k = 0;
        }
        publish((struct header *)base, at - base, i);
    }
}

/* The same loop for a program that has this one as a library: into its memory, from its memory. */
void loop_over(uint8_t *base, uint8_t *block, const uint8_t **payloads, size_t distinct, size_t size, int64_t events,
               int64_t batch)
{
    struct workload work = {block, payloads, size, distinct, events};
    start_stream(base);
    batch_loop(CRC_BEST, base, &work, batch, payloads == NULL);
}

static double run_prepared(const struct args *args, enum crc_kind kind, const struct workload *work)
{
    struct region region = map_prepared(stream_bytes(work));
    int64_t start = timer_ns();
    if (!strcmp(args->mode, "prepared")) append_each(kind, region.base, work);
    else if (kind == CRC_NONE) batch_loop(CRC_NONE, region.base, work, args->batch, !strcmp(args->mode, "array"));
    else batch_loop(CRC_BEST, region.base, work, args->batch, !strcmp(args->mode, "array"));
    int64_t elapsed = timer_ns() - start;
    close_region(&region);
    return (double)elapsed;
}

static double run_naive(int whole, enum crc_kind kind, const struct workload *work)
{
    int64_t start = timer_ns();
    struct region region = map_naive(stream_bytes(work));
    start_stream(region.base);
    if (!whole) start = timer_ns();
    append_each(kind, region.base, work);
    int64_t end = timer_ns();
    close_region(&region);
    return (double)((whole ? timer_ns() : end) - start);
}

static void write_all(int fd, const uint8_t *data, size_t size)
{
    while (size) {
        ssize_t done = write(fd, data, size);
        if (done < 0) die("write");
        data += done;
        size -= (size_t)done;
    }
}

/* The header is stored once, at the end: a buffered writer has no cheaper place for it, and it is no call per event. */
static double run_buffer(enum crc_kind kind, const struct workload *work, uint8_t *buffer)
{
    int64_t start = timer_ns();
    int fd = create_file();
    struct header header = {HEADER_SIZE, 0, stamp_ns()};
    memcpy(buffer, &header, sizeof header);
    uint8_t *at = buffer + HEADER_SIZE;
    size_t entry = ENTRY_SIZE + work->size;
    for (int64_t i = 0, k = 0; i < work->events; i++) {
        if (at + entry > buffer + BUFFER_BYTES + entry) {
            write_all(fd, buffer, (size_t)(at - buffer));
            at = buffer;
        }
        const uint8_t *data = work->block + (size_t)k * work->size;
        at = kind == CRC_NONE ? put_entry(CRC_NONE, at, stamp_ns(), data, work->size)
             : kind == CRC_ZLIB ? put_entry(CRC_ZLIB, at, stamp_ns(), data, work->size)
                                : put_entry(CRC_BEST, at, stamp_ns(), data, work->size);
        if ((size_t)++k == work->distinct) k = 0;
    }
    write_all(fd, buffer, (size_t)(at - buffer));
    header.write_offset = (int64_t)stream_bytes(work);
    header.event_count = work->events;
    if (pwrite(fd, &header, sizeof header, 0) != sizeof header) die("pwrite");
    if (close(fd)) die("close");
    return (double)(timer_ns() - start);
}

static double run_crc(enum crc_kind kind, const struct workload *work)
{
    uint32_t seen = 0;
    int64_t start = timer_ns();
    for (int64_t i = 0, k = 0; i < work->events; i++) {
        seen ^= crc_of(kind, work->payloads[k], work->size);
        if ((size_t)++k == work->distinct) k = 0;
    }
    int64_t elapsed = timer_ns() - start;
    volatile uint32_t kept = seen; /* so that no compiler leaves the loop out */
    (void)kept;
    return (double)elapsed;
}

static int compare_int64(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static double run_latency(const struct workload *work, int64_t gap, int64_t *samples, char *extra, size_t extra_size)
{
    struct region region = map_naive(stream_bytes(work));
    start_stream(region.base);
    uint8_t *at = region.base + HEADER_SIZE;
    int64_t first = timer_ns(), before = first, due = first;
    for (int64_t i = 0, k = 0; i < work->events; i++) {
        for (due += gap; gap && before < due;) before = timer_ns();
        at = put_entry(CRC_BEST, at, stamp_ns(), work->block + (size_t)k * work->size, work->size);
        publish((struct header *)region.base, at - region.base, i + 1);
        if ((size_t)++k == work->distinct) k = 0;
        int64_t after = timer_ns();
        samples[i] = after - before;
        before = after;
    }
    close_region(&region);
    qsort(samples, (size_t)work->events, sizeof *samples, compare_int64);
    const int64_t last = work->events - 1;
    snprintf(extra, extra_size, ",\"latency_ns\":{\"p50\":%lld,\"p90\":%lld,\"p99\":%lld,\"p99.9\":%lld,"
             "\"p99.99\":%lld,\"max\":%lld}",
             (long long)samples[last / 2], (long long)samples[(int64_t)(last * 0.9)],
             (long long)samples[(int64_t)(last * 0.99)], (long long)samples[(int64_t)(last * 0.999)],
             (long long)samples[(int64_t)(last * 0.9999)], (long long)samples[last]);
    return (double)(before - first);
}

/* Both readers trust nothing: every size is held against WriteOffset, as a reader of the format has to. */
static double run_read(int collect, const struct workload *work, int64_t *stamps)
{
    int64_t start = timer_ns(), count = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (fd < 0 || fstat(fd, &status)) die(path);
    uint8_t *base = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) die("mmap");
    if (madvise(base, (size_t)status.st_size, MADV_SEQUENTIAL)) die("madvise");
    const uint8_t *at = base + HEADER_SIZE, *end = base + ((struct header *)base)->write_offset;
    while (end - at >= ENTRY_SIZE) {
        uint32_t size, crc;
        memcpy(&size, at + 8, 4);
        memcpy(&crc, at + 12, 4);
        if ((int64_t)size > end - at - ENTRY_SIZE) break;
        if (collect) memcpy(&stamps[count], at, 8);
        else if (crc_best(at + ENTRY_SIZE, size) != crc) break;
        at += ENTRY_SIZE + size;
        count++;
    }
    munmap(base, (size_t)status.st_size);
    close(fd);
    int64_t elapsed = timer_ns() - start;
    if (count != work->events) {
        fprintf(stderr, "read %lld of %lld events\n", (long long)count, (long long)work->events);
        exit(1);
    }
    return (double)elapsed;
}

#include "durable.h" /* it needs the helpers above */
#include "follow.h"

static double run_once(const struct args *args, enum crc_kind kind, const struct workload *work, void *scratch,
                       char *extra, size_t extra_size)
{
    const char *mode = args->mode;
    if (!strcmp(mode, "prepared") || !strcmp(mode, "batch") || !strcmp(mode, "array"))
        return run_prepared(args, kind, work);
    if (!strcmp(mode, "crc")) return run_crc(kind, work);
    if (!strcmp(mode, "cold")) return run_naive(0, kind, work);
    if (!strcmp(mode, "whole")) return run_naive(1, kind, work);
    if (!strcmp(mode, "buffer")) return run_buffer(kind, work, scratch);
    if (!strcmp(mode, "latency")) return run_latency(work, args->gap, scratch, extra, extra_size);
    if (!strcmp(mode, "scan") || !strcmp(mode, "walk")) return run_read(!strcmp(mode, "walk"), work, scratch);
    if (is_durable(mode)) return run_durable(args, work, scratch, extra, extra_size);
    fprintf(stderr, "unknown --mode %s\n", mode);
    exit(2);
}

int main(int argc, char **argv)
{
    struct args args = parse_args(argc, argv);
    enum crc_kind kind = crc_parse(args.crc);
    struct workload work = make_workload(&args);
    snprintf(path, sizeof path, "%s/c-limits-%s-%d.tape", args.dir, args.mode, (int)getpid());
    size_t entry = ENTRY_SIZE + work.size, scratch_size = BUFFER_BYTES + 2 * entry + (size_t)work.events * 8;
    void *scratch = malloc(scratch_size);
    double *ns_per_event = malloc((size_t)args.repeat * sizeof *ns_per_event);
    if (!scratch || !ns_per_event) die("malloc");
    memset(scratch, 1, scratch_size); /* Faults of our own arrays are not the contender's. */
    int reading = !strcmp(args.mode, "scan") || !strcmp(args.mode, "walk");
    if (reading) run_buffer(CRC_BEST, &work, scratch);
    char extra[256] = "";
    for (int i = -args.warmup; i < args.repeat; i++) {
        double elapsed = run_once(&args, kind, &work, scratch, extra, sizeof extra);
        if (i >= 0) ns_per_event[i] = elapsed / (double)work.events;
        if (!reading && !(args.keep && i == args.repeat - 1)) unlink(path);
    }
    if (reading && !args.keep) unlink(path);
    print_report(&args, crc_name(kind), ns_per_event, extra);
    return 0;
}

/* Events that are durable when the call returns: what C reaches with pwrite() and fdatasync(). `limits.c` includes this
 * file after its helpers. Each group of events (one, or --batch) is one pwrite() and one fdatasync(), timed alone.
 *
 *   durable-grow           the file grows, so a flush also commits its new size
 *   durable-fallocate      room from posix_fallocate(); a flush also commits that blocks are no longer unwritten
 *   durable-written        zeros written and flushed before the clock: a flush writes data and nothing else
 *   durable-header         as written, and the stream's header in the same flush
 *   durable-ordered        as written, the header in a second flush after that of the entry
 *   durable-batch          groups of --batch events, growing file; durable-batch-written: in written room
 *   durable-sync           groups of --batch events in written room; the percentiles are those of fdatasync() alone
 *
 * The modes that store no header per group store it once at the end, outside the clock. So each of them leaves a valid
 * stream. */
#ifndef BENCH_DURABLE_H
#define BENCH_DURABLE_H

static int is_durable(const char *mode) { return !strncmp(mode, "durable-", 8); }

static void pwrite_all(int fd, const uint8_t *data, size_t size, off_t at)
{
    while (size) {
        ssize_t done = pwrite(fd, data, size, at);
        if (done < 0) die("pwrite");
        data += done;
        size -= (size_t)done;
        at += done;
    }
}

static void flush_data(int fd)
{
    if (fdatasync(fd)) die("fdatasync");
}

static void write_room(int fd, size_t size)
{
    uint8_t *zeros = calloc(1, BUFFER_BYTES);
    if (!zeros) die("calloc");
    for (size_t at = 0; at < size; at += BUFFER_BYTES)
        pwrite_all(fd, zeros, size - at < BUFFER_BYTES ? size - at : BUFFER_BYTES, (off_t)at);
    free(zeros);
}

/* The file that a mode starts with. It is durable before the clock starts, like the start of its stream. */
static int open_room(const char *kind, size_t size)
{
    int fd = create_file();
    struct header header = {HEADER_SIZE, 0, stamp_ns()};
    if (!strcmp(kind, "fallocate")) {
        if (posix_fallocate(fd, 0, (off_t)size)) die("posix_fallocate");
    } else if (strcmp(kind, "grow") && strcmp(kind, "batch")) {
        write_room(fd, size);
    }
    pwrite_all(fd, (const uint8_t *)&header, sizeof header, 0);
    if (fsync(fd)) die("fsync");
    return fd;
}

static void durable_percentiles(int64_t *samples, int64_t count, char *extra, size_t extra_size)
{
    static const struct {
        const char *name;
        double share;
    } wanted[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}, {"p99.99", 0.9999}, {"max", 1}};
    qsort(samples, (size_t)count, sizeof *samples, compare_int64);
    size_t used = (size_t)snprintf(extra, extra_size, ",\"latency_ns\":{");
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        used += (size_t)snprintf(extra + used, extra_size - used, "%s\"%s\":%lld", i ? "," : "", wanted[i].name,
                                 (long long)samples[(int64_t)((double)(count - 1) * wanted[i].share)]);
    snprintf(extra + used, extra_size - used, "}");
}

static double run_durable(const struct args *args, const struct workload *work, int64_t *samples, char *extra,
                          size_t extra_size)
{
    const char *kind = args->mode + 8;
    int single = strncmp(kind, "batch", 5) && strcmp(kind, "sync"), ordered = !strcmp(kind, "ordered");
    int stores_header = ordered || !strcmp(kind, "header"), sync_alone = !strcmp(kind, "sync");
    int64_t batch = single ? 1 : args->batch, groups = 0, k = 0;
    uint8_t *buffer = malloc((size_t)batch * (ENTRY_SIZE + work->size));
    if (!buffer) die("malloc");
    memset(buffer, 1, (size_t)batch * (ENTRY_SIZE + work->size));
    int fd = open_room(kind, stream_bytes(work));
    struct header header = {HEADER_SIZE, 0, stamp_ns()};
    int64_t first = timer_ns(), before = first;
    while (header.event_count < work->events) {
        uint8_t *end = buffer;
        for (int64_t i = 0; i < batch && header.event_count < work->events; i++, header.event_count++) {
            end = put_entry(CRC_BEST, end, stamp_ns(), work->block + (size_t)k * work->size, work->size);
            if ((size_t)++k == work->distinct) k = 0;
        }
        pwrite_all(fd, buffer, (size_t)(end - buffer), (off_t)header.write_offset);
        header.write_offset += end - buffer;
        if (ordered) flush_data(fd);
        if (stores_header) pwrite_all(fd, (const uint8_t *)&header, sizeof header, 0);
        if (sync_alone) before = timer_ns();
        flush_data(fd);
        int64_t after = timer_ns();
        samples[groups++] = after - before;
        before = after;
    }
    int64_t elapsed = timer_ns() - first;
    pwrite_all(fd, (const uint8_t *)&header, sizeof header, 0);
    if (close(fd)) die("close");
    free(buffer);
    durable_percentiles(samples, groups, extra, extra_size);
    return (double)elapsed;
}

#endif

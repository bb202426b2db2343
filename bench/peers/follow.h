/* A follower in C: the limit of delivery to another process.
 *
 * It looks at WriteOffset without a pause, holds every size against it, and checks the CRC of every payload where it
 * lies. `bench.live_side` calls it from the library, because that program starts the producer, too. */
#ifndef BENCH_FOLLOW_H
#define BENCH_FOLLOW_H

#if defined(__x86_64__)
#define follow_pause() __builtin_ia32_pause()
#else
#define follow_pause() ((void)0)
#endif

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#define FOLLOW_PAGES (2 << 20) /* bytes */

/* Nanoseconds from the moment at which the first of `events` was seen to the last; -1 if a CRC or a size is wrong. The
 * file may grow to `limit` bytes. `samples` is NULL, or gets the time from the stamp of each event to its check. */
int64_t follow_stream(const char *stream, int64_t events, int64_t limit, int64_t *samples)
{
    int fd = open(stream, O_RDONLY | O_CLOEXEC);
    if (fd < 0) die(stream);
    uint8_t *base = mmap(NULL, (size_t)limit, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) die("mmap");
#if defined(BENCH_CRC_EVTAPE)
    evtape_crc32_init();
#endif
    int64_t at = HEADER_SIZE, count = 0, first = 0, ready = 0;
    while (count >= 0 && count < events) {
        int64_t end = __atomic_load_n((int64_t *)base, __ATOMIC_ACQUIRE);
        if (end == at) {
            follow_pause();
            continue;
        }
        if (!first) first = timer_ns();
        if (at >= ready) { /* one call for many pages that the producer has filled */
            ready = end < at + FOLLOW_PAGES ? end : at + FOLLOW_PAGES;
            uint8_t *page = base + at / PAGE_BYTES * PAGE_BYTES;
            madvise(page, (size_t)(base + ready - page), MADV_POPULATE_READ);
        }
        while (at < end) {
            uint32_t size, crc;
            memcpy(&size, base + at + 8, 4);
            memcpy(&crc, base + at + 12, 4);
            if ((int64_t)size > end - at - ENTRY_SIZE || crc_best(base + at + ENTRY_SIZE, size) != crc) {
                count = -1;
                break;
            }
            if (samples) {
                int64_t stamp;
                memcpy(&stamp, base + at, 8);
                samples[count] = stamp_ns() - stamp;
            }
            at += ENTRY_SIZE + size;
            count++;
        }
    }
    int64_t elapsed = timer_ns() - first;
    munmap(base, (size_t)limit);
    close(fd);
    return count < 0 ? -1 : elapsed;
}

#endif

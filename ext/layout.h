/* Loads and stores the header and the entries of a stream. Implements docs/format.md.
 *
 *     header := WriteOffset:i64 EventCount:i64 StartTimestamp:i64      24 bytes, at offset 0
 *     entry  := Timestamp:i64 Size:u32 Checksum:u32 data:byte[Size]    16 + Size bytes, not aligned
 *
 * All integers are little-endian.
 */
#ifndef EVTAPE_LAYOUT_H
#define EVTAPE_LAYOUT_H

#include <stdatomic.h>
#include <stdint.h>

_Static_assert(sizeof(void *) == 8,
               "the native core is for 64-bit processors; others run the pure core");
#include <string.h>

#if defined(__x86_64__) || defined(_M_X64)
#define EVTAPE_X86_64 1
#include <emmintrin.h>
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif defined(__aarch64__)
#define EVTAPE_AARCH64 1
#if defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_USCAT
#define HWCAP_USCAT (1 << 25)
#endif
#endif
#endif

#define EVTAPE_HEADER_SIZE 24
#define EVTAPE_ENTRY_SIZE 16
#define EVTAPE_SECTOR 512 /* bytes that a disk writes as a whole */

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define EVTAPE_LE64(x) __builtin_bswap64((uint64_t)(x))
#define EVTAPE_LE32(x) __builtin_bswap32((uint32_t)(x))
#else
#define EVTAPE_LE64(x) ((uint64_t)(x))
#define EVTAPE_LE32(x) ((uint32_t)(x))
#endif

typedef struct {
    int64_t write_offset;    /* offset of the next entry; every entry below is published */
    int64_t event_count;     /* events below write_offset; a hint unless evtape_paired */
    int64_t start_timestamp; /* time of the stream's creation; never changes */
} evtape_header;

typedef struct {
    int64_t timestamp;
    uint32_t size;
    uint32_t checksum;
} evtape_entry;

/* 1 if an aligned 16-byte store or load is one unit on this CPU, so that a reader always sees
 * WriteOffset and EventCount as a pair. evtape_layout_init sets it once. */
static int evtape_paired = 0;

static inline void evtape_layout_init(void) {
#if defined(__SANITIZE_THREAD__)
    /* ThreadSanitizer understands atomics but not fences, so it gets two stores. */
    evtape_paired = 0;
#elif defined(EVTAPE_X86_64) && defined(_MSC_VER)
    /* Intel and AMD guarantee this for every processor with AVX. */
    int regs[4];
    __cpuid(regs, 1);
    evtape_paired = (regs[2] >> 28) & 1;
#elif defined(EVTAPE_X86_64)
    unsigned a, b, c, d;
    evtape_paired = __get_cpuid(1, &a, &b, &c, &d) && ((c >> 28) & 1);
#elif defined(EVTAPE_AARCH64) && defined(__linux__)
    /* FEAT_LSE2, which is mandatory from ARMv8.4 on. */
    evtape_paired = (getauxval(AT_HWCAP) & HWCAP_USCAT) != 0;
#elif defined(EVTAPE_AARCH64) && defined(__APPLE__)
    evtape_paired = 1;
#endif
}

/* This function publishes an event. Every byte below write_offset was stored before; this store
 * makes it visible to readers.
 *
 * `base` is the start of the mapping. It is aligned to a page, so the pair is aligned to 16 bytes.
 * On x86-64 stores become visible in program order, and the fence only prevents the compiler from
 * moving them. Without the pair EventCount is stored first, so a kill between the two stores leaves
 * it too high, never too low. */
static inline void evtape_publish(uint8_t *base, int64_t write_offset, int64_t event_count) {
    atomic_thread_fence(memory_order_release);
#if defined(EVTAPE_X86_64)
    if (evtape_paired) {
        _mm_store_si128((__m128i *)base, _mm_set_epi64x(event_count, write_offset));
        return;
    }
#elif defined(EVTAPE_AARCH64) && !defined(_MSC_VER)
    if (evtape_paired) {
        __asm__ volatile("stp %1, %2, [%0]"
                         :
                         : "r"(base), "r"(write_offset), "r"(event_count)
                         : "memory");
        return;
    }
#endif
    atomic_store_explicit((_Atomic uint64_t *)(base + 8), EVTAPE_LE64(event_count),
                          memory_order_relaxed);
    atomic_store_explicit((_Atomic uint64_t *)base, EVTAPE_LE64(write_offset),
                          memory_order_release);
}

/* Loads what evtape_publish stores: every byte below the returned write_offset can be read. Some
 * compilers implement a 16-byte __atomic_load as a compare-and-swap, which writes and so fails on a
 * read-only mapping. An SSE load does not write. */
static inline evtape_header evtape_load_header(const uint8_t *base) {
    evtape_header h;
#if defined(EVTAPE_X86_64)
    if (evtape_paired) {
        __m128i pair = _mm_load_si128((const __m128i *)base);
        h.write_offset = _mm_cvtsi128_si64(pair);
        h.event_count = _mm_cvtsi128_si64(_mm_unpackhi_epi64(pair, pair));
        atomic_thread_fence(memory_order_acquire);
        memcpy(&h.start_timestamp, base + 16, 8);
        return h;
    }
#elif defined(EVTAPE_AARCH64) && !defined(_MSC_VER)
    if (evtape_paired) {
        __asm__ volatile("ldp %0, %1, [%2]"
                         : "=&r"(h.write_offset), "=&r"(h.event_count)
                         : "r"(base)
                         : "memory");
        atomic_thread_fence(memory_order_acquire);
        memcpy(&h.start_timestamp, base + 16, 8);
        return h;
    }
#endif
    h.write_offset =
        (int64_t)EVTAPE_LE64(atomic_load_explicit((_Atomic uint64_t *)base, memory_order_acquire));
    h.event_count = (int64_t)EVTAPE_LE64(
        atomic_load_explicit((_Atomic uint64_t *)(base + 8), memory_order_relaxed));
    uint64_t start;
    memcpy(&start, base + 16, 8);
    h.start_timestamp = (int64_t)EVTAPE_LE64(start);
    return h;
}

/* The same for a stream in memory that no writer of ours shares. `base` need not be aligned. */
static inline evtape_header evtape_copy_header(const uint8_t *base) {
    uint64_t words[3];
    memcpy(words, base, EVTAPE_HEADER_SIZE);
    evtape_header h = {(int64_t)EVTAPE_LE64(words[0]), (int64_t)EVTAPE_LE64(words[1]),
                       (int64_t)EVTAPE_LE64(words[2])};
    return h;
}

static inline void evtape_store_entry(uint8_t *at, int64_t timestamp, uint32_t size,
                                      uint32_t checksum) {
    uint64_t words[2] = {EVTAPE_LE64(timestamp),
                         EVTAPE_LE64((uint64_t)size | (uint64_t)checksum << 32)};
    memcpy(at, words, EVTAPE_ENTRY_SIZE);
}

static inline evtape_entry evtape_load_entry(const uint8_t *at) {
    uint64_t words[2];
    memcpy(words, at, EVTAPE_ENTRY_SIZE);
    words[1] = EVTAPE_LE64(words[1]);
    evtape_entry e = {(int64_t)EVTAPE_LE64(words[0]), (uint32_t)words[1],
                      (uint32_t)(words[1] >> 32)};
    return e;
}

#endif

/* The AArch64 implementations of CRC-32. Included by crc32.c only, on little-endian machines.
 *
 * SPDX-License-Identifier: MIT
 *
 * "arm-crc32" uses the CRC32 instructions, which append 1, 2, 4 or 8 bytes to the register with
 * the polynomial of zlib. They are the fastest for short messages, but each instruction waits for
 * the previous one.
 *
 * "arm-pmull" handles longer messages with carry-less multiplication. crc32_x86.h explains the
 * mathematics: folding, reflected constants, and odd bytes at the front with zeros before them.
 * Only the end differs: the last blocks are folded into one of 128 bits, and two CRC32
 * instructions reduce this block.
 *
 * Neither copies and computes in one pass. No measurement shows that this would be faster.
 */
#ifndef EVTAPE_CRC32_ARM_H
#define EVTAPE_CRC32_ARM_H

/* Each compiler has its own names for the extensions, and builtins that do not need -march. */
#if defined(__clang__)
#define TARGET_CRC __attribute__((target("crc")))
#define TARGET_PMULL __attribute__((target("crc,aes")))
#define INLINE static inline __attribute__((always_inline))
#define APPEND_1(crc, v) __builtin_arm_crc32b(crc, v)
#define APPEND_2(crc, v) __builtin_arm_crc32h(crc, v)
#define APPEND_4(crc, v) __builtin_arm_crc32w(crc, v)
#define APPEND_8(crc, v) __builtin_arm_crc32d(crc, v)
#elif defined(__GNUC__)
#define TARGET_CRC __attribute__((target("+crc")))
#define TARGET_PMULL __attribute__((target("+crc+crypto")))
#define INLINE static inline __attribute__((always_inline))
#define APPEND_1(crc, v) __builtin_aarch64_crc32b(crc, v)
#define APPEND_2(crc, v) __builtin_aarch64_crc32h(crc, v)
#define APPEND_4(crc, v) __builtin_aarch64_crc32w(crc, v)
#define APPEND_8(crc, v) __builtin_aarch64_crc32x(crc, v)
#else /* MSVC */
#include <intrin.h>
#define TARGET_CRC
#define INLINE static __forceinline
#define APPEND_1(crc, v) __crc32b(crc, v)
#define APPEND_2(crc, v) __crc32h(crc, v)
#define APPEND_4(crc, v) __crc32w(crc, v)
#define APPEND_8(crc, v) __crc32d(crc, v)
#endif

/* Older clangs declare the multiplication only if -march enables it, as on macOS. MSVC has its own
 * types for it. */
#if defined(__clang__)                                                                             \
    ? __clang_major__ >= 16 || defined(__ARM_FEATURE_AES) || defined(__ARM_FEATURE_CRYPTO)         \
    : defined(__GNUC__)
#define EVTAPE_CRC32_PMULL 1
#endif

/* ---- The implementation "arm-crc32" ---------------------------------------------------------- */

INLINE TARGET_CRC uint32_t append_words(uint32_t state, const unsigned char *p, size_t n) {
    uint64_t v8;
    uint32_t v4;
    uint16_t v2;
    for (; n >= 8; n -= 8, p += 8) {
        memcpy(&v8, p, 8);
        state = APPEND_8(state, v8);
    }
    if (n & 4) {
        memcpy(&v4, p, 4);
        state = APPEND_4(state, v4);
        p += 4;
    }
    if (n & 2) {
        memcpy(&v2, p, 2);
        state = APPEND_2(state, v2);
        p += 2;
    }
    if (n & 1)
        state = APPEND_1(state, *p);
    return state;
}

static TARGET_CRC uint32_t arm_crc32_crc(uint32_t crc, const void *data, size_t n) {
    return ~append_words(~crc, data, n);
}

/* The CRC is computed from the copy, not from the source, so that the two agree. */
static uint32_t arm_crc32_copy(void *dst, const void *src, size_t n) {
    if (n > 0)
        memcpy(dst, src, n);
    return arm_crc32_crc(0, dst, n);
}

/* ---- The implementation "arm-pmull" ---------------------------------------------------------- */

#if defined(EVTAPE_CRC32_PMULL)
#include <arm_neon.h>

/* fold[i] moves a block by i * 128 bits: k(128 * i + 31) for its first word and k(128 * i - 33) for
 * its second. There is no fold[0]. */
static const uint64_t fold[5][2] = {
    {0, 0},
    {0xae689191, 0xccaa009e},
    {0xf1da05aa, 0x81256527},
    {0x3db1ecdc, 0xaf449247},
    {0x8f352d95, 0x1d9513d7},
};

/* A shuffle loaded from slide + keep moves the first `keep` bytes to the end. An index out of range
 * gives a zero. */
static const uint8_t slide[32] = {
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
    0,   1,   2,   3,   4,   5,   6,   7,   8,   9,   10,  11,  12,  13,  14,  15,
};

/* Moves the block `distance` blocks onward and adds the block that lies there. */
INLINE TARGET_PMULL uint64x2_t fold_to(uint64x2_t v, size_t distance, uint64x2_t there) {
    const poly64x2_t k = vreinterpretq_p64_u64(vld1q_u64(fold[distance]));
    const poly64x2_t p = vreinterpretq_p64_u64(v);
    uint64x2_t first =
        vreinterpretq_u64_p128(vmull_p64(vgetq_lane_p64(p, 0), vgetq_lane_p64(k, 0)));
    uint64x2_t second = vreinterpretq_u64_p128(vmull_high_p64(p, k));
    return veorq_u64(veorq_u64(first, second), there);
}

INLINE TARGET_PMULL uint64x2_t take(const unsigned char *p) {
    return vreinterpretq_u64_u8(vld1q_u8(p));
}

/* More than 64 bytes. */
INLINE TARGET_PMULL uint32_t fold_all(uint32_t state, const unsigned char *p, size_t n) {
    size_t head = ((n - 1) & 15) + 1, blocks, i;
    uint64x2_t a, b, c, d;
    if (head < 4) { /* The register does not fit into them. */
        state = append_words(state, p, head);
        p += head, n -= head;
        head = 16;
    }
    d = veorq_u64(take(p), vsetq_lane_u64(state, vdupq_n_u64(0), 0));
    d = vreinterpretq_u64_u8(vqtbl1q_u8(vreinterpretq_u8_u64(d), vld1q_u8(slide + head)));
    p += head;
    blocks = (n - head) / 16;

    /* The first group is padded with zero blocks in front. */
    a = b = c = vdupq_n_u64(0);
    for (i = blocks & 3; i > 0; i--, p += 16)
        a = b, b = c, c = d, d = take(p);
    for (i = blocks >> 2; i > 0; i--, p += 64) {
        a = fold_to(a, 4, take(p));
        b = fold_to(b, 4, take(p + 16));
        c = fold_to(c, 4, take(p + 32));
        d = fold_to(d, 4, take(p + 48));
    }
    d = fold_to(a, 3, fold_to(b, 2, fold_to(c, 1, d)));
    state = APPEND_8(0, vgetq_lane_u64(d, 0));
    return APPEND_8(state, vgetq_lane_u64(d, 1));
}

static TARGET_PMULL uint32_t arm_pmull_crc(uint32_t crc, const void *data, size_t n) {
    if (n <= 64)
        return ~append_words(~crc, data, n);
    return ~fold_all(~crc, data, n);
}

/* The CRC is computed from the copy, not from the source, so that the two agree. */
static uint32_t arm_pmull_copy(void *dst, const void *src, size_t n) {
    if (n > 0)
        memcpy(dst, src, n);
    return arm_pmull_crc(0, dst, n);
}

#endif

/* ---- What can run here ----------------------------------------------------------------------- */

#if defined(__APPLE__)
/* All 64-bit Apple processors have both. */
static int arm_crc32_available(void) {
    return 1;
}
INLINE int arm_pmull_bit(void) {
    return 1;
}
#elif defined(__linux__)
#include <sys/auxv.h>
/* HWCAP_CRC32 and HWCAP_PMULL, by number for old headers. */
static int arm_crc32_available(void) {
    return (getauxval(AT_HWCAP) >> 7 & 1) != 0;
}
INLINE int arm_pmull_bit(void) {
    return (getauxval(AT_HWCAP) >> 4 & 1) != 0;
}
#elif defined(_WIN32)
#include <windows.h>
/* PF_ARM_V8_CRC32_INSTRUCTIONS_AVAILABLE and PF_ARM_V8_CRYPTO_INSTRUCTIONS_AVAILABLE. */
static int arm_crc32_available(void) {
    return IsProcessorFeaturePresent(31) != 0;
}
INLINE int arm_pmull_bit(void) {
    return IsProcessorFeaturePresent(30) != 0;
}
#else
static int arm_crc32_available(void) {
    return 0;
}
INLINE int arm_pmull_bit(void) {
    return 0;
}
#endif

#if defined(EVTAPE_CRC32_PMULL)
static int arm_pmull_available(void) {
    return arm_pmull_bit() && arm_crc32_available();
}

#define EVTAPE_CRC32_ARCH_IMPLEMENTATIONS                                                          \
    {"arm-pmull", arm_pmull_available, arm_pmull_crc, arm_pmull_copy},                             \
        {"arm-crc32", arm_crc32_available, arm_crc32_crc, arm_crc32_copy},
#else
#define EVTAPE_CRC32_ARCH_IMPLEMENTATIONS                                                          \
    {"arm-crc32", arm_crc32_available, arm_crc32_crc, arm_crc32_copy},
#endif

#endif

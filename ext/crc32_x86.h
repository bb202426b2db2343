/* The x86-64 implementations of CRC-32, with carry-less multiplication. Included by crc32.c only.
 *
 * SPDX-License-Identifier: MIT
 *
 * The algorithm
 * -------------
 * A message is a polynomial over GF(2). Loaded little-endian, a block of W bits holds it reflected:
 * bit 0 is the coefficient of the highest power, x^(W-1), bit W-1 that of x^0. The CRC is the
 * message times x^32 modulo P, after the register has been XORed into the first four bytes.
 *
 * Folding. A block A with D more bits after it stands for A * x^D. Any polynomial that is
 * congruent to it modulo P may replace it, and (A * (x^D mod P)) has at most 31 bits more than A,
 * so a block of two 64-bit halves A = H * x^64 + L is moved D bits onward by two multiplications,
 *
 *     H * (x^(D+64) mod P)  +  L * (x^D mod P),
 *
 * and XORed to the block that it lands on. Four independent accumulators hide the latency.
 *
 * Reflected products. The product of two reflected 64-bit factors has 127 bits and so its bit i
 * stands for x^(126-i): it is one position short of a reflected 128-bit block. A constant that is
 * kept in the low 32 bits of its half (bit i is the coefficient of x^(31-i)) makes the product
 * come out 32 + 1 powers too high, therefore the constants are x^(D+64-33) and x^(D-33).
 *
 * Finishing. The last group is not folded further. Every 64-bit word of it is multiplied at once by
 * x^(bits after the word + 32), where 32 is the CRC's own shift. The sum R is congruent to
 * message * x^32, and has 64 + 32 bits.
 *
 * Reduction of R to 32 bits. In reflected form the high powers of R are its low 64 bits, and P is
 * the 33-bit number P' = 0x1DB710641, which is odd. So some multiple of P' agrees with R in the
 * low 64 bits: Q * P' with Q = R * (1 / P') modulo 2^64 (without carries). Subtracted, it leaves
 * the remainder in bits 64 to 95. That takes two multiplications, one after the other.
 *
 * Any length. Zeros in front of a message do not change it. So the odd bytes are processed at the
 * front, not at the end: the first block is shifted, with zeros in front, until a whole number of
 * blocks follows its last byte. No constant depends on the length. The register is XORed into the
 * first four bytes before the shift. If fewer than four bytes belong to the first block, the rest
 * of the register belongs to the next one.
 *
 * An odd size is loaded as two loads that overlap in the middle and stay within the message. The
 * copying variant stores each pair in the order in which it uses it. The second store decides the
 * overlap, and the CRC takes the overlap from the second load. So the copy and the CRC agree even
 * if the source changes between the two loads.
 *
 * Numbers in this file, with  k(e) = reflect32(x^e mod P), in Python:
 *
 *     def k(e):
 *         r = 1
 *         for _ in range(e):
 *             r = (r << 1) ^ (0x104C11DB7 if r >> 31 else 0)
 *         return int(f"{r:032b}"[::-1], 2)
 */
#ifndef EVTAPE_CRC32_X86_H
#define EVTAPE_CRC32_X86_H

#include <immintrin.h>

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#define TARGET(features)
#define INLINE static __forceinline
#define ALIGNED(n) __declspec(align(n))
#define UNLIKELY(condition) (condition)
#define ONCE(value) ((void)0)
#define ONCE_INTEGER(value) ((void)0)
#define LEAVE_WIDE() _mm256_zeroupper()
#else
#include <cpuid.h>
#define TARGET(features) __attribute__((target(features)))
#define INLINE static inline __attribute__((always_inline))
#define ALIGNED(n) __attribute__((aligned(n)))
#define UNLIKELY(condition) __builtin_expect(condition, 0)
/* The source of a copy may change between two loads, so the compiler must not load a value twice.
 * It cannot do so if it does not know where the value comes from. */
#define ONCE(value) __asm__("" : "+x"(value))
#define ONCE_INTEGER(value) __asm__("" : "+r"(value))
#define LEAVE_WIDE() ((void)0)
#endif

/* Compilers that know the wide multiplication. */
#if defined(__clang__) ? __clang_major__ >= 7                                                      \
: defined(__GNUC__)    ? __GNUC__ >= 10                                                            \
                       : defined(_MSC_VER) && _MSC_VER >= 1922
#define EVTAPE_CRC32_WIDE 1
#endif

#define TARGET_128 TARGET("sse4.1,pclmul")
#define TARGET_256 TARGET("avx,avx2,sse4.1,pclmul,vpclmulqdq")
#define TARGET_512 TARGET("avx,avx2,avx512f,avx512bw,avx512vl,avx512vbmi,sse4.1,pclmul,vpclmulqdq")

/* finish[i] = k(64 * (31 - i) + 31) moves word i of the last 256 bytes to the end and 32 bits
 * further. The factor of the last word, x^31, is 1 in this notation. */
ALIGNED(64)
static const uint64_t finish[32] = {
    0xe95c1271, 0x0077f00d, 0x1f0c2cdd, 0x4a28bd43, 0xfe807bbd, 0x682bdd4f, 0x3c656ced, 0x596c8d81,
    0xf5e48c85, 0x5a1bb05d, 0xd1df2327, 0xe3543be0, 0x9026d5b1, 0x26b70c3d, 0x3f41287a, 0x33fff533,
    0x910eeec1, 0x31f8303f, 0x0cbec0ed, 0xdf068dc2, 0x57c54819, 0x1c279815, 0xae0b5394, 0x8f352d95,
    0x1d9513d7, 0x3db1ecdc, 0xaf449247, 0xf1da05aa, 0x81256527, 0xae689191, 0xccaa009e, 0x00000001,
};

/* Folding constants k(D + 31) and k(D - 33) for the distance D of four accumulators. */
#define FOLD_64_BYTES 0x8f352d95, 0x1d9513d7
#define FOLD_128_BYTES 0x33fff533, 0x910eeec1
#define FOLD_256_BYTES 0xce3371cb, 0xe95c1271

/* P' and its inverse modulo 2^64: inverse * P' = 1 in the low 64 bits. */
#define P_REFLECTED 0x1db710641
#define P_INVERSE 0xb4e5b025f7011641

/* A shuffle loaded from slide + 64 - s moves a vector s bytes towards its end. An index before the
 * start of the vector is negative, and the byte shuffles of SSE and AVX turn it into a zero. */
#define TEN(n) n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7, n + 8, n + 9
#define MINUS_16 -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1
ALIGNED(64)
static const signed char slide[128] = {
    MINUS_16, MINUS_16, MINUS_16, MINUS_16, TEN(0), TEN(10), TEN(20),
    TEN(30),  TEN(40),  TEN(50),  60,       61,     62,      63,
};

/* ---- 128 bits: "pclmulqdq", and the short messages of all implementations ------------------- */

INLINE uint64_t load64(const unsigned char *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

INLINE uint32_t load32(const unsigned char *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

INLINE TARGET_128 __m128i pair128(uint64_t low, uint64_t high) {
    return _mm_set_epi64x((long long)high, (long long)low);
}

/* R, of 96 bits, modulo P. */
INLINE TARGET_128 uint32_t reduce(__m128i r) {
    const __m128i p = pair128(P_INVERSE, P_REFLECTED);
    __m128i q = _mm_clmulepi64_si128(r, p, 0x00);
    __m128i multiple = _mm_clmulepi64_si128(q, p, 0x10);
    return (uint32_t)_mm_extract_epi32(_mm_xor_si128(r, multiple), 2);
}

/* Multiplies both halves by their constants. */
INLINE TARGET_128 __m128i times128(__m128i v, __m128i k) {
    return _mm_xor_si128(_mm_clmulepi64_si128(v, k, 0x00), _mm_clmulepi64_si128(v, k, 0x11));
}

/* Multiplies by the constants of the block that `after` more blocks follow. */
INLINE TARGET_128 __m128i finish128(__m128i v, size_t after) {
    return times128(v, _mm_load_si128((const __m128i *)(finish + 30) - after));
}

INLINE TARGET_128 __m128i take128(unsigned char *dst, const unsigned char *src, int copy) {
    __m128i v = _mm_loadu_si128((const __m128i *)src);
    if (copy) {
        ONCE(v);
        _mm_storeu_si128((__m128i *)dst, v);
    }
    return v;
}

/* Keeps the first `keep` bytes (0 to 16) and moves them to the end, with zeros in front. */
INLINE TARGET_128 __m128i align128(__m128i v, size_t keep) {
    return _mm_shuffle_epi8(v, _mm_loadu_si128((const __m128i *)(slide + 48 + keep)));
}

/* 0 to 3 bytes. Their product with x^32 is R itself. */
INLINE TARGET_128 uint32_t crc_0_3(uint32_t state, unsigned char *dst, const unsigned char *src,
                                   size_t n, int copy) {
    uint32_t v;
    if (n == 0)
        return state;
    v = src[0];
    if (n > 1)
        v |= (uint32_t)src[1] << 8;
    if (n > 2)
        v |= (uint32_t)src[2] << 16;
    if (copy) {
        ONCE_INTEGER(v);
        dst[0] = (unsigned char)v;
        if (n > 1)
            dst[1] = (unsigned char)(v >> 8);
        if (n > 2)
            dst[2] = (unsigned char)(v >> 16);
    }
    v = reduce(pair128((uint64_t)(v ^ state) << (64 - 8 * n), 0));
    return v ^ state >> 8 * n;
}

/* 0 to 15 bytes. */
INLINE TARGET_128 uint32_t crc_0_15(uint32_t state, unsigned char *dst, const unsigned char *src,
                                    size_t n, int copy) {
    if (n >= 8) {
        uint64_t a = load64(src), b = load64(src + n - 8);
        unsigned shift = (unsigned)(16 - n) * 8;
        if (copy) {
            ONCE_INTEGER(a);
            ONCE_INTEGER(b);
            memcpy(dst, &a, 8);
            memcpy(dst + n - 8, &b, 8);
        }
        /* Two shifts, because a shift by 64 is undefined. */
        a = (a ^ state) << 8 << (shift - 8);
        b ^= (uint64_t)state >> (64 - shift);
        return reduce(finish128(pair128(a, b), 0));
    }
    if (n >= 4) {
        uint32_t a = load32(src), b = load32(src + n - 4);
        unsigned shift = (unsigned)(8 - n) * 8;
        if (copy) {
            ONCE_INTEGER(a);
            ONCE_INTEGER(b);
            memcpy(dst, &a, 4);
            memcpy(dst + n - 4, &b, 4);
        }
        a = (uint32_t)((uint64_t)a << shift);
        return reduce(pair128(((uint64_t)b << 32 | a) ^ (uint64_t)state << shift, 0));
    }
    return crc_0_3(state, dst, src, n, copy);
}

/* 16 to 32 bytes. */
INLINE TARGET_128 uint32_t crc_16_32(uint32_t state, unsigned char *dst, const unsigned char *src,
                                     size_t n, int copy) {
    __m128i init = _mm_cvtsi32_si128((int)state);
    __m128i a = take128(dst, src, copy), b;
    if (n == 16)
        return reduce(finish128(_mm_xor_si128(a, init), 0));
    b = take128(dst + n - 16, src + n - 16, copy);
    a = align128(_mm_xor_si128(a, init), n - 16);
    /* The rest of the register, if any; a shift by more than 63 gives zero here. */
    b = _mm_xor_si128(b, _mm_srl_epi64(init, _mm_cvtsi32_si128((int)(n - 16) * 8)));
    return reduce(_mm_xor_si128(finish128(a, 1), finish128(b, 0)));
}

INLINE TARGET_128 __m128i fold128(__m128i a, __m128i k, __m128i next) {
    return _mm_xor_si128(times128(a, k), next);
}

INLINE TARGET_128 uint32_t crc128(uint32_t state, unsigned char *dst, const unsigned char *src,
                                  size_t n, int copy) {
    size_t head, blocks, i;
    __m128i a, b, c, d;
    if (n < 16)
        return crc_0_15(state, dst, src, n, copy);
    if (n <= 32)
        return crc_16_32(state, dst, src, n, copy);
    head = ((n - 1) & 15) + 1;
    if (UNLIKELY(head < 4)) {
        state = crc_0_3(state, dst, src, head, copy);
        src += head, dst += head, n -= head;
        head = 16;
    }
    d = _mm_xor_si128(take128(dst, src, copy), _mm_cvtsi32_si128((int)state));
    d = align128(d, head);
    src += head, dst += head;
    blocks = (n - head) / 16;

    if (n <= 64) {
        d = finish128(d, blocks);
        for (i = blocks; i-- > 0; src += 16, dst += 16)
            d = _mm_xor_si128(d, finish128(take128(dst, src, copy), i));
        return reduce(d);
    }
    /* The first group is padded with zero blocks in front. */
    a = b = c = _mm_setzero_si128();
    for (i = blocks & 3; i > 0; i--, src += 16, dst += 16)
        a = b, b = c, c = d, d = take128(dst, src, copy);
    for (i = blocks >> 2; i > 0; i--, src += 64, dst += 64) {
        const __m128i k = pair128(FOLD_64_BYTES);
        a = fold128(a, k, take128(dst, src, copy));
        b = fold128(b, k, take128(dst + 16, src + 16, copy));
        c = fold128(c, k, take128(dst + 32, src + 32, copy));
        d = fold128(d, k, take128(dst + 48, src + 48, copy));
    }
    a = _mm_xor_si128(finish128(a, 3), finish128(b, 2));
    c = _mm_xor_si128(finish128(c, 1), finish128(d, 0));
    return reduce(_mm_xor_si128(a, c));
}

/* Without a copy `dst` is never stored to; it only advances with `src`. */
static TARGET_128 uint32_t pclmul_crc(uint32_t crc, const void *data, size_t n) {
    return ~crc128(~crc, (unsigned char *)data, data, n, 0);
}

static TARGET_128 uint32_t pclmul_copy(void *dst, const void *src, size_t n) {
    return ~crc128(~(uint32_t)0, dst, src, n, 1);
}

#if defined(EVTAPE_CRC32_WIDE)

/* ---- 256 bits: the implementation "vpclmulqdq-avx2" -----------------------------------------
 *
 * The same algorithm with two blocks of 128 bits side by side. A function that used the wide
 * registers ends with VZEROUPPER, so that later SSE code does not become slower. gcc and clang
 * insert it themselves where it is needed. MSVC needs LEAVE_WIDE. */

INLINE TARGET_256 __m256i times256(__m256i v, __m256i k) {
    return _mm256_xor_si256(_mm256_clmulepi64_epi128(v, k, 0x00),
                            _mm256_clmulepi64_epi128(v, k, 0x11));
}

INLINE TARGET_256 __m256i finish256(__m256i v, size_t after) {
    return times256(v, _mm256_load_si256((const __m256i *)(finish + 28) - after));
}

INLINE TARGET_256 __m256i take256(unsigned char *dst, const unsigned char *src, int copy) {
    __m256i v = _mm256_loadu_si256((const __m256i *)src);
    if (copy) {
        ONCE(v);
        _mm256_storeu_si256((__m256i *)dst, v);
    }
    return v;
}

INLINE TARGET_256 uint32_t reduce256(__m256i r) {
    return reduce(_mm_xor_si128(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1)));
}

INLINE TARGET_256 __m256i fold256(__m256i a, __m256i k, __m256i next) {
    return _mm256_xor_si256(times256(a, k), next);
}

INLINE TARGET_256 uint32_t crc256(uint32_t state, unsigned char *dst, const unsigned char *src,
                                  size_t n, int copy) {
    size_t head, blocks, i;
    __m128i low, high;
    __m256i a, b, c, d;
    if (n < 16)
        return crc_0_15(state, dst, src, n, copy);
    if (n <= 32)
        return crc_16_32(state, dst, src, n, copy);
    head = ((n - 1) & 15) + 1;
    if (UNLIKELY(head < 4)) {
        state = crc_0_3(state, dst, src, head, copy);
        src += head, dst += head, n -= head;
        head = 16;
    }
    /* AVX2 has no byte shuffle across its halves. So the first block consists of one or two blocks
     * of 16 bytes, such that an even number of them remains. */
    low = _mm_setzero_si128();
    high = _mm_xor_si128(take128(dst, src, copy), _mm_cvtsi32_si128((int)state));
    high = align128(high, head);
    src += head, dst += head, n -= head;
    if (n & 16) {
        low = high, high = take128(dst, src, copy);
        src += 16, dst += 16;
    }
    d = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    blocks = n / 32;

    if (blocks < 4) {
        d = finish256(d, blocks);
        for (i = blocks; i-- > 0; src += 32, dst += 32)
            d = _mm256_xor_si256(d, finish256(take256(dst, src, copy), i));
        return reduce256(d);
    }
    a = b = c = _mm256_setzero_si256();
    for (i = blocks & 3; i > 0; i--, src += 32, dst += 32)
        a = b, b = c, c = d, d = take256(dst, src, copy);
    for (i = blocks >> 2; i > 0; i--, src += 128, dst += 128) {
        const __m256i k = _mm256_broadcastsi128_si256(pair128(FOLD_128_BYTES));
        a = fold256(a, k, take256(dst, src, copy));
        b = fold256(b, k, take256(dst + 32, src + 32, copy));
        c = fold256(c, k, take256(dst + 64, src + 64, copy));
        d = fold256(d, k, take256(dst + 96, src + 96, copy));
    }
    a = _mm256_xor_si256(finish256(a, 3), finish256(b, 2));
    c = _mm256_xor_si256(finish256(c, 1), finish256(d, 0));
    return reduce256(_mm256_xor_si256(a, c));
}

static TARGET_256 uint32_t vpclmul256_crc(uint32_t crc, const void *data, size_t n) {
    uint32_t result = ~crc256(~crc, (unsigned char *)data, data, n, 0);
    LEAVE_WIDE();
    return result;
}

static TARGET_256 uint32_t vpclmul256_copy(void *dst, const void *src, size_t n) {
    uint32_t result = ~crc256(~(uint32_t)0, dst, src, n, 1);
    LEAVE_WIDE();
    return result;
}

/* ---- 512 bits: the implementation "vpclmulqdq-avx512" ---------------------------------------
 *
 * Up to 64 bytes stay in 256-bit registers, which is not slower. So short events alone never make a
 * CPU lower its clock for 512-bit work. VBMI has the byte shuffle across a whole register; every
 * CPU with AVX-512 and VPCLMULQDQ has VBMI. */

INLINE TARGET_512 __m512i xor3(__m512i a, __m512i b, __m512i c) {
    return _mm512_ternarylogic_epi64(a, b, c, 0x96);
}

INLINE TARGET_512 __m512i fold512(__m512i a, __m512i k, __m512i next) {
    return xor3(_mm512_clmulepi64_epi128(a, k, 0x00), _mm512_clmulepi64_epi128(a, k, 0x11), next);
}

/* `sum` plus the block times its constants. */
INLINE TARGET_512 __m512i finish512(__m512i v, size_t after, __m512i sum) {
    return fold512(v, _mm512_load_si512((const __m512i *)(finish + 24) - after), sum);
}

INLINE TARGET_512 __m512i take512(unsigned char *dst, const unsigned char *src, int copy) {
    __m512i v = _mm512_loadu_si512(src);
    if (copy) {
        ONCE(v);
        _mm512_storeu_si512(dst, v);
    }
    return v;
}

INLINE TARGET_512 uint32_t reduce512(__m512i r) {
    return reduce256(_mm256_xor_si256(_mm512_castsi512_si256(r), _mm512_extracti64x4_epi64(r, 1)));
}

/* 33 to 64 bytes. */
INLINE TARGET_512 uint32_t crc_33_64(uint32_t state, unsigned char *dst, const unsigned char *src,
                                     size_t n, int copy) {
    __m128i init = _mm_cvtsi32_si128((int)state);
    __m256i a = take256(dst, src, copy);
    __m256i b = take256(dst + n - 32, src + n - 32, copy);
    __m256i index = _mm256_loadu_si256((const __m256i *)(slide + n));
    __m128i rest = _mm_srl_epi64(init, _mm_cvtsi32_si128((int)(n - 32) * 8));
    a = _mm256_xor_si256(a, _mm256_zextsi128_si256(init));
    a = _mm256_maskz_permutexvar_epi8((__mmask32)(~(uint64_t)0 << (64 - n)), index, a);
    b = _mm256_xor_si256(b, _mm256_zextsi128_si256(rest));
    return reduce256(_mm256_xor_si256(finish256(a, 1), finish256(b, 0)));
}

INLINE TARGET_512 uint32_t crc512(uint32_t state, unsigned char *dst, const unsigned char *src,
                                  size_t n, int copy) {
    size_t head, blocks, i;
    __m512i a, b, c, d;
    if (n < 16)
        return crc_0_15(state, dst, src, n, copy);
    if (n <= 32)
        return crc_16_32(state, dst, src, n, copy);
    if (n <= 64)
        return crc_33_64(state, dst, src, n, copy);
    head = ((n - 1) & 63) + 1;
    if (UNLIKELY(head < 4)) {
        state = crc_0_3(state, dst, src, head, copy);
        src += head, dst += head, n -= head;
        head = 64;
    }
    d = take512(dst, src, copy);
    d = _mm512_xor_si512(d, _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)state)));
    d = _mm512_maskz_permutexvar_epi8(~(uint64_t)0 << (64 - head), _mm512_loadu_si512(slide + head),
                                      d);
    src += head, dst += head;
    blocks = (n - head) / 64;

    if (blocks < 4) {
        d = finish512(d, blocks, _mm512_setzero_si512());
        for (i = blocks; i-- > 0; src += 64, dst += 64)
            d = finish512(take512(dst, src, copy), i, d);
        return reduce512(d);
    }
    a = b = c = _mm512_setzero_si512();
    for (i = blocks & 3; i > 0; i--, src += 64, dst += 64)
        a = b, b = c, c = d, d = take512(dst, src, copy);
    for (i = blocks >> 2; i > 0; i--, src += 256, dst += 256) {
        const __m512i k = _mm512_broadcast_i32x4(pair128(FOLD_256_BYTES));
        a = fold512(a, k, take512(dst, src, copy));
        b = fold512(b, k, take512(dst + 64, src + 64, copy));
        c = fold512(c, k, take512(dst + 128, src + 128, copy));
        d = fold512(d, k, take512(dst + 192, src + 192, copy));
    }
    a = finish512(a, 3, finish512(b, 2, _mm512_setzero_si512()));
    c = finish512(c, 1, finish512(d, 0, _mm512_setzero_si512()));
    return reduce512(_mm512_xor_si512(a, c));
}

static TARGET_512 uint32_t vpclmul512_crc(uint32_t crc, const void *data, size_t n) {
    uint32_t result = ~crc512(~crc, (unsigned char *)data, data, n, 0);
    LEAVE_WIDE();
    return result;
}

static TARGET_512 uint32_t vpclmul512_copy(void *dst, const void *src, size_t n) {
    uint32_t result = ~crc512(~(uint32_t)0, dst, src, n, 1);
    LEAVE_WIDE();
    return result;
}

#endif /* EVTAPE_CRC32_WIDE */

/* ---- What can run here ----------------------------------------------------------------------- */

/* eax, ebx, ecx, edx; zeros for a leaf that the CPU does not have. */
static void cpuid(unsigned leaf, unsigned out[4]) {
#if defined(_MSC_VER) && !defined(__clang__)
    __cpuid((int *)out, 0);
    if (out[0] < leaf)
        out[0] = out[1] = out[2] = out[3] = 0;
    else
        __cpuidex((int *)out, (int)leaf, 0);
#else
    out[0] = out[1] = out[2] = out[3] = 0;
    __get_cpuid_count(leaf, 0, &out[0], &out[1], &out[2], &out[3]);
#endif
}

/* The register sets that the operating system saves on a context switch: XCR0. Call it only if
 * OSXSAVE is set. */
static uint64_t saved_registers(void) {
#if defined(_MSC_VER) && !defined(__clang__)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
#endif
}

#define ALL_OF(value, bits) (((value) & (bits)) == (bits))

static int pclmul_available(void) {
    const unsigned pclmulqdq = 1U << 1, ssse3 = 1U << 9, sse41 = 1U << 19;
    unsigned leaf1[4];
    cpuid(1, leaf1);
    return ALL_OF(leaf1[2], pclmulqdq | ssse3 | sse41);
}

#if defined(EVTAPE_CRC32_WIDE)

static int vpclmul256_available(void) {
    const unsigned osxsave = 1U << 27, avx = 1U << 28, avx2 = 1U << 5, vpclmulqdq = 1U << 10;
    const uint64_t xmm_ymm = 0x06;
    unsigned leaf1[4], leaf7[4];
    cpuid(1, leaf1);
    cpuid(7, leaf7);
    return pclmul_available() && ALL_OF(leaf1[2], osxsave | avx) && ALL_OF(leaf7[1], avx2) &&
           ALL_OF(leaf7[2], vpclmulqdq) && ALL_OF(saved_registers(), xmm_ymm);
}

static int vpclmul512_available(void) {
    const unsigned avx512f = 1U << 16, avx512bw = 1U << 30, avx512vl = 1U << 31;
    const unsigned avx512vbmi = 1U << 1;
    const uint64_t xmm_ymm_opmask_zmm = 0xe6;
    unsigned leaf7[4];
    cpuid(7, leaf7);
    return vpclmul256_available() && ALL_OF(leaf7[1], avx512f | avx512bw | avx512vl) &&
           ALL_OF(leaf7[2], avx512vbmi) && ALL_OF(saved_registers(), xmm_ymm_opmask_zmm);
}

#define EVTAPE_CRC32_ARCH_IMPLEMENTATIONS                                                          \
    {"vpclmulqdq-avx512", vpclmul512_available, vpclmul512_crc, vpclmul512_copy},                  \
        {"vpclmulqdq-avx2", vpclmul256_available, vpclmul256_crc, vpclmul256_copy},                \
        {"pclmulqdq", pclmul_available, pclmul_crc, pclmul_copy},
#else
#define EVTAPE_CRC32_ARCH_IMPLEMENTATIONS {"pclmulqdq", pclmul_available, pclmul_crc, pclmul_copy},
#endif

#endif

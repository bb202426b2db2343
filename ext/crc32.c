/* CRC-32 as in zlib: the portable implementation, and the choice of an implementation. See crc32.h.
 *
 * SPDX-License-Identifier: MIT
 */
#include "crc32.h"

#include <string.h>

typedef uint32_t (*crc_function)(uint32_t crc, const void *data, size_t n);
typedef uint32_t (*copy_function)(void *dst, const void *src, size_t n);

struct implementation {
    const char *name;
    int (*available)(void);
    crc_function crc;
    copy_function copy;
};

#if (defined(__x86_64__) || defined(_M_X64)) && !defined(_M_ARM64EC) && !defined(__ILP32__)
#include "crc32_x86.h"
#elif (defined(__aarch64__) && !defined(__AARCH64EB__)) || defined(_M_ARM64)
#include "crc32_arm.h"
#endif

/* ---- The portable implementation: slicing by sixteen -------------------------------------
 *
 * The CRC register holds a polynomial over GF(2) of degree below 32, "reflected": bit i is the
 * coefficient of x^(31-i). One byte is appended by multiplying the register by x^8 modulo
 * P = x^32 + x^26 + x^23 + x^22 + x^16 + x^12 + x^11 + x^10 + x^8 + x^7 + x^5 + x^4 + x^2 + x + 1.
 * Because the remainder is linear, sixteen bytes can be looked up independently of each other
 * and XORed: slice[k][b] is the remainder of byte b that k more bytes follow.
 *
 * For the same reason a table is spanned by its eight entries for single bits. Bit j of a byte is
 * the coefficient of x^(7-j), and a byte that enters the register is multiplied by x^32, so
 * slice[k][1 << j] is x^(7 - j + 32 + 8 * k) modulo P, reflected. Those 128 remainders form the
 * table below, one row per slice. The macros make the compiler XOR the rest. So the tables are
 * constants: they need no initialisation, and all processes share their pages.
 */
#define BIT(i, j, v) ((i) >> (j) & 1 ? UINT32_C(v) : 0)
#define SLICE_1(i, a, b, c, d, e, f, g, h)                                                         \
    BIT(i, 0, a) ^ BIT(i, 1, b) ^ BIT(i, 2, c) ^ BIT(i, 3, d) ^ BIT(i, 4, e) ^ BIT(i, 5, f) ^      \
        BIT(i, 6, g) ^ BIT(i, 7, h)
#define SLICE_4(i, a, b, c, d, e, f, g, h)                                                         \
    SLICE_1(i, a, b, c, d, e, f, g, h), SLICE_1(i + 1, a, b, c, d, e, f, g, h),                    \
        SLICE_1(i + 2, a, b, c, d, e, f, g, h), SLICE_1(i + 3, a, b, c, d, e, f, g, h)
#define SLICE_16(i, a, b, c, d, e, f, g, h)                                                        \
    SLICE_4(i, a, b, c, d, e, f, g, h), SLICE_4(i + 4, a, b, c, d, e, f, g, h),                    \
        SLICE_4(i + 8, a, b, c, d, e, f, g, h), SLICE_4(i + 12, a, b, c, d, e, f, g, h)
#define SLICE_64(i, a, b, c, d, e, f, g, h)                                                        \
    SLICE_16(i, a, b, c, d, e, f, g, h), SLICE_16(i + 16, a, b, c, d, e, f, g, h),                 \
        SLICE_16(i + 32, a, b, c, d, e, f, g, h), SLICE_16(i + 48, a, b, c, d, e, f, g, h)
#define SLICE(a, b, c, d, e, f, g, h)                                                              \
    SLICE_64(0, a, b, c, d, e, f, g, h), SLICE_64(64, a, b, c, d, e, f, g, h),                     \
        SLICE_64(128, a, b, c, d, e, f, g, h), SLICE_64(192, a, b, c, d, e, f, g, h)

/* clang-format off */
static const uint32_t slice[16][256] = {
    {SLICE(0x77073096, 0xee0e612c, 0x076dc419, 0x0edb8832,
           0x1db71064, 0x3b6e20c8, 0x76dc4190, 0xedb88320)},
    {SLICE(0x191b3141, 0x32366282, 0x646cc504, 0xc8d98a08,
           0x4ac21251, 0x958424a2, 0xf0794f05, 0x3b83984b)},
    {SLICE(0x01c26a37, 0x0384d46e, 0x0709a8dc, 0x0e1351b8,
           0x1c26a370, 0x384d46e0, 0x709a8dc0, 0xe1351b80)},
    {SLICE(0xb8bc6765, 0xaa09c88b, 0x8f629757, 0xc5b428ef,
           0x5019579f, 0xa032af3e, 0x9b14583d, 0xed59b63b)},
    {SLICE(0x3d6029b0, 0x7ac05360, 0xf580a6c0, 0x30704bc1,
           0x60e09782, 0xc1c12f04, 0x58f35849, 0xb1e6b092)},
    {SLICE(0xcb5cd3a5, 0x4dc8a10b, 0x9b914216, 0xec53826d,
           0x03d6029b, 0x07ac0536, 0x0f580a6c, 0x1eb014d8)},
    {SLICE(0xa6770bb4, 0x979f1129, 0xf44f2413, 0x33ef4e67,
           0x67de9cce, 0xcfbd399c, 0x440b7579, 0x8816eaf2)},
    {SLICE(0xccaa009e, 0x4225077d, 0x844a0efa, 0xd3e51bb5,
           0x7cbb312b, 0xf9766256, 0x299dc2ed, 0x533b85da)},
    {SLICE(0x177b1443, 0x2ef62886, 0x5dec510c, 0xbbd8a218,
           0xacc04271, 0x82f182a3, 0xde920307, 0x6655004f)},
    {SLICE(0xefc26b3e, 0x04f5d03d, 0x09eba07a, 0x13d740f4,
           0x27ae81e8, 0x4f5d03d0, 0x9eba07a0, 0xe6050901)},
    {SLICE(0xc18edfc0, 0x586cb9c1, 0xb0d97382, 0xbac3e145,
           0xaef6c4cb, 0x869c8fd7, 0xd64819ef, 0x77e1359f)},
    {SLICE(0x9ba54c6f, 0xec3b9e9f, 0x03063b7f, 0x060c76fe,
           0x0c18edfc, 0x1831dbf8, 0x3063b7f0, 0x60c76fe0)},
    {SLICE(0xdd96d985, 0x605cb54b, 0xc0b96a96, 0x5a03d36d,
           0xb407a6da, 0xb37e4bf5, 0xbd8d91ab, 0xa06a2517)},
    {SLICE(0x9d0fe176, 0xe16ec4ad, 0x19ac8f1b, 0x33591e36,
           0x66b23c6c, 0xcd6478d8, 0x41b9f7f1, 0x8373efe2)},
    {SLICE(0xb9fbdbe8, 0xa886b191, 0x8a7c6563, 0xcf89cc87,
           0x44629f4f, 0x88c53e9e, 0xcafb7b7d, 0x4e87f0bb)},
    {SLICE(0xae689191, 0x87a02563, 0xd4314c87, 0x73139f4f,
           0xe6273e9e, 0x173f7b7d, 0x2e7ef6fa, 0x5cfdedf4)},
};
/* clang-format on */

/* Loads four bytes in little-endian order on any machine. */
static inline uint32_t load_le32(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* The remainder of four bytes that k more bytes follow. */
static inline uint32_t slice4(uint32_t word, int k) {
    return slice[k + 3][word & 255] ^ slice[k + 2][word >> 8 & 255] ^
           slice[k + 1][word >> 16 & 255] ^ slice[k][word >> 24];
}

static uint32_t portable_crc(uint32_t crc, const void *data, size_t n) {
    const unsigned char *p = data;
    crc = ~crc;
    for (; n >= 16; n -= 16, p += 16)
        crc = slice4(load_le32(p) ^ crc, 12) ^ slice4(load_le32(p + 4), 8) ^
              slice4(load_le32(p + 8), 4) ^ slice4(load_le32(p + 12), 0);
    for (; n >= 4; n -= 4, p += 4)
        crc = slice4(load_le32(p) ^ crc, 0);
    for (; n > 0; n--, p++)
        crc = crc >> 8 ^ slice[0][(crc ^ *p) & 255];
    return ~crc;
}

/* The CRC is computed from the copy, not from the source, so that the two agree. */
static uint32_t portable_copy(void *dst, const void *src, size_t n) {
    if (n > 0)
        memcpy(dst, src, n);
    return portable_crc(0, dst, n);
}

static int portable_available(void) {
    return 1;
}

/* ---- The choice ---------------------------------------------------------------------------- */

/* Widest first. */
static const struct implementation implementations[] = {
#if defined(EVTAPE_CRC32_ARCH_IMPLEMENTATIONS)
    EVTAPE_CRC32_ARCH_IMPLEMENTATIONS
#endif
    {"portable", portable_available, portable_crc, portable_copy},
};
#define IMPLEMENTATION_COUNT (sizeof implementations / sizeof implementations[0])

/* Several threads may pick at the same time. They pick the same implementation, so it is enough
 * that a pointer is stored and loaded as one unit. Relaxed atomics do this with plain moves. MSVC
 * gives aligned volatile pointers this property. */
#if defined(__GNUC__) || defined(__clang__)
#define SHARED
#define LOAD_SHARED(variable) __atomic_load_n(&(variable), __ATOMIC_RELAXED)
#define STORE_SHARED(variable, value) __atomic_store_n(&(variable), (value), __ATOMIC_RELAXED)
#else
#define SHARED volatile
#define LOAD_SHARED(variable) (variable)
#define STORE_SHARED(variable, value) ((variable) = (value))
#endif

static uint32_t first_crc(uint32_t crc, const void *data, size_t n);
static uint32_t first_copy(void *dst, const void *src, size_t n);

/* Two pointers instead of one to the implementation save a load on each call. Until an
 * implementation is picked they point to functions that pick one. */
static crc_function SHARED chosen_crc = first_crc;
static copy_function SHARED chosen_copy = first_copy;
static const struct implementation *SHARED chosen = NULL;

static void choose(const struct implementation *implementation) {
    STORE_SHARED(chosen_crc, implementation->crc);
    STORE_SHARED(chosen_copy, implementation->copy);
    STORE_SHARED(chosen, implementation);
}

static const struct implementation *widest(void) {
    const struct implementation *implementation = implementations;
    while (!implementation->available())
        implementation++;
    return implementation;
}

void evtape_crc32_init(void) {
    if (!LOAD_SHARED(chosen))
        choose(widest());
}

static uint32_t first_crc(uint32_t crc, const void *data, size_t n) {
    evtape_crc32_init();
    return LOAD_SHARED(chosen)->crc(crc, data, n);
}

static uint32_t first_copy(void *dst, const void *src, size_t n) {
    evtape_crc32_init();
    return LOAD_SHARED(chosen)->copy(dst, src, n);
}

uint32_t evtape_crc32(uint32_t crc, const void *data, size_t n) {
    return LOAD_SHARED(chosen_crc)(crc, data, n);
}

uint32_t evtape_copy_crc32(void *dst, const void *src, size_t n) {
    return LOAD_SHARED(chosen_copy)(dst, src, n);
}

int evtape_crc32_implementations(const char *names[], int capacity) {
    int count = 0;
    for (size_t i = 0; i < IMPLEMENTATION_COUNT; i++) {
        if (!implementations[i].available())
            continue;
        if (count < capacity)
            names[count] = implementations[i].name;
        count++;
    }
    return count;
}

int evtape_crc32_use(const char *name) {
    if (strcmp(name, "auto") == 0) {
        choose(widest());
        return 0;
    }
    for (size_t i = 0; i < IMPLEMENTATION_COUNT; i++) {
        if (strcmp(name, implementations[i].name) == 0 && implementations[i].available()) {
            choose(&implementations[i]);
            return 0;
        }
    }
    return -1;
}

const char *evtape_crc32_implementation(void) {
    evtape_crc32_init();
    return LOAD_SHARED(chosen)->name;
}

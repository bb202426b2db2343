/* The CRC of the C contenders, chosen by --crc: "none" (the limit of memory), "zlib" (stock), "isal" (mode crc only) and
 * "best": the project's own ext/crc32.c where the builder found it, otherwise libdeflate's, otherwise zlib's. The report says
 * which one ran. */
#ifndef BENCH_CHECKSUM_H
#define BENCH_CHECKSUM_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#if defined(BENCH_CRC_EVTAPE)
#include "crc32.h"
#define BEST_CRC "evtape"
#elif defined(BENCH_CRC_LIBDEFLATE)
#include <libdeflate.h>
#define BEST_CRC "libdeflate"
#else
#define BEST_CRC "zlib"
#endif

#if defined(BENCH_CRC_ISAL)
#include <isa-l/crc.h>
#endif

enum crc_kind { CRC_NONE, CRC_ZLIB, CRC_BEST, CRC_ISAL };

static enum crc_kind crc_parse(const char *name)
{
    if (!strcmp(name, "none")) return CRC_NONE;
    if (!strcmp(name, "zlib")) return CRC_ZLIB;
    if (!strcmp(name, "best")) {
#if defined(BENCH_CRC_EVTAPE)
        evtape_crc32_init();
#endif
        return CRC_BEST;
    }
    if (!strcmp(name, "isal")) {
#if defined(BENCH_CRC_ISAL)
        return CRC_ISAL;
#else
        fprintf(stderr, "built without ISA-L\n");
        exit(2);
#endif
    }
    fprintf(stderr, "--crc is none, zlib, best or isal\n");
    exit(2);
}

static const char *crc_name(enum crc_kind kind)
{
    static const char *const names[] = {"none", "zlib", BEST_CRC, "ISA-L"};
    return names[kind];
}

static inline uint32_t crc_best(const uint8_t *data, size_t size)
{
#if defined(BENCH_CRC_EVTAPE)
    return evtape_crc32(0, data, size);
#elif defined(BENCH_CRC_LIBDEFLATE)
    return libdeflate_crc32(0, data, size);
#else
    return (uint32_t)crc32_z(0, data, size);
#endif
}

/* The checksum alone. ISA-L's table of functions is chosen inside the library, as ours is. */
static inline uint32_t crc_of(enum crc_kind kind, const uint8_t *data, size_t size)
{
#if defined(BENCH_CRC_ISAL)
    if (kind == CRC_ISAL) return crc32_gzip_refl(0, data, size);
#endif
    return kind == CRC_ZLIB ? (uint32_t)crc32_z(0, data, size) : crc_best(data, size);
}

/* Copy the payload and return its checksum. `kind` is a constant at every call, so each loop is specialised. */
static inline __attribute__((always_inline)) uint32_t copy_crc(enum crc_kind kind, uint8_t *to, const uint8_t *from,
                                                               size_t size)
{
#if defined(BENCH_CRC_EVTAPE)
    if (kind == CRC_BEST) return evtape_copy_crc32(to, from, size);
#endif
    memcpy(to, from, size);
    if (kind == CRC_NONE) return 0;
    return kind == CRC_ZLIB ? (uint32_t)crc32_z(0, from, size) : crc_best(from, size);
}

#endif

/* The CRC of the C contenders, chosen by --crc: "none" (the limit of memory), "zlib" (stock) and "best": the project's own
 * ext/crc32.c where the builder found it, otherwise libdeflate's, otherwise zlib's. The report says which one ran. */
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

enum crc_kind { CRC_NONE, CRC_ZLIB, CRC_BEST };

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
    fprintf(stderr, "--crc is none, zlib or best\n");
    exit(2);
}

static const char *crc_name(enum crc_kind kind)
{
    return kind == CRC_NONE ? "none" : kind == CRC_ZLIB ? "zlib" : BEST_CRC;
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

/* CRC-32 as in zlib, and a copy that computes it in the same pass.
 *
 * These two functions have several implementations. The first call picks the widest one that the
 * CPU and the operating system can run. A later call costs one indirect jump.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_CRC32_H
#define EVTAPE_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* Picks the implementation. Call it at module import. It is thread safe, and a second call does
 * nothing. The functions below also work without it, because their first call picks one. */
void evtape_crc32_init(void);

/* Returns the CRC-32 of n bytes that follow bytes with the CRC-32 `crc`; start with 0. Reads
 * nothing outside [data, data + n). `data` may be NULL if n is 0. */
uint32_t evtape_crc32(uint32_t crc, const void *data, size_t n);

/* Copies n bytes and returns the CRC-32 of the bytes that it wrote. The regions must not overlap.
 * The copy and its CRC agree even if another thread changes the source during the call, because the
 * CRC and the store use the same load. */
uint32_t evtape_copy_crc32(void *dst, const void *src, size_t n);

/* Stores the names of the implementations that can run here into names[0..capacity), widest first.
 * Returns their number, which may be larger than `capacity`. The last one is always "portable". */
int evtape_crc32_implementations(const char *names[], int capacity);

/* Forces an implementation by name; "auto" selects the widest. Returns 0, or -1 without a change if
 * no implementation of this name can run here. For tests and measurements. */
int evtape_crc32_use(const char *name);

/* Returns the name of the implementation in use. */
const char *evtape_crc32_implementation(void);

#endif

/* CRC-32 as in zlib, and a copy that computes it on the way.
 *
 * Several implementations ("rungs") of the same two functions exist; the widest one that this CPU
 * and this operating system can run is picked once. A call then costs one indirect jump.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_CRC32_H
#define EVTAPE_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* Pick the rung. Call it at module import. It is thread safe and may be called again: it does
 * nothing when a rung has been picked. The functions below work without it as well (their first
 * call picks). */
void evtape_crc32_init(void);

/* The CRC-32 of n bytes that follow bytes whose CRC-32 is `crc`; start with 0. Nothing outside
 * [data, data + n) is read; `data` may be NULL when n is 0. */
uint32_t evtape_crc32(uint32_t crc, const void *data, size_t n);

/* Copy n bytes and return the CRC-32 of the bytes that were written. The regions must not
 * overlap. The copy and its CRC agree even when another thread changes the source meanwhile:
 * what the CRC sees and what is left in `dst` always comes from the same load. */
uint32_t evtape_copy_crc32(void *dst, const void *src, size_t n);

/* Store the names of the rungs that can run here, widest first, into names[0..capacity). Return
 * how many there are, which may be more than were stored. The last one is always "portable". */
int evtape_crc32_implementations(const char *names[], int capacity);

/* Force a rung by name; "auto" is the widest. Return 0, or -1 (and change nothing) when there is
 * no such rung here. For tests and measurements. */
int evtape_crc32_use(const char *name);

/* The name of the rung in use. */
const char *evtape_crc32_rung(void);

#endif

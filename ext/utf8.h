/* UTF-8: whether bytes are it, and one code point as it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EVTAPE_UTF8_H
#define EVTAPE_UTF8_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Bytes of the longest code point. */
#define EVTAPE_UTF8_MAX 4

/* The length of the valid code point at `p`, of which n bytes can be read, or 0. Overlong forms and
 * surrogates are not valid. */
static inline size_t evtape_utf8_step(const uint8_t *p, size_t n) {
    uint8_t low = 0x80, high = 0xBF;
    size_t length;
    if (p[0] < 0x80)
        return 1;
    if (p[0] >= 0xC2 && p[0] <= 0xDF)
        length = 2;
    else if ((p[0] & 0xF0) == 0xE0)
        length = 3;
    else if (p[0] >= 0xF0 && p[0] <= 0xF4)
        length = 4;
    else
        return 0;
    if (p[0] == 0xE0)
        low = 0xA0;
    else if (p[0] == 0xED)
        high = 0x9F;
    else if (p[0] == 0xF0)
        low = 0x90;
    else if (p[0] == 0xF4)
        high = 0x8F;
    if (n < length || p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    return length;
}

/* Returns 1 if the n bytes at `p` are UTF-8. Eight ASCII characters are one step. */
static inline int evtape_utf8_valid(const uint8_t *p, size_t n) {
    const uint8_t *stop = p + n;
    while (p < stop) {
        uint64_t word;
        while (stop - p >= 8 && (memcpy(&word, p, 8), (word & 0x8080808080808080u) == 0))
            p += 8;
        if (p == stop)
            return 1;
        size_t step = evtape_utf8_step(p, (size_t)(stop - p));
        if (step == 0)
            return 0;
        p += step;
    }
    return 1;
}

/* Stores a code point at `to` and returns its length, or 0 if it is a surrogate or too large. */
static inline size_t evtape_utf8_encode(uint8_t *to, uint32_t c) {
    if (c < 0x80) {
        to[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        to[0] = (uint8_t)(0xC0 | c >> 6);
        to[1] = (uint8_t)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        if (c >= 0xD800 && c < 0xE000)
            return 0;
        to[0] = (uint8_t)(0xE0 | c >> 12);
        to[1] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
        to[2] = (uint8_t)(0x80 | (c & 0x3F));
        return 3;
    }
    if (c > 0x10FFFF)
        return 0;
    to[0] = (uint8_t)(0xF0 | c >> 18);
    to[1] = (uint8_t)(0x80 | (c >> 12 & 0x3F));
    to[2] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
    to[3] = (uint8_t)(0x80 | (c & 0x3F));
    return 4;
}

#endif

/* The reference parser once more, in C, for the parts that judge millions of files. Written from the format, without evtape's code.
 * reference.py compares the two on every example, fuzz.py on a sample of everything it makes. */
#include <stdint.h>
#include <string.h>

enum { CLEAN, OPEN, DAMAGED, INVALID };
enum { NONE, HEADER, TRUNCATED, SIZE, CHECKSUM, ZERO, COUNT };

typedef struct {
    int64_t state, events, end, reason;
} verdict_t;

static uint32_t table[8][256];

__attribute__((constructor)) static void make_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
        table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++)
            table[k][i] = table[0][table[k - 1][i] & 255] ^ (table[k - 1][i] >> 8);
}

uint32_t crc(const uint8_t *p, uint64_t n) {
    uint32_t c = 0xFFFFFFFFu;
    for (; n >= 8; n -= 8, p += 8) {
        uint32_t a, b;
        memcpy(&a, p, 4), memcpy(&b, p + 4, 4);
        a ^= c;
        c = table[7][a & 255] ^ table[6][a >> 8 & 255] ^ table[5][a >> 16 & 255] ^ table[4][a >> 24] ^
            table[3][b & 255] ^ table[2][b >> 8 & 255] ^ table[1][b >> 16 & 255] ^ table[0][b >> 24];
    }
    while (n--)
        c = table[0][(c ^ *p++) & 255] ^ (c >> 8);
    return ~c;
}

void verdict(const uint8_t *data, int64_t size, verdict_t *out) {
    *out = (verdict_t){INVALID, 0, 0, HEADER};
    if (size < 24)
        return;
    int64_t head[2];
    memcpy(head, data, 16);
    int usable = head[0] >= 24 && head[0] <= size;
    int64_t bound = usable ? head[0] : size;
    int64_t at = 24, met = 0;
    int64_t zero_at = -1, zero_events = 0, bad_at = -1, bad_events = 0;
    while (bound - at >= 16) {
        int64_t timestamp;
        uint32_t length, checksum;
        memcpy(&timestamp, data + at, 8), memcpy(&length, data + at + 8, 4), memcpy(&checksum, data + at + 12, 4);
        if ((int64_t)length > bound - at - 16)
            break;
        if (crc(data + at + 16, length) != checksum) {
            if (bad_at < 0)
                bad_at = at, bad_events = met;
        } else if (timestamp == 0 && length == 0 && zero_at < 0) {
            zero_at = at, zero_events = met;
        }
        at += 16 + (int64_t)length;
        met++;
    }
    int complete = at == bound, adds_up = complete && met == head[1];
    int reason = complete ? NONE : SIZE;
    int64_t end = at, events = met;
    if (bad_at >= 0)
        end = bad_at, events = bad_events, reason = CHECKSUM;
    if (zero_at >= 0 && !adds_up && zero_at < end)
        end = zero_at, events = zero_events, reason = ZERO;
    if (!usable) {
        if (events > 0)
            *out = (verdict_t){DAMAGED, events, end, head[0] < 24 ? HEADER : TRUNCATED};
        return;
    }
    if (reason == NONE && !adds_up)
        reason = COUNT;
    *out = (verdict_t){reason == NONE ? (size == head[0] ? CLEAN : OPEN) : DAMAGED, events, end, reason};
}

/* ---------------------------------------------------------------------------------------------------- images of power loss */

/* One block (sector or page) that was dirty when the power went, and the bytes it may have afterwards. */
typedef struct {
    int64_t offset, length;
    int64_t versions;
    const uint8_t *bytes[8];
} block_t;

void put(uint8_t *image, const block_t *block, int64_t version) {
    memcpy(image + block->offset, block->bytes[version], (size_t)block->length);
}

/* The next of all combinations, changing as few blocks as a counter changes digits. Returns 0 after the last. */
int next(uint8_t *image, const block_t *blocks, int64_t count, int64_t *digits) {
    for (int64_t i = 0; i < count; i++) {
        digits[i]++;
        if (digits[i] < blocks[i].versions) {
            put(image, &blocks[i], digits[i]);
            return 1;
        }
        digits[i] = 0;
        put(image, &blocks[i], 0);
    }
    return 0;
}

/* A combination at random. `state` is a splitmix64 generator; `bias` of 256 blocks become the newest version. */
void sample(uint8_t *image, const block_t *blocks, int64_t count, uint64_t *state, int64_t bias) {
    for (int64_t i = 0; i < count; i++) {
        uint64_t z = *state += 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        z ^= z >> 31;
        int64_t newest = blocks[i].versions - 1;
        put(image, &blocks[i], (int64_t)(z & 255) < bias ? newest : (int64_t)((z >> 8) % (uint64_t)blocks[i].versions));
    }
}

enum { FINE, NOT_A_PREFIX, NO_BOUNDARY, DURABLE_LOST };

/* Whether the prefix that a verdict keeps is one of what was appended, and holds what was acknowledged durable.
 * `ends[i]` is where the stream ends after i events. */
int64_t judge(const uint8_t *image, int64_t end, int64_t events, const uint8_t *stream, const int64_t *ends,
              int64_t appended, int64_t durable) {
    if (end == 0)
        return durable == 0 ? FINE : DURABLE_LOST;
    if (events > appended || ends[events] != end)
        return NO_BOUNDARY;
    if (memcmp(image + 24, stream + 24, (size_t)(end - 24)) != 0)
        return NOT_A_PREFIX;
    return events >= durable ? FINE : DURABLE_LOST;
}

/* ------------------------------------------------------------------------------------------------------ mutants for fuzz.py */

static uint64_t draw(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Where entries begin in [0, size), as far as they can be walked; at most 256. */
static int64_t starts(const uint8_t *data, int64_t size, int64_t *found) {
    int64_t count = 0;
    for (int64_t at = 24; at + 16 <= size && count < 256; count++) {
        uint32_t length;
        memcpy(&length, data + at + 8, 4);
        found[count] = at;
        at += 16 + (int64_t)length;
    }
    return count;
}

/* Changes a file in place at random and returns its new size, at most `capacity`. Half the time its checksums and its header are
 * made right again, so that what lies behind them is reached. */
int64_t mutate(uint8_t *data, int64_t size, int64_t capacity, uint64_t *state) {
    static const uint64_t words[] = {0, 1, 15, 16, 23, 24, 25, 40, 512, 4080, 4096, 0x7FFFFFFF, 0x80000000, 0xFFFFFFEF, 0xFFFFFFFF,
                                     0x100000000, 1ull << 62, INT64_MAX, 1ull << 63, UINT64_MAX - 23, UINT64_MAX};
    int64_t found[256], count;
    for (int changes = 1 + (int)(draw(state) % 4); changes > 0; changes--) {
        uint64_t r = draw(state), word = words[(r >> 8) % (sizeof words / sizeof *words)];
        int64_t at = size ? (int64_t)((r >> 16) % (uint64_t)size) : 0, n = (int64_t)(r >> 48) % 64;
        if (r >> 60 == 0)
            word = (uint64_t)size - 16 + (r >> 40) % 32;
        count = starts(data, size, found);
        switch (r & 7) {
        case 0:
        case 1:
            if (size)
                data[at] ^= (uint8_t)(1 << (r >> 56 & 7));
            break;
        case 2:
            memset(data + at, 0, (size_t)(n < size - at ? n : size - at));
            break;
        case 3:
            if (n < size - at)
                memmove(data + at, data + at + n, (size_t)(size - at - n)), size -= n;
            break;
        case 4:
            if (size + n <= capacity)
                memmove(data + at + n, data + at, (size_t)(size - at)), memset(data + at, 0, (size_t)n), size += n;
            break;
        case 5:
            size = r >> 58 == 0 ? at : size;
            break;
        case 6:
            if (size >= 24)
                memcpy(data + (r >> 56) % 3 * 8, &word, 8);
            break;
        default:
            if (count)
                memcpy(data + found[(r >> 32) % (uint64_t)count] + (r >> 56) % 3 * 4, &word, r >> 63 ? 8 : 4);
        }
    }
    uint64_t r = draw(state);
    count = starts(data, size, found);
    if (r & 1)
        for (int64_t i = 0; i < count; i++) {
            uint32_t length;
            memcpy(&length, data + found[i] + 8, 4);
            if ((int64_t)length <= size - found[i] - 16 && (r >> (i % 61) & 7) != 7) {
                uint32_t checksum = crc(data + found[i] + 16, length);
                memcpy(data + found[i] + 12, &checksum, 4);
            }
        }
    if ((r & 6) == 6 && count) {
        int64_t head[2] = {found[(r >> 32) % (uint64_t)count], (int64_t)((r >> 32) % (uint64_t)count)};
        memcpy(data, head, 16);
    }
    return size;
}

typedef struct {
    int64_t ordinal, offset, reason, zero, bound;
} scan_t;

/* What one pass over the entries below WriteOffset, or below the size, must find: where it stops and why, and the first zero entry. */
void scan(const uint8_t *data, int64_t size, scan_t *out) {
    int64_t bound = size;
    *out = (scan_t){0, 24, NONE, -1, 0};
    if (size < 24)
        return;
    memcpy(&bound, data, 8);
    if (bound < 24 || bound > size)
        bound = size;
    out->bound = bound;
    while (out->offset < bound) {
        int64_t timestamp;
        uint32_t length, checksum;
        out->reason = SIZE;
        if (bound - out->offset < 16)
            return;
        const uint8_t *at = data + out->offset;
        memcpy(&timestamp, at, 8), memcpy(&length, at + 8, 4), memcpy(&checksum, at + 12, 4);
        if ((int64_t)length > bound - out->offset - 16)
            return;
        out->reason = CHECKSUM;
        if (crc(at + 16, length) != checksum)
            return;
        out->reason = NONE;
        if (timestamp == 0 && length == 0 && out->zero < 0)
            out->zero = out->ordinal;
        out->offset += 16 + (int64_t)length;
        out->ordinal++;
    }
}

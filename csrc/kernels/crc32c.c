/* crc32c.c - Castagnoli CRC-32 (RFC 3720, appendix B.4): what guards every byte on disk and on the v2 wire.
 *
 * The register is kept inverted at both ends, so crc(a || b) == um_crc32c(um_crc32c(0, a), b).
 *
 * With SSE4.2 one instruction takes 8 bytes, but its result is ready only three cycles later: three
 * stretches are computed side by side and joined, because the CRC is linear:
 *     register(a || b) = register(a) moved over length(b) zero bytes, xor register(b) begun from 0.
 * Moving over a fixed number of zero bytes is eight table lookups, one per nibble.
 * Without it: slicing by 8, one lookup per byte, eight independent ones at a time.
 */
#include "um__crc32c_tables.h"
#include "um_kernels.h"
#include <string.h>

static inline uint64_t um__load64(const uint8_t *p) {
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

#if defined(__SSE4_2__)
#include <nmmintrin.h>

static inline uint32_t um__crc_move(const uint32_t table[8][16], uint32_t crc) {
    return table[0][crc & 15] ^ table[1][(crc >> 4) & 15] ^ table[2][(crc >> 8) & 15] ^ table[3][(crc >> 12) & 15] ^
           table[4][(crc >> 16) & 15] ^ table[5][(crc >> 20) & 15] ^ table[6][(crc >> 24) & 15] ^ table[7][crc >> 28];
}

/* as many times three stretches of `stretch` bytes as fit; returns how many bytes were taken */
static inline uint64_t um__crc_triples(uint64_t *crc, const uint8_t *data, uint64_t len, uint64_t stretch, const uint32_t table[8][16]) {
    uint64_t taken = 0;
    while (len - taken >= 3 * stretch) {
        const uint8_t *p = data + taken;
        uint64_t a = *crc, b = 0, c = 0;
        for (uint64_t i = 0; i < stretch; i += 8) {
            a = _mm_crc32_u64(a, um__load64(p + i));
            b = _mm_crc32_u64(b, um__load64(p + stretch + i));
            c = _mm_crc32_u64(c, um__load64(p + 2 * stretch + i));
        }
        a = um__crc_move(table, (uint32_t)a) ^ b;
        *crc = um__crc_move(table, (uint32_t)a) ^ c;
        taken += 3 * stretch;
    }
    return taken;
}

uint32_t um_crc32c(uint32_t crc, const uint8_t *data, uint64_t len) {
    uint64_t reg = ~crc, taken;
    taken = um__crc_triples(&reg, data, len, UM__CRC_FAR_BYTES, um__crc_far);
    taken += um__crc_triples(&reg, data + taken, len - taken, UM__CRC_NEAR_BYTES, um__crc_near);
    for (; len - taken >= 8; taken += 8) reg = _mm_crc32_u64(reg, um__load64(data + taken));
    for (; taken < len; taken++) reg = _mm_crc32_u8((uint32_t)reg, data[taken]);
    return ~(uint32_t)reg;
}
#else
uint32_t um_crc32c(uint32_t crc, const uint8_t *data, uint64_t len) {
    uint32_t reg = ~crc;
    uint64_t taken = 0;
    for (; len - taken >= 8; taken += 8) {
        uint64_t word = um__load64(data + taken) ^ reg;
        reg = 0;
        for (int i = 0; i < 8; i++) reg ^= um__crc_bytes[7 - i][(word >> (8 * i)) & 255];
    }
    for (; taken < len; taken++) reg = (reg >> 8) ^ um__crc_bytes[0][(reg ^ data[taken]) & 255];
    return ~reg;
}
#endif

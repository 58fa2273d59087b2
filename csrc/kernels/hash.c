/* hash.c - the hashes defined in um__hash.h, over any bytes. */
#include "um__hash.h"
#include "um_kernels.h"

/* the next word of data, the last one padded with zero bytes; left > 0 */
static inline uint64_t um__word(const uint8_t *data, uint64_t left) {
    uint64_t word = 0;
    memcpy(&word, data, left < 8 ? left : 8);
    return word;
}

uint64_t um_hash64(const uint8_t *data, uint64_t len, uint64_t seed) {
    uint64_t h = seed ^ UM__K0, at = 0, word;
    for (; len - at >= 8; at += 8) {
        memcpy(&word, data + at, 8);
        h = um__mix(h ^ word, UM__K1) + word;
    }
    if (at < len) {
        word = um__word(data + at, len - at);
        h = um__mix(h ^ word, UM__K1) + word;
    }
    return um__mix(h ^ len, UM__K2);
}

void um_hash128(const uint8_t *data, uint64_t len, uint64_t seed, uint64_t *out) {
    uint64_t lo = seed ^ UM__K0, hi = seed ^ UM__K3, at = 0, word;
    for (; len - at >= 8; at += 8) {
        memcpy(&word, data + at, 8);
        lo = um__mix(lo ^ word, UM__K1) + word;
        hi = um__mix(hi ^ word, UM__K4) + word;
    }
    if (at < len) {
        word = um__word(data + at, len - at);
        lo = um__mix(lo ^ word, UM__K1) + word;
        hi = um__mix(hi ^ word, UM__K4) + word;
    }
    out[0] = um__mix(lo ^ len, UM__K2);
    out[1] = um__mix(hi ^ len, UM__K5);
}

/* hash.c - the hashes defined in um__hash.h, over any bytes. */
#include "um__hash.h"
#include "um_kernels.h"

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
    um__hash128(data, len, seed, out);
}

/* um__hash.h - the one mixing function of the system (a 64x64 -> 128 multiply fold, as in wyhash).
 *
 * um_hash64(data, len, seed):
 *     h = seed ^ K0
 *     for each 8-byte little-endian word w of data (the last one padded with zero bytes):
 *         h = um__mix(h ^ w, K1) + w
 *     return um__mix(h ^ len, K2)
 * um_hash128 is two such lanes over the same words: lo = the above with seed; hi = the same shape with
 * constants K3, K4, K5 in place of K0, K1, K2. All arithmetic is modulo 2^64.
 * Not cryptographic. 128 bits make an accidental match among 10^8 events less likely than 10^-22.
 */
#ifndef UM__HASH_H
#define UM__HASH_H
#include <stdint.h>
#include <string.h>

#define UM__K0 0x9E3779B97F4A7C15ULL
#define UM__K1 0xA0761D6478BD642FULL
#define UM__K2 0xE7037ED1A0B428DBULL
#define UM__K3 0x8EBC6AF09C88C6E3ULL
#define UM__K4 0x589965CC75374CC3ULL
#define UM__K5 0x1D8E4E27C47D124FULL

/* the next word of data, the last one padded with zero bytes; left > 0 */
static inline uint64_t um__word(const uint8_t *data, uint64_t left) {
    uint64_t word = 0;
    memcpy(&word, data, left < 8 ? left : 8);
    return word;
}
static inline uint64_t um__mix(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* um_hash128, for callers that know the length: then there is no loop left */
static inline __attribute__((always_inline)) void um__hash128(const uint8_t *data, uint64_t len, uint64_t seed, uint64_t *out) {
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

/* hash of two words, for fixed-size keys: the same as um_hash64 over the 16 bytes (a, b) with seed 0 */
static inline uint64_t um__hash2(uint64_t a, uint64_t b) {
    uint64_t h = UM__K0;
    h = um__mix(h ^ a, UM__K1) + a;
    h = um__mix(h ^ b, UM__K1) + b;
    return um__mix(h ^ 16, UM__K2);
}
#endif

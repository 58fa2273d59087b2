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

static inline uint64_t um__mix(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* hash of two words, for fixed-size keys: the same as um_hash64 over the 16 bytes (a, b) with seed 0 */
static inline uint64_t um__hash2(uint64_t a, uint64_t b) {
    uint64_t h = UM__K0;
    h = um__mix(h ^ a, UM__K1) + a;
    h = um__mix(h ^ b, UM__K1) + b;
    return um__mix(h ^ 16, UM__K2);
}
#endif

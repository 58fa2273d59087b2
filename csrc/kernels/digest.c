/* digest.c - one number that two replicas with equal state share, and two with different state do not.
 *
 * Full digest: h = 0; for each region in order, h = hash64(bytes in use, seed h). O(state): for tests, for
 * checkpoints and for comparing at leisure.
 *
 * Running digest (meta.digest): after each stored row with sequence number seq,
 *     d = D(bucket) [+ D(member), count-unique] [+ D(period) per period record made or updated]
 *     meta.digest += mix(d ^ seq, K1)
 * where D(record) = sum over its pairs of u64 words (i = 0, 1, ...) of mix(w[2i] ^ K[i % 6], w[2i+1] ^ K[(i+1) % 6]),
 * an odd last word paired with 0 (um__digest_words). As it hashes what an update left behind, a record that
 * differs for whatever reason is noticed when it is next updated; as it is a sum, order does not matter.
 */
#include "um__apply.h"

uint64_t um_state_digest(const um_state *st) {
    uint64_t digest = 0;
    for (uint32_t region = 0; region < UM_REGIONS; region++) {
        digest = um_hash64(st->region[region].base, st->region[region].used, digest);
    }
    return digest;
}

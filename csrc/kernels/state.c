/* state.c - the pools of a group's state, and finding records in them.
 *
 * A region is a pool of fixed-size records (HEAP: bytes, DIMS: u32 words). The state proper is the regions and
 * nothing else: they are what is checkpointed and digested. The indexes (index.c) are derived, never written to
 * disk, and rebuilt from the pools after loading.
 *
 * Index keys (all hashes as in um__hash.h; hash2(a, b) hashes two words):
 *   VALUES, ACCOUNTS   the hash in the record: hash64(bytes, seed 0). Value 0 (the empty one) is not indexed.
 *   SERIES             hash2(account, metric << 1 | text)
 *   CELLS              h = hash2(series, dims_len), then per dimension value d: h = mix(h ^ d, K1) + d. The first cell
 *                      of a series is not indexed: the series names it, and most series have one
 *   BUCKETS            hash2(cell, hour)
 *   MEMBERS            hash2(bucket, member)
 *   IDS                the record's lo, itself a hash
 *   SESSIONS           hash2(id_hi, id_lo)
 *   PMEMBERS           hash2(period, member)
 * FPS0 and FPS1 have indexes of another kind, ordered by their records (fps.c).
 */
#include "um__apply.h"

uint64_t um_region_record_bytes(uint32_t region) {
    return region < UM_REGIONS ? um__region_bytes(region) : 0;
}

/* ---- a new state ---- */

void um_state_init(um_state *st, const um_limits *limits) {
    for (uint32_t region = 0; region < UM_REGIONS; region++) st->region[region].used = 0;
    const um_meta meta = {.version = 1, .next_seq = 1, .alert_next = 1, .limits = *limits};
    const um_value empty = {.heap_off = 0, .hash = um_hash64((const uint8_t *)"", 0, 0), .len = 0};
    st->ckpt_active = 0;
    um__append(st, UM_R_META, &meta, sizeof meta);
    um__append(st, UM_R_VALUES, &empty, sizeof empty);
    for (uint32_t index = 0; index < UM_INDEXES; index++) um__index_clear(st, index);
}

/* ---- lookups ---- */

uint32_t um__find_value(const um_state *st, const uint8_t *bytes, uint32_t len) {
    if (len == 0) return 0;
    const uint64_t hash = um_hash64(bytes, len, 0);
    uint64_t pos = um__home(st, UM_X_VALUES, hash);
    uint32_t number;
    while ((number = um__probe(st, UM_X_VALUES, hash, &pos)) != UM_NONE) {
        const um_value *v = um__um_value(st, number);
        if (v->hash == hash && v->len == len && memcmp(um__heap(st, v->heap_off), bytes, len) == 0) return number;
    }
    return UM_NONE;
}

uint32_t um__find_account(const um_state *st, const uint8_t *text, uint32_t len) {
    const uint64_t hash = um_hash64(text, len, 0);
    uint64_t pos = um__home(st, UM_X_ACCOUNTS, hash);
    uint32_t number;
    while ((number = um__probe(st, UM_X_ACCOUNTS, hash, &pos)) != UM_NONE) {
        const um_account *a = um__um_account(st, number);
        if (a->hash == hash && a->len == len && memcmp(um__heap(st, a->heap_off), text, len) == 0) return number;
    }
    return UM_NONE;
}

uint32_t um__find_series(const um_state *st, uint64_t account, uint32_t text, uint32_t metric) {
    const uint64_t hash = um__series_hash(account, text, metric);
    uint64_t pos = um__home(st, UM_X_SERIES, hash);
    uint32_t number;
    while ((number = um__probe(st, UM_X_SERIES, hash, &pos)) != UM_NONE) {
        const um_series *s = um__um_series(st, number);
        if (s->account == account && s->text == text && s->metric == metric) return number;
    }
    return UM_NONE;
}

static int is_cell(const um_state *st, uint32_t number, uint32_t series, const uint32_t *dims, uint32_t dims_len) {
    const um_cell *c = um__um_cell(st, number);
    return c->series == series && c->dims_len == dims_len &&
           (dims_len == 0 || memcmp(um__dims(st, c->dims_off), dims, dims_len * sizeof *dims) == 0);
}

uint32_t um__find_cell(const um_state *st, uint32_t series, const uint32_t *dims, uint32_t dims_len) {
    const uint32_t first = um__um_series(st, series)->first_cell;
    if (is_cell(st, first, series, dims, dims_len)) return first;
    if (um__um_series(st, series)->cell_count == 1) return UM_NONE;
    const uint64_t hash = um__cell_hash(series, dims, dims_len);
    uint64_t pos = um__home(st, UM_X_CELLS, hash);
    uint32_t number;
    while ((number = um__probe(st, UM_X_CELLS, hash, &pos)) != UM_NONE) {
        if (is_cell(st, number, series, dims, dims_len)) return number;
    }
    return UM_NONE;
}

uint32_t um__find_bucket(const um_state *st, uint32_t cell, uint32_t hour) {
    const uint64_t hash = um__hash2(cell, hour);
    uint64_t pos = um__home(st, UM_X_BUCKETS, hash);
    uint32_t number;
    while ((number = um__probe(st, UM_X_BUCKETS, hash, &pos)) != UM_NONE) {
        const um_bucket *b = um__um_bucket(st, number);
        if (b->cell == cell && b->hour == hour) return number;
    }
    return UM_NONE;
}

/* SKIPS is sorted by first_seq and its runs are disjoint: find the last run that begins at or before seq. */
int um__is_skipped(const um_state *st, uint64_t seq) {
    uint32_t low = 0, high = um__count(st, UM_R_SKIPS);
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (um__um_skip(st, middle)->first_seq <= seq) low = middle + 1;
        else high = middle;
    }
    if (low == 0) return 0;
    const um_skip *run = um__um_skip(st, low - 1);
    return seq - run->first_seq < run->count;
}

/* state.c - the pools of a group's state and the indexes that find records in them.
 *
 * A region is a pool of fixed-size records (HEAP: bytes, DIMS: u32 words). The state proper is the regions and
 * nothing else: they are what is checkpointed and digested. The indexes are derived, never written to disk, and
 * rebuilt from the pools after loading. An index begins with 64 slots, is at most half full, and when it would
 * not be any more it grows eightfold (to the largest size, when that is near): growing means entering all records
 * again while the world waits, so it should happen while they are few. Slots never used are zero already:
 * `used` of an index is the most it ever had, and only that much is ever cleared.
 *
 * Index keys (all hashes as in um__hash.h; hash2(a, b) hashes two words):
 *   VALUES, ACCOUNTS   the hash in the record: hash64(bytes, seed 0). Value 0 (the empty one) is not indexed.
 *   SERIES             hash2(account, metric << 1 | text)
 *   CELLS              h = hash2(series, dims_len), then per dimension value d: h = mix(h ^ d, K1) + d
 *   BUCKETS            hash2(cell, hour)
 *   MEMBERS            hash2(bucket, member)
 *   FPS0, FPS1, IDS    the record's lo, itself a hash
 *   SESSIONS           hash2(id_hi, id_lo)
 *   PMEMBERS           hash2(period, member)
 */
#include "um__apply.h"

#define SLOTS_MIN 64
#define REBUILD_AHEAD 16   /* records hashed ahead of the one being entered, so that slots arrive in time */

static const uint16_t record_bytes[UM_REGIONS] = {
    sizeof(um_meta), 1, sizeof(um_value), sizeof(um_account), sizeof(um_series), sizeof(um_cell), sizeof(uint32_t),
    sizeof(um_bucket), sizeof(um_member), sizeof(um_fp), sizeof(um_fp), sizeof(um_id), sizeof(um_session),
    sizeof(um_period), sizeof(um_pmember), sizeof(um_alert), sizeof(um_skip),
};
static const uint8_t region_of_index[UM_INDEXES] = {
    UM_R_VALUES, UM_R_ACCOUNTS, UM_R_SERIES, UM_R_CELLS, UM_R_BUCKETS, UM_R_MEMBERS,
    UM_R_FPS0, UM_R_FPS1, UM_R_IDS, UM_R_SESSIONS, UM_R_PMEMBERS,
};

uint64_t um_region_record_bytes(uint32_t region) {
    return region < UM_REGIONS ? record_bytes[region] : 0;
}

static uint64_t slots_for(uint64_t records) {
    uint64_t slots = SLOTS_MIN;
    while (slots < 2 * records) slots *= 2;
    return slots;
}

uint64_t um_index_bytes_max(const um_limits *limits, uint32_t index) {
    return index < UM_INDEXES ? slots_for(limits->records_max[region_of_index[index]]) * sizeof(uint64_t) : 0;
}

/* ---- indexes ---- */

static uint64_t record_hash(const um_state *st, uint32_t index, uint32_t number) {
    const uint8_t *base = st->region[region_of_index[index]].base;
    const void *record = base + (uint64_t)number * record_bytes[region_of_index[index]];
    switch (index) {
    case UM_X_VALUES: return ((const um_value *)record)->hash;
    case UM_X_ACCOUNTS: return ((const um_account *)record)->hash;
    case UM_X_SERIES: {
        const um_series *s = record;
        return um__series_hash(s->account, s->text, s->metric);
    }
    case UM_X_CELLS: {
        const um_cell *c = record;
        if (c->dims_len > UM_DIMENSIONS_MAX || (uint64_t)c->dims_off + c->dims_len > um__count(st, UM_R_DIMS)) return 0;
        return um__cell_hash(c->series, um__dims(st, c->dims_off), c->dims_len);
    }
    case UM_X_BUCKETS: return um__hash2(((const um_bucket *)record)->cell, ((const um_bucket *)record)->hour);
    case UM_X_MEMBERS: return um__hash2(((const um_member *)record)->bucket, (uint64_t)((const um_member *)record)->member);
    case UM_X_FPS0:
    case UM_X_FPS1: return ((const um_fp *)record)->lo;
    case UM_X_IDS: return ((const um_id *)record)->lo;
    case UM_X_SESSIONS: return um__hash2(((const um_session *)record)->id_hi, ((const um_session *)record)->id_lo);
    default: return um__hash2(((const um_pmember *)record)->period, (uint64_t)((const um_pmember *)record)->member);
    }
}

static void enter(um_state *st, uint32_t index, uint64_t hash, uint32_t number) {
    uint64_t *slots = (uint64_t *)(void *)st->index[index].base;
    const uint64_t mask = st->index_mask[index];
    uint64_t at = hash & mask;
    while (slots[at] != 0) at = (at + 1) & mask;
    slots[at] = (hash >> 32) << 32 | ((uint64_t)number + 1);
    st->index_used[index]++;
}

static uint64_t slots_max(const um_arena *arena) {
    uint64_t slots = SLOTS_MIN;
    while (2 * slots * sizeof(uint64_t) <= arena->reserved) slots *= 2;
    return slots;
}

static void set_slots(um_state *st, uint32_t index, uint64_t slots) {
    um_arena *arena = &st->index[index];
    if (slots > slots_max(arena)) slots = slots_max(arena);
    const uint64_t bytes = slots * sizeof(uint64_t);
    memset(arena->base, 0, bytes < arena->used ? bytes : arena->used);
    if (bytes > arena->used) arena->used = bytes;
    st->index_mask[index] = slots - 1;
    st->index_used[index] = 0;
}

static void refill(um_state *st, uint32_t index, uint64_t slots) {
    const uint32_t count = um__count(st, region_of_index[index]);
    const uint32_t first = index == UM_X_VALUES;
    uint64_t ahead[REBUILD_AHEAD];
    set_slots(st, index, slots);
    for (uint64_t i = first; i < (uint64_t)count + REBUILD_AHEAD; i++) {
        if (i >= (uint64_t)first + REBUILD_AHEAD) {
            if (st->index_used[index] > st->index_mask[index] / 2) return;   /* more records than the limits allow */
            enter(st, index, ahead[i % REBUILD_AHEAD], (uint32_t)(i - REBUILD_AHEAD));
        }
        if (i >= count) continue;
        ahead[i % REBUILD_AHEAD] = record_hash(st, index, (uint32_t)i);
        um__index_prefetch(st, index, ahead[i % REBUILD_AHEAD]);
    }
}

void um__index_rebuild(um_state *st, uint32_t index) {
    const uint32_t entered = um__count(st, region_of_index[index]) - (index == UM_X_VALUES);   /* "" is not in it */
    refill(st, index, slots_for(entered));
}

void um__index_clear(um_state *st, uint32_t index) {
    set_slots(st, index, st->index_mask[index] + 1);
}

/* The record is in its pool already: growing refills from the pool, the new record included. */
void um__index_add(um_state *st, uint32_t index, uint64_t hash, uint32_t number) {
    const uint64_t slots = st->index_mask[index] + 1;
    if (2 * (st->index_used[index] + 1) > slots) {
        const uint64_t most = slots_max(&st->index[index]);
        refill(st, index, 32 * slots >= most ? most : 8 * slots);
        return;
    }
    enter(st, index, hash, number);
}

void um_state_reindex(um_state *st) {
    for (uint32_t index = 0; index < UM_INDEXES; index++) um__index_rebuild(st, index);
}

int um__index_exact(const um_state *st, uint32_t index) {
    const uint32_t count = um__count(st, region_of_index[index]), first = index == UM_X_VALUES;
    if (st->index_used[index] != count - first || 2 * st->index_used[index] > st->index_mask[index] + 1) return 0;
    for (uint32_t i = first; i < count; i++) {
        const uint64_t hash = record_hash(st, index, i);
        uint64_t pos = hash;
        uint32_t number;
        do number = um__probe(st, index, hash, &pos);
        while (number != i && number != UM_NONE);
        if (number != i) return 0;
    }
    return 1;
}

/* ---- a new state ---- */

void um_state_init(um_state *st, const um_limits *limits) {
    for (uint32_t region = 0; region < UM_REGIONS; region++) st->region[region].used = 0;
    const um_meta meta = {.version = 1, .next_seq = 1, .alert_next = 1, .limits = *limits};
    const um_value empty = {.heap_off = 0, .hash = um_hash64((const uint8_t *)"", 0, 0), .len = 0};
    st->ckpt_active = 0;
    um__append(st, UM_R_META, &meta, sizeof meta);
    um__append(st, UM_R_VALUES, &empty, sizeof empty);
    for (uint32_t index = 0; index < UM_INDEXES; index++) set_slots(st, index, SLOTS_MIN);
}

/* ---- lookups ---- */

uint32_t um__find_value(const um_state *st, const uint8_t *bytes, uint32_t len) {
    if (len == 0) return 0;
    const uint64_t hash = um_hash64(bytes, len, 0);
    uint64_t pos = hash;
    uint32_t number;
    while ((number = um__probe(st, UM_X_VALUES, hash, &pos)) != UM_NONE) {
        const um_value *v = um__um_value(st, number);
        if (v->hash == hash && v->len == len && memcmp(um__heap(st, v->heap_off), bytes, len) == 0) return number;
    }
    return UM_NONE;
}

uint32_t um__find_account(const um_state *st, const uint8_t *text, uint32_t len) {
    const uint64_t hash = um_hash64(text, len, 0);
    uint64_t pos = hash;
    uint32_t number;
    while ((number = um__probe(st, UM_X_ACCOUNTS, hash, &pos)) != UM_NONE) {
        const um_account *a = um__um_account(st, number);
        if (a->hash == hash && a->len == len && memcmp(um__heap(st, a->heap_off), text, len) == 0) return number;
    }
    return UM_NONE;
}

uint32_t um__find_series(const um_state *st, uint64_t account, uint32_t text, uint32_t metric) {
    const uint64_t hash = um__series_hash(account, text, metric);
    uint64_t pos = hash;
    uint32_t number;
    while ((number = um__probe(st, UM_X_SERIES, hash, &pos)) != UM_NONE) {
        const um_series *s = um__um_series(st, number);
        if (s->account == account && s->text == text && s->metric == metric) return number;
    }
    return UM_NONE;
}

uint32_t um__find_cell(const um_state *st, uint32_t series, const uint32_t *dims, uint32_t dims_len) {
    const uint64_t hash = um__cell_hash(series, dims, dims_len);
    uint64_t pos = hash;
    uint32_t number;
    while ((number = um__probe(st, UM_X_CELLS, hash, &pos)) != UM_NONE) {
        const um_cell *c = um__um_cell(st, number);
        if (c->series != series || c->dims_len != dims_len) continue;
        if (dims_len == 0 || memcmp(um__dims(st, c->dims_off), dims, dims_len * sizeof *dims) == 0) return number;
    }
    return UM_NONE;
}

uint32_t um__find_bucket(const um_state *st, uint32_t cell, uint32_t hour) {
    const uint64_t hash = um__hash2(cell, hour);
    uint64_t pos = hash;
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

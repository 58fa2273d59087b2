/* index.c - open-addressing indexes that grow, and are emptied, a little at a time.
 *
 * An index is a table of u64 slots, tag32 << 32 | record number + 1, where the tag is the high half of the hash and
 * 0 an empty slot. A record's home is the cache line that the hash's highest bits name; it lies in the first slot
 * that was free from there on, around the table's end if need be. So a slot itself tells its home, in a table
 * of any size, and homes in a larger table come in the same order: growing reads the old table and writes the new
 * one from front to back, and looks at no record.
 *
 *     arena, in slots:  |  -  | table of 64 | table of 128 | ... | table of n at n, up to 2n | ...
 *
 * A table of n slots begins at slot n, so tables of different sizes never overlap. Past 5/8 load the next one is
 * twice or four times as large, and from then on every record entered moves STEP slots of the old table along:
 *
 *     old  | moved, not looked at any more | still in use      |     `moved` lies behind an empty slot: whoever has
 *     new  | in use                        | untouched memory  |     a home before it is in the new table
 *
 * The old table's slots are left as they are: what wrapped around its end is found there until the end is reached.
 *
 * Emptying starts over with the smallest table. What was written above it is `dirty` and zeroed SWEEP slots per
 * record entered: that is done long before a larger table needs it.
 *
 * So no record entered costs more than a fixed amount of work (and the rest of one run of full slots). Where a slot
 * lies depends on the history; what a lookup finds does not. Indexes are no part of a state's image.
 *
 * Fingerprints have indexes of another kind: fps.c.
 */
#include "um__fps.h"

#define STEP 16            /* a table of n slots is left within n / 16 records; the new one lasts for 5n / 8 and more */
#define SOON 4             /* with a quarter more records a table is too small */
#define SWEEP 64           /* while n slots are in use, 5n / 16 records or more are entered: 8n slots are clean long before */
#define REBUILD_AHEAD 16   /* records hashed ahead of the one being entered, so that slots arrive in time */

static uint64_t *all_slots(const um_state *st, uint32_t index) {
    return (uint64_t *)(void *)st->index[index].base;
}

/* Twice as large costs the least memory, four times as large the least work. */
static uint64_t growth_of(uint32_t index) {
    return index == UM_X_IDS ? 4 : 2;
}

static uint32_t shift_of(uint64_t slots) {
    return (uint32_t)(__builtin_clzll(slots) + 1);
}

static uint64_t slots_for(uint64_t records) {
    uint64_t slots = UM__SLOTS_MIN;
    while (slots < UM__SLOTS_MAX && um__overfull(records, slots)) slots *= 2;
    return slots;
}

static uint64_t slots_max(const um_arena *arena) {
    uint64_t slots = UM__SLOTS_MIN;
    while (slots < UM__SLOTS_MAX && 4 * slots * sizeof(uint64_t) <= arena->reserved) slots *= 2;
    return slots;
}

uint64_t um_index_bytes_max(const um_limits *limits, uint32_t index) {
    if (index >= UM_INDEXES) return 0;
    const uint64_t records = limits->records_max[um__region_of_index(index)];
    return um__is_of_fps(index) ? um__fps_bytes_max(records) : 2 * sizeof(uint64_t) * slots_for(records);
}

/* ---- memory ---- */

static void zero(um_state *st, uint32_t index, uint64_t first, uint64_t past) {
    if (first < past) memset(all_slots(st, index) + first, 0, (past - first) * sizeof(uint64_t));
}

static void sweep(um_state *st, uint32_t index, uint64_t past) {
    um_table *t = &st->table[index];
    if (past > t->dirty_end) past = t->dirty_end;
    if (past <= t->dirty) return;
    zero(st, index, t->dirty, past);
    t->dirty = past;
}

/* An empty table of so many slots takes over. */
static void open_table(um_state *st, uint32_t index, uint64_t slots) {
    um_table *t = &st->table[index];
    um_arena *arena = &st->index[index];
    sweep(st, index, 2 * slots);   /* done already, but after a rebuild */
    if (arena->used < 2 * slots * sizeof(uint64_t)) arena->used = 2 * slots * sizeof(uint64_t);
    t->slots = slots;
    t->shift = shift_of(slots);
}

static void start_over(um_state *st, uint32_t index, uint64_t slots) {
    um_table *t = &st->table[index];
    memset(t, 0, sizeof *t);
    t->moved = UINT64_MAX;
    t->dirty_end = st->index[index].used / sizeof(uint64_t);
    t->dirty = slots;   /* smaller tables will not be used */
    open_table(st, index, slots);
}

void um__index_clear(um_state *st, uint32_t index) {
    if (um__is_of_fps(index)) um__fps_clear(st, index);
    else start_over(st, index, UM__SLOTS_MIN);
}

/* ---- entering ---- */

static void put(um_state *st, uint32_t index, uint64_t slot) {
    uint64_t *slots = all_slots(st, index);
    uint64_t at = um__home(st, index, slot);
    while (slots[at] != 0) at = um__next_slot(st, index, at);
    slots[at] = slot;
}

/* Moves the old table's slots on, at least `count` of them. */
static void move(um_state *st, uint32_t index, uint64_t count) {
    um_table *t = &st->table[index];
    const uint64_t *old = all_slots(st, index) + t->old_slots;
    const uint64_t first = t->moved, size = t->old_slots;
    uint64_t at = first, slot;
    t->moved = size;   /* what is put from here on goes to the new table */
    do {
        slot = old[at];
        if (slot != 0 && um__line_of(slot, t->old_shift) <= at) put(st, index, slot);   /* else it wrapped around */
        at++;
    } while (at < size && (slot != 0 || at - first < count));
    t->moved = at;
    if (at < size) return;
    for (at = 0; (slot = old[at]) != 0; at++) {
        if (um__line_of(slot, t->old_shift) > at) put(st, index, slot);
    }
    t->old_slots = 0;
    t->moved = UINT64_MAX;
}

uint64_t um__next_slots(const um_state *st, uint32_t index) {
    const um_table *t = &st->table[index];
    const uint64_t most = slots_max(&st->index[index]), wanted = growth_of(index) * t->slots;
    if (t->slots >= most || !um__overfull(t->used + t->used / SOON, t->slots)) return 0;
    return wanted < most ? wanted : most;
}

static void grow(um_state *st, uint32_t index) {
    um_table *t = &st->table[index];
    const uint64_t most = slots_max(&st->index[index]), slots = t->slots;
    if (slots >= most) return;
    while (t->old_slots != 0) move(st, index, t->old_slots);
    const uint64_t wanted = growth_of(index) * slots;
    open_table(st, index, wanted < most ? wanted : most);
    t->old_slots = slots;
    t->old_shift = shift_of(slots);
    t->moved = 0;
}

void um__index_add(um_state *st, uint32_t index, uint64_t hash, uint32_t number) {
    um_table *t = &st->table[index];
    if (__builtin_expect(um__overfull(t->used + 1, t->slots), 0)) grow(st, index);
    if (__builtin_expect(t->used + 1 >= t->slots, 0)) return;   /* more records than the limits allow: a lookup must end */
    if (__builtin_expect(t->old_slots != 0, 0)) move(st, index, STEP);
    if (__builtin_expect(t->dirty < t->dirty_end, 0)) sweep(st, index, t->dirty + SWEEP);
    put(st, index, (hash >> 32) << 32 | ((uint64_t)number + 1));
    t->used++;
}

void um__index_add_at(um_state *st, uint32_t index, uint64_t at, uint64_t hash, uint32_t number) {
    um_table *t = &st->table[index];
    if (at == 0 || t->old_slots != 0 || t->dirty < t->dirty_end || um__overfull(t->used + 1, t->slots)) {
        um__index_add(st, index, hash, number);
        return;
    }
    all_slots(st, index)[at] = (hash >> 32) << 32 | ((uint64_t)number + 1);
    t->used++;
}

/* ---- from the pool ---- */

/* "" is not looked up, and the first cell of a series is found through the series. */
static int is_indexed(const um_state *st, uint32_t index, uint32_t number) {
    if (index == UM_X_VALUES) return number != 0;
    if (index != UM_X_CELLS) return 1;
    const uint32_t series = um__um_cell(st, number)->series;
    return series >= um__count(st, UM_R_SERIES) || um__um_series(st, series)->first_cell != number;
}

static uint64_t record_hash(const um_state *st, uint32_t index, uint32_t number) {
    const uint32_t region = um__region_of_index(index);
    const void *record = st->region[region].base + (uint64_t)number * um__region_bytes(region);
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
    case UM_X_IDS: return ((const um_id *)record)->lo;
    case UM_X_SESSIONS: return um__hash2(((const um_session *)record)->id_hi, ((const um_session *)record)->id_lo);
    default: return um__hash2(((const um_pmember *)record)->period, (uint64_t)((const um_pmember *)record)->member);
    }
}

void um__index_rebuild(um_state *st, uint32_t index) {
    const uint32_t count = um__count(st, um__region_of_index(index));
    uint32_t wanted = 0, asked = 0, entered = 0;
    struct { uint64_t hash; uint32_t number, pad; } ahead[REBUILD_AHEAD];
    if (um__is_of_fps(index)) {
        um__fps_rebuild(st, index);
        return;
    }
    for (uint32_t i = 0; i < count; i++) wanted += (uint32_t)is_indexed(st, index, i);
    const uint64_t slots = slots_for(wanted), most = slots_max(&st->index[index]);
    start_over(st, index, slots < most ? slots : most);
    for (uint32_t i = 0; entered < wanted; i++) {
        if (asked - entered == REBUILD_AHEAD || asked == wanted) {
            um__index_add(st, index, ahead[entered % REBUILD_AHEAD].hash, ahead[entered % REBUILD_AHEAD].number);
            entered++;
        }
        if (asked == wanted) continue;
        while (!is_indexed(st, index, i)) i++;
        ahead[asked % REBUILD_AHEAD].hash = record_hash(st, index, i);
        ahead[asked % REBUILD_AHEAD].number = i;
        um__index_prefetch(st, index, ahead[asked % REBUILD_AHEAD].hash);
        asked++;
    }
}

void um_state_reindex(um_state *st) {
    for (uint32_t index = 0; index < UM_INDEXES; index++) um__index_rebuild(st, index);
}

int um__index_exact(const um_state *st, uint32_t index) {
    const um_table *t = &st->table[index];
    const uint32_t count = um__count(st, um__region_of_index(index));
    uint32_t wanted = 0;
    if (um__is_of_fps(index)) return um__fps_exact(st, index);
    for (uint32_t i = 0; i < count; i++) wanted += (uint32_t)is_indexed(st, index, i);
    if (t->used != wanted || (um__overfull(t->used, t->slots) && t->slots < UM__SLOTS_MAX)) return 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!is_indexed(st, index, i)) continue;
        const uint64_t hash = record_hash(st, index, i);
        uint64_t pos = um__home(st, index, hash);
        uint32_t number;
        do number = um__probe(st, index, hash, &pos);
        while (number != i && number != UM_NONE);
        if (number != i) return 0;
    }
    return 1;
}

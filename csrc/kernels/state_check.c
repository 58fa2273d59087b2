/* state_check.c - the structural rules of a state, each with its number. For tests and simulation: O(state).
 *
 *    1  META: one record; rows accounted for (stored + duplicates + conflicts + refused == rows logged)
 *    2  every region holds whole records inside its memory
 *    3  every index holds every record of its pool exactly once, at most five eighths full (of fingerprints: fps.c)
 *    4  VALUES: record 0 is ""; bytes inside HEAP; the hash is theirs; no value twice
 *    5  ACCOUNTS: the same, none empty
 *    6  SERIES: account and metric exist, none twice; the chain of cells is whole and belongs to it; its plain bucket
 *       is the hot one of its cell without dimension values
 *    7  CELLS: words inside DIMS, values exist, no trailing "", none twice; the chain of buckets is whole,
 *       belongs to it, and contains its hot bucket
 *    8  BUCKETS: none twice and none empty; least <= greatest; times inside the hour; sequence numbers were logged;
 *       counts add up to meta.stored
 *    9  MEMBERS: reached through their bucket's chain; times inside the bucket's; a real operation
 *   10  fingerprint generations and IDS: none twice, ids of rows that were logged
 *   11  SESSIONS: none twice; result n in slot n % 64, none above `highest`
 *   12  PERIODS: reached through their series' chain; bounds around an hour; count equals that of its buckets
 *   13  PMEMBERS: belong to a period, none twice; those present add up to the periods' `unique`
 *   14  ALERTS: numbered 1, 2, ... up to alert_next
 *   15  SKIPS: sorted, apart from each other, logged; rows add up to the rows not stored
 *   16  HEAP and DIMS: no byte unaccounted for
 */
#include "um__apply.h"

static uint32_t check_meta(const um_state *st) {
    const um_meta *meta = um__meta(st);
    if (st->region[UM_R_META].used != sizeof *meta || meta->version != 1 || meta->next_seq == 0 || meta->fps_current > 1) return 1;
    if (meta->stored + meta->duplicates + meta->conflicts + meta->refused != meta->next_seq - 1) return 1;
    return 0;
}

static uint32_t check_regions(const um_state *st) {
    for (uint32_t region = 0; region < UM_REGIONS; region++) {
        const um_arena *arena = &st->region[region];
        if (arena->used > arena->reserved || arena->used % um__region_bytes(region) != 0) return 2;
    }
    return 0;
}

/* VALUES and ACCOUNTS share their layout; *bytes adds up what they own of HEAP */
static uint32_t check_strings(const um_state *st, uint64_t *bytes) {
    for (uint32_t i = 0; i < um__count(st, UM_R_VALUES); i++) {
        const um_value *v = um__um_value(st, i);
        if ((v->len == 0) != (i == 0) || v->heap_off > st->region[UM_R_HEAP].used || v->len > st->region[UM_R_HEAP].used - v->heap_off) return 4;
        if (v->hash != um_hash64(um__heap(st, v->heap_off), v->len, 0) || um__find_value(st, um__heap(st, v->heap_off), v->len) != i) return 4;
        *bytes += v->len;
    }
    for (uint32_t i = 0; i < um__count(st, UM_R_ACCOUNTS); i++) {
        const um_account *a = um__um_account(st, i);
        if (a->len == 0 || a->heap_off > st->region[UM_R_HEAP].used || a->len > st->region[UM_R_HEAP].used - a->heap_off) return 5;
        if (a->hash != um_hash64(um__heap(st, a->heap_off), a->len, 0) || um__find_account(st, um__heap(st, a->heap_off), a->len) != i) return 5;
        *bytes += a->len;
    }
    return 0;
}

static uint32_t check_series(const um_state *st, const um_catalog *catalog) {
    const uint32_t cells = um__count(st, UM_R_CELLS);
    uint64_t reached = 0;
    for (uint32_t i = 0; i < um__count(st, UM_R_SERIES); i++) {
        const um_series *s = um__um_series(st, i);
        if (s->metric >= catalog->metric_count || s->text > 1 || (s->text && s->account >= um__count(st, UM_R_ACCOUNTS))) return 6;
        if (um__find_series(st, s->account, s->text, s->metric) != i) return 6;
        uint32_t length = 0, last = UM_NONE, plain = UM_NONE;
        for (uint32_t c = s->first_cell; c != UM_NONE; c = um__um_cell(st, c)->next) {
            if (c >= cells || um__um_cell(st, c)->series != i || ++length > s->cell_count) return 6;
            last = c;
            if (um__um_cell(st, c)->dims_len == 0) plain = um__um_cell(st, c)->hot_bucket;
        }
        if (length != s->cell_count || length == 0 || last != s->last_cell || plain != s->plain_bucket) return 6;
        reached += length;
    }
    return reached == cells ? 0 : 6;
}

static int good_dims(const um_state *st, const um_catalog *catalog, const um_cell *c) {
    const um_metric *metric = &catalog->metrics[um__um_series(st, c->series)->metric];
    if (c->dims_len > metric->dimension_count || c->dims_len > UM_DIMENSIONS_MAX) return 0;
    if ((uint64_t)c->dims_off + c->dims_len > um__count(st, UM_R_DIMS)) return 0;
    const uint32_t *dims = um__dims(st, c->dims_off);
    for (uint32_t i = 0; i < c->dims_len; i++) {
        if (dims[i] >= um__count(st, UM_R_VALUES)) return 0;
    }
    return c->dims_len == 0 || dims[c->dims_len - 1] != 0;
}

static uint32_t check_cells(const um_state *st, const um_catalog *catalog, uint64_t *words) {
    const uint32_t buckets = um__count(st, UM_R_BUCKETS);
    uint64_t reached = 0;
    for (uint32_t i = 0; i < um__count(st, UM_R_CELLS); i++) {
        const um_cell *c = um__um_cell(st, i);
        if (!good_dims(st, catalog, c) || um__find_cell(st, c->series, um__dims(st, c->dims_off), c->dims_len) != i) return 7;
        uint32_t length = 0;
        for (uint32_t b = c->first_bucket; b != UM_NONE; b = um__um_bucket(st, b)->next) {
            if (b >= buckets || um__um_bucket(st, b)->cell != i || ++length > c->bucket_count) return 7;
        }
        if (length != c->bucket_count || length == 0) return 7;
        if (c->hot_bucket >= buckets || um__um_bucket(st, c->hot_bucket)->cell != i) return 7;
        reached += length;
        *words += c->dims_len;
    }
    return reached == buckets ? 0 : 7;
}

static uint32_t check_buckets(const um_state *st) {
    const um_meta *meta = um__meta(st);
    const uint32_t members = um__count(st, UM_R_MEMBERS);
    uint64_t stored = 0, reached = 0;
    for (uint32_t i = 0; i < um__count(st, UM_R_BUCKETS); i++) {
        const um_bucket *b = um__um_bucket(st, i);
        if (b->count == 0 || b->min > b->max || b->last_value < b->min || b->last_value > b->max) return 8;
        if (b->first_ts > b->last_ts || um__hour(b->first_ts) != b->hour || um__hour(b->last_ts) != b->hour) return 8;
        if (b->first_seq > b->last_seq || b->first_seq == 0 || b->last_seq >= meta->next_seq) return 8;
        if (um__find_bucket(st, b->cell, b->hour) != i) return 8;
        stored += b->count;
        for (uint32_t m = b->first_member; m != UM_NONE; m = um__um_member(st, m)->next) {
            if (m >= members || ++reached > members) return 9;
            const um_member *member = um__um_member(st, m);
            if (member->bucket != i || member->last_ts < b->first_ts || member->last_ts > b->last_ts) return 9;
            if (member->operation != UM_OP_ADD && member->operation != UM_OP_REMOVE) return 9;
        }
    }
    if (stored != meta->stored) return 8;
    return reached == members ? 0 : 9;
}

static uint32_t check_memory(const um_state *st) {
    const um_meta *meta = um__meta(st);
    for (uint32_t i = 0; i < um__count(st, UM_R_IDS); i++) {
        const um_id *id = (const um_id *)(const void *)st->region[UM_R_IDS].base + i;
        if (id->seq == 0 || id->seq >= meta->next_seq || um__is_skipped(st, id->seq)) return 10;
    }
    for (uint32_t i = 0; i < um__count(st, UM_R_SESSIONS); i++) {
        const um_session *s = um__um_session(st, i);
        for (uint32_t slot = 0; slot < UM_SESSION_WINDOW; slot++) {
            const um_result *result = &s->results[slot];
            if (result->number != 0 && (result->number % UM_SESSION_WINDOW != slot || result->number > s->highest)) return 11;
        }
    }
    return 0;
}

static uint64_t count_in_buckets(const um_state *st, const um_period *p) {
    uint64_t count = 0;
    for (uint32_t c = um__um_series(st, p->series)->first_cell; c != UM_NONE; c = um__um_cell(st, c)->next) {
        for (uint32_t b = um__um_cell(st, c)->first_bucket; b != UM_NONE; b = um__um_bucket(st, b)->next) {
            const int64_t at = (int64_t)um__um_bucket(st, b)->hour * UM_HOUR_NS;
            if (at >= p->start && at < p->end) count += um__um_bucket(st, b)->count;
        }
    }
    return count;
}

static uint32_t check_periods(const um_state *st) {
    const uint32_t periods = um__count(st, UM_R_PERIODS);
    uint64_t reached = 0;
    int64_t present = 0;
    for (uint32_t i = 0; i < um__count(st, UM_R_SERIES); i++) {
        for (uint32_t p = um__um_series(st, i)->first_period; p != UM_NONE; p = um__um_period(st, p)->next) {
            if (p >= periods || ++reached > periods) return 12;
            const um_period *period = um__um_period(st, p);
            if (period->series != i || period->start >= period->end || period->count != count_in_buckets(st, period)) return 12;
            present += period->unique;
        }
    }
    if (reached != periods) return 12;
    for (uint32_t i = 0; i < um__count(st, UM_R_PMEMBERS); i++) {
        const um_pmember *m = um__um_pmember(st, i);
        if (m->period >= periods) return 13;
        present -= m->operation == UM_OP_ADD;
    }
    return present == 0 ? 0 : 13;
}

static uint32_t check_logs(const um_state *st) {
    const um_meta *meta = um__meta(st);
    const uint32_t alerts = um__count(st, UM_R_ALERTS);
    if (meta->alert_next != (uint64_t)alerts + 1) return 14;
    for (uint32_t i = 0; i < alerts; i++) {
        if (um__um_alert(st, i)->number != (uint64_t)i + 1) return 14;
    }
    uint64_t skipped = 0, past = 0;   /* past: the first sequence number after the previous run */
    for (uint32_t i = 0; i < um__count(st, UM_R_SKIPS); i++) {
        const um_skip *run = um__um_skip(st, i);
        if (run->count == 0 || run->first_seq <= past || run->first_seq + run->count > meta->next_seq) return 15;
        past = run->first_seq + run->count;
        skipped += run->count;
    }
    return skipped == meta->duplicates + meta->conflicts + meta->refused ? 0 : 15;
}

uint32_t um_state_check(const um_state *st, const um_catalog *catalog) {
    uint64_t heap = 0, words = 0;
    uint32_t broken = check_meta(st);
    if (broken == 0) broken = check_regions(st);
    for (uint32_t index = 0; broken == 0 && index < UM_INDEXES; index++) {
        if (!um__index_exact(st, index)) broken = 3;
    }
    if (broken == 0) broken = check_strings(st, &heap);
    if (broken == 0) broken = check_series(st, catalog);
    if (broken == 0) broken = check_cells(st, catalog, &words);
    if (broken == 0) broken = check_buckets(st);
    if (broken == 0) broken = check_memory(st);
    if (broken == 0) broken = check_periods(st);
    if (broken == 0) broken = check_logs(st);
    if (broken == 0 && (heap != st->region[UM_R_HEAP].used || words != um__count(st, UM_R_DIMS))) broken = 16;
    return broken;
}

/* state_fixture.h - a group's state with its memory, and a pen to write entries with. For the tests of state.
 *
 * Every table is allocated on the heap with exactly the bytes its limit allows, so that the sanitizer sees the
 * first byte beyond. commit() applies the entry, checks every structural rule, and keeps the entry's answers.
 */
#ifndef STATE_FIXTURE_H
#define STATE_FIXTURE_H
#include "um__apply.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#pragma GCC diagnostic ignored "-Wunused-function"    /* not every test needs every helper */
#pragma GCC diagnostic ignored "-Woverride-init"      /* EVENT: defaults first, then what differs */

#define BASE 1700000000000000000LL   /* 2023-11-14T22:13:20Z */
#define DAY_NS (24 * UM_HOUR_NS)
#define ENTRY_BYTES_MAX (1 << 21)
#define ROWS_MAX 20000
#define BATCHES_MAX 64
#define SCRATCH_BYTES (1 << 16)

typedef struct {
    um_state st;
    um_catalog *catalog;
    uint8_t *entry;               /* header, then the body so far */
    uint64_t used, batch_at;
    uint64_t index;
    int64_t stamp;
    um_summary sums[BATCHES_MAX];
    uint8_t verdicts[ROWS_MAX];
    um_applied applied;
} world;

typedef struct {
    uint64_t account;
    const char *text, *id;
    int64_t ts, value;
    uint16_t metric;
    uint8_t op;
    const char *props[8];         /* key, value, key, value, ... NULL; sorted by the caller */
} event;

#define V1 UM_BATCH_V1
#define EVENT(...) ((event){.account = 7, .ts = BASE, .value = 1, __VA_ARGS__})

static uint64_t chance = 88172645463325252ULL;
static uint64_t dice(uint64_t below) {
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return chance % below;
}

static um_limits plenty(void) {
    um_limits limits = {.fingerprints_per_generation = 3000, .cells_per_series_max = 1000, .session_idle_ns = DAY_NS};
    for (int r = 0; r < UM_REGIONS; r++) limits.records_max[r] = 20000;
    limits.records_max[UM_R_META] = 1;
    limits.records_max[UM_R_HEAP] = 1 << 18;
    limits.records_max[UM_R_SESSIONS] = 4;
    return limits;
}

static void *zeroed(uint64_t bytes) {
    void *memory = calloc(bytes ? bytes : 1, 1);
    assert(memory);
    return memory;
}

static void give_memory(um_state *st, const um_limits *limits) {
    uint64_t chunks = 0;
    memset(st, 0, sizeof *st);
    for (uint32_t r = 0; r < UM_REGIONS; r++) {
        st->region[r].reserved = limits->records_max[r] * um_region_record_bytes(r);
        st->region[r].base = zeroed(st->region[r].reserved);
        chunks += st->region[r].reserved / UM_COW_CHUNK_BYTES + 1;
    }
    for (uint32_t x = 0; x < UM_INDEXES; x++) {
        st->index[x].reserved = um_index_bytes_max(limits, x);
        st->index[x].base = zeroed(st->index[x].reserved);
    }
    st->cow = (um_arena){zeroed(chunks * UM_COW_CHUNK_BYTES), chunks * UM_COW_CHUNK_BYTES, 0};
    st->cow_map = (um_arena){zeroed(chunks * 4), chunks * 4, 0};
    st->scratch = (um_arena){malloc(SCRATCH_BYTES), SCRATCH_BYTES, 0};
    assert(st->scratch.base && SCRATCH_BYTES <= um_scratch_bytes_max());
    memset(st->scratch.base, 0xA5, SCRATCH_BYTES);   /* apply must not expect zeroes there */
}

static void take_memory(um_state *st) {
    for (uint32_t r = 0; r < UM_REGIONS; r++) free(st->region[r].base);
    for (uint32_t x = 0; x < UM_INDEXES; x++) free(st->index[x].base);
    free(st->cow.base);
    free(st->cow_map.base);
    free(st->scratch.base);
}

static um_metric *add_metric(world *w, uint8_t aggregation) {
    um_metric *m = &w->catalog->metrics[w->catalog->metric_count];
    m->id = (uint16_t)w->catalog->metric_count++;
    m->alive = 1;
    m->aggregation = aggregation;
    m->period_type = UM_PERIOD_MONTH;
    return m;
}

static void add_dimension(um_metric *m, const char *key) {
    um_dimension *d = &m->dimensions[m->dimension_count++];
    d->len = (uint8_t)strlen(key);
    memcpy(d->key, key, d->len);
}

static void add_threshold(um_metric *m, int64_t value, uint8_t recurring) {
    m->thresholds[m->threshold_slots++] = (um_threshold){.value = value, .active = 1, .recurring = recurring};
}

/* Metrics 0..4 are the five aggregations, without dimensions and thresholds. */
static world *world_new(um_limits limits) {
    world *w = zeroed(sizeof *w);
    w->catalog = zeroed(sizeof *w->catalog);
    w->entry = zeroed(ENTRY_BYTES_MAX);
    w->used = sizeof(um_entry);
    w->stamp = BASE;
    for (uint8_t aggregation = 0; aggregation < 5; aggregation++) add_metric(w, aggregation);
    give_memory(&w->st, &limits);
    um_state_init(&w->st, &limits);
    return w;
}

static void world_free(world *w) {
    take_memory(&w->st);
    free(w->catalog);
    free(w->entry);
    free(w);
}

/* ---- the pen ---- */

static um_entry *head(world *w) {
    return (um_entry *)(void *)w->entry;
}

static void batch(world *w, uint32_t flags, uint64_t session, uint64_t number, uint64_t settled_below) {
    const um_batch b = {.session_hi = session, .session_lo = session, .number = number, .settled_below = settled_below, .flags = flags};
    w->batch_at = w->used;
    memcpy(w->entry + w->used, &b, sizeof b);
    w->used += sizeof b;
    head(w)->batch_count++;
    assert(head(w)->batch_count <= BATCHES_MAX);
}

static uint8_t *put(uint8_t *at, const char *bytes, uint64_t len) {
    if (len) memcpy(at, bytes, len);
    return at + len;
}

static uint64_t write_row(uint8_t *out, event e) {
    um_row r = {.account = e.text ? 0 : e.account, .timestamp_ns = e.ts, .value = e.value, .metric = e.metric, .operation = e.op};
    uint8_t *tail = out + sizeof r, *at = tail;
    if (e.text) {
        r.flags |= UM_ROW_TEXT;
        *at++ = (uint8_t)strlen(e.text);
        at = put(at, e.text, strlen(e.text));
    }
    if (e.id) {
        r.flags |= UM_ROW_ID;
        *at++ = (uint8_t)strlen(e.id);
        at = put(at, e.id, strlen(e.id));
    }
    for (int i = 0; i < 8 && e.props[i]; i += 2) {
        r.prop_count++;
        *at++ = (uint8_t)strlen(e.props[i]);
        *at++ = (uint8_t)strlen(e.props[i + 1]);
        at = put(at, e.props[i], strlen(e.props[i]));
        at = put(at, e.props[i + 1], strlen(e.props[i + 1]));
    }
    while ((at - tail) % 8) *at++ = 0;
    r.tail_len = (uint16_t)(at - tail);
    memcpy(out, &r, sizeof r);
    return (uint64_t)(at - out);
}

static void row(world *w, event e) {
    um_batch *b = (um_batch *)(void *)(w->entry + w->batch_at);
    const uint64_t len = write_row(w->entry + w->used, e);
    b->row_count++;
    b->rows_len += (uint32_t)len;
    w->used += len;
    head(w)->row_count++;
    assert(w->used < ENTRY_BYTES_MAX - 4096 && head(w)->row_count <= ROWS_MAX);
}

static um_meta *meta(world *w) {
    return um__meta(&w->st);
}

static uint32_t records(world *w, uint32_t region) {
    return um__count(&w->st, region);
}

static void must_be_sound(world *w) {
    const uint32_t broken = um_state_check(&w->st, w->catalog);
    if (broken) fprintf(stderr, "rule %u of state_check.c is broken\n", broken);
    assert(broken == 0);
}

static void apply_entry(world *w, uint16_t kind) {
    um_entry *e = head(w);
    e->kind = kind;
    e->body_len = (uint32_t)(w->used - sizeof *e);
    e->index = ++w->index;
    e->term = 1;
    e->stamp_ns = ++w->stamp;
    e->first_seq = meta(w)->next_seq;
    uint8_t *exact = malloc(w->used);
    assert(exact);
    memcpy(exact, w->entry, w->used);
    um_apply(&w->st, w->catalog, exact, w->sums, w->verdicts, &w->applied);
    free(exact);
    memset(e, 0, sizeof *e);
    w->used = sizeof *e;
}

static void commit(world *w) {
    apply_entry(w, UM_ENTRY_BATCHES);
    must_be_sound(w);
}

/* One batch with one event; its verdict. */
static uint32_t send(world *w, uint32_t flags, event e) {
    batch(w, flags, 0, 0, 0);
    row(w, e);
    commit(w);
    return w->verdicts[0];
}

/* The bucket of an account's event at ts in a metric without dimensions. */
static um_bucket *bucket_of(world *w, uint64_t account, uint32_t metric, int64_t ts) {
    const uint32_t series = um__find_series(&w->st, account, 0, metric);
    if (series == UM_NONE) return NULL;
    const uint32_t cell = um__find_cell(&w->st, series, NULL, 0);
    const uint32_t bucket = cell == UM_NONE ? UM_NONE : um__find_bucket(&w->st, cell, um__hour(ts));
    return bucket == UM_NONE ? NULL : um__um_bucket(&w->st, bucket);
}

#define RUN(claim) (printf("  %s\n", #claim), claim())
#endif

/* um__state.h - how kernels look at a group's state (internal). state.c implements what is not inline.
 *
 * Every pool is an array of fixed-size records in region[r].base; a record's number is its position.
 * Lookups go through open-addressing indexes (index.c). Read-only lookups never write.
 */
#ifndef UM__STATE_H
#define UM__STATE_H
#include "um__hash.h"
#include "um_kernels.h"

#define UM__AT(type, region_id)                                                             \
    static inline type *um__##type(const um_state *st, uint32_t number) {                   \
        return (type *)(void *)(st->region[region_id].base + (uint64_t)number * sizeof(type)); \
    }
UM__AT(um_value, UM_R_VALUES)
UM__AT(um_account, UM_R_ACCOUNTS)
UM__AT(um_series, UM_R_SERIES)
UM__AT(um_cell, UM_R_CELLS)
UM__AT(um_bucket, UM_R_BUCKETS)
UM__AT(um_member, UM_R_MEMBERS)
UM__AT(um_session, UM_R_SESSIONS)
UM__AT(um_period, UM_R_PERIODS)
UM__AT(um_pmember, UM_R_PMEMBERS)
UM__AT(um_alert, UM_R_ALERTS)
UM__AT(um_skip, UM_R_SKIPS)
static inline um_meta *um__meta(const um_state *st) { return (um_meta *)(void *)st->region[UM_R_META].base; }
static inline const uint32_t *um__dims(const um_state *st, uint32_t off) {
    return (const uint32_t *)(const void *)st->region[UM_R_DIMS].base + off;
}
static inline const uint8_t *um__heap(const um_state *st, uint64_t off) { return st->region[UM_R_HEAP].base + off; }
/* A constant wherever the region is one: no division on the way of a row. */
static inline __attribute__((always_inline)) uint64_t um__region_bytes(uint32_t region) {
    switch (region) {
    case UM_R_META: return sizeof(um_meta);
    case UM_R_HEAP: return 1;
    case UM_R_VALUES: return sizeof(um_value);
    case UM_R_ACCOUNTS: return sizeof(um_account);
    case UM_R_SERIES: return sizeof(um_series);
    case UM_R_CELLS: return sizeof(um_cell);
    case UM_R_DIMS: return sizeof(uint32_t);
    case UM_R_BUCKETS: return sizeof(um_bucket);
    case UM_R_MEMBERS: return sizeof(um_member);
    case UM_R_FPS0:
    case UM_R_FPS1: return sizeof(um_fp);
    case UM_R_IDS: return sizeof(um_id);
    case UM_R_SESSIONS: return sizeof(um_session);
    case UM_R_PERIODS: return sizeof(um_period);
    case UM_R_PMEMBERS: return sizeof(um_pmember);
    case UM_R_ALERTS: return sizeof(um_alert);
    default: return sizeof(um_skip);
    }
}
static inline __attribute__((always_inline)) uint32_t um__count(const um_state *st, uint32_t region) {
    return (uint32_t)(st->region[region].used / um__region_bytes(region));
}

/* lookups: a record number, or UM_NONE. text: 1 when account is a number in ACCOUNTS. */
uint32_t um__find_value(const um_state *st, const uint8_t *bytes, uint32_t len);
uint32_t um__find_account(const um_state *st, const uint8_t *text, uint32_t len);
uint32_t um__find_series(const um_state *st, uint64_t account, uint32_t text, uint32_t metric);
uint32_t um__find_cell(const um_state *st, uint32_t series, const uint32_t *dims, uint32_t dims_len);
uint32_t um__find_bucket(const um_state *st, uint32_t cell, uint32_t hour);
int um__is_skipped(const um_state *st, uint64_t seq);     /* binary search in SKIPS */

/* ---- rows: the one place that knows the tail's layout (row.c) ---- */
typedef struct { const uint8_t *key, *value; uint32_t key_len, value_len; } um__property;
typedef struct {
    const um_row *head;
    const uint8_t *text, *id;         /* NULL when absent */
    uint32_t text_len, id_len, prop_count, total_len;   /* total_len = 32 + tail_len */
    um__property props[UM_PROPERTIES_MAX];
} um__row_view;
/* 1 and *view, or 0 when the bytes are not a well-formed row that fits in len (bounds, op <= 2, sorted distinct keys,
 * zero padding shorter than 8, known flags, timestamp >= 0, account 0 when text, lengths within limits, key_len >= 1) */
int um__row_parse(const uint8_t *data, uint64_t len, um__row_view *view);
/* dimension values of a row for its metric: value numbers with trailing "" dropped into dims[16]; returns dims_len, or
 * UM_NONE when a value is not interned (read-only; apply interns) */
uint32_t um__row_dims(const um_state *st, const um_metric *metric, const um__row_view *view, uint32_t *dims);

/* ---- calendar (periods.c, pure) ---- */
static inline uint32_t um__hour(int64_t ts) { return (uint32_t)(ts / UM_HOUR_NS); }   /* ts >= 0 */

/* ---- totals of a stretch, shared by query and thresholds (accumulate.c) ---- */
typedef struct {
    uint64_t count, sum_lo;
    int64_t sum_hi, min, max, last_value, last_ts;    /* min, max, last_*: valid when count > 0 */
    uint64_t last_seq;
} um__acc;
void um__acc_event(um__acc *acc, int64_t value, int64_t ts, uint64_t seq);
void um__acc_bucket(um__acc *acc, const um_bucket *bucket);
#endif

/* um__apply.h - how apply changes a group's state (internal to the apply family of files).
 *
 * Two laws hold for every change:
 *   1. bytes below `used` of a region change only after um__touch: a streaming checkpoint has then saved what
 *      it still needs of them (checkpoint.c);
 *   2. a record is appended with um__append and entered in its index with um__index_add, in this order, so
 *      that an index can at any moment be rebuilt from its pool (index.c).
 * Room is checked before the first change of a row (um__room_*), so append itself never fails.
 */
#ifndef UM__APPLY_H
#define UM__APPLY_H
#include "um__state.h"
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* ---- indexes (index.c has the theory) ---- */
#define UM__SLOTS_MIN 64ULL
#define UM__SLOTS_MAX (1ULL << 32)
#define UM__LINE_SLOTS 8

static inline int um__overfull(uint64_t records, uint64_t slots) {
    return 8 * records > 5 * slots;
}
static inline int um__is_of_fps(uint32_t index) { return index == UM_X_FPS0 || index == UM_X_FPS1; }   /* fps.c has those */
uint64_t um__next_slots(const um_state *st, uint32_t index);   /* of the table that it will soon grow into; 0: not soon */
static inline uint32_t um__region_of_index(uint32_t index) {
    static const uint8_t regions[UM_INDEXES] = {
        UM_R_VALUES, UM_R_ACCOUNTS, UM_R_SERIES, UM_R_CELLS, UM_R_BUCKETS, UM_R_MEMBERS,
        UM_R_FPS0, UM_R_FPS1, UM_R_IDS, UM_R_SESSIONS, UM_R_PMEMBERS,
    };
    return regions[index];
}
static inline const uint64_t *um__slots(const um_state *st, uint32_t index) {
    return (const uint64_t *)(const void *)st->index[index].base;
}
/* The line that a hash, or a slot, is at home in: its first slot, counted from the beginning of the table. */
static inline uint64_t um__line_of(uint64_t hash, uint32_t shift) {
    return hash >> shift & ~(UM__LINE_SLOTS - 1ULL);
}
/* The first slot to look at, counted from the beginning of the arena. */
static inline uint64_t um__home(const um_state *st, uint32_t index, uint64_t hash) {
    const um_table *t = &st->table[index];
    if (__builtin_expect(t->old_slots != 0, 0)) {
        const uint64_t at = um__line_of(hash, t->old_shift);
        if (at >= t->moved) return t->old_slots + at;
    }
    return t->slots + um__line_of(hash, t->shift);
}
static inline uint64_t um__next_slot(const um_state *st, uint32_t index, uint64_t at) {
    const um_table *t = &st->table[index];
    at++;
    if (at % UM__LINE_SLOTS != 0) return at;
    if (__builtin_expect(at == 2 * t->slots, 0)) return t->slots;
    if (__builtin_expect(at == 2 * t->old_slots, 0)) return t->old_slots;
    return at;
}
/* Record numbers whose tag matches `hash`, one per call; start with *pos = um__home. UM_NONE: no more. */
static inline uint32_t um__probe(const um_state *st, uint32_t index, uint64_t hash, uint64_t *pos) {
    const uint64_t *slots = um__slots(st, index);
    uint64_t at = *pos, slot;
    while ((slot = slots[at]) != 0) {
        at = um__next_slot(st, index, at);
        if ((slot >> 32) == (hash >> 32)) {
            *pos = at;
            return (uint32_t)slot - 1;
        }
    }
    *pos = at;
    return UM_NONE;
}
/* Bit i: slot i of the line is empty; its tag is the one looked for. */
static inline void um__line_bits(const uint64_t *line, uint32_t tag, uint32_t *empty, uint32_t *alike) {
    *empty = *alike = 0;
#ifdef __SSE2__
    for (uint32_t i = 0; i < UM__LINE_SLOTS; i += 4) {
        const __m128 a = _mm_loadu_ps((const float *)(const void *)(line + i)), b = _mm_loadu_ps((const float *)(const void *)(line + i + 2));
        const __m128i numbers = _mm_castps_si128(_mm_shuffle_ps(a, b, 0x88)), tags = _mm_castps_si128(_mm_shuffle_ps(a, b, 0xDD));
        *empty |= (uint32_t)_mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(numbers, _mm_setzero_si128()))) << i;
        *alike |= (uint32_t)_mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(tags, _mm_set1_epi32((int)tag)))) << i;
    }
#else
    for (uint32_t i = 0; i < UM__LINE_SLOTS; i++) {
        *empty |= (uint32_t)(line[i] == 0) << i;
        *alike |= (uint32_t)(line[i] >> 32 == tag) << i;
    }
#endif
}
/* 1: no record of that hash is there, and *at is where it would go. 0: there may be one. Looks at the home line as a
 * whole, without a branch per slot: how many of them are taken is a coin toss each time. */
static inline int um__absent(const um_state *st, uint32_t index, uint64_t hash, uint64_t *at) {
    const uint64_t home = um__home(st, index, hash);
    uint32_t empty, alike;
    um__line_bits(um__slots(st, index) + home, (uint32_t)(hash >> 32), &empty, &alike);
    if (empty == 0 || (alike & (empty - 1) & ~empty) != 0) return 0;
    *at = home + (uint32_t)__builtin_ctz(empty);
    return 1;
}
/* 1: `at`, which um__absent has named, is still the slot to take: what it looked at is the current table, and nothing
 * was entered there since (a record goes to the first slot that is free). */
static inline int um__still_absent(const um_state *st, uint32_t index, uint64_t at) {
    const um_table *t = &st->table[index];
    return t->old_slots == 0 && at >= t->slots && um__slots(st, index)[at] == 0;
}
/* The record that um__probe would name first. */
static inline uint32_t um__first(const um_state *st, uint32_t index, uint64_t hash) {
    uint64_t pos = um__home(st, index, hash);
    const uint64_t *line = um__slots(st, index) + pos;
    uint32_t empty, alike;
    um__line_bits(line, (uint32_t)(hash >> 32), &empty, &alike);
    if (__builtin_expect(empty == 0, 0)) return um__probe(st, index, hash, &pos);
    alike &= (empty - 1) & ~empty;
    return alike != 0 ? (uint32_t)line[__builtin_ctz(alike)] - 1 : UM_NONE;
}
/* A function that does nothing but prefetch is to be inlined: the compiler takes one that it left alone for a function
 * without effect, and leaves out the calls. */
#define UM__ASK inline __attribute__((always_inline))
static UM__ASK void um__index_prefetch(const um_state *st, uint32_t index, uint64_t hash) {
    __builtin_prefetch(um__slots(st, index) + um__home(st, index, hash), 1);
}
void um__index_add(um_state *st, uint32_t index, uint64_t hash, uint32_t number);   /* may move some others along */
/* The same, knowing from um__absent where it goes (0: not known); nothing was entered since. */
void um__index_add_at(um_state *st, uint32_t index, uint64_t at, uint64_t hash, uint32_t number);
void um__index_clear(um_state *st, uint32_t index);                                 /* empty */
void um__index_rebuild(um_state *st, uint32_t index);                               /* from the pool */

int um__index_exact(const um_state *st, uint32_t index);                            /* it holds every record of its pool once */

/* The hashes the indexes are keyed by (state.c has the list). */
static inline uint64_t um__series_hash(uint64_t account, uint32_t text, uint32_t metric) {
    return um__hash2(account, (uint64_t)metric << 1 | text);
}
static inline uint64_t um__cell_hash(uint32_t series, const uint32_t *dims, uint32_t dims_len) {
    uint64_t h = um__hash2(series, dims_len);
    for (uint32_t i = 0; i < dims_len; i++) h = um__mix(h ^ dims[i], UM__K1) + dims[i];
    return h;
}

/* ---- changing regions ---- */
void um__cow_save(um_state *st, uint32_t region, uint64_t offset, uint64_t len);    /* checkpoint.c */
static inline void um__touch(um_state *st, uint32_t region, uint64_t offset, uint64_t len) {
    if (__builtin_expect(st->ckpt_active != 0, 0)) um__cow_save(st, region, offset, len);
}
#define UM__TOUCH(st, type, region, number) um__touch(st, region, (uint64_t)(number) * sizeof(type), sizeof(type))

/* Appends `len` bytes and returns the offset they begin at. */
static inline uint64_t um__append(um_state *st, uint32_t region, const void *bytes, uint64_t len) {
    um_arena *arena = &st->region[region];
    const uint64_t offset = arena->used;
    um__touch(st, region, offset, len);
    if (len != 0) memcpy(arena->base + offset, bytes, len);
    arena->used = offset + len;
    return offset;
}

/* ---- one apply call ---- */
typedef struct {
    um_state *st;
    um_meta *meta;
    const um_catalog *catalog;
    int64_t stamp_ns;                     /* of the entry */
    uint64_t limit_bytes[UM_REGIONS];     /* how far `used` of a region may go */
    uint32_t fps;                         /* region of the current fingerprint generation */
    uint32_t batch_fps;                   /* records in it when the batch began */
    uint32_t batch_rows, batch_flags;
    uint64_t ordinal_mask, ordinal_used;  /* table of ordinals in scratch; mask 0: not set up for this batch */
} um__ctx;

static inline __attribute__((always_inline)) int um__room(const um__ctx *ctx, uint32_t region, uint64_t records) {
    if (records == 0) return 1;   /* also where a lowered limit leaves more records than it allows */
    return ctx->st->region[region].used + records * um__region_bytes(region) <= ctx->limit_bytes[region];
}

/* The same for fingerprints, which have two regions: no need to find out which it is. */
static inline uint32_t um__fps_count(const um_state *st, uint32_t region) {
    return (uint32_t)(st->region[region].used / sizeof(um_fp));
}
static inline int um__fps_room(const um__ctx *ctx, uint64_t records) {
    return ctx->st->region[ctx->fps].used + records * sizeof(um_fp) <= ctx->limit_bytes[ctx->fps];
}

typedef struct {                 /* of a row that is more than its head */
    um__row_view view;
    uint32_t dims[UM_DIMENSIONS_MAX];                    /* UM_NONE: not interned yet, then ... */
    const um__property *fresh[UM_DIMENSIONS_MAX];        /* ... this is the value */
} um__tail;

/* ---- dedup.c ---- */
#define UM__DEDUP_NONE 0
#define UM__DEDUP_ID 1
#define UM__DEDUP_FP 2
typedef struct um__fps_node um__fps_node;   /* um__fps.h */
typedef struct { um__fps_node *nodes; uint32_t count, guess, newest; } um__fps_way;   /* newest: of all inner pages */
typedef struct {                 /* a leaf that was arrived at, for all from its first up to the one that is past it; NULL: none */
    um__fps_node *leaf;
    uint64_t version;
    um_fp first, past;
} um__fps_spot;
typedef struct {
    uint32_t kind, fresh;        /* fresh: um__dedup_peek found it absent, with `at` the slot to take */
    uint64_t lo, hi;             /* the key: of the id, or of the row's bytes; then what is to be remembered */
    uint64_t content;            /* ids only */
    uint64_t *ordinal;           /* counter of equal rows in this batch, NULL when there is none yet */
    uint64_t at;                 /* the slot of the index that is to be taken, 0: not known */
    um__fps_way way, elsewhere;  /* fingerprints only, from here on: to where it may be in the current generation and in the ... */
    um__fps_node *leaf, *other_leaf;   /* ... other one; these leaves */
    uint64_t version;            /* of the current generation's index when that was found out */
} um__dedup;
void um__dedup_rotate(um__ctx *ctx, uint32_t entry_rows);
void um__dedup_key(const um__ctx *ctx, const uint8_t *row, uint32_t len, um__dedup *dedup);
void um__dedup_peek(const um__ctx *ctx, um__dedup *dedup);                                       /* looks, before the row's turn */
uint32_t um__dedup_look(um__ctx *ctx, const um__tail *tail, um__dedup *dedup);                   /* a verdict; nothing is remembered */
int um__dedup_room(const um__ctx *ctx, const um__dedup *dedup);
void um__dedup_remember(um__ctx *ctx, const um__dedup *dedup, uint64_t seq);

/* ---- sessions.c ---- */
uint32_t um__session_open(um__ctx *ctx, const um_batch *batch);                                  /* 0 or UM_V_SESSIONS_FULL */
/* 0: apply the rows, then um__session_done with *session; UM_V_DUPLICATE: a retry, *summary has the first result; else refused or settled */
uint32_t um__session_enter(um__ctx *ctx, const um_batch *batch, um_summary *summary, uint32_t *session);
void um__session_done(um__ctx *ctx, uint32_t session, uint64_t number, const um_summary *summary);

/* ---- series.c ---- */
typedef struct {                 /* where a row goes; UM_NONE for records that are not known to exist */
    const um_metric *metric;     /* NULL: none such, nothing else is set but ts */
    um__tail *tail;              /* NULL: the row has none */
    uint64_t account, hash;      /* hash: window.c, of what it looks for in an index */
    int64_t value, ts;
    uint32_t text, account_new, hour, operation;
    uint32_t series, cell, bucket, member;
    uint32_t dims_len, values_new;
    uint32_t hint, pad;          /* hint: window.c, a record asked for, not looked at yet */
} um__target;
static inline const uint32_t *um__target_dims(const um__target *target) { return target->dims_len == 0 ? NULL : target->tail->dims; }
/* What the row says: account, dimension values, instant. What is found stays found: records never move or go. */
void um__series_begin(const um__ctx *ctx, const um_row *head, const um_metric *metric, um__tail *tail, um__target *target);
void um__series_resolve(const um__ctx *ctx, um__target *target);                /* finds what was not found yet */
uint32_t um__series_room(const um__ctx *ctx, const um__target *target);         /* STORED, CARDINALITY or FULL */
uint64_t um__series_store(um__ctx *ctx, um__target *target, uint64_t seq);      /* digest part */

/* ---- window.c ---- */
#define UM__WINDOW 32
typedef struct {
    um__dedup dedup;
    um__target target;
} um__pending;
typedef struct {
    um__pending rows[UM__WINDOW];
    um__tail tails[UM__WINDOW];       /* apart, as most rows have none */
    uint32_t count;
} um__window;
/* Splits up to UM__WINDOW whole rows off *rows, finds what exists of what they need, and has the memory on its way. */
void um__window_fill(const um__ctx *ctx, const uint8_t **rows, const uint8_t *end, uint32_t count, um__window *window);
/* The window's turn has come: looks at the memory, and for fingerprints. The rows before it have been applied. `spot`: the last one's. */
void um__window_look(const um__ctx *ctx, um__fps_spot *spot, um__window *window);
static inline int64_t um__row_ts(const um__ctx *ctx, const uint8_t *row) {
    const int64_t logged = ((const um_row *)(const void *)row)->timestamp_ns;
    return logged != 0 ? logged : ctx->stamp_ns;
}
static inline int um__holds_row(const uint8_t *at, const uint8_t *end) {   /* a whole row, and the next one will be aligned */
    const uint64_t left = (uint64_t)(end - at);
    if (left < sizeof(um_row)) return 0;
    const uint64_t tail_len = ((const um_row *)(const void *)at)->tail_len;
    return tail_len % 8 == 0 && tail_len <= left - sizeof(um_row);
}

/* ---- thresholds.c ---- */
static inline int um__has_thresholds(const um__ctx *ctx, const um__target *target) {
    return target->metric->threshold_slots != 0 ||
           (target->series != UM_NONE && um__um_series(ctx->st, target->series)->first_period != UM_NONE);
}
int um__thresholds_room(const um__ctx *ctx, const um__target *target);
uint64_t um__thresholds_store(um__ctx *ctx, const um__target *target, uint64_t seq);   /* digest part */

/* ---- digest.c ---- */
static inline uint64_t um__digest_words(const void *record, uint32_t words) {
    static const uint64_t key[7] = {UM__K0, UM__K1, UM__K2, UM__K3, UM__K4, UM__K5, UM__K0};
    uint64_t sum = 0;
    for (uint32_t i = 0, k = 0; i < words; i += 2, k = k == 5 ? 0 : k + 1) {
        uint64_t pair[2] = {0, 0};
        memcpy(pair, (const uint8_t *)record + (uint64_t)i * 8, words - i > 1 ? 16 : 8);
        sum += um__mix(pair[0] ^ key[k], pair[1] ^ key[k + 1]);
    }
    return sum;
}
#define UM__DIGEST(type, record) um__digest_words(record, sizeof(type) / 8)

/* The property of that key, or NULL. (row.c) */
const um__property *um__row_property(const um__row_view *view, const um_dimension *dimension);
#endif

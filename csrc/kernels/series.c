/* series.c - where an event goes, and adding it there.
 *
 *     (account, metric) -> SERIES -> CELLS: one per combination of dimension values
 *                                      -> BUCKETS: one per hour with events
 *                                           -> MEMBERS: count-unique only, the last operation per member
 *
 * Resolving only reads; it finds out which records exist and which would have to be made. The room for those is
 * checked together, and only then is anything created: a refused event leaves no trace. Three shortcuts
 * spare the normal event its lookups: a series' first cell, a cell's most recently used bucket, and that bucket of the
 * cell without dimension values, which the series names itself.
 */
#include "um__apply.h"

/* ---- resolve ---- */

static void resolve_account(const um_state *st, um__target *t) {
    const uint32_t number = um__find_account(st, t->tail->view.text, t->tail->view.text_len);
    t->account_new = number == UM_NONE;
    t->account = number;
}

static void resolve_dimensions(const um_state *st, um__target *t) {
    um__tail *tail = t->tail;
    for (uint32_t i = 0; i < t->metric->dimension_count; i++) {
        const um__property *prop = um__row_property(&tail->view, &t->metric->dimensions[i]);
        tail->dims[i] = prop == NULL ? 0 : um__find_value(st, prop->value, prop->value_len);
        tail->fresh[i] = tail->dims[i] == UM_NONE ? prop : NULL;
        t->values_new += tail->dims[i] == UM_NONE;
        if (tail->dims[i] != 0) t->dims_len = i + 1;
    }
}

/* Rows before this one may have interned its values. */
static void look_again(const um_state *st, um__target *t) {
    um__tail *tail = t->tail;
    for (uint32_t i = 0; i < t->dims_len; i++) {
        if (tail->fresh[i] == NULL) continue;
        tail->dims[i] = um__find_value(st, tail->fresh[i]->value, tail->fresh[i]->value_len);
        if (tail->dims[i] == UM_NONE) continue;
        tail->fresh[i] = NULL;
        t->values_new--;
    }
}

void um__series_begin(const um__ctx *ctx, const um_row *head, const um_metric *metric, um__tail *tail, um__target *t) {
    t->metric = metric;
    t->tail = tail;
    t->value = head->value;
    t->hour = um__hour(t->ts);
    t->operation = head->operation == UM_OP_REMOVE ? UM_OP_REMOVE : UM_OP_ADD;
    t->series = t->cell = t->bucket = t->member = UM_NONE;
    t->account = head->account;
    t->text = t->account_new = t->dims_len = t->values_new = 0;
    if (tail == NULL) return;
    t->text = tail->view.text != NULL;
    if (t->text) resolve_account(ctx->st, t);
    if (tail->view.prop_count != 0) resolve_dimensions(ctx->st, t);
}

static uint32_t find_member(const um_state *st, uint32_t bucket, int64_t member) {
    const uint64_t hash = um__hash2(bucket, (uint64_t)member);
    uint64_t pos = um__home(st, UM_X_MEMBERS, hash);
    uint32_t number;
    while ((number = um__probe(st, UM_X_MEMBERS, hash, &pos)) != UM_NONE) {
        const um_member *m = um__um_member(st, number);
        if (m->bucket == bucket && m->member == member) return number;
    }
    return UM_NONE;
}

void um__series_resolve(const um__ctx *ctx, um__target *t) {
    const um_state *st = ctx->st;
    if (t->bucket != UM_NONE && t->metric->aggregation != UM_AGG_UNIQUE) return;   /* the usual case: nothing is missing */
    if (t->account_new) resolve_account(st, t);
    if (t->values_new != 0) look_again(st, t);
    if (t->account_new) return;
    if (t->series == UM_NONE) t->series = um__find_series(st, t->account, t->text, t->metric->id);
    if (t->series == UM_NONE || t->values_new != 0) return;
    if (t->cell == UM_NONE) t->cell = um__find_cell(st, t->series, um__target_dims(t), t->dims_len);
    if (t->cell == UM_NONE) return;
    if (t->bucket == UM_NONE) {
        const uint32_t hot = um__um_cell(st, t->cell)->hot_bucket;
        t->bucket = um__um_bucket(st, hot)->hour == t->hour ? hot : um__find_bucket(st, t->cell, t->hour);
    }
    if (t->bucket != UM_NONE && t->metric->aggregation == UM_AGG_UNIQUE) t->member = find_member(st, t->bucket, t->value);
}

/* ---- room ---- */

static int room_for_new(const um__ctx *ctx, const um__target *t) {
    uint64_t heap = t->account_new ? t->tail->view.text_len : 0;
    for (uint32_t i = 0; t->values_new != 0 && i < t->dims_len; i++) {
        if (t->tail->fresh[i] != NULL) heap += t->tail->fresh[i]->value_len;
    }
    const uint64_t cells = t->cell == UM_NONE;
    return um__room(ctx, UM_R_ACCOUNTS, t->account_new) && um__room(ctx, UM_R_HEAP, heap) &&
           um__room(ctx, UM_R_VALUES, t->values_new) && um__room(ctx, UM_R_SERIES, t->series == UM_NONE) &&
           um__room(ctx, UM_R_CELLS, cells) && um__room(ctx, UM_R_DIMS, cells * t->dims_len) &&
           um__room(ctx, UM_R_BUCKETS, t->bucket == UM_NONE);
}

uint32_t um__series_room(const um__ctx *ctx, const um__target *t) {
    if (t->bucket == UM_NONE) {
        if (t->cell == UM_NONE) {
            const uint64_t cells = t->series == UM_NONE ? 0 : um__um_series(ctx->st, t->series)->cell_count;
            if (cells >= ctx->meta->limits.cells_per_series_max) return UM_V_CARDINALITY;
        }
        if (!room_for_new(ctx, t)) return UM_V_FULL;
    }
    if (t->metric->aggregation == UM_AGG_UNIQUE && t->member == UM_NONE && !um__room(ctx, UM_R_MEMBERS, 1)) return UM_V_FULL;
    if (!um__room(ctx, UM_R_SKIPS, 1)) return UM_V_FULL;
    if (um__has_thresholds(ctx, t) && !um__thresholds_room(ctx, t)) return UM_V_FULL;
    return UM_V_STORED;
}

/* ---- create ---- */

static void intern_account(um_state *st, um__target *t) {
    const uint32_t number = um__count(st, UM_R_ACCOUNTS);
    const um__row_view *view = &t->tail->view;
    um_account record = {.hash = um_hash64(view->text, view->text_len, 0), .len = view->text_len};
    record.heap_off = um__append(st, UM_R_HEAP, view->text, record.len);
    um__append(st, UM_R_ACCOUNTS, &record, sizeof record);
    um__index_add(st, UM_X_ACCOUNTS, record.hash, number);
    t->account = number;
}

static uint32_t intern_value(um_state *st, const um__property *prop) {
    const uint32_t known = um__find_value(st, prop->value, prop->value_len);   /* a dimension before may have brought it */
    if (known != UM_NONE) return known;
    const uint32_t number = um__count(st, UM_R_VALUES);
    um_value record = {.hash = um_hash64(prop->value, prop->value_len, 0), .len = prop->value_len};
    record.heap_off = um__append(st, UM_R_HEAP, prop->value, record.len);
    um__append(st, UM_R_VALUES, &record, sizeof record);
    um__index_add(st, UM_X_VALUES, record.hash, number);
    return number;
}

static void create_series(um_state *st, um__target *t) {
    const um_series record = {.account = t->account, .metric = t->metric->id, .text = (uint16_t)t->text, .first_cell = UM_NONE,
                              .last_cell = UM_NONE, .first_period = UM_NONE, .plain_bucket = UM_NONE};
    t->series = um__count(st, UM_R_SERIES);
    um__append(st, UM_R_SERIES, &record, sizeof record);
    um__index_add(st, UM_X_SERIES, um__series_hash(t->account, t->text, t->metric->id), t->series);
}

static void create_cell(um_state *st, um__target *t) {
    um_cell record = {.series = t->series, .next = UM_NONE, .dims_len = t->dims_len, .first_bucket = UM_NONE, .hot_bucket = UM_NONE};
    record.dims_off = um__count(st, UM_R_DIMS);
    um__append(st, UM_R_DIMS, um__target_dims(t), t->dims_len * sizeof(uint32_t));
    t->cell = um__count(st, UM_R_CELLS);
    um__append(st, UM_R_CELLS, &record, sizeof record);

    UM__TOUCH(st, um_series, UM_R_SERIES, t->series);
    um_series *s = um__um_series(st, t->series);
    if (s->last_cell == UM_NONE) {
        s->first_cell = t->cell;
    } else {
        um__index_add(st, UM_X_CELLS, um__cell_hash(t->series, um__target_dims(t), t->dims_len), t->cell);
        UM__TOUCH(st, um_cell, UM_R_CELLS, s->last_cell);
        um__um_cell(st, s->last_cell)->next = t->cell;
    }
    s->last_cell = t->cell;
    s->cell_count++;
}

static void create_bucket(um_state *st, um__target *t, uint64_t seq) {
    UM__TOUCH(st, um_cell, UM_R_CELLS, t->cell);
    um_cell *c = um__um_cell(st, t->cell);
    const um_bucket record = {.cell = t->cell, .next = c->first_bucket, .hour = t->hour, .first_member = UM_NONE,
                              .min = t->value, .max = t->value, .last_value = t->value, .first_ts = t->ts, .last_ts = t->ts,
                              .last_seq = seq, .first_seq = seq};
    t->bucket = um__count(st, UM_R_BUCKETS);
    um__append(st, UM_R_BUCKETS, &record, sizeof record);
    um__index_add(st, UM_X_BUCKETS, um__hash2(t->cell, t->hour), t->bucket);
    c->first_bucket = t->bucket;
    c->bucket_count++;
}

/* ---- update ---- */

static void update_bucket(um_bucket *b, const um__target *t, uint64_t seq) {
    const uint64_t low = b->sum_lo + (uint64_t)t->value;
    const uint64_t carry = low < b->sum_lo;
    b->sum_hi = (int64_t)((uint64_t)b->sum_hi + (uint64_t)(t->value >> 63) + carry);
    b->sum_lo = low;
    b->count++;
    if (t->value < b->min) b->min = t->value;
    if (t->value > b->max) b->max = t->value;
    if (t->ts < b->first_ts) b->first_ts = t->ts;
    if (t->ts >= b->last_ts) {   /* seq only grows: later in the log wins among equals */
        b->last_ts = t->ts;
        b->last_value = t->value;
        b->last_seq = seq;
    }
}

static void update_member(um_state *st, um__target *t, uint64_t seq) {
    if (t->member == UM_NONE) {
        um_bucket *b = um__um_bucket(st, t->bucket);   /* touched by the caller */
        const um_member record = {.bucket = t->bucket, .next = b->first_member, .member = t->value,
                                  .last_ts = t->ts, .last_seq = seq, .operation = t->operation};
        t->member = um__count(st, UM_R_MEMBERS);
        um__append(st, UM_R_MEMBERS, &record, sizeof record);
        um__index_add(st, UM_X_MEMBERS, um__hash2(t->bucket, (uint64_t)t->value), t->member);
        b->first_member = t->member;
        return;
    }
    um_member *m = um__um_member(st, t->member);
    if (t->ts < m->last_ts) return;
    UM__TOUCH(st, um_member, UM_R_MEMBERS, t->member);
    m->last_ts = t->ts;
    m->last_seq = seq;
    m->operation = t->operation;
}

/* The bucket is the one that was used last in its cell. The cell of a plain row need not be looked at to know so. */
static void set_hot(um_state *st, const um__target *t) {
    if (t->dims_len == 0) {
        um_series *s = um__um_series(st, t->series);
        if (s->plain_bucket == t->bucket) return;
        UM__TOUCH(st, um_series, UM_R_SERIES, t->series);
        s->plain_bucket = t->bucket;
    }
    um_cell *c = um__um_cell(st, t->cell);
    if (c->hot_bucket == t->bucket) return;
    UM__TOUCH(st, um_cell, UM_R_CELLS, t->cell);
    c->hot_bucket = t->bucket;
}

uint64_t um__series_store(um__ctx *ctx, um__target *t, uint64_t seq) {
    um_state *st = ctx->st;
    if (t->bucket == UM_NONE) {
        if (t->account_new) intern_account(st, t);
        for (uint32_t i = 0; t->values_new != 0 && i < t->dims_len; i++) {
            if (t->tail->fresh[i] != NULL) t->tail->dims[i] = intern_value(st, t->tail->fresh[i]);
        }
        if (t->series == UM_NONE) create_series(st, t);
        if (t->cell == UM_NONE) create_cell(st, t);
        create_bucket(st, t, seq);
    }
    set_hot(st, t);
    UM__TOUCH(st, um_bucket, UM_R_BUCKETS, t->bucket);
    um_bucket *b = um__um_bucket(st, t->bucket);
    update_bucket(b, t, seq);
    if (t->metric->aggregation != UM_AGG_UNIQUE) return UM__DIGEST(um_bucket, b);
    update_member(st, t, seq);
    return UM__DIGEST(um_bucket, b) + UM__DIGEST(um_member, um__um_member(st, t->member));
}

/* window.c - looking ahead over the next few rows, so that memory arrives before it is needed.
 *
 * An event needs half a dozen records at places that nobody can guess: fingerprint, series, cell, bucket, member,
 * and the index slots that lead to them. One at a time, each of these costs a trip to main memory, and they
 * are most of what an event costs. So the rows of a window are walked in step: every row asks for its
 * next record (a prefetch), then every row looks at it and asks for the one after that.
 *
 * Nothing is changed here. A record that was found and verified goes into the row's target, which may rely on
 * it: records never move or vanish. Not found means only: not yet, look again when the turn comes.
 */
#include "um__apply.h"

static void parse(const um__ctx *ctx, um__pending *p) {
    const um_row *head = (const um_row *)(const void *)p->row;
    p->target.metric = NULL;
    if (head->metric >= ctx->catalog->metric_count || !ctx->catalog->metrics[head->metric].alive) return;
    if (!um__row_parse(p->row, p->len, &p->view)) return;   /* the log holds no such row */
    um__series_begin(ctx, &p->view, &ctx->catalog->metrics[head->metric], &p->target);
    um__dedup_key(ctx, p->row, p->len, &p->dedup);
}

/* Is the row's next record known enough to look for it now? */
static int goes_on(const um__target *t) {
    return t->metric != NULL && !t->account_new && t->values_new == 0;
}

static void ask_series_slot(const um__ctx *ctx, um__target *t) {
    t->hint = UM_NONE;
    if (!goes_on(t)) return;
    t->series_hash = um__series_hash(t->account, t->text, t->metric->id);
    um__index_prefetch(ctx->st, UM_X_SERIES, t->series_hash);
}

static void ask_series(const um__ctx *ctx, um__target *t) {
    if (!goes_on(t)) return;
    t->hint = um__first(ctx->st, UM_X_SERIES, t->series_hash);
    if (t->hint != UM_NONE) __builtin_prefetch(um__um_series(ctx->st, t->hint), 1);
}

/* A series with one cell leads to it; one with more, to the slot of the right one. */
static void ask_cell_slot(const um__ctx *ctx, um__target *t) {
    if (t->hint == UM_NONE) return;
    const um_series *s = um__um_series(ctx->st, t->hint);
    if (s->account != t->account || s->text != t->text || s->metric != t->metric->id) {
        t->hint = UM_NONE;
        return;
    }
    t->series = t->hint;
    t->hint = s->first_cell;
    if (s->cell_count > 1) {
        t->hint = UM_NONE;
        t->cell_hash = um__cell_hash(t->series, t->dims, t->dims_len);
        um__index_prefetch(ctx->st, UM_X_CELLS, t->cell_hash);
        return;
    }
    __builtin_prefetch(um__um_cell(ctx->st, t->hint), 1);
}

static void ask_cell(const um__ctx *ctx, um__target *t) {
    if (t->hint != UM_NONE || t->metric == NULL || t->series == UM_NONE) return;
    t->hint = um__first(ctx->st, UM_X_CELLS, t->cell_hash);
    if (t->hint != UM_NONE) __builtin_prefetch(um__um_cell(ctx->st, t->hint), 1);
}

static void ask_bucket(const um__ctx *ctx, um__target *t) {
    if (t->hint == UM_NONE) return;
    const um_cell *c = um__um_cell(ctx->st, t->hint);
    if (c->series != t->series || c->dims_len != t->dims_len) {
        t->hint = UM_NONE;
        return;
    }
    if (c->dims_len != 0) __builtin_prefetch(um__dims(ctx->st, c->dims_off));
    const uint8_t *hot = (const uint8_t *)um__um_bucket(ctx->st, c->hot_bucket);
    __builtin_prefetch(hot, 1);
    __builtin_prefetch(hot + sizeof(um_bucket) - 1, 1);
}

static void ask_member_slot(const um__ctx *ctx, um__target *t) {
    if (t->hint == UM_NONE) return;
    const um_cell *c = um__um_cell(ctx->st, t->hint);
    if (c->dims_len != 0 && memcmp(um__dims(ctx->st, c->dims_off), t->dims, c->dims_len * sizeof t->dims[0]) != 0) return;
    t->cell = t->hint;
    if (um__um_bucket(ctx->st, c->hot_bucket)->hour != t->hour) return;
    t->bucket = c->hot_bucket;
    if (t->metric->aggregation == UM_AGG_UNIQUE) um__index_prefetch(ctx->st, UM_X_MEMBERS, um__hash2(t->bucket, (uint64_t)t->value));
}

static void ask_member(const um__ctx *ctx, um__target *t) {
    if (t->metric == NULL || t->bucket == UM_NONE || t->metric->aggregation != UM_AGG_UNIQUE) return;
    const uint64_t hash = um__hash2(t->bucket, (uint64_t)t->value);
    const uint32_t hint = um__first(ctx->st, UM_X_MEMBERS, hash);
    if (hint != UM_NONE) __builtin_prefetch(um__um_member(ctx->st, hint), 1);
}

uint32_t um__window_fill(const um__ctx *ctx, const uint8_t **rows, const uint8_t *end, uint32_t count, um__pending *window) {
    const uint8_t *at = *rows;
    uint32_t n = 0;
    for (; n < count && n < UM__WINDOW && um__holds_row(at, end); n++) {
        window[n].row = at;
        window[n].len = (uint32_t)sizeof(um_row) + ((const um_row *)(const void *)at)->tail_len;
        parse(ctx, &window[n]);
        ask_series_slot(ctx, &window[n].target);
        at += window[n].len;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (window[i].target.metric != NULL) um__dedup_ask(ctx, &window[i].dedup);
        ask_series(ctx, &window[i].target);
    }
    for (uint32_t i = 0; i < n; i++) ask_cell_slot(ctx, &window[i].target);
    for (uint32_t i = 0; i < n; i++) ask_cell(ctx, &window[i].target);
    for (uint32_t i = 0; i < n; i++) ask_bucket(ctx, &window[i].target);
    for (uint32_t i = 0; i < n; i++) ask_member_slot(ctx, &window[i].target);
    for (uint32_t i = 0; i < n; i++) ask_member(ctx, &window[i].target);
    *rows = at;
    return n;
}

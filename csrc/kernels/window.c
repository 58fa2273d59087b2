/* window.c - looking ahead over the next few rows, so that memory arrives before it is needed.
 *
 * An event needs half a dozen records at places that nobody can guess: fingerprint, series, cell, bucket, member,
 * and the index slots that lead to them. One at a time, each of these costs a trip to main memory, and they
 * are most of what an event costs. So the rows of a window are walked in step: every row asks for its
 * next record (a prefetch), then every row looks at it and asks for the one after that. What the last of them asks for
 * comes while the window before is applied: two are on their way at any time.
 *
 *     no dimension values    slot of its series -> series -> bucket
 *     some                   slot of its series -> series [-> slot] -> cell -> bucket
 *     either                 [-> slot -> member],  slot of its id
 *     when its turn comes    fingerprint: leaf -> line.  Rows of the window before move these; mostly they are in the cache
 *
 * Nothing is changed here. A record that was found and verified goes into the row's target, which may rely on
 * it: records never move or vanish. Not found means only: not yet, look again when the turn comes.
 */
#include "um__fps.h"

/* ---- what the row says ---- */

static int is_plain(const um_row *head) {
    return (head->tail_len | head->flags | head->prop_count | head->reserved) == 0 && head->operation <= UM_OP_REMOVE && head->timestamp_ns >= 0;
}

static void parse(const um__ctx *ctx, const uint8_t *row, uint32_t len, um__pending *p, um__tail *tail) {
    const um_row *head = (const um_row *)(const void *)row;
    p->target.metric = NULL;
    p->target.tail = NULL;
    p->target.ts = um__row_ts(ctx, row);
    p->target.hint = UM_NONE;
    p->dedup.kind = UM__DEDUP_NONE;
    if (head->metric >= ctx->catalog->metric_count || !ctx->catalog->metrics[head->metric].alive) return;
    if (is_plain(head)) tail = NULL;
    else if (!um__row_parse(row, len, &tail->view)) return;   /* the log holds no such row */
    um__series_begin(ctx, head, &ctx->catalog->metrics[head->metric], tail, &p->target);
    um__dedup_key(ctx, row, len, &p->dedup);
}

/* ---- step by step ---- */

/* Is the row's next record known enough to look for it now? */
static int goes_on(const um__target *t) {
    return t->metric != NULL && !t->account_new && t->values_new == 0;
}

static UM__ASK void ask_series_slot(const um__ctx *ctx, um__target *t) {
    if (!goes_on(t)) return;
    t->hash = um__series_hash(t->account, t->text, t->metric->id);
    um__index_prefetch(ctx->st, UM_X_SERIES, t->hash);
}

static UM__ASK void ask_series(const um__ctx *ctx, um__target *t) {
    if (!goes_on(t)) return;
    t->hint = um__first(ctx->st, UM_X_SERIES, t->hash);
    if (t->hint != UM_NONE) __builtin_prefetch(um__um_series(ctx->st, t->hint), 1);
}

static UM__ASK void ask_for_bucket(const um__ctx *ctx, uint32_t number) {
    const uint8_t *bucket = (const uint8_t *)um__um_bucket(ctx->st, number);
    __builtin_prefetch(bucket, 1);
    __builtin_prefetch(bucket + sizeof(um_bucket) - 1, 1);
}

/* A series leads to the bucket of plain rows, and to its first cell; if it has more, their slots lead to those. */
static UM__ASK void ask_bucket_or_cell(const um__ctx *ctx, um__target *t, uint32_t *cells) {
    if (t->hint == UM_NONE) return;
    const um_series *s = um__um_series(ctx->st, t->hint);
    if (s->account != t->account || s->text != t->text || s->metric != t->metric->id) {
        t->hint = UM_NONE;
        return;
    }
    t->series = t->hint;
    if (t->dims_len == 0 && s->plain_bucket != UM_NONE) {
        t->bucket = s->plain_bucket;
        ask_for_bucket(ctx, t->bucket);
        return;
    }
    *cells = 1;
    t->hint = s->first_cell;
    if (s->cell_count == 1) {
        __builtin_prefetch(um__um_cell(ctx->st, t->hint), 1);
        return;
    }
    t->hint = UM_NONE;
    t->hash = um__cell_hash(t->series, um__target_dims(t), t->dims_len);
    um__index_prefetch(ctx->st, UM_X_CELLS, t->hash);
}

static int looks_for_cell(const um__target *t) {
    return t->metric != NULL && t->series != UM_NONE && t->bucket == UM_NONE;
}

static UM__ASK void ask_cell(const um__ctx *ctx, um__target *t) {
    if (!looks_for_cell(t) || t->hint != UM_NONE) return;
    t->hint = um__first(ctx->st, UM_X_CELLS, t->hash);
    if (t->hint == UM_NONE) t->hint = um__um_series(ctx->st, t->series)->first_cell;   /* the one that is not in the index */
    __builtin_prefetch(um__um_cell(ctx->st, t->hint), 1);
}

static UM__ASK void ask_bucket(const um__ctx *ctx, um__target *t) {
    if (!looks_for_cell(t)) return;
    const um_cell *c = um__um_cell(ctx->st, t->hint);
    if (c->series != t->series || c->dims_len != t->dims_len) {
        t->hint = UM_NONE;
        return;
    }
    if (c->dims_len != 0) __builtin_prefetch(um__dims(ctx->st, c->dims_off));
    ask_for_bucket(ctx, c->hot_bucket);
}

/* A cell that was looked for may be another's; its hot bucket, or the one of plain rows, may be of another hour. */
static UM__ASK void ask_member_slot(const um__ctx *ctx, um__target *t, uint32_t *members) {
    if (looks_for_cell(t) && t->hint != UM_NONE) {
        const um_cell *c = um__um_cell(ctx->st, t->hint);
        if (c->dims_len != 0 && memcmp(um__dims(ctx->st, c->dims_off), um__target_dims(t), c->dims_len * sizeof(uint32_t)) != 0) return;
        t->bucket = c->hot_bucket;
    }
    if (t->metric == NULL || t->bucket == UM_NONE) return;
    const um_bucket *b = um__um_bucket(ctx->st, t->bucket);
    t->cell = b->cell;
    if (b->hour != t->hour) {
        t->bucket = UM_NONE;
        return;
    }
    if (t->metric->aggregation != UM_AGG_UNIQUE) return;
    *members = 1;
    t->hash = um__hash2(t->bucket, (uint64_t)t->value);
    um__index_prefetch(ctx->st, UM_X_MEMBERS, t->hash);
}

static UM__ASK void ask_member(const um__ctx *ctx, const um__target *t) {
    if (t->metric == NULL || t->bucket == UM_NONE || t->metric->aggregation != UM_AGG_UNIQUE) return;
    const uint32_t hint = um__first(ctx->st, UM_X_MEMBERS, t->hash);
    if (hint != UM_NONE) __builtin_prefetch(um__um_member(ctx->st, hint), 1);
}

/* ---- the window ---- */

void um__window_fill(const um__ctx *ctx, const uint8_t **rows, const uint8_t *end, uint32_t count, um__window *window) {
    um__pending *const first = window->rows, *past = first;
    const uint8_t *at = *rows;
    uint32_t cells = 0;   /* do any rows look for one? */
    for (; past - first < UM__WINDOW && past - first < count && um__holds_row(at, end); past++) {
        const uint32_t len = (uint32_t)sizeof(um_row) + ((const um_row *)(const void *)at)->tail_len;
        parse(ctx, at, len, past, &window->tails[past - first]);
        um__id_ask(ctx, &past->dedup);
        ask_series_slot(ctx, &past->target);
        at += len;
    }
    *rows = at;
    window->count = (uint32_t)(past - first);
    for (um__pending *p = first; p < past; p++) ask_series(ctx, &p->target);
    for (um__pending *p = first; p < past; p++) ask_bucket_or_cell(ctx, &p->target, &cells);
    if (!cells) return;
    for (um__pending *p = first; p < past; p++) ask_cell(ctx, &p->target);
    for (um__pending *p = first; p < past; p++) ask_bucket(ctx, &p->target);
}

void um__window_look(const um__ctx *ctx, um__fps_spot *spot, um__window *window) {
    um__pending *const first = window->rows, *const past = first + window->count;
    uint32_t members = 0;   /* do any rows look for one? */
    for (um__pending *p = first; p < past; p++) um__fp_ask(ctx, spot, &p->dedup);
    for (um__pending *p = first; p < past; p++) um__fp_ask_line(ctx, spot, &p->dedup);
    for (um__pending *p = first; p < past; p++) ask_member_slot(ctx, &p->target, &members);
    for (um__pending *p = first; p < past; p++) um__dedup_peek(ctx, &p->dedup);
    for (um__pending *p = first; members && p < past; p++) ask_member(ctx, &p->target);
}

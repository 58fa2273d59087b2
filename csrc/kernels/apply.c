/* apply.c - one entry of the log goes into the state. The only writer of a group's state.
 *
 * Apply is total and deterministic: whatever cannot be stored is a verdict, and every replica finds the same
 * one. An event is stored if, in this order,
 *   1. its batch is new to its session (sessions.c),
 *   2. its metric exists,
 *   3. neither its id nor its fingerprint is known (dedup.c),
 *   4. its series may have one more cell, if it needs one, and every table has room for all it needs.
 * Only then is anything changed, and these records are created, in this order (their numbers follow from it):
 *   text account; dimension values in the metric's order; series; cell with its words in DIMS; bucket; member
 *   (series.c); id or fingerprint (dedup.c); period records, their members, alerts (thresholds.c).
 * Every event that is not stored becomes part of a run in SKIPS, and leaves no other trace but the counters in
 * META. So once SKIPS is full nothing is stored any more, and the last run grows for ever.
 *
 * Speed is a matter of cache misses: rows are taken in windows, two of them at a time, and window.c has looked ahead before a
 * row's turn comes. What it found is right for good; what it did not find may have been created by a row just before.
 */
#include "um__fps.h"

typedef struct { int64_t min_ts, max_ts; uint8_t *verdicts; uint64_t first_seq; } rows_seen;

/* ---- not stored ---- */

static void skip(um__ctx *ctx, uint64_t seq, uint64_t rows) {
    um_state *st = ctx->st;
    const uint32_t runs = um__count(st, UM_R_SKIPS);
    if (runs != 0) {
        um_skip *last = um__um_skip(st, runs - 1);
        if (last->first_seq + last->count == seq) {
            UM__TOUCH(st, um_skip, UM_R_SKIPS, runs - 1);
            last->count += rows;
            return;
        }
    }
    const um_skip run = {seq, rows};
    if (st->region[UM_R_SKIPS].used + sizeof run <= st->region[UM_R_SKIPS].reserved) um__append(st, UM_R_SKIPS, &run, sizeof run);
}

static void count_verdict(um_meta *meta, um_summary *summary, uint32_t row, uint32_t verdict, uint32_t rows) {
    if (verdict == UM_V_DUPLICATE || verdict == UM_V_SESSION_SETTLED) {
        summary->duplicates += rows;
        meta->duplicates += rows;
        return;
    }
    if (verdict == UM_V_CONFLICT) {
        summary->conflicts += rows;
        meta->conflicts += rows;
    } else {
        summary->refused += rows;
        meta->refused += rows;
    }
    if (summary->first_bad == UM_NONE) {
        summary->first_bad = row;
        summary->first_verdict = verdict;
    }
}

/* ---- one row ---- */

static uint32_t apply_row(um__ctx *ctx, um__pending *p, uint64_t seq) {
    um__target *target = &p->target;
    if (target->metric == NULL) return UM_V_UNKNOWN_METRIC;
    uint32_t verdict = um__dedup_look(ctx, target->tail, &p->dedup);
    if (verdict != UM_V_STORED) return verdict;
    um__series_resolve(ctx, target);
    verdict = um__series_room(ctx, target);
    if (verdict != UM_V_STORED) return verdict;
    if (!um__dedup_room(ctx, &p->dedup)) return UM_V_FULL;

    uint64_t digest = um__series_store(ctx, target, seq);
    um__dedup_remember(ctx, &p->dedup, seq);
    if (um__has_thresholds(ctx, target)) digest += um__thresholds_store(ctx, target, seq);
    ctx->meta->digest += um__mix(digest ^ seq, UM__K1);
    return UM_V_STORED;
}

/* ---- one batch ---- */

static void see(int64_t ts, rows_seen *seen) {
    if (ts < seen->min_ts) seen->min_ts = ts;
    if (ts > seen->max_ts) seen->max_ts = ts;
}

static void apply_rows(um__ctx *ctx, const uint8_t *rows, const um_batch *batch, rows_seen *seen, um_summary *summary) {
    const uint8_t *end = rows + batch->rows_len;
    um__window windows[2], *window = windows, *next = windows + 1;
    um__fps_spot spot = {.leaf = NULL};
    uint32_t done = 0;
    ctx->batch_fps = um__fps_count(ctx->st, ctx->fps);
    ctx->batch_rows = batch->row_count;
    ctx->batch_flags = batch->flags;
    ctx->ordinal_mask = 0;
    um__window_fill(ctx, &rows, end, batch->row_count, window);
    while (window->count != 0) {
        const uint32_t count = window->count;
        um__window_fill(ctx, &rows, end, batch->row_count - done - count, next);
        um__window_look(ctx, &spot, window);
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t row = summary->row_base + done + i;
            const uint32_t verdict = apply_row(ctx, &window->rows[i], seen->first_seq + row);
            see(window->rows[i].target.ts, seen);
            seen->verdicts[row] = (uint8_t)verdict;
            if (verdict == UM_V_STORED) {
                summary->stored++;
                ctx->meta->stored++;
                continue;
            }
            count_verdict(ctx->meta, summary, done + i, verdict, 1);
            skip(ctx, seen->first_seq + row, 1);
        }
        done += count;
        um__window *applied = window;
        window = next;
        next = applied;
    }
    if (done == batch->row_count) return;
    /* fewer rows than the batch says: not an entry that the log holds */
    const uint32_t missing = batch->row_count - done;
    memset(seen->verdicts + summary->row_base + done, UM_V_UNKNOWN_METRIC, missing);
    count_verdict(ctx->meta, summary, done, UM_V_UNKNOWN_METRIC, missing);
    skip(ctx, seen->first_seq + summary->row_base + done, missing);
}

/* No row of the batch is applied; `verdict` says why. */
static void pass_over(um__ctx *ctx, const uint8_t *rows, const um_batch *batch, uint32_t verdict, rows_seen *seen, um_summary *summary) {
    const uint8_t *end = rows + batch->rows_len;
    if (verdict == UM_V_DUPLICATE) {
        ctx->meta->duplicates += batch->row_count;   /* the summary is the first answer's */
    } else if (batch->row_count != 0) {
        count_verdict(ctx->meta, summary, 0, verdict, batch->row_count);
    }
    if (batch->row_count == 0) return;
    memset(seen->verdicts + summary->row_base, (int)verdict, batch->row_count);
    skip(ctx, seen->first_seq + summary->row_base, batch->row_count);
    for (; um__holds_row(rows, end); rows += sizeof(um_row) + ((const um_row *)(const void *)rows)->tail_len) see(um__row_ts(ctx, rows), seen);
}

static void apply_batch(um__ctx *ctx, const um_batch *batch, uint32_t row_base, rows_seen *seen, um_summary *summary) {
    const uint8_t *rows = (const uint8_t *)(batch + 1);
    uint32_t verdict = 0, session = UM_NONE;
    memset(summary, 0, sizeof *summary);
    summary->row_base = row_base;
    summary->first_bad = UM_NONE;
    summary->last_offset = seen->first_seq + row_base + batch->row_count - 1;
    if (batch->flags & UM_BATCH_OPEN_SESSION) {
        verdict = um__session_open(ctx, batch);
    } else if ((batch->session_hi | batch->session_lo) != 0) {
        verdict = um__session_enter(ctx, batch, summary, &session);
    }
    summary->session_verdict = verdict;
    if (verdict != 0) {
        pass_over(ctx, rows, batch, verdict, seen, summary);
        return;
    }
    apply_rows(ctx, rows, batch, seen, summary);
    if (session != UM_NONE) um__session_done(ctx, session, batch->number, summary);
}

/* ---- the entry ---- */

static void set_limits(um__ctx *ctx) {
    const um_limits *limits = &ctx->meta->limits;
    for (uint32_t region = 0; region < UM_REGIONS; region++) {
        const uint64_t records = limits->records_max[region] < UM_NONE ? limits->records_max[region] : UM_NONE - 1ULL;
        const uint64_t bytes = records * um__region_bytes(region), reserved = ctx->st->region[region].reserved;
        ctx->limit_bytes[region] = bytes < reserved ? bytes : reserved;
    }
}

static void apply_batches(um__ctx *ctx, const um_entry *entry, um_summary *summaries, uint8_t *verdicts, um_applied *applied) {
    const uint8_t *at = (const uint8_t *)(entry + 1), *end = at + entry->body_len;
    rows_seen seen = {INT64_MAX, INT64_MIN, verdicts, entry->first_seq};
    um__dedup_rotate(ctx, entry->row_count);
    for (uint32_t i = 0; i < entry->batch_count; i++) {
        const um_batch *batch = (const um_batch *)(const void *)at;
        if ((uint64_t)(end - at) < sizeof *batch || (uint64_t)(end - at) < sizeof *batch + (uint64_t)batch->rows_len) break;
        if (batch->rows_len % 8 != 0) break;
        if (batch->row_count > entry->row_count - applied->row_count) break;
        apply_batch(ctx, batch, applied->row_count, &seen, &summaries[i]);
        applied->row_count += batch->row_count;
        applied->batch_count++;
        at += sizeof *batch + batch->rows_len;
    }
    applied->min_ts = seen.min_ts;
    applied->max_ts = seen.max_ts;
    ctx->meta->next_seq = entry->first_seq + entry->row_count;
}

void um_apply(um_state *st, const um_catalog *catalog, const uint8_t *bytes, um_summary *summaries, uint8_t *verdicts, um_applied *applied) {
    const um_entry *entry = (const um_entry *)(const void *)bytes;
    um__ctx ctx;
    memset(&ctx, 0, sizeof ctx);
    UM__TOUCH(st, um_meta, UM_R_META, 0);
    ctx.st = st;
    ctx.meta = um__meta(st);
    ctx.catalog = catalog;
    ctx.stamp_ns = entry->stamp_ns;
    ctx.fps = UM_R_FPS0 + (uint32_t)(ctx.meta->fps_current & 1);
    set_limits(&ctx);
    memset(applied, 0, sizeof *applied);
    applied->min_ts = INT64_MAX;
    applied->max_ts = INT64_MIN;
    applied->alerts_before = ctx.meta->alert_next;
    if (entry->kind == UM_ENTRY_BATCHES) {
        apply_batches(&ctx, entry, summaries, verdicts, applied);
    } else if (entry->kind == UM_ENTRY_LIMITS && entry->body_len >= sizeof(um_limits)) {
        memcpy(&ctx.meta->limits, entry + 1, sizeof(um_limits));
        um__fps_limits(st);
    }
    applied->alerts_after = ctx.meta->alert_next;
    applied->digest = ctx.meta->digest;
    ctx.meta->applied_index = entry->index;
    ctx.meta->applied_term = entry->term;
    ctx.meta->stamp_ns = entry->stamp_ns;
}

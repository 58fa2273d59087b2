/* thresholds.c - running totals of billing periods, and the alerts that their crossings are.
 *
 * A series of a metric with thresholds has one PERIOD record per period that it has seen an event of since the
 * first threshold became active. The record is made from the buckets of the period (bounds are hour-aligned, so
 * whole buckets), and from then on follows every event, also while no threshold is active. Recurring unique
 * counts (seats) carry members over: there an event updates every recorded period that ends after it, and a new
 * record starts from all history before the period's end.
 *
 * A crossing is the rising edge of `total >= value`. One-shot thresholds fire once per period; recurring ones
 * on every rising edge while the period lasts, and at most once when it is already over.
 * Chain order of the records (newest made first) is the order of alerts made by one event.
 */
#include "um__apply.h"

typedef struct { int64_t start, end, hour_start; uint32_t unique, carries; } span;   /* carries: recurring unique */

static span span_of(const um__target *t) {
    span own = {.hour_start = (int64_t)t->hour * UM_HOUR_NS, .unique = t->metric->aggregation == UM_AGG_UNIQUE};
    own.carries = own.unique && t->metric->recurring;
    um_period_bounds(t->metric->period_type, t->metric->billing_day, own.hour_start, &own.start, &own.end);
    return own;
}

static uint32_t active_slots(const um_metric *metric) {
    uint32_t active = 0;
    for (uint32_t i = 0; i < metric->threshold_slots; i++) active += metric->thresholds[i].active != 0;
    return active;
}

static int updates(const span *own, const um_period *p) {
    return own->hour_start < p->end && (own->carries || p->start <= own->hour_start);
}

static uint32_t find_pmember(const um_state *st, uint32_t period, int64_t member) {
    const uint64_t hash = um__hash2(period, (uint64_t)member);
    uint64_t pos = um__home(st, UM_X_PMEMBERS, hash);
    uint32_t number;
    while ((number = um__probe(st, UM_X_PMEMBERS, hash, &pos)) != UM_NONE) {
        const um_pmember *m = um__um_pmember(st, number);
        if (m->period == period && m->member == member) return number;
    }
    return UM_NONE;
}

/* ---- room ---- */

/* MEMBERS records that a new PERIOD record would be made from: no more PMEMBERS than these. */
static uint64_t members_before(const um_state *st, uint32_t series, const span *own) {
    uint64_t members = 0;
    if (series == UM_NONE) return 0;
    for (uint32_t c = um__um_series(st, series)->first_cell; c != UM_NONE; c = um__um_cell(st, c)->next) {
        for (uint32_t b = um__um_cell(st, c)->first_bucket; b != UM_NONE; b = um__um_bucket(st, b)->next) {
            const um_bucket *bucket = um__um_bucket(st, b);
            const int64_t at = (int64_t)bucket->hour * UM_HOUR_NS;
            if (at >= own->end || (at < own->start && !own->carries)) continue;
            for (uint32_t m = bucket->first_member; m != UM_NONE; m = um__um_member(st, m)->next) members++;
        }
    }
    return members;
}

int um__thresholds_room(const um__ctx *ctx, const um__target *t) {
    const um_state *st = ctx->st;
    const span own = span_of(t);
    const uint32_t active = active_slots(t->metric);
    uint64_t touched = 0, pmembers = 0, found = 0;
    uint32_t p = t->series == UM_NONE ? UM_NONE : um__um_series(st, t->series)->first_period;
    for (; p != UM_NONE && (own.carries || !found); p = um__um_period(st, p)->next) {
        const um_period *period = um__um_period(st, p);
        found |= period->start == own.start;
        if (!updates(&own, period)) continue;
        touched++;
        if (own.unique) pmembers += find_pmember(st, p, t->value) == UM_NONE;
    }
    const uint64_t fresh = !found && active != 0;
    if (fresh && own.unique) pmembers += 1 + members_before(st, t->series, &own);
    return um__room(ctx, UM_R_PERIODS, fresh) && um__room(ctx, UM_R_PMEMBERS, pmembers) &&
           um__room(ctx, UM_R_ALERTS, active * (touched + fresh));
}

/* ---- totals ---- */

static void put_acc(um_period *p, const um__acc *acc) {
    p->count = acc->count;
    p->sum_lo = acc->sum_lo;
    p->sum_hi = acc->sum_hi;
    p->min = acc->min;
    p->max = acc->max;
    p->last_value = acc->last_value;
    p->last_ts = acc->last_ts;
    p->last_seq = acc->last_seq;
}

static um__acc get_acc(const um_period *p) {
    return (um__acc){p->count, p->sum_lo, p->sum_hi, p->min, p->max, p->last_value, p->last_ts, p->last_seq};
}

/* The later operation wins; period->unique follows. The period is touched already. */
static void set_pmember(um_state *st, uint32_t p, int64_t member, uint32_t operation, int64_t ts, uint64_t seq) {
    um_period *period = um__um_period(st, p);
    const uint32_t known = find_pmember(st, p, member);
    if (known == UM_NONE) {
        const um_pmember record = {p, operation, member, ts, seq};
        const uint32_t number = um__count(st, UM_R_PMEMBERS);
        um__append(st, UM_R_PMEMBERS, &record, sizeof record);
        um__index_add(st, UM_X_PMEMBERS, um__hash2(p, (uint64_t)member), number);
        period->unique += operation == UM_OP_ADD;
        return;
    }
    um_pmember *m = um__um_pmember(st, known);
    if (ts < m->last_ts || (ts == m->last_ts && seq < m->last_seq)) return;
    UM__TOUCH(st, um_pmember, UM_R_PMEMBERS, known);
    period->unique += (operation == UM_OP_ADD) - (m->operation == UM_OP_ADD);
    m->operation = operation;
    m->last_ts = ts;
    m->last_seq = seq;
}

static uint32_t create_period(um_state *st, const um__target *t, const span *own) {
    um_series *s = um__um_series(st, t->series);
    const um_period record = {.series = t->series, .next = s->first_period, .start = own->start, .end = own->end};
    const uint32_t p = um__count(st, UM_R_PERIODS);
    um__append(st, UM_R_PERIODS, &record, sizeof record);
    UM__TOUCH(st, um_series, UM_R_SERIES, t->series);
    s->first_period = p;

    um__acc acc;
    memset(&acc, 0, sizeof acc);
    for (uint32_t c = s->first_cell; c != UM_NONE; c = um__um_cell(st, c)->next) {
        for (uint32_t b = um__um_cell(st, c)->first_bucket; b != UM_NONE; b = um__um_bucket(st, b)->next) {
            const um_bucket *bucket = um__um_bucket(st, b);
            const int64_t at = (int64_t)bucket->hour * UM_HOUR_NS;
            if (at >= own->end) continue;
            if (at >= own->start) um__acc_bucket(&acc, bucket);
            else if (!own->carries) continue;
            for (uint32_t m = bucket->first_member; m != UM_NONE; m = um__um_member(st, m)->next) {
                const um_member *member = um__um_member(st, m);
                set_pmember(st, p, member->member, member->operation, member->last_ts, member->last_seq);
            }
        }
    }
    put_acc(um__um_period(st, p), &acc);
    return p;
}

static void update_period(um_state *st, uint32_t p, const um__target *t, const span *own, uint64_t seq) {
    um_period *period = um__um_period(st, p);
    UM__TOUCH(st, um_period, UM_R_PERIODS, p);
    if (period->start <= own->hour_start) {
        um__acc acc = get_acc(period);
        um__acc_event(&acc, t->value, t->ts, seq);
        put_acc(period, &acc);
    }
    if (own->unique) set_pmember(st, p, t->value, t->operation, t->ts, seq);
}

/* ---- crossings ---- */

static __int128 total_of(const um_metric *metric, const um_period *p) {
    switch (metric->aggregation) {
    case UM_AGG_COUNT: return (__int128)p->count;
    case UM_AGG_SUM: return (__int128)((unsigned __int128)(uint64_t)p->sum_hi << 64 | p->sum_lo);
    case UM_AGG_MAX: return p->max;
    case UM_AGG_LATEST: return p->last_value;
    default: return p->unique;
    }
}

static int64_t clip(__int128 total) {
    return total > INT64_MAX ? INT64_MAX : total < INT64_MIN ? INT64_MIN : (int64_t)total;
}

static void evaluate(um__ctx *ctx, const um__target *t, uint32_t p, uint64_t seq) {
    um_period *period = um__um_period(ctx->st, p);   /* just made, or touched by the update */
    const __int128 total = total_of(t->metric, period);
    for (uint32_t slot = 0; slot < t->metric->threshold_slots; slot++) {
        const um_threshold *threshold = &t->metric->thresholds[slot];
        const uint64_t bit = 1ULL << slot;
        if (!threshold->active) continue;
        if (total < threshold->value) {
            period->above &= ~bit;
            continue;
        }
        const int rising = (period->above & bit) == 0;
        period->above |= bit;
        if (!rising) continue;
        if ((period->fired & bit) != 0 && !(threshold->recurring && ctx->stamp_ns < period->end)) continue;
        period->fired |= bit;
        const um_alert alert = {.number = ctx->meta->alert_next++, .account = t->account, .metric = t->metric->id, .slot = slot,
                                .text = t->text, .value = clip(total), .stamp_ns = ctx->stamp_ns,
                                .period_start = period->start, .seq = seq};
        um__append(ctx->st, UM_R_ALERTS, &alert, sizeof alert);
    }
}

uint64_t um__thresholds_store(um__ctx *ctx, const um__target *t, uint64_t seq) {
    um_state *st = ctx->st;
    const span own = span_of(t);
    uint32_t p = um__um_series(st, t->series)->first_period, fresh = UM_NONE;
    uint64_t digest = 0;
    while (p != UM_NONE && um__um_period(st, p)->start != own.start) p = um__um_period(st, p)->next;
    if (p == UM_NONE && active_slots(t->metric) != 0) {
        fresh = create_period(st, t, &own);
        evaluate(ctx, t, fresh, seq);
        digest += UM__DIGEST(um_period, um__um_period(st, fresh));
    }
    for (p = um__um_series(st, t->series)->first_period; p != UM_NONE; p = um__um_period(st, p)->next) {
        if (p == fresh || !updates(&own, um__um_period(st, p))) continue;
        update_period(st, p, t, &own, seq);
        evaluate(ctx, t, p, seq);
        digest += UM__DIGEST(um_period, um__um_period(st, p));
        if (!own.carries) break;
    }
    return digest;
}

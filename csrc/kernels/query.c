/* query.c - beginning a query (um__query.h has the theory), and its answer rows.
 *
 * Begin reads everything that state knows, in one call: it lays out the arena, finds out which edge hours must
 * be scanned, and takes the rest from buckets. An arena that turns out to be too small is left as it is; the
 * caller comes again with a larger one.
 */
#include "um__query.h"

#define UM__MEMBERS_ROOM (1u << 14)      /* what a query of members begins with */

/* a cursor over the bytes of a spec; a take beyond the end sets bad and yields nothing */
typedef struct { const uint8_t *at; uint64_t left; int bad; } um__bytes;

static const uint8_t *um__take(um__bytes *from, uint64_t len) {
    const uint8_t *at = from->at;
    if (len > from->left) from->bad = 1;
    if (from->bad) return NULL;
    from->at += len;
    from->left -= len;
    return at;
}

static uint32_t um__take_u8(um__bytes *from) {
    const uint8_t *at = um__take(from, 1);
    return at ? *at : 0;
}

/* filters as value numbers, at `out` (at most as many words as the spec has bytes). Values that were never seen are
 * left out: no cell has them. */
static void um__read_filters(const um_state *st, const um_metric *metric, um__bytes *from, uint32_t filters, uint32_t *out) {
    uint64_t words = 0;
    for (uint32_t i = 0; i < filters && !from->bad; i++) {
        uint32_t dimension = um__take_u8(from), count = um__take_u8(from), *head = out + words, known = 0;
        if (dimension >= metric->dimension_count) from->bad = 1;
        if (from->bad) break;
        for (uint32_t k = 0; k < count; k++) {
            uint32_t len = um__take_u8(from), number;
            const uint8_t *value = um__take(from, len);
            if (!value) return;
            number = um__find_value(st, value, len);
            if (number != UM_NONE) head[2 + known++] = number;
        }
        head[0] = dimension;
        head[1] = known;
        words += 2 + known;
    }
}

static uint32_t um__q_series(const um_state *st, const um__query *q, const uint8_t *text) {
    uint64_t account = q->account;
    if (q->text_len) {
        uint32_t number = um__find_account(st, text, q->text_len);
        if (number == UM_NONE) return UM_NONE;
        account = number;
    }
    return um__find_series(st, account, q->text_len != 0, q->metric);
}

static uint64_t um__period_fired(const um_state *st, uint32_t series, int64_t ts) {
    for (uint32_t number = um__um_series(st, series)->first_period; number != UM_NONE; number = um__um_period(st, number)->next) {
        const um_period *period = um__um_period(st, number);
        if (period->start <= ts && ts < period->end) return period->fired;
    }
    return 0;
}

/* which hours do start and end cut? One hour that both cut is the HI edge. */
static void um__find_edges(um__query *q) {
    q->edge[UM__LO] = q->edge[UM__HI] = (um__edge){.hour = UM_NONE, .ts_min = INT64_MAX, .ts_max = -1, .first_seq = UINT64_MAX};
    um__edge *lo = &q->edge[UM__LO], *hi = &q->edge[UM__HI];
    int empty = q->start >= q->end;
    if (q->end % UM_HOUR_NS && (!empty || q->recurring)) {
        int64_t hour_start = q->end - q->end % UM_HOUR_NS;
        hi->hour = um__hour(q->end);
        hi->from = q->recurring || hour_start > q->start ? hour_start : q->start;
        hi->to = q->end;
    }
    if (q->start % UM_HOUR_NS && !empty && um__hour(q->start) != hi->hour) {
        lo->hour = um__hour(q->start);
        lo->from = q->start;
        lo->to = q->start - q->start % UM_HOUR_NS + UM_HOUR_NS;
    }
}

/* the part of a scanned edge in which selected events can lie */
static void um__report_edge(const um__edge *edge, int64_t *start, int64_t *end) {
    *start = *end = 0;
    if (!edge->scan) return;
    *start = edge->from > edge->ts_min ? edge->from : edge->ts_min;
    *end = edge->to <= edge->ts_max ? edge->to : edge->ts_max + 1;
}

static uint64_t um__slots_for(uint64_t records) {
    uint64_t slots = 16;
    while (slots < 2 * records) slots *= 2;
    return slots;
}

/* offsets of the group tables from `at` on; returns where the members may begin */
static uint64_t um__lay_out(um__query *q, uint64_t at, uint64_t groups_room) {
    q->groups_room = groups_room;
    q->group_bytes = sizeof(um__group) + um__align(q->group_by_count * sizeof(uint32_t), 8);
    if (q->group_by_count) {
        q->slots_off = at;
        q->slots_mask = um__slots_for(groups_room) - 1;
        at += (q->slots_mask + 1) * sizeof(uint32_t);
        q->order_off = at;
        at += 2 * groups_room * sizeof(um__order);
    }
    q->groups_off = at;
    return at + groups_room * q->group_bytes;
}

static uint32_t um__too_small(const um_arena *scratch, um_query_info *info, uint64_t needed) {
    info->scratch_needed = needed > 2 * scratch->reserved ? needed : 2 * scratch->reserved;
    return UM_Q_SCRATCH;
}

static int um__accepts(const um_catalog *catalog, const um_query_spec *spec) {
    return spec->metric < catalog->metric_count && spec->metric < UM_METRICS_MAX && spec->group_by_count <= UM_DIMENSIONS_MAX &&
           spec->text_len <= UM_ACCOUNT_BYTES_MAX && !(spec->text_len && spec->account);
}

/* what the spec asks for, into the arena; `at` receives where the group tables may begin */
static uint32_t um__read_spec(const um_state *st, const um_catalog *catalog, um__bytes from, um_arena *scratch, um_query_info *info, uint64_t *at) {
    um_query_spec spec;
    const uint64_t spec_len = from.left;
    const uint8_t *head = um__take(&from, sizeof spec);
    if (!head) return UM_Q_MALFORMED;
    memcpy(&spec, head, sizeof spec);
    if (!um__accepts(catalog, &spec)) return UM_Q_MALFORMED;
    const um_metric *metric = &catalog->metrics[spec.metric];
    const uint64_t text_off = um__align(sizeof(um__query), 8), filters_off = text_off + um__align(spec.text_len, 8);
    *at = filters_off + um__align(4 * spec_len, 8);      /* filters: at most one word per byte of the spec */
    if (*at > scratch->reserved) return um__too_small(scratch, info, *at);

    um__query *q = um__q(scratch);
    *q = (um__query){
        .account = spec.account,
        .start = spec.start < 0 ? 0 : spec.start,
        .end = spec.end < 0 ? 0 : spec.end,
        .metric = spec.metric,
        .text_len = spec.text_len,
        .group_by_count = spec.group_by_count,
        .filter_count = spec.filter_count,
        .unique = metric->aggregation == UM_AGG_UNIQUE,
        .recurring = metric->aggregation == UM_AGG_UNIQUE && metric->recurring,
        .end_seq = um__meta(st)->next_seq,
        .text_off = text_off,
        .filters_off = filters_off,
        .room = scratch->reserved,
    };
    q->member_start = q->recurring ? 0 : q->start;
    const uint8_t *text = um__take(&from, spec.text_len);
    if (text) memcpy(um__q_at(q, text_off), text, spec.text_len);
    for (uint32_t i = 0; i < spec.group_by_count; i++) {
        q->group_by[i] = (uint8_t)um__take_u8(&from);
        if (q->group_by[i] >= metric->dimension_count) return UM_Q_MALFORMED;
    }
    um__read_filters(st, metric, &from, spec.filter_count, (uint32_t *)(void *)um__q_at(q, filters_off));
    if (from.bad || from.left) return UM_Q_MALFORMED;
    q->series = um__q_series(st, q, um__q_at(q, text_off));
    if (q->series != UM_NONE && !q->group_by_count && !q->filter_count) q->fired = um__period_fired(st, q->series, spec.start);
    return UM_Q_DONE;
}

uint32_t um_query_begin(um_state *state, const um_catalog *catalog, const uint8_t *spec, uint64_t spec_len, um_arena *scratch, um_query_info *info) {
    uint64_t at = 0;
    uint32_t code = um__read_spec(state, catalog, (um__bytes){spec, spec_len, 0}, scratch, info, &at);
    if (code != UM_Q_DONE) return code;
    um__query *q = um__q(scratch);
    uint64_t groups_room = q->series == UM_NONE ? 0 : um__um_series(state, q->series)->cell_count;
    if (groups_room > info->groups_max) groups_room = info->groups_max;
    q->members_off = um__lay_out(q, at, q->group_by_count ? groups_room : 1);
    if (q->members_off > scratch->reserved) return um__too_small(scratch, info, q->members_off + (q->unique ? UM__MEMBERS_ROOM : 0));
    if (q->group_by_count) {
        memset(um__q_slots(q), 0, (q->slots_mask + 1) * sizeof(uint32_t));
    } else {
        q->groups = 1;
        *um__q_group(q, 0) = (um__group){0};
    }

    um__find_edges(q);
    if (q->series != UM_NONE) {
        um__q_look_at_edges(q, state);
        code = um__q_take_buckets(q, state);
        if (code == UM_Q_SCRATCH) return um__too_small(scratch, info, q->members_off + UM__MEMBERS_ROOM);
        if (code != UM_Q_DONE) return code;
        if (q->group_by_count) um__q_sort(q, state);
    }
    const um__edge *lo = &q->edge[UM__LO], *hi = &q->edge[UM__HI];
    um__report_edge(lo, &info->lo_start, &info->lo_end);
    um__report_edge(hi, &info->hi_start, &info->hi_end);
    info->scratch_needed = 0;
    info->groups = q->groups;
    info->end_seq = info->first_seq = q->end_seq;
    if (lo->scan && lo->first_seq < info->first_seq) info->first_seq = lo->first_seq;
    if (hi->scan && hi->first_seq < info->first_seq) info->first_seq = hi->first_seq;
    return lo->scan || hi->scan ? UM_Q_SCAN : UM_Q_DONE;
}

/* ---- answer rows ---- */

/* bytes of the group's dimension values as they follow the row; written when out is not NULL */
static uint64_t um__put_values(const um_state *st, const um__query *q, um__group *group, uint8_t *out) {
    const uint32_t *values = um__q_group_values(group);
    uint64_t at = 0;
    for (uint32_t i = 0; i < q->group_by_count; i++) {
        const um_value *value = um__um_value(st, values[i]);
        uint16_t len = (uint16_t)value->len;
        if (out) {
            memcpy(out + at, &len, sizeof len);
            memcpy(out + at + sizeof len, um__heap(st, value->heap_off), len);
        }
        at += sizeof len + len;
    }
    if (out) memset(out + at, 0, um__align(at, 8) - at);
    return um__align(at, 8);
}

uint64_t um_query_rows(const um_state *state, const um_arena *scratch, uint64_t *cursor, uint8_t *out, uint64_t cap) {
    um__query *q = um__q(scratch);
    uint64_t used = 0;
    for (; *cursor < q->groups; ++*cursor) {
        um__group *group = um__q_group(q, q->group_by_count ? um__q_order(q)[*cursor].group : *cursor);
        const um__acc *acc = &group->acc;
        if (q->group_by_count && !acc->count && !group->unique) continue;      /* nothing of it lay in the range after all */
        um_query_row row = {acc->count, acc->sum_lo, acc->sum_hi, acc->min, acc->max, acc->last_value, acc->last_ts, group->unique, q->fired, 0, 0};
        row.dims_len = (uint32_t)um__put_values(state, q, group, NULL);
        if (sizeof row + row.dims_len > cap - used) break;
        memcpy(out + used, &row, sizeof row);
        um__put_values(state, q, group, out + used + sizeof row);
        used += sizeof row + row.dims_len;
    }
    return used;
}

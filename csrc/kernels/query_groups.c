/* query_groups.c - which cells a query selects, the groups that they fall into, and the order of groups.
 *
 * Dimension values are interned, so filters and group keys are compared as numbers; only the final order
 * looks at bytes: groups are ordered by their values, dimension by dimension as asked for, each as an
 * unsigned byte string (a prefix first). Eight bytes of the first value decide most comparisons.
 */
#include "um__query.h"

static uint32_t um__value_of(const um_state *st, const um_cell *cell, uint32_t dimension) {
    return dimension < cell->dims_len ? um__dims(st, cell->dims_off)[dimension] : 0;
}

int um__q_selected(um__query *q, const um_state *st, const um_cell *cell) {
    const uint32_t *filter = (const uint32_t *)(const void *)um__q_at(q, q->filters_off);
    for (uint32_t i = 0; i < q->filter_count; i++) {
        uint32_t value = um__value_of(st, cell, filter[0]), count = filter[1], k = 0;
        while (k < count && filter[2 + k] != value) k++;
        if (k == count) return 0;
        filter += 2 + count;
    }
    return 1;
}

uint32_t um__q_group_of(um__query *q, const um_state *st, const um_cell *cell, int create) {
    if (!q->group_by_count) return 0;
    uint32_t values[UM_DIMENSIONS_MAX], *slots = um__q_slots(q);
    uint64_t hash = UM__K0, bytes = q->group_by_count * sizeof(uint32_t), slot;
    for (uint32_t i = 0; i < q->group_by_count; i++) {
        values[i] = um__value_of(st, cell, q->group_by[i]);
        hash = um__mix(hash ^ values[i], UM__K1) + values[i];
    }
    for (slot = hash & q->slots_mask; slots[slot]; slot = (slot + 1) & q->slots_mask) {
        um__group *group = um__q_group(q, slots[slot] - 1);
        if (group->hash == hash && !memcmp(um__q_group_values(group), values, bytes)) return slots[slot] - 1;
    }
    if (!create || q->groups == q->groups_room) return UM_NONE;
    um__group *group = um__q_group(q, q->groups);
    *group = (um__group){.hash = hash};
    memcpy(um__q_group_values(group), values, bytes);
    slots[slot] = (uint32_t)++q->groups;
    return slots[slot] - 1;
}

static int um__compare_values(const um_state *st, uint32_t a, uint32_t b) {
    if (a == b) return 0;
    const um_value *x = um__um_value(st, a), *y = um__um_value(st, b);
    int order = memcmp(um__heap(st, x->heap_off), um__heap(st, y->heap_off), x->len < y->len ? x->len : y->len);
    return order ? order : x->len < y->len ? -1 : x->len > y->len;
}

static int um__after(um__query *q, const um_state *st, const um__order *a, const um__order *b) {
    if (a->prefix != b->prefix) return a->prefix > b->prefix;
    const uint32_t *x = um__q_group_values(um__q_group(q, a->group)), *y = um__q_group_values(um__q_group(q, b->group));
    for (uint32_t i = 0; i < q->group_by_count; i++) {
        int order = um__compare_values(st, x[i], y[i]);
        if (order) return order > 0;
    }
    return 0;
}

static uint64_t um__prefix(const um_state *st, uint32_t value) {
    const um_value *record = um__um_value(st, value);
    const uint8_t *bytes = um__heap(st, record->heap_off);
    uint64_t prefix = 0;
    for (uint32_t i = 0; i < 8; i++) prefix = prefix << 8 | (i < record->len ? bytes[i] : 0);
    return prefix;
}

/* merge the sorted runs [lo, mid) and [mid, hi) of from into to */
static void um__merge(um__query *q, const um_state *st, const um__order *from, um__order *to, uint64_t lo, uint64_t mid, uint64_t hi) {
    uint64_t a = lo, b = mid;
    for (uint64_t at = lo; at < hi; at++) to[at] = b == hi || (a < mid && !um__after(q, st, &from[a], &from[b])) ? from[a++] : from[b++];
}

void um__q_sort(um__query *q, const um_state *st) {
    um__order *order = um__q_order(q), *other = order + q->groups_room;
    uint64_t n = q->groups;
    for (uint64_t i = 0; i < n; i++) order[i] = (um__order){.group = (uint32_t)i, .prefix = um__prefix(st, um__q_group_values(um__q_group(q, i))[0])};
    for (uint64_t run = 1; run < n; run *= 2) {
        for (uint64_t lo = 0; lo < n; lo += 2 * run) {
            const uint64_t mid = lo + run, hi = mid + run;
            um__merge(q, st, order, other, lo, mid < n ? mid : n, hi < n ? hi : n);
        }
        um__order *swap = order;
        order = other;
        other = swap;
    }
    if (order != um__q_order(q)) memcpy(um__q_order(q), order, n * sizeof *order);
}

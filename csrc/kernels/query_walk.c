/* query_walk.c - the part of an answer that comes from state: cells, their buckets, their members. */
#include "um__query.h"

static uint32_t um__bucket_at(const um_state *st, uint32_t cell_number, const um_cell *cell, uint32_t hour) {
    if (cell->hot_bucket != UM_NONE && um__um_bucket(st, cell->hot_bucket)->hour == hour) return cell->hot_bucket;
    return um__find_bucket(st, cell_number, hour);
}

/* does the bucket straddle a boundary of what is asked of it? overlaps: is any of it asked for? */
static int um__straddles(const um__query *q, const um_bucket *bucket, int *overlaps) {
    uint32_t events = um__q_relation(bucket, q->start, q->end), members = UM__OUTSIDE;
    if (q->recurring) members = um__q_relation(bucket, q->member_start, q->end);
    *overlaps = events != UM__OUTSIDE || members != UM__OUTSIDE;
    return events == UM__STRADDLES || members == UM__STRADDLES;
}

static void um__look_at_edge(um__query *q, const um_state *st, um__edge *edge, uint32_t cell_number) {
    const um_cell *cell = um__um_cell(st, cell_number);
    uint32_t number = um__bucket_at(st, cell_number, cell, edge->hour);
    int overlaps;
    if (number == UM_NONE) return;
    const um_bucket *bucket = um__um_bucket(st, number);
    edge->scan |= (uint32_t)um__straddles(q, bucket, &overlaps);
    if (!overlaps) return;
    if (bucket->first_ts < edge->ts_min) edge->ts_min = bucket->first_ts;
    if (bucket->last_ts > edge->ts_max) edge->ts_max = bucket->last_ts;
    if (bucket->first_seq < edge->first_seq) edge->first_seq = bucket->first_seq;
}

void um__q_look_at_edges(um__query *q, const um_state *st) {
    if (q->edge[UM__LO].hour == UM_NONE && q->edge[UM__HI].hour == UM_NONE) return;
    for (uint32_t number = um__um_series(st, q->series)->first_cell; number != UM_NONE; number = um__um_cell(st, number)->next) {
        if (!um__q_selected(q, st, um__um_cell(st, number))) continue;
        for (int side = UM__LO; side <= UM__HI; side++)
            if (q->edge[side].hour != UM_NONE) um__look_at_edge(q, st, &q->edge[side], number);
    }
}

typedef struct { uint32_t number, group; const um_cell *cell; } um__taking;   /* group UM_NONE: not asked for yet */

static uint32_t um__take_bucket(um__query *q, const um_state *st, um__taking *taking, uint32_t number) {
    const um_bucket *bucket = um__um_bucket(st, number);
    uint32_t events = um__q_relation(bucket, q->start, q->end);
    uint32_t members = q->unique ? um__q_relation(bucket, q->member_start, q->end) : UM__OUTSIDE;
    if (events == UM__OUTSIDE && members == UM__OUTSIDE) return UM_Q_DONE;
    /* an empty group would still count against the caller's limit: a cell gets one when it has something to say */
    if (taking->group == UM_NONE) taking->group = um__q_group_of(q, st, taking->cell, 1);
    if (taking->group == UM_NONE) return UM_Q_GROUPS;
    int scanned_hi = q->edge[UM__HI].scan && bucket->hour == q->edge[UM__HI].hour;
    int scanned = scanned_hi || (q->edge[UM__LO].scan && bucket->hour == q->edge[UM__LO].hour);
    if (!scanned && events == UM__INSIDE) um__acc_bucket(&um__q_group(q, taking->group)->acc, bucket);
    if (members == UM__OUTSIDE) return UM_Q_DONE;
    int from_journal = scanned_hi || (scanned && !q->recurring);
    return um__q_members_of(q, st, taking->group, bucket, from_journal) ? UM_Q_DONE : UM_Q_SCRATCH;
}

/* the buckets of one cell: along its chain, or by asking for every hour, whichever is shorter */
static uint32_t um__take_cell(um__query *q, const um_state *st, uint32_t number) {
    um__taking taking = {number, q->group_by_count ? UM_NONE : 0, um__um_cell(st, number)};
    int64_t start = q->unique && q->member_start < q->start ? q->member_start : q->start;
    uint64_t first = um__hour(start), last = um__hour(q->end - 1);
    uint32_t code = UM_Q_DONE, bucket;
    if (last - first + 1 >= taking.cell->bucket_count) {
        for (bucket = taking.cell->first_bucket; bucket != UM_NONE && code == UM_Q_DONE; bucket = um__um_bucket(st, bucket)->next)
            code = um__take_bucket(q, st, &taking, bucket);
        return code;
    }
    for (uint64_t hour = first; hour <= last && code == UM_Q_DONE; hour++) {
        bucket = um__bucket_at(st, number, taking.cell, (uint32_t)hour);
        if (bucket != UM_NONE) code = um__take_bucket(q, st, &taking, bucket);
    }
    return code;
}

uint32_t um__q_take_buckets(um__query *q, const um_state *st) {
    uint32_t code = UM_Q_DONE;
    if (q->end <= 0 || (q->start >= q->end && !q->recurring)) return code;
    for (uint32_t number = um__um_series(st, q->series)->first_cell; number != UM_NONE && code == UM_Q_DONE; number = um__um_cell(st, number)->next)
        if (um__q_selected(q, st, um__um_cell(st, number))) code = um__take_cell(q, st, number);
    return code;
}

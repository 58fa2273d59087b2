/* um__query.h - a query under way: what its scratch arena holds (internal to query*.c and events.c).
 *
 * Theory. A series is cells (dimension tuples) of buckets (hours). A query over [start, end) takes a bucket
 * from state when all its events lie inside: that needs no journal, however the range is cut. Only the hours
 * that `start` or `end` cuts through can hold buckets that are partly in: these two are the edges. When any
 * selected bucket of an edge hour straddles its edge, that hour is scanned: none of its buckets is taken from
 * state, and every row of it is taken from the journal. All or nothing per hour, so that a scanned row need not
 * know its bucket. Rows of seq >= end_seq came after the query began: neither buckets nor scan saw them.
 *
 * COUNT_UNIQUE merges members: per (group, member) the last operation by (ts, seq). Recurring (seats) looks at
 * all history before `end`, so it has a member range [0, end) beside the range [start, end) of everything else:
 * the hour that `start` cuts is then whole for members, and the hour that `end` cuts is scanned from its beginning.
 *
 * The arena:  um__query | account text | filters | group slots | groups | order | members -> ... <- member index
 * Everything is named by offset. Numbers of cells and values are stable, so a query outlives later applies.
 */
#ifndef UM__QUERY_H
#define UM__QUERY_H
#include "um__log.h"
#include "um__state.h"

typedef struct {                     /* one group of the answer, followed by group_by_count value numbers (u32) */
    um__acc acc;
    uint64_t unique;                 /* members whose last operation is not a removal */
    uint64_t hash;
} um__group;

typedef struct { int64_t member, ts; uint64_t seq; uint32_t group, present; } um__qmember;
typedef struct { uint64_t prefix; uint32_t group, reserved; } um__order;

/* An hour that start or end cuts through. [from, to): the part of it that the query needs. */
typedef struct {
    uint32_t hour;                   /* UM_NONE: there is no such edge */
    uint32_t scan;
    int64_t from, to;
    int64_t ts_min, ts_max;          /* over the buckets that overlap [from, to) */
    uint64_t first_seq;
} um__edge;
#define UM__LO 0
#define UM__HI 1

typedef struct {
    uint64_t account;
    int64_t start, end, member_start;    /* start >= end: nothing lies inside */
    uint32_t metric, text_len, series;
    uint8_t group_by_count, filter_count, unique, recurring;
    uint8_t group_by[UM_DIMENSIONS_MAX];
    um__edge edge[2];
    uint64_t end_seq, fired;
    uint64_t text_off, filters_off;      /* filters: per filter u32 dimension, u32 count, count value numbers */
    uint64_t slots_off, slots_mask;      /* u32 group number + 1; grouped queries only */
    uint64_t groups_off, group_bytes, groups_room, groups;
    uint64_t order_off;
    uint64_t members_off, member_count, index_off, index_mask;   /* index: u32 member number + 1, at the arena's end */
    uint64_t room;
} um__query;

static inline um__query *um__q(const um_arena *scratch) { return (um__query *)(void *)scratch->base; }
static inline uint8_t *um__q_at(um__query *q, uint64_t off) { return (uint8_t *)q + off; }
static inline um__group *um__q_group(um__query *q, uint64_t group) {
    return (um__group *)(void *)um__q_at(q, q->groups_off + group * q->group_bytes);
}
static inline uint32_t *um__q_group_values(um__group *group) { return (uint32_t *)(void *)(group + 1); }
static inline uint32_t *um__q_slots(um__query *q) { return (uint32_t *)(void *)um__q_at(q, q->slots_off); }
static inline um__order *um__q_order(um__query *q) { return (um__order *)(void *)um__q_at(q, q->order_off); }

/* how a bucket lies to a range */
#define UM__OUTSIDE 0
#define UM__INSIDE 1
#define UM__STRADDLES 2
static inline uint32_t um__q_relation(const um_bucket *bucket, int64_t start, int64_t end) {
    if (start >= end || bucket->last_ts < start || bucket->first_ts >= end) return UM__OUTSIDE;
    return bucket->first_ts >= start && bucket->last_ts < end ? UM__INSIDE : UM__STRADDLES;
}

/* query_groups.c */
int um__q_selected(um__query *q, const um_state *st, const um_cell *cell);         /* do its dimensions pass the filters? */
/* the group that a cell falls into; created when `create`. UM_NONE: not there, or no room for another. */
uint32_t um__q_group_of(um__query *q, const um_state *st, const um_cell *cell, int create);
void um__q_sort(um__query *q, const um_state *st);                               /* fills order: groups by their values' bytes */

/* query_members.c: 0 when the scratch is too small (only `create` needs room) */
int um__q_member(um__query *q, uint32_t group, int64_t member, int64_t ts, uint64_t seq, uint32_t operation, int create);
int um__q_members_of(um__query *q, const um_state *st, uint32_t group, const um_bucket *bucket, int known_only);

/* query_walk.c: UM_Q_DONE, UM_Q_SCRATCH or UM_Q_GROUPS */
void um__q_look_at_edges(um__query *q, const um_state *st);
uint32_t um__q_take_buckets(um__query *q, const um_state *st);
#endif

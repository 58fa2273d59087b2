/* query_members.c - who is counted: the last operation of every member that a COUNT_UNIQUE query meets.
 *
 * Records grow upwards from members_off, their open-addressing index (at most half full) sits at the very end
 * of the arena and doubles downwards: it is built anew in the free middle, and when the two would meet the
 * scratch is too small. So clearing costs what the members of this query cost, not what the arena could hold.
 *
 * The scan cannot ask for more room, and need not: buckets of a scanned hour name all members that its rows can
 * have, and begin enters these beforehand, without an operation.
 */
#include "um__query.h"

static um__qmember *um__records(um__query *q) { return (um__qmember *)(void *)um__q_at(q, q->members_off); }
static uint32_t *um__index(um__query *q) { return (uint32_t *)(void *)um__q_at(q, q->index_off); }
static uint64_t um__member_hash(uint32_t group, int64_t member) { return um__hash2((uint64_t)member, group); }

static void um__index_add(um__query *q, uint64_t number) {
    const um__qmember *record = um__records(q) + number;
    uint32_t *index = um__index(q);
    uint64_t slot = um__member_hash(record->group, record->member) & q->index_mask;
    while (index[slot]) slot = (slot + 1) & q->index_mask;
    index[slot] = (uint32_t)number + 1;
}

/* make the index fit for one more member; 0: no room */
static int um__make_room(um__query *q) {
    uint64_t records_end = q->members_off + (q->member_count + 1) * sizeof(um__qmember);
    if (q->index_mask && 2 * (q->member_count + 1) <= q->index_mask + 1) return records_end <= q->index_off;
    uint64_t slots = q->index_mask ? 2 * (q->index_mask + 1) : 16, bytes = slots * sizeof(uint32_t);
    if (bytes > q->room || records_end > q->room - bytes || q->member_count >= UM_NONE - 1) return 0;
    q->index_off = (q->room - bytes) & ~7ULL;
    q->index_mask = slots - 1;
    if (records_end > q->index_off) return 0;
    memset(um__index(q), 0, bytes);
    for (uint64_t i = 0; i < q->member_count; i++) um__index_add(q, i);
    return 1;
}

static um__qmember *um__find(um__query *q, uint32_t group, int64_t member) {
    if (!q->index_mask) return NULL;
    const uint32_t *index = um__index(q);
    for (uint64_t slot = um__member_hash(group, member) & q->index_mask; index[slot]; slot = (slot + 1) & q->index_mask) {
        um__qmember *record = um__records(q) + (index[slot] - 1);
        if (record->member == member && record->group == group) return record;
    }
    return NULL;
}

static um__qmember *um__enter(um__query *q, uint32_t group, int64_t member) {
    um__qmember *record = um__find(q, group, member);
    if (record) return record;
    if (!um__make_room(q)) return NULL;
    record = um__records(q) + q->member_count;
    *record = (um__qmember){.member = member, .ts = -1, .group = group};
    um__index_add(q, q->member_count++);
    return record;
}

int um__q_member(um__query *q, uint32_t group, int64_t member, int64_t ts, uint64_t seq, uint32_t operation, int create) {
    um__qmember *record = create ? um__enter(q, group, member) : um__find(q, group, member);
    if (!record) return 0;
    if (ts < record->ts || (ts == record->ts && seq <= record->seq)) return 1;
    uint32_t present = operation != UM_OP_REMOVE;
    um__q_group(q, group)->unique += (uint64_t)present - record->present;
    record->present = present;
    record->ts = ts;
    record->seq = seq;
    return 1;
}

int um__q_members_of(um__query *q, const um_state *st, uint32_t group, const um_bucket *bucket, int known_only) {
    for (uint32_t number = bucket->first_member; number != UM_NONE;) {
        const um_member *member = um__um_member(st, number);
        number = member->next;
        if (known_only ? !um__enter(q, group, member->member)
                       : !um__q_member(q, group, member->member, member->last_ts, member->last_seq, member->operation, 1)) return 0;
    }
    return 1;
}

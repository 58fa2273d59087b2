/* accumulate.c - totals of a stretch of time, from events and from buckets.
 *
 * An accumulator is a commutative fold: count, 128-bit sum, least, largest and latest value. "Latest" is the
 * event with the greatest (timestamp, sequence number), so the order in which buckets and events are added
 * does not matter. An all-zero accumulator is the empty one.
 */
#include "um__state.h"

static void add_sum(um__acc *acc, uint64_t lo, int64_t hi) {
    const uint64_t sum = acc->sum_lo + lo;
    const uint64_t carry = sum < lo;
    acc->sum_lo = sum;
    acc->sum_hi = (int64_t)((uint64_t)acc->sum_hi + (uint64_t)hi + carry);
}

static void take_latest(um__acc *acc, int64_t value, int64_t ts, uint64_t seq) {
    if (acc->count != 0 && (ts < acc->last_ts || (ts == acc->last_ts && seq < acc->last_seq))) return;
    acc->last_value = value;
    acc->last_ts = ts;
    acc->last_seq = seq;
}

void um__acc_event(um__acc *acc, int64_t value, int64_t ts, uint64_t seq) {
    take_latest(acc, value, ts, seq);
    if (acc->count == 0 || value < acc->min) acc->min = value;
    if (acc->count == 0 || value > acc->max) acc->max = value;
    add_sum(acc, (uint64_t)value, value >> 63);
    acc->count++;
}

void um__acc_bucket(um__acc *acc, const um_bucket *bucket) {
    if (bucket->count == 0) return;
    take_latest(acc, bucket->last_value, bucket->last_ts, bucket->last_seq);
    if (acc->count == 0 || bucket->min < acc->min) acc->min = bucket->min;
    if (acc->count == 0 || bucket->max > acc->max) acc->max = bucket->max;
    add_sum(acc, bucket->sum_lo, bucket->sum_hi);
    acc->count += bucket->count;
}

/* um__log.h - walking the log: record > entry > batch > row (internal; the layouts are drawn in um_layout.h).
 *
 * A record's body is a run of entries, each zero-padded to a multiple of 8, so that every header and row in a
 * record is 8-aligned. Everything here is bounded by the lengths given and copies headers out before it looks
 * at them, so that it may be pointed at any bytes; it stops at the first thing that is not what it should be.
 */
#ifndef UM__LOG_H
#define UM__LOG_H
#include "um_kernels.h"
#include <string.h>

#define UM__RECORD_VERSION 1

static inline uint64_t um__align(uint64_t bytes, uint64_t unit) { return (bytes + unit - 1) & ~(unit - 1); }
static inline uint64_t um__entry_bytes(const um_entry *entry) { return sizeof(um_entry) + (uint64_t)entry->body_len; }
static inline uint64_t um__record_bytes(const um_record *record) {
    return um__align(sizeof(um_record) + (uint64_t)record->body_len, UM_RECORD_ALIGN);
}

/* One row as the walk meets it. `data` has `len` bytes: 32 + tail_len, inside its batch. ts: the stamp resolved. */
typedef struct {
    um_row head;
    const uint8_t *data;
    uint64_t len, seq;
    int64_t ts;
} um__log_row;
typedef int (*um__log_fn)(void *context, const um__log_row *row);     /* 0: stop the walk */

static inline int um__log_batches(const uint8_t *body, uint64_t len, const um_entry *entry, uint64_t first_seq, uint64_t end_seq,
                                  um__log_fn fn, void *context) {
    uint64_t seq = entry->first_seq, at = 0;
    um_batch batch;
    um__log_row row;
    while (len - at >= sizeof batch) {
        memcpy(&batch, body + at, sizeof batch);
        at += sizeof batch;
        if (batch.rows_len > len - at) return 1;
        if (seq < end_seq && seq + batch.row_count > first_seq) {
            const uint8_t *data = body + at;
            uint64_t left = batch.rows_len;
            row.seq = seq;
            while (left >= sizeof row.head) {
                memcpy(&row.head, data, sizeof row.head);
                row.len = sizeof row.head + (uint64_t)row.head.tail_len;
                if (row.len > left) break;
                row.data = data;
                row.ts = row.head.timestamp_ns ? row.head.timestamp_ns : entry->stamp_ns;
                if (row.seq >= first_seq && row.seq < end_seq && !fn(context, &row)) return 0;
                row.seq++;
                data += row.len;
                left -= row.len;
            }
        }
        seq += batch.row_count;
        at += batch.rows_len;
    }
    return 1;
}

/* fn for every row of `group` with first_seq <= seq < end_seq in a run of whole, verified records */
static inline void um__log_rows(const uint8_t *records, uint64_t len, uint32_t group, uint64_t first_seq, uint64_t end_seq,
                                um__log_fn fn, void *context) {
    uint64_t pos = 0;
    um_record record;
    um_entry entry;
    while (len - pos >= sizeof record) {
        memcpy(&record, records + pos, sizeof record);
        if (record.magic != UM_RECORD_MAGIC || record.body_len > len - pos - sizeof record) return;
        const uint8_t *body = records + pos + sizeof record;
        uint64_t at = 0;
        while (record.kind == UM_RECORD_ENTRIES && at < record.body_len && record.body_len - at >= sizeof entry) {
            memcpy(&entry, body + at, sizeof entry);
            at += sizeof entry;
            if (entry.body_len > record.body_len - at) break;
            if (entry.group == group && entry.kind == UM_ENTRY_BATCHES && entry.first_seq < end_seq &&
                entry.first_seq + entry.row_count > first_seq &&
                !um__log_batches(body + at, entry.body_len, &entry, first_seq, end_seq, fn, context)) return;
            at += um__align(entry.body_len, 8);
        }
        if (um__record_bytes(&record) > len - pos) return;
        pos += um__record_bytes(&record);
    }
}
#endif

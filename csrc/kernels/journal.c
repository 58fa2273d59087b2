/* journal.c - sealing and verifying what is written to the journal.
 *
 * Three nested checks, each for another question:
 *   entry crc     are these the bytes of this log index? (also what a follower checks)
 *   record crcs   was this journal write completed? Header and body have their own, so that a record's length
 *                 can be trusted before its body is there.
 *   record chain  is this the write that followed the one before it? chain = hash(prev_chain, seq, body), so a
 *                 stale or misdirected record with perfect checksums is still not a record of this place.
 *
 * A record that is not good is a torn tail when nothing later exists, and rot otherwise: find_later looks for
 * a later record at every place where one can begin. Padding after a body means nothing and is not checked.
 */
#include "um__log.h"
#include "um__state.h"

static uint32_t um__header_crc(const um_record *record) { return um_crc32c(0, (const uint8_t *)record + 8, sizeof *record - 8); }

static uint64_t um__chain(const um_record *record) {
    struct { uint64_t prev_chain, seq; uint32_t body_crc, body_len; } link = {record->prev_chain, record->seq, record->body_crc, record->body_len};
    return um_hash64((const uint8_t *)&link, sizeof link, 0);
}

/* is this a header that um_record_seal made, whatever its place? */
static int um__header_valid(const um_record *record) {
    return record->magic == UM_RECORD_MAGIC && record->header_crc == um__header_crc(record) && record->version == UM__RECORD_VERSION &&
           record->kind <= UM_RECORD_SEGMENT_END && record->reserved == 0 && record->chain == um__chain(record);
}

/* do exactly entry_count entries tile the body? */
static int um__tiled(const um_record *record, const uint8_t *body) {
    uint64_t at = 0, count = 0;
    um_entry entry;
    if (record->kind != UM_RECORD_ENTRIES) return 1;
    while (at < record->body_len) {
        if (record->body_len - at < sizeof entry) return 0;
        memcpy(&entry, body + at, sizeof entry);
        if (um__align(um__entry_bytes(&entry), 8) > record->body_len - at) return 0;
        at += um__align(um__entry_bytes(&entry), 8);
        count++;
    }
    return count == record->entry_count;
}

static int um__body_valid(const um_record *record, const uint8_t *body) {
    return um_crc32c(0, body, record->body_len) == record->body_crc && um__tiled(record, body);
}

uint64_t um_record_seal(um_record *header, uint8_t *out, uint64_t body_len) {
    uint64_t total = um__align(sizeof *header + body_len, UM_RECORD_ALIGN);
    header->magic = UM_RECORD_MAGIC;
    header->version = UM__RECORD_VERSION;
    header->reserved = 0;
    header->body_len = (uint32_t)body_len;
    header->body_crc = um_crc32c(0, out + sizeof *header, body_len);
    header->chain = um__chain(header);
    header->header_crc = um__header_crc(header);
    memcpy(out, header, sizeof *header);
    memset(out + sizeof *header + body_len, 0, total - sizeof *header - body_len);
    return total;
}

uint64_t um_record_add(uint8_t *out, uint64_t at, const uint8_t *entry, uint64_t len) {
    uint64_t end = um__align(at + len, 8);
    memcpy(out + at, entry, len);
    memset(out + at + len, 0, end - at - len);
    return end;
}

uint64_t um_record_finish(uint8_t *out, uint64_t begin, uint64_t at, const uint8_t *entry, uint64_t len, uint32_t kind, uint32_t entry_count,
                          uint64_t seq, uint64_t prev_chain, int64_t stamp_ns, uint64_t block_bytes) {
    uint64_t end = um_record_add(out, at, entry, len);
    um_record header = {.kind = (uint16_t)kind, .entry_count = entry_count, .seq = seq, .prev_chain = prev_chain, .stamp_ns = stamp_ns};
    uint64_t past = begin + um_record_seal(&header, out + begin, end - begin - sizeof header);
    memset(out + past, 0, (past + block_bytes - 1) / block_bytes * block_bytes - past);
    return header.chain;
}

static int um__all_zero(const uint8_t *data, uint64_t len) {
    uint8_t any = 0;
    for (uint64_t i = 0; i < len; i++) any |= data[i];
    return !any;
}

void um_journal_verify(const uint8_t *data, uint64_t len, uint64_t seq, uint64_t chain, uint64_t *offsets, uint32_t offsets_max, um_journal_scan *out) {
    um_record record;
    *out = (um_journal_scan){.seq = seq, .chain = chain, .stop = UM_J_END};
    while (out->records < offsets_max && len - out->consumed >= sizeof record) {
        const uint8_t *at = data + out->consumed;
        uint64_t left = len - out->consumed;
        memcpy(&record, at, sizeof record);
        if (um__all_zero(at, sizeof record)) {
            out->stop = UM_J_ZERO;
            return;
        }
        int valid = um__header_valid(&record) && record.seq == out->seq + 1 && record.prev_chain == out->chain;
        if (valid && um__record_bytes(&record) > left) return;
        if (!valid || !um__body_valid(&record, at + sizeof record)) {
            out->stop = UM_J_BAD;
            return;
        }
        offsets[out->records++] = out->consumed;
        out->consumed += um__record_bytes(&record);
        out->seq = record.seq;
        out->chain = record.chain;
        if (record.kind == UM_RECORD_SEGMENT_END) {
            out->stop = UM_J_SEGMENT_END;
            return;
        }
    }
}

int64_t um_journal_find_later(const uint8_t *data, uint64_t len, uint64_t seq) {
    um_record record;
    for (uint64_t at = 0; at < len && len - at >= sizeof record; at += UM_RECORD_ALIGN) {
        uint32_t magic;
        memcpy(&magic, data + at, sizeof magic);
        if (magic != UM_RECORD_MAGIC) continue;
        memcpy(&record, data + at, sizeof record);
        if (!um__header_valid(&record) || record.seq <= seq) continue;
        /* a body that reaches past the buffer cannot be judged: the header alone says that it was begun */
        if (record.body_len > len - at - sizeof record || um__body_valid(&record, data + at + sizeof record)) return (int64_t)at;
    }
    return -1;
}

static uint32_t um__entry_crc(const um_entry *header, const uint8_t *body) {
    uint32_t crc = um_crc32c(0, (const uint8_t *)header + 4, sizeof *header - 4);
    return um_crc32c(crc, body, header->body_len);
}

void um_entry_seal(um_entry *header, const uint8_t *body) { header->crc = um__entry_crc(header, body); }

/* are these the rows of one batch, filling rows_len exactly? */
static int um__rows_valid(const uint8_t *data, const um_batch *batch) {
    uint64_t at = 0;
    um__row_view view;
    um_row head;
    for (uint32_t i = 0; i < batch->row_count; i++) {
        if (!um__row_parse(data + at, batch->rows_len - at, &view)) return 0;
        memcpy(&head, data + at, sizeof head);
        if (head.metric >= UM_METRICS_MAX) return 0;
        at += view.total_len;
    }
    return at == batch->rows_len;
}

static int um__batch_valid(const um_batch *batch) {
    int session = (batch->session_hi | batch->session_lo) != 0;
    if (batch->flags & ~(uint32_t)(UM_BATCH_V1 | UM_BATCH_OPEN_SESSION) || batch->reserved) return 0;
    if (!session && (batch->number || batch->settled_below)) return 0;
    if (batch->flags & UM_BATCH_V1 && (session || batch->flags & UM_BATCH_OPEN_SESSION)) return 0;
    return !(batch->flags & UM_BATCH_OPEN_SESSION) || (session && !batch->number && !batch->row_count);
}

uint32_t um_batches_verify(const uint8_t *body, uint64_t len, uint64_t batch_count, uint64_t row_count) {
    uint64_t at = 0, batches = 0, rows = 0;
    um_batch batch;
    while (at < len) {
        if (len - at < sizeof batch) return 0;
        memcpy(&batch, body + at, sizeof batch);
        at += sizeof batch;
        if (batch.rows_len > len - at || !um__batch_valid(&batch) || !um__rows_valid(body + at, &batch)) return 0;
        at += batch.rows_len;
        batches++;
        rows += batch.row_count;
    }
    return batches == batch_count && rows == row_count;
}

uint32_t um_entry_verify(const uint8_t *data, uint64_t len) {
    um_entry entry;
    if (len < sizeof entry) return 0;
    memcpy(&entry, data, sizeof entry);
    if (um__entry_bytes(&entry) != len || entry.kind > UM_ENTRY_HARD || entry.reserved0 || entry.reserved1) return 0;
    if (entry.first_seq == 0 || entry.stamp_ns < 0 || entry.crc != um__entry_crc(&entry, data + sizeof entry)) return 0;
    if (entry.kind != UM_ENTRY_BATCHES) return entry.batch_count == 0 && entry.row_count == 0;
    return um_batches_verify(data + sizeof entry, entry.body_len, entry.batch_count, entry.row_count);
}

/* fuzz_journal.c - any bytes on the disk: journal verify, and the search for a later record.
 *
 * The first input byte says whether checksums are repaired, so that mutations reach what lies behind them. What must
 * hold: consumed and offsets lie inside and in order; what was verified verifies again to the same chain; a search
 * never finds a record outside.
 */
#include "../tests/wire_fixture.h"
#include "um__log.h"
#include <stddef.h>

#define INPUT_BYTES_MAX 8192
#define CHAIN 12345

/* Seal the entries and the record headers anew, as far as their lengths make sense. */
static void repair(uint8_t *data, uint64_t len) {
    uint64_t at = 0, chain = CHAIN;
    for (uint64_t seq = 1; len - at >= sizeof(um_record); seq++) {
        um_record record;
        memcpy(&record, data + at, sizeof record);
        uint64_t room = (len - at - sizeof record) & ~63ULL, body_len = record.body_len < room ? record.body_len : room;
        uint8_t *body = data + at + sizeof record;
        for (uint64_t entry_at = 0; body_len - entry_at >= sizeof(um_entry);) {
            um_entry entry;
            memcpy(&entry, body + entry_at, sizeof entry);
            if (entry.body_len > body_len - entry_at - sizeof entry) break;
            um_entry_seal(&entry, body + entry_at + sizeof entry);
            memcpy(body + entry_at, &entry, sizeof entry);
            uint64_t bytes = um__align(sizeof entry + (uint64_t)entry.body_len, 8);
            if (bytes > body_len - entry_at) break;
            entry_at += bytes;
        }
        record.seq = seq;
        record.prev_chain = chain;
        at += um_record_seal(&record, data + at, body_len);
        chain = record.chain;
    }
}

/* what recovery does with a verified record: verify each entry as it stands */
static void verify_entries(const uint8_t *data) {
    um_record record;
    um_entry entry;
    memcpy(&record, data, sizeof record);
    const uint8_t *body = data + sizeof record;
    for (uint64_t at = 0; record.body_len - at >= sizeof entry;) {
        memcpy(&entry, body + at, sizeof entry);
        if (um__entry_bytes(&entry) > record.body_len - at) break;
        um_entry_verify(body + at, um__entry_bytes(&entry));
        at += um__align(um__entry_bytes(&entry), 8);
        if (at > record.body_len) break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t offsets[INPUT_BYTES_MAX / UM_RECORD_ALIGN + 1];
    um_journal_scan scan, again;
    if (size == 0 || size > INPUT_BYTES_MAX) return 0;
    uint64_t len = size - 1;
    uint8_t *bytes = malloc(len ? len : 1);      /* aligned, as journal buffers are */
    assert(bytes);
    memcpy(bytes, data + 1, len);
    if (data[0] & 1) repair(bytes, len);
    um_journal_verify(bytes, len, 0, CHAIN, offsets, sizeof offsets / sizeof *offsets, &scan);
    assert(scan.consumed <= len && scan.stop <= UM_J_SEGMENT_END && scan.seq == scan.records);
    for (uint32_t n = 0; n < scan.records; n++) assert(offsets[n] < scan.consumed && (n == 0 || offsets[n] > offsets[n - 1]));
    for (uint32_t n = 0; n < scan.records; n++) verify_entries(bytes + offsets[n]);
    um_journal_verify(bytes, scan.consumed, 0, CHAIN, offsets, sizeof offsets / sizeof *offsets, &again);
    assert(again.records == scan.records && again.chain == scan.chain && again.consumed == scan.consumed);
    int64_t later = um_journal_find_later(bytes, len, scan.seq);
    assert(later >= -1 && later < (int64_t)len);
    free(bytes);
    return 0;
}

uint64_t example(uint64_t number, uint8_t *out);
uint64_t example(uint64_t number, uint8_t *out) {
    static pen p;
    uint64_t chain = CHAIN, first_seq = 1;
    p.used = 0;
    write_u8(&p, number & 3 ? 1 : 0);
    for (uint64_t seq = 1; seq <= 1 + number % 4; seq++) {
        uint64_t record_at = p.used, rows = (number >> 3) % 4;
        int last = (number >> 6) % 4 == 0 && seq == 1 + number % 4;
        um_record record = {.seq = seq, .prev_chain = chain, .entry_count = last ? 0 : 2, .stamp_ns = BASE,
                            .kind = last ? UM_RECORD_SEGMENT_END : UM_RECORD_ENTRIES};
        write_zeros(&p, sizeof record);
        for (uint32_t n = 0; n < record.entry_count; n++) {
            uint64_t entry_at = p.used;
            write_zeros(&p, sizeof(um_entry));
            um_batch batch = {.row_count = (uint32_t)rows, .rows_len = (uint32_t)(rows * 48), .flags = UM_BATCH_V1};
            write_bytes(&p, &batch, sizeof batch);
            for (uint64_t row = 0; row < rows; row++) {
                v2_row(&p, row, BASE, 1, 1, 0, 0, 1, 16);
                write_bytes(&p, "\5\5modellarge\0\0\0\0", 16);
            }
            um_entry entry = {.body_len = (uint32_t)(p.used - entry_at - sizeof entry), .batch_count = 1, .index = seq * 2 + n,
                              .stamp_ns = BASE, .first_seq = first_seq, .row_count = (uint32_t)rows};
            um_entry_seal(&entry, p.bytes + entry_at + sizeof entry);
            memcpy(p.bytes + entry_at, &entry, sizeof entry);
            first_seq += rows;
        }
        uint64_t body_len = p.used - record_at - sizeof record;
        write_zeros(&p, 64);
        p.used = record_at + um_record_seal(&record, p.bytes + record_at, body_len);
        chain = record.chain;
    }
    memcpy(out, p.bytes, p.used);
    return p.used;
}

#include "mutate.h"

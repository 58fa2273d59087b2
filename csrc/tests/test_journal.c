/* test_journal.c - checksums, sealing and verifying: run under the sanitizers; exits by assert.
 *
 * Every buffer that is handed to a kernel has its exact length on the heap, so that a read one byte beyond it
 * is found by the sanitizer.
 */
#include "um__hash.h"
#include "um__log.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t chance = 88172645463325252ULL;
static uint64_t dice(uint64_t below) {
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return chance % below;
}

static uint8_t *exactly(const uint8_t *data, uint64_t len) {
    uint8_t *copy = malloc(len ? len : 1);
    assert(copy);
    if (len) memcpy(copy, data, len);
    return copy;
}

/* ---- crc32c and the hash against their definitions ---- */

static uint32_t slow_crc(uint32_t crc, const uint8_t *data, uint64_t len) {
    uint32_t reg = ~crc;
    for (uint64_t i = 0; i < len; i++) {
        reg ^= data[i];
        for (int bit = 0; bit < 8; bit++) reg = (reg >> 1) ^ (reg & 1 ? 0x82F63B78u : 0);
    }
    return ~reg;
}

static void crc_is_the_bitwise_definition_at_every_length_and_alignment(void) {
    static uint8_t data[12000];
    for (uint64_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)dice(256);
    assert(um_crc32c(0, (const uint8_t *)"123456789", 9) == 0xE3069283u);
    assert(um_crc32c(0, data, 0) == 0);
    for (int round = 0; round < 1500; round++) {
        uint64_t at = dice(64), len = round < 900 ? (uint64_t)round : dice(11000);
        uint32_t seed = (uint32_t)dice(1ULL << 32);
        uint64_t cut = dice(len + 1);
        uint8_t *copy = exactly(data + at, len);
        assert(um_crc32c(seed, copy, len) == slow_crc(seed, data + at, len));
        assert(um_crc32c(seed, data + at, len) == um_crc32c(um_crc32c(seed, copy, cut), copy + cut, len - cut));
        free(copy);
    }
}

static void hash_of_two_words_is_the_hash_of_their_bytes(void) {
    uint64_t words[2], out[2];
    for (int round = 0; round < 100; round++) {
        words[0] = chance;
        words[1] = dice(1ULL << 40);
        um_hash128((const uint8_t *)words, sizeof words, 0, out);
        assert(um__hash2(words[0], words[1]) == um_hash64((const uint8_t *)words, sizeof words, 0));
        assert(out[0] == um_hash64((const uint8_t *)words, sizeof words, 0) && out[1] != out[0]);
    }
    for (uint64_t len = 0; len < 40; len++) {      /* the padding of the last word is not the message */
        static const uint8_t zeroes[48];
        uint8_t *copy = exactly(zeroes, len);
        assert(um_hash64(copy, len, 7) != um_hash64(zeroes, len + 1, 7));
        free(copy);
    }
}

/* ---- entries ---- */

static uint64_t put_row(uint8_t *out, uint64_t account, int64_t ts, uint32_t tail) {
    um_row row = {.account = account, .timestamp_ns = ts, .value = 5, .metric = 3, .tail_len = (uint16_t)tail};
    memcpy(out, &row, sizeof row);
    if (tail) {      /* one property "k" = "v..." that fills the tail but for 3 bytes of padding */
        memset(out + sizeof row, 0, tail);
        out[32] = 1;
        out[33] = (uint8_t)(tail - 6);
        out[34] = 'k';
        memset(out + 35, 'v', tail - 6);
        row.prop_count = 1;
        memcpy(out, &row, sizeof row);
    }
    return sizeof row + tail;
}

/* an entry of two batches (three rows and one), sealed; returns its length */
static uint64_t put_entry(uint8_t *out, uint64_t first_seq) {
    um_entry entry = {.kind = UM_ENTRY_BATCHES, .batch_count = 2, .index = 9, .term = 1, .stamp_ns = 77, .first_seq = first_seq, .row_count = 4};
    um_batch batch = {.row_count = 3, .flags = UM_BATCH_V1};
    uint8_t *body = out + sizeof entry;
    uint64_t at = sizeof batch;
    at += put_row(body + at, 1, 0, 0);
    at += put_row(body + at, 2, 1000, 16);
    at += put_row(body + at, 3, 2000, 8);
    batch.rows_len = (uint32_t)(at - sizeof batch);
    memcpy(body, &batch, sizeof batch);
    uint64_t second = at;
    at += sizeof batch;
    at += put_row(body + at, 4, 3000, 24);
    batch = (um_batch){.session_lo = 5, .number = 1, .row_count = 1, .rows_len = (uint32_t)(at - second - sizeof batch)};
    memcpy(body + second, &batch, sizeof batch);
    entry.body_len = (uint32_t)at;
    um_entry_seal(&entry, body);
    memcpy(out, &entry, sizeof entry);
    return sizeof entry + at;
}

static uint32_t verify_copy(const uint8_t *entry, uint64_t len) {
    uint8_t *copy = exactly(entry, len);
    uint32_t verdict = um_entry_verify(copy, len);
    free(copy);
    return verdict;
}

static void reseal(uint8_t *data) {
    um_entry entry;
    memcpy(&entry, data, sizeof entry);
    um_entry_seal(&entry, data + sizeof entry);
    memcpy(data, &entry, sizeof entry);
}

static void entry_with_any_flipped_bit_or_cut_is_refused(void) {
    _Alignas(8) uint8_t data[1024];
    uint64_t len = put_entry(data, 1);
    assert(verify_copy(data, len) == 1);
    for (uint64_t cut = 0; cut < len; cut++) assert(verify_copy(data, cut) == 0);
    assert(verify_copy(data, len + 8) == 0);
    for (uint64_t bit = 0; bit < len * 8; bit++) {
        data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert(verify_copy(data, len) == 0);
        data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    assert(verify_copy(data, len) == 1);
}

static void entry_with_a_right_crc_but_wrong_structure_is_refused(void) {
    _Alignas(8) uint8_t data[1024], good[1024];
    uint64_t len = put_entry(good, 1);
    const struct { uint64_t at; uint8_t value; } wrong[] = {
        {10, 4}, {12, 3}, {12, 1}, {44, 0}, {48, 5}, {52, 1}, {56, 1},    /* kind, batch_count, first_seq's neighbour row_count, reserved */
        {64 + 32, 2}, {64 + 32, 4}, {64 + 36, 200}, {64 + 40, 8}, {64 + 40, 3}, {64 + 44, 1}, {64 + 16, 1}, {64 + 24, 1},
        {64 + 48 + 26, 3}, {64 + 48 + 27, 4}, {64 + 48 + 29, 1}, {64 + 48 + 25, 16}, {64 + 48 + 30, 8}, {64 + 48 + 15, 0x80}, {39, 0x80},
    };
    for (uint64_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        memcpy(data, good, len);
        assert(wrong[i].at == 44 || data[wrong[i].at] != wrong[i].value);
        data[wrong[i].at] = wrong[i].value;
        reseal(data);
        assert(verify_copy(data, len) == (wrong[i].at == 44));
    }
    memcpy(data, good, len);
    memset(data + 40, 0, 8);      /* sequence numbers begin at 1 */
    reseal(data);
    assert(verify_copy(data, len) == 0);
    for (int round = 0; round < 20000; round++) {      /* any mutation, resealed: a verdict, never a crash */
        memcpy(data, good, len);
        for (uint64_t n = 1 + dice(3); n; n--) data[8 + dice(len - 8)] = (uint8_t)dice(256);
        reseal(data);
        verify_copy(data, len);
    }
}

/* ---- records ---- */

typedef struct { uint8_t *data; uint64_t len, seq, chain, starts[16]; uint32_t records; } journal;

static void append(journal *j, uint32_t kind, uint32_t entries) {
    _Alignas(8) uint8_t entry[1024];
    um_record header = {.kind = (uint16_t)kind, .entry_count = entries, .seq = j->seq + 1, .prev_chain = j->chain, .stamp_ns = 5};
    uint8_t *out = j->data + j->len;
    uint64_t body = 0;
    for (uint32_t i = 0; i < entries; i++) {
        uint64_t len = put_entry(entry, 1 + dice(1000));
        memcpy(out + sizeof header + body, entry, len);
        body += um__align(len, 8);
    }
    j->starts[j->records++] = j->len;
    j->len += um_record_seal(&header, out, body);
    j->seq = header.seq;
    j->chain = header.chain;
}

static journal three_records(uint32_t last_kind) {
    journal j = {.data = calloc(1, 16384), .chain = 42};
    append(&j, UM_RECORD_ENTRIES, 2);
    append(&j, UM_RECORD_ENTRIES, 1);
    append(&j, last_kind, last_kind == UM_RECORD_ENTRIES);
    assert(j.len % 64 == 0);
    return j;
}

static um_journal_scan verify(const uint8_t *data, uint64_t len, uint64_t *offsets, uint32_t offsets_max) {
    um_journal_scan scan;
    uint8_t *copy = exactly(data, len);
    um_journal_verify(copy, len, 0, 42, offsets, offsets_max, &scan);
    free(copy);
    return scan;
}

static int64_t find_later(const uint8_t *data, uint64_t len, uint64_t seq) {
    uint8_t *copy = exactly(data, len);
    int64_t found = um_journal_find_later(copy, len, seq);
    free(copy);
    return found;
}

static void a_whole_journal_verifies_and_a_cut_one_asks_for_more(void) {
    uint64_t offsets[8];
    journal j = three_records(UM_RECORD_ENTRIES);
    um_journal_scan scan = verify(j.data, j.len, offsets, 8);
    assert(scan.records == 3 && scan.consumed == j.len && scan.stop == UM_J_END && scan.seq == 3 && scan.chain == j.chain);
    for (uint32_t i = 0; i < 3; i++) assert(offsets[i] == j.starts[i]);
    scan = verify(j.data, j.len + 64, offsets, 8);
    assert(scan.records == 3 && scan.stop == UM_J_ZERO);
    for (uint64_t len = 0; len < j.len; len++) {
        scan = verify(j.data, len, offsets, 8);
        uint32_t whole = (len >= j.starts[1]) + (uint32_t)(len >= j.starts[2]);
        assert(scan.stop == UM_J_END && scan.records == whole && scan.consumed == j.starts[whole]);
    }
    scan = verify(j.data, j.len, offsets, 2);
    assert(scan.records == 2 && scan.consumed == j.starts[2] && scan.stop == UM_J_END);
    free(j.data);
    j = three_records(UM_RECORD_SEGMENT_END);
    append(&j, UM_RECORD_ENTRIES, 1);
    scan = verify(j.data, j.len, offsets, 8);
    assert(scan.records == 3 && scan.stop == UM_J_SEGMENT_END && scan.consumed == j.starts[3]);
    free(j.data);
}

static void a_flipped_bit_is_found_and_later_records_tell_rot_from_a_torn_tail(void) {
    uint64_t offsets[8];
    journal j = three_records(UM_RECORD_ENTRIES);
    for (uint64_t bit = 0; bit < j.len * 8; bit++) {
        uint32_t record = (bit / 8 >= j.starts[1]) + (uint32_t)(bit / 8 >= j.starts[2]);
        um_record header;
        memcpy(&header, j.data + j.starts[record], sizeof header);
        if (bit / 8 >= j.starts[record] + sizeof header + header.body_len) continue;      /* padding means nothing */
        j.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        um_journal_scan scan = verify(j.data, j.len, offsets, 8);
        assert(scan.records == record && scan.stop == UM_J_BAD && scan.seq == record);
        int64_t later = find_later(j.data + scan.consumed, j.len - scan.consumed, scan.seq);
        assert(record == 2 ? later == -1 : later == (int64_t)(j.starts[record + 1] - j.starts[record]));
        j.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    assert(find_later(j.data, j.len, 0) == 0 && find_later(j.data, j.len, 2) == (int64_t)j.starts[2] && find_later(j.data, j.len, 3) == -1);
    assert(find_later(j.data, j.starts[2] + 64, 2) == (int64_t)j.starts[2]);      /* begun: its body reaches past the data */
    assert(find_later(j.data, j.starts[2] + 63, 2) == -1);
    free(j.data);
}

static void a_record_of_another_place_is_bad(void) {
    uint64_t offsets[8];
    journal j = three_records(UM_RECORD_ENTRIES);
    um_journal_scan scan;
    um_journal_verify(j.data, j.len, 0, 43, offsets, 8, &scan);
    assert(scan.stop == UM_J_BAD && scan.records == 0 && scan.chain == 43);
    um_journal_verify(j.data, j.len, 1, 42, offsets, 8, &scan);
    assert(scan.stop == UM_J_BAD && scan.records == 0);
    um_journal_verify(j.data + j.starts[1], j.len - j.starts[1], 0, 42, offsets, 8, &scan);
    assert(scan.stop == UM_J_BAD);
    free(j.data);
}

static void a_record_whose_entries_do_not_tile_it_is_bad(void) {
    uint64_t offsets[8];
    for (int variant = 0; variant < 3; variant++) {
        journal j = {.data = calloc(1, 16384), .chain = 42};
        _Alignas(8) uint8_t entry[1024];
        uint64_t len = put_entry(entry, 1);
        um_record header = {.entry_count = variant == 0 ? 2 : 1, .seq = 1, .prev_chain = 42};
        if (variant == 1) entry[4]++;
        memcpy(j.data + sizeof header, entry, len);
        j.len = um_record_seal(&header, j.data, variant == 2 ? 60 : len);
        assert(verify(j.data, j.len, offsets, 8).stop == UM_J_BAD);
        free(j.data);
    }
}

static void noise_is_never_a_record_and_never_a_crash(void) {
    uint64_t offsets[8];
    journal j = three_records(UM_RECORD_ENTRIES);
    uint8_t *data = malloc(j.len);
    for (int round = 0; round < 5000; round++) {
        memcpy(data, j.data, j.len);
        for (uint64_t n = dice(6); n; n--) data[dice(j.len)] = (uint8_t)dice(256);
        uint64_t len = dice(j.len + 1);
        um_journal_scan scan = verify(data, len, offsets, 8);
        assert(scan.consumed <= len);
        find_later(data, len, dice(4));
    }
    free(data);
    free(j.data);
}

/* at odd places of a block, into memory that is full of something else */
static void a_record_from_its_parts_is_the_same_with_zeroes_behind_it(void) {
    enum { BLOCK = 4096, ROOM = 3 * BLOCK };
    for (uint64_t begin = 0; begin < BLOCK; begin += 448) {
        _Alignas(64) uint8_t out[ROOM], plain[ROOM], entry[512];
        memset(out, 0xA5, sizeof out);
        memset(plain, 0, sizeof plain);
        um_record header = {.kind = UM_RECORD_ENTRIES, .entry_count = 3, .seq = 8, .prev_chain = 99, .stamp_ns = 5};
        uint64_t end = begin + sizeof header, body = 0, chain = 0;
        for (uint32_t i = 0; i < 3; i++) {
            uint64_t len = put_entry(entry, 1 + i) - i;      /* a length that needs padding */
            memcpy(plain + sizeof header + body, entry, len);
            body += um__align(len, 8);
            uint8_t *copy = exactly(entry, len);
            if (i < 2) end = um_record_add(out, end, copy, len);
            else chain = um_record_finish(out, begin, end, copy, len, UM_RECORD_ENTRIES, 3, 8, 99, 5, BLOCK);
            free(copy);
            assert(i == 2 || end == begin + sizeof header + body);
        }
        uint64_t total = um_record_seal(&header, plain, body);
        assert(chain == header.chain);
        assert(memcmp(out + begin, plain, total) == 0);
        uint64_t past = um__align(begin + total, BLOCK);
        for (uint64_t at = 0; at < begin; at++) assert(out[at] == 0xA5);
        for (uint64_t at = begin + total; at < past; at++) assert(out[at] == 0);
        for (uint64_t at = past; at < sizeof out; at++) assert(out[at] == 0xA5);
    }
}

int main(void) {
    crc_is_the_bitwise_definition_at_every_length_and_alignment();
    hash_of_two_words_is_the_hash_of_their_bytes();
    entry_with_any_flipped_bit_or_cut_is_refused();
    entry_with_a_right_crc_but_wrong_structure_is_refused();
    a_whole_journal_verifies_and_a_cut_one_asks_for_more();
    a_flipped_bit_is_found_and_later_records_tell_rot_from_a_torn_tail();
    a_record_of_another_place_is_bad();
    a_record_from_its_parts_is_the_same_with_zeroes_behind_it();
    a_record_whose_entries_do_not_tile_it_is_bad();
    noise_is_never_a_record_and_never_a_crash();
    puts("test_journal: ok");
    return 0;
}

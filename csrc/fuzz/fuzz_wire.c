/* fuzz_wire.c - any bytes at the port: frame scan, intake, entry, apply, answers.
 *
 * The first input byte says whether v2 checksums are repaired before the scan (else nearly every mutation of a v2
 * frame would end at the checksum). What must hold, whatever the bytes: consumed and offsets lie inside; the entry
 * that intake made verifies; apply takes it and the state keeps its structural rules; every request is answered by
 * exactly one well-formed response. The same frames also go through a splitter of three groups, whose open entries then
 * end in ways that the input chooses: no span may stay, and whatever is answered at all is answered once.
 */
#include "../tests/split_fixture.h"
#include <stddef.h>

#define INPUT_BYTES_MAX 8192
#define STATE_LIFE 500          /* inputs that share a state, so that retries and duplicates happen */

static um_catalog *catalog;
static um_intake intake;
static um_state state;
static um_limits limits;
static uint64_t inputs, entries, next_seq;

static void fresh_state(void) {
    limits = plenty();
    for (int r = 1; r < UM_REGIONS; r++) limits.records_max[r] = 40;
    limits.records_max[UM_R_HEAP] = 2000;
    limits.records_max[UM_R_FPS0] = limits.records_max[UM_R_FPS1] = limits.fingerprints_per_generation = 60;
    limits.cells_per_series_max = 5;
    if (inputs != 0) take_memory(&state);
    give_memory(&state, &limits);
    um_state_init(&state, &limits);
    entries = 0;
    next_seq = 1;
}

static void repair_v2(uint8_t *data, uint64_t len) {
    uint64_t at = 0;
    while (len - at >= UM_V2_HEADER_BYTES && um__load32(data + at) == UM_V2_MAGIC) {
        uint32_t payload_len = um__load32(data + at + UM_V2_HEADER_PAYLOAD_LEN_AT);
        if (payload_len > len - at - UM_V2_HEADER_BYTES) payload_len = (uint32_t)(len - at - UM_V2_HEADER_BYTES);
        seal_v2(data + at, payload_len);
        at += UM_V2_HEADER_BYTES + (uint64_t)payload_len;
    }
}

/* An entry with no byte more than these frames may ask for, so that the sanitizer sees one too many. */
static void give_exact_rows(const um_frame *frames, uint32_t count) {
    uint64_t need = 0;
    for (uint32_t n = 0; n < count; n++) need += sizeof(um_batch) + (uint64_t)frames[n].payload_len;
    free(intake.rows.base);
    intake.rows = (um_arena){zeroed(need), need, 0};
    intake_clear(&intake);
}

static void check_answers(const um_arena *list, const um_summary *summaries, const uint8_t *verdicts) {
    static uint8_t out[1 << 20];
    static uint32_t runs[3 * 4096];
    um_arena arena = {out, sizeof out, 0};
    uint32_t run_count, count = (uint32_t)(list->used / sizeof(um_request));
    const um_request *requests = (const um_request *)(const void *)list->base;
    uint32_t done = um_replies(requests, 0, count, (const uint32_t *)(const void *)intake.notes.base, summaries, verdicts, NULL, &arena, runs,
                               4096, &run_count);
    assert(done == count);
    uint64_t at = 0;
    for (uint32_t n = 0; n < count; n++) {
        um_frame frame;
        um_scan scan;
        um_response_scan(out + at, arena.used - at, requests[n].flags & UM_REQ_V2 ? 2 : 1, PAYLOAD_MAX, &frame, 1, &scan);
        assert(scan.count == 1 && frame.request_id == requests[n].request_id);
        at += scan.consumed;
    }
    assert(at == arena.used);
}

static void apply_taken(void) {
    static um_summary summaries[INPUT_BYTES_MAX];
    static uint8_t verdicts[INPUT_BYTES_MAX];
    um_applied applied;
    um_entry head = {.body_len = (uint32_t)intake.rows.used, .batch_count = intake.batch_count, .index = ++entries, .term = 1,
                     .stamp_ns = BASE + (int64_t)entries, .first_seq = next_seq, .row_count = intake.row_count};
    uint64_t len = sizeof head + intake.rows.used;
    um_entry_seal(&head, intake.rows.base);
    uint8_t *entry = malloc(len);
    assert(entry);
    memcpy(entry, &head, sizeof head);
    memcpy(entry + sizeof head, intake.rows.base, intake.rows.used);
    assert(um_entry_verify(entry, len));
    um_apply(&state, catalog, entry, summaries, verdicts, &applied);
    next_seq += intake.row_count;
    check_answers(&intake.waiting, summaries, verdicts);
    free(entry);
}

/* How the groups end is read from the first byte: bit 1 one is not taken here, bits 2..7 two for each group. */
static void split(const uint8_t *bytes, uint64_t len, const um_frame *frames, uint32_t count, uint8_t how) {
    static split_node node;
    uint64_t taken = 0, whole = 1;
    if (node.intakes[0].rows.base == NULL) split_new(&node, INPUT_BYTES_MAX, 4 * INPUT_BYTES_MAX, 4096, INPUT_BYTES_MAX);
    node.local[how % GROUPS] = how & 2 ? how >> 6 : 1;
    node.answers = 0;
    for (uint32_t next = 0, at = 0; at < count; at = next) {
        uint32_t stop = um_split_frames(bytes, len, frames, at, count, catalog, at, &node.splitter, node.pointers, node.local, &next);
        taken += next - at;
        if (stop == UM_STOP_MALFORMED) break;
        if (stop != UM_STOP_END) next++;
    }
    for (uint32_t group = 0; group < GROUPS; group++) {
        int end = (how >> (2 + 2 * group)) & 3;
        if (end > END_FORGOTTEN) end = END_ANSWERED;
        whole &= end != END_FORGOTTEN;
        end_group(&node, group, end, (uint32_t)(how + len % 97));
    }
    node.local[how % GROUPS] = 1;
    assert(node.splitter.spans.open == 0 && (whole ? node.answers == taken : node.answers <= taken));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static um_frame frames[INPUT_BYTES_MAX / UM_V1_RESPONSE_HEADER_BYTES + 1];
    if (size == 0 || size > INPUT_BYTES_MAX) return 0;
    if (catalog == NULL) {
        catalog = wire_catalog();
        intake_new(&intake, 4 * INPUT_BYTES_MAX, INPUT_BYTES_MAX);
    }
    if (inputs % STATE_LIFE == 0) {
        if (inputs != 0) assert(um_state_check(&state, catalog) == 0);
        fresh_state();
    }
    inputs++;
    uint8_t *base, *bytes = exact_copy(data + 1, size - 1, &base);
    uint64_t len = size - 1;
    um_scan scan;
    for (uint32_t protocol = 1; protocol <= 2; protocol++) {
        um_response_scan(bytes, len, protocol, PAYLOAD_MAX, frames, sizeof frames / sizeof *frames, &scan);
        assert(scan.consumed <= len);
    }
    if (data[0] & 1) repair_v2(bytes, len);
    const uint32_t room = sizeof frames / sizeof *frames;
    const uint64_t plain = um_frames(bytes, len, PAYLOAD_MAX, frames, room);
    um_frame_scan(bytes, len, PAYLOAD_MAX, frames, room, &scan);
    assert(scan.consumed <= len);
    assert(plain == (scan.error || scan.count == room ? UINT64_MAX : scan.consumed << 32 | scan.count));
    give_exact_rows(frames, scan.count);
    for (uint32_t next = 0; next < scan.count;) {
        uint32_t stop = um_intake_frames(bytes, len, frames, next, scan.count, catalog, next, &intake, &next);
        assert(stop != UM_STOP_END || next == scan.count);
        if (stop == UM_STOP_MALFORMED || stop == UM_STOP_FULL) break;
        if (stop == UM_STOP_CONTROL) next++;
    }
    check_answers(&intake.immediate, NULL, NULL);
    apply_taken();
    split(bytes, len, frames, scan.count, data[0]);
    free(base);
    return 0;
}

/* ---- valid inputs ---- */

static void example_v1(pen *p, uint64_t number) {
    uint64_t at = begin_v1(p, number & 1, (uint32_t)number);
    uint32_t events = (uint32_t)(number >> 1) % 5, props = 0;
    write_u32(p, events);
    write_u32(p, 0);
    for (uint32_t n = 0; n < events; n++) {
        uint8_t count = (uint8_t)((number >> (4 + n)) % 3);
        v1_event(p, n % 2 ? "sum" : n % 3 ? "unique" : "count", number % 7, (int64_t)(number % 11), n, (uint8_t)(n % 3), count);
        props += count;
    }
    for (uint32_t n = 0; n < props; n++) v1_property(p, n % 2 ? "model" : "zone", "large");
    um__store32(p->bytes + at + UM_V1_REQUEST_HEADER_BYTES + 4, props);
    end_v1(p, at);
}

static void example_v2(pen *p, uint64_t number) {
    uint64_t at = begin_v2(p, UM_V2_TYPE_INGEST, (uint8_t)(number % 4), (uint32_t)number);
    uint64_t session = number % 3;
    if (number % 5 == 0) {
        v2_head(p, 1 + session, 0, 0, 0, UM_V2_BATCH_FLAG_OPEN_SESSION, 0, 0);
    } else if (number % 5 == 1) {
        v2_head(p, 0, 0, 0, 2, 0, 0, 8);
        write_bytes(p, "\3sum\1k\0", 8);
    } else {
        v2_head(p, session, session ? number % 70 + 1 : 0, 3, 3, 0, 3 * 32 + 16 + 24, 24);
        write_bytes(p, "\3sum\6unique\6absent\0\0\0\0\0\0", 24);
        v2_row(p, number % 5, BASE + (int64_t)(number % 9), (int64_t)number, 0, 0, UM_ROW_ID, 1, 16);
        write_bytes(p, "\2id\5\4modelmini", 13);
        write_zeros(p, 3);
        v2_row(p, 0, 0, -1, 1, 2, UM_ROW_TEXT, 2, 24);
        write_bytes(p, "\4acme\1\1av\1\6bvalue!", 18);
        write_zeros(p, 6);
        v2_row(p, number % 5, 0, 5, (uint16_t)(number % 3), 1, 0, 0, 0);
    }
    end_v2(p, at);
}

uint64_t example(uint64_t number, uint8_t *out);
uint64_t example(uint64_t number, uint8_t *out) {
    static pen p;
    p.used = 0;
    write_u8(&p, (number & 3 ? 1 : 0) | (number >> 12 & 0xFE));
    for (uint64_t n = 0; n < 1 + number % 4; n++) {
        if ((number >> (2 + n)) & 1) example_v1(&p, number >> 3);
        else example_v2(&p, number >> 3);
    }
    memcpy(out, p.bytes, p.used);
    return p.used;
}

#include "mutate.h"

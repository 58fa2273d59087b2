/* test_wire.c - frames, intake and answers under the sanitizers; exits by assert. What the rows must be is checked
 * in Python against a model; here every buffer has its exact size and an odd address.
 */
#include "wire_fixture.h"

static pen p;
static um_catalog *catalog;
static um_intake intake;
static um_frame frames[64];
static um_scan scan;

/* scan p from an exact buffer and take all frames; the stop code */
static uint32_t take_all(uint32_t *next) {
    uint8_t *base, *data = exact_copy(p.bytes, p.used, &base);
    um_frame_scan(data, p.used, PAYLOAD_MAX, frames, 64, &scan);
    uint32_t stop = um_intake_frames(data, p.used, frames, 0, scan.count, catalog, 5, &intake, next);
    free(base);
    return stop;
}

/* answers to one list into an exact buffer; bytes written */
static uint64_t answer(const um_arena *list, const um_summary *summaries, const uint8_t *verdicts, uint8_t *out, uint64_t cap) {
    um_arena arena = {out, cap, 0};
    uint32_t runs[9], run_count, count = (uint32_t)(list->used / sizeof(um_request));
    uint32_t done = um_replies((const um_request *)(const void *)list->base, 0, count, (const uint32_t *)(const void *)intake.notes.base,
                               summaries, verdicts, NULL, &arena, runs, 3, &run_count);
    assert(done == count && run_count == (count != 0));
    return arena.used;
}

static void whole_v1(uint32_t request_id) {
    uint64_t at = begin_v1(&p, UM_V1_TYPE_INGEST_SYNC, request_id);
    write_u32(&p, 3);
    write_u32(&p, 3);
    v1_event(&p, "count", 1, 10, 1, 0, 0);
    v1_event(&p, "sum", 2, 0, 7, 0, 2);
    v1_event(&p, "nope", 3, 1, 1, 0, 1);
    v1_property(&p, "zone", "eu");
    v1_property(&p, "model", "large");
    v1_property(&p, "k", "");
    end_v1(&p, at);
}

static void whole_v2(uint32_t request_id) {
    uint64_t at = begin_v2(&p, UM_V2_TYPE_INGEST, UM_V2_FLAG_INGEST_VERDICTS, request_id);
    v2_head(&p, 9, 4, 3, 2, 0, 3 * 32 + 16, 16);
    write_bytes(&p, "\3sum\6absent\0\0\0\0\0", 16);
    v2_row(&p, 1, 5, -5, 0, 0, 0, 0, 0);
    v2_row(&p, 1, 5, -5, 1, 0, 0, 0, 0);
    v2_row(&p, 0, 5, 3, 0, 0, UM_ROW_TEXT | UM_ROW_ID, 1, 16);
    write_bytes(&p, "\4acme\2id\1\5kvalue", 16);
    end_v2(&p, at);
}

static void every_cut_of_a_stream_gives_the_same_frames(void) {
    um_frame at_once[64];
    p.used = 0;
    for (uint32_t n = 0; n < 3; n++) whole_v1(n), whole_v2(n);
    um_frame_scan(p.bytes, p.used, PAYLOAD_MAX, at_once, 64, &scan);
    assert(scan.count == 6 && scan.consumed == p.used && scan.error == UM_SCAN_OK);
    for (uint64_t cut = 0; cut <= p.used; cut++) {
        uint8_t *base, *data = exact_copy(p.bytes, cut, &base);
        um_frame_scan(data, cut, PAYLOAD_MAX, frames, 64, &scan);
        assert(scan.error == UM_SCAN_OK && scan.consumed <= cut && scan.count <= 6);
        assert(memcmp(frames, at_once, scan.count * sizeof *frames) == 0);
        assert(scan.count == 6 || scan.consumed + at_once[scan.count].payload_off - at_once[scan.count].offset +
                                          at_once[scan.count].payload_len > cut);
        free(base);
    }
}

static void flipped_bits_of_a_v2_frame_are_never_taken(void) {
    p.used = 0;
    whole_v2(1);
    for (uint64_t bit = 32; bit < p.used * 8; bit++) {
        uint8_t *base, *data = exact_copy(p.bytes, p.used, &base);
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        um_frame_scan(data, p.used, PAYLOAD_MAX, frames, 64, &scan);
        assert(scan.count == 0 && scan.error == UM_SCAN_BAD_CRC);
        free(base);
    }
}

static void truncated_and_mutated_payloads_are_refused_or_well_formed(void) {
    for (uint32_t round = 0; round < 40000; round++) {
        p.used = 0;
        int v2 = round & 1;
        uint64_t head = v2 ? UM_V2_HEADER_BYTES : UM_V1_REQUEST_HEADER_BYTES;
        if (v2) whole_v2(round); else whole_v1(round);
        for (uint64_t n = dice(4); n > 0; n--) p.bytes[head + dice(p.used - head)] = (uint8_t)dice(256);
        if (dice(8) == 0) p.used = head + dice(p.used - head);
        if (v2) end_v2(&p, 0); else end_v1(&p, 0);
        uint32_t next;
        intake_clear(&intake);
        uint32_t stop = take_all(&next);
        assert(scan.count == 1 && next == 1 && (stop == UM_STOP_END || stop == UM_STOP_MALFORMED));
        um_entry head_of = {.body_len = (uint32_t)intake.rows.used, .batch_count = intake.batch_count, .row_count = intake.row_count,
                            .first_seq = 1};
        um_entry_seal(&head_of, intake.rows.base);
        uint8_t *entry = malloc(sizeof head_of + intake.rows.used);
        assert(entry);
        memcpy(entry, &head_of, sizeof head_of);
        memcpy(entry + sizeof head_of, intake.rows.base, intake.rows.used);
        assert(um_entry_verify(entry, sizeof head_of + intake.rows.used));
        free(entry);
        uint8_t *out = malloc(OUT_BYTES);
        assert(out);
        answer(&intake.immediate, NULL, NULL, out, OUT_BYTES);
        free(out);
    }
}

static void answers_merge_notes_with_verdicts(void) {
    uint32_t next;
    p.used = 0;
    whole_v2(77);
    intake_clear(&intake);
    assert(take_all(&next) == UM_STOP_END && intake.row_count == 2);
    um_summary summary = {.stored = 1, .conflicts = 1, .first_bad = 1, .first_verdict = UM_V_CONFLICT, .last_offset = 12};
    const uint8_t verdicts[2] = {UM_V_STORED, UM_V_CONFLICT};
    uint8_t *out = malloc(OUT_BYTES);
    assert(out);
    uint64_t len = answer(&intake.waiting, &summary, verdicts, out, OUT_BYTES);
    const uint8_t *body = out + UM_V2_HEADER_BYTES;
    assert(len == UM_V2_HEADER_BYTES + UM_V2_INGEST_RESULT_BYTES + 2 * UM_V2_EXCEPTION_BYTES);
    um_response_scan(out, len, 2, PAYLOAD_MAX, frames, 64, &scan);
    assert(scan.count == 1 && frames[0].request_id == 77 && frames[0].status == UM_V2_STATUS_OK);
    assert(um__load32(body) == 1 && um__load32(body + 8) == 1 && um__load32(body + 12) == 1 && um__load64(body + 16) == 12);
    const uint8_t *first = body + UM_V2_INGEST_RESULT_BYTES;
    assert(um__load32(first) == 1 && um__load32(first + 4) == UM_V_UNKNOWN_METRIC);
    assert(um__load32(first + 8) == 2 && um__load32(first + 12) == UM_V_CONFLICT);
    free(out);
}

static void answers_stop_when_out_or_runs_are_full(void) {
    um_request requests[4];
    memset(requests, 0, sizeof requests);
    for (uint32_t n = 0; n < 4; n++) requests[n].link = n / 2, requests[n].batch = UM_NONE, requests[n].status = UM_REQ_MALFORMED;
    uint32_t runs[6], run_count;
    um_arena out = {zeroed(OUT_BYTES), OUT_BYTES, 0};
    assert(um_replies(requests, 0, 4, NULL, NULL, NULL, NULL, &out, runs, 1, &run_count) == 2 && run_count == 1);
    assert(runs[0] == 0 && runs[1] == 0 && runs[2] == out.used);
    out.used = OUT_BYTES - 100;
    assert(um_replies(requests, 0, 4, NULL, NULL, NULL, NULL, &out, runs, 2, &run_count) == 0 && run_count == 0);
    free(out.base);
}

static void a_full_list_stops_the_intake(void) {
    um_intake small;
    uint32_t next;
    p.used = 0;
    for (uint32_t n = 0; n < 3; n++) whole_v1(n);
    um_frame_scan(p.bytes, p.used, PAYLOAD_MAX, frames, 64, &scan);
    intake_new(&small, 1 << 12, 2);
    assert(um_intake_frames(p.bytes, p.used, frames, 0, 3, catalog, 1, &small, &next) == UM_STOP_FULL && next == 2);
    intake_free(&small);
    intake_new(&small, sizeof(um_batch) + frames[0].payload_len, 3);
    assert(um_intake_frames(p.bytes, p.used, frames, 0, 3, catalog, 1, &small, &next) == UM_STOP_FULL && next == 1);
    intake_free(&small);
}

static void a_catalog_finds_all_of_its_metrics(void) {
    um_catalog *full = zeroed(sizeof *full);
    full->metric_count = UM_METRICS_MAX;
    for (uint32_t id = 0; id < UM_METRICS_MAX; id++) {
        um_metric *metric = &full->metrics[id];
        metric->id = (uint16_t)id;
        metric->alive = id % 5 != 0;
        metric->code_len = (uint8_t)(1 + id % UM_CODE_BYTES_MAX);
        memset(metric->code, 'c', metric->code_len);
        snprintf(metric->code, sizeof metric->code, "%u", id);
        metric->code_len = (uint8_t)strlen(metric->code);
    }
    um_catalog_index(full);
    for (uint32_t id = 0; id < UM_METRICS_MAX; id++) {
        const um_metric *metric = &full->metrics[id];
        assert(um_catalog_find(full, (const uint8_t *)metric->code, metric->code_len) == (metric->alive ? id : UM_NONE));
    }
    assert(um_catalog_find(full, (const uint8_t *)"nope", 4) == UM_NONE && um_catalog_find(full, NULL, 0) == UM_NONE);
    free(full);
}

int main(void) {
    catalog = wire_catalog();
    intake_new(&intake, 1 << 16, 64);
    every_cut_of_a_stream_gives_the_same_frames();
    flipped_bits_of_a_v2_frame_are_never_taken();
    truncated_and_mutated_payloads_are_refused_or_well_formed();
    answers_merge_notes_with_verdicts();
    answers_stop_when_out_or_runs_are_full();
    a_full_list_stops_the_intake();
    a_catalog_finds_all_of_its_metrics();
    intake_free(&intake);
    free(catalog);
    printf("wire: ok\n");
    return 0;
}

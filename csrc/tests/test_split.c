/* test_split.c - splitting, spans and failures under the sanitizers; exits by assert. That the rows go where they must
 * and that the answers are right is checked in Python against a twin; here every arena has its exact size.
 */
#include "split_fixture.h"

static pen p;
static um_catalog *catalog;
static um_frame frames[64];
static um_scan scan;

static void scan_all_frames(void) {
    um_frame_scan(p.bytes, p.used, PAYLOAD_MAX, frames, 64, &scan);
    assert(scan.error == UM_SCAN_OK && scan.consumed == p.used);
}

static uint32_t take(split_node *node, uint32_t first, uint32_t *next) {
    uint8_t *base, *data = exact_copy(p.bytes, p.used, &base);
    uint32_t stop = um_split_frames(data, p.used, frames, first, scan.count, catalog, 7, &node->splitter, node->pointers, node->local, next);
    free(base);
    return stop;
}

/* accounts 0, 1, 2, ... */
static void v1_request_over(uint32_t events, uint32_t request_id, uint8_t type) {
    uint64_t at = begin_v1(&p, type, request_id);
    write_u32(&p, events);
    write_u32(&p, 0);
    for (uint32_t n = 0; n < events; n++) v1_event(&p, n % 5 == 4 ? "nope" : "count", n, 10, 1, 0, 0);
    end_v1(&p, at);
}

static void v2_request_over(uint32_t request_id) {
    uint64_t at = begin_v2(&p, UM_V2_TYPE_INGEST, UM_V2_FLAG_INGEST_VERDICTS, request_id);
    v2_head(&p, 9, 4, 3, 2, 0, 3 * 32 + 16, 16);
    write_bytes(&p, "\3sum\6absent\0\0\0\0\0", 16);
    v2_row(&p, 1, 5, -5, 0, 0, 0, 0, 0);
    v2_row(&p, 1, 5, -5, 1, 0, 0, 0, 0);
    v2_row(&p, 0, 5, 3, 0, 0, UM_ROW_TEXT | UM_ROW_ID, 1, 16);
    write_bytes(&p, "\4acme\2id\1\5kvalue", 16);
    end_v2(&p, at);
}

static void a_request_that_fits_exactly_is_taken_and_one_byte_less_is_not(void) {
    uint32_t next;
    p.used = 0;
    v1_request_over(6, 1, UM_V1_TYPE_INGEST_SYNC);
    scan_all_frames();
    const uint64_t rows = sizeof(um_batch) + 2 * sizeof(um_row);       /* groups 0 and 2 get two, group 1 one */
    split_node node;
    split_new(&node, frames[0].payload_len, rows, 1, 6);
    assert(take(&node, 0, &next) == UM_STOP_END && next == 1 && node.splitter.spans.open == 1);
    assert(node.intakes[0].row_count == 2 && node.intakes[1].row_count == 1 && node.intakes[2].row_count == 2);
    for (uint32_t g = 0; g < GROUPS; g++) end_group(&node, g, END_ANSWERED, g);
    assert(node.answers == 1 && node.splitter.spans.open == 0);
    split_free(&node);
    split_new(&node, frames[0].payload_len, rows - 1, 1, 6);
    assert(take(&node, 0, &next) == UM_STOP_FULL && next == 0 && node.splitter.groups_wanted == 7);
    assert(node.splitter.spans.open == 0 && node.intakes[1].rows.used == 0);
    split_free(&node);
    split_new(&node, frames[0].payload_len - 1, rows, 1, 6);
    assert(take(&node, 0, &next) == UM_STOP_FULL && next == 0);
    split_free(&node);
}

static void a_frozen_intake_is_the_callers_mistake(void) {
    uint32_t next;
    split_node node;
    p.used = 0;
    v1_request_over(1, 1, UM_V1_TYPE_INGEST_SYNC);
    scan_all_frames();
    split_new(&node, PAYLOAD_MAX, 4096, 4, EVENTS_MAX);
    node.intakes[0].frozen = 1;
    assert(take(&node, 0, &next) == UM_NONE && next == 0);
    split_free(&node);
}

static void spans_are_used_again_in_any_order(void) {
    split_node node;
    uint32_t next;
    split_new(&node, PAYLOAD_MAX, 1 << 14, 64, EVENTS_MAX);
    for (uint32_t round = 0; round < 20000; round++) {
        p.used = 0;
        for (uint64_t n = dice(4); n > 0; n--) {
            if (dice(2)) v1_request_over((uint32_t)dice(9), round, dice(2) ? UM_V1_TYPE_INGEST_SYNC : UM_V1_TYPE_INGEST_ASYNC);
            else v2_request_over(round);
        }
        scan_all_frames();
        for (int g = 0; g < GROUPS; g++) node.local[g] = dice(20) ? (uint8_t)(1 + dice(3) / 2) : 0;
        for (uint32_t at = 0; at < scan.count; at = next) {
            uint32_t stop = take(&node, at, &next);
            assert(stop == UM_STOP_END || stop == UM_STOP_ELSEWHERE || stop == UM_STOP_FULL);
            if (stop != UM_STOP_END) next++;
        }
        assert(node.splitter.spans.open <= SPANS);
        end_group(&node, (uint32_t)dice(GROUPS), (int)dice(3), (uint32_t)dice(100));
        if (dice(10)) continue;
        for (uint32_t g = 0; g < GROUPS; g++) end_group(&node, g, (int)dice(3), (uint32_t)dice(100));
        assert(node.splitter.spans.open == 0);
    }
    assert(node.answers > 0);
    split_free(&node);
}

static void every_request_is_answered_once(void) {
    split_node node;
    uint32_t next;
    split_new(&node, PAYLOAD_MAX, 1 << 14, 64, EVENTS_MAX);
    for (uint32_t round = 0; round < 5000; round++) {
        uint64_t taken = 0;
        p.used = 0;
        for (uint64_t n = 1 + dice(4); n > 0; n--) {
            if (dice(2)) v1_request_over((uint32_t)dice(9), round, dice(2) ? UM_V1_TYPE_INGEST_SYNC : UM_V1_TYPE_INGEST_ASYNC);
            else v2_request_over(round);
        }
        scan_all_frames();
        assert(take(&node, 0, &next) == UM_STOP_END);
        taken = scan.count;
        node.answers = 0;
        const uint32_t turn = (uint32_t)dice(GROUPS);
        for (uint32_t g = 0; g < GROUPS; g++) end_group(&node, (g + turn) % GROUPS, (int)dice(2), (uint32_t)dice(100));
        assert(node.answers == taken && node.splitter.spans.open == 0);
    }
    split_free(&node);
}

int main(void) {
    catalog = wire_catalog();
    a_request_that_fits_exactly_is_taken_and_one_byte_less_is_not();
    a_frozen_intake_is_the_callers_mistake();
    spans_are_used_again_in_any_order();
    every_request_is_answered_once();
    free(catalog);
    printf("split: ok\n");
    return 0;
}

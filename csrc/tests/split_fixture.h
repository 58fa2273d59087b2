/* split_fixture.h - a splitter over intakes with memory of exactly the size it asks for, and three ways in which the
 * open entries of its groups may end. For test_split.c and fuzz_wire.c.
 */
#ifndef SPLIT_FIXTURE_H
#define SPLIT_FIXTURE_H
#include "wire_fixture.h"

#define GROUPS 3
#define SPANS 5

typedef struct {
    um_splitter splitter;
    um_intake intakes[GROUPS];
    um_intake *pointers[GROUPS];
    uint8_t local[GROUPS];
    uint64_t answers;                   /* well-formed responses so far */
} split_node;

static void split_new(split_node *node, uint64_t payload_max, uint64_t rows, uint64_t requests, uint32_t events_max) {
    memset(node, 0, sizeof *node);
    um_splitter_init(&node->splitter, GROUPS);
    uint64_t staging = sizeof(um_batch) + payload_max, slots = SPANS * um_span_slot_bytes(events_max);
    node->splitter.staging = (um_arena){zeroed(staging), staging, 0};
    node->splitter.notes = (um_arena){zeroed(8ULL * events_max), 8ULL * events_max, 0};
    node->splitter.spans.slots = (um_arena){zeroed(slots), slots, 0};
    um_spans_init(&node->splitter.spans, events_max);
    for (int g = 0; g < GROUPS; g++) {
        intake_new(&node->intakes[g], rows, requests);
        node->intakes[g].batch_events_max = events_max;
        node->intakes[g].stamped = 1;
        node->pointers[g] = &node->intakes[g];
        node->local[g] = 1;
    }
}

static void split_free(split_node *node) {
    free(node->splitter.staging.base);
    free(node->splitter.notes.base);
    free(node->splitter.spans.slots.base);
    for (int g = 0; g < GROUPS; g++) intake_free(&node->intakes[g]);
}

/* Every response in out is one; v1 and v2 may be mixed. Returns how many. */
static uint64_t count_answers(const uint8_t *out, uint64_t len) {
    uint64_t at = 0, count = 0;
    while (at < len) {
        um_frame frame;
        um_scan scan;
        uint32_t protocol = len - at >= 4 && um__load32(out + at) == UM_V2_MAGIC ? 2 : 1;
        um_response_scan(out + at, len - at, protocol, PAYLOAD_MAX, &frame, 1, &scan);
        assert(scan.count == 1);
        at += scan.consumed;
        count++;
    }
    return count;
}

/* Answer a list, in small pieces; `failure` not NULL: with that. */
static void answer_list(split_node *node, um_intake *intake, um_arena *list, const um_summary *summaries, const uint8_t *verdicts,
                        const um_failure *failure) {
    const um_request *requests = (const um_request *)(const void *)list->base;
    const uint32_t *notes = (const uint32_t *)(const void *)intake->notes.base;
    uint32_t count = (uint32_t)(list->used / sizeof(um_request)), runs[6], run_count, done = 0;
    uint64_t room = 4096 + 8ULL * intake->batch_events_max;
    while (done < count) {
        um_arena out = {zeroed(room), room, 0};
        uint32_t more = failure ? um_fail(requests, done, count, failure, &node->splitter.spans, &out, runs, 2, &run_count)
                                : um_replies(requests, done, count, notes, summaries, verdicts, &node->splitter.spans, &out, runs, 2, &run_count);
        assert(more > 0);
        done += more;
        uint64_t told = 0;
        for (uint32_t n = 0; n < run_count; n++) assert(runs[3 * n + 1] == told), told += runs[3 * n + 2];
        assert(told == out.used);
        node->answers += count_answers(out.base, out.used);
        free(out.base);
    }
    list->used = 0;
}

#define END_ANSWERED 0
#define END_FAILED 1
#define END_FORGOTTEN 2
static void end_group(split_node *node, uint32_t group, int how, uint32_t luck) {
    um_intake *intake = &node->intakes[group];
    assert(um_batches_verify(intake->rows.base, intake->rows.used, intake->batch_count, intake->row_count));
    if (how == END_ANSWERED) {
        um_summary *summaries = zeroed((intake->batch_count + 1) * sizeof *summaries);
        uint8_t *verdicts = zeroed(intake->row_count + 1ULL);
        for (uint32_t n = 0; n < intake->batch_count; n++) {
            summaries[n] = (um_summary){.stored = 1, .refused = luck % 3, .first_bad = luck % 2 ? UM_NONE : luck % 5,
                                        .first_verdict = luck % 7, .session_verdict = luck % 4 ? 0 : luck % 10};
        }
        for (uint32_t n = 0; n < intake->row_count; n++) verdicts[n] = (uint8_t)((luck + n) % 10);
        answer_list(node, intake, &intake->immediate, NULL, NULL, NULL);
        answer_list(node, intake, &intake->waiting, summaries, verdicts, NULL);
        free(summaries);
        free(verdicts);
    } else if (how == END_FAILED) {
        const um_failure failure = {(const uint8_t *)"elsewhere", (const uint8_t *)"\x80", UM_V1_STATUS_REDIRECT, 9, UM_V2_STATUS_ERROR, 1};
        answer_list(node, intake, &intake->waiting, NULL, NULL, &failure);
        answer_list(node, intake, &intake->immediate, NULL, NULL, &failure);
    } else {
        um_spans_release(&node->splitter.spans, (const um_request *)(const void *)intake->waiting.base,
                         (uint32_t)(intake->waiting.used / sizeof(um_request)));
        um_spans_release(&node->splitter.spans, (const um_request *)(const void *)intake->immediate.base,
                         (uint32_t)(intake->immediate.used / sizeof(um_request)));
    }
    intake_clear(intake);
}
#endif

/* kernel_steps.c - the kernels of an event's way, one at a time and always the same: to count their instructions.
 *
 *     kernel_steps CASE       runs it; prints the kernel's name and how many units (events, requests, bytes) it took
 *
 * Under `valgrind --tool=callgrind --toggle-collect=KERNEL` only what happens inside the kernel is counted, so neither
 * the preparations nor the machine's mood matter. bench/budget.py does that and divides by the units. The tables fit
 * the caches of any machine here: cache misses are not instructions, bench_apply.c is for them.
 */
#include "split_fixture.h"

#define ACCOUNTS 500
#define ACCOUNTS_ENDLESS 100000000ULL     /* nearly every event is the first of its series */
#define ENTRIES 12
#define ENTRY_BATCHES 8
#define BATCH_ROWS 500
#define ROUNDS 200

static pen p;
static um_frame frames[256];
static um_scan scanned;

static void say(const char *kernel, uint64_t units) { printf("%s %llu\n", kernel, (unsigned long long)units); }

/* rows of all five aggregations, accounts at random, every row new */
static void fill(world *w, uint32_t flags, uint64_t number, uint64_t accounts) {
    static uint64_t event_number;
    for (int b = 0; b < ENTRY_BATCHES; b++) {
        batch(w, flags, flags ? 0 : 1 + (uint64_t)b, flags ? 0 : number, flags ? 0 : number);
        for (int r = 0; r < BATCH_ROWS; r++) {
            event_number++;
            row(w, EVENT(.account = 1 + dice(accounts), .ts = BASE + (int64_t)event_number, .value = 1 + r % 7, .metric = (uint16_t)(r % 5)));
        }
    }
}

static world *apply_world(void) {
    um_limits limits = plenty();
    for (int r = 0; r < UM_REGIONS; r++) limits.records_max[r] = 200000;
    limits.records_max[UM_R_META] = 1;
    limits.records_max[UM_R_SESSIONS] = 64;
    limits.fingerprints_per_generation = 100000;
    world *w = world_new(limits);
    um_catalog_index(w->catalog);
    return w;
}

static void apply_case(uint32_t flags, uint64_t accounts) {
    world *w = apply_world();
    uint64_t stored = 0;
    for (uint64_t b = 0; !flags && b < ENTRY_BATCHES; b++) batch(w, UM_BATCH_OPEN_SESSION, 1 + b, 0, 0);
    if (!flags) apply_entry(w, UM_ENTRY_BATCHES);
    for (uint64_t e = 1; e <= ENTRIES; e++) {
        fill(w, flags, e, accounts);
        apply_entry(w, UM_ENTRY_BATCHES);
        for (int b = 0; b < ENTRY_BATCHES; b++) stored += w->sums[b].stored;
    }
    assert(stored == ENTRIES * ENTRY_BATCHES * BATCH_ROWS);
    say("um_apply", stored);
}

static void v1_requests(uint32_t requests, uint32_t events) {
    for (uint32_t r = 0; r < requests; r++) {
        uint64_t at = begin_v1(&p, UM_V1_TYPE_INGEST_SYNC, r + 1);
        write_u32(&p, events);
        write_u32(&p, 0);
        for (uint32_t n = 0; n < events; n++) v1_event(&p, n % 2 ? "count" : "unique", 1 + dice(ACCOUNTS) * GROUPS * 256, BASE + n, 1, 0, 0);
        end_v1(&p, at);
    }
}

static void v2_requests(uint32_t requests, uint32_t events) {
    for (uint32_t r = 0; r < requests; r++) {
        uint64_t at = begin_v2(&p, UM_V2_TYPE_INGEST, 0, r + 1);
        v2_head(&p, 0, 0, events, 2, 0, events * 32, 16);
        write_bytes(&p, "\5count\6unique\0\0\0", 16);
        for (uint32_t n = 0; n < events; n++) v2_row(&p, 1 + dice(ACCOUNTS) * GROUPS * 256, BASE + n, 1, n % 2, 0, 0, 0, 0);
        end_v2(&p, at);
    }
}

static void scan_frames(void) {
    um_frame_scan(p.bytes, p.used, PAYLOAD_MAX, frames, 256, &scanned);
    assert(scanned.error == UM_SCAN_OK && scanned.consumed == p.used);
}

static void scan_case(void) {
    for (int n = 0; n < ROUNDS; n++) scan_frames();
}

/* all events of one group, as a routed client sends them */
static void split_case(void) {
    static split_node node;
    split_new(&node, PAYLOAD_MAX, 1 << 20, 4096, EVENTS_MAX);
    um_catalog *catalog = wire_catalog();
    scan_frames();
    for (int n = 0; n < ROUNDS; n++) {
        uint32_t next;
        for (int g = 0; g < GROUPS; g++) intake_clear(&node.intakes[g]);
        uint32_t stop = um_split_frames(p.bytes, p.used, frames, 0, scanned.count, catalog, 7, &node.splitter, node.pointers, node.local, &next);
        assert(stop == UM_STOP_END && next == scanned.count);
    }
}

static void seal_case(void) {
    world *w = apply_world();
    uint8_t *record = zeroed(1 << 21);
    um_record header = {.seq = 1, .entry_count = 1};
    fill(w, V1, 0, ACCOUNTS);
    memcpy(record + sizeof header, w->entry, w->used);
    for (int n = 0; n < ROUNDS; n++) (void)um_record_seal(&header, record, w->used & ~63ULL);
    say("um_record_seal", ROUNDS * (w->used & ~63ULL));
}

static void replies_case(void) {
    static um_request requests[64];
    static um_summary summaries[64];
    uint32_t runs[6], run_count;
    um_arena out = {zeroed(1 << 16), 1 << 16, 0};
    v1_requests(64, 1);
    scan_frames();
    split_node *node = zeroed(sizeof *node);
    uint32_t next;
    split_new(node, PAYLOAD_MAX, 1 << 20, 4096, EVENTS_MAX);
    (void)um_split_frames(p.bytes, p.used, frames, 0, scanned.count, wire_catalog(), 7, &node->splitter, node->pointers, node->local, &next);
    uint64_t taken = 0;
    for (int g = 0; g < GROUPS; g++) {
        um_arena *list = &node->intakes[g].waiting;
        memcpy(requests + taken, list->base, list->used);
        taken += list->used / sizeof(um_request);
        if (taken == 64) break;
    }
    for (uint32_t n = 0; n < taken; n++) {
        requests[n].batch = n;
        summaries[n] = (um_summary){.stored = 1, .first_bad = UM_NONE};
    }
    for (int n = 0; n < ROUNDS; n++) {
        out.used = 0;
        uint32_t done = um_replies(requests, 0, (uint32_t)taken, NULL, summaries, NULL, &node->splitter.spans, &out, runs, 2, &run_count);
        assert(done == taken);
    }
    say("um_replies", ROUNDS * taken);
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "";
    if (!strcmp(name, "apply_v1_event")) apply_case(V1, ACCOUNTS);
    else if (!strcmp(name, "apply_v2_event")) apply_case(0, ACCOUNTS);
    else if (!strcmp(name, "apply_new_series")) apply_case(V1, ACCOUNTS_ENDLESS);
    else if (!strcmp(name, "scan_v1_request")) v1_requests(64, 1), scan_case(), say("um_frame_scan", 64 * ROUNDS);
    else if (!strcmp(name, "scan_v2_event")) v2_requests(8, EVENTS_MAX), scan_case(), say("um_frame_scan", 8 * EVENTS_MAX * ROUNDS);
    else if (!strcmp(name, "split_v1_request")) v1_requests(64, 1), split_case(), say("um_split_frames", 64 * ROUNDS);
    else if (!strcmp(name, "split_v1_event")) v1_requests(8, EVENTS_MAX), split_case(), say("um_split_frames", 8 * EVENTS_MAX * ROUNDS);
    else if (!strcmp(name, "split_v2_event")) v2_requests(8, EVENTS_MAX), split_case(), say("um_split_frames", 8 * EVENTS_MAX * ROUNDS);
    else if (!strcmp(name, "seal_byte")) seal_case();
    else if (!strcmp(name, "reply_request")) replies_case();
    else return fprintf(stderr, "usage: kernel_steps CASE; see main()\n"), 2;
    return 0;
}

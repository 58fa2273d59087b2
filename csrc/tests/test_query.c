/* test_query.c - queries and event lists under the sanitizers: exact-length buffers, arenas of every size, noise.
 *
 * What answers must be is the business of tests/test_query_native.py; here a loop over all events checks count,
 * sum and members, and everything else is about never reading or writing a byte that was not handed over.
 */
#include "um__log.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define HOURS 3
#define EVENTS_MAX 4096
#define MEMBERS 40
#define VALUES 5

static uint64_t chance = 88172645463325252ULL;
static uint64_t dice(uint64_t below) {
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return chance % below;
}

typedef struct { uint64_t account; int64_t ts, value; uint32_t metric, operation, dimension; } event;

static const char *const names[VALUES] = {"", "eu", "eu-west-1", "eu-west-2", "us"};      /* in their order as bytes */
static um_catalog catalog;
static um_state state;
static event events[EVENTS_MAX];       /* event i has seq i + 1 */
static uint64_t event_count;
static uint8_t journal[1 << 20];
static uint64_t journal_len;

static um_arena arena(uint64_t reserved) { return (um_arena){.base = calloc(1, reserved ? reserved : 1), .reserved = reserved}; }

static void make_world(void) {
    um_limits limits = {.fingerprints_per_generation = 1000, .cells_per_series_max = 100};
    for (int r = 0; r < UM_REGIONS; r++) limits.records_max[r] = 4096;
    for (uint32_t r = 0; r < UM_REGIONS; r++) state.region[r] = arena(4096 * um_region_record_bytes(r));
    for (uint32_t x = 0; x < UM_INDEXES; x++) state.index[x] = arena(um_index_bytes_max(&limits, x));
    state.scratch = arena(um_scratch_bytes_max());
    um_state_init(&state, &limits);
    catalog.metric_count = 2;
    for (uint16_t m = 0; m < 2; m++) {
        um_metric *metric = &catalog.metrics[m];
        *metric = (um_metric){.id = m, .alive = 1, .aggregation = UM_AGG_UNIQUE, .recurring = (uint8_t)m, .dimension_count = 1, .code_len = 1};
        metric->code[0] = (char)('a' + m);
        metric->dimensions[0] = (um_dimension){.len = 1, .key = "r"};
    }
    um_catalog_index(&catalog);
}

static uint64_t put_row(uint8_t *out, const event *e) {
    uint8_t tail[64] = {0};
    uint64_t len = 0, name = strlen(names[e->dimension]);
    um_row row = {.timestamp_ns = e->ts, .value = e->value, .metric = (uint16_t)e->metric, .operation = (uint8_t)e->operation, .prop_count = 1};
    if (e->account == 0) {      /* account 0 of this test is the text account "t" */
        row.flags = UM_ROW_TEXT;
        tail[len++] = 1;
        tail[len++] = 't';
    } else {
        row.account = e->account;
    }
    tail[len++] = 1;
    tail[len++] = (uint8_t)name;
    tail[len++] = 'r';
    memcpy(tail + len, names[e->dimension], name);
    row.tail_len = (uint16_t)um__align(len + name, 8);
    memcpy(out, &row, sizeof row);
    memcpy(out + sizeof row, tail, row.tail_len);
    return sizeof row + row.tail_len;
}

/* one entry of `count` random events: applied, and appended to the journal in a record of its own */
static void happen(uint32_t count) {
    static um_summary summaries[1];
    static uint8_t verdicts[256];
    um_applied applied;
    um_entry entry = {.kind = UM_ENTRY_BATCHES, .batch_count = 1, .index = event_count + 1, .term = 1, .stamp_ns = 5};
    um_batch batch = {.row_count = count};
    um_record record = {.entry_count = 1, .seq = event_count + 1};
    uint8_t *out = journal + journal_len + sizeof record, *body = out + sizeof entry;
    uint64_t len = sizeof batch;
    assert(event_count + count <= EVENTS_MAX && count <= sizeof verdicts);
    entry.first_seq = event_count + 1;
    entry.row_count = count;
    for (uint32_t i = 0; i < count; i++) {
        event *e = &events[event_count++];
        const int64_t ts = (int64_t)(1 + dice(HOURS * 8) * (UM_HOUR_NS / 8) + dice(3));
        *e = (event){dice(3), ts, (int64_t)dice(MEMBERS), (uint32_t)dice(2), (uint32_t)dice(3), (uint32_t)dice(VALUES)};
        len += put_row(body + len, e);
    }
    batch.rows_len = (uint32_t)(len - sizeof batch);
    memcpy(body, &batch, sizeof batch);
    entry.body_len = (uint32_t)len;
    um_entry_seal(&entry, body);
    memcpy(out, &entry, sizeof entry);
    assert(um_entry_verify(out, sizeof entry + len));
    um_apply(&state, &catalog, out, summaries, verdicts, &applied);
    assert(summaries[0].stored == count);
    journal_len += um_record_seal(&record, journal + journal_len, sizeof entry + len);
    assert(journal_len + 65536 < sizeof journal);
}

/* ---- the plain answer ---- */

typedef struct { uint64_t count, unique; int64_t sum; } answer;

static answer plain(uint64_t known, const um_query_spec *spec, uint32_t dimension) {      /* dimension VALUES: all */
    const event *last[MEMBERS] = {0};
    answer a = {0, 0, 0};
    for (uint64_t i = 0; i < known; i++) {
        const event *e = &events[i];
        if (e->account != spec->account || e->metric != spec->metric || (dimension < VALUES && e->dimension != dimension) || e->ts >= spec->end) continue;
        if (e->ts >= spec->start) {
            a.count++;
            a.sum += e->value;
        }
        if ((e->ts >= spec->start || spec->metric == 1) && (!last[e->value] || e->ts >= last[e->value]->ts)) last[e->value] = e;
    }
    for (int m = 0; m < MEMBERS; m++) a.unique += last[m] && last[m]->operation != UM_OP_REMOVE;
    return a;
}

/* ---- asking ---- */

typedef struct {
    um_query_spec spec;
    um_arena scratch;
    um_query_info info;
    uint64_t known;
    uint32_t code, filter;
} asked;

static asked ask(int grouped, uint32_t filter) {      /* filter VALUES: none */
    asked q = {.known = event_count, .filter = filter};
    int64_t cut[2];
    for (int i = 0; i < 2; i++) cut[i] = dice(3) ? (int64_t)dice(HOURS * UM_HOUR_NS + 10) : events[dice(event_count)].ts + (int64_t)dice(2);
    q.spec = (um_query_spec){.account = dice(3), .metric = (uint32_t)dice(2), .group_by_count = (uint8_t)grouped, .filter_count = filter < VALUES};
    q.spec.start = cut[0] < cut[1] ? cut[0] : cut[1];
    q.spec.end = cut[0] < cut[1] ? cut[1] : cut[0];
    q.spec.text_len = q.spec.account == 0;
    const uint64_t name = filter < VALUES ? strlen(names[filter]) : 0;
    const uint64_t len = sizeof q.spec + q.spec.text_len + (uint64_t)grouped + (filter < VALUES ? 3 + name : 0);
    uint8_t *bytes = calloc(1, len), *at = bytes + sizeof q.spec;
    memcpy(bytes, &q.spec, sizeof q.spec);
    if (q.spec.text_len) *at++ = 't';
    at += grouped;      /* dimension 0 */
    if (filter < VALUES) {
        at[1] = 1;
        at[2] = (uint8_t)name;
        memcpy(at + 3, names[filter], name);
    }
    q.info.groups_max = 100;
    q.scratch = arena(dice(2) * dice(4096));      /* grows as it is told, a little at a time */
    while ((q.code = um_query_begin(&state, &catalog, bytes, len, &q.scratch, &q.info)) == UM_Q_SCRATCH) {
        uint64_t needed = q.info.scratch_needed;
        assert(needed > q.scratch.reserved && needed < 1 << 24);
        free(q.scratch.base);
        q.scratch = arena(needed - dice(needed / 4));
    }
    for (uint64_t short_len = dice(4); short_len < len; short_len += 1 + dice(8)) {      /* a spec that ends early is refused */
        um_query_info info = {.groups_max = 100};
        um_arena scratch = arena(1 << 15);
        uint8_t *copy = malloc(short_len + 1);
        memcpy(copy, bytes, short_len);
        assert(um_query_begin(&state, &catalog, copy, short_len, &scratch, &info) == UM_Q_MALFORMED);
        free(copy);
        free(scratch.base);
    }
    free(bytes);
    return q;
}

static void check(asked *q) {
    assert(q->code == UM_Q_DONE || q->code == UM_Q_SCAN);
    uint8_t *copy = malloc(journal_len);
    memcpy(copy, journal, journal_len);
    if (q->code == UM_Q_SCAN) um_query_scan(&state, &catalog, &q->scratch, 0, copy, journal_len, 0, UINT64_MAX);
    free(copy);
    uint64_t cursor = 0, grouped = q->spec.group_by_count, rows = 0;
    uint32_t dimension = 0;
    while (cursor < q->info.groups) {
        uint64_t cap = dice(300), used;
        uint8_t *out = malloc(cap + 1);
        used = um_query_rows(&state, &q->scratch, &cursor, out, cap);
        assert(used <= cap && used % 8 == 0);
        for (uint64_t at = 0; at < used; rows++) {
            um_query_row row;
            memcpy(&row, out + at, sizeof row);
            at += sizeof row;
            uint32_t which = q->filter;
            if (grouped) {
                uint16_t len;
                memcpy(&len, out + at, sizeof len);
                for (;; dimension++) {      /* groups come in order; one that was left out has nothing to say */
                    assert(dimension < VALUES);
                    if (strlen(names[dimension]) == len && !memcmp(names[dimension], out + at + 2, len)) break;
                    answer none = plain(q->known, &q->spec, dimension);
                    assert(q->filter < VALUES || (none.count == 0 && none.unique == 0));
                }
                which = dimension++;
            }
            answer expected = plain(q->known, &q->spec, which);
            assert(row.count == expected.count && (int64_t)row.sum_lo == expected.sum && row.unique == expected.unique);
            at += row.dims_len;
        }
        free(out);
    }
    assert(grouped || rows == 1);
    free(q->scratch.base);
}

static void answers_begun_before_later_entries_equal_the_plain_loop(void) {
    static asked open[64];
    for (int round = 0; round < 30; round++) {
        happen((uint32_t)(1 + dice(100)));
        uint64_t n = 1 + dice(64);
        for (uint64_t i = 0; i < n; i++) open[i] = ask(dice(2) == 0, (uint32_t)dice(2 * VALUES) % (VALUES + 3));
        if (event_count + 100 <= EVENTS_MAX) happen((uint32_t)dice(20));
        for (uint64_t i = 0; i < n; i++) check(&open[i]);
    }
}

/* ---- event lists ---- */

static void lists_hold_exactly_the_asked_events_and_stop_where_room_or_limit_ends(void) {
    for (int round = 0; round < 300; round++) {
        struct { um_events_spec spec; uint8_t text; } asked = {.text = 't'};
        asked.spec = (um_events_spec){.account = dice(3), .until = HOURS * UM_HOUR_NS, .metric = dice(2) ? UM_NONE : (uint32_t)dice(2)};
        asked.spec.since = (int64_t)dice(HOURS * UM_HOUR_NS);
        asked.spec.end_seq = 1 + dice(event_count + 10);
        asked.spec.text_len = asked.spec.account == 0;
        uint64_t len = sizeof asked.spec + asked.spec.text_len, wanted = 0, listed = 0, found;
        uint8_t *bytes = malloc(len);
        for (uint64_t i = 0; i < event_count; i++) {
            const event *e = &events[i];
            const int right = e->account == asked.spec.account && (asked.spec.metric == UM_NONE || e->metric == asked.spec.metric);
            wanted += right && e->ts >= asked.spec.since && i + 1 < asked.spec.end_seq;
        }
        do {
            um_arena out = arena(200 + dice(2000));
            memcpy(bytes, &asked, len);
            found = um_events_scan(&state, bytes, len, 0, journal, journal_len, 1 + dice(30), 0, UINT64_MAX, &out);
            for (uint64_t at = 0, i = 0; i < found; i++) {
                um_event_head head;
                um_row row;
                memcpy(&head, out.base + at, sizeof head);
                memcpy(&row, out.base + at + sizeof head, sizeof row);
                assert(head.seq > asked.spec.after_seq && events[head.seq - 1].ts == head.timestamp_ns && events[head.seq - 1].value == row.value);
                asked.spec.after_seq = head.seq;
                at += sizeof head + sizeof row + row.tail_len;
            }
            listed += found;
            free(out.base);
        } while (found);
        assert(listed == wanted);
        free(bytes);
    }
}

/* ---- noise ---- */

static void noise_in_records_and_specs_is_never_a_crash(void) {
    for (int round = 0; round < 1500; round++) {
        uint64_t len = dice(round % 3 ? 4096 : journal_len);
        uint8_t *copy = malloc(len + 1);
        memcpy(copy, journal, len);
        for (uint64_t n = dice(20); n && len; n--) copy[dice(len)] = (uint8_t)dice(256);
        um_query_spec spec = {.account = 1 + dice(2), .metric = (uint32_t)dice(2), .group_by_count = 1};
        spec.start = (int64_t)dice(UM_HOUR_NS);
        spec.end = (int64_t)(UM_HOUR_NS + dice(UM_HOUR_NS));
        uint8_t bytes[sizeof spec + 8] = {0};
        memcpy(bytes, &spec, sizeof spec);
        um_arena scratch = arena(1 << 16), out = arena(512);
        um_query_info info = {.groups_max = 50};
        assert(um_query_begin(&state, &catalog, bytes, sizeof spec + 1, &scratch, &info) <= UM_Q_SCAN);
        um_query_scan(&state, &catalog, &scratch, 0, copy, len, dice(3) ? 0 : dice(50), dice(3) ? UINT64_MAX : dice(90));
        um_events_spec listed = {.account = 1, .until = INT64_MAX, .end_seq = UINT64_MAX, .metric = UM_NONE};
        um_events_scan(&state, (const uint8_t *)&listed, sizeof listed, 0, copy, len, 1000, 0, UINT64_MAX, &out);
        for (int i = 0; i < 5; i++) {
            uint64_t spec_len = sizeof spec + dice(8);
            uint8_t *mutant = calloc(1, spec_len);
            memcpy(mutant, bytes, sizeof spec);
            for (uint64_t n = 1 + dice(4); n; n--) mutant[dice(spec_len)] = (uint8_t)dice(256);
            um_query_begin(&state, &catalog, mutant, spec_len, &scratch, &info);
            um_events_scan(&state, mutant, spec_len, 0, copy, len, 10, 0, UINT64_MAX, &out);
            free(mutant);
        }
        free(scratch.base);
        free(out.base);
        free(copy);
    }
}

int main(void) {
    make_world();
    answers_begun_before_later_entries_equal_the_plain_loop();
    lists_hold_exactly_the_asked_events_and_stop_where_room_or_limit_ends();
    noise_in_records_and_specs_is_never_a_crash();
    for (uint32_t r = 0; r < UM_REGIONS; r++) free(state.region[r].base);
    for (uint32_t x = 0; x < UM_INDEXES; x++) free(state.index[x].base);
    free(state.scratch.base);
    puts("test_query: ok");
    return 0;
}

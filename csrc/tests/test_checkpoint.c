/* test_checkpoint.c - random logs: totals against a recount, images taken while apply goes on, broken bytes. */
#include "state_fixture.h"

/* ---- a random log ---- */

#define FACTS_MAX 60000
typedef struct { uint64_t account; uint32_t metric, value_of_k; int64_t value, ts; uint64_t seq; } fact;

static void add_more_metrics(world *w) {
    um_metric *m = add_metric(w, UM_AGG_SUM);
    add_dimension(m, "k");
    m = add_metric(w, UM_AGG_UNIQUE);
    m->recurring = 1;
    m->period_type = UM_PERIOD_WEEK;
    add_threshold(m, 3, 1);
    m = add_metric(w, UM_AGG_COUNT);
    m->period_type = UM_PERIOD_DAY;
    add_dimension(m, "k");
    add_threshold(m, 4, 0);
}

static char texts[40][16], ids[200][16], values[20][16];
static void name_things(void) {
    for (int i = 0; i < 40; i++) snprintf(texts[i], 16, "acct%d", i);
    for (int i = 0; i < 200; i++) snprintf(ids[i], 16, "id%d", i);
    for (int i = 0; i < 20; i++) snprintf(values[i], 16, "v%d", i);
}

/* v1 events come from a small set, so that there are equal ones; others may have ids */
static event any_event(int v1) {
    event e = {.account = dice(12), .ts = BASE + (int64_t)dice(40) * UM_HOUR_NS / 3, .value = (int64_t)dice(9) - 3,
               .metric = (uint16_t)(dice(20) ? dice(8) : 999), .op = (uint8_t)dice(3)};
    if (dice(12) == 0) e.ts = 0;
    if (!v1 && dice(4) == 0) e.text = texts[dice(40)];
    if (!v1 && dice(3) == 0) e.id = ids[dice(200)];
    if (dice(2)) {
        e.props[0] = "k";
        e.props[1] = values[dice(20)];
    }
    return e;
}

static void write_entry(world *w) {
    const uint64_t batches = 1 + dice(4);
    for (uint64_t b = 0; b < batches; b++) {
        const int v1 = dice(2) != 0;
        const uint64_t session = v1 ? 0 : dice(3);
        const uint64_t number = 1 + dice(40);
        if (dice(10) == 0) {
            batch(w, UM_BATCH_OPEN_SESSION, 1 + dice(6), 0, 0);
            continue;
        }
        batch(w, v1 ? V1 : 0, session, session ? number : 0, session && number > 20 ? number - 20 : 0);
        for (uint64_t rows = dice(dice(8) ? 20 : 300); rows > 0; rows--) row(w, any_event(v1));
    }
}

static uint32_t k_of(const um__row_view *view) {   /* 1 + the number of the value of property k, 0 without */
    return view->prop_count == 0 ? 0 : 1 + (uint32_t)atoi((const char *)view->props[0].value + 1);
}

static uint32_t keep_stored(world *w, const uint8_t *entry, fact *facts, uint32_t count) {
    const um_entry *e = (const um_entry *)(const void *)entry;
    const uint8_t *at = entry + sizeof *e;
    uint64_t number = 0;
    for (uint32_t b = 0; b < e->batch_count; b++) {
        const um_batch *batch_head = (const um_batch *)(const void *)at;
        at += sizeof *batch_head;
        for (uint32_t i = 0; i < batch_head->row_count; i++, number++) {
            um__row_view view;
            assert(um__row_parse(at, UINT16_MAX, &view));
            at += view.total_len;
            if (w->verdicts[number] != UM_V_STORED) continue;
            assert(count < FACTS_MAX);
            const uint64_t account = view.text ? 1000 + um__find_account(&w->st, view.text, view.text_len) : view.head->account;
            facts[count++] = (fact){account, view.head->metric, k_of(&view), view.head->value,
                                    view.head->timestamp_ns ? view.head->timestamp_ns : w->stamp, meta(w)->next_seq - e->row_count + number};
        }
    }
    return count;
}

static void recount_bucket(world *w, const um_bucket *b, const fact *facts, uint32_t count) {
    const um_cell *c = um__um_cell(&w->st, b->cell);
    const um_series *s = um__um_series(&w->st, c->series);
    const uint64_t account = s->text ? 1000 + s->account : s->account;
    uint32_t k = 0;
    if (c->dims_len) {
        const um_value *v = um__um_value(&w->st, um__dims(&w->st, c->dims_off)[0]);
        k = 1;
        for (uint32_t i = 1; i < v->len; i++) k = (k - 1) * 10 + (uint32_t)(um__heap(&w->st, v->heap_off)[i] - '0') + 1;
    }
    um__acc sum;
    memset(&sum, 0, sizeof sum);
    for (uint32_t i = 0; i < count; i++) {
        if (facts[i].account != account || facts[i].metric != s->metric || um__hour(facts[i].ts) != b->hour) continue;
        if (w->catalog->metrics[s->metric].dimension_count && facts[i].value_of_k != k) continue;
        um__acc_event(&sum, facts[i].value, facts[i].ts, facts[i].seq);
    }
    assert(sum.count == b->count && sum.sum_lo == b->sum_lo && sum.sum_hi == b->sum_hi && sum.min == b->min && sum.max == b->max);
    assert(sum.last_value == b->last_value && sum.last_ts == b->last_ts && sum.last_seq == b->last_seq);
}

static void buckets_equal_a_recount_of_what_was_stored(void) {
    world *w = world_new(plenty());
    static fact facts[FACTS_MAX];
    uint32_t count = 0;
    add_more_metrics(w);
    for (int i = 0; i < 150; i++) {
        write_entry(w);
        static uint8_t copy[ENTRY_BYTES_MAX];
        memcpy(copy, w->entry, w->used);
        commit(w);
        count = keep_stored(w, copy, facts, count);
    }
    assert(count == meta(w)->stored && count > 1000 && meta(w)->duplicates > 100 && meta(w)->conflicts > 10);
    for (uint32_t b = 0; b < records(w, UM_R_BUCKETS); b++) recount_bucket(w, um__um_bucket(&w->st, b), facts, count);
    printf("    %u events stored, %llu duplicates, %llu conflicts, %u alerts, %llu rotations\n", count,
           (unsigned long long)meta(w)->duplicates, (unsigned long long)meta(w)->conflicts, records(w, UM_R_ALERTS),
           (unsigned long long)meta(w)->fps_rotations);
    world_free(w);
}

/* ---- images ---- */

static uint64_t read_image(world *w, uint8_t *out, uint64_t total, uint64_t step_max, int apply_meanwhile) {
    uint64_t at = 0, produced;
    for (int i = 0; apply_meanwhile && i < 2; i++) {   /* before anything was read */
        write_entry(w);
        commit(w);
    }
    while ((produced = um_ckpt_read(&w->st, out + at, 1 + dice(step_max))) != 0) {
        at += produced;
        assert(at <= total);
        if (apply_meanwhile && dice(2)) {
            write_entry(w);
            commit(w);
        }
    }
    return at;
}

static void load_image(um_state *st, const um_limits *limits, const uint8_t *image, uint64_t len) {
    give_memory(st, limits);
    for (uint64_t at = 0; at < len;) {
        uint64_t part = 1 + dice(dice(4) ? 10000 : 50);
        if (part > len - at) part = len - at;
        uint8_t *exact = malloc(part);
        assert(exact);
        memcpy(exact, image + at, part);
        assert(um_ckpt_load(st, at, exact, part) == 0);
        free(exact);
        at += part;
    }
    assert(um_ckpt_load(st, len, (const uint8_t *)"x", 1) == 1);   /* nothing comes after the image */
    um_state_reindex(st);
}

static void an_image_shows_the_moment_of_begin_while_apply_goes_on(void) {
    for (int round = 0; round < 12; round++) {
        um_limits limits = plenty();
        limits.fingerprints_per_generation = 50 + dice(200);
        world *w = world_new(limits);
        add_more_metrics(w);
        for (int i = 0; i < 10 + (int)dice(30); i++) {
            write_entry(w);
            commit(w);
        }
        for (int again = 0; again < 2; again++) {
            const uint64_t digest = um_state_digest(&w->st), index = meta(w)->applied_index;
            const uint64_t total = um_ckpt_begin(&w->st);
            uint8_t *image = malloc(total + 5000);
            assert(image);
            assert(read_image(w, image, total, dice(2) ? 5000 : 300 + 4096, 1) == total);
            const uint64_t saved = w->st.cow.used;
            um_ckpt_end(&w->st);
            assert(meta(w)->applied_index > index && saved > 0);
            um_state copy;
            load_image(&copy, &limits, image, total);
            assert(um_state_digest(&copy) == digest && um_state_check(&copy, w->catalog) == 0);
            assert(um__meta(&copy)->applied_index == index);
            take_memory(&copy);
            free(image);
        }
        world_free(w);
    }
}

static void a_loaded_state_goes_on_exactly_like_the_one_it_was_taken_from(void) {
    world *a = world_new(plenty()), *b = world_new(plenty());
    const um_limits limits = plenty();
    add_more_metrics(a);
    add_more_metrics(b);
    for (int i = 0; i < 30; i++) {
        write_entry(a);
        commit(a);
    }
    const uint64_t total = um_ckpt_begin(&a->st);
    uint8_t *image = malloc(total);
    assert(image && um_ckpt_read(&a->st, image, total) == total && um_ckpt_read(&a->st, image, total) == 0);
    um_ckpt_end(&a->st);
    take_memory(&b->st);
    load_image(&b->st, &limits, image, total);
    b->index = a->index;
    b->stamp = a->stamp;
    for (int i = 0; i < 60; i++) {
        write_entry(a);
        memcpy(b->entry, a->entry, a->used);
        b->used = a->used;
        commit(a);
        commit(b);
        assert(memcmp(a->verdicts, b->verdicts, a->applied.row_count) == 0 && meta(a)->digest == meta(b)->digest);
    }
    assert(um_state_digest(&a->st) == um_state_digest(&b->st));
    free(image);
    world_free(a);
    world_free(b);
}

static void bytes_that_are_not_an_image_are_refused(void) {
    um_limits limits = plenty();
    for (int r = UM_R_HEAP; r < UM_REGIONS; r++) limits.records_max[r] = 10;
    world *w = world_new(limits);
    send(w, V1, EVENT());
    const uint64_t total = um_ckpt_begin(&w->st);
    uint8_t *image = malloc(total), *bad = malloc(total);
    assert(image && bad && um_ckpt_read(&w->st, image, total) == total);
    um_ckpt_end(&w->st);
    for (uint64_t at = 0; at < 12; at++) {
        um_state st;
        memcpy(bad, image, total);
        bad[at] ^= 1;
        give_memory(&st, &limits);
        assert(um_ckpt_load(&st, 0, bad, total) == 1);
        take_memory(&st);
    }
    for (int i = 0; i < 300; i++) {   /* whatever the bytes: no crash */
        um_state st;
        memcpy(bad, image, total);
        bad[dice(total)] ^= (uint8_t)(1 + dice(255));
        give_memory(&st, &limits);
        if (um_ckpt_load(&st, 0, bad, total) == 0) um_state_reindex(&st);
        take_memory(&st);
    }
    free(image);
    free(bad);
    world_free(w);
}

/* ---- broken bytes ---- */

static void an_entry_of_broken_bytes_never_reads_or_writes_beyond(void) {
    world *w = world_new(plenty());
    add_more_metrics(w);
    for (int i = 0; i < 3000; i++) {
        write_entry(w);
        const uint64_t last = w->used;
        for (uint64_t flips = 1 + dice(5); flips > 0; flips--) {
            w->entry[sizeof(um_entry) + dice(last - sizeof(um_entry))] ^= (uint8_t)(1ULL << dice(8));
        }
        apply_entry(w, UM_ENTRY_BATCHES);   /* um_entry_verify would refuse it; apply must still be safe */
    }
    world_free(w);
}

static void rows_are_parsed_within_their_bytes_whatever_these_are(void) {
    uint64_t good = 0;
    for (int i = 0; i < 200000; i++) {
        uint8_t bytes[256], *exact;
        event e = any_event(0);
        if (dice(2)) e.props[2] = "kk", e.props[3] = "";
        uint64_t len = write_row(bytes, e);
        for (uint64_t flips = dice(3); flips > 0; flips--) bytes[dice(len)] ^= (uint8_t)(1ULL << dice(8));
        if (dice(4) == 0) len = dice(len + 1);
        exact = malloc(len ? len : 1);
        assert(exact);
        memcpy(exact, bytes, len);
        um__row_view view;
        if (um__row_parse(exact, len, &view)) {
            assert(view.total_len <= len && view.head->operation <= 2 && view.head->timestamp_ns >= 0);
            good++;
        }
        free(exact);
    }
    assert(good > 50000 && good < 150000);
}

int main(void) {
    name_things();
    RUN(buckets_equal_a_recount_of_what_was_stored);
    RUN(an_image_shows_the_moment_of_begin_while_apply_goes_on);
    RUN(a_loaded_state_goes_on_exactly_like_the_one_it_was_taken_from);
    RUN(bytes_that_are_not_an_image_are_refused);
    RUN(an_entry_of_broken_bytes_never_reads_or_writes_beyond);
    RUN(rows_are_parsed_within_their_bytes_whatever_these_are);
    puts("test_checkpoint: ok");
    return 0;
}

/* test_state.c - what apply does to a state, claim by claim: run under the sanitizers; exits by assert. */
#include "state_fixture.h"

/* ---- totals ---- */

static void every_field_of_a_bucket_is_filled_whatever_the_aggregation(void) {
    world *w = world_new(plenty());
    for (uint16_t metric = 0; metric < 5; metric++) {
        batch(w, 0, 0, 0, 0);
        row(w, EVENT(.metric = metric, .value = 5, .ts = BASE + 3));
        row(w, EVENT(.metric = metric, .value = -9, .ts = BASE + 9));
        row(w, EVENT(.metric = metric, .value = 4, .ts = BASE + 1));
        commit(w);
        assert(w->sums[0].stored == 3 && w->sums[0].first_bad == UM_NONE && w->sums[0].last_offset == meta(w)->next_seq - 1);
        const um_bucket *b = bucket_of(w, 7, metric, BASE);
        assert(b->count == 3 && b->sum_lo == 0 && b->sum_hi == 0 && b->min == -9 && b->max == 5);
        assert(b->last_value == -9 && b->first_ts == BASE + 1 && b->last_ts == BASE + 9);
        assert(b->first_seq == metric * 3u + 1 && b->last_seq == metric * 3u + 2);
    }
    assert(records(w, UM_R_MEMBERS) == 3 && records(w, UM_R_SERIES) == 5);
    assert(w->applied.min_ts == BASE + 1 && w->applied.max_ts == BASE + 9);
    world_free(w);
}

static void a_sum_is_exact_beyond_64_bits(void) {
    world *w = world_new(plenty());
    for (int i = 0; i < 5; i++) send(w, 0, EVENT(.metric = 1, .value = INT64_MAX));
    for (int i = 0; i < 5; i++) send(w, 0, EVENT(.metric = 1, .value = INT64_MIN));
    const um_bucket *b = bucket_of(w, 7, 1, BASE);
    assert(b->sum_lo == (uint64_t)-5 && b->sum_hi == -1);
    world_free(w);
}

static void among_equal_timestamps_the_later_in_the_log_is_latest(void) {
    world *w = world_new(plenty());
    send(w, 0, EVENT(.metric = 3, .value = 10));
    send(w, 0, EVENT(.metric = 3, .value = 11));
    send(w, 0, EVENT(.metric = 3, .value = 12, .ts = BASE - 1));
    assert(bucket_of(w, 7, 3, BASE)->last_value == 11 && bucket_of(w, 7, 3, BASE)->last_seq == 2);
    world_free(w);
}

static void timestamp_zero_takes_the_entrys_stamp(void) {
    world *w = world_new(plenty());
    w->stamp = BASE + 5 * UM_HOUR_NS;
    send(w, 0, EVENT(.ts = 0));
    assert(bucket_of(w, 7, 0, BASE + 5 * UM_HOUR_NS)->last_ts == w->stamp && w->applied.min_ts == w->stamp);
    world_free(w);
}

static void dimensions_make_cells_and_missing_ones_are_empty(void) {
    world *w = world_new(plenty());
    um_metric *m = add_metric(w, UM_AGG_COUNT);
    add_dimension(m, "region");
    add_dimension(m, "model");
    batch(w, 0, 0, 0, 0);
    row(w, EVENT(.metric = 5, .props = {"model", "x", "region", "x"}));
    row(w, EVENT(.metric = 5, .props = {"region", "x"}));
    row(w, EVENT(.metric = 5, .props = {"other", "zzz"}));
    row(w, EVENT(.metric = 5));
    row(w, EVENT(.metric = 5, .props = {"model", "x"}));
    row(w, EVENT(.metric = 5, .props = {"model", "", "region", "x"}));
    row(w, EVENT(.text = "seven", .metric = 5, .props = {"model", "y"}));
    commit(w);
    assert(w->sums[0].stored == 7 && records(w, UM_R_SERIES) == 2 && records(w, UM_R_CELLS) == 5);
    assert(records(w, UM_R_VALUES) == 3 && records(w, UM_R_HEAP) == 7 && records(w, UM_R_DIMS) == 7);
    const uint32_t x = um__find_value(&w->st, (const uint8_t *)"x", 1);
    const uint32_t series = um__find_series(&w->st, 7, 0, 5);
    assert(um__um_series(&w->st, series)->cell_count == 4);
    const uint32_t cell = um__find_cell(&w->st, series, &x, 1);   /* region x, model absent or "" */
    assert(um__um_bucket(&w->st, um__um_cell(&w->st, cell)->hot_bucket)->count == 2);
    assert(um__find_account(&w->st, (const uint8_t *)"seven", 5) == 0);
    world_free(w);
}

static void the_last_operation_on_a_member_decides_whenever_it_arrives(void) {
    world *w = world_new(plenty());
    send(w, 0, EVENT(.metric = 4, .value = 42, .op = UM_OP_REMOVE, .ts = BASE + 10));
    send(w, 0, EVENT(.metric = 4, .value = 42, .op = UM_OP_ADD, .ts = BASE + 5));
    const um_member *m = um__um_member(&w->st, 0);
    assert(m->operation == UM_OP_REMOVE && m->last_ts == BASE + 10 && records(w, UM_R_MEMBERS) == 1);
    send(w, 0, EVENT(.metric = 4, .value = 42, .op = UM_OP_NONE, .ts = BASE + 10));
    assert(m->operation == UM_OP_ADD && m->last_seq == 3 && bucket_of(w, 7, 4, BASE)->count == 3);
    world_free(w);
}

/* ---- exactly once ---- */

static void resend(world *w, int rows) {
    batch(w, V1, 0, 0, 0);
    for (int i = 0; i < rows; i++) row(w, EVENT(.account = 1 + (uint64_t)(i % 3), .value = i / 6));
    commit(w);
}

static void a_resent_v1_batch_adds_nothing_and_equal_events_in_one_count_twice(void) {
    world *w = world_new(plenty());
    resend(w, 600);   /* every event twice */
    assert(w->sums[0].stored == 600);
    resend(w, 600);
    assert(w->sums[0].stored == 0 && w->sums[0].duplicates == 600 && w->sums[0].first_bad == UM_NONE);
    assert(meta(w)->stored == 600 && records(w, UM_R_SKIPS) == 1 && um__is_skipped(&w->st, 601) && !um__is_skipped(&w->st, 600));
    resend(w, 3);     /* the first of each pair alone: the same request shape, so duplicates */
    assert(w->sums[0].duplicates == 3);
    batch(w, V1, 0, 0, 0);   /* a third equal event in one request is a new one */
    for (int i = 0; i < 3; i++) row(w, EVENT(.account = 1, .value = 0));
    commit(w);
    assert(w->sums[0].duplicates == 2 && w->sums[0].stored == 1);
    world_free(w);
}

static void v1_rows_stamped_by_the_node_are_never_duplicates(void) {
    world *w = world_new(plenty());
    for (int i = 0; i < 3; i++) assert(send(w, V1, EVENT(.ts = 0)) == UM_V_STORED);
    assert(records(w, UM_R_FPS0) == 0);
    world_free(w);
}

static void fingerprints_are_forgotten_after_two_generations_and_not_before(void) {
    um_limits limits = plenty();
    limits.fingerprints_per_generation = 10;
    world *w = world_new(limits);
    for (int64_t i = 0; i < 20; i++) assert(send(w, V1, EVENT(.value = i)) == UM_V_STORED);
    assert(meta(w)->fps_rotations == 1);
    assert(send(w, V1, EVENT(.value = 19)) == UM_V_DUPLICATE && meta(w)->fps_rotations == 2);   /* the turn came with this entry */
    assert(send(w, V1, EVENT(.value = 10)) == UM_V_DUPLICATE);
    assert(send(w, V1, EVENT(.value = 9)) == UM_V_STORED);
    world_free(w);
}

static void an_entry_that_would_not_fit_a_generation_begins_the_next(void) {
    um_limits limits = plenty();
    limits.records_max[UM_R_FPS0] = limits.records_max[UM_R_FPS1] = 100;
    world *w = world_new(limits);
    for (int64_t round = 0; round < 5; round++) {
        batch(w, V1, 0, 0, 0);
        for (int64_t i = 0; i < 60; i++) row(w, EVENT(.value = round * 60 + i));
        commit(w);
        assert(w->sums[0].stored == 60 && meta(w)->fps_rotations == (uint64_t)round);
    }
    batch(w, V1, 0, 0, 0);
    for (int64_t i = 0; i < 101; i++) row(w, EVENT(.value = 1000 + i));
    commit(w);
    assert(w->sums[0].stored == 100 && w->verdicts[100] == UM_V_FULL);
    world_free(w);
}

static void a_row_refused_for_room_can_be_resent_with_its_batch(void) {
    um_limits limits = plenty();
    world *w = world_new(limits);
    meta(w)->limits.records_max[UM_R_FPS0] = 2;
    batch(w, V1, 0, 0, 0);
    for (int i = 0; i < 4; i++) row(w, EVENT(.value = 5));
    commit(w);
    assert(w->sums[0].stored == 2 && w->sums[0].refused == 2 && w->sums[0].first_bad == 2 && w->sums[0].first_verdict == UM_V_FULL);
    meta(w)->limits.records_max[UM_R_FPS0] = 100;
    batch(w, V1, 0, 0, 0);
    for (int i = 0; i < 4; i++) row(w, EVENT(.value = 5));
    commit(w);
    assert(w->sums[0].duplicates == 2 && w->sums[0].stored == 2 && w->verdicts[1] == UM_V_DUPLICATE && w->verdicts[2] == UM_V_STORED);
    world_free(w);
}

static void an_id_counts_once_per_account_and_other_content_is_a_conflict(void) {
    world *w = world_new(plenty());
    assert(send(w, 0, EVENT(.id = "a")) == UM_V_STORED);
    assert(send(w, V1, EVENT(.id = "a")) == UM_V_DUPLICATE);
    assert(send(w, 0, EVENT(.id = "a", .value = 2)) == UM_V_CONFLICT && w->sums[0].conflicts == 1 && w->sums[0].first_bad == 0);
    assert(send(w, 0, EVENT(.id = "a", .props = {"k", "v"})) == UM_V_CONFLICT);
    assert(send(w, 0, EVENT(.id = "a", .metric = 1)) == UM_V_CONFLICT);
    assert(send(w, 0, EVENT(.id = "a", .account = 8)) == UM_V_STORED);
    assert(send(w, 0, EVENT(.id = "b")) == UM_V_STORED);
    assert(send(w, 0, EVENT(.id = "a", .text = "\7\1\1\1\1\1\1\1")) == UM_V_STORED);   /* bytes like a number's */
    assert(send(w, 0, EVENT(.id = "c", .props = {"k", "v"})) == UM_V_STORED);
    assert(send(w, 0, EVENT(.id = "c", .props = {"k", "v"})) == UM_V_DUPLICATE);
    assert(meta(w)->stored == 5 && meta(w)->conflicts == 3 && meta(w)->duplicates == 2 && records(w, UM_R_IDS) == 5);
    batch(w, 0, 0, 0, 0);
    row(w, EVENT(.id = "d"));
    row(w, EVENT(.id = "d"));
    commit(w);
    assert(w->sums[0].stored == 1 && w->sums[0].duplicates == 1);
    world_free(w);
}

/* ---- sessions ---- */

static um_summary numbered(world *w, uint64_t session, uint64_t number, uint64_t settled_below, int rows) {
    batch(w, 0, session, number, settled_below);
    for (int i = 0; i < rows; i++) row(w, EVENT(.metric = i % 3 == 2 ? 999 : 0));
    commit(w);
    return w->sums[0];
}

static uint32_t open_session(world *w, uint64_t session) {
    batch(w, UM_BATCH_OPEN_SESSION, session, 0, 0);
    commit(w);
    return w->sums[0].session_verdict;
}

static void a_retry_gets_the_first_answer_and_counts_nothing(void) {
    world *w = world_new(plenty());
    assert(open_session(w, 5) == 0 && open_session(w, 5) == 0 && meta(w)->sessions_opened == 1);
    const um_summary first = numbered(w, 5, 1, 1, 4);
    assert(first.stored == 3 && first.refused == 1 && first.first_bad == 2 && first.first_verdict == UM_V_UNKNOWN_METRIC);
    for (int i = 0; i < 3; i++) {
        const um_summary again = numbered(w, 5, 1, 1, 4);
        assert(again.session_verdict == UM_V_DUPLICATE && again.stored == 3 && again.refused == 1 && again.first_bad == 2);
        assert(again.first_verdict == UM_V_UNKNOWN_METRIC && again.last_offset == first.last_offset && w->verdicts[0] == UM_V_DUPLICATE);
        assert(open_session(w, 5) == 0);   /* re-opening changes nothing */
    }
    assert(meta(w)->stored == 3 && meta(w)->duplicates == 12 && meta(w)->refused == 1 && records(w, UM_R_SKIPS) == 2);
    world_free(w);
}

static void numbers_may_arrive_in_any_order_within_the_window(void) {
    world *w = world_new(plenty());
    open_session(w, 5);
    for (uint64_t number = 64; number >= 1; number--) assert(numbered(w, 5, number, 1, 1).stored == 1);
    assert(numbered(w, 5, 65, 1, 1).session_verdict == UM_V_SESSION_WINDOW && w->sums[0].refused == 1);
    assert(w->sums[0].first_bad == 0 && w->sums[0].first_verdict == UM_V_SESSION_WINDOW);
    assert(numbered(w, 5, 65, 2, 1).stored == 1);
    assert(numbered(w, 5, 1, 1, 2).session_verdict == UM_V_SESSION_SETTLED && w->sums[0].duplicates == 2 && w->sums[0].first_bad == UM_NONE);
    assert(numbered(w, 5, 2, 2, 1).session_verdict == UM_V_DUPLICATE);
    assert(numbered(w, 5, 0, 0, 1).session_verdict == UM_V_SESSION_SETTLED);
    world_free(w);
}

static void an_earlier_number_never_displaces_a_later_one(void) {
    world *w = world_new(plenty());
    open_session(w, 5);
    assert(numbered(w, 5, 65, 1, 1).stored == 1);
    assert(numbered(w, 5, 1, 1, 1).session_verdict == UM_V_SESSION_WINDOW);
    assert(numbered(w, 5, 65, 1, 1).session_verdict == UM_V_DUPLICATE);
    world_free(w);
}

static void an_unknown_session_is_refused_and_rows_of_other_batches_are_not(void) {
    world *w = world_new(plenty());
    batch(w, 0, 9, 1, 1);
    row(w, EVENT(.value = 1));
    batch(w, UM_BATCH_OPEN_SESSION, 9, 0, 0);
    batch(w, 0, 9, 1, 1);
    row(w, EVENT(.value = 2));
    commit(w);
    assert(w->sums[0].session_verdict == UM_V_SESSION_UNKNOWN && w->sums[0].refused == 1 && w->verdicts[0] == UM_V_SESSION_UNKNOWN);
    assert(w->sums[1].session_verdict == 0 && w->sums[1].row_base == 1 && w->sums[2].stored == 1 && w->sums[2].last_offset == 2);
    world_free(w);
}

static void a_full_table_evicts_the_session_idle_longest_and_only_an_idle_one(void) {
    world *w = world_new(plenty());
    for (uint64_t session = 1; session <= 4; session++) assert(open_session(w, session) == 0);
    numbered(w, 1, 1, 1, 1);
    assert(open_session(w, 5) == UM_V_SESSIONS_FULL);
    w->stamp += DAY_NS - 1;
    assert(open_session(w, 5) == 0 && meta(w)->sessions_evicted == 1);   /* 2 was the oldest; 1 was used since */
    assert(numbered(w, 2, 1, 1, 1).session_verdict == UM_V_SESSION_UNKNOWN);
    assert(numbered(w, 1, 1, 1, 1).session_verdict == UM_V_DUPLICATE && numbered(w, 5, 1, 1, 1).stored == 1);
    assert(records(w, UM_R_SESSIONS) == 4 && meta(w)->sessions_opened == 5);
    world_free(w);
}

/* ---- refusals ---- */

static void unknown_and_deleted_metrics_are_refused_and_the_rest_is_stored(void) {
    world *w = world_new(plenty());
    w->catalog->metrics[2].alive = 0;
    batch(w, V1, 0, 0, 0);
    row(w, EVENT(.metric = 2));
    row(w, EVENT(.metric = 0));
    row(w, EVENT(.metric = 4095));
    commit(w);
    assert(w->sums[0].stored == 1 && w->sums[0].refused == 2 && w->sums[0].first_bad == 0);
    assert(w->verdicts[0] == UM_V_UNKNOWN_METRIC && w->verdicts[1] == UM_V_STORED && records(w, UM_R_SKIPS) == 2);
    assert(um__is_skipped(&w->st, 1) && !um__is_skipped(&w->st, 2) && um__is_skipped(&w->st, 3) && !um__is_skipped(&w->st, 4));
    world_free(w);
}

static void cells_beyond_the_limit_are_refused_by_name(void) {
    um_limits limits = plenty();
    limits.cells_per_series_max = 3;
    world *w = world_new(limits);
    add_dimension(add_metric(w, UM_AGG_SUM), "k");
    const char *values[] = {"a", "b", "c", "d", "a", ""};
    batch(w, 0, 0, 0, 0);
    for (int i = 0; i < 6; i++) row(w, EVENT(.metric = 5, .props = {"k", values[i]}));
    commit(w);
    assert(w->verdicts[3] == UM_V_CARDINALITY && w->verdicts[4] == UM_V_STORED && w->verdicts[5] == UM_V_CARDINALITY);
    assert(um__find_value(&w->st, (const uint8_t *)"d", 1) == UM_NONE);
    world_free(w);
}

static event crowded(uint64_t i) {   /* needs something new of every table */
    static char text[64][8], id[64][8], value[64][8];
    const uint64_t slot = i % 64;
    snprintf(text[slot], 8, "t%llu", (unsigned long long)i % 1000000);
    snprintf(id[slot], 8, "i%llu", (unsigned long long)i % 1000000);
    snprintf(value[slot], 8, "v%llu", (unsigned long long)i % 1000000);
    return (event){.text = i % 2 ? text[slot] : NULL, .account = i, .id = i % 3 ? id[slot] : NULL, .ts = BASE + (int64_t)i * UM_HOUR_NS,
                   .value = (int64_t)i, .metric = 5, .props = {"k", value[slot]}};
}

static uint64_t digest_of_tables(const world *w) {   /* of all but META and SKIPS */
    uint64_t digest = 0;
    for (uint32_t r = UM_R_HEAP; r < UM_R_SKIPS; r++) digest = um_hash64(w->st.region[r].base, w->st.region[r].used, digest);
    return digest;
}

static void a_full_table_is_a_verdict_and_leaves_no_trace(void) {
    for (uint32_t region = UM_R_HEAP; region < UM_REGIONS; region++) {
        if (region == UM_R_SESSIONS || region == UM_R_FPS1) continue;
        um_limits limits = plenty();
        limits.records_max[region] = region == UM_R_SKIPS ? 1 : 17;
        world *w = world_new(limits);
        um_metric *m = add_metric(w, UM_AGG_UNIQUE);
        add_dimension(m, "k");
        add_threshold(m, 1, 1);
        m->period_type = UM_PERIOD_DAY;
        if (region == UM_R_SKIPS) assert(send(w, 0, EVENT(.metric = 999)) == UM_V_UNKNOWN_METRIC);
        uint64_t full = 0;
        for (uint64_t i = 1; i < 60; i++) {
            const uint64_t before = digest_of_tables(w);
            const uint32_t verdict = send(w, V1, crowded(i));
            assert(verdict == UM_V_STORED || verdict == UM_V_FULL);
            if (verdict != UM_V_FULL) continue;
            full++;
            assert(digest_of_tables(w) == before && w->sums[0].refused == 1);
        }
        assert(region == UM_R_FPS0 ? full == 0 : full > 0);   /* generations rotate before they are full */
        world_free(w);
    }
}

/* ---- looking ahead ---- */

#define SMALL 60   /* rows of the entry with a batch for each */

/* Few accounts, words and members, so that most rows need what one of the rows just before has brought. */
static event mixed(uint64_t i, uint32_t flags) {
    static const char *const words[] = {"a", "b", "c", "d"};
    event e = EVENT(.account = 1 + dice(9), .metric = (uint16_t)dice(6), .value = (int64_t)dice(5), .op = (uint8_t)dice(3));
    e.ts = flags & V1 ? BASE + (int64_t)(i * 1000) : BASE + (int64_t)dice(3) * UM_HOUR_NS;
    if (flags & V1 && dice(4) == 0) e.ts -= 200 * 1000;   /* late; its value tells it from the one that has that time */
    if (dice(3) == 0) e.text = words[dice(4)];
    if (!(flags & V1) && dice(2) == 0) e.id = words[dice(4)];
    if (e.metric == 5) {
        e.props[0] = "model";
        e.props[1] = words[dice(4)];
    }
    if (flags & V1) e.value = (int64_t)i;
    return e;
}

static void many_rows_of_a_batch_end_as_each_would_alone(void) {
    for (uint32_t round = 0; round < 24; round++) {
        const uint32_t flags = round % 2 ? V1 : 0;
        world *together = world_new(plenty()), *alone = world_new(plenty());
        add_dimension(add_metric(together, UM_AGG_SUM), "model");
        add_dimension(add_metric(alone, UM_AGG_SUM), "model");
        for (uint64_t from = 0; from < 10 * SMALL; from += SMALL * (1 + from / SMALL)) {
            const uint64_t rows = SMALL * (1 + from / SMALL), before = chance;
            batch(together, flags, 0, 0, 0);
            for (uint64_t i = from; i < from + rows; i++) row(together, mixed(i, flags));
            commit(together);
            chance = before;
            for (uint64_t i = from; i < from + rows; i++) {
                batch(alone, flags, 0, 0, 0);
                row(alone, mixed(i, flags));
                if ((i + 1) % SMALL != 0) continue;
                commit(alone);
                assert(memcmp(together->verdicts + (i + 1 - SMALL - from), alone->verdicts, SMALL) == 0);
            }
            assert(meta(together)->digest == meta(alone)->digest && digest_of_tables(together) == digest_of_tables(alone));
        }
        assert(meta(together)->stored > 100 && (flags != 0 || meta(together)->duplicates + meta(together)->conflicts > 100));
        world_free(together);
        world_free(alone);
    }
}

/* ---- the entry ---- */

static void entries_without_rows_only_move_the_log_on(void) {
    world *w = world_new(plenty());
    send(w, 0, EVENT());
    const uint64_t tables = digest_of_tables(w), next_seq = meta(w)->next_seq;
    apply_entry(w, UM_ENTRY_CATALOG);
    apply_entry(w, UM_ENTRY_NOOP);
    assert(digest_of_tables(w) == tables && meta(w)->next_seq == next_seq && meta(w)->applied_index == 3);
    assert(w->applied.min_ts > w->applied.max_ts && meta(w)->stamp_ns == w->stamp);
    um_limits limits = plenty();
    limits.cells_per_series_max = 1;
    memcpy(w->entry + w->used, &limits, sizeof limits);
    w->used += sizeof limits;
    apply_entry(w, UM_ENTRY_LIMITS);
    assert(meta(w)->limits.cells_per_series_max == 1 && meta(w)->applied_index == 4);
    must_be_sound(w);
    world_free(w);
}

static void rows_not_stored_become_few_runs(void) {
    world *w = world_new(plenty());
    for (int i = 0; i < 50; i++) {
        batch(w, 0, 0, 0, 0);
        for (int j = 0; j < 100; j++) row(w, EVENT(.metric = j < 10 ? 0 : 999));
        commit(w);
    }
    assert(records(w, UM_R_SKIPS) == 50 && meta(w)->stored == 500 && meta(w)->next_seq == 5001);
    for (uint64_t seq = 1; seq < 5001; seq++) assert(um__is_skipped(&w->st, seq) == ((seq - 1) % 100 >= 10));
    world_free(w);
}

static void a_flipped_bit_in_a_bucket_is_noticed_at_its_next_update(void) {
    world *a = world_new(plenty()), *b = world_new(plenty());
    send(a, 0, EVENT(.value = 3));
    send(b, 0, EVENT(.value = 3));
    assert(meta(a)->digest == meta(b)->digest && um_state_digest(&a->st) == um_state_digest(&b->st));
    bucket_of(b, 7, 0, BASE)->sum_lo ^= 1ULL << 40;
    assert(um_state_digest(&a->st) != um_state_digest(&b->st) && meta(a)->digest == meta(b)->digest);
    send(a, 0, EVENT(.value = 3));
    send(b, 0, EVENT(.value = 3));
    assert(meta(a)->digest != meta(b)->digest);
    world_free(a);
    world_free(b);
}

int main(void) {
    RUN(every_field_of_a_bucket_is_filled_whatever_the_aggregation);
    RUN(a_sum_is_exact_beyond_64_bits);
    RUN(among_equal_timestamps_the_later_in_the_log_is_latest);
    RUN(timestamp_zero_takes_the_entrys_stamp);
    RUN(dimensions_make_cells_and_missing_ones_are_empty);
    RUN(the_last_operation_on_a_member_decides_whenever_it_arrives);
    RUN(a_resent_v1_batch_adds_nothing_and_equal_events_in_one_count_twice);
    RUN(v1_rows_stamped_by_the_node_are_never_duplicates);
    RUN(fingerprints_are_forgotten_after_two_generations_and_not_before);
    RUN(an_entry_that_would_not_fit_a_generation_begins_the_next);
    RUN(a_row_refused_for_room_can_be_resent_with_its_batch);
    RUN(an_id_counts_once_per_account_and_other_content_is_a_conflict);
    RUN(a_retry_gets_the_first_answer_and_counts_nothing);
    RUN(numbers_may_arrive_in_any_order_within_the_window);
    RUN(an_earlier_number_never_displaces_a_later_one);
    RUN(an_unknown_session_is_refused_and_rows_of_other_batches_are_not);
    RUN(a_full_table_evicts_the_session_idle_longest_and_only_an_idle_one);
    RUN(unknown_and_deleted_metrics_are_refused_and_the_rest_is_stored);
    RUN(cells_beyond_the_limit_are_refused_by_name);
    RUN(a_full_table_is_a_verdict_and_leaves_no_trace);
    RUN(many_rows_of_a_batch_end_as_each_would_alone);
    RUN(entries_without_rows_only_move_the_log_on);
    RUN(rows_not_stored_become_few_runs);
    RUN(a_flipped_bit_in_a_bucket_is_noticed_at_its_next_update);
    puts("test_state: ok");
    return 0;
}

/* test_index.c - indexes while they grow, wrap around and are emptied: every record is found at any moment.
 *
 * Ids are the records here, as their hashes can be chosen freely: at random, all alike (one run of full
 * slots), and all in the table's last line (a run that wraps around its end).
 */
#include "state_fixture.h"

#define RECORDS 20000U

static uint64_t random_hash(uint32_t i) { return um__hash2(i, 1); }
static uint64_t alike_hash(uint32_t i) { return i < 500 ? 0x1234567800000000ULL + i : um__hash2(i, 2); }
static uint64_t last_line_hash(uint32_t i) { return i % 8 == 0 && i < 8000 ? ~(uint64_t)i : um__hash2(i, 3); }
static uint64_t both_ends_hash(uint32_t i) { return i % 16 < 2 && i < 4000 ? (i % 2 ? ~0ULL << 20 : 5ULL) + i : um__hash2(i, 4); }

static void remember(um_state *st, uint64_t lo) {
    const um_id id = {lo, ~lo, 0, 0};
    const uint32_t number = um__count(st, UM_R_IDS);
    um__append(st, UM_R_IDS, &id, sizeof id);
    uint64_t at = 0;
    if (number % 2 == 0 && !um__absent(st, UM_X_IDS, lo, &at)) at = 0;
    um__index_add_at(st, UM_X_IDS, at, lo, number);
}

/* Entered one by one; looked up all at once at every size in the beginning, later now and then. */
static void fill(um_state *st, uint64_t (*hash_of)(uint32_t), uint32_t records, uint32_t *grown) {
    for (uint32_t i = 0; i < records; i++) {
        const uint64_t slots = st->table[UM_X_IDS].slots;
        uint64_t at;
        remember(st, hash_of(i));
        assert(!um__absent(st, UM_X_IDS, hash_of(i), &at));
        *grown += st->table[UM_X_IDS].slots != slots;
        if (i < 1000 || i % 997 == 0 || st->table[UM_X_IDS].slots != slots) assert(um__index_exact(st, UM_X_IDS));
    }
    assert(um__index_exact(st, UM_X_IDS));
}

static um_limits roomy(void) {
    um_limits limits = plenty();
    limits.records_max[UM_R_IDS] = RECORDS;
    return limits;
}

static void forget(um_state *st) {
    st->region[UM_R_IDS].used = 0;
    um__index_clear(st, UM_X_IDS);
    assert(um__index_exact(st, UM_X_IDS));
}

static void every_record_is_found_while_the_index_grows(void) {
    uint64_t (*const hashes[])(uint32_t) = {random_hash, alike_hash, last_line_hash, both_ends_hash};
    for (uint32_t h = 0; h < sizeof hashes / sizeof *hashes; h++) {
        world *w = world_new(roomy());
        uint32_t grown = 0;
        fill(&w->st, hashes[h], RECORDS, &grown);
        assert(grown >= 4 && w->st.table[UM_X_IDS].old_slots == 0);
        world_free(w);
    }
}

static void an_emptied_index_forgets_everything_and_fills_again(void) {
    uint64_t (*const hashes[])(uint32_t) = {random_hash, last_line_hash, both_ends_hash, alike_hash};
    world *w = world_new(roomy());
    uint32_t grown = 0;
    for (uint32_t round = 0; round < 12; round++) {
        fill(&w->st, hashes[round % 4], round % 3 == 2 ? 41 + 17 * round : RECORDS / (1 + round % 5), &grown);
        forget(&w->st);
        for (uint32_t i = 0; i < RECORDS; i += 97) {
            uint64_t at, hash = hashes[round % 4](i);
            assert(um__absent(&w->st, UM_X_IDS, hash, &at));
        }
    }
    world_free(w);
}

static void emptying_leaves_nothing_to_zero_when_a_table_is_needed(void) {
    world *w = world_new(roomy());
    um_state *st = &w->st;
    uint32_t grown = 0;
    fill(st, random_hash, RECORDS, &grown);
    forget(st);
    for (uint32_t i = 0; i < RECORDS; i++) {
        const uint64_t dirty = st->table[UM_X_IDS].dirty;
        remember(st, random_hash(i));
        assert(st->table[UM_X_IDS].dirty - dirty <= 64);   /* a little per record, also where a table is opened */
    }
    assert(um__index_exact(st, UM_X_IDS) && st->table[UM_X_IDS].dirty == st->table[UM_X_IDS].dirty_end);
    world_free(w);
}

static void a_rebuilt_index_holds_what_the_grown_one_did(void) {
    world *w = world_new(roomy());
    uint32_t grown = 0;
    for (uint32_t records = 1; records < 6000; records = records * 5 / 2 + 1) {
        fill(&w->st, both_ends_hash, records, &grown);
        um__index_rebuild(&w->st, UM_X_IDS);
        assert(um__index_exact(&w->st, UM_X_IDS));
        forget(&w->st);
    }
    world_free(w);
}

static void an_index_with_more_records_than_it_has_room_for_is_noticed(void) {
    world *w = world_new(roomy());
    um_state *st = &w->st;
    st->index[UM_X_IDS].reserved = 2 * 8 * 64;   /* one table of 64 slots */
    for (uint32_t i = 0; i < 200; i++) remember(st, random_hash(i));
    assert(!um__index_exact(st, UM_X_IDS));
    um__index_rebuild(st, UM_X_IDS);
    assert(!um__index_exact(st, UM_X_IDS));
    world_free(w);
}

int main(void) {
    every_record_is_found_while_the_index_grows();
    an_emptied_index_forgets_everything_and_fills_again();
    emptying_leaves_nothing_to_zero_when_a_table_is_needed();
    a_rebuilt_index_holds_what_the_grown_one_did();
    an_index_with_more_records_than_it_has_room_for_is_noticed();
    puts("index: ok");
    return 0;
}

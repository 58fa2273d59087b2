/* test_fps.c - indexes of fingerprints: in whatever order they come, every one is found, and no other.
 *
 * Orders that the structure must stand: of time, backwards, at random, of one moment, interleaved, late, in sweeps; and hashes
 * that all name one line of a leaf. Each with pages that hold many, as in production, and with such that hold few.
 */
#include "um__fps.h"
#include "state_fixture.h"

#define MANY 60000U    /* pages hold many */
#define FEW 15000U     /* they hold few, so that there are as many as with millions */
#define TURN 500U

typedef um_fp (*order)(uint32_t i);

static um_fp at_time(uint64_t time, uint64_t i) { return (um_fp){time << UM__FPS_HASH_BITS | um__hash2(i, 1) >> 52, um__hash2(i, 2)}; }

static um_fp in_order(uint32_t i) { return at_time(1000 + i, i); }
static um_fp backwards(uint32_t i) { return at_time(1000000000 - i, i); }
static um_fp at_random(uint32_t i) { return at_time(um__hash2(i, 3) >> 20, i); }
static um_fp of_one_moment(uint32_t i) { return at_time(77, i); }
static um_fp all_but_equal(uint32_t i) { return (um_fp){5, um__hash2(i, 4)}; }
static um_fp interleaved(uint32_t i) { return at_time(1000 + (i / TURN ^ 5) * TURN + i % TURN, i); }   /* turns that overtake each other */
static um_fp late(uint32_t i) { return at_time(100000 + i - um__hash2(i, 5) % 20000, i); }
static um_fp in_sweeps(uint32_t i) { return at_time(i % 7001, i); }
static um_fp towards_the_end(uint32_t i) { return (um_fp){UINT64_MAX - i % 3, UINT64_MAX - ((uint64_t)i << 29)}; }
static um_fp of_one_line(uint32_t i) {
    const um_fp fp = in_order(i);
    return (um_fp){fp.lo, fp.hi | 63ULL << 32};
}

static const order ORDERS[] = {in_order, backwards, at_random, of_one_moment, all_but_equal, interleaved, late, in_sweeps, towards_the_end, of_one_line};
#define ORDER_COUNT (sizeof ORDERS / sizeof *ORDERS)

static const um_fps_tree *tree(const um_state *st) { return um__fps_tree_of(st, UM_X_FPS0); }

static world *roomy(uint32_t records) {
    um_limits limits = plenty();
    limits.records_max[UM_R_FPS0] = records;
    return world_new(limits);
}

static int is_there(const um_state *st, um_fp fp) { return um__fps_find(st, UM_X_FPS0, &fp) != UM_NONE; }

/* Where apply would find it before its turn comes: its leaf, and a place in it. */
static um__fps_node *look(const um_state *st, um_fp fp, uint64_t *at) {
    um__fps_node *leaf = um__fps_leaf(st, UM_X_FPS0, &fp);
    *at = 0;
    if (leaf != NULL && !um__fps_absent(st, UM_X_FPS0, um__fps_line(leaf, fp.hi), fp.hi, at)) *at = 0;
    if (*at != 0) assert(um__slots(st, UM_X_FPS0)[*at] == 0);
    return leaf;
}

static void remember(um_state *st, um_fp fp, int knowing) {
    uint64_t at;
    um__fps_node *leaf = look(st, fp, &at);
    const uint32_t number = um__fps_count(st, UM_R_FPS0);
    const uint64_t version = tree(st)->version;
    um__append(st, UM_R_FPS0, &fp, sizeof fp);
    um__fps_add(st, UM_X_FPS0, leaf, knowing ? at : 0, number);
    assert(um__fps_find(st, UM_X_FPS0, &fp) == number);
    if (at != 0 && tree(st)->version == version) assert((uint32_t)um__slots(st, UM_X_FPS0)[at] == number + 1);
}

static const uint32_t SIZES[] = {MANY, FEW};

/* A claim for an index in which there is room for so many, and an order. */
static void for_each(void (*claim)(um_state *st, order of, uint32_t records)) {
    for (uint32_t s = 0; s < 2; s++) {
        for (uint32_t o = 0; o < ORDER_COUNT; o++) {
            world *w = roomy(SIZES[s]);
            assert((tree(&w->st)->leaf_full > 100) == (SIZES[s] == MANY));
            claim(&w->st, ORDERS[o], SIZES[s]);
            world_free(w);
        }
    }
}

static void fill(um_state *st, order of, uint32_t records) {
    for (uint32_t i = 0; i < records; i++) {
        assert(!is_there(st, of(i)));
        remember(st, of(i), i % 3 != 0);
        if (i < 3000 ? i % 61 == 0 : i % 9973 == 0) assert(um__fps_exact(st, UM_X_FPS0));
    }
    assert(um__fps_exact(st, UM_X_FPS0) && tree(st)->records == records);
}

static void forget(um_state *st) {
    st->region[UM_R_FPS0].used = 0;
    um__fps_clear(st, UM_X_FPS0);
    assert(um__fps_exact(st, UM_X_FPS0));
}

/* The memory that the limits give is enough: the sanitizer sees to that. */
static void is_found(um_state *st, order of, uint32_t records) {
    fill(st, of, records);
    for (uint32_t i = records; i < records + 2000; i++) assert(!is_there(st, of(i)));
}

static void every_fingerprint_is_found_in_whatever_order_they_come(void) { for_each(is_found); }

static void differs(um_state *st, order of, uint32_t records) {
    fill(st, of, records / 10);
    for (uint32_t i = 0; i < records / 10; i += 29) {
        for (uint32_t bit = 0; bit < 64; bit++) {
            const um_fp fp = of(i);
            assert(!is_there(st, (um_fp){fp.lo ^ 1ULL << bit, fp.hi}) || of == towards_the_end);
            assert(!is_there(st, (um_fp){fp.lo, fp.hi ^ 1ULL << bit}) || of == towards_the_end || of == of_one_line);
        }
    }
}

static void what_differs_in_one_bit_is_another(void) { for_each(differs); }

/* In bytes per hundred records. */
static void is_small(um_state *st, order of, uint32_t records) {
    fill(st, of, records);
    const uint64_t bytes = 100 * st->index[UM_X_FPS0].used / records;
    if (records == MANY) assert(bytes < (of == in_order ? 1100 : 1880));   /* 4096 / 384, 4096 / 224, and the levels above */
}

static void in_order_leaves_are_three_quarters_full_in_any_other_at_least_half(void) { for_each(is_small); }

static void forgets(um_state *st, order of, uint32_t records) {
    uint64_t used = 0;
    for (uint32_t round = 0; round < 3; round++) {
        const uint64_t version = tree(st)->version;
        fill(st, of, records / 2);
        if (round != 0) assert(st->index[UM_X_FPS0].used == used);
        used = st->index[UM_X_FPS0].used;
        forget(st);
        assert(tree(st)->version > version);
        for (uint32_t i = 0; i < records; i += 97) assert(!is_there(st, of(i)));
    }
}

static void an_emptied_index_forgets_everything_and_fills_again_where_it_was(void) { for_each(forgets); }

static void rebuilds(um_state *st, order of, uint32_t records) {
    for (uint32_t count = 1; count < records / 6; count = count * 5 / 2 + 1) {
        fill(st, of, count);
        um__index_rebuild(st, UM_X_FPS0);
        assert(um__index_exact(st, UM_X_FPS0) && tree(st)->records == count);
        forget(st);
    }
}

static void a_rebuilt_index_holds_what_the_grown_one_did(void) { for_each(rebuilds); }

static void vouches(um_state *st, order of, uint32_t records) {
    uint32_t changed = 0;
    for (uint32_t i = 0; i + 1 < records; i += 2) {
        uint64_t at, now;
        const um__fps_node *leaf = look(st, of(i + 1), &at);
        const uint64_t version = tree(st)->version;
        remember(st, of(i), 0);
        const um__fps_node *found = look(st, of(i + 1), &now);
        if (tree(st)->version == version) assert(found == leaf && (now == at || um__slots(st, UM_X_FPS0)[at] != 0));
        else changed++;
        remember(st, of(i + 1), 1);
    }
    assert(changed > 50);
}

/* A place that was found before a leaf was split or left may be another leaf's afterwards: then the version is another. */
static void a_version_vouches_for_the_places_found_in_it(void) { for_each(vouches); }

static void is_near(um_state *st, order of, uint32_t records) {
    um__fps_spot spot = {NULL, 0, {0, 0}, {0, 0}};
    uint32_t near = 0;
    for (uint32_t i = 0; i < records; i++) {
        const um_fp fp = of(i);
        const um__fps_way way = um__fps_begin(st, UM_X_FPS0, &fp);
        um__fps_node *leaf = um__fps_arrive(&way, &fp);
        if (um__fps_near(&spot, tree(st), &fp)) {
            assert(spot.leaf == leaf);
            near++;
        } else if (leaf != NULL) {
            um__fps_settle(&spot, tree(st), &way, leaf);
        }
        remember(st, fp, 1);
    }
    if (of == in_order || of == interleaved) assert(near > records / 2);
}

/* What happened next to each other is remembered in the same leaf; whether it is, is known without a search. */
static void the_leaf_of_the_row_before_is_the_one_that_a_search_finds(void) { for_each(is_near); }

static void is_noticed(um_state *st, order of, uint32_t records) {
    const uint64_t pages[] = {0, 2, 3, 8};
    for (uint32_t p = 0; p < sizeof pages / sizeof *pages; p++) {
        st->index[UM_X_FPS0].reserved = pages[p] * UM__PAGE_BYTES;
        for (uint32_t i = 0; i < records / 3; i++) {
            const um_fp fp = of(i);
            um__append(st, UM_R_FPS0, &fp, sizeof fp);
            um__fps_add(st, UM_X_FPS0, NULL, 0, i);
        }
        assert(!um__fps_exact(st, UM_X_FPS0));
        for (uint32_t i = 0; i < records / 2; i++) is_there(st, of(i));   /* each search ends */
        forget(st);
    }
}

static void more_than_there_is_room_for_is_noticed(void) { for_each(is_noticed); }

/* Backwards, leaves and inner pages stay half full: there are soon more inner pages than one page of tops can name. */
static void the_highest_level_grows_too(void) {
    world *w = roomy(FEW);
    fill(&w->st, backwards, FEW);
    assert(tree(&w->st)->top_pages >= 4 && tree(&w->st)->inners > 2 * UM__PAGE_BYTES / sizeof(um__fps_node));
    world_free(w);
}

static void change_limits(world *w, uint32_t records) {
    um_limits limits = meta(w)->limits;
    limits.records_max[UM_R_FPS0] = records;
    batch(w, 0, 0, 0, 0);
    w->used = w->batch_at;
    memcpy(w->entry + w->used, &limits, sizeof limits);
    w->used += sizeof limits;
    apply_entry(w, UM_ENTRY_LIMITS);
}

/* Pages hold few as long as no more are allowed, or there. The memory is that of the larger limits all along. */
static void other_limits_lose_nothing(void) {
    for (uint32_t o = 0; o < ORDER_COUNT; o++) {
        world *w = roomy(MANY);
        um_state *st = &w->st;
        change_limits(w, FEW);
        assert(tree(st)->leaf_full < 100);
        fill(st, ORDERS[o], FEW);
        change_limits(w, MANY);
        assert(tree(st)->leaf_full > 100 && tree(st)->records == FEW && um__fps_exact(st, UM_X_FPS0));
        for (uint32_t i = FEW; i < 2 * FEW; i++) remember(st, ORDERS[o](i), 1);
        change_limits(w, FEW);
        assert(tree(st)->leaf_full > 100 && tree(st)->records == 2 * FEW && um__fps_exact(st, UM_X_FPS0));
        forget(st);
        assert(tree(st)->leaf_full < 100);
        world_free(w);
    }
}

int main(void) {
    RUN(every_fingerprint_is_found_in_whatever_order_they_come);
    RUN(what_differs_in_one_bit_is_another);
    RUN(in_order_leaves_are_three_quarters_full_in_any_other_at_least_half);
    RUN(an_emptied_index_forgets_everything_and_fills_again_where_it_was);
    RUN(a_rebuilt_index_holds_what_the_grown_one_did);
    RUN(a_version_vouches_for_the_places_found_in_it);
    RUN(the_leaf_of_the_row_before_is_the_one_that_a_search_finds);
    RUN(more_than_there_is_room_for_is_noticed);
    RUN(the_highest_level_grows_too);
    RUN(other_limits_lose_nothing);
    puts("test_fps: ok");
    return 0;
}

/* test_memory.c - which memory is asked for before it is written to, claim by claim.
 *
 * Areas are mapped, not allocated, as pages are what it is about: they begin on a page, but not on a huge one.
 */
#include "state_fixture.h"
#include <sys/mman.h>

#define PAGE 4096ULL
#define HUGE (2ULL << 20)
#define AHEAD (2 * HUGE)           /* wanted behind a region's end */
#define OFF_HUGE (3 * PAGE)        /* where areas begin in a huge page */
#define STRETCHES_MAX (UM_REGIONS + UM_INDEXES)

/* ---- a state with large areas ---- */

static um_arena mapped(uint64_t bytes) {
    const uint64_t all = bytes + 2 * HUGE;
    uint8_t *memory = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert(memory != MAP_FAILED);
    const uint64_t at = ((uint64_t)(uintptr_t)memory + HUGE - 1) / HUGE * HUGE + OFF_HUGE - (uint64_t)(uintptr_t)memory;
    return (um_arena){memory + at, bytes, 0};
}

static void map_area(um_arena *area, uint64_t bytes) {
    const uint64_t used = area->used;
    if (used) assert(used <= bytes);
    const um_arena larger = mapped(bytes);
    if (used) memcpy(larger.base, area->base, used);
    free(area->base);
    *area = (um_arena){larger.base, bytes, used};
}

/* Every region but META has `region_bytes`, every index `index_bytes`. Never freed: mappings go with the process. */
static world *large(uint64_t region_bytes, uint64_t index_bytes) {
    um_limits limits = plenty();
    limits.fingerprints_per_generation = 1u << 30;
    world *w = world_new(limits);
    for (uint32_t r = 1; r < UM_REGIONS; r++) {
        map_area(&w->st.region[r], region_bytes);
        meta(w)->limits.records_max[r] = region_bytes / um_region_record_bytes(r);
    }
    for (uint32_t x = 0; x < UM_INDEXES; x++) map_area(&w->st.index[x], index_bytes);
    return w;
}

static void let_go(world *w) {
    for (uint32_t r = 1; r < UM_REGIONS; r++) munmap(w->st.region[r].base, w->st.region[r].reserved);
    for (uint32_t x = 0; x < UM_INDEXES; x++) munmap(w->st.index[x].base, w->st.index[x].reserved);
    free(w->st.region[UM_R_META].base);
    free(w->st.cow.base);
    free(w->st.cow_map.base);
    free(w->st.scratch.base);
    free(w->catalog);
    free(w->entry);
    free(w);
}

/* ---- what it asks for ---- */

typedef struct {
    uint64_t from, past;   /* bytes of the area */
} stretch;

static um_stretch told[STRETCHES_MAX + 1];

static uint32_t ask(world *w) {
    const um_stretch mark = {0xABABABAB, 0xCDCDCDCD};
    for (uint32_t i = 0; i <= STRETCHES_MAX; i++) told[i] = mark;
    const uint32_t count = um_state_ahead(&w->st, told);
    assert(count <= STRETCHES_MAX);
    for (uint32_t i = count; i <= STRETCHES_MAX; i++) assert(told[i].address == mark.address && told[i].bytes == mark.bytes);
    for (uint32_t i = 0; i < count; i++) assert(told[i].bytes > 0 && told[i].address % PAGE == 0 && told[i].bytes % PAGE == 0);
    return count;
}

static int lies_in(const um_stretch *s, const um_arena *area) {
    const uint64_t base = (uint64_t)(uintptr_t)area->base;
    return s->address >= base && s->address < base + area->reserved && s->bytes <= base + area->reserved - s->address;
}

/* The only stretch asked for, which lies in this area; {0, 0}: none. */
static stretch the_only(world *w, const um_arena *area) {
    const uint32_t count = ask(w);
    assert(count <= 1);
    if (count == 0) return (stretch){0, 0};
    assert(lies_in(&told[0], area));
    const uint64_t from = told[0].address - (uint64_t)(uintptr_t)area->base;
    return (stretch){from, from + told[0].bytes};
}

static uint64_t page_floor(uint64_t bytes) { return bytes / PAGE * PAGE; }

/* ---- small ---- */

static void a_new_state_asks_for_nothing(void) {
    world *w = large(64 * HUGE, 64 * HUGE);
    assert(ask(w) == 0);
    for (int i = 0; i < 50; i++) send(w, V1, EVENT(.account = 1 + dice(9), .value = i));
    assert(ask(w) == 0);
    for (uint32_t r = 1; r < UM_REGIONS; r++) w->st.region[r].used = HUGE / 2 - 1;
    assert(ask(w) == 0);
    w->st.region[UM_R_FPS0].used = HUGE / 2;
    assert(ask(w) == 1 && lies_in(&told[0], &w->st.region[UM_R_FPS0]));
    let_go(w);
}

static void small_areas_are_left_alone_however_full_they_are(void) {
    world *w = large(4 * HUGE - PAGE, 4 * HUGE - PAGE);
    for (uint32_t r = 1; r < UM_REGIONS; r++) {
        for (uint64_t used = 0; used <= 4 * HUGE - PAGE; used += HUGE / 8) {
            w->st.region[r].used = used;
            assert(ask(w) == 0);
        }
    }
    for (uint32_t x = 0; x < UM_INDEXES; x++) {
        if (um__is_of_fps(x)) {
            w->st.index[x].used = 3 * HUGE;
            assert(ask(w) == 0);
            continue;
        }
        w->st.table[x].slots = HUGE / 16;   /* the next one is as large as a huge page */
        w->st.table[x].used = HUGE / 32 + 1000;
        assert(um__next_slots(&w->st, x) * 8 == HUGE && ask(w) == 0);
    }
    let_go(w);
}

/* ---- regions ---- */

/* Grown at random to its end, asked about after every step: what follows the end is always there, and nothing twice. */
static void grow_area_and_ask(world *w, int is_index, uint32_t number, uint64_t reserved, uint64_t step_max) {
    um_arena *area = is_index ? &w->st.index[number] : &w->st.region[number];
    area->used = HUGE / 2 + dice(PAGE);
    const uint64_t first = area->used;
    uint64_t asked = 0, past = page_floor(first);
    for (;;) {
        const stretch s = the_only(w, area);
        const uint64_t wanted = area->used + AHEAD < reserved ? area->used + AHEAD : reserved;
        if (s.past) {
            assert(s.from == (area->used > past ? page_floor(area->used) : past));     /* nothing twice, nothing left out */
            assert(s.past == reserved || (s.past + OFF_HUGE) % HUGE == 0);             /* whole huge pages */
            assert(s.past < wanted + HUGE);                                            /* no more than that */
            past = s.past;
            asked += s.past - s.from;
        }
        assert(past <= reserved && (past >= wanted || area->used == reserved));
        assert(ask(w) == 0);                                                           /* it is told once */
        if (area->used == reserved) break;
        area->used += 1 + dice(step_max);
        if (area->used > reserved) area->used = reserved;
    }
    assert(step_max > AHEAD || (past == reserved && asked == reserved - page_floor(first)));
    let_go(w);
}

static void grow_and_ask(uint32_t region, uint64_t reserved, uint64_t step_max) {
    grow_area_and_ask(large(reserved, PAGE), 0, region, reserved, step_max);
}

static void grow_index_and_ask(uint32_t index, uint64_t reserved, uint64_t step_max) {
    grow_area_and_ask(large(PAGE, reserved), 1, index, reserved, step_max);
}

static void a_region_is_asked_for_ahead_of_its_end_every_byte_once(void) {
    for (uint32_t region = 1; region < UM_REGIONS; region++) grow_and_ask(region, 20 * HUGE + 5 * PAGE, HUGE / 3);
    grow_and_ask(UM_R_HEAP, 4 * HUGE, 5000);
    grow_and_ask(UM_R_HEAP, 5 * HUGE - OFF_HUGE, 70000);   /* it ends with a huge page */
}

static void so_is_an_index_of_fingerprints(void) {
    grow_index_and_ask(UM_X_FPS0, 20 * HUGE + 5 * PAGE, HUGE / 3);
    grow_index_and_ask(UM_X_FPS1, 5 * HUGE - OFF_HUGE, 70000);
}

static void a_region_that_has_outrun_what_was_asked_for_is_asked_for_from_its_end(void) {
    for (int i = 0; i < 20; i++) grow_and_ask(UM_R_IDS, 100 * HUGE + PAGE, 12 * HUGE);
}

static void every_region_and_index_has_its_own_stretch(void) {
    world *w = large(32 * HUGE, 32 * HUGE);
    for (uint32_t r = 1; r < UM_REGIONS; r++) w->st.region[r].used = HUGE + r * 10000;
    for (uint32_t x = 0; x < UM_INDEXES; x++) {
        w->st.index[x].used = HUGE + x * 10000;   /* of fingerprints */
        w->st.table[x].slots = HUGE / 8;
        w->st.table[x].used = HUGE / 16 + 1000;
    }
    const uint32_t count = ask(w);
    assert(count == UM_REGIONS - 1 + UM_INDEXES);
    for (uint32_t r = 1; r < UM_REGIONS; r++) {
        uint32_t found = 0;
        for (uint32_t i = 0; i < count; i++) found += (uint32_t)lies_in(&told[i], &w->st.region[r]);
        assert(found == 1);
    }
    for (uint32_t x = 0; x < UM_INDEXES; x++) {
        uint32_t found = 0;
        for (uint32_t i = 0; i < count; i++) found += (uint32_t)lies_in(&told[i], &w->st.index[x]);
        assert(found == 1);
    }
    assert(ask(w) == 0);
    let_go(w);
}

static void a_region_that_is_emptied_and_filled_again_is_not_asked_for_again(void) {
    world *w = large(32 * HUGE, PAGE);
    um_arena *area = &w->st.region[UM_R_FPS1];
    area->used = 3 * HUGE;
    const uint64_t past = the_only(w, area).past;
    for (area->used = 0; area->used + AHEAD <= past; area->used += 100000) assert(ask(w) == 0);
    area->used = past - AHEAD + 1;
    assert(the_only(w, area).from == past);
    let_go(w);
}

/* ---- indexes ---- */

static int all_zero(const uint8_t *memory, uint64_t bytes) {
    return bytes == 0 || (memory[0] == 0 && memcmp(memory, memory + 1, bytes - 1) == 0);
}

/* Asked before each record is entered. Every table of a huge page or more was asked for as a whole, not written to until
 * then, when its first record is entered, and is not asked for again. */
static void fill_and_ask(world *w, uint32_t index, uint32_t records, uint32_t tables_wanted) {
    um_state *st = &w->st;
    const um_table *table = &st->table[index];
    stretch last = {0, 0};
    uint32_t tables = 0;
    for (uint32_t i = 0; i < records; i++) {
        const stretch s = the_only(w, &st->index[index]);
        if (s.past) {
            tables++;
            assert(table->old_slots == 0 && s.from >= last.past);
            assert(um__overfull(table->used + table->used / 4, table->slots));   /* soon */
            assert(!um__overfull(table->used, table->slots));                    /* and not late */
            assert(s.from >= 16 * table->slots && all_zero(st->index[index].base + s.from, s.past - s.from));
            last = (stretch){s.from == last.past ? last.from : s.from, s.past};      /* rounding up has told some of it before */
        }
        const uint64_t slots = table->slots;
        um__index_add(st, index, um__hash2(i, index), i);
        if (table->slots == slots || table->slots * 8 < HUGE) continue;
        assert(last.from <= table->slots * 8 && last.past >= 2 * table->slots * 8);
    }
    assert(tables == tables_wanted);
}

static void the_table_that_an_index_grows_into_is_asked_for_as_a_whole_before_it_is_opened(void) {
    const struct { uint32_t index, records, tables; uint64_t bytes; } plays[] = {
        {UM_X_IDS, 400000, 2, 8 * HUGE},         /* 65536 > 262144 > 1048576 slots, the last there is room for */
        {UM_X_IDS, 330000, 2, 4 * HUGE},         /* 65536 > 262144 > 524288: no room for four times as many */
        {UM_X_ACCOUNTS, 400000, 3, 64 * HUGE},   /* 131072 > 262144 > 524288 > 1048576 */
        {UM_X_SERIES, 90000, 1, 64 * HUGE},
        {UM_X_BUCKETS, 65000, 0, 64 * HUGE},     /* 131072 slots are less than a huge page; 262144 come later */
    };
    for (uint32_t i = 0; i < sizeof plays / sizeof *plays; i++) {
        world *w = large(PAGE, plays[i].bytes);
        fill_and_ask(w, plays[i].index, plays[i].records, plays[i].tables);
        let_go(w);
    }
}

static void an_index_that_is_emptied_and_filled_again_asks_for_nothing(void) {
    world *w = large(PAGE, 64 * HUGE);
    fill_and_ask(w, UM_X_IDS, 200000, 2);
    um__index_clear(&w->st, UM_X_IDS);
    for (uint32_t i = 0; i < 200000; i++) {
        assert(ask(w) == 0);
        um__index_add(&w->st, UM_X_IDS, um__hash2(i, 99), i);
    }
    let_go(w);
}

static void an_index_in_its_last_table_asks_for_nothing_more(void) {
    world *w = large(PAGE, 4 * HUGE);
    w->st.table[UM_X_IDS].slots = 4 * HUGE / 16;
    for (uint64_t used = 0; used < 4 * HUGE / 16; used += 1000) {
        w->st.table[UM_X_IDS].used = used;
        assert(um__next_slots(&w->st, UM_X_IDS) == 0 && ask(w) == 0);
    }
    let_go(w);
}

/* ---- pages that were given back ---- */

static void when_pages_were_given_back_everything_is_asked_for_again(void) {
    world *w = large(32 * HUGE, 8 * HUGE);
    um_state *st = &w->st;
    um_stretch before[STRETCHES_MAX];
    for (uint32_t r = 1; r < UM_REGIONS; r++) st->region[r].used = 2 * HUGE + r * 5000;
    for (uint32_t i = 0; i < 36000; i++) um__index_add(st, UM_X_IDS, um__hash2(i, 1), i);
    const uint32_t count = ask(w);
    memcpy(before, told, sizeof before);
    assert(count == UM_REGIONS - 1 + 1 && ask(w) == 0);
    for (int round = 0; round < 3; round++) {
        um_state_untouched(st);
        assert(ask(w) == count && memcmp(before, told, count * sizeof *told) == 0);
        assert(ask(w) == 0);
    }
    let_go(w);
}

static void a_table_that_is_being_moved_into_is_asked_for_again_too(void) {
    world *w = large(PAGE, 8 * HUGE);
    um_state *st = &w->st;
    for (uint32_t i = 0; st->table[UM_X_IDS].slots < 262144; i++) um__index_add(st, UM_X_IDS, um__hash2(i, 1), i);
    assert(st->table[UM_X_IDS].old_slots == 65536);
    um_state_untouched(st);
    const stretch s = the_only(w, &st->index[UM_X_IDS]);
    assert(s.from == 262144 * 8 && s.past >= 2 * 262144 * 8);
    let_go(w);
}

/* ---- a hint and nothing else ---- */

static void apply_many(world *w, int64_t first, int rows) {
    batch(w, V1, 0, 0, 0);
    for (int i = 0; i < rows; i++) row(w, EVENT(.account = 1 + (uint64_t)(first + i) % 5000, .value = first + i, .ts = BASE + (first + i) % 100));
    apply_entry(w, UM_ENTRY_BATCHES);
    assert(w->sums[0].stored == (uint32_t)rows);
}

/* One is asked after every entry, its pages made as asked; the other never. */
static void asking_changes_nothing(void) {
    world *asked = large(16 * HUGE, 16 * HUGE), *left_alone = large(16 * HUGE, 16 * HUGE);
    uint32_t stretches = 0;
    for (int64_t first = 0; first < 180000; first += 15000) {
        const uint64_t digest = um_state_digest(&asked->st);
        const uint32_t count = ask(asked);
        stretches += count;
        for (uint32_t i = 0; i < count; i++) {   /* nothing that is in use lies there, but for the first page's beginning */
            for (uint32_t r = 1; r < UM_REGIONS; r++) {
                const um_arena *area = &asked->st.region[r];
                if (lies_in(&told[i], area)) assert(told[i].address + PAGE > (uint64_t)(uintptr_t)area->base + area->used);
            }
            madvise((void *)(uintptr_t)told[i].address, told[i].bytes, 23);   /* MADV_POPULATE_WRITE, where there is one */
        }
        if (first % 60000 == 45000) um_state_untouched(&asked->st);
        assert(um_state_digest(&asked->st) == digest);
        apply_many(asked, first, 15000);
        apply_many(left_alone, first, 15000);
        assert(asked->applied.digest == left_alone->applied.digest);
    }
    assert(stretches >= 4);
    must_be_sound(asked);
    must_be_sound(left_alone);
    assert(um_state_digest(&asked->st) == um_state_digest(&left_alone->st));
    for (uint32_t r = 0; r < UM_REGIONS; r++) {
        const um_arena *a = &asked->st.region[r], *b = &left_alone->st.region[r];
        assert(a->used == b->used && memcmp(a->base, b->base, a->used) == 0);
    }
    for (uint32_t x = 0; x < UM_INDEXES; x++) {
        const um_arena *a = &asked->st.index[x], *b = &left_alone->st.index[x];
        assert(a->used == b->used && memcmp(a->base, b->base, a->used) == 0);
        assert(memcmp(&asked->st.table[x], &left_alone->st.table[x], sizeof(um_table)) == 0);
    }
    let_go(asked);
    let_go(left_alone);
}

int main(void) {
    RUN(a_new_state_asks_for_nothing);
    RUN(small_areas_are_left_alone_however_full_they_are);
    RUN(a_region_is_asked_for_ahead_of_its_end_every_byte_once);
    RUN(so_is_an_index_of_fingerprints);
    RUN(a_region_that_has_outrun_what_was_asked_for_is_asked_for_from_its_end);
    RUN(every_region_and_index_has_its_own_stretch);
    RUN(a_region_that_is_emptied_and_filled_again_is_not_asked_for_again);
    RUN(the_table_that_an_index_grows_into_is_asked_for_as_a_whole_before_it_is_opened);
    RUN(an_index_that_is_emptied_and_filled_again_asks_for_nothing);
    RUN(an_index_in_its_last_table_asks_for_nothing_more);
    RUN(when_pages_were_given_back_everything_is_asked_for_again);
    RUN(a_table_that_is_being_moved_into_is_asked_for_again_too);
    RUN(asking_changes_nothing);
    puts("test_memory: ok");
    return 0;
}

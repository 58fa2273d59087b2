/* memory.c - memory that a state is about to write to for the first time.
 *
 * Areas grow by being written to, and the first write to a page makes whoever writes wait until it exists: a huge page takes
 * a third of a millisecond, and in a virtual machine whose host has yet to find the memory up to four (measured). Applying
 * two thousand rows takes half of one. So the caller may ask now and then which stretches will be needed next, and have
 * their pages made elsewhere. A region is written from front to back: AHEAD bytes behind its end are wanted. So is
 * an index of fingerprints. Another index moves into a table that nobody has touched yet: that table is wanted as a whole,
 * shortly before.
 *
 * A hint and nothing else: the state's content does not depend on it. Small areas, whose pages are small, are left alone.
 */
#include "um__apply.h"

#define HUGE_PAGE_BYTES (2ULL << 20)
#define PAGE_MASK 4095ULL
#define AHEAD_BYTES (2 * HUGE_PAGE_BYTES)
#define AREA_BYTES_MIN (4 * HUGE_PAGE_BYTES)

/* The part of [from, past) of an area that was not asked for yet, in whole huge pages of the address space. */
static uint32_t want(const um_arena *area, uint64_t *ready, uint64_t from, uint64_t past, um_stretch *out) {
    const uint64_t base = (uint64_t)(uintptr_t)area->base, mask = HUGE_PAGE_BYTES - 1;
    if (from < *ready) from = *ready;
    if (past > area->reserved) past = area->reserved;
    if (past <= from) return 0;
    uint64_t begin = base + from, end = (base + past + mask) & ~mask;
    if (end > base + area->reserved) end = base + area->reserved;
    *ready = end - base;
    begin &= ~PAGE_MASK;
    *out = (um_stretch){begin, end - begin};
    return 1;
}

/* Of an area that is written from front to back. */
static uint32_t want_next(const um_arena *area, uint64_t *ready, um_stretch *out) {
    if (area->reserved < AREA_BYTES_MIN || area->used < HUGE_PAGE_BYTES / 2) return 0;
    return want(area, ready, area->used, area->used + AHEAD_BYTES, out);
}

static uint32_t want_index(um_state *st, uint32_t index, um_stretch *out) {
    const um_arena *area = &st->index[index];
    const um_table *table = &st->table[index];
    uint64_t slots = table->slots, *ready = &st->ready[UM_REGIONS + index];
    if (um__is_of_fps(index)) return want_next(area, ready, out);
    if (area->reserved < AREA_BYTES_MIN) return 0;
    if (table->old_slots == 0) slots = um__next_slots(st, index);
    if (slots * sizeof(uint64_t) < HUGE_PAGE_BYTES) return 0;
    return want(area, ready, slots * sizeof(uint64_t), 2 * slots * sizeof(uint64_t), out);
}

uint32_t um_state_ahead(um_state *st, um_stretch *out) {
    uint32_t count = 0;
    for (uint32_t region = 0; region < UM_REGIONS; region++) count += want_next(&st->region[region], &st->ready[region], out + count);
    for (uint32_t index = 0; index < UM_INDEXES; index++) count += want_index(st, index, out + count);
    return count;
}

void um_state_untouched(um_state *st) { memset(st->ready, 0, sizeof st->ready); }

/* fps.c - indexes of fingerprints: what happened together is remembered together.
 *
 * Each v1 event brings a fingerprint that nobody has seen before. At a place chosen by its hash alone it would cost a trip to
 * main memory to find that out, and the trip would be half of what the event costs. But events arrive roughly in the
 * order of their timestamps, and a duplicate has the timestamp of what it duplicates. So a fingerprint begins with its
 * event's time, and the index is a B+-tree of fingerprints in their order:
 *
 *     tops         one node per inner page, in as many pages as that takes   |  a node: least fingerprint, page, count
 *     inner pages  one node per leaf                                         |
 *     leaves       512 slots in 64 lines, by hash: tag32 << 32 | record number + 1, 0: empty
 *
 * Within a leaf a fingerprint lies in the line that its hash names or, where that is full, in the next that had a
 * place. Nothing is ever taken out of a leaf, so a line with an empty slot ends every search.
 *
 * The newest leaf is left when it has `leaf_done` records and a greater fingerprint comes; what comes late finds room in
 * the leaf of its time. A leaf with `leaf_full` records is split at its median. So all leaves but the newest are at least half
 * of that, and events in order touch one leaf after the other: they are looked for in the cache, and in a
 * generation that ended before them not at all. Events in no order are looked for in a leaf at random, as by hash
 * alone, after a walk through two levels above it. (Bayer, McCreight 1972; Comer 1979, "The Ubiquitous B-Tree".)
 *
 * Pages are taken from the arena from front to back, zeroed when taken, and all given back when the generation is emptied.
 *
 * Where the limits allow few fingerprints, pages hold few as well: so tests and the simulator meet with some hundred events
 * what production meets with millions.
 */
#include "um__fps.h"

#define STRETCHES 256 /* of time, by which the fingerprints of a leaf are sorted to split it */
#define NODES ((uint32_t)(UM__PAGE_BYTES / sizeof(um__fps_node)))   /* that a page has room for: 170 */

typedef struct { uint32_t leaf_full, leaf_done, inner_full; } shape;
static const shape MANY = {UM_FPS_LEAF_RECORDS, 384, NODES}, FEW = {14, 12, 6};

typedef struct { uint32_t top, leaf; } path;   /* of a leaf: its inner page's number among the tops, its own in there */
typedef struct { um_fp fp; uint64_t slot; } entry;

static const um_fp *pool(const um_state *st, uint32_t index) {
    return (const um_fp *)(const void *)st->region[um__region_of_index(index)].base;
}

/* ---- pages ---- */

static uint64_t pages_for(uint64_t records, const shape *s) {
    const uint64_t leaves = records / (s->leaf_full / 2) + 2, inners = leaves / (s->inner_full / 2) + 2;
    return leaves + inners + 4 * (inners / NODES + 1);   /* tops: twice as many as are needed, and those that were left for them */
}

uint64_t um__fps_bytes_max(uint64_t records) {
    if (records <= UM__FPS_FEW) return pages_for(records, &FEW) * UM__PAGE_BYTES;
    const uint64_t many = pages_for(records, &MANY), few = pages_for(UM__FPS_FEW, &FEW);   /* raised limits find these */
    return (many > few ? many : few) * UM__PAGE_BYTES;
}

/* For what the limits allow, or what is there if that is more. */
static const shape *shape_of(const um_state *st, uint32_t index) {
    const uint32_t region = um__region_of_index(index);
    return um__meta(st)->limits.records_max[region] > UM__FPS_FEW || um__fps_count(st, region) > UM__FPS_FEW ? &MANY : &FEW;
}

/* For a leaf, an inner page, and other tops? */
static int has_room(const um_state *st, uint32_t index) {
    const um_fps_tree *tree = um__fps_tree_of(st, index);
    const uint64_t tops = tree->inners == tree->top_pages * NODES ? 2 * tree->top_pages : 0;
    return (tree->pages + tops + 2) * UM__PAGE_BYTES <= st->index[index].reserved;
}

/* The first of so many pages, which are zeroed. */
static uint32_t new_pages(um_state *st, uint32_t index, uint32_t count) {
    um_arena *arena = &st->index[index];
    um_fps_tree *tree = um__fps_tree(st, index);
    const uint32_t first = tree->pages;
    tree->pages += count;
    memset(arena->base + first * UM__PAGE_BYTES, 0, count * UM__PAGE_BYTES);
    if (arena->used < tree->pages * UM__PAGE_BYTES) arena->used = tree->pages * UM__PAGE_BYTES;
    return first;
}

static uint32_t new_page(um_state *st, uint32_t index) { return new_pages(st, index, 1); }

void um__fps_clear(um_state *st, uint32_t index) {
    um_fps_tree *tree = um__fps_tree(st, index);
    const uint64_t version = tree->version + 1;
    const shape *s = shape_of(st, index);
    memset(tree, 0, sizeof *tree);
    tree->version = version;
    tree->leaf_full = s->leaf_full;
    tree->leaf_done = s->leaf_done;
    tree->inner_full = s->inner_full;
}

void um__fps_limits(um_state *st) {
    for (uint32_t index = UM_X_FPS0; index <= UM_X_FPS1; index++) {
        if (um__fps_tree(st, index)->leaf_full != shape_of(st, index)->leaf_full) um__fps_rebuild(st, index);
    }
}

/* ---- the levels above the leaves ---- */

static path find_path(const um_state *st, uint32_t index, const um_fp *fp) {
    const uint32_t top = um__fps_pick_top(st, index, fp);
    const um__fps_node *node = um__fps_tops(st, index) + top;
    return (path){top, um__fps_pick(um__fps_nodes(st, index, node->page), node->count, um__fps_guess_leaf(st, index, top, fp->lo), fp)};
}

static um__fps_node *leaf_at(const um_state *st, uint32_t index, path p) {
    return um__fps_nodes(st, index, um__fps_tops(st, index)[p.top].page) + p.leaf;
}

static void insert(um__fps_node *nodes, uint32_t count, uint32_t at, um__fps_node node) {
    memmove(nodes + at + 1, nodes + at, (count - at) * sizeof node);
    nodes[at] = node;
}

static void insert_top(um_state *st, uint32_t index, uint32_t at, um__fps_node node) {
    um_fps_tree *tree = um__fps_tree(st, index);
    if (tree->inners == tree->top_pages * NODES) {
        const um__fps_node *tops = um__fps_tops(st, index);
        tree->tops = new_pages(st, index, 2 * tree->top_pages);
        tree->top_pages *= 2;
        memcpy(um__fps_tops(st, index), tops, tree->inners * sizeof *tops);
    }
    insert(um__fps_tops(st, index), tree->inners++, at, node);
}

/* A new leaf behind the one of this path. A full inner page is split; behind the very last leaf, left as it is. */
static void insert_leaf(um_state *st, uint32_t index, path p, um__fps_node leaf) {
    um_fps_tree *tree = um__fps_tree(st, index);
    um__fps_node *top = um__fps_tops(st, index) + p.top;
    um__fps_node *leaves = um__fps_nodes(st, index, top->page);
    const uint32_t full = tree->inner_full;
    uint32_t at = p.leaf + 1;
    tree->version++;
    if (top->count == full) {
        const int newest = at == full && p.top + 1 == tree->inners;
        const uint32_t kept = newest ? full : full / 2, page = new_page(st, index);
        um__fps_node *moved = um__fps_nodes(st, index, page);
        memcpy(moved, leaves + kept, (full - kept) * sizeof *moved);
        top->count = kept;
        insert_top(st, index, p.top + 1, (um__fps_node){newest ? leaf.first : moved->first, page, full - kept});
        top = um__fps_tops(st, index) + p.top;
        if (at > kept || newest) {
            at -= kept;
            leaves = moved;
            top++;
        }
    }
    insert(leaves, top->count++, at, leaf);
}

/* ---- leaves ---- */

static void put(um_state *st, uint32_t index, const um__fps_node *leaf, const um_fp *fp, uint64_t slot) {
    uint64_t *slots = (uint64_t *)(void *)st->index[index].base;
    for (uint64_t line = um__fps_line(leaf, fp->hi);; line = um__fps_next_line(line)) {
        uint32_t empty, alike;
        um__line_bits(slots + line, 0, &empty, &alike);
        if (empty == 0) continue;
        slots[line + (uint32_t)__builtin_ctz(empty)] = slot;
        return;
    }
}

/* A page with these and nothing else. */
static void fill(uint64_t *slots, const entry *entries, uint32_t count) {
    uint8_t taken[UM__LEAF_LINES] = {0};
    memset(slots, 0, UM__PAGE_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t line = um__fps_home(entries[i].fp.hi);
        while (taken[line] == UM__LINE_SLOTS) line = (line + 1) % UM__LEAF_LINES;
        slots[line * UM__LINE_SLOTS + taken[line]++] = entries[i].slot;
    }
}

/* Afterwards the lesser ones are before entries[middle], the others behind it. (Hoare 1961, "Find".) */
static void part_at(entry *entries, uint32_t count, uint32_t middle) {
    uint32_t low = 0, past = count;
    while (past - low > 1) {
        const um_fp pivot = entries[low + (past - low) / 2].fp;
        uint32_t left = low, right = past - 1;
        for (;;) {
            while (um__fp_less(&entries[left].fp, &pivot)) left++;
            while (um__fp_less(&pivot, &entries[right].fp)) right--;
            if (left >= right) break;
            const entry swapped = entries[left];
            entries[left++] = entries[right];
            entries[right--] = swapped;
        }
        if (middle < left) past = left;
        else if (middle > right) low = right + 1;
        else return;
    }
}

/* The same, from one array to another, mostly without a branch that depends on a fingerprint: first by which of some equal stretches of
 * time they are in, then part_at among those that are in the same one as the middle. All of them, if need be. */
static void part_evenly(const entry *from, uint32_t count, uint32_t middle, entry *to) {
    uint32_t in[STRETCHES] = {0}, shift = 0, stretch = 0, below = 0;
    uint64_t least = UINT64_MAX, most = 0;
    for (uint32_t i = 0; i < count; i++) {
        least = from[i].fp.lo < least ? from[i].fp.lo : least;
        most = from[i].fp.lo > most ? from[i].fp.lo : most;
    }
    while ((most - least) >> shift >= STRETCHES) shift++;
    for (uint32_t i = 0; i < count; i++) in[(from[i].fp.lo - least) >> shift]++;
    while (below + in[stretch] <= middle) below += in[stretch++];
    uint32_t next[3] = {0, below, below + in[stretch]};
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t its = (from[i].fp.lo - least) >> shift;
        to[next[(its >= stretch) + (its > stretch)]++] = from[i];
    }
    part_at(to + below, in[stretch], middle - below);
}

static void split(um_state *st, uint32_t index, path p) {
    um__fps_node *leaf = leaf_at(st, index, p);
    uint64_t *slots = (uint64_t *)(void *)(st->index[index].base + leaf->page * UM__PAGE_BYTES);
    entry entries[UM__LEAF_SLOTS], parted[UM__LEAF_SLOTS];
    uint32_t count = 0;
    for (uint32_t i = 0; i < UM__LEAF_SLOTS; i++) {
        if (slots[i] == 0) continue;
        __builtin_prefetch(pool(st, index) + (uint32_t)slots[i] - 1);
        entries[count++].slot = slots[i];
    }
    for (uint32_t i = 0; i < count; i++) entries[i].fp = pool(st, index)[(uint32_t)entries[i].slot - 1];
    part_evenly(entries, count, count / 2, parted);
    const um__fps_node upper = {parted[count / 2].fp, new_page(st, index), count - count / 2};
    leaf->count = count / 2;
    fill(slots, parted, count / 2);
    fill((uint64_t *)(void *)um__fps_nodes(st, index, upper.page), parted + count / 2, upper.count);
    insert_leaf(st, index, p, upper);
}

/* ---- looking, entering ---- */

uint32_t um__fps_find(const um_state *st, uint32_t index, const um_fp *fp) {
    const um_fp *fps = pool(st, index);
    const uint64_t *slots = um__slots(st, index);
    const um__fps_node *leaf = um__fps_leaf(st, index, fp);
    if (leaf == NULL) return UM_NONE;
    for (uint64_t line = um__fps_line(leaf, fp->hi);; line = um__fps_next_line(line)) {
        uint32_t empty, alike;
        um__line_bits(slots + line, (uint32_t)fp->hi, &empty, &alike);
        if (empty != 0) alike &= (empty - 1) & ~empty;
        for (; alike != 0; alike &= alike - 1) {
            const uint32_t number = (uint32_t)slots[line + (uint32_t)__builtin_ctz(alike)] - 1;
            if (fps[number].lo == fp->lo && fps[number].hi == fp->hi) return number;
        }
        if (empty != 0) return UM_NONE;
    }
}

static uint64_t slot_of(const um_fp *fp, uint32_t number) { return fp->hi << 32 | ((uint64_t)number + 1); }

static void count_in(um_state *st, uint32_t index, um__fps_node *leaf, const um_fp *fp) {
    um_fps_tree *tree = um__fps_tree(st, index);
    leaf->count++;
    tree->records++;
    if (um__fp_less(&tree->greatest, fp)) tree->greatest = *fp;
    if (um__fp_less(fp, &leaf->first)) leaf->first = um__fps_tops(st, index)->first = *fp;   /* less than all: that is the first leaf */
}

/* The leaf for it, with a place in it; NULL: there are more records than the limits allow, and a search must end. */
static um__fps_node *make_room(um_state *st, uint32_t index, const um_fp *fp) {
    um_fps_tree *tree = um__fps_tree(st, index);
    if (tree->inners == 0) {
        if (st->index[index].reserved < 3 * UM__PAGE_BYTES) return NULL;
        tree->tops = new_page(st, index);
        tree->top_pages = 1;
        const um__fps_node leaf = {*fp, new_page(st, index), 0}, inner = {*fp, new_page(st, index), 1};
        um__fps_nodes(st, index, inner.page)[0] = leaf;
        insert_top(st, index, 0, inner);
        tree->version++;
    }
    path p = find_path(st, index, fp);
    um__fps_node *leaf = leaf_at(st, index, p);
    const int newest = leaf->count >= tree->leaf_done && um__fp_less(&tree->greatest, fp);
    if (!newest && leaf->count < tree->leaf_full) return leaf;
    if (!has_room(st, index)) return NULL;
    if (newest) insert_leaf(st, index, p, (um__fps_node){*fp, new_page(st, index), 0});
    else split(st, index, p);
    p = find_path(st, index, fp);
    return leaf_at(st, index, p);
}

void um__fps_add(um_state *st, uint32_t index, um__fps_node *leaf, uint64_t at, uint32_t number) {
    const um_fp fp = pool(st, index)[number];
    const um_fps_tree *tree = um__fps_tree(st, index);
    if (at != 0 && (leaf->count < tree->leaf_done || (leaf->count < tree->leaf_full && !um__fp_less(&tree->greatest, &fp)))) {
        ((uint64_t *)(void *)st->index[index].base)[at] = slot_of(&fp, number);
    } else {
        leaf = make_room(st, index, &fp);
        if (leaf == NULL) return;
        put(st, index, leaf, &fp, slot_of(&fp, number));
    }
    count_in(st, index, leaf, &fp);
}

/* ---- from the pool ---- */

void um__fps_rebuild(um_state *st, uint32_t index) {
    const uint32_t count = um__fps_count(st, um__region_of_index(index));
    um__fps_clear(st, index);
    for (uint32_t number = 0; number < count; number++) um__fps_add(st, index, NULL, 0, number);
}

/* Every leaf has what its node says, the nodes are in order, and all but the newest are half full. */
static int is_in_order(const um_state *st, uint32_t index) {
    const um_fps_tree *tree = um__fps_tree_of(st, index);
    const um__fps_node *tops = um__fps_tops(st, index), *before = NULL;
    uint64_t records = 0;
    for (uint32_t top = 0; top < tree->inners; top++) {
        const um__fps_node *leaves = um__fps_nodes(st, index, tops[top].page);
        const int newest = top + 1 == tree->inners;
        if (memcmp(&tops[top].first, &leaves->first, sizeof leaves->first) != 0) return 0;
        if (tops[top].count == 0 || tops[top].count > tree->inner_full || (!newest && tops[top].count < tree->inner_full / 2)) return 0;
        for (uint32_t i = 0; i < tops[top].count; i++) {
            const uint64_t *slots = um__slots(st, index) + leaves[i].page * UM__LEAF_SLOTS;
            uint32_t count = 0;
            for (uint32_t s = 0; s < UM__LEAF_SLOTS; s++) count += slots[s] != 0;
            if (count != leaves[i].count || count > tree->leaf_full) return 0;
            if (count < tree->leaf_full / 2 && !(newest && i + 1 == tops[top].count)) return 0;
            if (before != NULL && !um__fp_less(&before->first, &leaves[i].first)) return 0;
            before = &leaves[i];
            records += count;
        }
    }
    return records == tree->records;
}

int um__fps_exact(const um_state *st, uint32_t index) {
    const uint32_t count = um__fps_count(st, um__region_of_index(index));
    if (um__fps_tree_of(st, index)->records != count || !is_in_order(st, index)) return 0;
    for (uint32_t number = 0; number < count; number++) {
        if (um__fps_find(st, index, &pool(st, index)[number]) != number) return 0;
    }
    return 1;
}

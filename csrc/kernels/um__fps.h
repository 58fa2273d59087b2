/* um__fps.h - where fingerprints are looked up (internal to the apply family of files; fps.c has the theory). */
#ifndef UM__FPS_H
#define UM__FPS_H
#include "um__apply.h"

#define UM__PAGE_BYTES ((uint64_t)UM_FPS_PAGE_BYTES)
#define UM__LEAF_SLOTS 512ULL
#define UM__LEAF_LINES 64ULL
#define UM__FPS_FEW 16384ULL /* records: with this limit or less, pages hold few (fps.c) */
#define UM__FPS_UNIT_BITS 4  /* the unit of a fingerprint's time: 16 ns */
#define UM__FPS_HASH_BITS 12 /* of lo, below the time */

struct um__fps_node {        /* of one page: an inner one, or a leaf */
    um_fp first;             /* the least in it, and the first node of an inner page has that page's */
    uint32_t page, count;    /* nodes in an inner page, records in a leaf */
};

/* A fingerprint's first half: its event's time in units (modulo 2.28 years), which says where to look, before some of the hash. */
static inline uint64_t um__fps_lo(uint64_t time, uint64_t hash) {
    return time << UM__FPS_HASH_BITS | hash >> (64 - UM__FPS_HASH_BITS);
}

static inline uint32_t um__current_fps(const um__ctx *ctx) { return ctx->fps == UM_R_FPS0 ? UM_X_FPS0 : UM_X_FPS1; }
static inline uint32_t um__other_fps(const um__ctx *ctx) { return ctx->fps == UM_R_FPS0 ? UM_X_FPS1 : UM_X_FPS0; }

static inline int um__fp_less(const um_fp *a, const um_fp *b) {
    return a->lo < b->lo || (a->lo == b->lo && a->hi < b->hi);
}
static inline um_fps_tree *um__fps_tree(um_state *st, uint32_t index) { return &st->fps[index - UM_X_FPS0]; }
static inline const um_fps_tree *um__fps_tree_of(const um_state *st, uint32_t index) { return &st->fps[index - UM_X_FPS0]; }
static inline um__fps_node *um__fps_nodes(const um_state *st, uint32_t index, uint32_t page) {
    return (um__fps_node *)(void *)(st->index[index].base + page * UM__PAGE_BYTES);
}
static inline um__fps_node *um__fps_tops(const um_state *st, uint32_t index) {
    return um__fps_nodes(st, index, um__fps_tree_of(st, index)->tops);
}

/* ---- which node? ---- */

/* Where it should be among `count` nodes, of which the first begins with `from` and the last ends with `past`, if what they
 * hold is spread evenly: it mostly is, or it is in the last one. */
static inline uint32_t um__fps_guess(uint64_t from, uint64_t past, uint32_t count, uint64_t lo) {
    if (lo >= past) return count - 1;
    if (lo <= from) return 0;
    const uint32_t guess = (uint32_t)((double)(lo - from) / (double)(past - from) * count);
    return guess < count ? guess : count - 1;
}

/* The node for it, searched from the guess on. (Interpolation search with galloping: Bentley, Yao 1976.) */
static inline uint32_t um__fps_pick(const um__fps_node *nodes, uint32_t count, uint32_t guess, const um_fp *fp) {
    uint32_t low, past, step = 1;
    if (um__fp_less(fp, &nodes[guess].first)) {
        past = guess;
        for (;;) {
            low = past > step ? past - step : 0;
            if (low == 0 || !um__fp_less(fp, &nodes[low].first)) break;
            past = low;
            step *= 2;
        }
    } else {
        low = guess;
        for (;;) {
            past = count - low > step ? low + step : count;
            if (past == count || um__fp_less(fp, &nodes[past].first)) break;
            low = past;
            step *= 2;
        }
    }
    while (past > low + 1) {
        const uint32_t middle = low + (past - low) / 2;
        if (um__fp_less(fp, &nodes[middle].first)) past = middle;
        else low = middle;
    }
    return low;
}

static inline uint32_t um__fps_pick_top(const um_state *st, uint32_t index, const um_fp *fp) {
    const um_fps_tree *tree = um__fps_tree_of(st, index);
    const um__fps_node *tops = um__fps_tops(st, index);
    return um__fps_pick(tops, tree->inners, um__fps_guess(tops->first.lo, tree->greatest.lo, tree->inners, fp->lo), fp);
}

/* Where it should be in this inner page. */
static inline uint32_t um__fps_guess_leaf(const um_state *st, uint32_t index, uint32_t top, uint64_t lo) {
    const um_fps_tree *tree = um__fps_tree_of(st, index);
    const um__fps_node *tops = um__fps_tops(st, index);
    return um__fps_guess(tops[top].first.lo, top + 1 < tree->inners ? tops[top + 1].first.lo : tree->greatest.lo, tops[top].count, lo);
}

/* Half way to the leaf for a fingerprint; `nodes` is NULL where there is none yet. */
static UM__ASK um__fps_way um__fps_begin(const um_state *st, uint32_t index, const um_fp *fp) {
    um__fps_way way = {NULL, 0, 0, 0};
    if (um__fps_tree_of(st, index)->inners == 0) return way;
    const uint32_t top = um__fps_pick_top(st, index, fp);
    const um__fps_node *node = um__fps_tops(st, index) + top;
    way.nodes = um__fps_nodes(st, index, node->page);
    way.count = node->count;
    way.guess = um__fps_guess_leaf(st, index, top, fp->lo);
    way.newest = top + 1 == um__fps_tree_of(st, index)->inners;
    __builtin_prefetch(way.nodes + way.guess);
    return way;
}
static inline um__fps_node *um__fps_arrive(const um__fps_way *way, const um_fp *fp) {
    return way->nodes == NULL ? NULL : way->nodes + um__fps_pick(way->nodes, way->count, way->guess, fp);
}

/* Both at once; NULL where there is none yet. */
static inline um__fps_node *um__fps_leaf(const um_state *st, uint32_t index, const um_fp *fp) {
    const um__fps_way way = um__fps_begin(st, index, fp);
    return um__fps_arrive(&way, fp);
}

/* ---- the leaf of the row before ---- */

/* Is it also the leaf of this one? Mostly, as a client's events come in the order of their times. */
static inline int um__fps_near(const um__fps_spot *spot, const um_fps_tree *tree, const um_fp *fp) {
    return spot->leaf != NULL && spot->version == tree->version && !um__fp_less(fp, &spot->first) && um__fp_less(fp, &spot->past);
}
/* Remembers where that way ended. The last leaf of an inner page is not worth finding out where it ends, but for the newest of all. */
static inline void um__fps_settle(um__fps_spot *spot, const um_fps_tree *tree, const um__fps_way *way, um__fps_node *leaf) {
    const int last = leaf + 1 == way->nodes + way->count;
    spot->leaf = last && !way->newest ? NULL : leaf;
    spot->version = tree->version;
    spot->first = leaf->first;
    spot->past = last ? (um_fp){UINT64_MAX, UINT64_MAX} : leaf[1].first;
}

/* The line of a leaf that its hash names. */
static inline uint64_t um__fps_home(uint64_t hi) { return (hi >> 32) % UM__LEAF_LINES; }

/* Its line there: the first slot, counted from the beginning of the arena; never 0, as the tops come first. */
static inline uint64_t um__fps_line(const um__fps_node *leaf, uint64_t hi) {
    return leaf->page * UM__LEAF_SLOTS + um__fps_home(hi) * UM__LINE_SLOTS;
}
static inline uint64_t um__fps_next_line(uint64_t line) {
    const uint64_t leaf = line & ~(UM__LEAF_SLOTS - 1);
    return leaf | ((line + UM__LINE_SLOTS) & (UM__LEAF_SLOTS - 1));
}

/* 1: none that looks like it is there, and *at is where it would go. 0: it may be there. */
static inline int um__fps_absent(const um_state *st, uint32_t index, uint64_t line, uint64_t hi, uint64_t *at) {
    for (;; line = um__fps_next_line(line)) {
        uint32_t empty, alike;
        um__line_bits(um__slots(st, index) + line, (uint32_t)hi, &empty, &alike);
        if (empty == 0 && alike == 0) continue;
        if (empty == 0 || (alike & (empty - 1) & ~empty) != 0) return 0;
        *at = line + (uint32_t)__builtin_ctz(empty);
        return 1;
    }
}

static UM__ASK void um__fps_ask_line(const um_state *st, uint32_t index, const um__fps_node *leaf, uint64_t hi) {
    __builtin_prefetch(um__slots(st, index) + um__fps_line(leaf, hi), 1);
}

/* What a row asks for before its turn comes, and when the turn of its window has come. */
static UM__ASK void um__id_ask(const um__ctx *ctx, const um__dedup *dedup) {
    if (dedup->kind == UM__DEDUP_ID) um__index_prefetch(ctx->st, UM_X_IDS, dedup->lo);
}
/* Prefetches, and finds out what can be known without: a generation whose fingerprints are all less does not have it. */
static UM__ASK void um__fp_ask(const um__ctx *ctx, const um__fps_spot *spot, um__dedup *dedup) {
    if (dedup->kind != UM__DEDUP_FP) return;
    const um_state *st = ctx->st;
    const um_fp fp = {dedup->lo, dedup->hi};
    const uint32_t current = um__current_fps(ctx), other = um__other_fps(ctx);
    const um_fps_tree *tree = um__fps_tree_of(st, current);
    dedup->version = tree->version;
    dedup->leaf = NULL;
    if (um__fps_near(spot, tree, &fp)) {
        dedup->leaf = spot->leaf;
        um__fps_ask_line(st, current, dedup->leaf, fp.hi);
    } else {
        dedup->way = um__fps_begin(st, current, &fp);
    }
    dedup->elsewhere.nodes = NULL;
    if (!um__fp_less(&um__fps_tree_of(st, other)->greatest, &fp)) dedup->elsewhere = um__fps_begin(st, other, &fp);
}
/* The next step: leaves are known, and ask for their lines. */
static UM__ASK void um__fp_ask_line(const um__ctx *ctx, um__fps_spot *spot, um__dedup *dedup) {
    if (dedup->kind != UM__DEDUP_FP) return;
    const um_state *st = ctx->st;
    const um_fp fp = {dedup->lo, dedup->hi};
    if (dedup->leaf == NULL && dedup->way.nodes != NULL) {
        const uint32_t current = um__current_fps(ctx);
        const um_fps_tree *tree = um__fps_tree_of(st, current);
        if (um__fps_near(spot, tree, &fp)) {
            dedup->leaf = spot->leaf;
        } else {
            dedup->leaf = um__fps_arrive(&dedup->way, &fp);
            um__fps_settle(spot, tree, &dedup->way, dedup->leaf);
        }
        um__fps_ask_line(st, current, dedup->leaf, fp.hi);
    }
    if (dedup->elsewhere.nodes == NULL) return;
    dedup->other_leaf = um__fps_arrive(&dedup->elsewhere, &fp);
    um__fps_ask_line(st, um__other_fps(ctx), dedup->other_leaf, fp.hi);
}

/* The number of that fingerprint, or UM_NONE. */
uint32_t um__fps_find(const um_state *st, uint32_t index, const um_fp *fp);
/* Enters record `number`. If `at` is not 0, it is where it goes, in this leaf, and nothing was entered since that was found. */
void um__fps_add(um_state *st, uint32_t index, um__fps_node *leaf, uint64_t at, uint32_t number);
void um__fps_clear(um_state *st, uint32_t index);
void um__fps_limits(um_state *st);                        /* after they have changed */
void um__fps_rebuild(um_state *st, uint32_t index);       /* from the pool */
int um__fps_exact(const um_state *st, uint32_t index);    /* it holds every record of its pool once, in order */
uint64_t um__fps_bytes_max(uint64_t records);             /* of its arena */
#endif

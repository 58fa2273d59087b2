/* dedup.c - has this very event been stored before?
 *
 * Two memories, with keys of 128 bits:
 *
 *   ids            (account, id) -> hash of the content. Same content: duplicate; other content: conflict.
 *                  Never forgotten.
 *   fingerprints   for v1 rows with an explicit timestamp and no id: 52 bits of the timestamp, which say where to look
 *                  (fps.c), and 76 bits of a hash of the row's bytes. Two generations of bounded size; the full one
 *                  becomes the old one and the older is emptied, at an entry's start, so all replicas forget alike.
 *
 * Equal rows inside one batch are distinct events; only a resend of the batch is a duplicate. So the k-th
 * repetition (k > 0) in a batch of a row whose fingerprint is known is remembered as hash(fingerprint, k).
 * The ordinal k counts the earlier equal rows of the batch that were stored or were duplicates: a row that was
 * refused left no trace, and on a resend takes the place of the next. Ordinals live in scratch, and only for
 * rows that met a known fingerprint: fresh rows, the normal case, never touch that table. A row whose
 * fingerprint was found among those stored since the batch began has therefore ordinal 1 at least.
 */
#include "um__fps.h"

typedef struct { uint64_t lo, hi, count; } ordinal_slot;
#define ORDINAL_SLOTS_MIN 16
#define ORDINAL_SLOTS_MAX (1ULL << 21)

uint64_t um_scratch_bytes_max(void) {
    return ORDINAL_SLOTS_MAX * sizeof(ordinal_slot);
}

void um__dedup_rotate(um__ctx *ctx, uint32_t entry_rows) {
    um_state *st = ctx->st;
    const uint64_t count = um__fps_count(st, ctx->fps);
    if (entry_rows == 0) return;
    const int full = count >= ctx->meta->limits.fingerprints_per_generation;
    const int no_room = count > 0 && !um__fps_room(ctx, entry_rows);
    if (!full && !no_room) return;
    ctx->meta->fps_current ^= 1;
    ctx->meta->fps_rotations++;
    ctx->fps = UM_R_FPS0 + (uint32_t)ctx->meta->fps_current;
    st->region[ctx->fps].used = 0;   /* the bytes stay until appended over: um__append saves them for a checkpoint */
    um__fps_clear(st, um__current_fps(ctx));
}

/* ---- keys ---- */

/* Finds the id in a tail without parsing the rest. */
static const uint8_t *peek_id(const uint8_t *row, uint32_t len, uint32_t *id_len) {
    const um_row *head = (const um_row *)(const void *)row;
    uint32_t at = sizeof *head;
    if (head->flags & UM_ROW_TEXT) {
        if (at >= len) return NULL;
        at += 1U + row[at];
    }
    if (at >= len) return NULL;
    *id_len = row[at++];
    return *id_len <= UM_ID_BYTES_MAX && at + *id_len <= len ? row + at : NULL;
}

static void id_key(const uint8_t *row, const uint8_t *id, uint32_t id_len, uint64_t *out) {
    const um_row *head = (const um_row *)(const void *)row;
    uint8_t bytes[256 + UM_ID_BYTES_MAX];
    uint32_t len;
    if (head->flags & UM_ROW_TEXT) {
        len = row[sizeof *head];
        memcpy(bytes, row + sizeof *head + 1, len);
        bytes[len++] = 1;
    } else {
        memcpy(bytes, &head->account, 8);
        bytes[8] = 0;
        len = 9;
    }
    memcpy(bytes + len, id, id_len);
    um_hash128(bytes, len + id_len, 0, out);
}

void um__dedup_key(const um__ctx *ctx, const uint8_t *row, uint32_t len, um__dedup *dedup) {
    const um_row *head = (const um_row *)(const void *)row;
    uint64_t hash[2];
    dedup->kind = UM__DEDUP_NONE;
    dedup->ordinal = NULL;
    dedup->at = 0;
    dedup->fresh = 0;
    if (head->flags & UM_ROW_ID) {
        uint32_t id_len;
        const uint8_t *id = peek_id(row, len, &id_len);
        if (id == NULL) return;   /* not a row: um__row_parse will say so */
        id_key(row, id, id_len, hash);
        dedup->kind = UM__DEDUP_ID;
    } else if ((ctx->batch_flags & UM_BATCH_V1) && head->timestamp_ns != 0) {
        if (len == sizeof *head) um__hash128(row, sizeof *head, 0, hash);
        else um_hash128(row, len, 0, hash);
        dedup->kind = UM__DEDUP_FP;
    } else {
        return;
    }
    dedup->lo = dedup->kind == UM__DEDUP_FP ? um__fps_lo((uint64_t)head->timestamp_ns >> UM__FPS_UNIT_BITS, hash[0]) : hash[0];
    dedup->hi = hash[1];
}

/* ---- looking ahead ---- */

/* um__absent, or what comes behind the home line on its way: the search will probably go on there. */
static int absent_or_ask(const um_state *st, uint32_t index, uint64_t hash, uint64_t *at) {
    if (um__absent(st, index, hash, at)) return 1;
    __builtin_prefetch(um__slots(st, index) + um__home(st, index, hash) + UM__LINE_SLOTS);
    return 0;
}

void um__dedup_peek(const um__ctx *ctx, um__dedup *dedup) {
    const um_state *st = ctx->st;
    uint64_t hi = dedup->hi, nowhere;
    if (dedup->kind == UM__DEDUP_ID) {
        dedup->fresh = (uint32_t)absent_or_ask(st, UM_X_IDS, dedup->lo, &dedup->at);
    } else if (dedup->kind == UM__DEDUP_FP) {
        const uint32_t current = um__current_fps(ctx), other = um__other_fps(ctx);
        dedup->fresh = dedup->leaf == NULL || (uint32_t)um__fps_absent(st, current, um__fps_line(dedup->leaf, hi), hi, &dedup->at);
        if (dedup->elsewhere.nodes != NULL) dedup->fresh &= (uint32_t)um__fps_absent(st, other, um__fps_line(dedup->other_leaf, hi), hi, &nowhere);
    }
}

/* The row's turn has come: what was absent may have been entered by a row before, or its place taken, or its leaf have become
 * another. (Not in the other generation.) */
static int still_fresh(const um__ctx *ctx, um__dedup *dedup) {
    const um_state *st = ctx->st;
    if (!dedup->fresh) return 0;
    if (dedup->kind == UM__DEDUP_ID) return um__still_absent(st, UM_X_IDS, dedup->at);
    const uint32_t current = um__current_fps(ctx);
    if (um__fps_tree_of(st, current)->version != dedup->version) {
        const um_fp fp = {dedup->lo, dedup->hi};
        dedup->version = um__fps_tree_of(st, current)->version;
        dedup->leaf = um__fps_leaf(st, current, &fp);
    } else if (dedup->at != 0 && um__slots(st, current)[dedup->at] == 0) {
        return 1;
    }
    return dedup->leaf == NULL || um__fps_absent(st, current, um__fps_line(dedup->leaf, dedup->hi), dedup->hi, &dedup->at);
}

/* ---- ids ---- */

static uint64_t id_content(const um__row_view *view) {
    um_row head = *view->head;
    head.flags &= (uint8_t)~UM_ROW_ID;
    head.tail_len = 0;
    const uint8_t *properties = NULL;
    uint64_t properties_len = 0;
    if (view->prop_count != 0) {
        const um__property *last = &view->props[view->prop_count - 1];
        properties = view->props[0].key - 2;
        properties_len = (uint64_t)(last->value + last->value_len - properties);
    }
    uint64_t hash = um_hash64((const uint8_t *)&head, sizeof head, 0);
    hash = um_hash64(view->text, view->text_len, hash);
    return um_hash64(properties, properties_len, hash);
}

static uint32_t look_id(const um__ctx *ctx, const um__row_view *view, um__dedup *dedup) {
    const um_state *st = ctx->st;
    uint64_t pos = um__home(st, UM_X_IDS, dedup->lo);
    uint32_t number;
    dedup->content = id_content(view);
    if (still_fresh(ctx, dedup)) return UM_V_STORED;
    dedup->at = 0;
    if (um__absent(st, UM_X_IDS, dedup->lo, &dedup->at)) return UM_V_STORED;
    while ((number = um__probe(st, UM_X_IDS, dedup->lo, &pos)) != UM_NONE) {
        const um_id *id = (const um_id *)(const void *)st->region[UM_R_IDS].base + number;
        if (id->lo == dedup->lo && id->hi == dedup->hi) return id->content == dedup->content ? UM_V_DUPLICATE : UM_V_CONFLICT;
    }
    return UM_V_STORED;
}

/* ---- fingerprints ---- */

/* Is it known, and if so, by which record of the current generation? UM_NONE: by the other's. */
static int is_known(const um__ctx *ctx, uint64_t lo, uint64_t hi, uint32_t *number) {
    const um_fp fp = {lo, hi};
    *number = um__fps_find(ctx->st, um__current_fps(ctx), &fp);
    return *number != UM_NONE || um__fps_find(ctx->st, um__other_fps(ctx), &fp) != UM_NONE;
}

/* The batch's counter for a base fingerprint, made with `first` when there is none; NULL: table full. */
static uint64_t *ordinal(um__ctx *ctx, uint64_t lo, uint64_t hi, uint64_t first) {
    ordinal_slot *slots = (ordinal_slot *)(void *)ctx->st->scratch.base;
    if (ctx->ordinal_mask == 0) {
        uint64_t count = ORDINAL_SLOTS_MIN;
        while (count < 2ULL * ctx->batch_rows && 2 * count * sizeof *slots <= ctx->st->scratch.reserved) count *= 2;
        memset(slots, 0, count * sizeof *slots);
        ctx->ordinal_mask = count - 1;
        ctx->ordinal_used = 0;
    }
    for (uint64_t at = hi & ctx->ordinal_mask;; at = (at + 1) & ctx->ordinal_mask) {
        if (slots[at].lo == lo && slots[at].hi == hi) return &slots[at].count;
        if ((slots[at].lo | slots[at].hi) != 0) continue;
        if (ctx->ordinal_used > ctx->ordinal_mask / 2) return NULL;
        ctx->ordinal_used++;
        slots[at] = (ordinal_slot){lo, hi, first};
        return &slots[at].count;
    }
}

static uint32_t look_fp(um__ctx *ctx, um__dedup *dedup) {
    uint32_t number;
    if (still_fresh(ctx, dedup)) return UM_V_STORED;
    dedup->at = 0;
    if (!is_known(ctx, dedup->lo, dedup->hi, &number)) return UM_V_STORED;

    const int of_this_batch = number != UM_NONE && number >= ctx->batch_fps;
    dedup->ordinal = ordinal(ctx, dedup->lo, dedup->hi, of_this_batch ? 1 : 0);
    if (dedup->ordinal == NULL) return UM_V_FULL;
    if (*dedup->ordinal != 0) {
        const uint64_t base[2] = {dedup->lo, dedup->hi};
        uint64_t hash[2];
        um_hash128((const uint8_t *)base, sizeof base, *dedup->ordinal, hash);
        dedup->lo = um__fps_lo(dedup->lo >> UM__FPS_HASH_BITS, hash[0]);
        dedup->hi = hash[1];
        if (!is_known(ctx, dedup->lo, dedup->hi, &number)) return UM_V_STORED;
    }
    ++*dedup->ordinal;
    return UM_V_DUPLICATE;
}

/* ---- what apply calls ---- */

uint32_t um__dedup_look(um__ctx *ctx, const um__tail *tail, um__dedup *dedup) {
    switch (dedup->kind) {
    case UM__DEDUP_ID: return look_id(ctx, &tail->view, dedup);
    case UM__DEDUP_FP: return look_fp(ctx, dedup);
    default: return UM_V_STORED;
    }
}

int um__dedup_room(const um__ctx *ctx, const um__dedup *dedup) {
    switch (dedup->kind) {
    case UM__DEDUP_ID: return um__room(ctx, UM_R_IDS, 1);
    case UM__DEDUP_FP: return um__fps_room(ctx, 1);
    default: return 1;
    }
}

void um__dedup_remember(um__ctx *ctx, const um__dedup *dedup, uint64_t seq) {
    um_state *st = ctx->st;
    if (dedup->kind == UM__DEDUP_ID) {
        const um_id id = {dedup->lo, dedup->hi, dedup->content, seq};
        const uint32_t number = um__count(st, UM_R_IDS);
        um__append(st, UM_R_IDS, &id, sizeof id);
        um__index_add_at(st, UM_X_IDS, dedup->at, id.lo, number);
    } else if (dedup->kind == UM__DEDUP_FP) {
        const um_fp fp = {dedup->lo, dedup->hi};
        const uint32_t number = um__fps_count(st, ctx->fps);
        um__append(st, ctx->fps, &fp, sizeof fp);
        um__fps_add(st, um__current_fps(ctx), dedup->leaf, dedup->at, number);
        if (dedup->ordinal != NULL) ++*dedup->ordinal;
    }
}

/* sessions.c - a client's numbered batches, each applied once.
 *
 * A session keeps the results of the last 64 numbers, number n in slot n % 64. The client names with every
 * batch the number below which it needs no answer any more (settled_below); a slot may be reused once its
 * number is settled. From there:
 *
 *     number < settled_below       was answered, and the client knows it     -> settled, counts nothing
 *     slot holds the number        a retry                                   -> the first result again
 *     slot holds another number    unsettled, or a later one                 -> outside the window, refused
 *     otherwise                    new                                       -> apply, then keep the result
 *
 * Sessions are opened by the log, and evicted by it: when the table is full, the one idle longest gives way
 * if it has been idle for longer than the limit.
 */
#include "um__apply.h"

static uint32_t find_session(const um_state *st, uint64_t hi, uint64_t lo) {
    const uint64_t hash = um__hash2(hi, lo);
    uint64_t pos = um__home(st, UM_X_SESSIONS, hash);
    uint32_t number;
    while ((number = um__probe(st, UM_X_SESSIONS, hash, &pos)) != UM_NONE) {
        const um_session *s = um__um_session(st, number);
        if (s->id_hi == hi && s->id_lo == lo) return number;
    }
    return UM_NONE;
}

/* O(sessions), and only when the table is full. The lowest number wins among equals. */
static uint32_t idle_longest(const um__ctx *ctx) {
    const uint32_t count = um__count(ctx->st, UM_R_SESSIONS);
    uint32_t oldest = UM_NONE;
    int64_t oldest_stamp = 0;
    for (uint32_t i = 0; i < count; i++) {
        const int64_t stamp = um__um_session(ctx->st, i)->last_stamp_ns;
        if (ctx->stamp_ns - stamp <= ctx->meta->limits.session_idle_ns) continue;
        if (oldest != UM_NONE && stamp >= oldest_stamp) continue;
        oldest = i;
        oldest_stamp = stamp;
    }
    return oldest;
}

uint32_t um__session_open(um__ctx *ctx, const um_batch *batch) {
    um_state *st = ctx->st;
    const uint32_t known = find_session(st, batch->session_hi, batch->session_lo);
    if (known != UM_NONE) {
        UM__TOUCH(st, um_session, UM_R_SESSIONS, known);
        um__um_session(st, known)->last_stamp_ns = ctx->stamp_ns;
        return 0;
    }
    um_session fresh;
    memset(&fresh, 0, sizeof fresh);
    fresh.id_hi = batch->session_hi;
    fresh.id_lo = batch->session_lo;
    fresh.settled_below = 1;
    fresh.last_stamp_ns = ctx->stamp_ns;
    if (um__room(ctx, UM_R_SESSIONS, 1)) {
        const uint32_t number = um__count(st, UM_R_SESSIONS);
        um__append(st, UM_R_SESSIONS, &fresh, sizeof fresh);
        um__index_add(st, UM_X_SESSIONS, um__hash2(fresh.id_hi, fresh.id_lo), number);
    } else {
        const uint32_t number = idle_longest(ctx);
        if (number == UM_NONE) return UM_V_SESSIONS_FULL;
        UM__TOUCH(st, um_session, UM_R_SESSIONS, number);
        *um__um_session(st, number) = fresh;
        um__index_rebuild(st, UM_X_SESSIONS);
        ctx->meta->sessions_evicted++;
    }
    ctx->meta->sessions_opened++;
    return 0;
}

uint32_t um__session_enter(um__ctx *ctx, const um_batch *batch, um_summary *summary, uint32_t *session) {
    um_state *st = ctx->st;
    *session = find_session(st, batch->session_hi, batch->session_lo);
    if (*session == UM_NONE) return UM_V_SESSION_UNKNOWN;
    UM__TOUCH(st, um_session, UM_R_SESSIONS, *session);
    um_session *s = um__um_session(st, *session);
    const uint64_t settled_before = s->settled_below;
    s->last_stamp_ns = ctx->stamp_ns;
    if (batch->settled_below > s->settled_below) s->settled_below = batch->settled_below;
    if (batch->number < settled_before) return UM_V_SESSION_SETTLED;

    const um_result *slot = &s->results[batch->number % UM_SESSION_WINDOW];
    if (slot->number == batch->number) {
        summary->stored = slot->stored;
        summary->duplicates = slot->duplicates;
        summary->conflicts = slot->conflicts;
        summary->refused = slot->refused;
        summary->first_bad = slot->first_bad;
        summary->first_verdict = slot->first_verdict;
        summary->last_offset = slot->last_offset;
        return UM_V_DUPLICATE;
    }
    if (slot->number > batch->number) return UM_V_SESSION_WINDOW;
    if (slot->number != 0 && slot->number >= s->settled_below) return UM_V_SESSION_WINDOW;
    return 0;
}

/* The record was touched by enter, and rows do not open sessions: it is still the same one. */
void um__session_done(um__ctx *ctx, uint32_t session, uint64_t number, const um_summary *summary) {
    UM__TOUCH(ctx->st, um_session, UM_R_SESSIONS, session);
    um_session *s = um__um_session(ctx->st, session);
    s->results[number % UM_SESSION_WINDOW] = (um_result){
        .number = number, .stored = summary->stored, .duplicates = summary->duplicates, .conflicts = summary->conflicts,
        .refused = summary->refused, .first_bad = summary->first_bad, .first_verdict = summary->first_verdict,
        .last_offset = summary->last_offset,
    };
    if (number > s->highest) s->highest = number;
}

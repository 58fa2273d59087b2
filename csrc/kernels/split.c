/* split.c - one request, the open entries of several groups.
 *
 * An account belongs to a partition, a partition to a group:
 *     group = (account mod 256) mod group_count;  of a text account: (um_hash64(text, seed 0) mod 256) mod group_count
 * The client does not have to know: a request is read into the staging area first (intake_v1.c, intake_v2.c), then its
 * rows are looked at, and only when every group that it needs is taken here and has room, they go there. So, as in
 * intake.c, a frame is taken whole or not touched.
 *
 * Who leads the groups is said by a byte for each, `local`: 0, nobody that this node could ask; 1, taken here; any
 * other label, led by another node, the same label for the same node. A request that needs a group of label 0, or that
 * only needs groups of one other node, stops with UM_STOP_ELSEWHERE: its client must wait, or ask there. One that needs
 * several nodes is taken, and what is for others is theirs as bundles. While unknown_waits is set, the catalog may be
 * behind: a request with events of metrics that it does not know stops with UM_STOP_ELSEWHERE, too.
 *
 * Where a request goes:
 *   rows in one group                      a batch there, as intake.c would make it
 *   rows in several groups                 a batch in each (same session, number, settled_below and flags), and a span
 *                                          (spans.c) that gathers their answers
 *   opens a session                        a batch without rows in every group (a span), with a group hint only there
 *   numbered, but no row is left of it     a batch without rows in the hinted group, else in group 0
 *   refused whole, or nothing in it        no batch; answered through the lists of group 0, wherever group 0 is led
 * The group hint is a field of the v2 header: a group + 1; 0, or a group that there is not: none. It says nothing
 * about rows.
 *
 * Sequence numbers of several groups cannot be compared, but a v1 client expects last_offset to grow with every batch
 * that it gets an answer to. So with more than one group it is the stamp of the entry (UM_REQ_STAMPED, on every request
 * of these intakes): the entry's own for async and sync alike, for a retry that of the entry it came in.
 */
#include "um__wire.h"

typedef struct {
    uint64_t wanted;                                    /* bit per group */
    uint32_t row_count[UM_GROUPS_MAX], rows_len[UM_GROUPS_MAX];
} um__parts;

void um_splitter_init(um_splitter *splitter, uint32_t group_count) {
    splitter->group_count = group_count < 1 ? 1 : group_count > UM_GROUPS_MAX ? UM_GROUPS_MAX : group_count;
    for (uint32_t partition = 0; partition < UM_PARTITIONS; partition++)
        splitter->group_of[partition] = (uint8_t)(partition % splitter->group_count);
}

/* `row` was read by intake: it is well-formed */
static inline uint32_t group_of_row(const um_splitter *splitter, const uint8_t *row, uint32_t *row_bytes) {
    um_row head;
    memcpy(&head, row, sizeof head);
    *row_bytes = (uint32_t)sizeof head + head.tail_len;
    if (head.flags & UM_ROW_TEXT) return splitter->group_of[um_hash64(row + sizeof head + 1, row[sizeof head], 0) & 255];
    return splitter->group_of[head.account & 255];
}

static uint64_t bit(uint32_t group) { return 1ULL << group; }
static uint32_t lowest(uint64_t groups) { return (uint32_t)__builtin_ctzll(groups); }
static int several(uint64_t groups) { return (groups & (groups - 1)) != 0; }

/* which groups does the request need, and what goes to each? */
static void survey(const um_splitter *splitter, const um_frame *frame, const um__taken *taken, const uint8_t *rows, um__parts *parts) {
    memset(parts, 0, sizeof *parts);
    if (taken->status != UM_REQ_OK) return;
    for (uint32_t row = 0; row < taken->row_count; row++) {
        uint32_t bytes, group = group_of_row(splitter, rows, &bytes);
        parts->wanted |= bit(group);
        parts->row_count[group]++;
        parts->rows_len[group] += bytes;
        rows += bytes;
    }
    if (taken->row_count != 0 || !taken->wants_batch) return;
    const uint32_t hint = frame->protocol == 2 && frame->partition <= splitter->group_count ? frame->partition : 0;
    if (hint != 0) parts->wanted = bit(hint - 1);
    else if (taken->batch.flags & UM_BATCH_OPEN_SESSION) parts->wanted = ~0ULL >> (64 - splitter->group_count);
    else parts->wanted = bit(0);
}

static int has_room(const um_intake *intake, uint32_t rows_len, uint32_t notes) {
    return um__left(&intake->rows) >= sizeof(um_batch) + (uint64_t)rows_len && um__left(&intake->notes) >= (uint64_t)notes * 8 &&
           um__left(&intake->waiting) >= sizeof(um_request) && um__left(&intake->immediate) >= sizeof(um_request);
}

static void take_whole(um_intake *intake, const um_frame *frame, uint32_t link, const um__taken *taken, const uint8_t *rows,
                       const uint32_t *notes) {
    um_request request;
    um__describe(frame, taken, link, intake->stamped, &request);
    if (taken->status == UM_REQ_OK) {
        memcpy(intake->rows.base + intake->rows.used + sizeof(um_batch), rows, taken->rows_len);
        memcpy(intake->notes.base + intake->notes.used, notes, (uint64_t)taken->unknown * 8);
        um__keep(intake, &request, taken);
    }
    um__list(intake, &request);
}

/* Deal the rows out behind the marks of the intakes; note of every event where it went. */
static void deal(const um_splitter *splitter, um_intake **intakes, const um__taken *taken, const uint8_t *rows, const uint32_t *notes,
                 uint64_t wanted, um_span_event *events) {
    uint8_t *to[UM_GROUPS_MAX];
    for (uint64_t left = wanted; left != 0; left &= left - 1) {
        const um_arena *arena = &intakes[lowest(left)]->rows;
        to[lowest(left)] = arena->base + arena->used + sizeof(um_batch);
    }
    uint32_t note = 0;
    for (uint32_t event = 0; event < taken->events; event++) {
        if (note < taken->unknown && notes[2 * note] == event) {
            events[event] = (um_span_event){UM_NO_GROUP, (uint8_t)notes[2 * note + 1]};
            note++;
            continue;
        }
        uint32_t bytes, group = group_of_row(splitter, rows, &bytes);
        memcpy(to[group], rows, bytes);
        to[group] += bytes;
        rows += bytes;
        events[event] = (um_span_event){(uint8_t)group, UM_V_STORED};
    }
}

static void take_span(um_splitter *splitter, um_intake **intakes, const um_frame *frame, uint32_t link, const um__taken *taken,
                      const uint8_t *rows, const uint32_t *notes, const um__parts *parts) {
    const uint32_t number = um__span_open(&splitter->spans);
    um_span *span = um__span(&splitter->spans, number);
    um_request request;
    um__describe(frame, taken, link, 1, &request);
    span->link = link;
    span->request_id = request.request_id;
    span->flags = request.flags;
    span->events = taken->events;
    span->unknown = taken->unknown;
    deal(splitter, intakes, taken, rows, notes, parts->wanted, um__span_events(span));
    for (uint64_t left = parts->wanted; left != 0; left &= left - 1) {
        const uint32_t group = lowest(left);
        um__taken part = *taken;
        part.row_count = part.events = parts->row_count[group];
        part.rows_len = parts->rows_len[group];
        part.unknown = 0;
        um__describe(frame, &part, link, 1, &request);
        um__keep(intakes[group], &request, &part);
        request.notes_off = group;
        request.span = number + 1;
        um__list(intakes[group], &request);
        span->parts++;
    }
}

/* May the request be taken now? A stop code, UM_STOP_END for yes. */
static uint32_t judge(um_splitter *splitter, um_intake **intakes, const uint8_t *local, const um__taken *taken, const um__parts *parts) {
    uint8_t led_by = 0, several_leaders = 0;
    if (splitter->unknown_waits && taken->status == UM_REQ_OK && taken->unknown != 0) return UM_STOP_ELSEWHERE;
    for (uint64_t left = parts->wanted; left != 0; left &= left - 1) {
        const uint8_t label = local[lowest(left)];
        if (label == 0) return UM_STOP_ELSEWHERE;
        several_leaders |= led_by != 0 && led_by != label;
        led_by = label;
    }
    if (led_by > 1 && !several_leaders) return UM_STOP_ELSEWHERE;
    const uint64_t used = parts->wanted != 0 ? parts->wanted : bit(0);
    const uint32_t notes = several(used) || taken->status != UM_REQ_OK ? 0 : taken->unknown;
    for (uint64_t left = used; left != 0; left &= left - 1)
        if (intakes[lowest(left)]->frozen) return UM_NONE;
    for (uint64_t left = used; left != 0; left &= left - 1)
        if (!has_room(intakes[lowest(left)], parts->rows_len[lowest(left)], notes)) return UM_STOP_FULL;
    return several(used) && um__spans_full(&splitter->spans) ? UM_STOP_FULL : UM_STOP_END;
}

uint32_t um_split_frames(const uint8_t *data, uint64_t len, const um_frame *frames, uint32_t first, uint32_t count, const um_catalog *catalog,
                         uint32_t link, um_splitter *splitter, um_intake **intakes, const uint8_t *local, uint32_t *next) {
    um__intake_call call;
    call.catalog = catalog;
    call.batch_events_max = intakes[0]->batch_events_max;
    memset(&call.codes, 0, sizeof call.codes);
    splitter->groups_wanted = 0;
    uint8_t *rows = splitter->staging.base;
    uint32_t *notes = (uint32_t *)(void *)splitter->notes.base;
    uint32_t stop = UM_STOP_END, at = first;
    for (; at < count; at++) {
        const um_frame *frame = &frames[at];
        if (!um__is_ingest(frame)) { stop = UM_STOP_CONTROL; break; }
        if (splitter->staging.reserved < sizeof(um_batch) + (uint64_t)frame->payload_len) { stop = UM_STOP_FULL; break; }
        um__taken taken;
        um__parts parts;
        um__read_frame(&call, data, len, frame, rows, notes, &taken);
        survey(splitter, frame, &taken, rows, &parts);
        stop = judge(splitter, intakes, local, &taken, &parts);
        if (stop != UM_STOP_END) {
            splitter->groups_wanted = parts.wanted;
            break;
        }
        if (several(parts.wanted)) take_span(splitter, intakes, frame, link, &taken, rows, notes, &parts);
        else take_whole(intakes[parts.wanted ? lowest(parts.wanted) : 0], frame, link, &taken, rows, notes);
        if (taken.status == UM_REQ_MALFORMED) { stop = UM_STOP_MALFORMED; at++; break; }
    }
    *next = at;
    return stop;
}

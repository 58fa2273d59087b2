/* intake.c - ingest frames become batches in the open entry.
 *
 * For each frame: is there room, read it (intake_v1.c, intake_v2.c), then commit or forget. Readers write past
 * the `used` marks of the arenas; only here do the marks move, so a refused request leaves no trace but the
 * record that answers it. Malformed requests never reach the log: what the log holds, apply can take.
 *
 * Room (UM_STOP_FULL otherwise): a row is never longer than what it was sent in, so payload_len bytes and one
 * batch head are enough for the rows and for the readers' scratch behind them; batch_events_max pairs for the
 * notes; and one um_request in either list. All of it is asked for before a frame is touched.
 *
 * Where a request goes: `waiting` when its answer needs apply (sync, and always the opening of a session),
 * `immediate` otherwise: refused whole, async, or nothing in it to store.
 */
#include "um__wire.h"

static int has_room(const um_intake *intake, const um_frame *frame) {
    return um__left(&intake->rows) >= sizeof(um_batch) + (uint64_t)frame->payload_len &&
           um__left(&intake->notes) >= (uint64_t)intake->batch_events_max * 8 &&
           um__left(&intake->waiting) >= sizeof(um_request) && um__left(&intake->immediate) >= sizeof(um_request);
}

void um__read_frame(um__intake_call *call, const uint8_t *data, uint64_t len, const um_frame *frame, uint8_t *rows, uint32_t *notes,
                    um__taken *taken) {
    memset(taken, 0, sizeof *taken);
    taken->at_event = UM_NONE;
    taken->sync = frame->protocol == 1 ? frame->type == UM_V1_TYPE_INGEST_SYNC : !(frame->flags & UM_V2_FLAG_INGEST_ASYNC);
    if (frame->payload_off > len || frame->payload_len > len - frame->payload_off) taken->status = UM_REQ_MALFORMED;
    else if (frame->protocol == 1) um__take_v1(call, data + frame->payload_off, frame->payload_len, rows, notes, taken);
    else um__take_v2(call, data + frame->payload_off, frame->payload_len, rows, notes, taken);
}

void um__describe(const um_frame *frame, const um__taken *taken, uint32_t link, uint32_t stamped, um_request *request) {
    memset(request, 0, sizeof *request);
    request->link = link;
    request->request_id = frame->request_id;
    request->flags = (taken->sync ? UM_REQ_SYNC : 0) | (frame->protocol == 2 ? UM_REQ_V2 : 0) |
                     (frame->protocol == 2 && (frame->flags & UM_V2_FLAG_INGEST_VERDICTS) ? UM_REQ_WANTS_VERDICTS : 0) |
                     (stamped ? UM_REQ_STAMPED : 0);
    request->status = taken->status;
    request->events = taken->events;
    request->batch = UM_NONE;
    if (taken->status != UM_REQ_OK) request->row_base = taken->at_event;
}

void um__keep(um_intake *intake, um_request *request, const um__taken *taken) {
    request->notes_off = (uint32_t)(intake->notes.used / 4);
    request->notes_count = taken->unknown;
    request->unknown = taken->unknown;
    request->row_base = intake->row_count;
    intake->notes.used += (uint64_t)taken->unknown * 8;
    if (taken->row_count == 0 && !taken->wants_batch) return;
    um_batch batch = taken->batch;
    batch.row_count = taken->row_count;
    batch.rows_len = taken->rows_len;
    batch.reserved = 0;
    memcpy(intake->rows.base + intake->rows.used, &batch, sizeof batch);
    intake->rows.used += sizeof batch + taken->rows_len;
    request->batch = intake->batch_count++;
    request->row_count = taken->row_count;
    intake->row_count += taken->row_count;
}

void um__list(um_intake *intake, const um_request *request) {
    um_arena *list = (request->flags & UM_REQ_SYNC) && request->batch != UM_NONE ? &intake->waiting : &intake->immediate;
    memcpy(list->base + list->used, request, sizeof *request);
    list->used += sizeof *request;
}

uint32_t um_intake_frames(const uint8_t *data, uint64_t len, const um_frame *frames, uint32_t first, uint32_t count,
                          const um_catalog *catalog, uint32_t link, um_intake *intake, uint32_t *next) {
    um__intake_call call;
    call.catalog = catalog;
    call.batch_events_max = intake->batch_events_max;
    memset(&call.codes, 0, sizeof call.codes);
    uint32_t stop = UM_STOP_END, at = first;
    for (; at < count; at++) {
        if (!um__is_ingest(&frames[at])) { stop = UM_STOP_CONTROL; break; }
        if (!has_room(intake, &frames[at])) { stop = UM_STOP_FULL; break; }
        um__taken taken;
        um_request request;
        um__read_frame(&call, data, len, &frames[at], intake->rows.base + intake->rows.used + sizeof(um_batch),
                       (uint32_t *)(void *)(intake->notes.base + intake->notes.used), &taken);
        um__describe(&frames[at], &taken, link, intake->stamped, &request);
        if (taken.status == UM_REQ_OK) um__keep(intake, &request, &taken);
        um__list(intake, &request);
        if (request.status == UM_REQ_MALFORMED) { stop = UM_STOP_MALFORMED; at++; break; }
    }
    *next = at;
    return stop;
}

void um_intake_clear(um_intake *intake) {
    intake->rows.used = intake->waiting.used = intake->immediate.used = intake->notes.used = 0;
    intake->batch_count = intake->row_count = intake->frozen = 0;
}

static void place(um_arena *list, uint64_t first_seq) {
    um_request *requests = (um_request *)(void *)list->base;
    for (uint64_t i = 0; i < list->used / sizeof *requests; i++) requests[i].first_seq = first_seq;
}

void um_intake_place(um_intake *intake, uint64_t first_seq) {
    place(&intake->waiting, first_seq);
    place(&intake->immediate, first_seq);
}

uint64_t um_intake_seal(um_intake *intake, uint32_t group, uint64_t index, uint64_t term, int64_t stamp_ns, uint64_t first_seq) {
    um_entry head = {.body_len = (uint32_t)intake->rows.used, .group = (uint16_t)group, .kind = UM_ENTRY_BATCHES,
                     .batch_count = intake->batch_count, .term = term, .index = index, .stamp_ns = stamp_ns,
                     .first_seq = first_seq, .row_count = intake->row_count};
    um_entry_seal(&head, intake->rows.base);
    memcpy(intake->rows.base - sizeof head, &head, sizeof head);
    um_intake_place(intake, intake->stamped ? (uint64_t)stamp_ns : first_seq);
    intake->frozen = 1;
    return sizeof head + intake->rows.used;
}

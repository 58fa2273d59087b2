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

static int is_ingest(const um_frame *frame) {
    if (frame->protocol == 1) return frame->type == UM_V1_TYPE_INGEST_ASYNC || frame->type == UM_V1_TYPE_INGEST_SYNC;
    return frame->protocol == 2 && frame->type == UM_V2_TYPE_INGEST;
}

static uint64_t room(const um_arena *arena) { return arena->reserved - arena->used; }

static int has_room(const um_intake *intake, const um_frame *frame) {
    return room(&intake->rows) >= sizeof(um_batch) + (uint64_t)frame->payload_len &&
           room(&intake->notes) >= (uint64_t)intake->batch_events_max * 8 &&
           room(&intake->waiting) >= sizeof(um_request) && room(&intake->immediate) >= sizeof(um_request);
}

static void keep(um_intake *intake, um_request *request, const um__taken *taken) {
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

static void take(um__intake_call *call, const uint8_t *data, uint64_t len, const um_frame *frame, um_request *request) {
    um_intake *intake = call->intake;
    um__taken taken;
    memset(&taken, 0, sizeof taken);
    taken.at_event = UM_NONE;
    taken.sync = frame->protocol == 1 ? frame->type == UM_V1_TYPE_INGEST_SYNC : !(frame->flags & UM_V2_FLAG_INGEST_ASYNC);
    uint8_t *rows = intake->rows.base + intake->rows.used + sizeof(um_batch);
    uint32_t *notes = (uint32_t *)(void *)(intake->notes.base + intake->notes.used);

    if (frame->payload_off > len || frame->payload_len > len - frame->payload_off) taken.status = UM_REQ_MALFORMED;
    else if (frame->protocol == 1) um__take_v1(call, data + frame->payload_off, frame->payload_len, rows, notes, &taken);
    else um__take_v2(call, data + frame->payload_off, frame->payload_len, rows, notes, &taken);

    request->request_id = frame->request_id;
    request->flags = (taken.sync ? UM_REQ_SYNC : 0) | (frame->protocol == 2 ? UM_REQ_V2 : 0) |
                     (frame->protocol == 2 && (frame->flags & UM_V2_FLAG_INGEST_VERDICTS) ? UM_REQ_WANTS_VERDICTS : 0);
    request->status = taken.status;
    request->events = taken.events;
    request->batch = UM_NONE;
    if (taken.status == UM_REQ_OK) keep(intake, request, &taken);
    else request->row_base = taken.at_event;
}

uint32_t um_intake_frames(const uint8_t *data, uint64_t len, const um_frame *frames, uint32_t first, uint32_t count,
                          const um_catalog *catalog, uint32_t link, um_intake *intake, uint32_t *next) {
    um__intake_call call;
    call.catalog = catalog;
    call.intake = intake;
    memset(&call.codes, 0, sizeof call.codes);
    uint32_t stop = UM_STOP_END, at = first;
    for (; at < count; at++) {
        if (!is_ingest(&frames[at])) { stop = UM_STOP_CONTROL; break; }
        if (!has_room(intake, &frames[at])) { stop = UM_STOP_FULL; break; }
        um_request request;
        memset(&request, 0, sizeof request);
        request.link = link;
        take(&call, data, len, &frames[at], &request);
        um_arena *list = (request.flags & UM_REQ_SYNC) && request.batch != UM_NONE ? &intake->waiting : &intake->immediate;
        memcpy(list->base + list->used, &request, sizeof request);
        list->used += sizeof request;
        if (request.status == UM_REQ_MALFORMED) { stop = UM_STOP_MALFORMED; at++; break; }
    }
    *next = at;
    return stop;
}

/* intake_v2.c - a v2 ingest payload becomes rows.
 *
 *   head 48 B | dictionary: n x [len u8, code], zero-padded to 8 | rows, as they are logged
 *
 * The client sends rows in the form of the log; all there is to do is to believe nothing, and to put the metric
 * id in the place of the dictionary index.
 *
 * What is refused, and how hard:
 *   MALFORMED (the link is closed): lengths that do not add up; unknown batch flags; a number without a session
 *     or a session without one; events in a batch that opens a session; a broken dictionary; rows that end
 *     before rows_len.
 *   TOO_MANY_EVENTS (the request is refused, the link stays): event_count above the limit.
 *   BAD_ROW (the same): the first event that is no well-formed row, or points outside the dictionary.
 */
#include "um__wire.h"

#define HEAD UM_V2_INGEST_HEAD_BYTES
#define UNKNOWN 0xFFFFu         /* in the resolved dictionary: no such metric (ids are below 4096) */

static void refuse(um__taken *taken, uint32_t status, uint32_t event) {
    taken->status = status;
    taken->at_event = event;
}

/* The batch's head, when its session, number and flags make sense together. */
static int read_head(const uint8_t *head, um__taken *taken) {
    um_batch *batch = &taken->batch;
    batch->session_hi = um__load64(head + UM_V2_INGEST_HEAD_SESSION_HI_AT);
    batch->session_lo = um__load64(head + UM_V2_INGEST_HEAD_SESSION_LO_AT);
    batch->number = um__load64(head + UM_V2_INGEST_HEAD_NUMBER_AT);
    batch->settled_below = um__load64(head + UM_V2_INGEST_HEAD_SETTLED_BELOW_AT);
    uint32_t flags = um__load16(head + UM_V2_INGEST_HEAD_BATCH_FLAGS_AT);
    taken->events = um__load32(head + UM_V2_INGEST_HEAD_EVENT_COUNT_AT);
    if (flags & ~(uint32_t)UM_V2_BATCH_FLAG_OPEN_SESSION) return 0;
    if (batch->session_hi == 0 && batch->session_lo == 0)
        return flags == 0 && batch->number == 0 && batch->settled_below == 0;
    taken->wants_batch = 1;     /* its number must be recorded even if no event of it can be */
    if (flags == 0) return batch->number != 0;
    batch->flags = UM_BATCH_OPEN_SESSION;
    taken->sync = 1;            /* only apply knows whether there was room for the session */
    return batch->number == 0 && taken->events == 0;
}

/* Resolve every code into ids[]; 0 when the bytes are not a dictionary of exactly `count` codes. */
static int read_dictionary(const um_catalog *catalog, const uint8_t *bytes, uint64_t len, uint32_t count, uint8_t *ids) {
    uint64_t at = 0;
    for (uint32_t n = 0; n < count; n++) {
        if (at == len) return 0;
        uint32_t code_len = bytes[at];
        if (code_len == 0 || code_len > UM_CODE_BYTES_MAX || len - at - 1 < code_len) return 0;
        uint16_t id = (uint16_t)um_catalog_find(catalog, bytes + at + 1, code_len);   /* UM_NONE becomes UNKNOWN */
        memcpy(ids + 2 * (uint64_t)n, &id, 2);
        at += 1 + code_len;
    }
    if (len - at >= 8) return 0;
    for (; at < len; at++) {
        if (bytes[at] != 0) return 0;
    }
    return len % 8 == 0;
}

/* Length of the row at p, 0 when it is not one. Rows without a tail are checked here: they are most of all rows. */
static inline uint64_t row_len(const uint8_t *p, uint64_t left, um_row *head) {
    if (left < sizeof *head) return 0;
    memcpy(head, p, sizeof *head);
    if (head->tail_len == 0) {
        int plain = (head->flags | head->prop_count | head->reserved) == 0;
        return plain && head->operation <= UM_OP_REMOVE && head->timestamp_ns >= 0 ? sizeof *head : 0;
    }
    um__row_view view;
    return um__row_parse(p, left, &view) ? view.total_len : 0;
}

void um__take_v2(um__intake_call *call, const uint8_t *payload, uint64_t len, uint8_t *rows, uint32_t *notes, um__taken *taken) {
    if (len < HEAD) return refuse(taken, UM_REQ_MALFORMED, UM_NONE);
    const uint64_t dictionary_len = um__load32(payload + UM_V2_INGEST_HEAD_DICTIONARY_LEN_AT);
    const uint64_t rows_len = um__load32(payload + UM_V2_INGEST_HEAD_ROWS_LEN_AT);
    const uint32_t dictionary_count = um__load16(payload + UM_V2_INGEST_HEAD_DICTIONARY_COUNT_AT);
    if (len != HEAD + dictionary_len + rows_len || !read_head(payload, taken)) return refuse(taken, UM_REQ_MALFORMED, UM_NONE);
    if (taken->events > call->batch_events_max) return refuse(taken, UM_REQ_TOO_MANY_EVENTS, UM_NONE);
    /* the resolved dictionary stands behind the rows: 2 bytes for each code, which took at least 2 in the payload */
    uint8_t *ids = rows + rows_len;
    if (!read_dictionary(call->catalog, payload + HEAD, dictionary_len, dictionary_count, ids))
        return refuse(taken, UM_REQ_MALFORMED, UM_NONE);

    const uint8_t *p = payload + HEAD + dictionary_len;
    uint64_t left = rows_len;
    uint8_t *out = rows;
    for (uint32_t index = 0; index < taken->events; index++) {
        um_row head;
        uint64_t bytes = row_len(p, left, &head);
        if (bytes == 0 || head.metric >= dictionary_count) return refuse(taken, UM_REQ_BAD_ROW, index);
        uint16_t id = um__load16(ids + 2 * (uint64_t)head.metric);
        if (id == UNKNOWN) {
            notes[2 * taken->unknown] = index;
            notes[2 * taken->unknown + 1] = UM_V_UNKNOWN_METRIC;
            taken->unknown++;
        } else {
            head.metric = id;
            memcpy(out, &head, sizeof head);
            if (bytes > sizeof head) memcpy(out + sizeof head, p + sizeof head, bytes - sizeof head);
            out += bytes;
        }
        p += bytes;
        left -= bytes;
    }
    if (left != 0) return refuse(taken, UM_REQ_MALFORMED, UM_NONE);
    taken->row_count = taken->events - taken->unknown;
    taken->rows_len = (uint32_t)(out - rows);
}

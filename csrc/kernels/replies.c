/* replies.c - answers to ingest requests, as bytes.
 *
 * One answer per request, in the order given, packed end to end into `out`; answers to one link that stand next
 * to each other form one run, so that the caller sends them with one write. What an answer says comes from three
 * places: the request record (what intake refused), the notes (events of unknown metrics), and, once applied,
 * the summary and the verdict bytes of its batch.
 *
 * Without a summary (async, or nothing to store) the answer says what was ordered: stored = its rows, last_offset
 * = the sequence number of its last row, or of the last row before it when it has none; 0 when first_seq is not
 * known. (UM_REQ_STAMPED: last_offset is first_seq, the entry's stamp, with or without a summary.) A retry of a session's batch answers with the first answer's counts; what they do not explain of the
 * events sent was refused back then for an unknown metric.
 *
 * A part of a span has no answer of its own: what it says is added to the span (spans.c), and the last part's place
 * in `out` is where the span's answer goes. It is put together as if a request and a summary had said it all.
 *
 * Refusals are sentences: v1 sends "message; fix" as text, v2 a msgpack map {code, message, fix}.
 */
#include "um__wire.h"

#define TEXT_MAX 400            /* no message and no fix is longer, numbers included */
#define ERROR_ROOM (UM_V2_HEADER_BYTES + 2 * TEXT_MAX + 64)

typedef struct { uint32_t len; uint8_t bytes[TEXT_MAX]; } text;
typedef struct { const char *code, *message, *fix; } reason;

static void add(text *t, const char *words) {
    for (; *words != 0 && t->len < TEXT_MAX; words++) t->bytes[t->len++] = (uint8_t)*words;
}

static void add_number(text *t, uint32_t number) {
    char digits[11];
    uint32_t at = sizeof digits;
    digits[--at] = 0;
    do digits[--at] = (char)('0' + number % 10); while ((number /= 10) != 0);
    add(t, digits + at);
}

/* ---- why a request was refused whole (UM_REQ_*) ---- */
static reason refusal(const um_request *request) {
    int v2 = (request->flags & UM_REQ_V2) != 0;
    switch (request->status) {
    case UM_REQ_VALUE_RANGE:
        return (reason){UM_ERROR_BAD_REQUEST, "the value is above 9223372036854775807; nothing of this request was stored",
                        "send whole numbers up to 2^63 - 1"};
    case UM_REQ_TOO_MANY_EVENTS:
        return (reason){UM_ERROR_TOO_LARGE, "events are more than this node takes in one request; nothing of them was stored",
                        "send them in smaller batches"};
    case UM_REQ_BAD_ROW:
        if (v2) return (reason){UM_ERROR_BAD_REQUEST, "this is no well-formed event; nothing of this request was stored",
                                "check timestamp, operation, lengths, property order and padding against docs/protocol.md"};
        return (reason){UM_ERROR_BAD_REQUEST, "the timestamp is below 0; nothing of this request was stored",
                        "send nanoseconds since 1970 UTC, or 0 to have the event stamped on arrival"};
    default:
        return (reason){UM_ERROR_BAD_REQUEST, "the request is malformed and the connection is closed; nothing of it was stored",
                        "check its lengths, counts and texts against docs/protocol.md"};
    }
}

static void say_refusal(const um_request *request, const char *message, text *t) {
    if (request->status == UM_REQ_TOO_MANY_EVENTS) {
        add_number(t, request->events);
        add(t, " ");
    } else if (request->row_base != UM_NONE) {
        add(t, "event ");
        add_number(t, request->row_base);
        add(t, ": ");
    }
    add(t, message);
}

/* ---- why apply refused an event of a v1 request (UM_V_*) ---- */
static reason verdict_reason(uint32_t verdict) {
    switch (verdict) {
    case UM_V_CARDINALITY:
        return (reason){NULL, "too many different dimension values for one account and metric",
                        "send fewer distinct values, or drop the dimension"};
    case UM_V_FULL:
        return (reason){NULL, "a table of this node is full", "give the node more memory (--memory-max)"};
    default:
        return (reason){NULL, "it was not accepted", "use protocol v2 to learn the reason"};
    }
}

/* Index as sent of a batch's row: notes name the events that were left out. */
static uint32_t event_of_row(const um_request *request, const uint32_t *notes, uint32_t row) {
    const uint32_t *note = notes + request->notes_off;
    for (uint32_t n = 0; n < request->notes_count && note[2 * n] <= row; n++) row++;
    return row;
}

/* ---- putting an answer together ---- */
static uint64_t put_v1(uint8_t *out, uint8_t status, uint32_t request_id, uint32_t payload_len) {
    memset(out, 0, UM_V1_RESPONSE_HEADER_BYTES);
    out[UM_V1_RESPONSE_HEADER_STATUS_AT] = status;
    um__store32(out + UM_V1_RESPONSE_HEADER_REQUEST_ID_AT, request_id);
    um__store32(out + UM_V1_RESPONSE_HEADER_PAYLOAD_LEN_AT, payload_len);
    return UM_V1_RESPONSE_HEADER_BYTES + (uint64_t)payload_len;
}

/* The payload must be in place already: the header carries its checksum. */
static uint64_t put_v2(uint8_t *out, uint8_t status, uint32_t request_id, uint32_t payload_len) {
    um_v2_head(out, UM_V2_TYPE_INGEST, status, request_id, out + UM_V2_HEADER_BYTES, payload_len);
    return UM_V2_HEADER_BYTES + (uint64_t)payload_len;
}

static uint8_t *put_packed(uint8_t *at, const char *key, const text *value) {
    text name = {0, {0}};
    add(&name, key);
    *at++ = (uint8_t)(0xA0 | name.len);             /* fixstr: keys are short */
    memcpy(at, name.bytes, name.len);
    at += name.len;
    *at++ = 0xDA;                                   /* str 16 */
    *at++ = (uint8_t)(value->len >> 8);
    *at++ = (uint8_t)value->len;
    memcpy(at, value->bytes, value->len);
    return at + value->len;
}

static uint64_t put_v2_error(uint8_t *out, const um_request *request, const char *code, const text *message, const char *fix) {
    text code_text = {0, {0}}, fix_text = {0, {0}};
    add(&code_text, code);
    add(&fix_text, fix);
    uint8_t *payload = out + UM_V2_HEADER_BYTES, *at = payload;
    *at++ = 0x83;                                   /* map of 3 */
    at = put_packed(at, "code", &code_text);
    at = put_packed(at, "message", message);
    at = put_packed(at, "fix", &fix_text);
    return put_v2(out, UM_V2_STATUS_ERROR, request->request_id, (uint32_t)(at - payload));
}

static uint64_t put_v1_error(uint8_t *out, const um_request *request, text *message, const char *fix) {
    add(message, "; ");
    add(message, fix);
    memcpy(out + UM_V1_RESPONSE_HEADER_BYTES, message->bytes, message->len);
    return put_v1(out, UM_V1_STATUS_ERROR, request->request_id, message->len);
}

static uint64_t answer_refused(uint8_t *out, const um_request *request) {
    reason why = refusal(request);
    text message = {0, {0}};
    say_refusal(request, why.message, &message);
    if (request->flags & UM_REQ_V2) return put_v2_error(out, request, why.code, &message, why.fix);
    return put_v1_error(out, request, &message, why.fix);
}

/* What the answer counts; a um_summary with the notes added in. */
static um_summary counts_of(const um_request *request, const um_summary *summary) {
    um_summary counts;
    memset(&counts, 0, sizeof counts);
    if (summary == NULL) {
        counts.stored = request->row_count;
        counts.refused = request->unknown;
        if (request->first_seq != 0) counts.last_offset = request->first_seq + request->row_base + request->row_count - 1;
        if (request->flags & UM_REQ_STAMPED) counts.last_offset = request->first_seq;
        return counts;
    }
    counts = *summary;
    if (request->flags & UM_REQ_STAMPED) counts.last_offset = request->first_seq;
    if (summary->session_verdict == UM_V_DUPLICATE) {
        uint64_t explained = (uint64_t)summary->stored + summary->duplicates + summary->conflicts;
        if (explained <= request->events) counts.refused = (uint32_t)(request->events - explained);
    } else {
        counts.refused += request->unknown;
    }
    return counts;
}

static uint64_t answer_v1(uint8_t *out, const um_request *request, const um_summary *summary, const uint32_t *notes) {
    um_summary counts = counts_of(request, summary);
    if (summary != NULL && summary->refused != 0 && summary->first_verdict != UM_V_UNKNOWN_METRIC) {
        reason why = verdict_reason(summary->first_verdict);
        text message = {0, {0}};
        add_number(&message, counts.refused);
        add(&message, " of ");
        add_number(&message, request->events);
        add(&message, " events were refused, the others are stored");
        if (summary->first_bad != UM_NONE) {
            add(&message, "; event ");
            add_number(&message, event_of_row(request, notes, summary->first_bad));
        }
        add(&message, ": ");
        add(&message, why.message);
        return put_v1_error(out, request, &message, why.fix);
    }
    uint8_t *payload = out + UM_V1_RESPONSE_HEADER_BYTES;
    um__store32(payload + UM_V1_INGEST_RESULT_STORED_AT, counts.stored);
    um__store32(payload + UM_V1_INGEST_RESULT_DUPLICATES_AT, counts.duplicates);
    um__store64(payload + UM_V1_INGEST_RESULT_LAST_OFFSET_AT, counts.last_offset);
    uint8_t status = counts.refused != 0 ? UM_V1_STATUS_UNKNOWN_METRIC : UM_V1_STATUS_OK;
    return put_v1(out, status, request->request_id, UM_V1_INGEST_RESULT_BYTES);
}

static uint8_t *put_exception(uint8_t *at, uint32_t index, uint32_t verdict) {
    um__store32(at + UM_V2_EXCEPTION_INDEX_AT, index);
    um__store32(at + UM_V2_EXCEPTION_VERDICT_AT, verdict);
    return at + UM_V2_EXCEPTION_BYTES;
}

/* Merge the notes (by event) with the verdict bytes (by row) into exceptions by event. */
static uint8_t *put_exceptions(uint8_t *at, const um_request *request, const uint32_t *notes, const uint8_t *verdicts) {
    const uint32_t *note = notes + request->notes_off;
    const uint32_t *notes_end = note + 2 * (uint64_t)request->notes_count;
    uint32_t event = 0;
    for (uint32_t row = 0; row < request->row_count && verdicts != NULL; row++, event++) {
        for (; note < notes_end && note[0] == event; note += 2, event++) at = put_exception(at, event, note[1]);
        uint32_t verdict = verdicts[request->row_base + row];
        if (verdict != UM_V_STORED) at = put_exception(at, event, verdict);
    }
    for (; note < notes_end; note += 2) at = put_exception(at, note[0], note[1]);
    return at;
}

static uint8_t *put_span_exceptions(uint8_t *at, um_span *span) {
    const um_span_event *events = um__span_events(span);
    for (uint32_t event = 0; event < span->events; event++) {
        if (events[event].verdict != UM_V_STORED) at = put_exception(at, event, events[event].verdict);
    }
    return at;
}

static uint64_t answer_v2(uint8_t *out, const um_request *request, const um_summary *summary, const uint32_t *notes,
                          const uint8_t *verdicts, um_span *span) {
    um_summary counts = counts_of(request, summary);
    uint8_t *payload = out + UM_V2_HEADER_BYTES, *exceptions = payload + UM_V2_INGEST_RESULT_BYTES, *end = exceptions;
    if ((request->flags & UM_REQ_WANTS_VERDICTS) && counts.session_verdict == 0)
        end = span != NULL ? put_span_exceptions(exceptions, span)
                           : put_exceptions(exceptions, request, notes, summary == NULL ? NULL : verdicts);
    um__store32(payload + UM_V2_INGEST_RESULT_STORED_AT, counts.stored);
    um__store32(payload + UM_V2_INGEST_RESULT_DUPLICATES_AT, counts.duplicates);
    um__store32(payload + UM_V2_INGEST_RESULT_CONFLICTS_AT, counts.conflicts);
    um__store32(payload + UM_V2_INGEST_RESULT_REFUSED_AT, counts.refused);
    um__store64(payload + UM_V2_INGEST_RESULT_LAST_OFFSET_AT, counts.last_offset);
    um__store32(payload + UM_V2_INGEST_RESULT_SESSION_VERDICT_AT, counts.session_verdict);
    um__store32(payload + UM_V2_INGEST_RESULT_EXCEPTION_COUNT_AT, (uint32_t)(end - exceptions) / UM_V2_EXCEPTION_BYTES);
    return put_v2(out, UM_V2_STATUS_OK, request->request_id, (uint32_t)(end - payload));
}

/* ---- spans ---- */
static uint64_t answer_span(uint8_t *out, um_span *span) {
    um_request whole;
    memset(&whole, 0, sizeof whole);
    whole.request_id = span->request_id;
    whole.flags = span->flags;
    whole.events = span->events;
    whole.unknown = span->unknown;
    whole.first_seq = span->total.last_offset;
    if (span->flags & UM_REQ_V2) return answer_v2(out, &whole, &span->total, NULL, NULL, span);
    return answer_v1(out, &whole, &span->total, NULL);
}

/* ---- the list ---- */
typedef struct {
    const uint32_t *notes;
    const um_summary *summaries;
    const uint8_t *verdicts;
    um_spans *spans;
    const um_failure *failure;          /* not NULL: the answer to everything */
} answering;

static uint64_t answer_failed(uint8_t *out, const um_request *request, const um_failure *failure) {
    if (request->flags & UM_REQ_V2) {
        if (failure->v2_len) memcpy(out + UM_V2_HEADER_BYTES, failure->v2_payload, failure->v2_len);
        return put_v2(out, (uint8_t)failure->v2_status, request->request_id, failure->v2_len);
    }
    if (failure->v1_len) memcpy(out + UM_V1_RESPONSE_HEADER_BYTES, failure->v1_payload, failure->v1_len);
    return put_v1(out, (uint8_t)failure->v1_status, request->request_id, failure->v1_len);
}

/* the answer's length; 0: a part of a span whose time has not come, or is over */
static uint64_t answer_part(uint8_t *out, const um_request *request, const um_summary *summary, const answering *how) {
    const uint32_t number = request->span - 1;
    um_span *span = um__span(how->spans, number);
    uint64_t len = 0;
    if (how->failure != NULL) {
        if (!span->over) len = answer_failed(out, request, how->failure);
        span->over = 1;
    } else {
        um__span_add(span, request, summary, how->verdicts);
        if (span->parts == 1 && !span->over) len = answer_span(out, span);
    }
    um__span_let_go(how->spans, number);
    return len;
}

static uint64_t answer_one(uint8_t *out, const um_request *request, const answering *how) {
    const um_summary *summary = how->summaries != NULL && request->batch != UM_NONE ? &how->summaries[request->batch] : NULL;
    if (request->span != 0) return answer_part(out, request, summary, how);
    if (how->failure != NULL) return answer_failed(out, request, how->failure);
    if (request->status != UM_REQ_OK) return answer_refused(out, request);
    if (request->flags & UM_REQ_V2) return answer_v2(out, request, summary, how->notes, how->verdicts, NULL);
    return answer_v1(out, request, summary, how->notes);
}

/* most bytes an answer can take */
static uint64_t answer_room(const um_request *request, const answering *how) {
    if (how->failure != NULL) return UM_V2_HEADER_BYTES + (uint64_t)how->failure->v1_len + how->failure->v2_len;
    if (!(request->flags & UM_REQ_WANTS_VERDICTS)) return ERROR_ROOM;
    uint64_t exceptions = (uint64_t)request->notes_count + request->row_count;
    if (request->span != 0) exceptions = um__span(how->spans, request->span - 1)->events;
    return ERROR_ROOM + exceptions * UM_V2_EXCEPTION_BYTES;
}

static uint32_t answer_all(const um_request *requests, uint32_t first, uint32_t count, const answering *how, um_arena *out, uint32_t *runs,
                           uint32_t runs_max, uint32_t *run_count) {
    uint32_t at = first, used = 0;
    for (; at < count; at++) {
        const um_request *request = &requests[at];
        if (out->reserved - out->used < answer_room(request, how)) break;
        int joins = used > 0 && runs[3 * (used - 1)] == request->link;
        if (!joins && used == runs_max) break;
        uint64_t len = answer_one(out->base + out->used, request, how);
        if (len == 0) continue;
        if (!joins) {
            runs[3 * used] = request->link;
            runs[3 * used + 1] = (uint32_t)out->used;
            runs[3 * used + 2] = 0;
            used++;
        }
        runs[3 * used - 1] += (uint32_t)len;
        out->used += len;
    }
    *run_count = used;
    return at - first;
}

uint32_t um_replies(const um_request *requests, uint32_t first, uint32_t count, const uint32_t *notes, const um_summary *summaries,
                    const uint8_t *verdicts, um_spans *spans, um_arena *out, uint32_t *runs, uint32_t runs_max, uint32_t *run_count) {
    const answering how = {notes, summaries, verdicts, spans, NULL};
    return answer_all(requests, first, count, &how, out, runs, runs_max, run_count);
}

uint32_t um_fail(const um_request *requests, uint32_t first, uint32_t count, const um_failure *failure, um_spans *spans, um_arena *out,
                 uint32_t *runs, uint32_t runs_max, uint32_t *run_count) {
    const answering how = {NULL, NULL, NULL, spans, failure};
    return answer_all(requests, first, count, &how, out, runs, runs_max, run_count);
}

/* wire_fixture.h - a pen to write frames with, a catalog to resolve them by, and an intake with memory of exactly
 * the size it asks for. For the tests of the wire kernels and the fuzzers.
 */
#ifndef WIRE_FIXTURE_H
#define WIRE_FIXTURE_H
#include "state_fixture.h"
#include "um__wire.h"

#define PEN_BYTES (1 << 20)
#define EVENTS_MAX 64
#define PAYLOAD_MAX (1u << 18)
#define OUT_BYTES (4096 + 8 * EVENTS_MAX)

typedef struct { uint8_t bytes[PEN_BYTES]; uint64_t used; } pen;

static void write_bytes(pen *p, const void *bytes, uint64_t len) {
    assert(p->used + len <= PEN_BYTES);
    if (len) memcpy(p->bytes + p->used, bytes, len);
    p->used += len;
}
static void write_zeros(pen *p, uint64_t len) {
    assert(p->used + len <= PEN_BYTES);
    memset(p->bytes + p->used, 0, len);
    p->used += len;
}
static void write_u8(pen *p, uint64_t v) { write_bytes(p, &v, 1); }
static void write_u16(pen *p, uint64_t v) { write_bytes(p, &v, 2); }
static void write_u32(pen *p, uint64_t v) { write_bytes(p, &v, 4); }
static void write_u64(pen *p, uint64_t v) { write_bytes(p, &v, 8); }
static void write_text(pen *p, const char *text, uint64_t field) {
    uint64_t len = strlen(text) < field ? strlen(text) : field;
    write_bytes(p, text, len);
    write_zeros(p, field - len);
}

/* ---- v1 ---- */
static uint64_t begin_v1(pen *p, uint8_t type, uint32_t request_id) {
    uint64_t at = p->used;
    write_u32(p, UM_V1_MAGIC);
    write_u8(p, UM_V1_VERSION);
    write_u8(p, type);
    write_u16(p, 0xFFFF);
    write_u32(p, 0);
    write_u32(p, request_id);
    return at;
}
static void end_v1(pen *p, uint64_t at) {
    um__store32(p->bytes + at + UM_V1_REQUEST_HEADER_PAYLOAD_LEN_AT, (uint32_t)(p->used - at - UM_V1_REQUEST_HEADER_BYTES));
}
static void v1_event(pen *p, const char *code, uint64_t account, int64_t ts, uint64_t value, uint8_t op, uint8_t props) {
    write_text(p, code, 64);
    write_u64(p, account);
    write_u64(p, (uint64_t)ts);
    write_u64(p, value);
    write_u8(p, op);
    write_u8(p, props);
    write_zeros(p, 6);
}
static void v1_property(pen *p, const char *key, const char *value) {
    write_text(p, key, 32);
    write_text(p, value, 64);
}

/* ---- v2 ---- */
static uint64_t begin_v2(pen *p, uint8_t type, uint8_t flags, uint32_t request_id) {
    uint64_t at = p->used;
    write_u32(p, UM_V2_MAGIC);
    write_u8(p, UM_V2_VERSION);
    write_u8(p, type);
    write_u8(p, 0);
    write_u8(p, flags);
    write_u32(p, 0);
    write_u32(p, request_id);
    write_zeros(p, 16);
    return at;
}
/* Set length and checksums of the v2 frame at `frame`, whose payload is payload_len bytes. */
static void seal_v2(uint8_t *frame, uint32_t payload_len) {
    um__store32(frame + UM_V2_HEADER_PAYLOAD_LEN_AT, payload_len);
    um__store32(frame + UM_V2_HEADER_PAYLOAD_CRC_AT, um_crc32c(0, frame + UM_V2_HEADER_BYTES, payload_len));
    um__store32(frame + UM_V2_HEADER_HEADER_CRC_AT, um_crc32c(0, frame, UM_V2_HEADER_HEADER_CRC_AT));
}
static void end_v2(pen *p, uint64_t at) { seal_v2(p->bytes + at, (uint32_t)(p->used - at - UM_V2_HEADER_BYTES)); }
static void v2_head(pen *p, uint64_t session, uint64_t number, uint32_t events, uint16_t codes, uint16_t flags, uint32_t rows_len,
                    uint32_t dictionary_len) {
    write_u64(p, 0);
    write_u64(p, session);
    write_u64(p, number);
    write_u64(p, number);
    write_u32(p, events);
    write_u16(p, codes);
    write_u16(p, flags);
    write_u32(p, rows_len);
    write_u32(p, dictionary_len);
}
static void v2_row(pen *p, uint64_t account, int64_t ts, int64_t value, uint16_t metric, uint8_t op, uint8_t flags, uint8_t props,
                   uint16_t tail_len) {
    um_row row = {account, ts, value, metric, op, flags, props, 0, tail_len};
    write_bytes(p, &row, sizeof row);
}

/* ---- what frames are read with ---- */

/* "count" is metric 0, "sum" metric 1 with dimension "model", "unique" metric 2; "gone" was deleted */
static um_catalog *wire_catalog(void) {
    static const char *codes[] = {"count", "sum", "unique", "gone"};
    static const uint8_t aggregations[] = {UM_AGG_COUNT, UM_AGG_SUM, UM_AGG_UNIQUE, UM_AGG_MAX};
    um_catalog *catalog = zeroed(sizeof *catalog);
    for (uint16_t id = 0; id < 4; id++) {
        um_metric *metric = &catalog->metrics[id];
        metric->id = id;
        metric->alive = id != 3;
        metric->aggregation = aggregations[id];
        metric->period_type = UM_PERIOD_MONTH;
        metric->code_len = (uint8_t)strlen(codes[id]);
        memcpy(metric->code, codes[id], metric->code_len);
    }
    add_dimension(&catalog->metrics[1], "model");
    add_threshold(&catalog->metrics[1], 100, 1);
    catalog->metric_count = 4;
    um_catalog_index(catalog);
    return catalog;
}

static void intake_new(um_intake *intake, uint64_t rows, uint64_t requests) {
    memset(intake, 0, sizeof *intake);
    intake->rows = (um_arena){zeroed(rows), rows, 0};
    intake->waiting = (um_arena){zeroed(requests * sizeof(um_request)), requests * sizeof(um_request), 0};
    intake->immediate = (um_arena){zeroed(requests * sizeof(um_request)), requests * sizeof(um_request), 0};
    intake->notes = (um_arena){zeroed(32 * EVENTS_MAX), 32 * EVENTS_MAX, 0};
    intake->batch_events_max = EVENTS_MAX;
}
static void intake_clear(um_intake *intake) {
    intake->rows.used = intake->waiting.used = intake->immediate.used = intake->notes.used = 0;
    intake->batch_count = intake->row_count = 0;
}
static void intake_free(um_intake *intake) {
    free(intake->rows.base);
    free(intake->waiting.base);
    free(intake->immediate.base);
    free(intake->notes.base);
}

/* A copy with exactly its length on the heap, one byte off any alignment. */
static uint8_t *exact_copy(const uint8_t *data, uint64_t len, uint8_t **to_free) {
    *to_free = malloc(len + 1);
    assert(*to_free);
    if (len) memcpy(*to_free + 1, data, len);
    return *to_free + 1;
}
#endif

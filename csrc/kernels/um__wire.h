/* um__wire.h - what the wire kernels share (internal): unaligned loads and stores, and the intake's steps.
 *
 * A receive buffer starts anywhere, so nothing in it is aligned: every number is read and written through
 * memcpy, which compiles to one instruction. Little-endian hosts only (asserted in layout_check.c).
 */
#ifndef UM__WIRE_H
#define UM__WIRE_H
#include "um__state.h"
#include "um_protocol.h"

static inline uint16_t um__load16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static inline uint32_t um__load32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline uint64_t um__load64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline int64_t um__load64s(const uint8_t *p) { int64_t v; memcpy(&v, p, 8); return v; }
static inline void um__store32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
static inline void um__store64(uint8_t *p, uint64_t v) { memcpy(p, &v, 8); }

/* Length of NUL-terminated text in a field of `size` bytes (a multiple of 8); `size` when there is no NUL. */
static inline uint32_t um__text_len(const uint8_t *field, uint32_t size) {
    for (uint32_t at = 0; at < size; at += 8) {
        uint64_t word = um__load64(field + at);
        uint64_t zeros = (word - 0x0101010101010101ULL) & ~word & 0x8080808080808080ULL;
        if (zeros != 0) return at + ((uint32_t)__builtin_ctzll(zeros) >> 3);   /* the lowest flag is exact */
    }
    return size;
}

/* ---- resolving v1 metric codes: the 64-byte field as sent -> metric id ----
 * A load generator and most clients repeat a handful of codes, so a direct-mapped table of the fields last seen
 * saves the hash: a hit compares 64 bytes. `field` points into the caller's data and lives for one call. */
#define UM__CODE_CACHE 16
typedef struct { const uint8_t *field; uint32_t id; } um__code_slot;
typedef struct { um__code_slot slots[UM__CODE_CACHE]; } um__code_cache;

/* ---- the intake of one frame ---- */
typedef struct {
    const um_catalog *catalog;
    uint32_t batch_events_max;
    um__code_cache codes;
} um__intake_call;

/* One outcome per frame. `rows_len`, `row_count` and `unknown` say what was written to where the caller wanted it (past
 * the intake's `used` marks, or to the splitter's staging), who then commits it or forgets it. */
typedef struct {
    uint32_t status;            /* UM_REQ_* */
    uint32_t at_event;          /* status != OK: index of the event at fault, UM_NONE: the whole */
    uint32_t events, unknown, row_count, rows_len;
    um_batch batch;             /* its head, but for row_count and rows_len */
    uint32_t wants_batch;       /* keep the batch even when it has no rows (sessions) */
    uint32_t sync;              /* answer after apply */
} um__taken;

/* Read one payload into rows at `rows` (room for payload_len + sizeof(um_batch) bytes) and notes at `notes` (room
 * for batch_events_max pairs). Implemented in intake_v1.c and intake_v2.c. */
void um__take_v1(um__intake_call *call, const uint8_t *payload, uint64_t len, uint8_t *rows, uint32_t *notes, um__taken *taken);
void um__take_v2(um__intake_call *call, const uint8_t *payload, uint64_t len, uint8_t *rows, uint32_t *notes, um__taken *taken);

static inline int um__is_ingest(const um_frame *frame) {
    if (frame->protocol == 1) return frame->type == UM_V1_TYPE_INGEST_ASYNC || frame->type == UM_V1_TYPE_INGEST_SYNC;
    return frame->protocol == 2 && frame->type == UM_V2_TYPE_INGEST;
}
static inline uint64_t um__left(const um_arena *arena) { return arena->reserved - arena->used; }

/* intake.c: the steps of taking one frame */
void um__read_frame(um__intake_call *call, const uint8_t *data, uint64_t len, const um_frame *frame, uint8_t *rows, uint32_t *notes,
                    um__taken *taken);
void um__describe(const um_frame *frame, const um__taken *taken, uint32_t link, uint32_t stamped, um_request *request);
/* What was read stands behind the intake's marks: make it part of the entry, as the batch of `request`. */
void um__keep(um_intake *intake, um_request *request, const um__taken *taken);
void um__list(um_intake *intake, const um_request *request);

/* spans.c */
static inline um_span *um__span(const um_spans *spans, uint32_t number) {
    return (um_span *)(void *)(spans->slots.base + (uint64_t)number * spans->slot_bytes);
}
static inline um_span_event *um__span_events(um_span *span) { return (um_span_event *)(void *)(span + 1); }
int um__spans_full(const um_spans *spans);
uint32_t um__span_open(um_spans *spans);                    /* a zeroed um_span; there is room */
void um__span_let_go(um_spans *spans, uint32_t number);     /* one part less; with the last one the slot is free */
void um__span_add(um_span *span, const um_request *part, const um_summary *summary, const uint8_t *verdicts);
#endif

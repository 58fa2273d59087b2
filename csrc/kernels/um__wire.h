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
    um_intake *intake;
    um__code_cache codes;
} um__intake_call;

/* One outcome per frame. `rows_len`, `row_count` and `notes` say what was written past the intake's `used` marks;
 * um_intake_frames commits it or forgets it. */
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
#endif

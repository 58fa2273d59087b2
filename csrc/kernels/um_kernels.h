/* um_kernels.h - the kernels' functions: the only C that Python calls for arithmetic.
 *
 * Contract of every function here: pure (no system call, no allocation, no global state), total (any bytes
 * in, a code out; never a crash, never a read outside the given lengths), and deterministic on every
 * machine. Each has a twin of the same meaning in unimeter/kernels/reference.
 */
#ifndef UM_KERNELS_H
#define UM_KERNELS_H
#include "um_layout.h"

/* CDEF BEGIN */
/* crc32c.c: Castagnoli CRC (RFC 3720 B.4); `crc` is 0 or the result so far */
uint32_t um_crc32c(uint32_t crc, const uint8_t *data, uint64_t len);

/* hash.c: see um__hash.h for the definition; out[0] = lo, out[1] = hi */
uint64_t um_hash64(const uint8_t *data, uint64_t len, uint64_t seed);
void um_hash128(const uint8_t *data, uint64_t len, uint64_t seed, uint64_t *out);

/* frames.c: split a receive buffer into whole v1 and v2 request frames. payload_max bounds payload_len. A header is
 * judged once all of it is there (the magic once 4 bytes are), in this order: v1: version, length; v2: header crc
 * (request id reported as 0), version, length, then, once the payload is there, its crc. */
void um_frame_scan(const uint8_t *data, uint64_t len, uint32_t payload_max, um_frame *frames, uint32_t frames_max, um_scan *result);
/* as um_frame_scan, where nothing is wrong and not all of frames[] is used: consumed << 32 | count; else 2^64 - 1: ask
 * um_frame_scan */
uint64_t um_frames(const uint8_t *data, uint64_t len, uint32_t payload_max, um_frame *frames, uint32_t frames_max);
/* the 32 bytes that go in front of a payload of the node's: an answer, a push, or what nodes say to each other */
void um_v2_head(uint8_t *out, uint32_t type, uint32_t status, uint32_t request_id, const uint8_t *payload, uint32_t len);
/* the client's side: response frames of the given protocol (1 or 2) */
void um_response_scan(const uint8_t *data, uint64_t len, uint32_t protocol, uint32_t payload_max, um_frame *frames, uint32_t frames_max, um_scan *result);

/* catalog.c */
void um_catalog_index(um_catalog *catalog);
uint32_t um_catalog_find(const um_catalog *catalog, const uint8_t *code, uint32_t len);   /* metric id or UM_NONE */

/* intake.c, intake_v1.c, intake_v2.c: take ingest frames from frames[first..count) until a stop; returns the stop
 * code, *next = first frame not taken. What is refused, and how hard, stands at the top of intake_v1.c and
 * intake_v2.c: the first fault in the order of the bytes decides. UM_STOP_FULL (before a frame is touched) when
 * the rows arena has less than 48 + payload_len bytes left, the notes arena less than 8 * batch_events_max, or a
 * request list no room for one more. A request goes to `waiting` when it is sync (an OPEN_SESSION batch always is)
 * and has a batch, else to `immediate`. It has a batch when it has rows or a session. */
uint32_t um_intake_frames(const uint8_t *data, uint64_t len, const um_frame *frames, uint32_t first, uint32_t count,
                          const um_catalog *catalog, uint32_t link, um_intake *intake, uint32_t *next);

/* write into every request what its answer needs to know of the entry (um_request.first_seq) */
void um_intake_place(um_intake *intake, uint64_t first_seq);
/* the open entry is complete: write its head in front of the rows (the 64 bytes before rows.base are its place), seal it,
 * and place(stamped ? stamp_ns : first_seq); returns its length */
uint64_t um_intake_seal(um_intake *intake, uint32_t group, uint64_t index, uint64_t term, int64_t stamp_ns, uint64_t first_seq);
void um_intake_clear(um_intake *intake);                            /* an open entry with nothing in it, again */

/* split.c: as um_intake_frames, but each row goes to intakes[its group]; the top of split.c says where what has no rows
 * goes, and what local[] says. A request that must be asked elsewhere is not touched: UM_STOP_ELSEWHERE, and
 * splitter->groups_wanted has the bits of its groups (also at UM_STOP_FULL, also when that is for want of a span). The staging arena must have room for the
 * longest payload and a um_batch, the notes arena for batch_events_max pairs. UM_NONE: a frozen intake was to be used,
 * the caller's mistake; nothing was taken. */
void um_splitter_init(um_splitter *splitter, uint32_t group_count);     /* 1..UM_GROUPS_MAX; the rest of it zeroed by the caller */
uint32_t um_split_frames(const uint8_t *data, uint64_t len, const um_frame *frames, uint32_t first, uint32_t count, const um_catalog *catalog,
                         uint32_t link, um_splitter *splitter, um_intake **intakes, const uint8_t *local, uint32_t *next);

/* spans.c */
void um_spans_init(um_spans *spans, uint32_t batch_events_max);         /* slots: base and reserved set by the caller */
uint64_t um_span_slot_bytes(uint32_t batch_events_max);
/* requests[0..count) will never be answered: what they hold of spans is let go, and those spans are not answered either */
void um_spans_release(um_spans *spans, const um_request *requests, uint32_t count);

/* replies.c: answers to requests[first..count), appended to out; stops when out is full. One run per stretch of
 * requests on the same link: runs[] = {link, offset, length} as u32 triples. summaries/verdicts NULL: answer as
 * ordered (async) or refused. Parts of spans are added to their span, the last one answers; spans may be NULL when no
 * request is one. Returns the number of requests done with; *run_count and out->used are set. */
uint32_t um_replies(const um_request *requests, uint32_t first, uint32_t count, const uint32_t *notes, const um_summary *summaries,
                    const uint8_t *verdicts, um_spans *spans, um_arena *out, uint32_t *runs, uint32_t runs_max, uint32_t *run_count);
/* the same with one answer for all of them; a span gets it with its first part */
uint32_t um_fail(const um_request *requests, uint32_t first, uint32_t count, const um_failure *failure, um_spans *spans, um_arena *out,
                 uint32_t *runs, uint32_t runs_max, uint32_t *run_count);

/* journal.c */
void um_entry_seal(um_entry *header, const uint8_t *body);    /* fills crc from the other fields and the body */
uint32_t um_entry_verify(const uint8_t *entry, uint64_t len);   /* 1: well-formed down to the last row, crc right */
uint32_t um_batches_verify(const uint8_t *body, uint64_t len, uint64_t batch_count, uint64_t row_count);   /* 1: exactly these, well-formed */
/* Build a record at out (64-aligned): header from *header (kind, seq, prev_chain, stamp_ns, entry_count set by the
 * caller), body = the body_len bytes already at out + 64. Zero-pads to 64. Returns total length; fills *header. */
uint64_t um_record_seal(um_record *header, uint8_t *out, uint64_t body_len);
/* The same from its parts, at out[begin]. add: copy an entry to out[at], zero-padded to 8 bytes; returns where the next one
 * goes, the first one at begin + 64. finish: add the last of entry_count entries, seal them, zero-pad to 64 bytes, and zeroes
 * from there to a multiple of block_bytes; returns the chain. The caller has seen that there is room. */
uint64_t um_record_add(uint8_t *out, uint64_t at, const uint8_t *entry, uint64_t len);
uint64_t um_record_finish(uint8_t *out, uint64_t begin, uint64_t at, const uint8_t *entry, uint64_t len, uint32_t kind, uint32_t entry_count,
                          uint64_t seq, uint64_t prev_chain, int64_t stamp_ns, uint64_t block_bytes);
#define UM_J_END 0              /* ran out of bytes at a record boundary or inside a record: give more */
#define UM_J_ZERO 1             /* zeroes where a record should begin: never written */
#define UM_J_BAD 2              /* not a valid record of this place in the chain */
#define UM_J_SEGMENT_END 3      /* the segment's closing record was read */
typedef struct { uint64_t consumed, seq, chain; uint32_t records, stop; } um_journal_scan;
/* Verify records from data[0], expecting seq and prev chain; offsets[] receives each record's start. consumed = bytes of
 * good records. A record whose end lies past len is UM_J_END if its header is valid (so far), else UM_J_BAD. */
void um_journal_verify(const uint8_t *data, uint64_t len, uint64_t seq, uint64_t chain, uint64_t *offsets, uint32_t offsets_max, um_journal_scan *out);
/* Is there any whole, valid record with sequence number > seq in data? Its offset, or -1. (rot, not a torn tail) */
int64_t um_journal_find_later(const uint8_t *data, uint64_t len, uint64_t seq);

/* state.c */
void um_state_init(um_state *state, const um_limits *limits);       /* memory zeroed by the caller */
void um_state_reindex(um_state *state);                             /* rebuild every index from the regions */
uint64_t um_region_record_bytes(uint32_t region);
uint64_t um_index_bytes_max(const um_limits *limits, uint32_t index);
uint64_t um_scratch_bytes_max(void);

/* memory.c: stretches of the state's memory that it is about to write to for the first time, whole pages, at most
 * UM_REGIONS + UM_INDEXES; each is told once. Returns how many. */
uint32_t um_state_ahead(um_state *state, um_stretch *out);
void um_state_untouched(um_state *state);                           /* pages were given back: ask for everything anew */

/* apply.c: the whole entry; room is checked first. summaries_max >= batch_count and verdicts_max >= row_count. */
void um_apply(um_state *state, const um_catalog *catalog, const uint8_t *entry, um_summary *summaries, uint8_t *verdicts, um_applied *applied);

/* job.c: several entries of events, one after another, by whichever thread comes first; zeroed but for what is to be done.
 * summaries and verdicts: of all entries end to end, as many as their heads say; applied: one for each. */
typedef struct {
    um_state *state;
    const um_catalog *catalog;
    const uint8_t **entries;
    um_summary *summaries;
    uint8_t *verdicts;
    um_applied *applied;
    uint32_t count, taken, done, reserved;
} um_job;
void um_job_run(void *job);                     /* an um_job; returns at once when somebody runs, or has run, it */
uint32_t um_job_done(const um_job *job);

/* digest.c */
uint64_t um_state_digest(const um_state *state);                    /* full digest of all regions: O(state) */
uint32_t um_state_check(const um_state *state, const um_catalog *catalog);   /* 0, or the number of the first broken rule (state_check.c) */

/* checkpoint.c: a consistent image of the regions at the moment of begin, streamed while apply goes on */
uint64_t um_ckpt_begin(um_state *state);                            /* total bytes of the stream */
uint64_t um_ckpt_read(um_state *state, uint8_t *out, uint64_t cap); /* bytes produced; 0 = complete */
void um_ckpt_end(um_state *state);
/* feed the stream into a zeroed state; returns 0, or 1 when the stream is not one; then um_state_reindex */
uint32_t um_ckpt_load(um_state *state, uint64_t stream_off, const uint8_t *data, uint64_t len);

/* query.c */
uint32_t um_query_begin(um_state *state, const um_catalog *catalog, const uint8_t *spec, uint64_t spec_len, um_arena *scratch, um_query_info *info);
/* rows of the group's entries with first_row <= seq < end_row count: a record may hold an entry that a later one replaced, whose row
 * numbers were given out again, so the caller says which rows of these records stand */
void um_query_scan(const um_state *state, const um_catalog *catalog, um_arena *scratch, uint32_t group, const uint8_t *records, uint64_t len,
                   uint64_t first_row, uint64_t end_row);
/* writes rows to out from row *cursor on; returns bytes written (whole rows only); *cursor advances; done when *cursor == info.groups */
uint64_t um_query_rows(const um_state *state, const um_arena *scratch, uint64_t *cursor, uint8_t *out, uint64_t cap);

/* glance.c: `out` gets the answer (UM_GLANCE_BYTES) to one whole v1 usage query without filters that this state answers by
 * itself; 0: it is not that. `newest` knows the codes, `catalog` is the state's. */
uint64_t um_glance(um_state *state, const um_catalog *newest, const um_catalog *catalog, const uint8_t *data, uint64_t len,
                   um_arena *scratch, uint8_t *out);
void um_period_bounds(uint32_t period_type, uint32_t billing_day, int64_t ts, int64_t *start, int64_t *end);

/* events.c: list stored events of one account from verified journal records; returns records appended to out. first_row, end_row:
 * as um_query_scan */
uint64_t um_events_scan(const um_state *state, const uint8_t *spec, uint64_t spec_len, uint32_t group, const uint8_t *records, uint64_t len,
                        uint64_t limit, uint64_t first_row, uint64_t end_row, um_arena *out);
/* CDEF END */
#endif

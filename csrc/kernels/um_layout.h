/* um_layout.h - every byte layout the kernels share, and nothing else.
 *
 * Three families live here:
 *   1. the log: record > entry > batch > row (journalled and, later, replicated as they are);
 *   2. the state: pools of fixed-size records addressed by number, one pool per region;
 *   3. the calls: small structs that carry arguments and answers across the cffi boundary.
 *
 * All integers are little-endian; every struct is a multiple of 8 bytes and has no hidden padding
 * (asserted in layout_check.c). Records name each other by number ("u32 cell"), never by pointer, so a
 * state can be copied, checkpointed and digested as plain bytes. The number UM_NONE means "no record".
 *
 * The text between CDEF BEGIN and CDEF END is also what cffi reads: keep it free of preprocessor
 * directives, except `#define NAME integer`.
 */
#ifndef UM_LAYOUT_H
#define UM_LAYOUT_H
#include <stdint.h>

/* CDEF BEGIN */
#define UM_NONE 4294967295

/* ---- limits that shape layouts (the tunable ones are in um_limits) ---- */
#define UM_METRICS_MAX 4096
#define UM_DIMENSIONS_MAX 16
#define UM_THRESHOLDS_MAX 64
#define UM_PROPERTIES_MAX 16
#define UM_CODE_BYTES_MAX 63
#define UM_KEY_BYTES_MAX 31
#define UM_VALUE_BYTES_MAX 255
#define UM_ACCOUNT_BYTES_MAX 128
#define UM_ID_BYTES_MAX 64
#define UM_SESSION_WINDOW 64
#define UM_PARTITIONS 256
#define UM_COW_CHUNK_BYTES 4096
#define UM_HOUR_NS 3600000000000

/* ================= 1. the log ================= */

/* Journal record: one journal write. 64 B header, then body (a run of entries), zero-padded to 64 B.
 * header_crc covers bytes 8..63 of the header; body_crc covers body_len bytes of body.
 * chain = um_hash64 over the 24 bytes (prev_chain u64, seq u64, body_crc u32, body_len u32), seed 0. */
#define UM_RECORD_MAGIC 827149653
#define UM_RECORD_ALIGN 64
#define UM_RECORD_ENTRIES 0
#define UM_RECORD_SEGMENT_END 1
typedef struct {
    uint32_t magic, header_crc, body_crc, body_len;
    uint16_t version, kind;
    uint32_t entry_count;
    uint64_t seq;               /* 1, 2, 3, ... over the life of the journal */
    uint64_t prev_chain, chain;
    int64_t stamp_ns;
    uint64_t reserved;
} um_record;

/* Entry: one log index of one group. 64 B header then body. crc covers header bytes 4..63 and the body. */
#define UM_ENTRY_BATCHES 0
#define UM_ENTRY_CATALOG 1
#define UM_ENTRY_LIMITS 2
#define UM_ENTRY_NOOP 3
#define UM_ENTRY_CONF 4           /* the group's voters and learners (Raft configuration) */
#define UM_ENTRY_CLUSTER 5        /* the registry of nodes */
#define UM_ENTRY_HARD 6           /* a replica's hard state: only in its own journal, never applied */
typedef struct {
    uint32_t crc, body_len;
    uint16_t group, kind;
    uint32_t batch_count;
    uint64_t term, index;
    int64_t stamp_ns;           /* strictly increasing within a group */
    uint64_t first_seq;         /* sequence number of the entry's first row */
    uint32_t row_count, reserved0;
    uint64_t reserved1;
} um_entry;

/* Batch: the rows of one request. 48 B header then rows. session_hi = session_lo = 0: no session. */
#define UM_BATCH_V1 1
#define UM_BATCH_OPEN_SESSION 2
typedef struct {
    uint64_t session_hi, session_lo, number, settled_below;
    uint32_t row_count, rows_len;
    uint32_t flags, reserved;
} um_batch;

/* Row: one event. 32 B head, then tail_len bytes (a multiple of 8, zero-padded):
 *   [text_len u8, text]  if UM_ROW_TEXT     the account key; then `account` is 0
 *   [id_len u8, id]      if UM_ROW_ID
 *   prop_count x [key_len u8, value_len u8, key, value], sorted by key bytes, keys distinct
 * On the v2 wire `metric` is an index into the batch's dictionary; in the log it is the metric id. */
#define UM_ROW_TEXT 1
#define UM_ROW_ID 2
#define UM_OP_NONE 0
#define UM_OP_ADD 1
#define UM_OP_REMOVE 2
typedef struct {
    uint64_t account;
    int64_t timestamp_ns;       /* 0: take the entry's stamp */
    int64_t value;
    uint16_t metric;
    uint8_t operation, flags, prop_count, reserved;
    uint16_t tail_len;
} um_row;

/* ================= 2. the state ================= */

#define UM_R_META 0
#define UM_R_HEAP 1
#define UM_R_VALUES 2
#define UM_R_ACCOUNTS 3
#define UM_R_SERIES 4
#define UM_R_CELLS 5
#define UM_R_DIMS 6
#define UM_R_BUCKETS 7
#define UM_R_MEMBERS 8
#define UM_R_FPS0 9
#define UM_R_FPS1 10
#define UM_R_IDS 11
#define UM_R_SESSIONS 12
#define UM_R_PERIODS 13
#define UM_R_PMEMBERS 14
#define UM_R_ALERTS 15
#define UM_R_SKIPS 16
#define UM_REGIONS 17

#define UM_X_VALUES 0
#define UM_X_ACCOUNTS 1
#define UM_X_SERIES 2
#define UM_X_CELLS 3
#define UM_X_BUCKETS 4
#define UM_X_MEMBERS 5
#define UM_X_FPS0 6
#define UM_X_FPS1 7
#define UM_X_IDS 8
#define UM_X_SESSIONS 9
#define UM_X_PMEMBERS 10
#define UM_FPS_PAGE_BYTES 4096   /* of an index of fingerprints (fps.c) */
#define UM_FPS_LEAF_RECORDS 448  /* a leaf with so many is full */
#define UM_INDEXES 11

/* Limits are part of the replicated state: every replica must refuse the same event. */
typedef struct {
    uint64_t records_max[17];   /* per region, in records (HEAP: bytes; DIMS: u32 words) */
    uint64_t fingerprints_per_generation;
    uint64_t cells_per_series_max;
    int64_t session_idle_ns;    /* an idle session younger than this is never evicted */
    uint64_t reserved[4];
} um_limits;

typedef struct {                /* region META: exactly one record, 512 B */
    uint64_t version, applied_index, applied_term;
    int64_t stamp_ns;
    uint64_t next_seq;          /* rows ever logged, stored or not; row sequence numbers start at 1, so init is 1 */
    uint64_t stored, duplicates, conflicts, refused;
    uint64_t digest;            /* running digest, see digest.c */
    uint64_t alert_next;        /* number of the next alert; starts at 1 */
    uint64_t fps_current, fps_rotations;
    uint64_t sessions_opened, sessions_evicted;
    um_limits limits;
    uint64_t reserved[25];
} um_meta;

typedef struct { uint64_t heap_off; uint64_t hash; uint32_t len, reserved; } um_value;    /* VALUES: dimension values; record 0 is "" */
typedef struct { uint64_t heap_off; uint64_t hash; uint32_t len, reserved; } um_account;  /* ACCOUNTS: text keys */

/* SERIES: one account and metric. text: account is a record number in ACCOUNTS. plain_bucket: the hot bucket of its
 * cell without dimension values, so that a plain event is two records away from its bucket. */
typedef struct {
    uint64_t account;
    uint16_t metric, text;
    uint32_t first_cell, last_cell, cell_count, first_period, plain_bucket;
} um_series;

/* CELLS: one combination of dimension values in a series. The tuple is dims_len value numbers at
 * DIMS[dims_off..], in the metric's dimension order, trailing 0 (= "") dropped. */
typedef struct { uint32_t series, next, dims_off, dims_len, first_bucket, hot_bucket, bucket_count, reserved; } um_cell;

/* BUCKETS: one hour of one cell. Newest-created first in the chain first_bucket -> next. */
typedef struct {
    uint32_t cell, next, hour, first_member;
    uint64_t count, sum_lo;
    int64_t sum_hi, min, max, last_value, first_ts, last_ts;   /* first_ts/last_ts: least and greatest event time */
    uint64_t last_seq, first_seq;        /* last_seq: of the event that is LATEST; first_seq: first that touched the bucket */
} um_bucket;

/* MEMBERS: last operation on a member within one bucket of a count-unique metric */
typedef struct { uint32_t bucket, next; int64_t member, last_ts; uint64_t last_seq; uint32_t operation, reserved; } um_member;

typedef struct { uint64_t lo, hi; } um_fp;                                    /* FPS0, FPS1 */
typedef struct { uint64_t lo, hi, content, seq; } um_id;                      /* IDS */

typedef struct { uint64_t number; uint32_t stored, duplicates, conflicts, refused, first_bad, first_verdict; uint64_t last_offset; } um_result;
typedef struct {                /* SESSIONS */
    uint64_t id_hi, id_lo, settled_below, highest;
    int64_t last_stamp_ns;
    uint64_t reserved;
    um_result results[64];
} um_session;

/* PERIODS: running total of a series that has thresholds, for one of its metric's periods */
typedef struct {
    uint32_t series, next;
    int64_t start, end;
    uint64_t count, sum_lo;
    int64_t sum_hi, min, max, last_value, last_ts;
    uint64_t last_seq;
    int64_t unique;
    uint64_t fired, above;      /* bit per threshold slot */
} um_period;
typedef struct { uint32_t period, operation; int64_t member, last_ts; uint64_t last_seq; } um_pmember;  /* PMEMBERS */

typedef struct {                /* ALERTS */
    uint64_t number, account;
    uint32_t metric, slot, text, reserved;
    int64_t value, stamp_ns, period_start;
    uint64_t seq;
} um_alert;

typedef struct { uint64_t first_seq, count; } um_skip;   /* SKIPS: runs of rows that were logged but not stored */

/* ================= 3. the calls ================= */

typedef struct { uint8_t *base; uint64_t reserved, used; } um_arena;

typedef struct {                /* an index's current table; while it grows, also the one it leaves (index.c) */
    uint64_t slots, used;       /* a table of n slots begins at slot n of the arena; used: records entered */
    uint64_t old_slots, moved;  /* 0 and the greatest number: not growing */
    uint64_t dirty, dirty_end;  /* slots not zeroed yet since the index was emptied */
    uint32_t shift, old_shift;  /* hash >> shift: a slot of the table */
} um_table;
typedef struct {                /* an index of fingerprints (fps.c) */
    uint64_t records;
    um_fp greatest;
    uint32_t pages, inners;     /* taken from the arena, from its front; of them, inner pages */
    uint32_t tops, top_pages;   /* the first of the pages with a node per inner page; how many these are */
    uint32_t leaf_full, leaf_done, inner_full, reserved;   /* records and nodes of a page (fps.c) */
    uint64_t version;           /* another whenever a record or a node has moved */
} um_fps_tree;

/* Everything a group's state consists of. The caller owns the memory: region[] and index[] must be zeroed
 * private mappings with room for their limits; cow and cow_map are used while a checkpoint streams. */
typedef struct {
    um_arena region[17];
    um_arena index[11];         /* u64 slots: tag32 << 32 | record number + 1; 0 = empty */
    um_table table[11];         /* where in index[] the records are to be found now (index.c); not for FPS0 and FPS1 */
    um_fps_tree fps[2];         /* for these */
    um_arena cow, cow_map;      /* saved chunks; u32 per chunk: saved number + 1 */
    um_arena scratch;           /* batch-local tables of apply */
    uint32_t ckpt_active, ckpt_region;
    uint64_t ckpt_pos, ckpt_used[17], ckpt_chunk_base[17];
    uint64_t ready[28];         /* of region[], then of index[]: bytes from the front that memory.c need not ask for */
} um_state;
typedef struct { uint64_t address, bytes; } um_stretch;   /* of memory */

/* ---- catalog: what the hot path must know of metrics. Packed by Python, indexed by um_catalog_index ---- */
typedef struct { uint8_t len; char key[31]; } um_dimension;
typedef struct { int64_t value; uint8_t active, recurring; uint8_t pad[6]; } um_threshold;
#define UM_AGG_COUNT 0
#define UM_AGG_SUM 1
#define UM_AGG_MAX 2
#define UM_AGG_LATEST 3
#define UM_AGG_UNIQUE 4
#define UM_PERIOD_FIXED30 0
#define UM_PERIOD_MONTH 1
#define UM_PERIOD_DAY 2
#define UM_PERIOD_WEEK 3
#define UM_CODE_SLOTS 8192
typedef struct {
    uint16_t id; uint8_t alive, aggregation, recurring, dimension_count, threshold_slots, period_type, billing_day, code_len;
    uint8_t pad[6];
    char code[64];
    um_dimension dimensions[16];
    um_threshold thresholds[64];
} um_metric;
typedef struct {
    uint32_t metric_count, reserved;
    uint16_t slots[8192];       /* open addressing by um_hash64(code, seed 0) of alive metrics: position + 1 in metrics[] */
    um_metric metrics[4096];    /* position == metric id (ids are handed out from 0 and never reused) */
} um_catalog;

/* ---- frames ---- */
#define UM_SCAN_OK 0
#define UM_SCAN_BAD_MAGIC 1
#define UM_SCAN_BAD_VERSION 2
#define UM_SCAN_TOO_LARGE 3
#define UM_SCAN_BAD_CRC 4
typedef struct {
    uint32_t offset, payload_off, payload_len, request_id;   /* offsets from the start of the scanned buffer */
    uint8_t protocol, type, flags, status;
    uint16_t partition, reserved;   /* v1: as sent, advisory; v2: the group hint (a group + 1, 0: none), at most 65535 */
    uint32_t deadline_ms, reserved2;
} um_frame;
typedef struct { uint64_t consumed; uint32_t count, error, error_request_id, error_protocol; } um_scan;

/* ---- intake: ingest frames -> batches in an open entry ---- */
#define UM_REQ_SYNC 1
#define UM_REQ_V2 2
#define UM_REQ_WANTS_VERDICTS 4
#define UM_REQ_STAMPED 8         /* last_offset is the stamp of the entry (several groups: split.c) */
#define UM_REQ_OK 0
#define UM_REQ_MALFORMED 1
#define UM_REQ_VALUE_RANGE 2
#define UM_REQ_TOO_MANY_EVENTS 3
#define UM_REQ_BAD_ROW 4
typedef struct {
    uint32_t link, request_id;
    uint32_t flags, status;     /* UM_REQ_* ; status != OK: nothing of the request was kept */
    uint32_t batch;             /* number of its batch in the entry, UM_NONE when none */
    uint32_t events, unknown;   /* events in the request; of these refused for an unknown metric */
    uint32_t notes_off, notes_count;   /* its refused events in the notes arena: from u32 notes_off on, notes_count
                                          pairs of u32 (event index, verdict). Part of a span: its group, 0 */
    uint32_t row_base, row_count;      /* its rows among the entry's rows (index into the verdict bytes);
                                          status != OK: row_base is the event at fault, UM_NONE: the request as a whole */
    uint32_t span;              /* number + 1 of the span that it is a part of; 0: a request of its own */
    uint64_t first_seq;         /* set when the entry is sealed: of the entry; UM_REQ_STAMPED: its stamp_ns */
} um_request;

#define UM_STOP_END 0           /* every frame was taken */
#define UM_STOP_CONTROL 1       /* the next frame is not an ingest frame */
#define UM_STOP_FULL 2          /* no room for the next frame's rows: seal the entry, or push back */
#define UM_STOP_MALFORMED 3     /* the frame just taken was malformed: answer it, then close the link */
#define UM_STOP_ELSEWHERE 4     /* the next frame is for groups that another node leads, or nobody (split.c) */
typedef struct {
    um_arena rows;              /* batches with their rows: the body of the open entry */
    um_arena waiting;           /* um_request: answered after apply (sync) */
    um_arena immediate;         /* um_request: answered as soon as the entry is ordered (async), or refused */
    um_arena notes;             /* u32 pairs */
    uint32_t batch_count, row_count;
    uint32_t batch_events_max;
    uint32_t stamped;           /* its requests are UM_REQ_STAMPED */
    uint32_t frozen, reserved;  /* sealed or bundled: takes nothing */
} um_intake;

/* ---- apply ---- */
#define UM_V_STORED 0
#define UM_V_DUPLICATE 1
#define UM_V_CONFLICT 2
#define UM_V_UNKNOWN_METRIC 3
#define UM_V_CARDINALITY 4
#define UM_V_FULL 5
#define UM_V_SESSION_UNKNOWN 6
#define UM_V_SESSION_WINDOW 7
#define UM_V_SESSION_SETTLED 8
#define UM_V_SESSIONS_FULL 9
typedef struct {                /* per batch */
    uint32_t stored, duplicates, conflicts, refused;
    uint32_t first_bad, first_verdict;    /* first row not stored for another reason than duplicate; UM_NONE, 0 when none */
    uint32_t session_verdict;   /* 0, or UM_V_SESSION*: the batch as a whole was not applied now (UM_V_DUPLICATE: a retry, counts are the first answer's) */
    uint32_t row_base;          /* position of the batch's first row in the verdict bytes */
    uint64_t last_offset;       /* sequence number of its last row */
} um_summary;
typedef struct {
    uint32_t batch_count, row_count;
    int64_t min_ts, max_ts;     /* of the entry's rows with stamps resolved; min > max when there is no row */
    uint64_t alerts_before, alerts_after;   /* meta.alert_next before and after */
    uint64_t digest;            /* the running digest after it */
} um_applied;

/* ---- splitting: one request, several groups (split.c, spans.c) ---- */
#define UM_GROUPS_MAX 64
#define UM_SPANS_MAX 4096
typedef struct {                /* of one event of a span */
    uint8_t group, verdict;     /* group UM_NO_GROUP: it was left out, the verdict says why */
} um_span_event;
#define UM_NO_GROUP 255
typedef struct {                /* one slot: a request with parts in several groups, followed by a um_span_event per event */
    uint32_t link, request_id;
    uint32_t flags, parts;      /* parts that were neither answered nor let go; 0: the slot is free */
    uint32_t events, unknown;
    uint32_t over, next_free;   /* over: its answer is not wanted any more, or was a failure. next_free: number + 1 */
    um_summary total;           /* of the answered parts; first_bad is an event */
} um_span;
typedef struct {
    um_arena slots;             /* slot_bytes each, slots_max of them fit */
    uint32_t slot_bytes, slots_max;
    uint32_t made, open;        /* slots that were ever in use; that are in use */
    uint32_t first_free, reserved;   /* number + 1 */
} um_spans;
typedef struct {
    um_arena staging, notes;    /* one request as it was read, before its rows go their ways */
    um_spans spans;
    uint64_t groups_wanted;     /* of the request that stopped: bit per group */
    uint32_t group_count, unknown_waits;
    uint8_t group_of[256];      /* partition -> group */
} um_splitter;

/* ---- failing requests ---- */
typedef struct {                /* what every request is told that has no answer yet */
    const uint8_t *v1_payload, *v2_payload;
    uint32_t v1_status, v1_len, v2_status, v2_len;
} um_failure;

/* ---- query ---- */
typedef struct {                /* followed by: account text; group_by dimension numbers (u8 each); then per filter:
                                   u8 dimension, u8 value_count, value_count x [u8 len, bytes] */
    uint64_t account;
    int64_t start, end;
    uint32_t metric;
    uint16_t text_len;
    uint8_t group_by_count, filter_count;
} um_query_spec;
#define UM_Q_DONE 0
#define UM_Q_SCAN 1
#define UM_Q_SCRATCH 2          /* scratch too small: info.scratch_needed says how much */
#define UM_Q_GROUPS 3           /* more groups than the caller's limit */
#define UM_Q_MALFORMED 4        /* not a query of this catalog: unknown metric or dimension, lengths that do not fit */
typedef struct {
    uint64_t scratch_needed;
    uint64_t first_seq, end_seq;      /* rows to scan have first_seq <= seq < end_seq */
    int64_t lo_start, lo_end, hi_start, hi_end;   /* edge ranges, [start, end); empty when start == end */
    uint64_t groups;
    uint64_t groups_max;        /* set by the caller */
} um_query_info;
typedef struct {                /* one answer row, followed by group_by_count x [u16 len, bytes], zero-padded to 8 */
    uint64_t count, sum_lo;
    int64_t sum_hi, min, max, last_value, last_ts;
    uint64_t unique;
    uint64_t fired;             /* threshold bits of the period that `start` lies in (ungrouped, unfiltered only) */
    uint32_t dims_len, reserved;   /* bytes that follow */
} um_query_row;

#define UM_GLANCE_BYTES 68      /* a v1 answer to a usage query */
typedef struct {                /* followed by the account text */
    uint64_t account;
    int64_t since, until;       /* both inclusive */
    uint64_t after_seq, end_seq;   /* rows with after_seq < seq < end_seq */
    uint32_t text_len, metric;  /* metric: UM_NONE = all */
} um_events_spec;
typedef struct { uint64_t seq; int64_t timestamp_ns; } um_event_head;   /* followed by the row as logged */
/* CDEF END */
#endif

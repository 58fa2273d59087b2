/* frames.c - the requests as bytes: built once per worker, patched per request; and answers taken apart.
 *
 *   v1 ingest   [header 16][event_count, prop_count][event 96 B] x batch
 *   v2 ingest   [header 32][batch head 48][dictionary][row 32 B, or 48 B with an id] x batch
 *
 * A v1 event's account and timestamp are neighbours, and so are a v2 row's: patching touches one cache
 * line per event. Which metric an event is of is part of the template (event i: metric i mod metrics, with
 * batch 1: worker number mod metrics).
 */
#include "um__load.h"
#include <stdio.h>
#include <string.h>

uint32_t um_crc32c(uint32_t crc, const uint8_t *data, uint64_t len);   /* csrc/kernels/crc32c.c, linked in */

#define UM__BATCH_HEAD 48u
#define UM__CODE_LEN 8u         /* "bench_NN" */

static void um__put16(uint8_t *at, uint16_t value) { memcpy(at, &value, 2); }
static void um__put32(uint8_t *at, uint32_t value) { memcpy(at, &value, 4); }
static void um__put64(uint8_t *at, uint64_t value) { memcpy(at, &value, 8); }
static uint32_t um__get32(const uint8_t *at) { uint32_t value; memcpy(&value, at, 4); return value; }
static void um__put64_big(uint8_t *at, uint64_t value) { um__put64(at, __builtin_bswap64(value)); }

static void um__code(uint8_t *at, uint32_t metric) {
    char text[16];
    (void)snprintf(text, sizeof text, "bench_%02u", metric % UM_LOAD_METRICS_MAX);
    memcpy(at, text, UM__CODE_LEN);
}

/* xorshift64*: enough to scatter accounts, and one multiply cheap */
static inline uint64_t um__random(um__source *source) {
    uint64_t x = source->random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    source->random = x;
    return x * 0x2545F4914F6CDD1DULL;
}

/* One of the accounts 1 .. config->accounts; `among` some partitions: partition p has p, p + 256, p + 512, ... */
static inline uint64_t um__account(const um_load_config *config, const um__list *among, um__source *source) {
    uint64_t random = um__random(source);
    if (!among) return 1 + (((random >> 32) * config->accounts) >> 32);
    uint32_t partition = among->partitions[((random >> 32) * among->len) >> 32];
    uint32_t first = partition ? partition : UM__PARTITIONS, count = (config->accounts - first) / UM__PARTITIONS + 1;
    return first + UM__PARTITIONS * (((random & 0xFFFFFFFFu) * count) >> 32);
}

static uint32_t um__row_bytes(const um_load_config *config) { return config->ids ? 48u : 32u; }
static uint32_t um__dictionary_bytes(const um_load_config *config) { return (config->metrics * (1 + UM__CODE_LEN) + 7u) & ~7u; }

/* {"account": u64, "metric": code, "start": i64, "end": i64}, fixed widths so that it can be patched */
static const uint8_t um__query_v2[] = "\x84\xa7" "account\xcf________\xa6" "metric\xa8" "________\xa5" "start\xd3________\xa3" "end\xd3________";
#define UM__QUERY_V2_LEN ((uint32_t)sizeof um__query_v2 - 1u)
#define UM__QUERY_V2_ACCOUNT 10u
#define UM__QUERY_V2_METRIC 26u
#define UM__QUERY_V2_START 41u
#define UM__QUERY_V2_END 54u
#define UM__QUERY_V1_LEN 96u

uint32_t um__frame_len(const um_load_config *config, uint32_t work) {
    if (work == UM__WORK_ECHO) return config->echo_bytes;
    if (work == UM__WORK_QUERY) return config->protocol == 1 ? UM__HEADER_V1 + UM__QUERY_V1_LEN : UM__HEADER_V2 + UM__QUERY_V2_LEN;
    if (config->protocol == 1) return UM__HEADER_V1 + 8 + config->batch * 96;
    return UM__HEADER_V2 + UM__BATCH_HEAD + um__dictionary_bytes(config) + config->batch * um__row_bytes(config);
}

static void um__header_v1(uint8_t *at, uint8_t type, uint32_t payload_len, uint32_t request_id) {
    um__put32(at, 0xC0FFEE01u);
    at[4] = 1;
    at[5] = type;
    um__put16(at + 6, 0xFFFF);
    um__put32(at + 8, payload_len);
    um__put32(at + 12, request_id);
}

static void um__header_v2(uint8_t *at, uint8_t type, uint8_t flags, uint32_t payload_len, uint32_t request_id) {
    memset(at, 0, UM__HEADER_V2);
    um__put32(at, 0xC0FFEE02u);
    at[4] = 2;
    at[5] = type;
    at[7] = flags;
    um__put32(at + 8, payload_len);
    um__put32(at + 12, request_id);
}

static void um__seal_v2(uint8_t *frame, uint32_t frame_len) {
    um__put32(frame + 24, um_crc32c(0, frame + UM__HEADER_V2, frame_len - UM__HEADER_V2));
    um__put32(frame + 28, um_crc32c(0, frame, 28));
}

static uint64_t um__session_hi(const um_load_config *config) { return config->seed != 0 ? config->seed : 1; }

static void um__batch_head(const um_load_config *config, uint8_t *at, uint32_t worker_number, uint32_t events, uint16_t flags) {
    memset(at, 0, UM__BATCH_HEAD);
    if (config->sessions) {
        um__put64(at, um__session_hi(config));
        um__put64(at + 8, worker_number + 1u);
    }
    um__put32(at + 32, events);
    um__put16(at + 36, events ? (uint16_t)config->metrics : 0);
    um__put16(at + 38, flags);
    um__put32(at + 40, events * um__row_bytes(config));
    um__put32(at + 44, events ? um__dictionary_bytes(config) : 0);
}

static void um__build_ingest_v1(const um_load_config *config, um__worker *worker, uint32_t worker_number) {
    uint8_t *at = worker->frame;
    um__header_v1(at, config->sync ? 0x01 : 0x00, worker->frame_len - UM__HEADER_V1, 0);
    at += UM__HEADER_V1;
    um__put32(at, config->batch);
    at += 8;
    for (uint32_t i = 0; i < config->batch; i++, at += 96) {
        um__code(at, (config->batch == 1 ? worker_number : i) % config->metrics);
        um__put64(at + 80, 1 + i % 7);
    }
}

static void um__build_ingest_v2(const um_load_config *config, um__worker *worker, uint32_t worker_number) {
    uint8_t *at = worker->frame + UM__HEADER_V2;
    um__header_v2(worker->frame, 0x02, config->sync ? 0 : 1, worker->frame_len - UM__HEADER_V2, 0);
    um__batch_head(config, at, worker_number, config->batch, 0);
    at += UM__BATCH_HEAD;
    for (uint32_t m = 0; m < config->metrics; m++) {
        at[m * (1 + UM__CODE_LEN)] = UM__CODE_LEN;
        um__code(at + m * (1 + UM__CODE_LEN) + 1, m);
    }
    at += um__dictionary_bytes(config);
    for (uint32_t i = 0; i < config->batch; i++, at += um__row_bytes(config)) {
        um__put64(at + 16, 1 + i % 7);
        um__put16(at + 24, (uint16_t)((config->batch == 1 ? worker_number : i) % config->metrics));
        if (!config->ids) continue;
        at[27] = 2;              /* UM_ROW_ID */
        um__put16(at + 30, 16);  /* tail_len: one length byte and 15 bytes of id */
        at[32] = 15;
        memcpy(at + 33, &config->seed, 7);
    }
}

void um__frame_build(const um_load_config *config, um__worker *worker, uint32_t worker_number) {
    uint8_t *frame = worker->frame;
    memset(frame, 0, worker->frame_len);
    if (worker->work == UM__WORK_ECHO) return;
    if (worker->work == UM__WORK_INGEST) {
        if (config->protocol == 1) um__build_ingest_v1(config, worker, worker_number);
        else um__build_ingest_v2(config, worker, worker_number);
        return;
    }
    if (config->protocol == 1) {
        um__header_v1(frame, 0x30, UM__QUERY_V1_LEN, 0);
        um__put64(frame + UM__HEADER_V1 + 8, (uint64_t)config->query_start_ns);
        um__put64(frame + UM__HEADER_V1 + 16, (uint64_t)config->query_end_ns);
    } else {
        um__header_v2(frame, 0x03, 0, UM__QUERY_V2_LEN, 0);
        memcpy(frame + UM__HEADER_V2, um__query_v2, UM__QUERY_V2_LEN);
        um__put64_big(frame + UM__HEADER_V2 + UM__QUERY_V2_START, (uint64_t)config->query_start_ns);
        um__put64_big(frame + UM__HEADER_V2 + UM__QUERY_V2_END, (uint64_t)config->query_end_ns);
    }
}

/* Where the account of the first event stands; the timestamp is behind it. */
static uint8_t *um__first_account(const um_load_config *config, const um__worker *worker) {
    if (config->protocol == 1) return worker->frame + UM__HEADER_V1 + 8 + 64;
    return worker->frame + UM__HEADER_V2 + UM__BATCH_HEAD + um__dictionary_bytes(config);
}

static void um__patch_ingest(const um_load_config *config, um__worker *worker, const um__list *among, um__source *source) {
    uint8_t *at = um__first_account(config, worker);
    const uint64_t stride = config->protocol == 1 ? 96 : um__row_bytes(config);
    um__source local = *source;
    for (uint32_t i = 0; i < config->batch; i++, at += stride) {
        uint64_t number = local.next_event++;
        um__put64(at, um__account(config, among, &local));
        um__put64(at + 8, (uint64_t)config->timestamp_ns + number * (uint64_t)config->timestamp_step_ns);
        if (config->ids) um__put64(at + 40, number);
    }
    *source = local;
}

void um__frame_patch(const um_load_config *config, um__worker *worker, uint32_t worker_number, const um__list *among, um__source *source) {
    uint8_t *frame = worker->frame;
    if (worker->work == UM__WORK_ECHO) return;
    worker->generation = (worker->generation + 1) & 0x7FFFFu;
    um__put32(frame + 12, UM__REQUEST_ID(worker_number, worker->generation));
    if (worker->work == UM__WORK_INGEST) {
        if (!worker->resend) {
            um__patch_ingest(config, worker, among, source);
            if (config->protocol == 2 && config->sessions) {
                worker->number++;
                um__put64(frame + UM__HEADER_V2 + 16, worker->number);
                um__put64(frame + UM__HEADER_V2 + 24, worker->number);   /* all before this one are settled */
            }
        }
    } else if (!worker->resend) {
        uint64_t account = um__account(config, among, source);
        uint32_t metric = (uint32_t)(((um__random(source) >> 32) * config->metrics) >> 32);
        if (config->protocol == 1) {
            um__put64(frame + UM__HEADER_V1, account);
            um__code(frame + UM__HEADER_V1 + 24, metric);
        } else {
            um__put64_big(frame + UM__HEADER_V2 + UM__QUERY_V2_ACCOUNT, account);
            um__code(frame + UM__HEADER_V2 + UM__QUERY_V2_METRIC, metric);
        }
    }
    worker->resend = 0;
    if (config->protocol == 2) um__seal_v2(frame, worker->frame_len);
}

uint32_t um__frame_open_session(const um_load_config *config, uint32_t worker_number, uint8_t *out) {
    um__header_v2(out, 0x02, 0, UM__BATCH_HEAD, worker_number + 1);
    um__batch_head(config, out + UM__HEADER_V2, worker_number, 0, 1);
    um__seal_v2(out, UM__HEADER_V2 + UM__BATCH_HEAD);
    return UM__HEADER_V2 + UM__BATCH_HEAD;
}

uint32_t um__frame_hello(uint8_t *out) {
    static const uint8_t body[] = "\x81\xa6" "client\xa5" "bench";
    uint32_t len = (uint32_t)sizeof body - 1;
    um__header_v2(out, 0x01, 0, len, 1);
    memcpy(out + UM__HEADER_V2, body, len);
    um__seal_v2(out, UM__HEADER_V2 + len);
    return UM__HEADER_V2 + len;
}

uint32_t um__frame_metric(const um_load_config *config, uint32_t metric, uint8_t *out) {
    uint32_t len = 132;
    memset(out, 0, UM__HEADER_V1 + len);
    um__header_v1(out, 0x20, len, metric + 1);
    um__code(out + UM__HEADER_V1, metric);
    out[UM__HEADER_V1 + 64] = config->aggregations[metric];
    return UM__HEADER_V1 + len;
}

uint32_t um__frame_map(uint8_t *out) {
    um__header_v1(out, 0x10, 0, 1);
    return UM__HEADER_V1;
}

uint64_t um__frame_account(const um_load_config *config, const um__worker *worker) {
    uint64_t account;
    if (worker->work == UM__WORK_INGEST) {
        memcpy(&account, um__first_account(config, worker), 8);
    } else {
        memcpy(&account, worker->frame + (config->protocol == 1 ? UM__HEADER_V1 : UM__HEADER_V2 + UM__QUERY_V2_ACCOUNT), 8);
        if (config->protocol == 2) account = __builtin_bswap64(account);
    }
    return account;
}

void um__answer_read(const um_load_config *config, uint32_t work, const uint8_t *header, const uint8_t *payload, uint32_t payload_len, um__outcome *out) {
    memset(out, 0, sizeof *out);
    out->status = config->protocol == 1 ? header[0] : header[6];
    if (work != UM__WORK_INGEST) return;
    if (config->protocol == 1) {
        const int counts = out->status == 0 || out->status == 1 || out->status == 3;   /* else the payload is words */
        if (!counts || payload_len < 8) return;
        out->stored = um__get32(payload);
        out->duplicates = um__get32(payload + 4);
    } else if (out->status == 0 && payload_len >= 32) {
        out->stored = um__get32(payload);
        out->duplicates = um__get32(payload + 4);
        out->refused = um__get32(payload + 8) + um__get32(payload + 12);
    }
}

/* bench_apply.c - what um_apply costs per row, on one core, without anything around it.
 *
 *     gcc -std=gnu11 -O3 -flto -msse4.2 -Icsrc/kernels bench/bench_apply.c csrc/kernels/[a-z]*.c -o /tmp/bench_apply
 *     /tmp/bench_apply [part of a case's name] [huge pages: 0 or 1] [divisor of the number of entries]
 *
 * 10,000 accounts x 5 metrics (one per aggregation), rows at random over them, batches of 500, 8 batches per
 * entry; every row is new. The cases differ in what dedup has to do, in what the rows carry, and in how full the
 * tables are: "growing" begins with an empty state and takes every entry into account, "steady" is measured when
 * both generations of fingerprints are populated and the first of them has been given up. The median is the usual
 * price; the slowest entry is what a client may have to wait for.
 */
#include "um_kernels.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define ACCOUNTS 10000
#define METRICS 5
#define BATCH_ROWS 500
#define ENTRY_BATCHES 8
#define ENTRY_ROWS (BATCH_ROWS * ENTRY_BATCHES)
#define BASE 1700000000000000000LL

static uint64_t chance = 88172645463325252ULL;
static uint64_t dice(uint64_t below) {
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return chance % below;
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint8_t *reserve(uint64_t bytes, int huge) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) exit(1);
    if (huge && bytes >= (64 << 20)) madvise(memory, bytes, MADV_HUGEPAGE);
    return memory;
}

static void make_state(um_state *st, uint64_t generation, int huge) {
    um_limits limits = {.fingerprints_per_generation = generation, .cells_per_series_max = 10000, .session_idle_ns = 1};
    for (int r = 0; r < UM_REGIONS; r++) limits.records_max[r] = 12000000;
    limits.records_max[UM_R_META] = 1;
    limits.records_max[UM_R_SESSIONS] = 64;
    memset(st, 0, sizeof *st);
    for (uint32_t r = 0; r < UM_REGIONS; r++) {
        st->region[r].reserved = limits.records_max[r] * um_region_record_bytes(r);
        st->region[r].base = reserve(st->region[r].reserved, huge);
    }
    for (uint32_t x = 0; x < UM_INDEXES; x++) {
        st->index[x].reserved = um_index_bytes_max(&limits, x);
        st->index[x].base = reserve(st->index[x].reserved, huge);
    }
    st->scratch.reserved = um_scratch_bytes_max();
    st->scratch.base = reserve(st->scratch.reserved, 0);
    um_state_init(st, &limits);
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* When events happened, by their place in the log: one after the other, or up to `late` places later than they should have come;
 * eight clients' batches, each in order, but in any order among themselves; 200,000 of one moment, each a second after the one before;
 * any time within an hour. */
enum { IN_ORDER, BY_CLIENTS, AT_ONCE, IN_NO_ORDER };
#define STEP_NS 300
#define CLIENTS 8

/* Eight batches after the other, in another order: 0 5 2 7 4 1 6 3. */
static uint64_t overtaken(uint64_t n) {
    const uint64_t turn = n / BATCH_ROWS % CLIENTS;
    return n - BATCH_ROWS * turn + BATCH_ROWS * (turn * 5 % CLIENTS);
}

static int64_t time_of(int times, uint64_t late, uint64_t n) {
    switch (times) {
    case BY_CLIENTS: return BASE + (int64_t)(overtaken(n) * STEP_NS);
    case AT_ONCE: return BASE + (int64_t)(n / 200000 * 1000000000ULL);
    case IN_NO_ORDER: return BASE + (int64_t)dice(3600000000000ULL);
    default: return BASE + (int64_t)((n + late - (late != 0 ? dice(late) : 0)) * STEP_NS);
    }
}

typedef struct {
    const char *name;
    int times;                          /* see time_of */
    uint64_t late;
    uint32_t flags;                     /* of the batches */
    int ids, dims;                      /* do rows carry them? */
    uint64_t metrics;                   /* rows are of metrics 0..metrics - 1, with dims of the one that has dimensions */
    uint64_t generation;                /* fingerprints in one */
    uint32_t warmup, entries;           /* how many are not measured, and are */
} variant;

static uint64_t write_row(uint8_t *out, const variant *v, uint64_t n) {
    um_row row = {.account = dice(ACCOUNTS), .timestamp_ns = time_of(v->times, v->late, n), .value = (int64_t)(v->times <= BY_CLIENTS ? dice(100) : n), .metric = (uint16_t)dice(v->metrics)};
    uint8_t *tail = out + sizeof row, *at = tail;
    if (v->ids) {
        row.flags |= UM_ROW_ID;
        *at++ = 16;
        const uint64_t id[2] = {n * 0x9E3779B97F4A7C15ULL, n};
        memcpy(at, id, 16);
        at += 16;
    }
    if (v->dims) {
        row.prop_count = 2;
        row.metric = METRICS;
        memcpy(at, "\5\2modelm", 8);
        at[8] = (uint8_t)('0' + dice(4));
        memcpy(at + 9, "\6\2regionr", 9);
        at[18] = (uint8_t)('0' + dice(4));
        at += 19;
    }
    while ((at - tail) % 8) *at++ = 0;
    row.tail_len = (uint16_t)(at - tail);
    memcpy(out, &row, sizeof row);
    return (uint64_t)(at - out);
}

static void write_entry(uint8_t *entry, const variant *v, uint64_t index, uint64_t first_seq) {
    uint8_t *at = entry + 64;
    for (int b = 0; b < ENTRY_BATCHES; b++) {
        um_batch batch = {.row_count = BATCH_ROWS, .flags = v->flags};
        uint8_t *head = at;
        at += sizeof batch;
        for (int i = 0; i < BATCH_ROWS; i++) at += write_row(at, v, first_seq + (uint64_t)(b * BATCH_ROWS + i));
        batch.rows_len = (uint32_t)(at - head - (int64_t)sizeof batch);
        memcpy(head, &batch, sizeof batch);
    }
    const um_entry header = {.body_len = (uint32_t)(at - entry - 64), .batch_count = ENTRY_BATCHES, .index = index, .term = 1,
                             .stamp_ns = BASE + (int64_t)index, .first_seq = first_seq, .row_count = ENTRY_ROWS};
    memcpy(entry, &header, sizeof header);
}

static void run(const variant *v, um_catalog *catalog, int huge) {
    um_state st;
    static um_summary sums[ENTRY_BATCHES];
    static uint8_t verdicts[ENTRY_ROWS], entry[64 + ENTRY_BATCHES * 48 + ENTRY_ROWS * 96];
    um_applied applied;
    double *took = malloc(v->entries * sizeof *took), total = 0;
    if (took == NULL) exit(1);
    make_state(&st, v->generation, huge);
    for (uint32_t i = 0; i < v->warmup + v->entries; i++) {
        write_entry(entry, v, i + 1, 1 + (uint64_t)i * ENTRY_ROWS);
        const double before = now_s();
        um_apply(&st, catalog, entry, sums, verdicts, &applied);
        if (i < v->warmup) continue;
        took[i - v->warmup] = now_s() - before;
        total += took[i - v->warmup];
    }
    qsort(took, v->entries, sizeof *took, ascending);
    const double per_row = 1e9 / ENTRY_ROWS, median = took[v->entries / 2] * per_row;
    const um_meta *meta = (const um_meta *)(const void *)st.region[UM_R_META].base;
    printf("%-44s ns/row: best %6.1f  median %6.1f  mean %6.1f   %5.2f M rows/s   slowest entry %6.2f ms  (%llu stored)\n", v->name,
           took[0] * per_row, median, total / v->entries * per_row, 1e3 / median, took[v->entries - 1] * 1e3, (unsigned long long)meta->stored);
    fflush(stdout);
    free(took);
    for (int r = 0; r < UM_REGIONS; r++) munmap(st.region[r].base, st.region[r].reserved);
    for (int x = 0; x < UM_INDEXES; x++) munmap(st.index[x].base, st.index[x].reserved);
    munmap(st.scratch.base, st.scratch.reserved);
}

int main(int argc, char **argv) {
    um_catalog *catalog = calloc(1, sizeof *catalog);
    catalog->metric_count = METRICS + 1;
    for (uint16_t i = 0; i <= METRICS; i++) {
        um_metric *m = &catalog->metrics[i];
        m->id = i;
        m->alive = 1;
        m->aggregation = i < METRICS ? (uint8_t)i : UM_AGG_SUM;
    }
    um_metric *m = &catalog->metrics[METRICS];
    m->dimension_count = 2;
    m->dimensions[0] = (um_dimension){5, "model"};
    m->dimensions[1] = (um_dimension){6, "region"};
    const variant variants[] = {
        {.name = "v2, sessions only", .metrics = METRICS, .warmup = 125, .entries = 1000},
        {.name = "v1, fingerprints", .flags = UM_BATCH_V1, .metrics = METRICS, .warmup = 125, .entries = 1000},
        {.name = "v1, fingerprints, no count-unique", .flags = UM_BATCH_V1, .metrics = METRICS - 1, .warmup = 125, .entries = 1000},
        {.name = "v2, ids", .ids = 1, .metrics = METRICS - 1, .warmup = 125, .entries = 1000},
        {.name = "v1, fingerprints, two dimensions (16 cells)", .flags = UM_BATCH_V1, .dims = 1, .metrics = METRICS, .warmup = 125, .entries = 1000},
        {.name = "v2, ids, two dimensions", .ids = 1, .dims = 1, .metrics = METRICS, .warmup = 125, .entries = 1000},
        {.name = "v1, growing to 10 M fingerprints", .flags = UM_BATCH_V1, .metrics = METRICS - 1, .warmup = 0, .entries = 2500},
        {.name = "v1, steady, 2 x 2 M fingerprints", .flags = UM_BATCH_V1, .metrics = METRICS - 1, .generation = 2000000, .warmup = 1100, .entries = 1000},
        {.name = "v1, steady, 2 x 9 M fingerprints", .flags = UM_BATCH_V1, .metrics = METRICS - 1, .generation = 9000000, .warmup = 4600, .entries = 2400},
        {.name = "v1, steady, 2 x 2 M, eight clients", .times = BY_CLIENTS, .flags = UM_BATCH_V1, .metrics = METRICS - 1, .generation = 2000000, .warmup = 1100, .entries = 1000},
        {.name = "v1, steady, 2 x 2 M, up to 10,000 late", .late = 10000, .flags = UM_BATCH_V1, .metrics = METRICS - 1, .generation = 2000000, .warmup = 1100, .entries = 1000},
        {.name = "v1, steady, 2 x 2 M, up to a million late", .late = 1000000, .flags = UM_BATCH_V1, .metrics = METRICS - 1, .generation = 2000000, .warmup = 1100, .entries = 1000},
        {.name = "v1, steady, 2 x 2 M, 200,000 at once", .times = AT_ONCE, .flags = UM_BATCH_V1, .metrics = METRICS - 1, .generation = 2000000, .warmup = 1100, .entries = 1000},
        {.name = "v1, steady, 2 x 9 M, 200,000 at once", .times = AT_ONCE, .flags = UM_BATCH_V1, .metrics = METRICS - 1, .generation = 9000000, .warmup = 4600, .entries = 2400},
        {.name = "v1, steady, 2 x 2 M, in no order", .times = IN_NO_ORDER, .flags = UM_BATCH_V1, .metrics = METRICS - 1, .generation = 2000000, .warmup = 1100, .entries = 1000},
        {.name = "v1, steady, 2 x 9 M, in no order", .times = IN_NO_ORDER, .flags = UM_BATCH_V1, .metrics = METRICS - 1, .generation = 9000000, .warmup = 4600, .entries = 2400},
    };
    for (int huge = 0; huge < 2; huge++) {
        if (argc > 2 && atoi(argv[2]) != huge) continue;
        printf("huge pages: %s\n", huge ? "yes" : "no");
        for (uint32_t i = 0; i < sizeof variants / sizeof *variants; i++) {
            variant v = variants[i];
            if (v.generation == 0) v.generation = 12000000;
            if (argc > 3 && atoi(argv[3]) > 1) {
                v.warmup /= (uint32_t)atoi(argv[3]);
                v.entries /= (uint32_t)atoi(argv[3]);
            }
            if (argc < 2 || strstr(v.name, argv[1])) run(&v, catalog, huge);
        }
    }
    free(catalog);
    return 0;
}

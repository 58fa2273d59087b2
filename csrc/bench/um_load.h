/* um_load.h - a load generator for the v1 and v2 protocols, and for bare echo servers.
 *
 * Theory. The client must not be what is measured, so it does as little as a client can: one thread, one
 * epoll set, no allocation after the start. A *worker* is a closed loop: it has at most one request
 * outstanding, and sends the next when the answer is read. Workers are spread over connections; requests
 * that fall due on one connection in the same turn leave in one sendmsg. Every worker owns a prebuilt
 * frame; a new request only patches what must differ: request id, accounts, timestamps (and for v2 the
 * batch number and the checksums). Every event gets an explicit timestamp of its own, so the server's
 * duplicate detection has work to do and yet nothing is a duplicate.
 *
 * A cluster is driven as client libraries drive it: *routed*. The generator keeps a partition map (routes.c), draws the
 * accounts of a batch among those of one node (or of one group), and sends it to that node, so no event is passed on.
 * Not routed, worker w sends any accounts to node w mod nodes, and follows redirects. Either way what was refused for
 * want of a leader, or was outstanding on a connection that broke, is sent again where the map now points.
 *
 * It is a program of its own kind: it makes system calls, and is linked into neither the node nor the kernels.
 */
#ifndef UM_LOAD_H
#define UM_LOAD_H
#include <stdint.h>

/* CDEF BEGIN */
#define UM_LOAD_WORKERS_MAX 4096
#define UM_LOAD_METRICS_MAX 100
#define UM_LOAD_BUCKETS 2560
#define UM_LOAD_STATUSES 8
#define UM_LOAD_TARGETS_MAX 16

/* what the workers do */
#define UM_LOAD_REQUESTS 1      /* ingest workers and query workers, as many as said */
#define UM_LOAD_ECHO 2          /* send echo_bytes, wait until as many came back: the network's own round trip */

typedef struct {
    char host[64];              /* IPv4 in dotted form */
    uint16_t port;
    uint8_t padding[6];
} um_load_target;

typedef struct {
    um_load_target targets[16];
    uint32_t target_count;
    uint32_t groups;            /* routed: 0: a batch has accounts of one node; else accounts of one group, of so many */
    uint8_t cluster;            /* keep a partition map: follow redirects, survive a target that is lost */
    uint8_t routed;             /* (cluster) send accounts to the node that leads them */
    uint8_t protocol;           /* 1 or 2 */
    uint8_t kind;               /* UM_LOAD_REQUESTS or UM_LOAD_ECHO */
    uint8_t sync;               /* ingest is answered when durable, not when ordered */
    uint8_t create_metrics;     /* create bench_00, bench_01, ... first */
    uint8_t ids;                /* v2: every event carries an id */
    uint8_t sessions;           /* v2: every worker numbers its batches in a session of its own */
    uint32_t batch;             /* events per ingest request */
    uint32_t ingest_workers, ingest_connections;
    uint32_t query_workers;     /* each on a connection of its own */
    uint32_t accounts, metrics;
    uint32_t echo_bytes;
    uint32_t query_pause_us;    /* a query worker waits this long between an answer and its next query */
    uint32_t spin_us;           /* poll this long before sleeping */
    uint64_t seed;
    int64_t timestamp_ns, timestamp_step_ns;      /* event number n gets timestamp_ns + n * timestamp_step_ns */
    int64_t query_start_ns, query_end_ns;
    uint64_t events_max;        /* 0: no limit; rounded up to whole batches (queries, echoes: their number) */
    uint64_t warmup_ns, duration_ns;    /* the window of measurement begins after warmup_ns; duration 0: no limit */
    uint8_t aggregations[100];  /* v1 aggregation number per metric */
    uint8_t padding[4];
} um_load_config;

/* Latencies of one kind: bucket counts, see um_load_bucket_ns. Only requests *sent* within the window. */
typedef struct { uint64_t count, max_ns, counts[2560]; } um_load_histogram;

/* All counters grow while the run goes on and may be read meanwhile. */
typedef struct {
    uint64_t sent_events, sent_requests;
    uint64_t acked_requests, stored, duplicates, refused;        /* whole run; events */
    uint64_t queries, echoes;                                    /* answered, whole run */
    uint64_t statuses[8];                                        /* answers by status, whole run */
    uint64_t backpressure;                                       /* answers that said: later (sent again after 1 ms) */
    uint64_t redirects;                                          /* (cluster) answers that said: there (sent again by the map) */
    uint64_t lost_targets;                                       /* (cluster) nodes that hung up during the run */
    uint64_t window_ns, window_events, window_requests, window_queries;
    uint64_t cpu_user_ns, cpu_system_ns;                         /* this thread's own, whole run */
    uint64_t sends, receives, sleeps;                            /* system calls */
    uint32_t stop;              /* set to 1 from outside: no new requests, drain, return */
    uint32_t finished;
    um_load_histogram ingest, query;
    char error[256];            /* empty: the run is good */
} um_load_result;

/* Runs until the limits are met and everything outstanding is answered. 0, or -1 with result->error set. */
int um_load_run(const um_load_config *config, um_load_result *result);

/* The least latency that falls into a bucket. */
uint64_t um_load_bucket_ns(uint32_t bucket);
/* CDEF END */
#endif

/* um__load.h - what the generator's parts share: connect.c prepares, workers.c loops, frames.c knows bytes, routes.c who leads what. */
#ifndef UM__LOAD_H
#define UM__LOAD_H
#include "um_load.h"

#define UM__HEADER_V1 16u
#define UM__HEADER_V2 32u
#define UM__ANSWER_V1 12u
#define UM__ANSWER_V2 32u
#define UM__RECEIVE_BYTES 262144u

#define UM__PARTITIONS 256u     /* of a cluster: account mod 256 (protocol.toml) */
#define UM__NOBODY 255u         /* no target */

#define UM__WORK_INGEST 0u
#define UM__WORK_QUERY 1u
#define UM__WORK_ECHO 2u

typedef struct {
    uint8_t *frame;             /* the whole request, patched in place; owned by the generator until answered */
    uint32_t frame_len, work;
    uint32_t slot;              /* which of the connections to each target it uses */
    uint32_t connection, generation;    /* of the request that is outstanding; requests so far: part of the request id */
    uint64_t sent_ns, due_ns;   /* due_ns != 0: waits until then before it sends */
    uint64_t number;            /* v2 batch number */
    uint8_t outstanding, resend, padding[2];
} um__worker;

typedef struct {
    uint64_t random;
    uint64_t next_event;
} um__source;

typedef struct { uint32_t status, stored, duplicates, refused; } um__outcome;

/* Partitions that belong together: of one node, or of one group. Only such that have accounts. */
typedef struct { uint32_t len; uint8_t partitions[UM__PARTITIONS]; } um__list;

typedef struct {
    uint8_t leader[UM__PARTITIONS];     /* a target, or UM__NOBODY */
    um__list lists[UM__PARTITIONS];
    uint32_t list_count;
    int fd;                             /* where the map is asked for, and changes of it are pushed; -1: nowhere now */
    uint32_t target;                    /* fd's */
    uint64_t asked_ns;
    uint8_t *received;
    uint32_t received_len, padding;
} um__routes;

typedef struct {
    int fd;
    uint32_t head, count, first_sent;   /* queue of worker numbers; bytes of the first that are sent */
    uint32_t *queue, queue_max, target;
    uint8_t *received;
    uint32_t received_len, wants_out, lost;
} um__connection;

typedef struct {
    const um_load_config *config;
    um_load_result *result;
    um__worker *workers;
    um__connection *connections;
    uint32_t worker_count, connection_count, outstanding, due;
    int epoll;
    um__source source;
    um__routes *routes;         /* NULL: not a cluster */
    uint64_t start_ns, window_from_ns, window_to_ns;
    uint64_t at_open[3], last_answer_ns;
    uint32_t window_open, window_closed;
} um__run;

/* connect.c: everything before the first measured request */
int um__open(um__run *run);
int um__connect(um__run *run, uint32_t target);
__attribute__((format(printf, 2, 3))) int um__fail(um__run *run, const char *format, ...);   /* keeps the first error; -1 */

/* routes.c */
int um__routes_open(um__run *run);                          /* the first map; blocking */
void um__routes_ask(um__run *run, uint64_t now);            /* for a newer one, at most every 20 ms */
void um__routes_read(um__run *run);                         /* fd is readable */
void um__routes_close(um__run *run);
const um__list *um__routes_among(const um__run *run, uint32_t worker_number);     /* NULL: any accounts */
uint32_t um__routes_target(const um__run *run, uint32_t worker_number, int again);    /* where its frame is to be sent, or sent again */

/* frames.c */
uint32_t um__frame_len(const um_load_config *config, uint32_t work);
void um__frame_build(const um_load_config *config, um__worker *worker, uint32_t worker_number);
void um__frame_patch(const um_load_config *config, um__worker *worker, uint32_t worker_number, const um__list *among, um__source *source);
uint32_t um__frame_open_session(const um_load_config *config, uint32_t worker_number, uint8_t *out);   /* v2; returns its length */
uint32_t um__frame_hello(uint8_t *out);
uint32_t um__frame_metric(const um_load_config *config, uint32_t metric, uint8_t *out);                /* v1 metric put */
uint32_t um__frame_map(uint8_t *out);                                                                  /* v1 partition map */
uint64_t um__frame_account(const um_load_config *config, const um__worker *worker);                    /* of its first event, or its query */
void um__answer_read(const um_load_config *config, uint32_t work, const uint8_t *header, const uint8_t *payload, uint32_t payload_len, um__outcome *out);

/* Answers that say: the same again later. v1: no leader, or pushed back; v2: pushback. */
static inline int um__is_pushback(uint32_t protocol, int status) { return protocol == 1 ? status == 5 || status == 6 : status == 3; }
static inline int um__is_redirect(uint32_t protocol, uint32_t status) { return status == (protocol == 1 ? 4u : 2u); }

#define UM__REQUEST_ID(worker_number, generation) (((generation) << 13) | ((worker_number) + 1u))
#define UM__WORKER_OF(request_id) (((request_id) & 8191u) - 1u)
#endif

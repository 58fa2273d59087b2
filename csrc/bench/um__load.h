/* um__load.h - what the generator's parts share: connect.c prepares, workers.c loops, frames.c knows bytes. */
#ifndef UM__LOAD_H
#define UM__LOAD_H
#include "um_load.h"

#define UM__HEADER_V1 16u
#define UM__HEADER_V2 32u
#define UM__ANSWER_V1 12u
#define UM__ANSWER_V2 32u
#define UM__RECEIVE_BYTES 262144u

#define UM__WORK_INGEST 0u
#define UM__WORK_QUERY 1u
#define UM__WORK_ECHO 2u

typedef struct {
    uint8_t *frame;             /* the whole request, patched in place; owned by the generator until answered */
    uint32_t frame_len, work;
    uint32_t connection, generation;    /* generation: requests so far; part of the request id */
    uint64_t sent_ns, due_ns;   /* due_ns != 0: waits until then before it sends */
    uint64_t number;            /* v2 batch number */
    uint8_t outstanding, resend, padding[6];
} um__worker;

typedef struct {
    uint64_t random;
    uint64_t next_event;
} um__source;

typedef struct { uint32_t status, stored, duplicates, refused; } um__outcome;

typedef struct {
    int fd;
    uint32_t head, count, first_sent;   /* queue of worker numbers; bytes of the first that are sent */
    uint32_t *queue, queue_max;
    uint8_t *received;
    uint32_t received_len, wants_out;
} um__connection;

typedef struct {
    const um_load_config *config;
    um_load_result *result;
    um__worker *workers;
    um__connection *connections;
    uint32_t worker_count, connection_count, outstanding, due;
    int epoll;
    um__source source;
    uint64_t start_ns, window_from_ns, window_to_ns;
    uint64_t at_open[3], last_answer_ns;
    uint32_t window_open, window_closed;
} um__run;

/* connect.c: everything before the first measured request */
int um__open(um__run *run);
__attribute__((format(printf, 2, 3))) int um__fail(um__run *run, const char *format, ...);   /* keeps the first error; -1 */

/* frames.c */
uint32_t um__frame_len(const um_load_config *config, uint32_t work);
void um__frame_build(const um_load_config *config, um__worker *worker, uint32_t worker_number);
void um__frame_patch(const um_load_config *config, um__worker *worker, uint32_t worker_number, um__source *source);
uint32_t um__frame_open_session(const um_load_config *config, uint32_t worker_number, uint8_t *out);   /* v2; returns its length */
uint32_t um__frame_hello(uint8_t *out);
uint32_t um__frame_metric(const um_load_config *config, uint32_t metric, uint8_t *out);                /* v1 metric put */
void um__answer_read(const um_load_config *config, uint32_t work, const uint8_t *header, const uint8_t *payload, uint32_t payload_len, um__outcome *out);

#define UM__REQUEST_ID(worker_number, generation) (((generation) << 13) | ((worker_number) + 1u))
#define UM__WORKER_OF(request_id) (((request_id) & 8191u) - 1u)
#endif

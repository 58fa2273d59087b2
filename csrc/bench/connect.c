/* connect.c - what happens before the clock starts: connections, metrics, the v2 handshake and sessions. */
#define _GNU_SOURCE
#include "um__load.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define UM__ANSWER_WAIT_MS 30000
#define UM__SETUP_TRIES 500u         /* of a request that is pushed back: a cluster that elects its leaders */
#define UM__SETUP_AGAIN_US 20000
#define UM__HEAD_BYTES 256u
#define UM__SESSION_VERDICT_AT 24u   /* in a v2 ingest answer */

int um__fail(um__run *run, const char *format, ...) {
    va_list arguments;
    if (run->result->error[0]) return -1;
    va_start(arguments, format);
    (void)vsnprintf(run->result->error, sizeof run->result->error, format, arguments);
    va_end(arguments);
    return -1;
}

int um__connect(um__run *run, uint32_t target) {
    const um_load_target *to = &run->config->targets[target];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(to->port)};
    int one = 1, bytes = 4 << 20;
    if (inet_pton(AF_INET, to->host, &address.sin_addr) != 1) return um__fail(run, "%s is not an IPv4 address", to->host);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return um__fail(run, "socket: %s", strerror(errno));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        int error = errno;
        (void)close(fd);
        return um__fail(run, "connect to %s:%u: %s", to->host, to->port, strerror(error));
    }
    return fd;
}

static int um__read_exactly(um__run *run, int fd, uint8_t *out, uint32_t len) {
    while (len) {
        struct pollfd waiting = {.fd = fd, .events = POLLIN};
        if (poll(&waiting, 1, UM__ANSWER_WAIT_MS) == 0) return um__fail(run, "no answer within 30 s");
        ssize_t got = recv(fd, out, len, 0);
        if (got <= 0) return um__fail(run, "the server closed the connection during the setup");
        out += got;
        len -= (uint32_t)got;
    }
    return 0;
}

/* One request and its answer, blocking; for the setup only. Returns the status, or -1; `head` gets the first bytes of the
 * payload, which may be all of it. */
static int um__ask_once(um__run *run, int fd, uint32_t protocol, const uint8_t *frame, uint32_t frame_len, uint8_t *head) {
    uint8_t header[32], skipped[UM__HEAD_BYTES];
    for (uint32_t sent = 0; sent < frame_len;) {
        ssize_t put = send(fd, frame + sent, frame_len - sent, MSG_NOSIGNAL);
        if (put <= 0) return um__fail(run, "send: %s", strerror(errno));
        sent += (uint32_t)put;
    }
    uint32_t left;
    if (um__read_exactly(run, fd, header, protocol == 1 ? UM__ANSWER_V1 : UM__ANSWER_V2)) return -1;
    memcpy(&left, header + 8, 4);
    while (left) {
        uint32_t part = left < sizeof skipped ? left : (uint32_t)sizeof skipped;
        if (um__read_exactly(run, fd, head ? head : skipped, part)) return -1;
        head = NULL;
        left -= part;
    }
    return protocol == 1 ? header[0] : header[6];
}

static int um__ask(um__run *run, int fd, uint32_t protocol, const uint8_t *frame, uint32_t frame_len, uint8_t *head) {
    for (uint32_t tries = 0;; tries++) {
        int status = um__ask_once(run, fd, protocol, frame, frame_len, head);
        if (!um__is_pushback(protocol, status) || tries == UM__SETUP_TRIES) return status;
        (void)usleep(UM__SETUP_AGAIN_US);
    }
}

/* A connection of this slot that stands. */
static int um__any_fd(const um__run *run, uint32_t slot) {
    const uint32_t targets = run->config->target_count;
    for (uint32_t t = 0; t < targets; t++)
        if (!run->connections[slot * targets + t].lost) return run->connections[slot * targets + t].fd;
    return -1;
}

/* v2: whichever target does not send on to another; a node that leads nothing opens no session. */
static int um__ask_somebody(um__run *run, uint32_t slot, const uint8_t *frame, uint32_t frame_len, uint8_t *head) {
    const uint32_t targets = run->config->target_count;
    int status = -1;
    for (uint32_t t = 0; t < targets; t++) {
        const um__connection *connection = &run->connections[slot * targets + t];
        if (connection->lost) continue;
        status = um__ask(run, connection->fd, 2, frame, frame_len, head);
        if (status < 0 || !um__is_redirect(2, (uint32_t)status)) break;
    }
    return status;
}

static int um__setup(um__run *run) {
    const um_load_config *config = run->config;
    uint8_t frame[512], head[UM__HEAD_BYTES] = {0};
    if (config->kind == UM_LOAD_ECHO) return 0;
    for (uint32_t m = 0; config->create_metrics && m < config->metrics; m++) {
        int status = um__ask(run, um__any_fd(run, 0), 1, frame, um__frame_metric(config, m, frame), NULL);
        if (status > 0) return um__fail(run, "creating metric bench_%02u: status %d (does it exist with another definition?)", m, status);
        if (status < 0) return -1;
    }
    if (config->protocol == 1) return 0;
    for (uint32_t c = 0; c < run->connection_count; c++) {
        if (run->connections[c].lost) continue;
        int status = um__ask(run, run->connections[c].fd, 2, frame, um__frame_hello(frame), NULL);
        if (status != 0) return um__fail(run, "HELLO: status %d", status);
    }
    for (uint32_t w = 0; config->sessions && w < run->worker_count; w++) {
        if (run->workers[w].work != UM__WORK_INGEST) continue;
        int status = um__ask_somebody(run, run->workers[w].slot, frame, um__frame_open_session(config, w, frame), head);
        if (status != 0) return um__fail(run, "opening a session: status %d", status);
        if (head[UM__SESSION_VERDICT_AT]) return um__fail(run, "opening a session: verdict %u (9: the node has no room for another)", head[UM__SESSION_VERDICT_AT]);
    }
    return 0;
}

/* Every slot has a connection to each target. A target of several may be down. */
static int um__dial(um__run *run) {
    const uint32_t targets = run->config->target_count;
    for (uint32_t c = 0; c < run->connection_count; c++) {
        um__connection *connection = &run->connections[c];
        connection->target = c % targets;
        connection->queue = calloc(connection->queue_max, sizeof *connection->queue);
        connection->received = malloc(UM__RECEIVE_BYTES);
        if (!connection->queue || !connection->received) return um__fail(run, "out of memory");
        connection->fd = um__connect(run, connection->target);
        connection->lost = connection->fd < 0;
        if (connection->lost && (!run->config->cluster || (connection->target == targets - 1 && um__any_fd(run, c / targets) < 0))) return -1;
        if (connection->lost && c < targets) run->result->lost_targets++;
    }
    run->result->error[0] = 0;
    return 0;
}

int um__open(um__run *run) {
    const um_load_config *config = run->config;
    const uint32_t targets = config->target_count, ingesting = config->kind == UM_LOAD_ECHO ? 0 : config->ingest_connections;
    for (uint32_t w = 0; w < run->worker_count; w++) {
        um__worker *worker = &run->workers[w];
        worker->work = config->kind == UM_LOAD_ECHO ? UM__WORK_ECHO : w < config->ingest_workers ? UM__WORK_INGEST : UM__WORK_QUERY;
        worker->slot = worker->work == UM__WORK_INGEST ? w % ingesting : worker->work == UM__WORK_QUERY ? ingesting + w - config->ingest_workers : w;
        worker->frame_len = um__frame_len(config, worker->work);
        worker->frame = malloc(worker->frame_len + 64u);
        if (!worker->frame) return um__fail(run, "out of memory");
        um__frame_build(config, worker, w);
        for (uint32_t t = 0; t < targets; t++) run->connections[worker->slot * targets + t].queue_max++;
    }
    if (um__dial(run) || um__setup(run)) return -1;
    for (uint32_t c = 0; c < run->connection_count; c++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = c};
        if (!run->connections[c].lost && epoll_ctl(run->epoll, EPOLL_CTL_ADD, run->connections[c].fd, &event)) return um__fail(run, "epoll: %s", strerror(errno));
    }
    return config->cluster ? um__routes_open(run) : 0;
}

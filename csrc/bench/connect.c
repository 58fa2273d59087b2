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

int um__fail(um__run *run, const char *format, ...) {
    va_list arguments;
    if (run->result->error[0]) return -1;
    va_start(arguments, format);
    (void)vsnprintf(run->result->error, sizeof run->result->error, format, arguments);
    va_end(arguments);
    return -1;
}


static int um__connect(um__run *run) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(run->config->port)};
    int one = 1, bytes = 4 << 20;
    if (inet_pton(AF_INET, run->config->host, &address.sin_addr) != 1) return um__fail(run, "%s is not an IPv4 address", run->config->host);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return um__fail(run, "socket: %s", strerror(errno));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        int error = errno;
        (void)close(fd);
        return um__fail(run, "connect to %s:%u: %s", run->config->host, run->config->port, strerror(error));
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

/* One request and its answer, blocking; for the setup only. Returns the status, or -1. */
static int um__ask(um__run *run, int fd, uint32_t protocol, const uint8_t *frame, uint32_t frame_len) {
    uint8_t header[32], skipped[256];
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
        if (um__read_exactly(run, fd, skipped, part)) return -1;
        left -= part;
    }
    return protocol == 1 ? header[0] : header[6];
}

static int um__setup(um__run *run) {
    const um_load_config *config = run->config;
    uint8_t frame[512];
    if (config->kind == UM_LOAD_ECHO) return 0;
    if (config->create_metrics) {
        int fd = um__connect(run);
        if (fd < 0) return -1;
        for (uint32_t m = 0; m < config->metrics; m++) {
            int status = um__ask(run, fd, 1, frame, um__frame_metric(config, m, frame));
            if (status > 0) (void)um__fail(run, "creating metric bench_%02u: status %d (does it exist with another definition?)", m, status);
            if (status != 0) break;
        }
        (void)close(fd);
        if (run->result->error[0]) return -1;
    }
    if (config->protocol == 1) return 0;
    for (uint32_t c = 0; c < run->connection_count; c++) {
        int status = um__ask(run, run->connections[c].fd, 2, frame, um__frame_hello(frame));
        if (status != 0) return um__fail(run, "HELLO: status %d", status);
    }
    for (uint32_t w = 0; config->sessions && w < run->worker_count; w++) {
        if (run->workers[w].work != UM__WORK_INGEST) continue;
        int status = um__ask(run, run->connections[run->workers[w].connection].fd, 2, frame, um__frame_open_session(config, w, frame));
        if (status != 0) return um__fail(run, "opening a session: status %d", status);
    }
    return 0;
}

int um__open(um__run *run) {
    const um_load_config *config = run->config;
    uint32_t ingesting = config->kind == UM_LOAD_ECHO ? 0 : config->ingest_connections;
    for (uint32_t w = 0; w < run->worker_count; w++) {
        um__worker *worker = &run->workers[w];
        worker->work = config->kind == UM_LOAD_ECHO ? UM__WORK_ECHO : w < config->ingest_workers ? UM__WORK_INGEST : UM__WORK_QUERY;
        worker->connection = worker->work == UM__WORK_INGEST ? w % ingesting : worker->work == UM__WORK_QUERY ? ingesting + w - config->ingest_workers : w;
        worker->frame_len = um__frame_len(config, worker->work);
        worker->frame = malloc(worker->frame_len + 64u);
        if (!worker->frame) return um__fail(run, "out of memory");
        um__frame_build(config, worker, w);
        run->connections[worker->connection].queue_max++;
    }
    for (uint32_t c = 0; c < run->connection_count; c++) {
        um__connection *connection = &run->connections[c];
        connection->queue = calloc(connection->queue_max, sizeof *connection->queue);
        connection->received = malloc(UM__RECEIVE_BYTES);
        if (!connection->queue || !connection->received) return um__fail(run, "out of memory");
        connection->fd = um__connect(run);
        if (connection->fd < 0) return -1;
    }
    if (um__setup(run)) return -1;
    for (uint32_t c = 0; c < run->connection_count; c++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = c};
        if (epoll_ctl(run->epoll, EPOLL_CTL_ADD, run->connections[c].fd, &event)) return um__fail(run, "epoll: %s", strerror(errno));
    }
    return 0;
}

/* workers.c - the closed loop: sockets, epoll, latencies.
 *
 * One turn: wait for readable connections; read what came; every whole answer completes its worker, and the
 * worker's next request is queued on its connection; then every connection with a queue is flushed with one
 * sendmsg. The clock is read twice a turn (after reading, before flushing), not per request.
 */
#define _GNU_SOURCE
#include "um__load.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define UM__IOVECS 256u
#define UM__DRAIN_NS 30000000000ULL
#define UM__RETRY_NS 1000000ULL

static uint64_t um__now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

/* ---- histogram: 64 buckets per power of two, so a bucket is at most 1.6% wide ---- */

static uint32_t um__bucket(uint64_t ns) {
    if (ns < 64) return (uint32_t)ns;
    uint32_t exponent = 63u - (uint32_t)__builtin_clzll(ns);
    if (exponent > 43) return UM_LOAD_BUCKETS - 1;
    return (exponent - 5) * 64 + (uint32_t)((ns >> (exponent - 6)) & 63);
}

uint64_t um_load_bucket_ns(uint32_t bucket) {
    if (bucket < 64) return bucket;
    uint32_t exponent = bucket / 64 + 5;
    return (uint64_t)(64 + bucket % 64) << (exponent - 6);
}

static void um__record(um_load_histogram *histogram, uint64_t ns) {
    histogram->count++;
    histogram->counts[um__bucket(ns)]++;
    if (ns > histogram->max_ns) histogram->max_ns = ns;
}

/* ---- the loop ---- */

static int um__may_send(const um__run *run, uint64_t now) {
    const um_load_config *config = run->config;
    uint64_t sent = config->kind == UM_LOAD_ECHO || !config->ingest_workers ? run->result->sent_requests : run->result->sent_events;
    if (__atomic_load_n(&run->result->stop, __ATOMIC_RELAXED)) return 0;
    if (config->events_max && sent >= config->events_max) return 0;
    return !config->duration_ns || now < run->window_to_ns;
}

static void um__enqueue(um__run *run, uint32_t w) {
    um__worker *worker = &run->workers[w];
    int fresh = !worker->resend;
    um__frame_patch(run->config, worker, w, fresh ? um__routes_among(run, w) : NULL, &run->source);
    worker->connection = worker->slot * run->config->target_count + um__routes_target(run, w, !fresh);
    um__connection *connection = &run->connections[worker->connection];
    connection->queue[(connection->head + connection->count++) % connection->queue_max] = w;
    worker->outstanding = 1;
    worker->sent_ns = 0;
    run->outstanding++;
    run->result->sent_requests++;
    if (worker->work == UM__WORK_INGEST && fresh) run->result->sent_events += run->config->batch;
}

static int um__flush(um__run *run, um__connection *connection, uint32_t number) {
    uint64_t now = um__now_ns();
    while (connection->count) {
        struct iovec parts[UM__IOVECS];
        struct msghdr message = {.msg_iov = parts};
        uint32_t n = 0;
        for (; n < connection->count && n < UM__IOVECS; n++) {
            um__worker *worker = &run->workers[connection->queue[(connection->head + n) % connection->queue_max]];
            uint32_t skip = n ? 0 : connection->first_sent;
            parts[n].iov_base = worker->frame + skip;
            parts[n].iov_len = worker->frame_len - skip;
            if (!worker->sent_ns) worker->sent_ns = now;
        }
        message.msg_iovlen = n;
        ssize_t sent = sendmsg(connection->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        run->result->sends++;
        if (sent < 0 && errno != EAGAIN && errno != EINTR) return 0;     /* receiving will tell */
        for (uint32_t i = 0; sent > 0; i++) {
            uint64_t part = parts[i].iov_len < (uint64_t)sent ? parts[i].iov_len : (uint64_t)sent;
            sent -= (ssize_t)part;
            connection->first_sent += (uint32_t)part;
            if (part < parts[i].iov_len) break;
            connection->first_sent = 0;
            connection->head = (connection->head + 1) % connection->queue_max;
            connection->count--;
        }
        if (connection->count && n < UM__IOVECS) break;      /* the socket is full */
    }
    uint32_t wants_out = connection->count != 0;
    if (wants_out != connection->wants_out) {
        struct epoll_event event = {.events = EPOLLIN | (wants_out ? EPOLLOUT : 0u), .data.u32 = number};
        connection->wants_out = wants_out;
        (void)epoll_ctl(run->epoll, EPOLL_CTL_MOD, connection->fd, &event);
    }
    return 0;
}

static void um__window(um__run *run, uint64_t now) {
    um_load_result *result = run->result;
    uint64_t counts[3] = {result->stored + result->duplicates, result->acked_requests, result->queries + result->echoes};
    if (!run->window_open && now >= run->window_from_ns) {
        memcpy(run->at_open, counts, sizeof counts);
        run->window_open = 1;
        run->window_from_ns = now;
    }
    if (run->window_open && !run->window_closed) {
        result->window_ns = now - run->window_from_ns;
        result->window_events = counts[0] - run->at_open[0];
        result->window_requests = counts[1] - run->at_open[1];
        result->window_queries = counts[2] - run->at_open[2];
        if (!um__may_send(run, now)) run->window_closed = 1;
    }
}

/* The same request again, a little later; by then the map may say something else. */
static void um__again(um__run *run, uint32_t w, uint64_t now) {
    run->workers[w].resend = 1;
    run->workers[w].due_ns = now + UM__RETRY_NS;
    run->due++;
    if (run->routes) um__routes_ask(run, now);
}

/* A node hung up. In a cluster its requests are sent again, to whoever the map names by then; alone it was the last. */
static int um__lose(um__run *run, uint32_t number, const char *why) {
    um__connection *connection = &run->connections[number];
    const uint32_t targets = run->config->target_count, slot = number / targets;
    uint32_t left = 0;
    for (uint32_t t = 0; t < targets; t++) left += !run->connections[slot * targets + t].lost;
    if (!run->routes || left < 2) return um__fail(run, "the connection broke: %s", why);
    if (slot == 0) run->result->lost_targets++;
    (void)close(connection->fd);
    connection->fd = -1;
    connection->lost = 1;
    connection->count = connection->first_sent = connection->received_len = 0;
    for (uint32_t w = 0; w < run->worker_count; w++) {
        if (!run->workers[w].outstanding || run->workers[w].connection != number) continue;
        run->workers[w].outstanding = 0;
        run->outstanding--;
        um__again(run, w, um__now_ns());
    }
    return 0;
}

/* The answer of worker w is here. Queue its next request, if there is to be one. */
static void um__complete(um__run *run, uint32_t w, const um__outcome *outcome, uint64_t now) {
    um_load_result *result = run->result;
    um__worker *worker = &run->workers[w];
    const int later = run->config->kind == UM_LOAD_REQUESTS && um__is_pushback(run->config->protocol, (int)outcome->status);
    const int there = run->routes && um__is_redirect(run->config->protocol, outcome->status);
    worker->outstanding = 0;
    run->outstanding--;
    run->last_answer_ns = now;
    result->statuses[outcome->status & 7]++;
    if (later || there) {
        result->backpressure += (uint64_t)later;
        result->redirects += (uint64_t)there;
        worker->resend = 1;
        uint32_t asked = run->connections[worker->connection].target;
        if (there && um__routes_target(run, w, 1) != asked) um__enqueue(run, w);    /* the map knows where */
        else um__again(run, w, now);
        return;
    }
    if (worker->sent_ns >= run->window_from_ns && run->window_open)
        um__record(worker->work == UM__WORK_INGEST ? &result->ingest : &result->query, now - worker->sent_ns);
    if (worker->work == UM__WORK_INGEST) {
        result->acked_requests++;
        result->stored += outcome->stored;
        result->duplicates += outcome->duplicates;
        result->refused += run->config->batch - outcome->stored - outcome->duplicates;
    } else if (worker->work == UM__WORK_QUERY) {
        result->queries++;
    } else {
        result->echoes++;
    }
    if (!um__may_send(run, now)) return;
    if (worker->work == UM__WORK_QUERY && run->config->query_pause_us) {
        worker->due_ns = now + run->config->query_pause_us * 1000ULL;
        run->due++;
    } else {
        um__enqueue(run, w);
    }
}

static int um__receive(um__run *run, um__connection *connection, uint32_t number) {
    const um_load_config *config = run->config;
    uint32_t header_len = config->protocol == 1 ? UM__ANSWER_V1 : UM__ANSWER_V2, at = 0;
    um__outcome outcome = {0};
    ssize_t got = recv(connection->fd, connection->received + connection->received_len, UM__RECEIVE_BYTES - connection->received_len, MSG_DONTWAIT);
    run->result->receives++;
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (got <= 0) return um__lose(run, number, got < 0 ? strerror(errno) : "the server closed it");
    connection->received_len += (uint32_t)got;
    uint64_t now = um__now_ns();
    if (config->kind == UM_LOAD_ECHO) {
        for (; connection->received_len - at >= config->echo_bytes && run->workers[number].outstanding; at += config->echo_bytes)
            um__complete(run, number, &outcome, now);
    }
    while (config->kind == UM_LOAD_REQUESTS && connection->received_len - at >= header_len) {
        const uint8_t *header = connection->received + at;
        uint32_t request_id, payload_len;
        memcpy(&request_id, header + (config->protocol == 1 ? 4 : 12), 4);
        memcpy(&payload_len, header + 8, 4);
        if (payload_len > UM__RECEIVE_BYTES - header_len) return um__fail(run, "an answer of %u bytes is more than the generator expects", payload_len);
        if (connection->received_len - at < header_len + payload_len) break;
        uint32_t w = UM__WORKER_OF(request_id);
        if (w >= run->worker_count || !run->workers[w].outstanding || run->workers[w].generation != request_id >> 13)
            return um__fail(run, "an answer with request id %u, which nobody asked", request_id);
        um__answer_read(config, run->workers[w].work, header, header + header_len, payload_len, &outcome);
        um__complete(run, w, &outcome, now);
        at += header_len + payload_len;
    }
    connection->received_len -= at;
    if (connection->received_len && at) memmove(connection->received, connection->received + at, connection->received_len);
    um__window(run, now);
    return 0;
}

/* Workers whose pause is over. Returns the milliseconds until the next is due, at most 100. */
static int um__wake_due(um__run *run, uint64_t now) {
    uint64_t wait_ns = 100000000;
    for (uint32_t w = 0; run->due && w < run->worker_count; w++) {
        um__worker *worker = &run->workers[w];
        if (!worker->due_ns) continue;
        if (worker->due_ns > now) {
            if (worker->due_ns - now < wait_ns) wait_ns = worker->due_ns - now;
            continue;
        }
        worker->due_ns = 0;
        run->due--;
        if (worker->resend || um__may_send(run, now)) um__enqueue(run, w);
    }
    return (int)((wait_ns + 999999) / 1000000);
}

static int um__turns(um__run *run) {
    struct epoll_event events[64];
    uint64_t now = um__now_ns(), slept_ns;
    uint64_t spin_until = 0;
    for (uint32_t w = 0; w < run->worker_count; w++)
        if (um__may_send(run, now)) um__enqueue(run, w);
    for (uint32_t c = 0; c < run->connection_count; c++)
        if (run->connections[c].count && um__flush(run, &run->connections[c], c)) return -1;
    run->last_answer_ns = now;
    while (run->outstanding || run->due) {
        now = um__now_ns();
        uint32_t woken = run->due;
        int wait_ms = um__wake_due(run, now);
        for (uint32_t c = 0; woken && c < run->connection_count; c++)
            if (run->connections[c].count && um__flush(run, &run->connections[c], c)) return -1;
        int spinning = run->config->spin_us && now < spin_until;
        int ready = epoll_wait(run->epoll, events, 64, spinning ? 0 : wait_ms);
        if (ready < 0 && errno != EINTR) return um__fail(run, "epoll_wait: %s", strerror(errno));
        if (!spinning) run->result->sleeps++;
        for (int i = 0; i < ready; i++) {
            if (events[i].data.u32 == run->connection_count) {
                um__routes_read(run);
                continue;
            }
            um__connection *connection = &run->connections[events[i].data.u32];
            if (connection->lost) continue;
            if ((events[i].events & ~(uint32_t)EPOLLOUT) && um__receive(run, connection, events[i].data.u32)) return -1;
            if (connection->count && um__flush(run, connection, events[i].data.u32)) return -1;
        }
        for (uint32_t c = 0; run->routes && ready > 0 && c < run->connection_count; c++)     /* an answer here, the next request there */
            if (run->connections[c].count && um__flush(run, &run->connections[c], c)) return -1;
        slept_ns = um__now_ns();
        if (ready > 0) spin_until = slept_ns + run->config->spin_us * 1000ULL;
        if (slept_ns - run->last_answer_ns > UM__DRAIN_NS) return um__fail(run, "no answer for 30 s with %u requests outstanding", run->outstanding);
    }
    um__window(run, um__now_ns());
    return 0;
}

static void um__release(um__run *run) {
    um__routes_close(run);
    for (uint32_t c = 0; run->connections && c < run->connection_count; c++) {
        if (run->connections[c].fd >= 0) (void)close(run->connections[c].fd);
        free(run->connections[c].queue);
        free(run->connections[c].received);
    }
    for (uint32_t w = 0; run->workers && w < run->worker_count; w++) free(run->workers[w].frame);
    free(run->connections);
    free(run->workers);
    if (run->epoll >= 0) (void)close(run->epoll);
}

static const char *um__config_fault(const um_load_config *config) {
    if (config->protocol != 1 && config->protocol != 2) return "protocol must be 1 or 2";
    if (!config->target_count || config->target_count > UM_LOAD_TARGETS_MAX) return "targets must be 1..16";
    if (config->target_count > 1 && !config->cluster) return "several targets are a cluster";
    if (config->routed && !config->cluster) return "only a cluster is routed";
    if (config->groups > UM__PARTITIONS) return "groups must be 0..256";
    if (config->kind == UM_LOAD_ECHO) return config->echo_bytes && config->ingest_workers ? NULL : "an echo needs bytes and workers";
    if (config->ingest_workers + config->query_workers == 0) return "no workers";
    if (config->ingest_workers > UM_LOAD_WORKERS_MAX || config->query_workers > UM_LOAD_WORKERS_MAX - config->ingest_workers) return "too many workers";
    if (config->ingest_workers && (!config->ingest_connections || config->ingest_connections > config->ingest_workers)) return "connections must be 1..workers";
    if (!config->batch || config->batch > 65536) return "batch must be 1..65536";
    if (!config->metrics || config->metrics > UM_LOAD_METRICS_MAX) return "metrics must be 1..100";
    if (!config->accounts) return "accounts must be at least 1";
    if (config->ids && config->protocol == 1) return "v1 has no event ids";
    return NULL;
}

int um_load_run(const um_load_config *config, um_load_result *result) {
    um__run run = {.config = config, .result = result, .epoll = -1};
    struct rusage before, after;
    int failed = -1;
    memset(result, 0, sizeof *result);
    const char *fault = um__config_fault(config);
    if (fault) {
        result->finished = 1;
        return um__fail(&run, "%s", fault);
    }
    run.worker_count = config->ingest_workers + (config->kind == UM_LOAD_ECHO ? 0 : config->query_workers);
    run.connection_count = config->kind == UM_LOAD_ECHO ? run.worker_count : (config->ingest_workers ? config->ingest_connections : 0) + config->query_workers;
    run.connection_count *= config->target_count;
    run.source.random = config->seed * 0x9E3779B97F4A7C15ULL | 1;
    run.workers = calloc(run.worker_count, sizeof *run.workers);
    run.connections = calloc(run.connection_count, sizeof *run.connections);
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    for (uint32_t c = 0; run.connections && c < run.connection_count; c++) {
        run.connections[c].fd = -1;
        run.connections[c].lost = 1;
    }
    if (!run.workers || !run.connections || run.epoll < 0) (void)um__fail(&run, "out of memory");
    else if (um__open(&run) == 0) {
        (void)getrusage(RUSAGE_THREAD, &before);
        run.start_ns = um__now_ns();
        run.window_from_ns = run.start_ns + config->warmup_ns;
        run.window_to_ns = run.window_from_ns + config->duration_ns;
        um__window(&run, run.start_ns);
        failed = um__turns(&run);
        (void)getrusage(RUSAGE_THREAD, &after);
        result->cpu_user_ns = (uint64_t)((after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000000L + (after.ru_utime.tv_usec - before.ru_utime.tv_usec) * 1000L);
        result->cpu_system_ns = (uint64_t)((after.ru_stime.tv_sec - before.ru_stime.tv_sec) * 1000000000L + (after.ru_stime.tv_usec - before.ru_stime.tv_usec) * 1000L);
    }
    um__release(&run);
    __atomic_store_n(&result->finished, 1, __ATOMIC_RELEASE);
    return failed;
}

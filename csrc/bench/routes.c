/* routes.c - who leads what: the partition map of a cluster, and where a worker's next frame goes.
 *
 * The map is v1's, whichever protocol the load speaks (a port speaks both): per partition the address of its leader.
 * It is asked for on a connection of its own, which the server from then on tells of every change; it is asked again
 * when an answer says that the map is wrong. Addresses that are not among the targets are nobody's: their partitions
 * get no load.
 *
 *   list     partitions whose accounts may stand in one batch: those of one node, or (config->groups) those of one group
 *   worker   draws from list (worker mod lists), or the next one that is not empty
 */
#define _GNU_SOURCE
#include "um__load.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define UM__MAP_ENTRY 96u
#define UM__MAP_ADDRESS 24u
#define UM__MAP_BYTES (UM__PARTITIONS * UM__MAP_ENTRY)
#define UM__MAP_PUSH 0x11u
#define UM__MAP_AGAIN_NS 20000000ULL
#define UM__MAP_TRIES 500u
#define UM__MAP_WAIT_S 5

static uint32_t um__target_named(const um_load_config *config, const uint8_t *address) {
    char wanted[UM__MAP_ADDRESS + 1] = {0}, name[80];
    memcpy(wanted, address, UM__MAP_ADDRESS);
    for (uint32_t t = 0; t < config->target_count; t++) {
        (void)snprintf(name, sizeof name, "%s:%u", config->targets[t].host, config->targets[t].port);
        if (!strcmp(name, wanted)) return t;
    }
    return UM__NOBODY;
}

static void um__routes_take(um__run *run, const uint8_t *map) {
    const um_load_config *config = run->config;
    um__routes *routes = run->routes;
    routes->list_count = config->groups ? config->groups : config->target_count;
    for (uint32_t l = 0; l < routes->list_count; l++) routes->lists[l].len = 0;
    for (uint32_t p = 0; p < UM__PARTITIONS; p++) {
        routes->leader[p] = (uint8_t)um__target_named(config, map + p * UM__MAP_ENTRY);
        if (routes->leader[p] == UM__NOBODY || (p ? p : UM__PARTITIONS) > config->accounts) continue;
        um__list *list = &routes->lists[config->groups ? p % config->groups : routes->leader[p]];
        list->partitions[list->len++] = (uint8_t)p;
    }
}

static void um__routes_hang_up(um__run *run) {
    if (run->routes->fd >= 0) (void)close(run->routes->fd);
    run->routes->fd = -1;
    run->routes->received_len = 0;
}

/* Connects to a target that answers, beginning behind the one that was asked last. */
static int um__routes_dial(um__run *run) {
    um__routes *routes = run->routes;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = run->connection_count};
    struct timeval patience = {.tv_sec = UM__MAP_WAIT_S};
    char first_error[sizeof run->result->error];
    memcpy(first_error, run->result->error, sizeof first_error);
    for (uint32_t n = 0; routes->fd < 0 && n < run->config->target_count; n++) {
        routes->target = (routes->target + 1) % run->config->target_count;
        routes->fd = um__connect(run, routes->target);
    }
    if (routes->fd < 0) return -1;
    (void)setsockopt(routes->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    memcpy(run->result->error, first_error, sizeof first_error);    /* that one of several is down is no error */
    return epoll_ctl(run->epoll, EPOLL_CTL_ADD, routes->fd, &event) ? um__fail(run, "epoll: %s", strerror(errno)) : 0;
}

void um__routes_ask(um__run *run, uint64_t now) {
    uint8_t frame[UM__HEADER_V1];
    um__routes *routes = run->routes;
    if (now - routes->asked_ns < UM__MAP_AGAIN_NS) return;
    routes->asked_ns = now;
    if (routes->fd < 0 && um__routes_dial(run)) return;
    if (send(routes->fd, frame, um__frame_map(frame), MSG_NOSIGNAL) != (ssize_t)UM__HEADER_V1) um__routes_hang_up(run);
}

/* The map, an error (still starting, say), or a push. Anything else is none of ours. */
void um__routes_read(um__run *run) {
    um__routes *routes = run->routes;
    uint32_t at = 0, len;
    ssize_t got = recv(routes->fd, routes->received + routes->received_len, UM__RECEIVE_BYTES - routes->received_len, 0);
    if (got <= 0) {
        um__routes_hang_up(run);
        return;
    }
    routes->received_len += (uint32_t)got;
    for (; routes->received_len - at >= UM__ANSWER_V1; at += UM__ANSWER_V1 + len) {
        const uint8_t *header = routes->received + at;
        memcpy(&len, header + 8, 4);
        if (len > UM__MAP_BYTES) {
            um__routes_hang_up(run);
            return;
        }
        if (routes->received_len - at < UM__ANSWER_V1 + len) break;
        if (len == UM__MAP_BYTES && (header[0] == 0 || header[0] == UM__MAP_PUSH)) um__routes_take(run, header + UM__ANSWER_V1);
    }
    routes->received_len -= at;
    if (at) memmove(routes->received, routes->received + at, routes->received_len);
}

int um__routes_open(um__run *run) {
    um__routes *routes = calloc(1, sizeof *routes);
    run->routes = routes;
    if (!routes) return um__fail(run, "out of memory");
    routes->fd = -1;
    routes->target = run->config->target_count - 1;
    routes->received = malloc(UM__RECEIVE_BYTES);
    if (!routes->received) return um__fail(run, "out of memory");
    memset(routes->leader, (int)UM__NOBODY, sizeof routes->leader);
    for (uint32_t tries = 0; tries < UM__MAP_TRIES && !routes->list_count; tries++) {
        if (routes->fd < 0 && um__routes_dial(run)) return -1;
        routes->asked_ns = 0;
        um__routes_ask(run, UM__MAP_AGAIN_NS);
        do
            if (routes->fd >= 0) um__routes_read(run);
        while (routes->fd >= 0 && routes->received_len);
        if (!routes->list_count) (void)usleep(UM__MAP_AGAIN_NS / 1000);
    }
    if (!routes->list_count) return um__fail(run, "no partition map from any of %u nodes", run->config->target_count);
    for (uint32_t l = 0; l < routes->list_count; l++)
        if (routes->lists[l].len) return 0;
    return um__fail(run, "none of the addresses leads anything: name nodes by the addresses that they tell clients");
}

void um__routes_close(um__run *run) {
    if (!run->routes) return;
    um__routes_hang_up(run);
    free(run->routes->received);
    free(run->routes);
    run->routes = NULL;
}

const um__list *um__routes_among(const um__run *run, uint32_t worker_number) {
    const um__routes *routes = run->routes;
    if (!routes || !run->config->routed || run->workers[worker_number].work != UM__WORK_INGEST) return NULL;
    for (uint32_t n = 0; n < routes->list_count; n++) {
        const um__list *list = &routes->lists[(worker_number + n) % routes->list_count];
        if (list->len) return list;
    }
    return NULL;
}

uint32_t um__routes_target(const um__run *run, uint32_t worker_number, int again) {
    const um__worker *worker = &run->workers[worker_number];
    const uint32_t targets = run->config->target_count;
    uint32_t target = worker_number % targets;
    if (run->routes && (run->config->routed || again)) {
        uint32_t leader = run->routes->leader[um__frame_account(run->config, worker) % UM__PARTITIONS];
        if (leader != UM__NOBODY) target = leader;
    }
    for (uint32_t n = 0; n < targets; n++, target = (target + 1) % targets)
        if (!run->connections[worker->slot * targets + target].lost) break;
    return target;
}

/* floor.c - the least that a durable meter must do per event, and nothing else: the yardstick of server CPU.
 *
 * One thread. A turn: wait for readable connections; per connection one recv, and per whole ingest frame (v1
 * or v2): check the header's magic and length, crc32c over the payload, copy the payload into an aligned
 * buffer, one update of an open-addressed hash table per event (key: account and metric; value: a count and a
 * sum). At the end of the turn one aligned O_DIRECT write of everything that was copied, synced with --sync;
 * then one send of the answers per connection. `unimeter bench load --server` drives it like a node.
 *
 * It answers metric puts, HELLO and OPEN_SESSION so that the generator's setup works. It does NOT detect duplicates,
 * check rows, keep time buckets or dimensions, survive anything, or answer queries.
 *
 *     floor PORT FILE [--sync]      CPU and counts on stdout at SIGTERM or SIGINT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

uint32_t um_crc32c(uint32_t crc, const uint8_t *data, uint64_t len);   /* csrc/kernels/crc32c.c, linked in */

#define LINKS_MAX 1024
#define RECEIVE_BYTES (1u << 20)
#define WRITE_BYTES (64u << 20)
#define FILE_BYTES (1u << 30)
#define BLOCK_BYTES 4096u
#define TABLE_SLOTS (1u << 20)
#define ANSWERS_BYTES 65536u

typedef struct { uint8_t *data; uint32_t len, answers_len; uint8_t *answers; } Link;
typedef struct { uint64_t key, count, sum, padding; } Slot;

static Link links[LINKS_MAX];
static Slot *table;
static uint8_t *out;
static uint64_t out_len, events, requests, written, turns;
static volatile sig_atomic_t over;

static void on_signal(int number) { (void)number; over = 1; }

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double seconds(struct timeval time) { return (double)time.tv_sec + (double)time.tv_usec / 1e6; }

static uint64_t mix(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static void count_event(uint64_t account, uint64_t metric, uint64_t value) {
    uint64_t key = mix(account ^ 0x9E3779B97F4A7C15ULL, metric ^ 0xA0761D6478BD642FULL) | 1;
    for (uint64_t i = key >> 40;; i++) {
        Slot *slot = &table[i & (TABLE_SLOTS - 1)];
        if (slot->key && slot->key != key) continue;
        slot->key = key;
        slot->count++;
        slot->sum += value;
        return;
    }
}

static uint64_t get64(const uint8_t *at) { uint64_t value; memcpy(&value, at, 8); return value; }
static uint32_t get32(const uint8_t *at) { uint32_t value; memcpy(&value, at, 4); return value; }

static void answer(Link *link, uint32_t protocol, uint32_t type, uint32_t request_id, const void *body, uint32_t body_len) {
    uint8_t head[32] = {0};
    uint32_t magic = 0xC0FFEE02u, head_len = protocol == 1 ? 12 : 32, crc;
    if (link->answers_len + head_len + body_len > ANSWERS_BYTES) fail("answers");
    memcpy(head + 8, &body_len, 4);
    if (protocol == 1) {
        memcpy(head + 4, &request_id, 4);
    } else {
        memcpy(head, &magic, 4);
        head[4] = 2;
        head[5] = (uint8_t)type;
        memcpy(head + 12, &request_id, 4);
        crc = um_crc32c(0, body, body_len);
        memcpy(head + 24, &crc, 4);
        crc = um_crc32c(0, head, 28);
        memcpy(head + 28, &crc, 4);
    }
    memcpy(link->answers + link->answers_len, head, head_len);
    if (body_len) memcpy(link->answers + link->answers_len + head_len, body, body_len);
    link->answers_len += head_len + body_len;
}

/* One whole frame. Returns 0, or -1 when it is not a protocol. */
static int take(Link *link, const uint8_t *frame, uint32_t head_len, uint32_t len) {
    uint32_t protocol = head_len == 16 ? 1 : 2, type = frame[5], request_id = get32(frame + 12), count, at, stride;
    const uint8_t *payload = frame + head_len;
    uint32_t counts[8] = {0};
    if (protocol == 1 && type == 0x20) return answer(link, 1, 0, request_id, NULL, 0), 0;
    if (protocol == 2 && type == 0x01) return answer(link, 2, type, request_id, "\x80", 1), 0;
    if (protocol == 1 ? type > 1 || len < 8 : type != 2 || len < 48) return -1;
    uint32_t crc = um_crc32c(0, payload, len);
    if (protocol == 2 && crc != get32(frame + 24)) return -1;
    if (protocol == 1) {
        count = get32(payload);
        at = 8;
        stride = 96;
    } else {
        count = get32(payload + 32);
        at = 48 + get32(payload + 44);
        stride = 32;
    }
    if ((uint64_t)at + (uint64_t)count * stride > len || out_len + len > WRITE_BYTES) return -1;
    memcpy(out + out_len, payload, len);
    out_len += len;
    for (uint32_t i = 0; i < count; i++, at += stride) {
        const uint8_t *row = payload + at;
        if (protocol == 1) count_event(get64(row + 64), get64(row), get64(row + 80));
        else count_event(get64(row), get32(row + 24) & 0xFFFF, get64(row + 16));
    }
    events += count;
    requests++;
    counts[0] = count;
    answer(link, protocol, type, request_id, counts, protocol == 1 ? 16 : 32);
    return 0;
}

static int receive(int fd) {
    Link *link = &links[fd];
    uint32_t at = 0;
    ssize_t got = recv(fd, link->data + link->len, RECEIVE_BYTES - link->len, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return 0;
    if (got <= 0) return -1;
    link->len += (uint32_t)got;
    while (link->len - at >= 16) {
        const uint8_t *frame = link->data + at;
        uint32_t head_len = get32(frame) == 0xC0FFEE01u ? 16 : get32(frame) == 0xC0FFEE02u ? 32 : 0, len = get32(frame + 8);
        if (!head_len || len > RECEIVE_BYTES - 32) return -1;
        if (link->len - at < head_len + len) break;
        if (take(link, frame, head_len, len)) return -1;
        at += head_len + len;
    }
    link->len -= at;
    if (link->len && at) memmove(link->data, link->data + at, link->len);
    return 0;
}

static void store(int file) {
    uint64_t len = (out_len + BLOCK_BYTES - 1) & ~(uint64_t)(BLOCK_BYTES - 1);
    if (!out_len) return;
    memset(out + out_len, 0, len - out_len);
    if (pwrite(file, out, len, (off_t)(written % (FILE_BYTES - WRITE_BYTES) & ~(uint64_t)(BLOCK_BYTES - 1))) != (ssize_t)len) fail("write");
    written += len;
    out_len = 0;
}

int main(int argc, char **argv) {
    if (argc < 3) return fprintf(stderr, "usage: floor PORT FILE [--sync]\n"), 2;
    int sync = argc > 3 && !strcmp(argv[3], "--sync"), one = 1;
    struct sigaction action = {.sa_handler = on_signal};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
    int file = open(argv[2], O_CREAT | O_RDWR | O_DIRECT | O_CLOEXEC | (sync ? O_DSYNC : 0), 0600);
    if (file < 0) fail(argv[2]);
    table = mmap(NULL, sizeof(Slot) * TABLE_SLOTS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    out = mmap(NULL, WRITE_BYTES + BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED || out == MAP_FAILED) fail("memory");
    for (uint64_t at = 0; at < FILE_BYTES; at += WRITE_BYTES)   /* real space: an unwritten extent costs metadata */
        if (pwrite(file, out, WRITE_BYTES, (off_t)at) != (ssize_t)WRITE_BYTES) fail("preparing the file");
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), epoll = epoll_create1(EPOLL_CLOEXEC);
    (void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 64)) fail("listen");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    (void)epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    struct rusage before, after;
    (void)getrusage(RUSAGE_SELF, &before);   /* preparing the file is not the floor's work */
    printf("ready 127.0.0.1:%s\n", argv[1]);
    (void)fflush(stdout);
    while (!over) {
        struct epoll_event ready[64];
        int touched[64], touched_count = 0;
        int n = epoll_wait(epoll, ready, 64, 1000);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener) {
                fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
                if (fd < 0 || fd >= LINKS_MAX) continue;
                (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                if (!links[fd].data) links[fd] = (Link){.data = malloc(RECEIVE_BYTES), .answers = malloc(ANSWERS_BYTES)};
                links[fd].len = links[fd].answers_len = 0;
                event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
                (void)epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
            } else if (receive(fd)) {
                (void)close(fd);
            } else {
                touched[touched_count++] = fd;
            }
        }
        store(file);
        for (int i = 0; i < touched_count; i++) {
            Link *link = &links[touched[i]];
            if (link->answers_len && send(touched[i], link->answers, link->answers_len, MSG_NOSIGNAL) != (ssize_t)link->answers_len) (void)shutdown(touched[i], SHUT_RDWR);
            link->answers_len = 0;
        }
        turns++;
    }
    (void)getrusage(RUSAGE_SELF, &after);
    double cpu_s = seconds(after.ru_utime) + seconds(after.ru_stime) - seconds(before.ru_utime) - seconds(before.ru_stime);
    printf("{\"events\": %llu, \"requests\": %llu, \"turns\": %llu, \"written_bytes\": %llu, \"cpu_s\": %.3f, \"cpu_ns_per_event\": %.1f}\n",
           (unsigned long long)events, (unsigned long long)requests, (unsigned long long)turns, (unsigned long long)written, cpu_s,
           events ? cpu_s * 1e9 / (double)events : 0.0);
    return 0;
}

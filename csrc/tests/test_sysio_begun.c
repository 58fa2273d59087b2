/* test_sysio_begun.c - claims over writes that no lane's thread does (csrc/sysio/begun.c): done when their second half returns, or when it
 * is told, whatever the disk can do.
 *
 * Usage: test_sysio_begun [directory to work in] */
#define _GNU_SOURCE
#include "sysio_fixture.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define FILE_BLOCKS 64u
#define ROUNDS 300

static uint64_t ops, tolds;

static void open_disk(uint32_t flags) {
    int32_t error = 0;
    disk = um_sys_open(directory, flags, &error);
    CHECK(disk && error == 0);
}

static um_sys_done submitted(uint32_t lane, uint32_t kind, const char *file, uint64_t offset, void *data, uint64_t length) {
    um_sys_done done;
    CHECK(um_sys_submit(disk, lane, kind, ++ops, file, offset, data, length));
    CHECK(drain(&done, 1) == 1 && done.op == ops);
    return done;
}

static um_sys_done begun(const char *file, uint64_t offset, uint8_t *data, uint64_t length) {
    um_sys_done done;
    CHECK(um_sys_write_begin(disk, ++ops, file, offset, data, length));
    memset(data, 0xee, length); /* it is the caller's again */
    um_sys_write_end(disk, &done);
    CHECK(done.op == ops && done.lane == UM_SYS_LANE_JOURNAL && done.kind == UM_SYS_WRITE);
    return done;
}

/* Told of when it is done; where the disk can't, the lane does it. */
static um_sys_done told(const char *file, uint64_t offset, uint8_t *data, uint64_t length) {
    um_sys_done done;
    if (!um_sys_write_told(disk, ++ops, file, offset, data, length)) return submitted(UM_SYS_LANE_JOURNAL, UM_SYS_WRITE, file, offset, data, length);
    tolds++;
    CHECK(!um_sys_write_told(disk, ops + 1, file, offset, data, length));
    CHECK(!um_sys_write_begin(disk, ops + 1, file, offset, data, BLOCK));
    CHECK(!um_sys_submit(disk, UM_SYS_LANE_JOURNAL, UM_SYS_WRITE, ops + 1, file, offset, data, length));
    CHECK(drain(&done, 1) == 1 && done.op == ops && done.lane == UM_SYS_LANE_JOURNAL && done.kind == UM_SYS_WRITE);
    return done;
}

static void is_read(const char *file, const uint8_t *expected, uint64_t length) {
    uint8_t *got = malloc(length);
    CHECK(got);
    um_sys_done done = submitted(UM_SYS_LANE_READ, UM_SYS_READ, file, 0, got, length);
    CHECK(done.bytes == length && memcmp(got, expected, length) == 0);
    free(got);
}

/* Of any length, at any place, from memory of any alignment, among those of the lane, beyond the end, with a file made anew. */
static void what_was_begun_is_there(unsigned seed) {
    const uint64_t size = FILE_BLOCKS * BLOCK;
    uint8_t *model = calloc(2, size), *data = NULL;
    CHECK(model && posix_memalign((void **)&data, BLOCK, UM_SYS_OWN_BYTES_MAX + 64) == 0);
    CHECK(submitted(UM_SYS_LANE_BULK, UM_SYS_CREATE, "a", 0, NULL, size / 2).status == UM_SYS_OK);
    uint64_t end = size / 2;
    for (int round = 0; round < ROUNDS; round++) {
        if (rand_r(&seed) % 50 == 0) {
            CHECK(submitted(UM_SYS_LANE_BULK, UM_SYS_CREATE, "a", 0, NULL, size / 2).status == UM_SYS_OK);
            memset(model, 0, 2 * size);
            end = size / 2;
        }
        uint64_t length = (1 + (uint64_t)rand_r(&seed) % (UM_SYS_OWN_BYTES_MAX / BLOCK)) * BLOCK;
        uint64_t offset = (uint64_t)rand_r(&seed) % FILE_BLOCKS * BLOCK;
        uint8_t *at = data + (rand_r(&seed) % 2 ? rand_r(&seed) % 64 : 0);
        for (uint64_t i = 0; i < length; i++) at[i] = (uint8_t)rand_r(&seed);
        memcpy(model + offset, at, length);
        if (offset + length > end) end = offset + length;
        int how = rand_r(&seed) % 5;
        um_sys_done done = how < 2   ? begun("a", offset, at, length)
                           : how < 4 ? told("a", offset, at, length)
                                     : submitted(UM_SYS_LANE_JOURNAL, UM_SYS_WRITE, "a", offset, at, length);
        CHECK(done.status == UM_SYS_OK && done.bytes == length && done.error == 0);
        is_read("a", model, end);
    }
    free(model);
    free(data);
}

static void what_cannot_be_written_is_told_at_the_end(void) {
    uint8_t *data = calloc(1, UM_SYS_OWN_BYTES_MAX + BLOCK);
    CHECK(data);
    um_sys_done done = begun("missing", 0, data, BLOCK);
    CHECK(done.status == UM_SYS_FAILED && done.error == ENOENT && done.bytes == 0);
    CHECK(submitted(UM_SYS_LANE_BULK, UM_SYS_CREATE, "b", 0, NULL, 4 * BLOCK).status == UM_SYS_OK);
    CHECK(begun("b", 1, data, BLOCK).error == EINVAL);
    CHECK(begun("b", 0, data, BLOCK - 1).error == EINVAL);
    CHECK(begun("b", 0, data, BLOCK).status == UM_SYS_OK);
    CHECK(!um_sys_write_begin(disk, ++ops, "b", 0, data, UM_SYS_OWN_BYTES_MAX + BLOCK));
    free(data);
}

/* Written half and refused, as by a disk that breaks: what the file holds is not known then. */
static void a_write_that_stops_half_way_failed(void) {
    struct rlimit before, little;
    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
    uint8_t *data = calloc(1, 4 * BLOCK);
    CHECK(data);
    CHECK(submitted(UM_SYS_LANE_BULK, UM_SYS_CREATE, "c", 0, NULL, 4 * BLOCK).status == UM_SYS_OK);
    CHECK(begun("c", 0, data, 4 * BLOCK).status == UM_SYS_OK); /* its file is open, its blocks are written */
    uint8_t *aligned = NULL;
    CHECK(posix_memalign((void **)&aligned, BLOCK, 4 * BLOCK) == 0);
    memset(aligned, 1, 4 * BLOCK);
    little = (struct rlimit){2 * BLOCK, before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    CHECK(setrlimit(RLIMIT_FSIZE, &little) == 0);
    um_sys_done done = begun("c", 0, data, 4 * BLOCK);
    um_sys_done beyond = begun("c", 2 * BLOCK, data, BLOCK), half = told("c", 0, aligned, 4 * BLOCK);
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK(done.status == UM_SYS_FAILED && done.error == EFBIG);
    CHECK(beyond.status == UM_SYS_FAILED && beyond.error == EFBIG);
    CHECK(half.status == UM_SYS_FAILED && half.error == EFBIG);
    free(aligned);
    CHECK(begun("c", 0, data, 4 * BLOCK).status == UM_SYS_OK);
    free(data);
}

static void a_lane_at_work_is_not_the_callers(void) {
    static uint8_t data[BLOCK];
    CHECK(submitted(UM_SYS_LANE_BULK, UM_SYS_CREATE, "d", 0, NULL, 4 * BLOCK).status == UM_SYS_OK);
    um_sys_done done;
    CHECK(um_sys_submit(disk, UM_SYS_LANE_JOURNAL, UM_SYS_WRITE, ++ops, "d", 0, data, BLOCK));
    CHECK(!um_sys_write_begin(disk, ++ops, "d", 0, data, BLOCK)); /* under way, or not drained yet */
    CHECK(drain(&done, 1) == 1 && done.status == UM_SYS_OK);
    CHECK(begun("d", 0, data, BLOCK).status == UM_SYS_OK);
}

/* What was accepted is finished before the disk is closed. */
static void a_disk_is_closed_after_what_it_writes(uint32_t flags) {
    uint8_t *data = NULL;
    CHECK(posix_memalign((void **)&data, BLOCK, 8 * BLOCK) == 0);
    CHECK(submitted(UM_SYS_LANE_BULK, UM_SYS_CREATE, "f", 0, NULL, 8 * BLOCK).status == UM_SYS_OK);
    memset(data, 0, 8 * BLOCK);
    CHECK(submitted(UM_SYS_LANE_JOURNAL, UM_SYS_WRITE, "f", 0, data, 8 * BLOCK).status == UM_SYS_OK);
    memset(data, 0x77, 8 * BLOCK);
    int accepted = um_sys_write_told(disk, ++ops, "f", 0, data, 8 * BLOCK);
    CHECK(accepted || flags == UM_SYS_FLAG_BUFFERED || !um_sys_is_direct(disk) || !tolds);
    um_sys_close(disk);
    open_disk(flags);
    if (accepted) is_read("f", data, 8 * BLOCK);
    free(data);
}

static void ignore(int number) { (void)number; }

/* Signals that come all the time do not end the wait. */
static void a_signal_is_no_end(void) {
    static uint8_t data[BLOCK];
    struct sigaction action = {.sa_handler = ignore}, before;
    CHECK(sigaction(SIGALRM, &action, &before) == 0);
    timer_t timer;
    CHECK(timer_create(CLOCK_MONOTONIC, NULL, &timer) == 0);
    struct itimerspec often = {{0, 20000}, {0, 20000}}, never = {{0, 0}, {0, 0}};
    CHECK(submitted(UM_SYS_LANE_BULK, UM_SYS_CREATE, "e", 0, NULL, 4 * BLOCK).status == UM_SYS_OK);
    CHECK(timer_settime(timer, 0, &often, NULL) == 0);
    for (int i = 0; i < ROUNDS; i++) CHECK(begun("e", 0, data, BLOCK).status == UM_SYS_OK);
    CHECK(timer_settime(timer, 0, &never, NULL) == 0);
    timer_delete(timer);
    CHECK(sigaction(SIGALRM, &before, NULL) == 0);
}

int main(int argc, char **argv) {
    make_directory(argc, argv);
    const uint32_t flags[] = {0, UM_SYS_FLAG_BUFFERED};
    for (unsigned i = 0; i < 2; i++) {
        open_disk(flags[i]);
        what_was_begun_is_there(i);
        what_cannot_be_written_is_told_at_the_end();
        a_write_that_stops_half_way_failed();
        a_lane_at_work_is_not_the_callers();
        a_signal_is_no_end();
        a_disk_is_closed_after_what_it_writes(flags[i]);
        CHECK(flags[i] == UM_SYS_FLAG_BUFFERED || !um_sys_is_direct(disk) || tolds); /* a kernel without AIO would be news */
        um_sys_close(disk);
    }
    remove_directory();
    printf("test_sysio_begun: ok\n");
    return 0;
}

/* test_sysio.c - claims over the lanes and file operations of csrc/sysio, on a temporary directory.
 *
 * Runs under ASan and UBSan, and under TSan for the ring. Usage: test_sysio [directory to work in]
 */
#define _GNU_SOURCE
#include "sysio_fixture.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

static um_sys_done one(uint32_t lane, uint32_t kind, const char *file, uint64_t offset, void *data, uint64_t length) {
    static uint64_t op = 1000;
    um_sys_done done;
    CHECK(um_sys_submit(disk, lane, kind, ++op, file, offset, data, length));
    CHECK(drain(&done, 1) == 1);
    CHECK(done.op == op && done.kind == kind && done.lane == lane);
    CHECK((done.status == UM_SYS_OK) == (done.error == 0));
    return done;
}

static uint64_t size_of(const char *file) {
    char path[512];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", directory, file);
    return stat(path, &st) ? UINT64_MAX : (uint64_t)st.st_size;
}

static uint8_t *block_of(uint8_t byte, uint64_t length, uint64_t misalign) {
    uint8_t *p = NULL;
    CHECK(posix_memalign((void **)&p, BLOCK, length + BLOCK) == 0);
    memset(p + misalign, byte, length);
    return p;
}

static void created_file_is_zero_and_survives_reading(void) {
    CHECK(one(UM_SYS_LANE_BULK, UM_SYS_CREATE, "journal/a", 0, NULL, 3u << 20).status == UM_SYS_OK);
    CHECK(size_of("journal/a") == 3u << 20);
    uint8_t *got = block_of(0xff, 3u << 20, 0);
    um_sys_done done = one(UM_SYS_LANE_READ, UM_SYS_READ, "journal/a", 0, got, 3u << 20);
    CHECK(done.bytes == 3u << 20);
    for (uint32_t i = 0; i < 3u << 20; i++) CHECK(got[i] == 0);
    free(got);
}

static void write_is_read_back_from_aligned_and_unaligned_memory(void) {
    for (uint64_t misalign = 0; misalign < 3; misalign++) {
        uint64_t length = (5u << 20) + BLOCK; /* longer than the bounce buffer */
        CHECK(one(UM_SYS_LANE_BULK, UM_SYS_CREATE, "b", 0, NULL, 2 * BLOCK).status == UM_SYS_OK);
        uint8_t *data = block_of((uint8_t)(0x11 * (misalign + 1)), length, misalign), *got = block_of(0, length, 0);
        data[misalign + length - 1] = 0x77;
        um_sys_done done = one(UM_SYS_LANE_JOURNAL, UM_SYS_WRITE, "b", BLOCK, data + misalign, length);
        CHECK(done.status == UM_SYS_OK && done.bytes == length && size_of("b") == BLOCK + length);
        done = one(UM_SYS_LANE_READ, UM_SYS_READ, "b", BLOCK, got, length);
        CHECK(done.bytes == length && memcmp(got, data + misalign, length) == 0);
        free(data);
        free(got);
    }
}

static void read_is_short_only_at_the_end(void) {
    uint8_t *got = block_of(1, 4 * BLOCK, 0);
    CHECK(one(UM_SYS_LANE_BULK, UM_SYS_CREATE, "short", 0, NULL, 2 * BLOCK).status == UM_SYS_OK);
    CHECK(one(UM_SYS_LANE_READ, UM_SYS_READ, "short", BLOCK, got, 3 * BLOCK).bytes == BLOCK);
    CHECK(one(UM_SYS_LANE_READ, UM_SYS_READ, "short", 8 * BLOCK, got, BLOCK).bytes == 0);
    free(got);
}

static void refusals_name_their_error(void) {
    uint8_t *data = block_of(1, BLOCK, 0);
    um_sys_done done = one(UM_SYS_LANE_JOURNAL, UM_SYS_WRITE, "missing", 0, data, BLOCK);
    CHECK(done.status == UM_SYS_FAILED && done.error == ENOENT && size_of("missing") == UINT64_MAX);
    done = one(UM_SYS_LANE_READ, UM_SYS_READ, "missing", 0, data, BLOCK);
    CHECK(done.status == UM_SYS_FAILED && done.error == ENOENT);
    done = one(UM_SYS_LANE_JOURNAL, UM_SYS_WRITE, "b", 1, data, BLOCK);
    CHECK(done.status == UM_SYS_FAILED && done.error == EINVAL);
    done = one(UM_SYS_LANE_BULK, 99, "b", 0, data, BLOCK);
    CHECK(done.status == UM_SYS_FAILED && done.error == EINVAL);
    CHECK(one(UM_SYS_LANE_BULK, UM_SYS_DELETE, "missing", 0, NULL, 0).status == UM_SYS_OK);
    CHECK(one(UM_SYS_LANE_BULK, UM_SYS_DELETE, "no/such/directory", 0, NULL, 0).status == UM_SYS_OK);
    free(data);
}

/* A lane keeps files open; a name that was deleted and made anew must not reach the old file. */
static void deleted_and_remade_file_is_the_new_one_for_every_lane(void) {
    uint8_t *data = block_of(0x42, BLOCK, 0), *got = block_of(0, BLOCK, 0);
    for (int round = 0; round < 3; round++) {
        CHECK(one(UM_SYS_LANE_BULK, UM_SYS_CREATE, "again", 0, NULL, BLOCK).status == UM_SYS_OK);
        CHECK(one(UM_SYS_LANE_READ, UM_SYS_READ, "again", 0, got, BLOCK).status == UM_SYS_OK && got[0] == 0);
        CHECK(one(UM_SYS_LANE_JOURNAL, UM_SYS_WRITE, "again", 0, data, BLOCK).status == UM_SYS_OK);
        CHECK(one(UM_SYS_LANE_READ, UM_SYS_READ, "again", 0, got, BLOCK).status == UM_SYS_OK && got[0] == 0x42);
        CHECK(one(UM_SYS_LANE_BULK, UM_SYS_DELETE, "again", 0, NULL, 0).status == UM_SYS_OK);
        CHECK(size_of("again") == UINT64_MAX);
        CHECK(one(UM_SYS_LANE_READ, UM_SYS_READ, "again", 0, got, BLOCK).error == ENOENT);
    }
    free(data);
    free(got);
}

static void more_files_than_handles_are_fine(void) {
    uint8_t *data = block_of(0, BLOCK, 0), *got = block_of(0, BLOCK, 0);
    char name[16];
    for (int round = 0; round < 2; round++)
        for (uint8_t i = 0; i < 20; i++) {
            snprintf(name, sizeof name, "many/%u", i);
            if (!round) CHECK(one(UM_SYS_LANE_BULK, UM_SYS_CREATE, name, 0, NULL, BLOCK).status == UM_SYS_OK);
            memset(data, i + 1, BLOCK);
            CHECK(one(UM_SYS_LANE_JOURNAL, UM_SYS_WRITE, name, 0, data, BLOCK).status == UM_SYS_OK);
            CHECK(one(UM_SYS_LANE_READ, UM_SYS_READ, name, 0, got, BLOCK).status == UM_SYS_OK);
            CHECK(got[BLOCK - 1] == i + 1);
        }
    free(data);
    free(got);
}

static void full_ring_refuses_and_everything_accepted_completes_once_in_order(void) {
    uint8_t *data = block_of(9, BLOCK, 0);
    CHECK(one(UM_SYS_LANE_BULK, UM_SYS_CREATE, "ring", 0, NULL, 64 * BLOCK).status == UM_SYS_OK);
    uint64_t submitted = 0, seen = 0, refused = 0;
    um_sys_done done[7];
    while (seen < 3000) {
        while (submitted < 3000 && um_sys_submit(disk, UM_SYS_LANE_READ, UM_SYS_READ, submitted, "ring", 0, data, BLOCK))
            submitted++;
        refused += submitted < 3000;
        CHECK(submitted - seen <= UM_SYS_DEPTH);
        uint32_t n = drain(done, 7);
        for (uint32_t i = 0; i < n; i++) CHECK(done[i].op == seen++ && done[i].status == UM_SYS_OK);
    }
    CHECK(refused > 0);
    CHECK(um_sys_drain(disk, done, 7) == 0);
    free(data);
}

/* RLIMIT_FSIZE stands in for a disk that refuses: an error that is not "full" is FAILED. */
static void file_size_limit_fails_and_leaves_no_half_made_file(void) {
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit before, small;
    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
    small = before;
    small.rlim_cur = 1u << 20;
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    um_sys_done done = one(UM_SYS_LANE_BULK, UM_SYS_CREATE, "big", 0, NULL, 2u << 20);
    CHECK(done.status == UM_SYS_FAILED && done.error == EFBIG && size_of("big") == UINT64_MAX);
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK(one(UM_SYS_LANE_BULK, UM_SYS_CREATE, "big", 0, NULL, 2u << 20).status == UM_SYS_OK);
}

static void close_finishes_what_was_submitted(void) {
    uint8_t *data = block_of(0x33, BLOCK, 0);
    CHECK(one(UM_SYS_LANE_BULK, UM_SYS_CREATE, "last", 0, NULL, 64 * BLOCK).status == UM_SYS_OK);
    for (uint64_t i = 0; i < 64; i++)
        CHECK(um_sys_submit(disk, UM_SYS_LANE_JOURNAL, UM_SYS_WRITE, i, "last", i * BLOCK, data, BLOCK));
    um_sys_close(disk);
    char path[512];
    snprintf(path, sizeof path, "%s/last", directory);
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    uint8_t byte;
    for (int i = 0; i < 64; i++) CHECK(pread(fd, &byte, 1, (off_t)i * BLOCK + 7) == 1 && byte == 0x33);
    close(fd);
    free(data);
}

static void probe_measures_and_leaves_nothing(void) {
    char path[512];
    uint64_t ns[20] = {0};
    snprintf(path, sizeof path, "%s/probe", directory);
    CHECK(um_sys_probe_write(path, BLOCK, 20, ns) >= 0);
    for (int i = 0; i < 20; i++) CHECK(ns[i] > 0);
    CHECK(size_of("probe") == UINT64_MAX);
    CHECK(um_sys_probe_write(path, 100, 20, ns) == -EINVAL);
}

static void all(uint32_t flags) {
    int32_t error = 0;
    disk = um_sys_open(directory, flags, &error);
    CHECK(disk && error == 0);
    if (flags & UM_SYS_FLAG_BUFFERED) CHECK(!um_sys_is_direct(disk));
    created_file_is_zero_and_survives_reading();
    write_is_read_back_from_aligned_and_unaligned_memory();
    read_is_short_only_at_the_end();
    refusals_name_their_error();
    deleted_and_remade_file_is_the_new_one_for_every_lane();
    more_files_than_handles_are_fine();
    full_ring_refuses_and_everything_accepted_completes_once_in_order();
    file_size_limit_fails_and_leaves_no_half_made_file();
    close_finishes_what_was_submitted();
}

int main(int argc, char **argv) {
    make_directory(argc, argv);
    int32_t error = 0;
    CHECK(um_sys_open("/no/such/directory", 0, &error) == NULL && error == ENOENT);
    all(0);
    all(UM_SYS_FLAG_BUFFERED);
    probe_measures_and_leaves_nothing();
    remove_directory();
    puts("test_sysio: ok");
    return 0;
}

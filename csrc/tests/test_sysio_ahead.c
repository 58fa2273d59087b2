/* test_sysio_ahead.c - claims over the zeros that are written ahead of the journal (csrc/sysio/ahead.c).
 *
 * Where the file system does not tell which blocks are only reserved, no zeros are written and the claims over their
 * coming are not made. Usage: test_sysio_ahead [directory to work in]
 */
#define _GNU_SOURCE
#include "sysio_fixture.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>

#define SEGMENT (6u << 20)
#define PIECE (256u << 10) /* of zeros */
#define FILES 3
#define ROUNDS 40
#define BLOCKS 6

static uint64_t ops;
static int tells; /* which blocks are only reserved */

static void path_of(const char *file, char *path) { snprintf(path, 512, "%s/%s", directory, file); }

static void open_disk(uint32_t flags) {
    int32_t error = 0;
    disk = um_sys_open(directory, flags, &error);
    CHECK(disk && error == 0);
}

static void create(const char *file) {
    um_sys_done done;
    CHECK(um_sys_submit(disk, UM_SYS_LANE_BULK, UM_SYS_CREATE, ++ops, file, 0, NULL, SEGMENT));
    CHECK(drain(&done, 1) == 1 && done.status == UM_SYS_OK);
}

/* In this thread. */
static void write_own(const char *file, uint64_t offset, void *data, uint64_t length, um_sys_done *done) {
    CHECK(um_sys_write_begin(disk, ++ops, file, offset, data, length));
    um_sys_write_end(disk, done);
    CHECK(done->op == ops);
}

/* Where the first block is that was never written, from `offset` on. */
static uint64_t first_hole(const char *file, uint64_t offset) {
    char path[512];
    path_of(file, path);
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    off_t hole = lseek(fd, (off_t)offset, SEEK_HOLE);
    close(fd);
    CHECK(hole >= 0);
    return (uint64_t)hole;
}

static void await_no_hole(const char *file, uint64_t offset) {
    time_t until = time(NULL) + 10;
    while (tells && first_hole(file, offset) < SEGMENT) CHECK(time(NULL) < until);
}

static void find_out_whether_it_tells(void) {
    char path[512];
    path_of("tells", path);
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0);
    tells = fallocate(fd, 0, 0, SEGMENT) == 0 && fsync(fd) == 0 && lseek(fd, 0, SEEK_HOLE) == 0;
    close(fd);
    unlink(path);
    if (!tells) fprintf(stderr, "this file system does not tell what is only reserved: some claims are not made\n");
}

static void zeros_follow_a_create(void) {
    create("a");
    create("b"); /* two have their turn */
    await_no_hole("a", 0);
    await_no_hole("b", 0);
}

/* While the zeros are busy with another file, a block in a new one brings its own, up to what is there already. */
static void what_meets_reserved_blocks_brings_zeros(void) {
    uint8_t *data = NULL, *got = NULL;
    CHECK(posix_memalign((void **)&data, BLOCK, BLOCK) == 0 && posix_memalign((void **)&got, BLOCK, SEGMENT) == 0);
    memset(data, 0x5a, BLOCK);
    create("other");
    create("bare");
    const uint64_t at[] = {50 * BLOCK, 0};
    um_sys_done done;
    for (int i = 0; i < 2; i++) {
        write_own("bare", at[i], data, BLOCK, &done);
        CHECK(done.status == UM_SYS_OK && done.bytes == BLOCK);
        if (tells) CHECK(first_hole("bare", at[i]) >= at[0] + PIECE);
    }
    CHECK(um_sys_submit(disk, UM_SYS_LANE_READ, UM_SYS_READ, ++ops, "bare", 0, got, SEGMENT));
    CHECK(drain(&done, 1) == 1 && done.bytes == SEGMENT);
    for (uint64_t i = 0; i < SEGMENT; i++) CHECK(got[i] == (i < BLOCK || i / BLOCK == 50 ? 0x5a : 0));
    free(data);
    free(got);
}

static uint8_t mark(uint64_t block) { return (uint8_t)(1 + block % 251); }

/* Journal writes of random lengths, some in the caller's thread, while zeros are written to the same files. */
static void no_zero_lands_on_data(unsigned seed) {
    char name[FILES][16];
    uint8_t *data = NULL, *got = NULL;
    CHECK(posix_memalign((void **)&data, BLOCK, SEGMENT) == 0 && posix_memalign((void **)&got, BLOCK, SEGMENT) == 0);
    for (uint64_t i = 0; i < SEGMENT; i++) data[i] = mark(i / BLOCK);
    for (int i = 0; i < FILES; i++) {
        snprintf(name[i], sizeof name[i], "s%d", i);
        create(name[i]);
    }
    uint64_t offset[FILES] = {0};
    for (int left = FILES; left;) {
        int i = rand_r(&seed) % FILES;
        if (offset[i] == SEGMENT) continue;
        uint64_t length = (1 + (uint64_t)rand_r(&seed) % (rand_r(&seed) % 8 ? 4 : 128)) * BLOCK;
        if (length > SEGMENT - offset[i]) length = SEGMENT - offset[i];
        um_sys_done done;
        int how = rand_r(&seed) % 3;
        if (how == 0 && length <= UM_SYS_OWN_BYTES_MAX) {
            write_own(name[i], offset[i], data + offset[i], length, &done);
        } else {
            if (how != 1 || !um_sys_write_told(disk, ++ops, name[i], offset[i], data + offset[i], length))
                CHECK(um_sys_submit(disk, UM_SYS_LANE_JOURNAL, UM_SYS_WRITE, ++ops, name[i], offset[i], data + offset[i], length));
            CHECK(drain(&done, 1) == 1);
        }
        CHECK(done.status == UM_SYS_OK);
        offset[i] += length;
        if (offset[i] == SEGMENT) left--;
    }
    for (int i = 0; i < FILES; i++) {
        um_sys_done done;
        CHECK(um_sys_submit(disk, UM_SYS_LANE_READ, UM_SYS_READ, ++ops, name[i], 0, got, SEGMENT));
        CHECK(drain(&done, 1) == 1 && done.bytes == SEGMENT);
        for (uint64_t block = 0; block < SEGMENT / BLOCK; block++) CHECK(got[block * BLOCK] == mark(block));
        CHECK(memcmp(got, data, SEGMENT) == 0);
        CHECK(um_sys_submit(disk, UM_SYS_LANE_BULK, UM_SYS_DELETE, ++ops, name[i], 0, NULL, 0));
        CHECK(drain(&done, 1) == 1 && done.status == UM_SYS_OK);
    }
    free(data);
    free(got);
}

/* Single blocks into the very piece that is being written, or is about to be. */
static void no_zero_lands_on_a_block_in_its_way(unsigned seed) {
    uint8_t *data = NULL, *got = NULL;
    CHECK(posix_memalign((void **)&data, BLOCK, BLOCK) == 0 && posix_memalign((void **)&got, BLOCK, BLOCK) == 0);
    memset(data, 0x5a, BLOCK);
    for (int round = 0; round < ROUNDS; round++) {
        create("way");
        uint64_t at[BLOCKS];
        um_sys_done done;
        for (int i = 0; i < BLOCKS; i++) {
            at[i] = (uint64_t)rand_r(&seed) % (SEGMENT / BLOCK / 2) * BLOCK;
            write_own("way", at[i], data, BLOCK, &done);
            CHECK(done.status == UM_SYS_OK);
        }
        await_no_hole("way", SEGMENT - BLOCK);
        for (int i = 0; i < BLOCKS; i++) {
            CHECK(um_sys_submit(disk, UM_SYS_LANE_READ, UM_SYS_READ, ++ops, "way", at[i], got, BLOCK));
            CHECK(drain(&done, 1) == 1 && done.bytes == BLOCK && memcmp(got, data, BLOCK) == 0);
        }
    }
    free(data);
    free(got);
}

static void a_file_from_before_gets_its_zeros(uint32_t flags) {
    create("old");
    um_sys_close(disk);
    open_disk(flags);
    uint8_t *block = NULL;
    CHECK(posix_memalign((void **)&block, BLOCK, BLOCK) == 0);
    memset(block, 7, BLOCK);
    um_sys_done done;
    uint64_t at = SEGMENT / 2;
    CHECK(um_sys_submit(disk, UM_SYS_LANE_JOURNAL, UM_SYS_WRITE, ++ops, "old", at, block, BLOCK));
    CHECK(drain(&done, 1) == 1 && done.status == UM_SYS_OK);
    await_no_hole("old", at + (128u << 10)); /* close behind the writer none are written */
    CHECK(um_sys_submit(disk, UM_SYS_LANE_READ, UM_SYS_READ, ++ops, "old", at, block, BLOCK));
    CHECK(drain(&done, 1) == 1 && done.bytes == BLOCK && block[0] == 7 && block[BLOCK - 1] == 7);
    free(block);
}

static void all(uint32_t flags) {
    open_disk(flags);
    zeros_follow_a_create();
    what_meets_reserved_blocks_brings_zeros();
    for (unsigned seed = 1; seed <= 3; seed++) no_zero_lands_on_data(seed);
    no_zero_lands_on_a_block_in_its_way(7);
    a_file_from_before_gets_its_zeros(flags);
    um_sys_close(disk);
    remove_directory();
}

int main(int argc, char **argv) {
    make_directory(argc, argv);
    find_out_whether_it_tells();
    all(0);
    make_directory(argc, argv);
    all(UM_SYS_FLAG_BUFFERED);
    puts("test_sysio_ahead: ok");
    return 0;
}

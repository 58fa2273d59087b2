/* sysio_fixture.h - what the tests of csrc/sysio share: a check that names its line, a directory, a disk in it. */
#ifndef SYSIO_FIXTURE_H
#define SYSIO_FIXTURE_H
#include "um_sysio.h"
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define BLOCK UM_SYS_BLOCK_BYTES
#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)

static char directory[256];
static um_sys_disk *disk;

/* A new directory below the first argument, TMPDIR or /tmp. */
static void make_directory(int argc, char **argv) {
    const char *base = argc > 1 ? argv[1] : getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    snprintf(directory, sizeof directory, "%s/um-test-sysio-XXXXXX", base);
    CHECK(mkdtemp(directory));
}

static void remove_directory(void) {
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    CHECK(system(command) == 0);
}

/* Wait for the next completions; never longer than ten seconds. */
static uint32_t drain(um_sys_done *out, uint32_t max) {
    for (;;) {
        struct pollfd p = {um_sys_eventfd(disk), POLLIN, 0};
        CHECK(poll(&p, 1, 10000) == 1);
        uint32_t n = um_sys_drain(disk, out, max);
        if (n) return n;
    }
}
#endif

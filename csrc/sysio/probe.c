/* probe.c - what this machine's disk can do, measured the way the journal writes: aligned, synced, one
 * after another, each into blocks that have been written before. For benchmarks, which print it next to
 * what the node makes of it. Blocks the caller.
 */
#define _GNU_SOURCE
#include "um__sys.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define UM__PROBE_FILE_BYTES (32ull << 20)   /* the file is written round and round */

static int um__probe_fill(int fd, const void *zeros, uint64_t bytes, uint64_t count) {
    for (uint64_t i = 0; i < count; i++)
        if (pwrite(fd, zeros, bytes, (off_t)(i * bytes)) != (ssize_t)bytes) return errno ? -errno : -EIO;
    return fsync(fd) ? -errno : 0;
}

int um_sys_probe_write(const char *path, uint64_t bytes, uint32_t count, uint64_t *out_ns) {
    if (bytes == 0 || bytes % UM_SYS_BLOCK_BYTES) return -EINVAL;
    uint64_t rounds = UM__PROBE_FILE_BYTES / bytes;
    if (rounds > count) rounds = count;
    if (rounds == 0) rounds = 1;
    void *data = um__map(bytes);
    if (!data) return -ENOMEM;
    int direct = 1, result = 0;
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) result = -errno;
    else {
        result = um__probe_fill(fd, data, bytes, rounds);
        close(fd);
    }
    if (!result) {
        memset(data, 0x5a, bytes);
        fd = open(path, O_RDWR | O_CLOEXEC | O_DSYNC | O_DIRECT);
        if (fd < 0 && errno == EINVAL) {
            direct = 0;
            fd = open(path, O_RDWR | O_CLOEXEC | O_DSYNC);
        }
        if (fd < 0) result = -errno;
        for (uint32_t i = 0; !result && i < count; i++) {
            uint64_t before = um__now_ns();
            ssize_t n = pwrite(fd, data, bytes, (off_t)(i % rounds * bytes));
            out_ns[i] = um__now_ns() - before;
            if (n != (ssize_t)bytes) result = n < 0 ? -errno : -EIO;
        }
        if (fd >= 0) close(fd);
    }
    unlink(path);
    munmap(data, bytes);
    return result ? result : direct;
}

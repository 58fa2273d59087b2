/* file.c - the four file operations, each durable when it returns.
 *
 * Write. Files are opened O_DIRECT | O_DSYNC: one pwrite is on the device when it returns, the page cache
 * is neither filled nor flushed, and an overwrite of blocks that were really written before (not merely
 * reserved) needs no metadata, hence no file system journal commit. Where O_DIRECT is refused (tmpfs, some
 * network file systems) the same code runs buffered: O_DSYNC then means write, then fdatasync.
 *
 * Create. Space is reserved, so that a full disk is found out before anything is written; then file, and directory,
 * are synced. Real zeros follow (ahead.c), because a reserved block is turned into a written one by metadata at its
 * first write; where space cannot be reserved they are written at once. Whatever fails, no half-made file is left behind.
 *
 * A full disk (ENOSPC, EDQUOT) is the one error that leaves a file as it was: what a growing write had
 * appended is cut off again. Where it cannot be undone (an existing part was overwritten, as copy-on-write
 * file systems may do) it is FAILED like everything else. A sync is never repeated.
 *
 * Reads go through the page cache: the parts of the archive that queries touch are touched again. The
 * kernel drops cached pages of a range that is written with O_DIRECT, so a read that starts after a write
 * was done sees it.
 */
#define _GNU_SOURCE
#include "um__sys.h"
#include <errno.h>
#include <fcntl.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define UM__FILE_MODE 0640
#define UM__DIRECTORY_MODE 0750

uint64_t um__now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void *um__map(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void um_sys_keep_memory(uint64_t large_bytes, uint64_t spare_bytes) {
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, (int)large_bytes);
    mallopt(M_TRIM_THRESHOLD, (int)spare_bytes);
#else
    (void)large_bytes, (void)spare_bytes;
#endif
}

static um__outcome um__ok(uint64_t bytes) { return (um__outcome){UM_SYS_OK, 0, bytes}; }
static um__outcome um__failed(int error) { return (um__outcome){UM_SYS_FAILED, error, 0}; }
static um__outcome um__no_space(int error) { return (um__outcome){UM_SYS_NO_SPACE, error, 0}; }
static int um__is_full(int error) { return error == ENOSPC || error == EDQUOT; }

/* ---- open files ---- */

void um__files_init(um__files *f, um__root *root, uint32_t lane) {
    memset(f, 0, sizeof *f);
    f->root = root;
    f->lane = lane;
}

static void um__forget(um__files *f) {
    for (int i = 0; i < UM__HANDLES; i++)
        if (f->handles[i].used) {
            close(f->handles[i].fd);
            f->handles[i].used = 0;
        }
}

void um__files_close(um__files *f) {
    um__begun_close(f);
    um__forget(f);
    if (f->stage) munmap(f->stage, UM__STAGE_BYTES);
    f->stage = NULL;
}

/* A segment from before this process: it may lack zeros. */
static void um__adopt(um__files *f, const um__handle *h, uint64_t offset) {
    off_t hole = offset < h->size ? lseek(h->fd, (off_t)offset, SEEK_HOLE) : -1;
    if (hole >= 0 && (uint64_t)hole < h->size) um__ahead_add(&f->root->ahead, h->name, h->fd, h->size, offset);
}

/* The open file, from the cache or opened anew, to be used at `offset`; 0 or an errno. A name may have come to mean
 * another file since (deleted or made anew by any lane): then all are opened again.
 * The size is asked for once, here, not before each write: asking makes Linux (6.13 on) give the next write a
 * time stamp of its own, which costs a metadata update and doubled the time of a synced write when measured. */
int um__open(um__files *f, const char *name, int writable, uint64_t offset, um__handle **out) {
    uint64_t changed = atomic_load(&f->root->changed);
    if (changed != f->changed) {
        um__forget(f);
        f->changed = changed;
    }
    um__handle *victim = &f->handles[0];
    for (int i = 0; i < UM__HANDLES; i++) {
        um__handle *h = &f->handles[i];
        if (h->used && h->writable == writable && strcmp(h->name, name) == 0) {
            h->used = ++f->clock;
            *out = h;
            return 0;
        }
        if (h->used < victim->used) victim = h;
    }
    int flags = O_CLOEXEC | O_NOFOLLOW | (writable ? O_RDWR | O_DSYNC | (f->root->direct ? O_DIRECT : 0) : O_RDONLY);
    int fd = openat(f->root->root, name, flags);
    if (fd < 0) return errno;
    struct stat st;
    if (fstat(fd, &st)) {
        int error = errno;
        close(fd);
        return error;
    }
    if (victim->used) close(victim->fd);
    *victim = (um__handle){.fd = fd, .writable = writable, .size = (uint64_t)st.st_size, .used = ++f->clock};
    strncpy(victim->name, name, sizeof victim->name - 1);
    if (f->lane == UM_SYS_LANE_JOURNAL && writable) um__adopt(f, victim, offset);
    *out = victim;
    return 0;
}

/* ---- write ---- */

/* All of it, or the errno; *done counts the bytes that went in either way. */
int um__pwrite_all(int fd, const uint8_t *data, uint64_t length, uint64_t offset, uint64_t *done) {
    while (length) {
        ssize_t n = pwrite(fd, data, length, (off_t)offset);
        if (n < 0 && errno == EINTR) continue; /* before the first byte: nothing happened */
        if (n < 0) return errno;
        if (n == 0) return EIO;
        data += n;
        length -= (uint64_t)n;
        offset += (uint64_t)n;
        *done += (uint64_t)n;
    }
    return 0;
}

/* What the bulk lane writes leaves the disk to the journal most of the time, while that has something to write: a synced
 * write of 48 KiB took 0.3 ms beside it so, in pieces without rests 0.7 ms, in pieces of 1 MiB with rests as long 2.7 ms. */
static int um__pwrite_gently(um__files *f, int fd, const uint8_t *data, uint64_t length, uint64_t offset, uint64_t *done) {
    while (length) {
        uint64_t piece = length < UM__PIECE_BYTES ? length : UM__PIECE_BYTES;
        uint64_t journal_bytes = atomic_load(&f->root->ahead.journal_bytes), began_ns = um__now_ns();
        int error = um__pwrite_all(fd, data, piece, offset, done);
        if (error) return error;
        uint64_t rest_ns = UM__REST_SHARE * (um__now_ns() - began_ns);
        struct timespec rest = {0, (long)(rest_ns < UM__REST_NS_MAX ? rest_ns : UM__REST_NS_MAX)};
        if (piece == UM__PIECE_BYTES && atomic_load(&f->root->ahead.journal_bytes) != journal_bytes) nanosleep(&rest, NULL);
        data += piece;
        length -= piece;
        offset += piece;
    }
    return 0;
}

/* With so many bytes of zeros behind it (um__ahead_of), which are not counted as done. */
static int um__pwrite_and_zeros(um__files *f, int fd, const uint8_t *data, uint64_t length, uint64_t offset, uint64_t zeros, uint64_t *done) {
    struct iovec parts[2] = {{(void *)(uintptr_t)data, length}, {(void *)(uintptr_t)f->root->ahead.zeros, zeros}};
    ssize_t n = pwritev(fd, parts, 2, (off_t)offset);
    if (n < 0 && errno != EINTR) return errno;
    uint64_t whole = n < 0 ? 0 : (uint64_t)n < length ? (uint64_t)n : length;
    *done += whole;
    return um__pwrite_all(fd, data + whole, length - whole, offset + whole, done);
}

static int um__pwrite_lane(um__files *f, int fd, const uint8_t *data, uint64_t length, uint64_t offset, uint64_t zeros, uint64_t *done) {
    if (zeros) return um__pwrite_and_zeros(f, fd, data, length, offset, zeros, done); /* less than a piece: no need of rests */
    return (f->lane == UM_SYS_LANE_BULK ? um__pwrite_gently(f, fd, data, length, offset, done)
                                        : um__pwrite_all(fd, data, length, offset, done));
}

uint8_t *um__stage(um__files *f) {
    if (!f->stage) f->stage = um__map(UM__STAGE_BYTES);
    return f->stage;
}

/* O_DIRECT needs aligned memory: anything else is copied, piece by piece. */
static int um__pwrite_staged(um__files *f, int fd, const uint8_t *data, uint64_t length, uint64_t offset, uint64_t zeros, uint64_t *done) {
    if (!um__stage(f)) return ENOMEM;
    while (length) {
        uint64_t piece = length < UM__STAGE_BYTES ? length : UM__STAGE_BYTES;
        memcpy(f->stage, data, piece);
        int error = um__pwrite_lane(f, fd, f->stage, piece, offset, piece == length ? zeros : 0, done);
        if (error) return error;
        data += piece;
        length -= piece;
        offset += piece;
    }
    return 0;
}

static um__outcome um__write(um__files *f, const char *name, uint64_t offset, const uint8_t *data, uint64_t length) {
    if (offset % UM_SYS_BLOCK_BYTES || length % UM_SYS_BLOCK_BYTES) return um__failed(EINVAL);
    um__handle *h;
    int error = um__open(f, name, 1, offset, &h);
    if (error) return um__is_full(error) ? um__no_space(error) : um__failed(error);
    uint64_t zeros = um__ahead_of(&f->root->ahead, name, offset, length);
    uint64_t done = 0;
    int aligned = (uintptr_t)data % UM_SYS_BLOCK_BYTES == 0;
    error = aligned || !f->root->direct ? um__pwrite_lane(f, h->fd, data, length, offset, zeros, &done)
                                        : um__pwrite_staged(f, h->fd, data, length, offset, zeros, &done);
    return um__write_over(f, h, offset, length, done, error);
}

um__outcome um__write_over(um__files *f, um__handle *h, uint64_t offset, uint64_t length, uint64_t done, int error) {
    if (!error) {
        if (offset + length > h->size) h->size = offset + length;
        if (f->lane == UM_SYS_LANE_JOURNAL) atomic_fetch_add(&f->root->ahead.journal_bytes, length);
        return um__ok(length);
    }
    if (!um__is_full(error)) return um__failed(error);
    if (done == 0) return um__no_space(error);
    /* Full half-way. What was appended is cut off; bytes that replaced others cannot be brought back. */
    struct stat now;
    if (offset < h->size || fstat(h->fd, &now) || (uint64_t)now.st_size > offset + done) return um__failed(error);
    if (ftruncate(h->fd, (off_t)offset) || fsync(h->fd)) return um__failed(error);
    return um__no_space(error);
}

/* ---- create and delete ---- */

static int um__sync_directory(int root, const char *name) {
    int fd = openat(root, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return errno;
    int error = fsync(fd) ? errno : 0;
    close(fd);
    return error;
}

/* The directory part of a name, "." when it has none. */
static const char *um__parent(const char *name, char *out) {
    const char *slash = strrchr(name, '/');
    if (!slash) return ".";
    memcpy(out, name, (size_t)(slash - name));
    out[slash - name] = 0;
    return out;
}

/* Make the directories above a file, each durable in the one above it. */
static int um__make_parents(int root, const char *name) {
    char path[UM_SYS_NAME_BYTES_MAX + 1], above[UM_SYS_NAME_BYTES_MAX + 1];
    for (const char *slash = strchr(name, '/'); slash; slash = strchr(slash + 1, '/')) {
        memcpy(path, name, (size_t)(slash - name));
        path[slash - name] = 0;
        if (mkdirat(root, path, UM__DIRECTORY_MODE) == 0) {
            int error = um__sync_directory(root, um__parent(path, above));
            if (error) return error;
        } else if (errno != EEXIST) {
            return errno;
        }
    }
    return 0;
}

/* Make it `length` bytes long, with room on the disk for each of them. *reserved: zeros are to follow. */
static int um__reserve(int fd, uint64_t length, int *reserved) {
    *reserved = 0;
    if (length == 0) return 0;
    if (fallocate(fd, 0, 0, (off_t)length) == 0) {
        *reserved = 1;
        return 0;
    }
    if (errno != EOPNOTSUPP && errno != ENOSYS) return errno;
    void *zeros = um__map(UM__PIECE_BYTES);
    if (!zeros) return ENOMEM;
    int error = 0;
    uint64_t offset = 0;
    while (!error && offset < length) {
        uint64_t piece = length - offset < UM__PIECE_BYTES ? length - offset : UM__PIECE_BYTES;
        error = um__pwrite_all(fd, zeros, piece, offset, &offset);
    }
    munmap(zeros, UM__PIECE_BYTES);
    return error;
}

/* Remove a name, durably. Other lanes may still have the file open: cutting it to nothing once it has no
 * name gives its space back now, and a crash before that finds either the whole file or none. */
static int um__remove(um__root *root, const char *name) {
    char parent[UM_SYS_NAME_BYTES_MAX + 1];
    int fd = openat(root->root, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    um__ahead_forget(&root->ahead, name);
    int error = unlinkat(root->root, name, 0) && errno != ENOENT ? errno : 0;
    atomic_fetch_add(&root->changed, 1);
    /* Also when it was gone: perhaps by a delete that a crash cut off before this sync. */
    if (!error) error = um__sync_directory(root->root, um__parent(name, parent));
    if (error == ENOENT) error = 0; /* not even the directory is there */
    if (fd >= 0) {
        if (!error && ftruncate(fd, 0)) { /* then its space comes back when the last lane closes it */ }
        close(fd);
    }
    return error;
}

static um__outcome um__create(um__files *f, const char *name, uint64_t length) {
    int root = f->root->root;
    char parent[UM_SYS_NAME_BYTES_MAX + 1];
    int error = um__make_parents(root, name);
    if (error) return um__is_full(error) ? um__no_space(error) : um__failed(error);
    int direct = f->root->direct && length % UM_SYS_BLOCK_BYTES == 0 ? O_DIRECT : 0;
    int fd = openat(root, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW | O_DSYNC | direct, UM__FILE_MODE);
    if (fd < 0) return um__is_full(errno) ? um__no_space(errno) : um__failed(errno);
    atomic_fetch_add(&f->root->changed, 1);
    um__ahead_forget(&f->root->ahead, name);
    int reserved;
    error = um__reserve(fd, length, &reserved);
    if (!error && fsync(fd)) error = um__is_full(errno) ? EIO : errno; /* a failed sync is never "try again" */
    if (!error && reserved) um__ahead_add(&f->root->ahead, name, fd, length, 0);
    close(fd);
    if (!error) error = um__sync_directory(root, um__parent(name, parent));
    if (!error) return um__ok(length);
    if (um__remove(f->root, name)) return um__failed(error);
    return um__is_full(error) ? um__no_space(error) : um__failed(error);
}

static um__outcome um__delete(um__files *f, const char *name) {
    int error = um__remove(f->root, name);
    return error ? um__failed(error) : um__ok(0);
}

/* ---- read ---- */

static um__outcome um__read(um__files *f, const char *name, uint64_t offset, uint8_t *data, uint64_t length) {
    um__handle *h;
    int error = um__open(f, name, 0, offset, &h);
    if (error) return um__failed(error);
    uint64_t done = 0;
    while (done < length) {
        ssize_t n = pread(h->fd, data + done, length - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return um__failed(errno);
        if (n == 0) break;
        done += (uint64_t)n;
    }
    return um__ok(done);
}

um__outcome um__file_do(um__files *f, uint32_t kind, const char *name, uint64_t offset, void *data, uint64_t length) {
    switch (kind) {
    case UM_SYS_WRITE: return um__write(f, name, offset, data, length);
    case UM_SYS_CREATE: return um__create(f, name, length);
    case UM_SYS_DELETE: return um__delete(f, name);
    case UM_SYS_READ: return um__read(f, name, offset, data, length);
    default: return um__failed(EINVAL);
    }
}

/* ---- the directory ---- */

/* Does an O_DIRECT | O_DSYNC write work in this directory? Tried on a file without a name left. */
static int um__try_direct(int root) {
    static const char name[] = ".direct-probe";
    int fd = openat(root, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW | O_DIRECT | O_DSYNC, UM__FILE_MODE);
    unlinkat(root, name, 0);
    if (fd < 0) return 0;
    void *block = um__map(UM_SYS_BLOCK_BYTES);
    int works = block && (pwrite(fd, block, UM_SYS_BLOCK_BYTES, 0) == UM_SYS_BLOCK_BYTES || um__is_full(errno));
    if (block) munmap(block, UM_SYS_BLOCK_BYTES);
    close(fd);
    return works;
}

int um__root_open(um__root *root, const char *directory, uint32_t flags) {
    root->root = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root->root < 0) return -errno;
    root->direct = !(flags & UM_SYS_FLAG_BUFFERED) && um__try_direct(root->root);
    atomic_init(&root->changed, 0);
    um__ahead_init(&root->ahead);
    return 0;
}

void um__root_close(um__root *root) {
    um__ahead_close(&root->ahead);
    close(root->root);
}

/* ahead.c - zeros ahead of the journal, out of its way.
 *
 * A synced write to blocks that are only reserved must also record that they hold data now, which makes a lone 4 KiB
 * write take twice as long; so real zeros are written first. But a disk has so many bytes a second, and zeros written as
 * fast as they go made everybody else's small synced writes 25 times slower for a quarter of a second per segment
 * (measured). So a create only reserves, and the zeros follow in pieces, done by the bulk lane when it has nothing else to
 * do, each synced: what is left in the disk's cache makes whoever syncs next wait for it (a synced write of 48 KiB took
 * 0.37 ms beside synced zeros, 0.6 ms beside others).
 *
 *      [ written by the journal | margin | zeros so far |#piece#| reserved ... ]
 *                               ^written                 ^next
 *
 *      nobody else writes                  at once
 *      writes                              a piece, then a pause UM__REST_SHARE times as long
 *      the journal outruns the zeros       not at all: it brings its own
 *
 * What the journal writes to blocks that are only reserved takes 60 to 90 us longer (4 to 64 KiB, measured), however much that
 * is. So it takes along as many zeros as make a piece of it, and the next few writes meet written blocks: writes of 40 KiB took
 * 0.13 to 0.16 ms in the mean so, 0.19 to 0.23 without, 0.12 to 0.14 where everything was written before.
 *
 * A writer announces its range before it writes (um__ahead_of), and waits if a piece is being written there; pieces are
 * only begun beyond everything announced. So no zero can ever land on data. What is left out is read as zeros all the
 * same. Which blocks are only reserved the file system knows (SEEK_HOLE); one that does not tell has its zeros left out.
 */
#define _GNU_SOURCE
#include "um__sys.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define UM__AHEAD_MARGIN_BYTES (64u << 10)  /* not so close to the writer */
#define UM__AHEAD_REST_NS 50000000u         /* until it is looked again whether the journal has become slower */

void um__ahead_init(um__ahead *a) {
    memset(a, 0, sizeof *a);
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->over, NULL);
    a->zeros = um__map(UM__PIECE_BYTES);
}

static void um__drop(um__ahead *a, uint32_t i) {
    close(a->targets[i].fd);
    a->count--;
    memmove(&a->targets[i], &a->targets[i + 1], (a->count - i) * sizeof a->targets[0]);
}

void um__ahead_close(um__ahead *a) {
    while (a->count) um__drop(a, 0);
    if (a->zeros) munmap((void *)(uintptr_t)a->zeros, UM__PIECE_BYTES);
    pthread_cond_destroy(&a->over);
    pthread_mutex_destroy(&a->lock);
}

static um__target *um__find(um__ahead *a, const char *name) {
    for (uint32_t i = 0; i < a->count; i++)
        if (strcmp(a->targets[i].name, name) == 0) return &a->targets[i];
    return NULL;
}

void um__ahead_add(um__ahead *a, const char *name, int fd, uint64_t size, uint64_t written) {
    pthread_mutex_lock(&a->lock);
    if (a->busy_end || um__find(a, name)) { /* targets must not move under a piece that is being written */
        pthread_mutex_unlock(&a->lock);
        return;
    }
    if (a->count == UM__TARGETS) um__drop(a, 0);
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own >= 0) {
        um__target *target = &a->targets[a->count++];
        *target = (um__target){.fd = own, .size = size, .written = written};
        strncpy(target->name, name, sizeof target->name - 1);
        atomic_fetch_add(&a->version, 1);
    }
    pthread_mutex_unlock(&a->lock);
}

void um__ahead_forget(um__ahead *a, const char *name) {
    pthread_mutex_lock(&a->lock);
    um__target *target = um__find(a, name);
    if (target) um__drop(a, (uint32_t)(target - a->targets));
    pthread_mutex_unlock(&a->lock);
}

/* What is written at [offset, end) meets blocks that are only reserved: so many bytes behind it are, too, and not more
 * than are a piece together. */
static uint64_t um__reserved_behind(um__target *target, uint64_t offset, uint64_t end) {
    if ((offset >= target->ready_begin && end <= target->ready_end) || end > target->size) return 0;
    off_t hole = lseek(target->fd, (off_t)offset, SEEK_HOLE);
    if (hole < 0) return 0;
    target->ready_begin = offset;
    target->ready_end = (uint64_t)hole;
    if ((uint64_t)hole >= end || end - offset >= UM__PIECE_BYTES) return 0;
    uint64_t past = offset + UM__PIECE_BYTES < target->size ? offset + UM__PIECE_BYTES : target->size;
    off_t data = lseek(target->fd, (off_t)end, SEEK_DATA);
    if (data >= 0 && (uint64_t)data < past) past = (uint64_t)data / UM_SYS_BLOCK_BYTES * UM_SYS_BLOCK_BYTES;
    return past > end ? past - end : 0;
}

static int um__meets_piece(um__ahead *a, um__target *target, uint64_t offset, uint64_t end) {
    return target && target == &a->targets[0] && offset < a->busy_end && a->busy_begin < end;
}

/* From here on it is others' to write, up to `end` and a margin. */
static void um__announce(um__target *target, uint64_t end, uint64_t behind) {
    const uint64_t past = end + (behind > UM__AHEAD_MARGIN_BYTES ? behind : UM__AHEAD_MARGIN_BYTES);
    if (past > target->written) target->written = past;
}

uint64_t um__ahead_of(um__ahead *a, const char *name, uint64_t offset, uint64_t length) {
    if (!atomic_load(&a->version)) return 0; /* there never was a target */
    uint64_t end = offset + length, behind = 0;
    pthread_mutex_lock(&a->lock);
    um__target *target;
    while (um__meets_piece(a, target = um__find(a, name), offset, end)) pthread_cond_wait(&a->over, &a->lock);
    if (target && a->zeros) behind = um__reserved_behind(target, offset, end);
    if (target) um__announce(target, end, behind);
    pthread_mutex_unlock(&a->lock);
    return behind;
}

int um__ahead_clear(um__ahead *a, const char *name, uint64_t offset, uint64_t length) {
    if (!atomic_load(&a->version)) return 1;
    uint64_t end = offset + length;
    pthread_mutex_lock(&a->lock);
    um__target *target = um__find(a, name);
    int clear = !um__meets_piece(a, target, offset, end) && !(target && a->zeros && um__reserved_behind(target, offset, end));
    if (clear && target) um__announce(target, end, 0);
    pthread_mutex_unlock(&a->lock);
    return clear;
}

/* Where the oldest target lacks zeros next, as busy_begin and busy_end. 0: there is none that lacks any. */
static int um__next_piece(um__ahead *a) {
    while (a->count) {
        um__target *target = &a->targets[0];
        uint64_t begin = target->written;
        if (begin < target->next) begin = target->next;
        off_t hole = begin < target->size ? lseek(target->fd, (off_t)begin, SEEK_HOLE) : -1;
        if (hole >= 0 && (uint64_t)hole < target->size) {
            begin = ((uint64_t)hole + UM_SYS_BLOCK_BYTES - 1) / UM_SYS_BLOCK_BYTES * UM_SYS_BLOCK_BYTES;
            uint64_t end = target->size - begin < UM__PIECE_BYTES ? target->size : begin + UM__PIECE_BYTES;
            off_t data = lseek(target->fd, hole, SEEK_DATA);
            if (data >= 0 && (uint64_t)data < end) end = (uint64_t)data / UM_SYS_BLOCK_BYTES * UM_SYS_BLOCK_BYTES;
            if (begin < end) {
                a->busy_begin = begin;
                a->busy_end = end;
                return 1;
            }
        }
        um__drop(a, 0);
    }
    return 0;
}

/* Does the journal grow faster than zeros come, rests included? */
static int um__outrun(um__ahead *a, uint64_t grown, uint64_t now_ns) {
    uint64_t passed_ns = now_ns - a->seen_ns;
    a->seen_ns = now_ns;
    return a->ns_per_mib && grown > UM__PIECE_BYTES && (grown >> 10) * a->ns_per_mib > passed_ns << 10;
}

uint64_t um__ahead_step(um__ahead *a) {
    uint64_t journal = atomic_load(&a->journal_bytes), grown = journal - a->journal_seen, began_ns = um__now_ns();
    a->journal_seen = journal;
    int outrun = um__outrun(a, grown, began_ns);
    pthread_mutex_lock(&a->lock);
    uint64_t pause_ns = UINT64_MAX;
    if (a->count && outrun) {
        pause_ns = UM__AHEAD_REST_NS;
    } else if (a->zeros && um__next_piece(a)) {
        uint64_t begin = a->busy_begin, length = a->busy_end - begin, done = 0;
        int fd = a->targets[0].fd;
        pthread_mutex_unlock(&a->lock);
        int error = um__pwrite_all(fd, a->zeros, length, begin, &done);
        pthread_mutex_lock(&a->lock);
        a->targets[0].next = begin + done;
        if (error) um__drop(a, 0); /* whoever writes there will hear of it */
        uint64_t taken_ns = um__now_ns() - began_ns;
        if (length == UM__PIECE_BYTES) a->ns_per_mib = (1 + UM__REST_SHARE) * taken_ns * ((1u << 20) / UM__PIECE_BYTES);
        pause_ns = grown || atomic_load(&a->journal_bytes) != journal ? UM__REST_SHARE * taken_ns : 0;
    }
    a->busy_begin = a->busy_end = 0;
    pthread_cond_broadcast(&a->over);
    pthread_mutex_unlock(&a->lock);
    return pause_ns;
}

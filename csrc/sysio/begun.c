/* begun.c - a journal write that no thread waits for, or only its caller.
 *
 *      begin ---- io_submit ----> [ the disk writes ] ----> io_getevents ---- end
 *                                   the caller works
 *
 * pwrite keeps its thread until the disk is done. Linux's asynchronous direct I/O (io_submit(2)) returns when the disk has the request,
 * 15 us later for 4 KiB; waiting for it then takes 3 us more than pwrite, and an eventfd says when it need not be waited for. So
 *
 *      a caller that has nothing else to do    begins, works out what follows, and waits for the end: no thread is woken
 *      one that has                            is told by the disk's eventfd: one wake-up where a lane's thread costs three
 *
 * (io_uring could do the same; containers forbid it more often.)
 *
 * That is for O_DIRECT and blocks that were written before. Everything else, and wherever the kernel has no context to give
 * (fs.aio-max-nr, seccomp), is left to the second half, or to the lane, which write as ever.
 */
#define _GNU_SOURCE
#include "um__sys.h"
#include <errno.h>
#include <linux/aio_abi.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int um__has_context(um__files *f) {
    if (!f->aio && !f->no_aio) {
        aio_context_t made = 0;
        f->no_aio = syscall(SYS_io_setup, 1, &made) != 0;
        f->aio = made;
    }
    return !f->no_aio;
}

void um__begun_close(um__files *f) {
    if (f->aio) syscall(SYS_io_destroy, (aio_context_t)f->aio); /* waits for what is under way */
    f->aio = 0;
}

/* Give it to the disk, which says at `eventfd` (-1: nowhere) when it is done. 0: it is not begun. */
static int um__launch(um__files *f, um__begun *b, int eventfd) {
    if (!f->root->direct || (b->offset | b->length) % UM_SYS_BLOCK_BYTES || !um__has_context(f)) return 0;
    if (um__open(f, b->name, 1, b->offset, &b->handle)) return 0;
    if (!um__ahead_clear(&f->root->ahead, b->name, b->offset, b->length)) return 0;
    struct iocb request = {
        .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = (uint32_t)b->handle->fd, .aio_buf = (uintptr_t)b->data, .aio_nbytes = b->length,
        .aio_offset = (int64_t)b->offset,
    };
    if (eventfd >= 0) {
        request.aio_flags = IOCB_FLAG_RESFD;
        request.aio_resfd = (uint32_t)eventfd;
    }
    struct iocb *requests[] = {&request};
    return b->flying = syscall(SYS_io_submit, (aio_context_t)f->aio, 1, requests) == 1;
}

static um__begun um__about(const char *name, uint64_t offset, const void *data, uint64_t length) {
    um__begun b = {.offset = offset, .length = length, .data = data};
    strncpy(b.name, name, sizeof b.name - 1);
    return b;
}

void um__begin(um__files *f, um__begun *b, const char *name, uint64_t offset, const void *data, uint64_t length) {
    uint8_t *stage = um__stage(f);
    if (stage) memcpy(stage, data, length);
    *b = um__about(name, offset, stage, length);
    if (stage) um__launch(f, b, -1);
}

int um__begin_told(um__files *f, um__begun *b, const char *name, uint64_t offset, const void *data, uint64_t length, int eventfd) {
    *b = um__about(name, offset, data, length);
    return (uintptr_t)data % UM_SYS_BLOCK_BYTES == 0 && um__launch(f, b, eventfd);
}

/* What has come of it, once the disk is done; with `wait` not before. 0: it is not done. */
static int um__reap(um__files *f, um__begun *b, int wait, um__outcome *how) {
    struct io_event over = {0};
    long count;
    do count = syscall(SYS_io_getevents, (aio_context_t)f->aio, wait, 1, &over, NULL);
    while (count < 0 && errno == EINTR);
    if (count == 0) return 0;
    int error = count < 0 ? errno : over.res < 0 ? (int)-over.res : 0;
    uint64_t done = error ? 0 : (uint64_t)over.res;
    if (!error) error = um__pwrite_all(b->handle->fd, b->data + done, b->length - done, b->offset + done, &done);
    b->flying = 0;
    *how = um__write_over(f, b->handle, b->offset, b->length, done, error);
    return 1;
}

um__outcome um__end(um__files *f, um__begun *b) {
    um__outcome how = {UM_SYS_FAILED, ENOMEM, 0};
    if (b->flying) um__reap(f, b, 1, &how);
    else if (b->data) how = um__file_do(f, UM_SYS_WRITE, b->name, b->offset, (void *)(uintptr_t)b->data, b->length);
    return how;
}

int um__ended(um__files *f, um__begun *b, um__outcome *how) { return b->flying && um__reap(f, b, 0, how); }

/* begun.c - a write in two halves: begun, and waited for.
 *
 *      begin ---- io_submit ----> [ the disk writes ] ----> io_getevents ---- end
 *                                   the caller works
 *
 * pwrite keeps its caller until the disk is done. Linux's asynchronous direct I/O (io_submit(2)) returns when the disk has the request,
 * 15 us later, and waiting for it takes 3 us more than pwrite (4 KiB, 90 us, measured): so whatever the caller can do meanwhile is
 * free. (io_uring could do the same; containers forbid it more often.)
 *
 * That is for O_DIRECT and blocks that were written before. Everything else, and wherever the kernel has no context to give
 * (fs.aio-max-nr, seccomp), is left to the second half, which then writes as any lane does.
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
    if (f->aio) syscall(SYS_io_destroy, (aio_context_t)f->aio);
    f->aio = 0;
}

void um__begin(um__files *f, um__begun *b, const char *name, uint64_t offset, const void *data, uint64_t length) {
    *b = (um__begun){.offset = offset, .length = length};
    strncpy(b->name, name, sizeof b->name - 1);
    if (!(b->data = um__stage(f))) return;
    memcpy(b->data, data, length);
    if (!f->root->direct || (offset | length) % UM_SYS_BLOCK_BYTES || !um__has_context(f)) return;
    if (um__open(f, b->name, 1, offset, &b->handle)) return;
    if (um__ahead_of(&f->root->ahead, b->name, offset, length)) return; /* it meets reserved blocks: um__write brings zeros */
    struct iocb request = {
        .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = (uint32_t)b->handle->fd, .aio_buf = (uintptr_t)b->data, .aio_nbytes = length,
        .aio_offset = (int64_t)offset,
    };
    struct iocb *requests[] = {&request};
    b->flying = syscall(SYS_io_submit, (aio_context_t)f->aio, 1, requests) == 1;
}

um__outcome um__end(um__files *f, um__begun *b) {
    if (!b->data) return (um__outcome){UM_SYS_FAILED, ENOMEM, 0};
    if (!b->flying) return um__file_do(f, UM_SYS_WRITE, b->name, b->offset, b->data, b->length);
    struct io_event over = {0};
    long count;
    do count = syscall(SYS_io_getevents, (aio_context_t)f->aio, 1, 1, &over, NULL);
    while (count < 0 && errno == EINTR);
    int error = count < 0 ? errno : over.res < 0 ? (int)-over.res : 0;
    uint64_t done = error ? 0 : (uint64_t)over.res;
    if (!error) error = um__pwrite_all(b->handle->fd, b->data + done, b->length - done, b->offset + done, &done);
    b->flying = 0;
    return um__write_over(f, b->handle, b->offset, b->length, done, error);
}

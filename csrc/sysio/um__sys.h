/* um__sys.h - what the files of sysio share (internal).
 *
 * file.c knows files and no threads, lane.c knows threads and no files; they meet in um__files. ahead.c is what the lanes
 * have to agree on, begun.c a write in two halves.
 */
#ifndef UM__SYS_H
#define UM__SYS_H
#include "um_sysio.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#define UM__HANDLES 8                       /* open files a lane keeps */
#define UM__STAGE_BYTES (4u << 20)          /* bounce buffer for unaligned memory; longer writes go in pieces */
#define UM__PIECE_BYTES (256u << 10)        /* the bulk lane writes so much at a time, and rests */
#define UM__REST_SHARE 2                    /* so many times as long as it took */
#define UM__REST_NS_MAX 20000000u           /* and no longer */
#define UM__TARGETS 2                       /* files that zeros are written to: the journal's segment, and the next one */

/* A file whose blocks are reserved, and not all written yet. */
typedef struct {
    char name[UM_SYS_NAME_BYTES_MAX + 1];
    int fd;
    uint64_t size;
    uint64_t written;                       /* up to here it is others' to write: what was announced, and a margin */
    uint64_t next;                          /* zeros have come so far */
    uint64_t ready_begin, ready_end;        /* these blocks are known to be written */
} um__target;

/* ahead.c. The lock guards what is not atomic, but for journal_seen and zeros, which are the bulk lane's. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t over;                    /* a piece is written */
    um__target targets[UM__TARGETS];        /* oldest first; zeros go to that one */
    uint32_t count;
    uint64_t busy_begin, busy_end;          /* the piece that is being written; busy_end 0: none */
    _Atomic uint32_t version;               /* targets added so far */
    _Atomic uint64_t journal_bytes;         /* written in the journal lane so far */
    uint64_t journal_seen, seen_ns;         /* journal_bytes as of the last piece, and when */
    uint64_t ns_per_mib;                    /* how long zeros take, with the rests; 0: not known */
    const uint8_t *zeros;                   /* UM__PIECE_BYTES; NULL: there was no memory, so nothing is done here */
} um__ahead;

/* What all lanes of a disk know. */
typedef struct {
    int root;                               /* the directory */
    int direct;                             /* O_DIRECT works here */
    um__ahead ahead;
    _Atomic uint64_t changed;               /* files made and removed so far: a lane that sees it move reopens its files */
} um__root;

typedef struct {
    char name[UM_SYS_NAME_BYTES_MAX + 1];
    int fd, writable;
    uint64_t size;                          /* when opened, or as this lane has grown it since */
    uint64_t used;                          /* when, for eviction; 0 = free */
} um__handle;

/* One lane's view of the files. Only its thread touches it. */
typedef struct {
    um__root *root;
    uint32_t lane;                          /* whose it is */
    um__handle handles[UM__HANDLES];
    uint64_t clock, changed;
    uint8_t *stage;                         /* UM__STAGE_BYTES, mapped when first needed */
    uint64_t aio;                           /* begun.c: the kernel's context; 0: none yet */
    int no_aio;                             /* and there will be none */
} um__files;

typedef struct {
    uint32_t status;
    int32_t error;
    uint64_t bytes;
} um__outcome;

/* begun.c: a write that is under way. */
typedef struct {
    char name[UM_SYS_NAME_BYTES_MAX + 1];
    uint64_t offset, length;
    const uint8_t *data;                    /* the lane's stage, or memory of the caller's */
    um__handle *handle;
    int flying;                             /* the disk has it; otherwise all is left to the second half */
} um__begun;

void um__files_init(um__files *f, um__root *root, uint32_t lane);
void um__files_close(um__files *f);
um__outcome um__file_do(um__files *f, uint32_t kind, const char *name, uint64_t offset, void *data, uint64_t length);

/* An open file, to be used at `offset`: 0 or an errno. */
int um__open(um__files *f, const char *name, int writable, uint64_t offset, um__handle **out);
uint8_t *um__stage(um__files *f);           /* NULL when there is no memory */
/* What became of a write to an open file: `error`, 0 or an errno, stopped it after `done` bytes. */
um__outcome um__write_over(um__files *f, um__handle *h, uint64_t offset, uint64_t length, uint64_t done, int error);

/* In two halves: up to UM__STAGE_BYTES, which are copied. What fails in the first is told by the second. */
void um__begin(um__files *f, um__begun *b, const char *name, uint64_t offset, const void *data, uint64_t length);
um__outcome um__end(um__files *f, um__begun *b);
/* The eventfd is told when it is done, then um__ended says so once; the memory must stay until then. 0: it was not begun. */
int um__begin_told(um__files *f, um__begun *b, const char *name, uint64_t offset, const void *data, uint64_t length, int eventfd);
int um__ended(um__files *f, um__begun *b, um__outcome *how);
void um__begun_close(um__files *f);

/* 0 or -errno. */
int um__root_open(um__root *root, const char *directory, uint32_t flags);
void um__root_close(um__root *root);

void um__ahead_init(um__ahead *a);
void um__ahead_close(um__ahead *a);
/* Write zeros to that file from now on, beyond `written`. Its descriptor is duplicated. */
void um__ahead_add(um__ahead *a, const char *name, int fd, uint64_t size, uint64_t written);
/* Called in the bulk lane: the name will mean another file, or none. */
void um__ahead_forget(um__ahead *a, const char *name);
/* Somebody is about to write there. Returns when no zeros are being written there, and none will be: how many bytes of zeros
 * he should write behind it, in the same write. */
uint64_t um__ahead_of(um__ahead *a, const char *name, uint64_t offset, uint64_t length);
/* The same for whoever can neither wait nor bring zeros: 0, he cannot write there now. */
int um__ahead_clear(um__ahead *a, const char *name, uint64_t offset, uint64_t length);
/* Called in the bulk lane: write one piece of zeros if they are wanted. Returns how many ns it should be until the next
 * one, UINT64_MAX when there is nothing to do. */
uint64_t um__ahead_step(um__ahead *a);

uint64_t um__now_ns(void);
int um__pwrite_all(int fd, const uint8_t *data, uint64_t length, uint64_t offset, uint64_t *done); /* 0 or an errno */
void *um__map(size_t bytes);                /* zeroed, page-aligned; NULL when there is none */
#endif

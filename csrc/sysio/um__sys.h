/* um__sys.h - what the files of sysio share (internal).
 *
 * file.c knows files and no threads, lane.c knows threads and no files; they meet in um__files.
 */
#ifndef UM__SYS_H
#define UM__SYS_H
#include "um_sysio.h"
#include <stdatomic.h>
#include <stddef.h>

#define UM__HANDLES 8                       /* open files a lane keeps */
#define UM__STAGE_BYTES (4u << 20)          /* bounce buffer for unaligned memory; longer writes go in pieces */
#define UM__ZERO_BYTES (1u << 20)           /* what a create writes at a time */

/* What all lanes of a disk know. */
typedef struct {
    int root;                               /* the directory */
    int direct;                             /* O_DIRECT works here */
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
    um__handle handles[UM__HANDLES];
    uint64_t clock, changed;
    uint8_t *stage;                         /* UM__STAGE_BYTES, mapped when first needed */
} um__files;

typedef struct {
    uint32_t status;
    int32_t error;
    uint64_t bytes;
} um__outcome;

void um__files_init(um__files *f, um__root *root);
void um__files_close(um__files *f);
um__outcome um__file_do(um__files *f, uint32_t kind, const char *name, uint64_t offset, void *data, uint64_t length);

/* 0 or -errno. */
int um__root_open(um__root *root, const char *directory, uint32_t flags);
void um__root_close(um__root *root);

uint64_t um__now_ns(void);
void *um__map(size_t bytes);                /* zeroed, page-aligned; NULL when there is none */
#endif

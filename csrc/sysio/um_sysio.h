/* um_sysio.h - the only C that makes system calls: files, written by threads of their own.
 *
 * A um_sys_disk is one data directory and five lanes. A lane is a thread, a bounded ring and nothing else:
 *
 *     event loop --submit--> [ slot | slot | slot ] --> lane thread: open, pwrite, sync, pread, unlink
 *         ^                                                   |
 *         +--- um_sys_drain <--- eventfd (all lanes) <--------+
 *
 * Operations on one lane are done in the order given; lanes do not wait for each other. The journal lane
 * carries nothing but journal writes, so that creating the next segment or answering a query from the
 * archive never stands in front of a commit; reads have a lane of their own for the same reason. The work lane does no
 * files: it calls functions, for work that would keep the event loop from its sockets. The memory lane makes pages.
 * The caller's thread never blocks: it writes a slot, and wakes the lane only if it sleeps. Journal writes have two more ways, while their lane
 * is idle: the kernel does them and no thread waits (um_sys_write_told), or the caller does, who has nothing else to do (um_sys_write_begin).
 *
 * Promises. Every accepted operation completes exactly once. Done means durable: content, length and
 * directory entry survive a power cut. No operation that failed is ever tried again here: after a failed
 * sync the page cache may have dropped the data, and a second sync would lie.
 *
 * One thread submits and drains (the ring is single producer, single consumer). Memory given to submit
 * belongs to the lane until the completion has been drained.
 *
 * The text between CDEF BEGIN and CDEF END is also what cffi reads.
 */
#ifndef UM_SYSIO_H
#define UM_SYSIO_H
#include <stdint.h>

/* CDEF BEGIN */
#define UM_SYS_BLOCK_BYTES 4096       /* unit of every offset and length written */
#define UM_SYS_NAME_BYTES_MAX 119     /* a file's name, relative to the directory */
#define UM_SYS_DEPTH 256              /* operations of one lane under way; further ones are refused */

#define UM_SYS_OWN_BYTES_MAX 65536    /* um_sys_write_begin */
#define UM_SYS_TOLD_BYTES_MAX 262144  /* um_sys_write_told: the caller's thread is what prepares it */

#define UM_SYS_LANE_JOURNAL 0
#define UM_SYS_LANE_BULK 1
#define UM_SYS_LANE_READ 2
#define UM_SYS_LANE_WORK 3
#define UM_SYS_LANE_MEMORY 4
#define UM_SYS_LANES 5

#define UM_SYS_WRITE 1                /* overwrite or grow an existing file, durably */
#define UM_SYS_CREATE 2               /* a file of `length` zeros, its space reserved; makes missing directories */
#define UM_SYS_DELETE 3               /* a missing file is fine */
#define UM_SYS_READ 4                 /* result: bytes read, fewer than asked for only at the end of the file */
#define UM_SYS_CALL 5                 /* um_sys_call */
#define UM_SYS_TOUCH 6                /* um_sys_touch */

#define UM_SYS_OK 0
#define UM_SYS_NO_SPACE 1             /* nothing was written or is left allocated */
#define UM_SYS_FAILED 2               /* what the file holds now is unknown */

#define UM_SYS_FLAG_BUFFERED 1        /* do not use O_DIRECT even where the file system offers it */

typedef struct um_sys_disk um_sys_disk;
typedef struct {
    uint64_t op;
    uint64_t bytes;                   /* written or read */
    uint64_t taken_ns;                /* from submit to done */
    uint32_t lane, kind, status;
    int32_t error;                    /* errno, 0 when status is OK */
} um_sys_done;

/* Open an existing directory and start its lanes. NULL: *error says why (errno). */
um_sys_disk *um_sys_open(const char *directory, uint32_t flags, int32_t *error);
/* Finish what was submitted, stop the threads, free everything. */
void um_sys_close(um_sys_disk *disk);
/* Readable when there is something to drain. */
int um_sys_eventfd(um_sys_disk *disk);
/* 1: files are written with O_DIRECT; 0: through the page cache. */
int um_sys_is_direct(um_sys_disk *disk);
/* 1: accepted; 0: the lane is full (or um_sys_write_told has it), drain first. `file` is copied. */
int um_sys_submit(um_sys_disk *disk, uint32_t lane, uint32_t kind, uint64_t op, const char *file, uint64_t offset, void *data, uint64_t length);
/* Begin a journal write in the caller's thread, which has nothing better to do than to wait for it: this saves waking two threads. Only
 * when nothing of the journal lane is under way or left to drain, and up to UM_SYS_OWN_BYTES_MAX: 1, and um_sys_write_end must be called
 * before anything else of that lane; otherwise 0, and nothing was done. The disk works from here on if it can (begun.c), else when the
 * end is asked for. `file` and `data` are copied. */
int um_sys_write_begin(um_sys_disk *disk, uint64_t op, const char *file, uint64_t offset, void *data, uint64_t length);
/* Wait for it, in the caller's thread. taken_ns: from begin to here. */
void um_sys_write_end(um_sys_disk *disk, um_sys_done *done);
/* Begin a journal write that no thread waits for; it is drained as one of the journal lane. 1: accepted, `data` must stay until then. 0: not
 * now, or not here; submit it. While it is under way submissions to that lane are refused. */
int um_sys_write_told(um_sys_disk *disk, uint64_t op, const char *file, uint64_t offset, void *data, uint64_t length);
/* Completions so far, at most `max`; in order within a lane. */
uint32_t um_sys_drain(um_sys_disk *disk, um_sys_done *out, uint32_t max);
/* Synchronous, for benchmarks: `count` aligned synced writes of `bytes` each, one after another into a
 * zeroed file at `path` (made, then removed), their times in out_ns. Returns 1 with O_DIRECT, 0 without, -errno. */
int um_sys_probe_write(const char *path, uint64_t bytes, uint32_t count, uint64_t *out_ns);
/* Have the C library keep memory that it is given back, instead of asking the system for zeroed pages again each time:
 * blocks below `large_bytes` come from the heap, whose free end is returned beyond `spare_bytes`. */
void um_sys_keep_memory(uint64_t large_bytes, uint64_t spare_bytes);
/* Call function(argument) in the work lane's thread; both are addresses. 1: accepted; 0: the lane is full, drain first. */
int um_sys_call(um_sys_disk *disk, uint64_t op, uint64_t function, uint64_t argument);
/* Have the pages of a stretch of memory made, in the memory lane's thread, so that whoever writes there first need not wait
 * for them. What it holds stays; it must be mapped until the end is drained. 1: accepted; 0: the lane is full. */
int um_sys_touch(um_sys_disk *disk, uint64_t op, uint64_t address, uint64_t bytes);
/* CDEF END */
#endif

/* lane.c - a thread, a ring, and how they wake each other.
 *
 * Ring. One slot per operation under way, used twice: submit fills in what is to be done, the lane's thread
 * fills in how it went. Three counters, each with one writer, say who owns a slot:
 *
 *      drained  <=  completed  <=  submitted  <=  drained + UM_SYS_DEPTH
 *      (caller)     (thread)       (caller)
 *
 *      [drained, completed)    answers the caller has not taken yet
 *      [completed, submitted)  work the thread has not done yet
 *
 * Since an answer lives in its question's slot, the answers cannot overflow.
 *
 * Waking the thread. It announces that it goes to sleep, looks once more, then waits on a futex; submit
 * publishes the slot, then looks whether the thread sleeps. All four accesses are sequentially consistent,
 * so at least one side sees the other. While a thread is awake submit makes no system call.
 *
 * The thread does not spin before it sleeps: measured with 0, 30, 60 and 100 us of spinning, a synced 4 KiB
 * write took the same 110 us from submit to drain (2 us of it until the thread had the slot).
 *
 * Waking the caller. `signalled` is set by the first completion after a drain; only that one writes to the
 * eventfd. Drain clears the eventfd, then the flag, then takes answers: one that comes in between signals again.
 */
#define _GNU_SOURCE
#include "um__sys.h"
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define UM__STACK_BYTES (256u << 10)
#define UM__PAGE_BYTES 4096u          /* or a part of one */

typedef struct {
    uint64_t op, offset, length, submitted_ns;
    void *data;
    void (*function)(void *); /* of a call; data is its argument */
    uint32_t kind;
    char name[UM_SYS_NAME_BYTES_MAX + 1];
    um_sys_done done;
} um__slot;

typedef struct {
    _Alignas(64) _Atomic uint32_t submitted;
    _Alignas(64) _Atomic uint32_t completed;
    _Alignas(64) _Atomic uint32_t sleeping; /* the futex */
    uint32_t drained;                       /* the caller's */
    uint32_t number;
    um_sys_disk *disk;
    pthread_t thread;
    um__files files;
    um__slot slots[UM_SYS_DEPTH];
} um__lane;

struct um_sys_disk {
    um__root root;
    int eventfd;
    _Atomic int signalled, stopping;
    um__begun own; /* a journal write that its lane's thread has nothing to do with */
    uint64_t own_op, own_began_ns;
    int told; /* it is under way, and will be drained */
    um__lane lanes[UM_SYS_LANES];
};

static void um__futex(_Atomic uint32_t *word, int operation, uint32_t value, const struct timespec *at_most) {
    syscall(SYS_futex, word, operation, value, at_most, NULL, 0);
}

static int um__has_work(um__lane *lane, uint32_t next) {
    return atomic_load(&lane->submitted) != next;
}

/* Returns with work to do, or when stopping. The bulk lane spends the time on zeros ahead of the journal. */
static void um__wait(um__lane *lane, uint32_t next) {
    um_sys_disk *disk = lane->disk;
    int bulk = lane->number == UM_SYS_LANE_BULK;
    while (!um__has_work(lane, next) && !atomic_load(&disk->stopping)) {
        uint32_t version = atomic_load(&disk->root.ahead.version);
        uint64_t pause_ns = bulk ? um__ahead_step(&disk->root.ahead) : UINT64_MAX;
        if (!pause_ns) continue;
        struct timespec at_most = {(time_t)(pause_ns / 1000000000u), (long)(pause_ns % 1000000000u)};
        atomic_store(&lane->sleeping, 1);
        int news = bulk && atomic_load(&disk->root.ahead.version) != version;
        if (!um__has_work(lane, next) && !atomic_load(&disk->stopping) && !news)
            um__futex(&lane->sleeping, FUTEX_WAIT_PRIVATE, 1, pause_ns == UINT64_MAX ? NULL : &at_most);
        atomic_store(&lane->sleeping, 0);
    }
}

static void um__wake(um__lane *lane) {
    if (atomic_load(&lane->sleeping) && atomic_exchange(&lane->sleeping, 0))
        um__futex(&lane->sleeping, FUTEX_WAKE_PRIVATE, 1, NULL);
}

static void um__signal(um_sys_disk *disk) {
    if (atomic_exchange(&disk->signalled, 1)) return;
    uint64_t one = 1;
    while (write(disk->eventfd, &one, sizeof one) < 0 && errno == EINTR) {}
}

/* By writing to each page what it holds, whatever else is being written there. Not by madvise: that keeps whoever wants to map or unmap memory
 * waiting, and this thread may be kept from its CPU for long (um__give_way). Since Linux 6.4 a page fault keeps nobody. */
static void um__touch(uint8_t *memory, uint64_t bytes) {
    for (uint64_t at = 0; at < bytes; at += UM__PAGE_BYTES) __atomic_fetch_or(memory + at, 0, __ATOMIC_RELAXED);
}

/* The bulk lane has zeros to write since then. */
static void um__wake_for_zeros(um_sys_disk *disk, uint32_t version_before) {
    if (atomic_load(&disk->root.ahead.version) != version_before) um__wake(&disk->lanes[UM_SYS_LANE_BULK]);
}

static um__outcome um__do(um__lane *lane, uint32_t kind, const char *name, uint64_t offset, void *data, uint64_t length) {
    uint32_t before = atomic_load(&lane->disk->root.ahead.version);
    um__outcome how = um__file_do(&lane->files, kind, name, offset, data, length);
    if (lane->number != UM_SYS_LANE_BULK) um__wake_for_zeros(lane->disk, before);
    return how;
}

/* Making a huge page takes the kernel up to four milliseconds, and whoever is about to run on that CPU waits for it: the node's own
 * event loop, other nodes', the kernel's thread that tells of a write. So it is done only while nobody else wants the CPU, and left as soon as
 * somebody does. */
static void um__give_way(void) {
    const struct sched_param none = {0};
    pthread_setschedparam(pthread_self(), SCHED_IDLE, &none); /* refused: it does without */
}

static void *um__run(void *argument) {
    um__lane *lane = argument;
    um_sys_disk *disk = lane->disk;
    if (lane->number == UM_SYS_LANE_MEMORY) um__give_way();
    for (uint32_t next = 0;; next++) {
        if (!um__has_work(lane, next)) um__wait(lane, next);
        if (!um__has_work(lane, next)) break; /* stopping, and everything done */
        um__slot *slot = &lane->slots[next % UM_SYS_DEPTH];
        um__outcome how = {UM_SYS_OK, 0, 0};
        if (slot->kind == UM_SYS_CALL) slot->function(slot->data);
        else if (slot->kind == UM_SYS_TOUCH) um__touch(slot->data, slot->length);
        else how = um__do(lane, slot->kind, slot->name, slot->offset, slot->data, slot->length);
        slot->done = (um_sys_done){slot->op,   how.bytes,  um__now_ns() - slot->submitted_ns, lane->number,
                                   slot->kind, how.status, how.error};
        atomic_store_explicit(&lane->completed, next + 1, memory_order_release);
        um__signal(disk);
    }
    return NULL;
}

static int um__lane_start(um__lane *lane) {
    pthread_attr_t attributes;
    sigset_t all, before;
    if (pthread_attr_init(&attributes)) return -ENOMEM;
    pthread_attr_setstacksize(&attributes, UM__STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals belong to the event loop's thread */
    int error = pthread_create(&lane->thread, &attributes, um__run, lane);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (error) return -error;
    static const char *const names[UM_SYS_LANES] = {"um-journal", "um-bulk", "um-read", "um-work", "um-memory"};
    pthread_setname_np(lane->thread, names[lane->number]);
    return 0;
}

static void um__stop(um_sys_disk *disk, uint32_t lanes) {
    atomic_store(&disk->stopping, 1);
    for (uint32_t i = 0; i < lanes; i++) {
        um__wake(&disk->lanes[i]);
        pthread_join(disk->lanes[i].thread, NULL);
        um__files_close(&disk->lanes[i].files);
    }
    if (disk->eventfd >= 0) close(disk->eventfd);
    um__root_close(&disk->root);
    free(disk);
}

um_sys_disk *um_sys_open(const char *directory, uint32_t flags, int32_t *error) {
    um_sys_disk *disk = aligned_alloc(64, (sizeof *disk + 63) / 64 * 64);
    if (!disk) {
        *error = ENOMEM;
        return NULL;
    }
    memset(disk, 0, sizeof *disk);
    int bad = um__root_open(&disk->root, directory, flags);
    if (bad) {
        free(disk);
        *error = -bad;
        return NULL;
    }
    disk->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (disk->eventfd < 0) bad = -errno;
    uint32_t started = 0;
    while (!bad && started < UM_SYS_LANES) {
        um__lane *lane = &disk->lanes[started];
        lane->number = started;
        lane->disk = disk;
        um__files_init(&lane->files, &disk->root, started);
        bad = um__lane_start(lane);
        if (!bad) started++;
    }
    *error = -bad;
    if (!bad) return disk;
    um__stop(disk, started);
    return NULL;
}

void um_sys_close(um_sys_disk *disk) { um__stop(disk, UM_SYS_LANES); }

int um_sys_eventfd(um_sys_disk *disk) { return disk->eventfd; }

int um_sys_is_direct(um_sys_disk *disk) { return disk->root.direct; }

/* The slot for the next submission, its time noted; NULL: the ring is full. `um__publish` gives it to the thread. */
static um__slot *um__free_slot(um__lane *lane, uint32_t kind, uint64_t op) {
    uint32_t submitted = atomic_load_explicit(&lane->submitted, memory_order_relaxed);
    if (submitted - lane->drained >= UM_SYS_DEPTH) return NULL;
    um__slot *slot = &lane->slots[submitted % UM_SYS_DEPTH];
    slot->op = op;
    slot->kind = kind;
    slot->submitted_ns = um__now_ns();
    return slot;
}

static int um__publish(um__lane *lane) {
    atomic_fetch_add(&lane->submitted, 1);
    um__wake(lane);
    return 1;
}

int um_sys_submit(um_sys_disk *disk, uint32_t lane_number, uint32_t kind, uint64_t op, const char *file, uint64_t offset,
                  void *data, uint64_t length) {
    um__lane *lane = &disk->lanes[lane_number];
    um__slot *slot = lane_number == UM_SYS_LANE_JOURNAL && disk->told ? NULL : um__free_slot(lane, kind, op);
    if (!slot) return 0;
    slot->offset = offset;
    slot->data = data;
    slot->length = length;
    strncpy(slot->name, file, sizeof slot->name - 1);
    slot->name[sizeof slot->name - 1] = 0;
    return um__publish(lane);
}

int um_sys_call(um_sys_disk *disk, uint64_t op, uint64_t function, uint64_t argument) {
    um__lane *lane = &disk->lanes[UM_SYS_LANE_WORK];
    um__slot *slot = um__free_slot(lane, UM_SYS_CALL, op);
    if (!slot) return 0;
    slot->function = (void (*)(void *))(uintptr_t)function;
    slot->data = (void *)(uintptr_t)argument;
    return um__publish(lane);
}

int um_sys_touch(um_sys_disk *disk, uint64_t op, uint64_t address, uint64_t bytes) {
    um__lane *lane = &disk->lanes[UM_SYS_LANE_MEMORY];
    um__slot *slot = um__free_slot(lane, UM_SYS_TOUCH, op);
    if (!slot) return 0;
    slot->data = (void *)(uintptr_t)address;
    slot->length = bytes;
    return um__publish(lane);
}

/* An idle lane's files are the caller's: its thread touches them only between seeing a submission (which the caller
 * makes) and publishing the completion (which the caller has seen). */
static int um__journal_is_idle(um_sys_disk *disk) {
    um__lane *lane = &disk->lanes[UM_SYS_LANE_JOURNAL];
    return lane->drained == atomic_load_explicit(&lane->submitted, memory_order_relaxed) && !disk->told;
}

static um__files *um__own(um_sys_disk *disk, uint64_t op) {
    disk->own_op = op;
    disk->own_began_ns = um__now_ns();
    return &disk->lanes[UM_SYS_LANE_JOURNAL].files;
}

static um_sys_done um__own_done(um_sys_disk *disk, um__outcome how) {
    return (um_sys_done){disk->own_op, how.bytes, um__now_ns() - disk->own_began_ns, UM_SYS_LANE_JOURNAL, UM_SYS_WRITE, how.status, how.error};
}

int um_sys_write_begin(um_sys_disk *disk, uint64_t op, const char *file, uint64_t offset, void *data, uint64_t length) {
    if (!um__journal_is_idle(disk) || length > UM_SYS_OWN_BYTES_MAX) return 0;
    uint32_t before = atomic_load(&disk->root.ahead.version);
    um__begin(um__own(disk, op), &disk->own, file, offset, data, length);
    um__wake_for_zeros(disk, before);
    return 1;
}

void um_sys_write_end(um_sys_disk *disk, um_sys_done *done) {
    uint32_t before = atomic_load(&disk->root.ahead.version);
    um__outcome how = um__end(&disk->lanes[UM_SYS_LANE_JOURNAL].files, &disk->own);
    um__wake_for_zeros(disk, before);
    *done = um__own_done(disk, how);
}

int um_sys_write_told(um_sys_disk *disk, uint64_t op, const char *file, uint64_t offset, void *data, uint64_t length) {
    if (!um__journal_is_idle(disk) || length > UM_SYS_TOLD_BYTES_MAX) return 0;
    uint32_t before = atomic_load(&disk->root.ahead.version);
    disk->told = um__begin_told(um__own(disk, op), &disk->own, file, offset, data, length, disk->eventfd);
    um__wake_for_zeros(disk, before);
    return disk->told;
}

uint32_t um_sys_drain(um_sys_disk *disk, um_sys_done *out, uint32_t max) {
    uint64_t count;
    while (read(disk->eventfd, &count, sizeof count) < 0 && errno == EINTR) {}
    atomic_store(&disk->signalled, 0);
    uint32_t taken = 0, left = 0;
    um__outcome how;
    if (max && disk->told && um__ended(&disk->lanes[UM_SYS_LANE_JOURNAL].files, &disk->own, &how)) {
        disk->told = 0;
        out[taken++] = um__own_done(disk, how);
    }
    for (uint32_t i = 0; i < UM_SYS_LANES; i++) {
        um__lane *lane = &disk->lanes[i];
        uint32_t completed = atomic_load(&lane->completed);
        while (lane->drained != completed && taken < max) {
            out[taken++] = lane->slots[lane->drained % UM_SYS_DEPTH].done;
            lane->drained++;
        }
        left += completed - lane->drained;
    }
    if (left) um__signal(disk); /* `out` was too small: come again */
    return taken;
}

/* test_sysio_call.c - claims over the work lane of csrc/sysio, which calls functions.
 *
 * Nothing here waits by the clock: a call that is to be under way stands at a gate until the test opens it.
 * Usage: test_sysio_call [directory to work in]
 */
#define _GNU_SOURCE
#include "sysio_fixture.h"
#include <pthread.h>
#include <string.h>

typedef struct {
    uint32_t calls, order;   /* how often, and as the how-maniest of all */
    pthread_t thread;
    char name[16];
} visit;

static uint32_t visits_made;

static void visited(void *argument) {
    visit *v = argument;
    v->calls++;
    v->order = visits_made++;
    v->thread = pthread_self();
    pthread_getname_np(v->thread, v->name, sizeof v->name);
}

/* Somebody stands at the gate until it is opened. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int arrived, open, passed;
} gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, 0};

static void through_the_gate(void *unused) {
    (void)unused;
    pthread_mutex_lock(&gate.lock);
    gate.arrived++;
    pthread_cond_broadcast(&gate.changed);
    while (!gate.open) pthread_cond_wait(&gate.changed, &gate.lock);
    gate.passed++;
    pthread_mutex_unlock(&gate.lock);
}

static void close_gate(void) {
    pthread_mutex_lock(&gate.lock);
    gate.arrived = gate.open = gate.passed = 0;
    pthread_mutex_unlock(&gate.lock);
}

static void await_arrival(void) {
    pthread_mutex_lock(&gate.lock);
    while (!gate.arrived) pthread_cond_wait(&gate.changed, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
}

static void open_gate(void) {
    pthread_mutex_lock(&gate.lock);
    gate.open = 1;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
}

static void *opening(void *unused) {
    open_gate();
    return unused;
}

static int call(uint64_t op, void (*function)(void *), void *argument) {
    return um_sys_call(disk, op, (uint64_t)(uintptr_t)function, (uint64_t)(uintptr_t)argument);
}

static void open_disk(void) {
    int32_t error = 0;
    disk = um_sys_open(directory, 0, &error);
    CHECK(disk && error == 0);
}

static void a_call_is_made_once_in_the_work_lanes_thread(void) {
    visit v = {0};
    um_sys_done done;
    CHECK(call(77, visited, &v));
    CHECK(drain(&done, 1) == 1);
    CHECK(done.op == 77 && done.kind == UM_SYS_CALL && done.lane == UM_SYS_LANE_WORK);
    CHECK(done.status == UM_SYS_OK && done.error == 0 && done.bytes == 0);
    CHECK(v.calls == 1 && !pthread_equal(v.thread, pthread_self()) && strcmp(v.name, "um-work") == 0);
    CHECK(um_sys_drain(disk, &done, 1) == 0);
}

static void a_call_under_way_has_no_completion_yet(void) {
    um_sys_done done;
    close_gate();
    CHECK(call(5, through_the_gate, NULL));
    await_arrival();
    CHECK(um_sys_drain(disk, &done, 1) == 0 && !gate.passed);
    open_gate();
    CHECK(drain(&done, 1) == 1 && done.op == 5 && done.taken_ns > 0 && gate.passed == 1);
}

static void calls_are_made_in_the_order_given_and_each_once(void) {
    enum { CALLS = 2000 };
    static visit visits[CALLS];
    um_sys_done done[7];
    uint32_t given = 0, seen = 0;
    memset(visits, 0, sizeof visits);
    visits_made = 0;
    while (seen < CALLS) {
        while (given < CALLS && call(given, visited, &visits[given])) given++;
        CHECK(given - seen <= UM_SYS_DEPTH);
        uint32_t n = drain(done, 7);
        for (uint32_t i = 0; i < n; i++) CHECK(done[i].op == seen++ && done[i].kind == UM_SYS_CALL);
    }
    CHECK(um_sys_drain(disk, done, 7) == 0);
    for (uint32_t i = 0; i < CALLS; i++) CHECK(visits[i].calls == 1 && visits[i].order == i);
}

static void a_full_ring_refuses_and_what_it_refused_is_never_called(void) {
    static visit accepted[UM_SYS_DEPTH], refused;
    um_sys_done done[UM_SYS_DEPTH];
    memset(accepted, 0, sizeof accepted);
    close_gate();
    CHECK(call(0, through_the_gate, NULL));
    await_arrival();
    for (uint64_t op = 1; op < UM_SYS_DEPTH; op++) CHECK(call(op, visited, &accepted[op]));
    CHECK(!call(999, visited, &refused) && !call(999, visited, &refused));
    open_gate();
    uint32_t seen = 0;
    while (seen < UM_SYS_DEPTH) {
        uint32_t n = drain(done, UM_SYS_DEPTH);
        for (uint32_t i = 0; i < n; i++) CHECK(done[i].op == seen++);
    }
    for (uint64_t op = 1; op < UM_SYS_DEPTH; op++) CHECK(accepted[op].calls == 1);
    CHECK(refused.calls == 0);
    CHECK(call(1000, visited, &refused));   /* once drained there is room again */
    CHECK(drain(done, 1) == 1 && done[0].op == 1000 && refused.calls == 1);
}

static void a_call_that_takes_long_keeps_no_file_waiting(void) {
    uint8_t *data = NULL;
    um_sys_done done;
    CHECK(posix_memalign((void **)&data, BLOCK, BLOCK) == 0);
    memset(data, 0x5a, BLOCK);
    close_gate();
    CHECK(call(1, through_the_gate, NULL));
    await_arrival();
    CHECK(um_sys_submit(disk, UM_SYS_LANE_BULK, UM_SYS_CREATE, 2, "beside", 0, NULL, BLOCK));
    CHECK(drain(&done, 1) == 1 && done.op == 2 && done.status == UM_SYS_OK);
    CHECK(um_sys_submit(disk, UM_SYS_LANE_JOURNAL, UM_SYS_WRITE, 3, "beside", 0, data, BLOCK));
    CHECK(drain(&done, 1) == 1 && done.op == 3 && done.status == UM_SYS_OK);
    CHECK(um_sys_submit(disk, UM_SYS_LANE_READ, UM_SYS_READ, 4, "beside", 0, data, BLOCK));
    CHECK(drain(&done, 1) == 1 && done.op == 4 && done.kind == UM_SYS_READ && done.bytes == BLOCK);
    open_gate();
    CHECK(drain(&done, 1) == 1 && done.op == 1 && done.kind == UM_SYS_CALL);
    free(data);
}

/* The calls behind the gate are still in the ring when close begins: another thread opens it. */
static void close_makes_the_calls_that_were_accepted(void) {
    static visit visits[100];
    pthread_t opener;
    memset(visits, 0, sizeof visits);
    close_gate();
    CHECK(call(0, through_the_gate, NULL));
    await_arrival();
    for (uint64_t i = 0; i < 100; i++) CHECK(call(1 + i, visited, &visits[i]));
    CHECK(pthread_create(&opener, NULL, opening, NULL) == 0);
    um_sys_close(disk);
    CHECK(gate.passed == 1);
    for (int i = 0; i < 100; i++) CHECK(visits[i].calls == 1);
    CHECK(pthread_join(opener, NULL) == 0);
}

int main(int argc, char **argv) {
    make_directory(argc, argv);
    open_disk();
    a_call_is_made_once_in_the_work_lanes_thread();
    a_call_under_way_has_no_completion_yet();
    calls_are_made_in_the_order_given_and_each_once();
    a_full_ring_refuses_and_what_it_refused_is_never_called();
    a_call_that_takes_long_keeps_no_file_waiting();
    close_makes_the_calls_that_were_accepted();
    remove_directory();
    puts("test_sysio_call: ok");
    return 0;
}

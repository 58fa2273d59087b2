/* test_job.c - a job of entries is what um_apply does to them one by one, whoever runs it and however often.
 *
 * A pair is two worlds with the same log: `plain` has applied every entry as it was written, `aside` has it still to do,
 * as one job. Entries and results have exactly their size on the heap, so that the sanitizer sees what lies beyond.
 */
#include "state_fixture.h"
#include <pthread.h>
#include <sched.h>

#define ENTRIES_MAX 32
#define RUNNERS 4
#define UNTOUCHED 0xEE

typedef struct {
    world *plain, *aside;
    um_job job;
    uint8_t *entries[ENTRIES_MAX];
    um_summary *summaries;      /* what um_apply said, end to end */
    uint8_t *verdicts;
    um_applied applied[ENTRIES_MAX];
    uint32_t batch_count, row_count;
} pair;

static world *metered(void) {
    world *w = world_new(plenty());
    um_metric *m = add_metric(w, UM_AGG_SUM);
    add_dimension(m, "region");
    add_threshold(m, 40, 1);
    add_threshold(m, 400, 0);
    return w;
}

static pair *pair_new(void) {
    pair *p = zeroed(sizeof *p);
    p->plain = metered();
    p->aside = metered();
    p->summaries = zeroed(ENTRIES_MAX * BATCHES_MAX * sizeof *p->summaries);
    p->verdicts = zeroed(ENTRIES_MAX * ROWS_MAX);
    return p;
}

/* What the pen has written becomes the next entry of the log. */
static void entry(pair *p) {
    world *w = p->plain;
    um_entry *e = head(w);
    e->kind = UM_ENTRY_BATCHES;
    e->body_len = (uint32_t)(w->used - sizeof *e);
    e->index = ++w->index;
    e->term = 1;
    e->stamp_ns = ++w->stamp;
    e->first_seq = meta(w)->next_seq;
    assert(p->job.count < ENTRIES_MAX);
    const uint32_t number = p->job.count++;
    p->entries[number] = malloc(w->used);
    assert(p->entries[number]);
    memcpy(p->entries[number], w->entry, w->used);
    um_apply(&w->st, w->catalog, p->entries[number], p->summaries + p->batch_count, p->verdicts + p->row_count, &p->applied[number]);
    p->batch_count += e->batch_count;
    p->row_count += e->row_count;
    memset(e, 0, sizeof *e);
    w->used = sizeof *e;
}

/* Entries with everything that a row, a batch and an entry can become: some of several batches, some without a row. */
static void write_log(pair *p, uint32_t entries, uint32_t rows) {
    static const char *const regions[] = {"eu", "us", "asia"};
    static const char *const ids[] = {NULL, NULL, "i1", "i2", "i3"};
    batch(p->plain, UM_BATCH_OPEN_SESSION, 5, 0, 0);
    entry(p);
    for (uint32_t n = 1; n < entries; n++) {
        for (uint64_t part = 0; part <= n % 3; part++) {
            const uint64_t session = part == 1 ? 5 : 0;
            batch(p->plain, part == 2 ? V1 : 0, session, session ? 1 + dice(4) : 0, session ? 1 : 0);
            for (uint32_t i = 0; i < rows; i++) {
                row(p->plain, EVENT(.account = dice(6), .metric = (uint16_t)dice(7), .value = (int64_t)dice(9), .ts = BASE + (int64_t)dice(3) * UM_HOUR_NS,
                                    .id = part ? NULL : ids[dice(5)], .props = {"region", regions[dice(3)]}));
            }
        }
        entry(p);
    }
}

/* The job with memory for what it will say, nothing of it written yet. */
static um_job *job_of(pair *p) {
    um_job *job = &p->job;
    job->state = &p->aside->st;
    job->catalog = p->aside->catalog;
    job->entries = malloc(job->count * sizeof *job->entries);
    job->summaries = malloc(p->batch_count * sizeof *job->summaries);
    job->verdicts = malloc(p->row_count);
    job->applied = malloc(job->count * sizeof *job->applied);
    assert(job->entries && job->summaries && job->verdicts && job->applied);
    for (uint32_t n = 0; n < job->count; n++) job->entries[n] = p->entries[n];
    memset(job->summaries, UNTOUCHED, p->batch_count * sizeof *job->summaries);
    memset(job->verdicts, UNTOUCHED, p->row_count);
    memset(job->applied, UNTOUCHED, job->count * sizeof *job->applied);
    return job;
}

static void must_be_alike(const pair *p) {
    const um_job *job = &p->job;
    assert(um_state_digest(&p->aside->st) == um_state_digest(&p->plain->st));
    assert(memcmp(job->summaries, p->summaries, p->batch_count * sizeof *job->summaries) == 0);
    assert(memcmp(job->verdicts, p->verdicts, p->row_count) == 0);
    assert(memcmp(job->applied, p->applied, job->count * sizeof *job->applied) == 0);
    must_be_sound(p->aside);
}

static void pair_free(pair *p) {
    for (uint32_t n = 0; n < p->job.count; n++) free(p->entries[n]);
    free(p->job.entries);
    free(p->job.summaries);
    free(p->job.verdicts);
    free(p->job.applied);
    free(p->summaries);
    free(p->verdicts);
    world_free(p->plain);
    world_free(p->aside);
    free(p);
}

static void *runner(void *job) {
    um_job_run(job);
    return NULL;
}

static void wait_for(const um_job *job) {
    while (!um_job_done(job)) sched_yield();
}

/* ---- the claims ---- */

static void a_job_leaves_what_its_entries_leave_one_by_one(void) {
    pair *p = pair_new();
    write_log(p, 12, 40);
    um_job *job = job_of(p);
    assert(!um_job_done(job));
    um_job_run(job);
    assert(um_job_done(job));
    must_be_alike(p);
    const um_meta *m = meta(p->aside);   /* and the log was not a dull one */
    assert(m->applied_index == 12 && m->stored && m->duplicates && m->conflicts && m->refused && m->sessions_opened == 1);
    assert(p->job.applied[11].alerts_after > 1 && p->job.applied[11].digest == m->digest && p->job.applied[0].row_count == 0);
    pair_free(p);
}

static void a_job_of_one_entry_and_a_job_of_none_are_jobs(void) {
    pair *p = pair_new();
    batch(p->plain, 0, 0, 0, 0);
    row(p->plain, EVENT(.value = 3));
    entry(p);
    um_job_run(job_of(p));
    assert(um_job_done(&p->job) && p->job.summaries[0].stored == 1);
    must_be_alike(p);
    um_job none = {.state = &p->aside->st, .catalog = p->aside->catalog};
    um_job_run(&none);
    assert(um_job_done(&none));
    must_be_alike(p);
    pair_free(p);
}

static void a_job_that_is_run_again_is_done_once(void) {
    pair *p = pair_new();
    write_log(p, 6, 40);
    um_job *job = job_of(p);
    for (int i = 0; i < 3; i++) {
        um_job_run(job);
        must_be_alike(p);
    }
    pair_free(p);
}

static void a_job_that_somebody_is_at_is_left_to_them(void) {
    pair *p = pair_new();
    write_log(p, 6, 40);
    um_job *job = job_of(p);
    const uint64_t before = um_state_digest(&p->aside->st);
    job->taken = 1;
    um_job_run(job);
    assert(!um_job_done(job) && um_state_digest(&p->aside->st) == before && job->verdicts[0] == UNTOUCHED);
    job->taken = 0;
    um_job_run(job);
    must_be_alike(p);
    pair_free(p);
}

/* Whoever sees `done` sees all of it: a job that said so before its last entry would be caught looking. */
static void another_thread_runs_it_and_whoever_waited_finds_all_of_it(void) {
    for (int round = 0; round < 5; round++) {
        pair *p = pair_new();
        write_log(p, 20, 100);
        um_job *job = job_of(p);
        pthread_t thread;
        assert(pthread_create(&thread, NULL, runner, job) == 0);
        wait_for(job);
        must_be_alike(p);
        assert(pthread_join(thread, NULL) == 0);
        must_be_alike(p);
        pair_free(p);
    }
}

static void of_several_threads_at_once_one_does_it(void) {
    for (int round = 0; round < 5; round++) {
        pair *p = pair_new();
        write_log(p, 20, 100);
        um_job *job = job_of(p);
        pthread_t threads[RUNNERS];
        for (int i = 0; i < RUNNERS; i++) assert(pthread_create(&threads[i], NULL, runner, job) == 0);
        um_job_run(job);
        wait_for(job);
        for (int i = 0; i < RUNNERS; i++) assert(pthread_join(threads[i], NULL) == 0);
        must_be_alike(p);
        pair_free(p);
    }
}

int main(void) {
    RUN(a_job_leaves_what_its_entries_leave_one_by_one);
    RUN(a_job_of_one_entry_and_a_job_of_none_are_jobs);
    RUN(a_job_that_is_run_again_is_done_once);
    RUN(a_job_that_somebody_is_at_is_left_to_them);
    RUN(another_thread_runs_it_and_whoever_waited_finds_all_of_it);
    RUN(of_several_threads_at_once_one_does_it);
    puts("test_job: ok");
    return 0;
}

/* job.c - entries that are applied in one go, by whichever thread comes first.
 *
 *     whoever decides:  fills in the job, offers it to a thread, goes on  ......  finishes it: runs it if nobody has
 *     a thread:                                   runs it
 *
 * `taken` decides who does the work, `done` (release, acquire) hands over what was written. Until it is done nothing else
 * may touch the state. Entries, state, catalog and results must stay where they are for as long.
 */
#include "um_kernels.h"

void um_job_run(void *what) {
    um_job *job = what;
    if (__atomic_exchange_n(&job->taken, 1, __ATOMIC_ACQ_REL)) return;
    um_summary *summaries = job->summaries;
    uint8_t *verdicts = job->verdicts;
    for (uint32_t i = 0; i < job->count; i++) {
        const um_entry *entry = (const um_entry *)(const void *)job->entries[i];
        um_apply(job->state, job->catalog, job->entries[i], summaries, verdicts, &job->applied[i]);
        summaries += entry->batch_count;
        verdicts += entry->row_count;
    }
    __atomic_store_n(&job->done, 1, __ATOMIC_RELEASE);
}

uint32_t um_job_done(const um_job *job) {
    return __atomic_load_n(&job->done, __ATOMIC_ACQUIRE);
}

"""Jobs (kernels.api.Job) for tests: logs to make them of, a thread that works on them, and all that can be seen afterwards."""

from __future__ import annotations

import ctypes
import threading
from typing import Any, NamedTuple

from tests.twin_strategies import BASE, METRICS, Event, v2_batch, v2_frame
from unimeter.kernels.api import Applied, Catalog, GroupState, Job, Kernels, Limits, Summary
from unimeter.kernels.deferred import NO_CALL

CALLED = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
PATIENCE_SECONDS = 30
ROOM = Limits((1, *[200_000] * 11, 4, *[200_000] * 4), 100_000, 1000, 10**15)


class Told(NamedTuple):
    """Everything that apply says of an entry."""

    counts: tuple[int, int]
    times: tuple[int, int]
    alerts: tuple[int, int]
    digest: int
    summaries: list[Summary]
    extracts: list[bytes]


def told(applied: Applied) -> Told:
    batches = range(applied.batch_count)
    parts = [applied.extract(batch, 1) for batch in batches]
    return Told(
        (applied.batch_count, applied.row_count),
        (applied.min_ts, applied.max_ts),
        (applied.alerts_before, applied.alerts_after),
        applied.digest,
        [applied.summary(batch) for batch in batches],
        [applied.extract(0, applied.batch_count), *parts],
    )


def left(state: GroupState) -> tuple[Any, ...]:
    """Everything that can be seen of a state from outside, and a number that stands for the rest."""
    return state.meta(), state.region_counts(), state.digest(), state.alerts(0, None, 1000)


def left_of_work(state: GroupState) -> tuple[Any, ...]:
    """What may be looked at while a job is open (and its thread has ended)."""
    return state.meta(), state.region_counts(), state.digest()


def in_another_thread(job: Job) -> None:
    """What the work lane does: nothing, if the job has no function to call."""
    function, argument = job.call
    if job.call == NO_CALL:
        return
    thread = threading.Thread(target=CALLED(function), args=(argument,))
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def log(kernels: Kernels, catalog: Catalog, count: int, rows: int) -> list[bytes]:
    """So many entries of so many rows, sealed as a leader would."""
    intake = kernels.intake(0, 1 << 24, 1 << 16)
    entries = []
    for n in range(count):
        events = [Event(k % 50, METRICS[7].code, k % 7, BASE + n * 1000 + k) for k in range(rows)]
        frame = v2_frame(2, n, v2_batch(events))
        intake.take(catalog, frame, kernels.frame_scan(frame, 1 << 24), 0, 1)
        entries.append(bytes(intake.seal(0, n + 1, 1, BASE + n, 1 + n * rows)))
        assert intake.row_count == rows
        intake.clear()
    return entries


def catalog_of(kernels: Kernels) -> Catalog:
    return kernels.catalog([metric.pack(number) for number, metric in enumerate(METRICS)])

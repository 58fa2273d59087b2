"""The work lane of the real disk: jobs of the kernels are done beside the event loop, and their end is told in it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.jobs import PATIENCE_SECONDS, ROOM, catalog_of, log, told
from unimeter import kernels
from unimeter.core.effects import Apply, Create, Read
from unimeter.core.inputs import ApplyDone, ReadDone, WriteDone
from unimeter.io.real._sysio import lib
from unimeter.io.real.disk import RealDisk
from unimeter.kernels.api import GroupState, Job, Kernels
from unimeter.kernels.deferred import NO_CALL, DeferredJob

BLOCK = 4096
Completion = WriteDone | ReadDone | ApplyDone


class Desk:
    """A real disk, and what it told."""

    def __init__(self, directory: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.done: list[Completion] = []
        self._awaited = 0
        self.disk = RealDisk(directory, self.loop)
        self.disk.start(self._told, lambda _event: None)

    def _told(self, completion: Completion) -> None:
        self.done.append(completion)
        if len(self.done) >= self._awaited:
            self.loop.stop()

    def hear(self, count: int) -> list[Completion]:
        """Run until so many completions have come; all of them."""
        self._awaited = len(self.done) + count
        late = self.loop.call_later(PATIENCE_SECONDS, self.loop.stop)
        self.loop.run_forever()
        assert late.when() > self.loop.time(), "the end of a job was not told"
        late.cancel()
        self.look_round()
        done, self.done = self.done, []
        return done

    def look_round(self) -> None:
        """What is due already, and nothing that has to be waited for."""
        for _ in range(3):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()


def a_desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "data")
    yield made
    if made.disk._disk:
        made.disk.close()
    made.loop.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    yield from a_desk(tmp_path)


def gives_way() -> int:
    """This thread does, if it may; what it is after that."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    return os.sched_getscheduler(0)


def test_memory_is_made_only_while_nobody_else_wants_the_cpu(desk: Desk) -> None:
    """To make a huge page takes up to four milliseconds, and other nodes' event loops, or the end of a write, would wait for it."""
    as_it_may = ThreadPoolExecutor(1).submit(gives_way).result()  # as others, where no thread may say so
    policies: dict[str, int] = {}
    late = time.monotonic() + PATIENCE_SECONDS
    while policies.get("um-memory") != as_it_may and time.monotonic() < late:  # it says so when it begins
        for thread in Path("/proc/self/task").iterdir():
            name = (thread / "comm").read_text().strip()
            if name.startswith("um-"):
                policies[name] = os.sched_getscheduler(int(thread.name))
    assert len(policies) == lib.UM_SYS_LANES and desk.done == []
    assert policies.pop("um-memory") == as_it_may
    assert set(policies.values()) == {os.SCHED_OTHER}


class Work:
    """A log to be applied as one job, and what became of it one by one."""

    def __init__(self, name: str = "native", entries: int = 4, rows: int = 200) -> None:
        self.kernels: Kernels = kernels.load(name)
        self.catalog = catalog_of(self.kernels)
        self.entries = log(self.kernels, self.catalog, entries, rows)
        plain = self.kernels.state(ROOM)
        self.expected = [told(plain.apply(self.catalog, entry)) for entry in self.entries]
        self.digest = plain.digest()
        self.state: GroupState = self.kernels.state(ROOM)

    def begin(self) -> Job:
        return self.state.begin(self.catalog, self.entries)

    @property
    def applied(self) -> int:
        return self.state.meta().applied_index

    def check(self, job: Job) -> None:
        assert [told(applied) for applied in job.finish()] == self.expected
        assert self.state.digest() == self.digest


def test_a_job_is_done_by_the_work_lane_before_its_end_is_told(desk: Desk) -> None:
    work = Work()
    job = work.begin()
    desk.disk.work(Apply(7, job))
    assert desk.done == []
    assert desk.hear(1) == [ApplyDone(7)]
    assert work.applied == 4, "nobody had to finish it for that"
    assert desk.disk.figures.calls == 1
    work.check(job)


def test_a_job_that_was_finished_meanwhile_is_done_once_and_its_end_is_told_once(desk: Desk) -> None:
    work = Work(rows=5000)
    job = work.begin()
    desk.disk.work(Apply(7, job))
    work.check(job)
    assert desk.hear(1) == [ApplyDone(7)]
    assert work.state.digest() == work.digest


def test_jobs_are_told_in_their_order(desk: Desk) -> None:
    works = [Work(rows=50) for _ in range(5)]
    jobs = [work.begin() for work in works]
    for op, job in enumerate(jobs):
        desk.disk.work(Apply(op, job))
    assert desk.hear(5) == [ApplyDone(op) for op in range(5)]
    for work, job in zip(works, jobs, strict=True):
        work.check(job)


@pytest.mark.parametrize("name", ["native", "reference"])
def test_a_job_without_a_function_is_told_and_left_to_whoever_finishes_it(desk: Desk, name: str) -> None:
    work = Work(name, rows=20)
    job = DeferredJob(work.state, work.catalog, work.entries)
    desk.disk.work(Apply(3, job))
    assert desk.done == [], "never from inside the call"
    assert desk.hear(1) == [ApplyDone(3)]
    assert work.applied == 0 and desk.disk.figures.calls == 0
    work.check(job)


def test_jobs_that_the_full_lane_refuses_are_told_all_the_same(desk: Desk) -> None:
    """One job under many numbers: it is done once. Nothing is taken from the ring before the loop runs."""
    work = Work(rows=10)
    job = work.begin()
    count = 2 * lib.UM_SYS_DEPTH + 50
    for op in range(count):
        desk.disk.work(Apply(op, job))
    assert desk.done == []
    done = desk.hear(count)
    assert sorted(completion.op for completion in done) == list(range(count))
    assert all(isinstance(completion, ApplyDone) for completion in done)
    assert desk.disk.figures.calls == lib.UM_SYS_DEPTH
    work.check(job)


def test_files_and_jobs_are_told_apart_and_each_is_told(desk: Desk) -> None:
    work = Work(rows=1000)
    job = work.begin()
    desk.disk.submit(Create(1, "a", BLOCK))
    desk.disk.work(Apply(2, job))
    assert sorted(desk.hear(2)) == [(1, None), (2,)]
    desk.disk.submit(Read(3, "a", 0, BLOCK))
    desk.disk.work(Apply(4, job))
    assert {completion.op: type(completion) for completion in desk.hear(2)} == {3: ReadDone, 4: ApplyDone}
    work.check(job)


def test_every_end_is_told_by_way_of_around(desk: Desk) -> None:
    """What runs around a drain sees the ends of jobs too, those that nobody worked on among them."""
    heard: list[list[int]] = []

    def around(drain: object) -> None:
        before = len(desk.done)
        assert callable(drain)
        drain()
        heard.append([completion.op for completion in desk.done[before:]])

    desk.disk.around = around
    native, deferred = Work(rows=10), Work(rows=10)
    desk.disk.work(Apply(1, native.begin()))
    desk.disk.work(Apply(2, DeferredJob(deferred.state, deferred.catalog, deferred.entries)))
    desk.hear(2)
    assert sorted(op for ops in heard for op in ops) == [1, 2]


def test_a_job_is_held_until_its_end_is_told(desk: Desk) -> None:
    """Nobody else may have it any more: the node forgets a job that it finished itself."""
    work = Work(rows=2000)
    job = work.begin()
    held = weakref.ref(job)
    desk.disk.work(Apply(1, job))
    work.check(job)
    del job
    gc.collect()
    assert held() is not None
    assert desk.hear(1) == [ApplyDone(1)]
    gc.collect()
    assert held() is None


def test_close_with_a_job_under_way_finishes_it_and_tells_nobody(desk: Desk) -> None:
    work = Work(rows=20_000)
    job = work.begin()
    desk.disk.work(Apply(1, job))
    desk.disk.close()
    assert work.applied == 4, "the lane was waited for"
    desk.look_round()
    assert desk.done == []
    work.check(job)


def test_close_with_a_job_that_nobody_works_on_tells_nobody(desk: Desk) -> None:
    work = Work(rows=10)
    job = DeferredJob(work.state, work.catalog, work.entries)
    assert job.call == NO_CALL
    desk.disk.work(Apply(1, job))
    desk.disk.close()
    desk.look_round()
    assert desk.done == [] and work.applied == 0

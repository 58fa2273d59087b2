"""Claims about rows that are applied while the disk still writes them: nobody sees anything of them before they are durable."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.aside_bench import ALL_TIME, RESTLESS, ROWS, AsideBench, answers, ingest, started, stored, total
from tests.cluster_bench import CLUSTER, ClusterBench
from tests.harness import JAN_1, v1, v1_event, v1_ingest, v1_metric, v1_usage
from tests.test_core_cluster import Clients
from unimeter.core.effects import Write
from unimeter.core.inputs import DiskError, Input, WriteDone
from unimeter.core.queries import JOBS_IN_TURN
from unimeter.kernels import protocol as wire


@pytest.fixture(params=[True, False], ids=["worked on", "left alone"])
def bench(request: pytest.FixtureRequest) -> AsideBench:
    return started(worked=request.param)


def run_ahead(bench: AsideBench, first: int = 0) -> None:
    """Rows are being written, and applied."""
    bench.feed(1, ingest(ROWS, first))
    bench.turn()
    assert bench.pending and bench.open and len(bench.jobs) == 1 and bench.node.groups[0].tentative


def status(bench: AsideBench) -> tuple[int, int, int]:
    """(index, digest, events) as a client is told."""
    group = bench.node.groups[0]
    group.settle()
    meta = group.meta()
    return meta.applied_index, meta.digest, meta.stored


def test_many_rows_are_applied_while_they_are_written_and_answered_when_both_is_over(bench: AsideBench) -> None:
    run_ahead(bench)
    bench.done()
    assert bench.take(1) == b"" and bench.open
    bench.disk()
    assert stored(bench.take(1)) == [(1, ROWS)] and not bench.open
    assert bench.jobs_seen == 1 and total(bench) == ROWS
    run_ahead(bench)
    bench.disk()
    assert bench.take(1) == b"" and bench.open
    bench.done()
    assert len(answers(bench.take(1))) == 1 and not bench.open


def test_few_rows_are_not(bench: AsideBench) -> None:
    bench.feed(1, ingest(ROWS - 1))
    bench.turn()
    assert bench.pending and not bench.open and not bench.jobs


def test_the_next_rows_are_begun_with_when_the_ones_before_are_durable(bench: AsideBench) -> None:
    run_ahead(bench)
    bench.feed(1, ingest(ROWS, 1000, request_id=2))
    bench.done()
    assert len(bench.jobs) == 0
    bench.disk(1)
    bench.turn()
    assert stored(bench.take(1)) == [(1, ROWS)]
    assert len(bench.jobs) == 1 and bench.pending and bench.node.groups[0].tentative
    bench.settle()
    assert stored(bench.take(1)) == [(2, ROWS)] and total(bench) == 2 * ROWS


@pytest.mark.parametrize("done", [True, False])
def test_a_query_waits_for_the_disk(bench: AsideBench, done: bool) -> None:
    run_ahead(bench)
    bench.feed(2, v1_usage(7, "calls", *ALL_TIME))
    bench.feed(2, v1(wire.V1_TYPE_EVENTS_LIST, wire.V1_EVENTS_LIST.pack(7, 0, 2**62), 2))
    bench.feed(2, v1(wire.V1_TYPE_ALERTS_LIST, wire.V1_ALERTS_LIST.pack(0, 0), 3))
    if done:
        bench.done()
    bench.turn()
    assert bench.take(2) == b""
    bench.settle()
    found = {number: payload for number, _, payload in answers(bench.take(2))}
    assert wire.V1_AGGREGATE.unpack(found[1])[2] in (0, ROWS)
    assert len(found) == 3
    assert stored(bench.take(1)) == [(1, ROWS)]
    assert total(bench) == ROWS


def test_queries_are_served_between_one_job_and_the_next(bench: AsideBench) -> None:
    """A client that always has more to write must not keep everybody else from reading, nor make them wait for the disk
    again and again."""
    run_ahead(bench)
    for n in range(1, 6):
        bench.feed(1, ingest(ROWS, 1000 * n, request_id=n))
        bench.feed(2, v1_usage(7, "calls", *ALL_TIME))
        if bench.jobs:
            bench.done()
        bench.disk(1)
        bench.turn()
        ((_, status, payload),) = answers(bench.take(2))
        assert status == 0 and wire.V1_AGGREGATE.unpack(payload)[2] >= ROWS * n - ROWS
        assert not bench.node.groups[0].tentative, "nothing runs ahead of the disk while somebody asks"


def test_when_nobody_has_asked_for_a_while_rows_run_ahead_again(bench: AsideBench) -> None:
    run_ahead(bench)
    bench.feed(2, v1_usage(7, "calls", *ALL_TIME))
    bench.settle()
    assert bench.take(1) and bench.take(2)
    for n in range(JOBS_IN_TURN):
        bench.feed(1, ingest(ROWS, 1000 * (n + 1), request_id=n))
        bench.turn()
        assert not bench.node.groups[0].tentative
        bench.settle()
        assert bench.take(1)
    run_ahead(bench, 1_000_000)


def test_what_is_lost_in_a_crash_was_seen_by_nobody(bench: AsideBench) -> None:
    before = status(bench)
    run_ahead(bench)
    bench.done()
    assert status(bench) == before
    assert bench.take(1) == b""
    assert total(bench.crash()) == 0


def test_status_goes_on_once_they_are_durable(bench: AsideBench) -> None:
    index, digest, events = status(bench)
    run_ahead(bench)
    bench.settle()
    after = status(bench)
    assert (
        after[0] == index + 1
        and after[1] != digest
        and after[2] == events + ROWS
        and after[0] == bench.node.groups[0].applied_index
    )


def test_a_subscriber_is_not_told_of_an_alert_that_is_not_durable(bench: AsideBench) -> None:
    assert bench.ask(2, v1(wire.V1_TYPE_ALERT_ENABLE)) == (0, b"")
    run_ahead(bench)
    bench.done()
    bench.turn()
    assert bench.take(2) == b""
    bench.settle()
    assert len(bench.take(2)) == 12 + wire.V1_ALERT_PUSH.size


def test_a_write_that_fails_halts_the_node_and_nobody_is_answered(bench: AsideBench) -> None:
    run_ahead(bench)
    bench.done()
    (write,) = bench.pending
    assert isinstance(write, Write)
    bench.pending.clear()
    bench.step(WriteDone(write.op, DiskError.FAILED))
    assert bench.halted is not None and bench.take(1) == b""


@pytest.mark.parametrize("worked", [True, False])
def test_a_checkpoint_holds_only_what_is_durable_and_is_not_put_off_for_ever(worked: bool) -> None:
    """There is always more to write; a due checkpoint ends running ahead until it has begun."""
    bench = started(RESTLESS, worked)
    for n in range(40):
        bench.feed(1, ingest(ROWS, 1000 * n, request_id=n))
        if bench.jobs:
            bench.done()
        bench.disk(1)
        bench.turn()
    assert bench.node.serving is not None and bench.node.serving.upkeep.checkpoints_written > 0
    answered = sum(count for _, count in stored(bench.take(1)))
    again = bench.crash()
    assert answered <= total(again) <= 40 * ROWS
    bench.settle()
    answered += sum(count for _, count in stored(bench.take(1)))
    assert answered == total(bench) == 40 * ROWS == total(bench.crash())


def test_a_scan_under_way_does_not_wait_for_the_disk(bench: AsideBench) -> None:
    for n in range(4):
        bench.feed(1, ingest(60, 60 * n))
        bench.disk()
    assert len(stored(bench.take(1))) == 4
    bench.feed(2, v1_usage(7, "calls", JAN_1 + 5, JAN_1 + 235))
    bench.turn()
    (read,) = bench.pending
    bench.pending.clear()
    run_ahead(bench, 1000)
    (write,) = bench.pending
    bench.pending[:] = [read]
    bench.disk()
    ((_, status, payload),) = answers(bench.take(2))
    assert (status, wire.V1_AGGREGATE.unpack(payload)[2]) == (0, 230)
    bench.pending.append(write)
    bench.settle()
    assert stored(bench.take(1)) == [(1, ROWS)]
    assert total(bench) == 240 + ROWS


def test_a_change_of_the_metrics_is_applied_in_its_place(bench: AsideBench) -> None:
    bench.feed(2, v1(wire.V1_TYPE_METRIC_DELETE, b"calls".ljust(64, b"\0")))
    bench.feed(1, ingest(ROWS))
    bench.settle()
    assert len(answers(bench.take(2))) == len(answers(bench.take(1))) == 1
    assert bench.ask(1, v1_ingest(v1_event("calls", 7, 1, JAN_1)))[0] != 0


class Watched(ClusterBench):
    jobs = 0

    def step(self, number: int, event: Input) -> None:
        super().step(number, event)
        node = self.machines[number].node
        for group in node.groups if node is not None else ():
            self.jobs += group.aside
            assert not group.tentative, "what is not committed yet can still be superseded"


def watched(groups: int, rows: int) -> Watched:
    """Three nodes after eight batches of so many rows, one by one. Forty rows of a group are worth a job."""
    config = replace(
        CLUSTER, apply_busy_rows=10, apply_aside_rows=10, apply_replicated_rows=40, apply_aside_rows_max=80
    )
    bench = Watched(3, groups, config)
    bench.start()
    bench.run(5000, bench.ready)
    clients = Clients(bench)
    assert clients.anywhere(v1_metric("calls"))[0] == 0
    for n in range(8):
        events = [v1_event("calls", account, 1, JAN_1 + 100 * n + account) for account in range(rows)]
        assert clients.anywhere(v1_ingest(*events, sync=True))[0] == 0
    return bench


def test_nothing_runs_ahead_where_others_decide_too() -> None:
    assert watched(groups=2, rows=200).jobs


def test_what_is_not_worth_a_job_is_applied_in_the_step_where_entries_are_replicated() -> None:
    assert watched(groups=1, rows=39).jobs == 0
    assert watched(groups=1, rows=40).jobs > 0

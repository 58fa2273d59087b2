"""Claims about async requests while somebody reads: what clients were told is ordered is what a read must wait for, so
only a bounded part of it is on its way."""

from __future__ import annotations

from dataclasses import replace

from tests.aside_bench import ALL_TIME, ASIDE, ROWS, AsideBench, answers, ingest, started, stored, total
from tests.harness import v1_usage
from unimeter.core.queries import JOBS_IN_TURN
from unimeter.kernels import protocol as wire

BOUND = 2 * ROWS
BOUNDED = replace(ASIDE, ordered_rows_asked_max=BOUND)


def asked(bench: AsideBench) -> None:
    """Somebody had to wait for rows that were ordered."""
    bench.feed(1, ingest(ROWS, sync=False))
    bench.turn()
    assert stored(bench.take(1)) == [(1, ROWS)], "answered before it is durable"
    bench.feed(2, v1_usage(7, "calls", *ALL_TIME))
    bench.turn()
    assert bench.take(2) == b""
    bench.settle()
    ((_, status, payload),) = answers(bench.take(2))
    assert status == 0 and wire.V1_AGGREGATE.unpack(payload)[2] == ROWS
    assert bench.node.groups[0].asked


def flood(bench: AsideBench, batches: int, first: int = 1000) -> list[int]:
    """So many async requests of ROWS events, the disk writing nothing: which are answered."""
    told = []
    for n in range(batches):
        bench.feed(1, ingest(ROWS, first + n * ROWS, sync=False, request_id=100 + n))
        bench.turn()
        told += [number for number, _ in stored(bench.take(1))]
    return told


def test_nobody_reads_and_async_requests_wait_for_nothing() -> None:
    bench = started(BOUNDED)
    assert flood(bench, 10) == list(range(100, 110))


def test_while_somebody_reads_only_so_many_rows_are_ordered_and_not_applied() -> None:
    bench = started(BOUNDED)
    asked(bench)
    group = bench.node.groups[0]
    told = flood(bench, 10)
    assert told == [100, 101] and group.next_row - group.applied_row == BOUND
    before = total_when_asked(bench)
    assert before == 3 * ROWS, "what was told, and no more than it had to wait for"
    bench.settle()
    assert [number for number, _ in stored(bench.take(1))] == list(range(102, 110)), "each is answered in the end"
    assert total(bench) == 11 * ROWS


def total_when_asked(bench: AsideBench) -> int:
    """What a read answers that comes now, once as few writes and jobs as it needs have ended."""
    bench.feed(2, v1_usage(7, "calls", *ALL_TIME))
    for _ in range(10):
        bench.disk(1)
        bench.turn()
        if bench.jobs:
            bench.done()
        found = answers(bench.take(2))
        if found:
            return int(wire.V1_AGGREGATE.unpack(found[0][2])[2])
    raise AssertionError("the read is not answered")


def test_rows_that_were_ordered_run_ahead_of_the_disk_while_somebody_reads() -> None:
    """The read waits for the disk anyhow: applying meanwhile makes it wait no longer."""
    bench = started(BOUNDED)
    asked(bench)
    flood(bench, 1)
    assert bench.pending and bench.jobs and bench.node.groups[0].tentative


def test_what_waits_for_its_place_asks_for_no_turns() -> None:
    bench = started(BOUNDED)
    asked(bench)
    flood(bench, 4)
    group = bench.node.groups[0]
    assert group.open_immediate == 2 and not group.has_ordered() and not group.may_seal()


def test_refusals_are_told_at_once_though_the_others_wait_for_their_place() -> None:
    bench = started(BOUNDED)
    asked(bench)
    assert flood(bench, 3) == [100, 101]
    unknown = ingest(ROWS, sync=False, request_id=300).replace(b"calls", b"cells")
    bench.feed(1, unknown)
    bench.turn()
    ((number, status, _),) = answers(bench.take(1))
    assert number == 300 and status != 0
    bench.settle()
    assert [number for number, _ in stored(bench.take(1))] == [102]


def test_sync_requests_get_their_place_however_many_wait() -> None:
    bench = started(BOUNDED)
    asked(bench)
    flood(bench, 2)
    bench.feed(1, ingest(ROWS, 50_000, sync=True, request_id=400))
    bench.settle()
    assert [number for number, _ in stored(bench.take(1))] == [400]


def test_when_nobody_has_asked_for_a_while_async_requests_wait_for_nothing_again() -> None:
    bench = started(BOUNDED)
    asked(bench)
    for n in range(JOBS_IN_TURN):
        bench.feed(1, ingest(ROWS, 10_000 + n * ROWS, sync=False))
        bench.settle()
        bench.take(1)
    assert not bench.node.groups[0].asked
    assert flood(bench, 10, 100_000) == list(range(100, 110))

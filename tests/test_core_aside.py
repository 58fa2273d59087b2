"""Claims about a node whose entries are applied aside: what is a job, who is answered when, and what happens meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.aside_bench import ALL_TIME, ASIDE, ROWS, AsideBench, answers, ingest, open_job, started, stored, total
from tests.harness import JAN_1, v1, v1_event, v1_ingest, v1_metric, v1_usage
from unimeter.core.effects import Read
from unimeter.core.inputs import ReadDone, TimePassed
from unimeter.kernels import protocol as wire


@pytest.fixture(params=[True, False], ids=["worked on", "left alone"])
def bench(request: pytest.FixtureRequest) -> AsideBench:
    return started(worked=request.param)


# ---- many rows, and few ----


def test_few_rows_are_applied_at_once(bench: AsideBench) -> None:
    bench.feed(1, ingest(ROWS - 1))
    bench.disk()
    assert stored(bench.take(1)) == [(1, ROWS - 1)]
    assert bench.jobs_seen == 0


def test_many_rows_are_one_job_and_are_answered_when_it_is_done(bench: AsideBench) -> None:
    bench.feed(1, ingest(ROWS))
    bench.disk()
    assert len(bench.jobs) == 1 and bench.take(1) == b""
    bench.disk()
    assert len(bench.jobs) == 1 and bench.take(1) == b"", "only the end of the job brings the answer"
    bench.done()
    assert stored(bench.take(1)) == [(1, ROWS)]
    assert total(bench) == ROWS and bench.jobs_seen == 1
    assert bench.node.marks["applied_aside"] == 1


def test_several_entries_with_many_rows_together_are_one_job(bench: AsideBench) -> None:
    """Async requests get an entry each while the journal is busy with the first; alone each is few rows."""
    before = bench.node.groups[0].applied_index
    for n in range(4):
        bench.feed(1, ingest(60, 60 * n, sync=False, request_id=n))
        bench.turn()
        assert bench.jobs_seen == (n > 0)
    bench.disk()
    assert len(bench.jobs) == 1
    assert bench.node.groups[0].applied_index == before
    bench.done()
    assert bench.node.groups[0].applied_index == before + 2 and bench.jobs_seen == 2
    bench.done()
    assert bench.node.groups[0].applied_index == before + 4 and bench.jobs_seen == 2
    assert [number for number, _, _ in answers(bench.take(1))] == [0, 1, 2, 3]
    assert total(bench) == 240


def test_an_async_request_is_answered_before_its_rows_are_applied(bench: AsideBench) -> None:
    bench.feed(1, ingest(ROWS, sync=False, request_id=9))
    bench.disk()
    assert bench.open
    assert [number for number, _, _ in answers(bench.take(1))] == [9]
    bench.done()
    assert bench.take(1) == b"", "once"
    assert total(bench) == ROWS


# ---- meanwhile ----


def test_what_comes_while_a_job_is_open_is_made_durable_and_applied_after_it(bench: AsideBench) -> None:
    open_job(bench)
    for n in range(3):
        bench.feed(2, ingest(10, 1000 + 10 * n, request_id=20 + n))
        bench.disk()
    assert bench.take(1) == bench.take(2) == b"" and len(bench.jobs) == 1
    again = bench.crash()
    assert total(again) == ROWS + 30, "it is all on the disk"
    bench.done()
    assert stored(bench.take(1)) == [(1, ROWS)]
    assert stored(bench.take(2)) == [(20, 10), (21, 10), (22, 10)]
    assert bench.jobs_seen == 1 and not bench.open


def test_a_query_waits_for_the_job_and_includes_its_rows(bench: AsideBench) -> None:
    open_job(bench)
    bench.feed(2, v1_usage(7, "calls", *ALL_TIME))
    bench.feed(2, v1(wire.V1_TYPE_EVENTS_LIST, wire.V1_EVENTS_LIST.pack(7, 0, 2**62), 2))
    bench.feed(2, v1(wire.V1_TYPE_ALERTS_LIST, wire.V1_ALERTS_LIST.pack(0, 0), 3))
    bench.disk()
    assert bench.take(2) == b"" and bench.open
    bench.done()
    bench.disk()
    found = {number: payload for number, _, payload in answers(bench.take(2))}
    assert wire.V1_AGGREGATE.unpack(found[1])[2] == ROWS
    assert wire.V1_LIST_HEAD.unpack_from(found[2]) == (ROWS,)
    assert wire.V1_LIST_HEAD.unpack_from(found[3]) == (1,), "the hundredth event fired the threshold"


@pytest.mark.parametrize("asked", ["usage", "events"])
def test_a_read_that_scans_the_journal_waits_for_a_job_that_was_opened_meanwhile(bench: AsideBench, asked: str) -> None:
    """Two stripes: the scan was begun before the job, and the first records come while it is open."""
    for n in range(4):
        bench.feed(1, ingest(60, 60 * n))
        bench.disk()
    assert len(stored(bench.take(1))) == 4
    usage = v1_usage(7, "calls", JAN_1 + 5, JAN_1 + 235)
    events = v1(wire.V1_TYPE_EVENTS_LIST, wire.V1_EVENTS_LIST.pack(7, JAN_1 + 5, JAN_1 + 234))
    bench.feed(2, usage if asked == "usage" else events)
    bench.turn()
    (read,) = bench.pending
    assert isinstance(read, Read)
    bench.pending.clear()
    open_job(bench, first=1000)
    bench.step(ReadDone(read.op, bytes(bench.files[read.file][read.offset : read.offset + read.length])))
    assert not bench.open, "the scan uses the state"
    assert bench.take(2) == b"" and bench.pending, "another stripe is to come"
    bench.disk()
    ((_, status, payload),) = answers(bench.take(2))
    count = wire.V1_AGGREGATE.unpack(payload)[2] if asked == "usage" else wire.V1_LIST_HEAD.unpack_from(payload)[0]
    assert (status, count) == (0, 230)
    bench.settle()
    assert stored(bench.take(1)) == [(1, ROWS)]
    assert total(bench) == 240 + ROWS


def test_a_subscriber_is_told_of_an_alert_once_the_job_is_done(bench: AsideBench) -> None:
    assert bench.ask(2, v1(wire.V1_TYPE_ALERT_ENABLE)) == (0, b"")
    open_job(bench)
    bench.turn()
    assert bench.take(2) == b""
    bench.done()
    bench.settle()
    assert len(bench.take(2)) == 12 + wire.V1_ALERT_PUSH.size


@pytest.mark.parametrize("worked", [True, False])
def test_a_subscriber_that_is_behind_is_told_nothing_while_a_job_is_open(worked: bool) -> None:
    """An alert a turn: most of the first event's are still to be told when the job is opened."""
    bench = started(replace(ASIDE, alerts_list_max=1), worked)
    assert bench.ask(1, v1_metric("many", 1, (), tuple((f"t{n}", n) for n in range(1, 21)))) == (0, b"")
    assert bench.ask(2, v1(wire.V1_TYPE_ALERT_ENABLE)) == (0, b"")
    bench.feed(1, v1_ingest(v1_event("many", 7, 20, JAN_1)))
    bench.disk(1)
    bench.feed(1, ingest(ROWS, account=8))
    while not bench.open:  # one step after the other: `turn` would bring the subscriber up to date
        bench.step(TimePassed())
        if bench.pending:
            bench._do(bench.pending.pop(0))
    alert = 12 + wire.V1_ALERT_PUSH.size
    told = len(bench.take(2)) // alert
    assert 0 < told < 20
    bench.turn()
    assert bench.take(2) == b"", "the state is not to be asked"
    bench.settle()
    assert len(bench.take(2)) == (21 - told) * alert, "the rest, and that of the job"


def test_a_change_of_the_metrics_behind_a_job_comes_after_it(bench: AsideBench) -> None:
    open_job(bench)
    bench.feed(2, v1_metric("later"))
    bench.disk()
    assert bench.take(2) == b"" and bench.open
    bench.done()
    bench.settle()
    assert answers(bench.take(2)) == [(1, 0, b"")]
    assert stored(bench.take(1)) == [(1, ROWS)]
    assert bench.ask(2, v1_ingest(v1_event("later", 7, 1, JAN_1)))[0] == 0


def test_rows_that_are_sent_again_while_they_are_applied_count_once(bench: AsideBench) -> None:
    open_job(bench)
    bench.feed(2, ingest(ROWS))
    bench.settle()
    assert stored(bench.take(1)) == [(1, ROWS)] and stored(bench.take(2)) == [(1, 0)]
    assert total(bench) == ROWS


# ---- a node that does not wait ----


def test_a_job_that_too_many_rows_wait_for_is_finished_by_the_node_itself(bench: AsideBench) -> None:
    open_job(bench, 150)
    bench.feed(1, ingest(200, 1000, request_id=2))
    bench.disk()
    assert len(bench.jobs) == 1 and bench.take(1) == b"", "they may wait"
    bench.feed(1, ingest(60, 2000, request_id=3))
    bench.disk()
    assert stored(bench.take(1)) == [(1, 150)], "260 rows are more than may wait"
    assert len(bench.jobs) == 2 and bench.open, "and are a job themselves, as many as may be"
    bench.done()  # the first one's end comes late
    assert bench.take(1) == b"" and bench.open
    assert bench.node.marks["applied_aside_waited_for"] == 1
    bench.settle()
    assert stored(bench.take(1)) == [(2, 200), (3, 60)]
    assert total(bench) == 410
    assert total(bench.crash()) == 410


def test_no_job_has_more_rows_than_the_limit_unless_one_entry_has(bench: AsideBench) -> None:
    group = bench.node.groups[0]
    sizes: dict[int, int] = {}

    def look() -> None:
        if group._aside is not None:
            sizes[group.aside_op] = sum(head.row_count for _, head in group._aside.entries)

    for n, rows in enumerate((60, 120, 120, 120, 300)):
        bench.feed(1, ingest(rows, 1000 * n, sync=False, request_id=n))
        bench.turn()
        look()
    while bench.pending:
        bench.disk(1)
        look()
    while bench.jobs:
        bench.done()
        look()
    assert list(sizes.values()) == [180, 240, 300]
    assert len(answers(bench.take(1))) == 5
    assert total(bench) == 720

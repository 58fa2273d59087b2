"""A record that would carry little of what clients in step with the disk have on their way waits for more (core/lockstep.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.aside_bench import AsideBench, ingest, stored
from tests.cluster_bench import CLUSTER, ClusterBench
from tests.harness import JAN_1, v1_event, v1_ingest, v1_metric
from tests.test_core_lockstep import CLIENTS, CONFIG, ROWS, SPARK, busy, eight_in_step, requests, started
from unimeter.core.effects import Write
from unimeter.core.lockstep import RECORDS_AT_ONCE

HOLD_NS = CONFIG.lockstep_hold_ns


def crowd(bench: AsideBench, number: int = 1) -> None:
    """Eight clients had a batch each on their way while the disk was busy, and have their answers."""
    busy(bench)
    requests(bench, CLIENTS, number=number)
    bench.settle()
    assert len(stored(bench.take(SPARK))) == 1
    for link in CLIENTS:
        assert stored(bench.take(link)) == [(number, ROWS)]


def come(bench: AsideBench, links: Sequence[int], rows: int = ROWS, sync: bool = True, number: int = 1) -> None:
    for link in links:
        requests(bench, [link], rows, sync, number)
        bench.turn()


@pytest.fixture
def bench() -> AsideBench:
    bench = started()
    crowd(bench)
    return bench


def held_ns(bench: AsideBench) -> int:
    assert bench.node.serving is not None
    return bench.node.serving.records.held_back_until_ns


def test_the_first_of_a_crowd_is_written_together_with_the_next(bench: AsideBench) -> None:
    for link in (1, 2):
        come(bench, [link], number=3)
        assert bench.pending == [] and held_ns(bench)
    come(bench, [3], number=3)
    (write,) = bench.pending
    assert isinstance(write, Write) and len(write.data) > 3 * ROWS * 32 and not held_ns(bench)
    bench.settle()
    assert [stored(bench.take(link)) for link in (1, 2, 3)] == [[(3, ROWS)]] * 3


def test_what_is_held_back_goes_when_nothing_else_comes(bench: AsideBench) -> None:
    come(bench, [1], number=3)
    until_ns = bench.node.deadline_ns
    assert until_ns == held_ns(bench) and 0 < until_ns - bench.now_ns <= HOLD_NS
    bench.now_ns = until_ns - 10_000
    come(bench, [2], number=3)
    assert bench.pending == [] and bench.node.deadline_ns == until_ns, "not before, and another one makes it no later"
    bench.now_ns = until_ns
    bench.turn()
    assert len(bench.pending) == 1
    bench.settle()
    assert stored(bench.take(1)) == [(3, ROWS)]


def test_after_one_was_held_back_in_vain_many_are_not(bench: AsideBench) -> None:
    come(bench, [1], number=3)
    bench.no_more()
    bench.settle()
    for number in range(4, 4 + RECORDS_AT_ONCE):
        come(bench, [1], number=number)
        assert len(bench.pending) == 1, number
        bench.settle()
    assert len(stored(bench.take(1))) == 1 + RECORDS_AT_ONCE
    crowd(bench, 100)
    come(bench, [1], number=200)
    assert bench.pending == [] and held_ns(bench), "the crowd is back"


def test_a_crowd_that_is_back_at_once_holds_nobody_back_for_a_while(bench: AsideBench) -> None:
    come(bench, [1], number=3)
    bench.no_more()
    bench.settle()
    bench.take(1)
    crowd(bench, 4)
    for number in range(5, 5 + RECORDS_AT_ONCE // 2):
        come(bench, [2], number=number)
        assert len(bench.pending) == 1, number
        bench.settle()
    bench.take(1), bench.take(2)
    for number in range(100, 100 + RECORDS_AT_ONCE // 2):
        crowd(bench, number)
    come(bench, [1], number=200)
    assert bench.pending == [] and held_ns(bench), "the crowd is back"


def test_a_crowd_that_became_smaller_is_forgotten(bench: AsideBench) -> None:
    """Three of the eight go on: the first of them is held back for a while only."""
    for number in range(3, 20):
        come(bench, (1, 2, 3), number=number)
        bench.settle()
    come(bench, [1], number=20)
    assert len(bench.pending) == 1 and not held_ns(bench)


def test_little_and_whoever_is_alone_is_never_held_back() -> None:
    bench = started()
    for rows, links in ((ROWS, [1]), (1, CLIENTS)):
        for number in range(1, 20):
            for link in links:
                come(bench, [link], rows=rows, number=1000 * rows + number)
                assert len(bench.pending) == 1 and not held_ns(bench)
            bench.settle()


def test_async_requests_are_not_held_back_and_take_along_what_is(bench: AsideBench) -> None:
    come(bench, [2], number=3)
    assert bench.pending == [] and held_ns(bench)
    come(bench, [1], sync=False, number=3)
    assert stored(bench.take(1)) == [(3, ROWS)] and len(bench.pending) == 1
    bench.settle()
    assert stored(bench.take(2)) == [(3, ROWS)]


def test_a_change_of_metrics_does_not_wait_with_few_rows_that_do(bench: AsideBench) -> None:
    come(bench, [2], rows=5, number=3)
    assert bench.pending == [] and held_ns(bench)
    bench.feed(3, v1_metric("others"))
    bench.turn()
    assert len(bench.pending) == 1 and not held_ns(bench)
    bench.settle()
    assert stored(bench.take(2)) == [(3, 5)] and bench.sent[3]


def test_several_groups_hold_nothing_back() -> None:
    bench = started(replace(CONFIG, group_count=3))
    crowd(bench)
    bench.feed(1, ingest(ROWS, 10**7, request_id=3))
    assert len(bench.pending) == 1


def test_a_leader_with_followers_holds_back_too_and_answers_all() -> None:
    config = replace(CLUSTER, entry_bytes_max=512 * 1024, lockstep_bytes_min=2000, lockstep_hold_ns=5_000_000)
    bench = ClusterBench(3, 1, config)
    leader = eight_in_step(bench, rounds=6)
    node, link = bench.machines[leader].node, bench.client(leader)
    bench._arrive(leader, link, v1_ingest(v1_event("calls", 1, 1, JAN_1 + 10**9), sync=True))
    assert node is not None and node.serving is not None
    assert node.serving.records.held_back_until_ns
    bench.run(200)
    assert not node.serving.records.held_back_until_ns
    assert stored(bench.machines[leader].answers.pop(link)) == [(1, 1)]

"""Checkpoints, crashes and stops of a node while entries are being applied aside; and all of it in any order."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from tests.aside_bench import ASIDE, RESTLESS, ROWS, AsideBench, answers, ingest, open_job, started, stored, total
from tests.harness import JAN_1, v1_usage
from unimeter.core.inputs import StopRequested


@pytest.fixture(params=[True, False], ids=["worked on", "left alone"])
def bench(request: pytest.FixtureRequest) -> AsideBench:
    return started(worked=request.param)


@pytest.mark.parametrize("worked", [True, False])
def test_a_checkpoint_that_falls_due_contains_what_is_being_applied(worked: bool) -> None:
    """The few rows behind the job make it due, while they are on their way to the disk."""
    bench = started(RESTLESS, worked)
    open_job(bench, 220)
    bench.feed(2, ingest(20, 1000))
    bench.turn()
    assert not bench.open, "the checkpoint could not wait"
    assert stored(bench.take(1)) == [(1, 220)]
    bench.disk()
    assert bench.node.counters()["checkpoints"] == 1
    again = bench.crash()
    assert again.node.recovered.replayed_rows == 20, "the few rows alone"
    assert total(again) == 240
    bench.done()  # late, and harmless
    assert bench.take(1) == b"" and bench.node.marks["applied_aside_waited_for"] == 1
    assert stored(bench.take(2)) == [(1, 20)]
    assert total(bench) == 240


@pytest.mark.parametrize("worked", [True, False])
def test_a_checkpoint_that_is_being_written_is_that_of_the_moment_it_began(worked: bool) -> None:
    """Jobs open between its pieces; each piece is read when they are done."""
    bench = started(RESTLESS, worked)
    bench.feed(1, ingest(400))
    bench.disk(2)
    bench.turn()
    assert bench.node.serving is not None and bench.node.serving.upkeep.checkpointing
    fed, sent, waited = 400, 1, 0
    while bench.node.serving.upkeep.checkpointing:
        if not bench.open:
            bench.feed(1, ingest(ROWS, 1000 * (1 + sent), request_id=1 + sent))
            fed, sent = fed + ROWS, sent + 1
        bench.disk(1)
        if bench.open and not bench.pending:
            waited += 1
            bench.done()
    assert waited, "a piece was asked for while a job was open"
    again = bench.crash()
    assert again.node.recovered.checkpoints, "it begins with this one"
    assert total(again) == again.node.recovered.replayed_rows > 400, "which holds nothing of what came later"
    bench.settle()
    assert [number for number, _ in stored(bench.take(1))] == list(range(1, 1 + sent))
    assert total(bench) == fed == total(bench.crash())


def test_a_crash_while_a_job_is_open_loses_nothing(bench: AsideBench) -> None:
    open_job(bench)
    bench.feed(2, ingest(120, 1000))
    bench.disk()
    again = bench.crash()
    assert total(again) == ROWS + 120
    bench.settle()
    before, after = (each.node.groups[0].state.meta() for each in (bench, again))
    assert after.digest == before.digest and after.stored == before.stored == ROWS + 120


def test_a_stop_waits_for_the_job_and_leaves_nothing_to_replay(bench: AsideBench) -> None:
    open_job(bench)
    bench.feed(2, ingest(5, 1000))
    bench.step(StopRequested())
    bench.disk()
    assert bench.halted is None, "somebody still waits for an answer"
    bench.done()
    bench.disk()
    assert bench.halted is not None and bench.halted.reason is None
    assert stored(bench.take(1)) == [(1, ROWS)]
    again = bench.crash()
    assert again.node.recovered.replayed_bytes == 0
    assert stored(bench.take(2)) == [(1, 5)] and total(again) == ROWS + 5


def test_a_stop_does_not_wait_forever_for_a_job_that_nobody_ends() -> None:
    bench = started()
    open_job(bench)
    bench.step(StopRequested())
    bench.disk()
    assert bench.halted is None
    bench.now_ns += 3 * bench.config.election_max_ns
    bench.turn()
    assert stored(bench.take(1)) == [(1, ROWS)], "it was finished for the checkpoint, which has only begun"
    bench.disk()
    assert bench.halted is not None and bench.halted.reason is None
    again = bench.crash()
    assert again.node.recovered.replayed_bytes == 0
    assert total(again) == ROWS


@pytest.mark.parametrize("seed", range(12))
def test_whatever_comes_in_whatever_order_is_counted_and_answered_once(seed: int) -> None:
    dice = Random(seed)
    bench = started(RESTLESS if seed % 2 else ASIDE, worked=bool(dice.getrandbits(1)))
    sent: Counter[int] = Counter()
    asked, replied, at = 0, [], 0
    for _ in range(150):
        match dice.randrange(6):
            case 0 | 1:
                account, rows = dice.randrange(3), dice.choice((1, 20, 90, 110, 260))
                sync = dice.random() < 0.7
                bench.feed(1, ingest(rows, at, account, sync, asked))
                sent[account], at, asked = sent[account] + rows, at + rows, asked + 1
            case 2:
                bench.feed(1, v1_usage(dice.randrange(3), "calls", JAN_1 + dice.randrange(50), JAN_1 + at))
            case 3:
                bench.disk(dice.randrange(1, 4))
            case 4:
                bench.disk()
            case _:
                if bench.jobs:
                    bench.done()
        replied += answers(bench.take(1))
    bench.settle()
    replied += answers(bench.take(1))
    assert bench.jobs_seen > 3
    written = [number for number, status, payload in replied if not status and len(payload) in (0, 16)]
    assert sorted(written) == list(range(asked))
    again = bench.crash()
    for account in range(3):
        assert total(bench, account) == sent[account] == total(again, account)
    assert again.node.groups[0].state.meta().digest == bench.node.groups[0].state.meta().digest

"""The load generator sends exactly what the protocols say, and counts exactly what was answered."""

from __future__ import annotations

import pytest

from tests.echo_node import EchoNode
from unimeter.commands.load import ECHO, LoadError, Plan, run


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("protocol", [1, 2])
def test_generator_sends_wellformed_distinct_events_and_counts_answers(protocol: int, sync: bool) -> None:
    with EchoNode() as node:
        plan = Plan("127.0.0.1", node.port, protocol=protocol, sync=sync, batch=7, workers=3, events_max=700,
                    accounts=10, metrics=3, timestamp_ns=10**18)  # fmt: skip
        report = run(plan)
    seen = node.seen
    assert report.sent_events == report.stored == len(seen.rows) == 700
    assert report.acked_requests == report.ingest.count == 100
    assert (report.duplicates, report.refused, report.statuses) == (0, 0, {0: 100})
    assert {at for _, _, at in seen.rows} == {10**18 + n * 100 for n in range(700)}
    assert {account for _, account, _ in seen.rows} <= set(range(1, 11))
    assert seen.metrics == ["bench_00", "bench_01", "bench_02"] == sorted(seen.values)
    kind = {1: (int(sync), 0), 2: (2, 0 if sync else 1)}[protocol]
    assert dict(seen.flags) == {kind: 100}
    if protocol == 2:
        assert seen.hellos == 3
        assert sum(len(numbers) for numbers in seen.batches.values()) == 100
        assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in seen.batches.values())


@pytest.mark.parametrize("protocol", [1, 2])
def test_workers_share_one_connection(protocol: int) -> None:
    with EchoNode() as node:
        plan = Plan("127.0.0.1", node.port, protocol=protocol, batch=1, workers=64, connections=1, events_max=500)
        report = run(plan)
    assert report.stored == len(node.seen.rows) == 500
    assert node.seen.connections == 1


@pytest.mark.parametrize("protocol", [1, 2])
def test_queries_run_beside_ingest(protocol: int) -> None:
    with EchoNode() as node:
        plan = Plan("127.0.0.1", node.port, protocol=protocol, batch=5, workers=1, query_workers=2, events_max=400)
        report = run(plan)
    assert report.queries == report.query.count == node.seen.queries > 0
    assert report.stored == 400


def test_backpressure_is_counted_and_the_same_batch_sent_again() -> None:
    for protocol in (1, 2):
        with EchoNode(backpressure=3) as node:
            plan = Plan("127.0.0.1", node.port, protocol=protocol, batch=2, workers=1, events_max=20)
            report = run(plan)
        assert report.backpressure == 3
        assert report.sent_events == report.stored == len(node.seen.rows) == 20


def test_events_carry_distinct_ids_when_asked() -> None:
    with EchoNode() as node:
        run(Plan("127.0.0.1", node.port, protocol=2, batch=9, workers=2, events_max=90, ids=True))
    assert len(node.seen.ids) == 90


def test_a_refused_connection_is_an_error_with_the_address() -> None:
    with EchoNode() as node:
        port = node.port
    with pytest.raises(LoadError, match=rf"127\.0\.0\.1:{port}"):
        run(Plan("127.0.0.1", port, events_max=1))


def test_an_impossible_plan_is_refused_before_anything_is_sent() -> None:
    with EchoNode() as node:
        for plan in (Plan("127.0.0.1", node.port, batch=0), Plan("127.0.0.1", node.port, connections=9, workers=8),
                     Plan("nowhere.example", node.port), Plan("127.0.0.1", node.port, kind=ECHO)):  # fmt: skip
            with pytest.raises(LoadError):
                run(plan)
    assert not node.seen.rows

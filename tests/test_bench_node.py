"""The generator against a real node: what it counts as acknowledged is what the node answers as totals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.v1_client import V1Client
from unimeter.commands.bench_node import NodeProcess, free_port
from unimeter.commands.bench_run import QUICK, Bench
from unimeter.commands.load import Latencies, Plan, run

ACCOUNTS, METRICS = 20, 3
KINDS = ("sum", "count", "max")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path_factory.mktemp("bench") / "data", "--memory-max", "256M") as process:
        yield process


def events_counted(node: NodeProcess) -> int:
    with V1Client("127.0.0.1", node.port) as client:
        pairs = [(account, f"bench_{m:02}") for account in range(1, ACCOUNTS + 1) for m in range(METRICS)]
        return sum(client.query(account, code, 0, 2**62).count for account, code in pairs)


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize(("protocol", "ids"), [(1, False), (2, False), (2, True)])
@pytest.mark.parametrize(("batch", "workers", "connections"), [(100, 4, 4), (1, 32, 1)])
def test_acknowledged_events_equal_the_totals_the_node_answers(
    node: NodeProcess, protocol: int, ids: bool, sync: bool, batch: int, workers: int, connections: int
) -> None:
    plan = Plan("127.0.0.1", node.port, protocol=protocol, sync=sync, batch=batch, workers=workers,
                connections=connections, accounts=ACCOUNTS, metrics=METRICS, aggregations=KINDS,
                events_max=30 * batch * workers, ids=ids)  # fmt: skip
    run(replace(plan, events_max=batch))  # the metrics exist
    before = events_counted(node)
    report = run(replace(plan, seed=plan.seed + 1, timestamp_ns=plan.timestamp_ns + 10**9))
    assert (report.statuses, report.duplicates, report.refused) == ({0: report.acked_requests}, 0, 0)
    assert report.stored in (report.sent_events, 0)  # an async answer may not know yet
    assert events_counted(node) - before == report.sent_events == 30 * batch * workers


def test_a_bench_measures_every_phase_and_survives_its_restart(tmp_path: Path) -> None:
    told: list[float] = []
    settings = replace(QUICK, seconds=0.1, warmup_s=0.02, accounts=50)
    results = Bench(settings, tmp_path, ("--memory-max", "256M"), lambda _, part, __: told.append(part)).run()
    for name in ("batch_async", "batch_sync", "single_async", "single_sync", "durable_write"):
        assert results.phases[name].events_per_s() > 0
        assert results.phases[name].node_ns_per_event() > 0
        assert 0 < results.phases[name].latency_ns(50) <= results.phases[name].latency_ns(99)
    for name in ("query_idle", "query_under_ingest"):
        assert results.phases[name].latency_ns(50, "query") > 0
    assert 0 < results.raw.write_p50_ns <= results.raw.write_p99_ns
    assert 0 < results.raw.echo_p50_ns <= results.raw.echo_p99_ns
    assert results.restart.seconds > 0
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert json.loads(json.dumps(results.as_json()))["phases"].keys() == results.phases.keys()


def test_load_command_prints_json_and_says_when_nobody_listens(node: NodeProcess) -> None:
    command = [sys.executable, "-m", "unimeter.commands.bench", "load", "--json", "--events", "1000", "--server"]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run([*command, node.address], capture_output=True, text=True, env=environment, check=True)
    told = json.loads(done.stdout)
    assert (told["sent_events"], told["refused"]) == (1000, 0)
    nobody = subprocess.run([*command, "127.0.0.1:1"], capture_output=True, text=True, env=environment, check=False)
    assert nobody.returncode == 4
    assert "127.0.0.1:1" in nobody.stderr


def test_percentiles_are_the_upper_edge_of_their_bucket() -> None:
    latencies = Latencies(100, 5000, ((10, 50), (1024, 49), (4096, 1)))
    assert latencies.percentile_ns(50) == 10
    assert latencies.percentile_ns(99) == 1024 + 15
    assert latencies.percentile_ns(100) == 4096 + 63
    assert Latencies(0, 0, ()).percentile_ns(50) == 0


def test_no_port_is_given_twice_in_a_row() -> None:
    """The system gives one again as soon as it is free: two nodes of a cluster were given the same."""
    assert len({free_port() for _ in range(500)}) == 500

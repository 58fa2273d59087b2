"""The generator against three nodes: routed, one group a batch, or anywhere; also when a leader dies under it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.node_cluster import SMALL, NodeCluster
from unimeter import Client, Period
from unimeter.commands.bench_route import aimed, await_balance, partition_map
from unimeter.commands.bench_run import QUICK, Bench
from unimeter.commands.load import LoadError, Plan, run

ACCOUNTS, METRICS, GROUPS = 40, 2, 4


def plan(**how: Any) -> Plan:
    """Its own accounts and times: no test repeats another's events. Small nodes remember few sessions."""
    return replace(Plan("", 0, batch=20, workers=4, accounts=ACCOUNTS, metrics=METRICS), **how)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    with NodeCluster(tmp_path_factory.mktemp("bench"), groups=GROUPS) as nodes:
        await_balance(nodes.addresses, GROUPS)
        yield nodes


def events_counted(cluster: NodeCluster) -> int:
    ever = Period(0, 2**62)
    with Client(cluster.addresses) as client:
        pairs = [(account, f"bench_{m:02}") for account in range(1, ACCOUNTS + 1) for m in range(METRICS)]
        return sum(client.query(account, code, ever).value.count for account, code in pairs)


@pytest.mark.parametrize("how", ["routed", "one group", "anywhere"])
@pytest.mark.parametrize("protocol", [1, 2])
@pytest.mark.parametrize(("batch", "connections"), [(20, 0), (1, 1)])
def test_every_acknowledged_event_is_counted_once(
    cluster: NodeCluster, how: str, protocol: int, batch: int, connections: int
) -> None:
    wanted = plan(protocol=protocol, batch=batch, connections=connections, events_max=batch, query_workers=1)
    first = aimed(wanted, cluster.addresses[:1], how != "anywhere", how == "one group")  # one address finds the others
    assert len(first.others) == 2
    assert first.groups == (GROUPS if how == "one group" else 0)
    run(replace(first, sessions=False))
    before = events_counted(cluster)
    report = run(replace(first, seed=first.seed + 1, events_max=batch * 120, timestamp_ns=first.timestamp_ns + 10**9))
    assert (report.stored, report.duplicates, report.refused) == (batch * 120, 0, 0)
    assert report.query.count > 0
    assert events_counted(cluster) - before == report.stored
    # only who asks just anybody is told to ask somebody else (batches of several groups are split, queries are not)
    assert (report.redirects > 0) == (how == "anywhere")


def test_a_load_survives_its_leader(tmp_path: Path) -> None:
    for protocol in (1, 2):
        with NodeCluster(tmp_path / str(protocol), groups=GROUPS) as cluster:
            await_balance(cluster.addresses, GROUPS)
            load = aimed(plan(protocol=protocol, duration_s=2.0), cluster.addresses)

            def kill_once_it_runs(events: int, _: int, cluster: NodeCluster = cluster) -> None:
                if events and cluster.nodes[3].process is not None:
                    cluster.kill([3])

            report = run(load, kill_once_it_runs)
            assert report.lost_targets == 1
            assert report.stored + report.duplicates == report.sent_events > 0
            assert events_counted(cluster) == report.sent_events
            assert partition_map(cluster.client(1))


def test_a_bench_of_three_nodes_measures_them_together(tmp_path: Path) -> None:
    settings = replace(QUICK, seconds=0.2, warmup_s=0.05, accounts=50, nodes=3, only=("batch_async", "durable_write"))
    results = Bench(settings, tmp_path, SMALL, lambda *_: None).run()
    assert sum(results.led.values()) == 256
    assert len(results.led) == 3
    for phase in results.phases.values():
        assert phase.events_per_s() > 0
        assert phase.node_ns_per_event() > 0
        assert phase.reports[0].refused == phase.reports[0].redirects == 0
    raw = results.raw
    assert raw.durable_ns(50, 3) == raw.write_p50_ns + 2 * raw.echo_p50_ns


@pytest.mark.parametrize("protocol", [1, 2])
def test_a_cluster_of_one_group_is_driven_though_most_of_its_nodes_lead_nothing(tmp_path: Path, protocol: int) -> None:
    """Sessions are opened where somebody opens them."""
    with NodeCluster(tmp_path, groups=1) as cluster:
        await_balance(cluster.addresses, 1)
        report = run(aimed(plan(protocol=protocol, duration_s=0.3), cluster.addresses), lambda *_: None)
        assert report.stored + report.duplicates == report.sent_events > 0
        assert report.refused == report.redirects == 0
        assert events_counted(cluster) == report.sent_events


def test_what_is_not_a_cluster_is_not_routed(cluster: NodeCluster, tmp_path: Path) -> None:
    with NodeCluster(tmp_path, nodes=1, groups=1) as alone:
        assert not aimed(plan(), alone.addresses).cluster
        with pytest.raises(LoadError, match="not a node of a cluster"):
            aimed(plan(), alone.addresses, routed=True)
    with pytest.raises(LoadError, match="routed load"):
        aimed(plan(), cluster.addresses, routed=False, one_group=True)

"""Nodes as processes that are a cluster: how they find each other, and what a death, a stop and a start change."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node_cluster import QUICK, SMALL, NodeCluster
from tests.test_node_process import RUN, get
from unimeter import AggType, Client, Event, MetricSchema
from unimeter.client.times import TIMESTAMP_MAX_NS
from unimeter.client.values import Period
from unimeter.commands.bench_node import NodeProcess, free_port

WAIT_S = 30.0
EVER = Period(0, TIMESTAMP_MAX_NS)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[NodeCluster]:
    with NodeCluster(tmp_path) as running:
        yield running


def test_node_says_for_whom_it_waits_and_takes_peers_in_but_no_clients(tmp_path: Path) -> None:
    ports = [free_port() for _ in range(6)]
    members = [f"{n}=127.0.0.1:{ports[n - 1]},127.0.0.1:{ports[n + 2]}" for n in (1, 2, 3)]
    command = [sys.executable, "-c", RUN, "node", "--id", "2", "--data-dir", str(tmp_path / "data"), "--admin", "off"]
    with subprocess.Popen(
        [*command, *SMALL, *QUICK, *(word for member in members for word in ("--member", member))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("starting: ")
        assert re.search(r"\b1\b.*\b3\b", line), line
        socket.create_connection(("127.0.0.1", ports[4])).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", ports[1]))
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == ""
        assert process.returncode == 0


def test_cluster_of_one_with_a_peer_port_serves_at_once(tmp_path: Path) -> None:
    client, peer = free_port(), free_port()
    member = f"1=127.0.0.1:{client},127.0.0.1:{peer}"
    with NodeProcess(tmp_path / "data", "--member", member, *SMALL, port=client) as node:
        socket.create_connection(("127.0.0.1", peer)).close()
        with Client([node.address]) as sdk:
            sdk.metrics.create(MetricSchema(code="alone", agg_type=AggType.COUNT))
            sdk.ingest([Event(account_id=n, metric_code="alone") for n in range(300)])
            assert sdk.query(299, "alone", EVER).value.count == 1
        assert node.stop() == 0


def test_cluster_serves_while_any_one_of_its_nodes_is_killed_and_loses_nothing(cluster: NodeCluster) -> None:
    with Client(cluster.servers.split(","), timeout=60) as client:
        client.metrics.create(MetricSchema(code="killed", agg_type=AggType.SUM))
        acknowledged = 0
        for victim in (1, 2, 3):
            killer = threading.Timer(0.2, cluster.kill, [[victim]])
            killer.start()
            for _ in range(20):
                client.ingest([Event(account_id=n, metric_code="killed", value=1) for n in range(256)])
                acknowledged += 1
            killer.join()
            client.ingest([Event(account_id=n, metric_code="killed", value=1) for n in range(256)])
            acknowledged += 1
            cluster.start([victim])
        assert {client.query(n, "killed", EVER).value.sum for n in range(256)} == {acknowledged}


def test_all_nodes_stopped_together_stop_cleanly_and_find_each_other_again(cluster: NodeCluster) -> None:
    with Client(cluster.servers.split(","), timeout=60) as client:
        client.metrics.create(MetricSchema(code="stopped", agg_type=AggType.COUNT))
        client.ingest([Event(account_id=n, metric_code="stopped") for n in range(1000)])
        assert cluster.stop([1, 2, 3]) == [0, 0, 0]
        cluster.start([1, 2, 3])
        assert {client.query(n, "stopped", EVER).value.count for n in range(0, 1000, 37)} == {1}


def test_every_group_has_one_leader_in_the_figures_of_all_nodes(tmp_path: Path) -> None:
    admins = {n: free_port() for n in (1, 2, 3)}
    running = NodeCluster(tmp_path)
    for n, port in admins.items():
        running.nodes[n].options = (*running.nodes[n].options, "--admin", f"127.0.0.1:{port}")
    expected = [str(group) for group in range(running.groups)]
    with running:
        assert all(get(port, "/health")[0] == 200 for port in admins.values())
        until = time.monotonic() + WAIT_S
        leaders: list[str] = []
        while sorted(leaders) != expected:  # leaderships are still moving about in a new cluster
            assert time.monotonic() < until, leaders
            pages = [get(port, "/metrics")[1] for port in admins.values()]
            leaders = [g for page in pages for g in re.findall(r'unimeter_group_leader\{group="(\d+)"\} 1\.0', page)]
        assert all("unimeter_peer_links 2.0" in page for page in pages)
        assert sum(page.count("unimeter_group_peer_lag_entries{") for page in pages) >= 2 * running.groups

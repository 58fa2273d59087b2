"""`unimeter cluster`: what it reads out of a cluster's answers, and what it does to a real one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.node_cluster import NodeCluster
from unimeter import AggType, Client, Event, MetricSchema, cli
from unimeter.client.times import TIMESTAMP_MAX_NS
from unimeter.client.values import Period
from unimeter.commands.bench_node import free_port
from unimeter.commands.cluster_status import ClusterStatus, decode_status, start_command, tables
from unimeter.errors import ProtocolError

WAIT_S = 30.0
EVER = Period(0, TIMESTAMP_MAX_NS)


def answer(
    holders: list[list[int]], states: dict[int, str], learners: dict[int, list[int]] | None = None
) -> ClusterStatus:
    """The status of a cluster whose group n is held by holders[n], and led by the first of them."""
    nodes: list[dict[str, Any]] = [
        {
            "id": node,
            "address": f"10.0.0.{node}:7001",
            "peer": f"10.0.0.{node}:7101",
            "replica": f"{node:016x}",
            "up": True,
            "state": state,
            "leads": sum(voters[0] == node for voters in holders),
            "holds": sum(node in voters for voters in holders),
        }
        for node, state in states.items()
    ]
    groups: list[dict[str, Any]] = [
        {
            "group": number,
            "leader": voters[0],
            "term": 2,
            "commit": 100 + number,
            "voters": voters,
            "learners": (learners or {}).get(number, []),
            "moving": False,
        }
        for number, voters in enumerate(holders)
    ]
    return decode_status({"cluster": "ab" * 8, "coordinator": 1, "nodes": nodes, "groups": groups})


ALL_THREE = [[1, 2, 3]] * 4
ACTIVE_THREE = {1: "active", 2: "active", 3: "active"}


def test_added_node_has_joined_when_it_holds_its_even_share() -> None:
    four = ACTIVE_THREE | {4: "active"}
    assert not answer(ALL_THREE, ACTIVE_THREE).joined(4)
    assert not answer(ALL_THREE, ACTIVE_THREE | {4: "joining"}).joined(4)
    assert not answer(ALL_THREE, four).joined(4)
    assert not answer([[1, 2, 4], [1, 2, 3], [2, 3, 1], [3, 1, 2]], four).joined(4)
    assert answer(ALL_THREE, four).share() == 3
    assert answer([[1, 2, 4], [1, 4, 3], [4, 2, 3], [1, 2, 3]], four).joined(4)


def test_node_is_empty_when_no_group_has_it_as_voter_or_learner() -> None:
    draining = {1: "active", 2: "active", 3: "draining", 4: "active"}
    moved = [[1, 2, 4]] * 4
    assert not answer(ALL_THREE, draining).emptied(3)
    assert not answer(moved, draining, {2: [3]}).emptied(3)
    assert answer(moved, draining).emptied(3)
    assert not answer(moved, draining).gone(3), "it is still registered"
    assert answer(moved, draining | {3: "removed"}).gone(3)
    del draining[3]
    assert answer(moved, draining).gone(3)


def test_tables_show_every_node_and_group() -> None:
    status = answer(ALL_THREE, ACTIVE_THREE)
    console = Console(file=StringIO(), width=200)
    for table in tables(status):
        console.print(table)
    out = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [line.split() for line in out.splitlines()]
    assert lines[1] == ["1", "coordinator", "10.0.0.1:7001", "10.0.0.1:7101", "yes", "active", "4", "4"]
    assert ["3", "1", "2", "103", "1", "2", "3"] in lines


def test_start_command_names_every_member_once_and_no_removed_one() -> None:
    status = answer([[1, 2, 4]] * 4, {1: "active", 2: "active", 3: "removed", 4: "joining"})
    assert start_command(status, 4) == (
        "unimeter node --id 4 --data-dir DIR --member 1=10.0.0.1:7001,10.0.0.1:7101 "
        "--member 2=10.0.0.2:7001,10.0.0.2:7101 --member 4=10.0.0.4:7001,10.0.0.4:7101"
    )


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"nodes": [], "groups": {}},
        {"nodes": [{}], "groups": []},
        {"nodes": [], "groups": [{"group": 1, "voters": ["x"]}]},
        {"nodes": [], "groups": [{"group": 1, "leader": "2"}]},
    ],
)
def test_answer_that_is_no_status_is_a_protocol_error(body: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        decode_status(body)


class Shell:
    """Runs `unimeter cluster ...` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.main(["cluster", *words])
        self.out, self.err = self._capsys.readouterr()
        return int(ended.value.code or 0)

    def status(self, servers: str) -> ClusterStatus:
        self("status", "--json", "--server", servers)
        return decode_status(json.loads(self.out))

    def status_once(self, holds: Callable[[ClusterStatus], bool], servers: str) -> ClusterStatus:
        """The first status of which that is true."""
        until = time.monotonic() + WAIT_S
        while not holds(status := self.status(servers)):
            assert time.monotonic() < until, status
        return status


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_wrong_usage_is_2_and_no_server_is_4(run: Shell) -> None:
    assert run("add", "--id", "4", "--address", "10.0.0.4:7001") == 2
    assert run("add", "--id", "300", "--address", "10.0.0.4:7001", "--peer", "10.0.0.4:7101") == 2
    assert run("add", "--id", "4", "--address", "0.0.0.0:7001", "--peer", "10.0.0.4:7101") == 2
    assert "--listen" in run.err
    assert run("add", "--id", "4", "--address", "10.0.0.4:7001", "--peer", "10.0.0.4:0") == 2
    assert "--peer" in run.err
    assert run("remove", "--id", "x") == 2
    assert run("transfer", "--group", "1") == 2
    assert run("shuffle") == 2
    assert run("status", "--server", f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}") == 4


@pytest.mark.parametrize("words", [[], ["status"], ["add"], ["remove"], ["drain"], ["transfer"]])
def test_help_teaches(run: Shell, words: list[str]) -> None:
    assert run(*words, "--help") == 0
    assert " ".join(["Usage: unimeter cluster", *words]) in run.out


# ---- a real cluster ----


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    with NodeCluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


def test_status_shows_a_cluster_that_founded_itself(run: Shell, cluster: NodeCluster) -> None:
    status = run.status_once(lambda seen: sum(node.leads for node in seen.nodes) == cluster.groups, cluster.servers)
    assert [(node.id, node.address, node.up, node.state) for node in status.nodes] == [
        (n, cluster.nodes[n].address, True, "active") for n in (1, 2, 3)
    ]
    assert [group.group for group in status.groups] == list(range(cluster.groups))
    assert all(sorted(group.voters) == [1, 2, 3] and group.leader for group in status.groups)
    assert run("status", "--server", cluster.nodes[2].address) == 0
    assert f"cluster {status.cluster}" in run.out


def test_leadership_is_handed_over_on_request(run: Shell, cluster: NodeCluster) -> None:
    for node_id in (1, 2, 3):
        assert run("transfer", "--group", "1", "--to", str(node_id), "--server", cluster.servers) == 0
        assert run.out == f"node {node_id} leads group 1\n"


def test_what_cannot_be_done_is_refused_with_exit_1(run: Shell, cluster: NodeCluster) -> None:
    for words in (
        ("transfer", "--group", "99", "--to", "1"),
        ("transfer", "--group", "0", "--to", "77"),
        ("remove", "--id", "2"),  # two nodes would be left for three replicas
        ("drain", "--id", "77"),
        ("add", "--id", "9", "--address", cluster.nodes[2].address, "--peer", "127.0.0.1:2"),  # node 2 has it
    ):
        assert run(*words, "--server", cluster.servers) == 1, words
        assert run.err.startswith("error: "), words
    assert run("remove", "--id", "77", "--server", cluster.servers) == 0, "it is gone already"


def test_node_is_added_takes_its_share_and_is_removed_while_the_cluster_serves(
    run: Shell, cluster: NodeCluster
) -> None:
    with Client(cluster.servers.split(",")) as client:
        client.metrics.create(MetricSchema(code="moved", agg_type=AggType.SUM))
        client.ingest([Event(account_id=n, metric_code="moved", value=n) for n in range(1000)])
        extra = cluster.extra(4)
        words = ("--id", "4", "--address", cluster.client(4), "--peer", cluster.peer(4))
        assert run("add", *words, "--no-wait", "--server", cluster.servers) == 0
        assert "start it: unimeter node --id 4 --data-dir DIR --member 1=" in run.err
        cluster.start([4])
        assert run("add", *words, "--server", cluster.servers) == 0, "again is fine: it watches on"
        assert run.status(cluster.servers).joined(4)
        client.ingest([Event(account_id=n, metric_code="moved", value=1) for n in range(1000)])
        assert run("remove", "--id", "4", "--server", cluster.servers) == 0
        assert run.status(cluster.servers).gone(4)
        extra.stop()
        del cluster.nodes[4]
        for account in (0, 1, 499, 999):
            assert client.query(account, "moved", EVER).value.sum == account + 1


def test_drained_node_holds_nothing_and_stays_registered(run: Shell, tmp_path: Path) -> None:
    with NodeCluster(tmp_path) as running:
        assert run("add", "--id", "4", "--address", "127.0.0.1:1", "--peer", "127.0.0.1:2", "--no-wait", "--server", running.servers) == 0  # fmt: skip
        assert run("remove", "--id", "4", "--server", running.servers) == 0, "a node that never came"
        running.extra(4)
        words = ("--id", "4", "--address", running.client(4), "--peer", running.peer(4))
        assert run("add", *words, "--no-wait", "--server", running.servers) == 0
        running.start([4])
        assert run("add", *words, "--server", running.servers) == 0
        assert run("drain", "--id", "1", "--server", running.servers) == 0
        status = run.status(running.servers)
        node = status.node(1)
        assert node is not None
        assert (node.state, node.holds, node.leads) == ("draining", 0, 0)
        assert status.emptied(1)

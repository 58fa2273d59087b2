"""Requests over several groups, while leaders change, links break and clients leave: each is answered once, and counts once."""

from __future__ import annotations

import random
import struct

import pytest

from tests.cluster_bench import ClusterBench
from tests.harness import JAN_1, v1_event, v1_ingest, v1_metric
from tests.test_core_cluster import Clients, operate, ready
from unimeter.core.inputs import Input, LinkEnded
from unimeter.core.raft.state import Role
from unimeter.kernels import protocol as wire

GROUPS = 4
DECIDED = 15_000  # milliseconds after which everything has an answer
MAY_BE_SENT_AGAIN = (
    wire.V1_STATUS_NOT_LEADER,
    wire.V1_STATUS_BACKPRESSURE,
    wire.V1_STATUS_ERROR,
    wire.V1_STATUS_REDIRECT,
)


@pytest.fixture
def bench() -> ClusterBench:
    made = ready(3, GROUPS)
    assert Clients(made).raw(1, v1_metric("calls"), 2000)[0] == 0
    return made


def answers(bench: ClusterBench, number: int, link: int) -> list[tuple[int, int, int]]:
    """(request id, status, events stored) of all that came on that link."""
    data = bench.machines[number].answers.get(link, b"")
    found = []
    while data:
        status, request_id, length = wire.V1_RESPONSE_HEADER.unpack_from(data)
        stored = struct.unpack_from("<I", data, 12)[0] if status == 0 else 0
        found.append((request_id, status, stored))
        data = data[12 + length :]
    return found


def heal(bench: ClusterBench) -> None:
    """A connection that lost bytes breaks; it never goes on as if nothing had been."""
    for number, other in sorted(bench.cuts):
        for link in [link for link, end in bench.machines[number].other_end.items() if end[0] == other]:
            bench._hang_up(number, link)
    bench.cuts.clear()
    bench.settle()


def batch(number: int, accounts: list[int], request_id: int = 1, sync: bool = True) -> bytes:
    events = [v1_event("calls", account, 1, JAN_1 + number) for account in accounts]
    return v1_ingest(*events, sync=sync, request_id=request_id)


def foreign(bench: ClusterBench, number: int) -> list[int]:
    """Accounts of groups that other nodes lead; of at least two leaders, so that nothing is redirected."""
    found = [group for group in range(GROUPS) if bench.leader(group) != number]
    assert len({bench.leader(group) for group in found}) == 2
    return found


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("own", [True, False], ids=["own", "foreign"])
def test_a_client_that_ends_its_side_gets_the_answer_of_what_was_forwarded(
    bench: ClusterBench, number: int, own: bool
) -> None:
    link = bench.client(number)
    accounts = list(range(GROUPS)) if own else foreign(bench, number)
    bench._arrive(number, link, batch(1, accounts, 7))
    bench.step(number, LinkEnded(link))
    bench.run(300)
    assert answers(bench, number, link) == [(7, 0, len(accounts))]
    assert link not in bench.machines[number].framers, "and then it is closed"


def test_a_client_that_ended_its_side_is_answered_though_the_leader_was_deposed_meanwhile(bench: ClusterBench) -> None:
    old = bench.leader(0)
    link = bench.client(old)
    for other in bench.machines:
        if other != old:
            bench.cuts |= {(old, other), (other, old)}
    bench._arrive(old, link, batch(1, [0], 7))
    bench.settle()
    bench.step(old, LinkEnded(link))
    bench.run(6000, lambda: any(n.groups[0].raft.role is Role.LEADER for n in bench.nodes() if n.config.node_id != old))
    heal(bench)
    bench.run(DECIDED)
    assert [(request_id, status) for request_id, status, _ in answers(bench, old, link)] == [(7, 0)]


def test_an_async_request_for_others_is_answered_only_by_their_apply(bench: ClusterBench) -> None:
    number = 1
    link = bench.client(number)
    accounts = foreign(bench, number)
    for other in (2, 3):
        bench.cuts |= {(number, other)}
    bench._arrive(number, link, batch(1, accounts, 7, sync=False))
    bench.settle()
    assert answers(bench, number, link) == [], "it is nowhere yet"
    heal(bench)
    bench.run(DECIDED, lambda: bool(answers(bench, number, link)))
    assert [status for _, status, _ in answers(bench, number, link)] == [wire.V1_STATUS_ERROR], "nobody can tell"


def test_a_link_that_breaks_under_a_bundle_is_answered_as_unknown_and_may_be_sent_again(bench: ClusterBench) -> None:
    number = 1
    link, accounts = bench.client(number), foreign(bench, 1)
    for other in (2, 3):
        bench.cuts |= {(other, number)}  # it arrives, the answer does not
    bench._arrive(number, link, batch(1, accounts, 7))
    bench.run(5)
    assert answers(bench, number, link) == []
    for inner in list(bench.machines[number].other_end):
        bench._hang_up(number, inner)
    bench.run(5)
    assert [(request_id, status) for request_id, status, _ in answers(bench, number, link)] == [
        (7, wire.V1_STATUS_ERROR)
    ]
    heal(bench)
    bench.run(8000, bench.ready)
    clients = Clients(bench)
    assert clients.anywhere(batch(1, accounts))[1][:8] == struct.pack("<II", 0, len(accounts))
    assert [clients.count(account) for account in accounts] == [1] * len(accounts)


class Storm:
    """Clients that send to every node and never wait, while things happen to the nodes."""

    def __init__(self, bench: ClusterBench, seed: int) -> None:
        self.bench = bench
        self.chance = random.Random(seed)
        self.sent: dict[tuple[int, int], dict[int, bytes]] = {}  # (node, link) -> request id -> request
        self.lost: list[bytes] = []  # whose node died
        self.links: dict[int, int] = {}
        self.events = 0

    def send(self) -> None:
        number = self.chance.choice([n for n, m in self.bench.machines.items() if m.node is not None])
        link = self.links.get(number, 0)
        if link not in self.bench.machines[number].framers:
            link = self.links[number] = self.bench.client(number)
        self.events += 1
        accounts = list(range(8)) if self.chance.random() < 0.7 else self.chance.sample(range(8), 3)
        for account in range(8):
            if account not in accounts:  # the rest as a request of its own: every account gets every event
                self.lost.append(batch(self.events, [account]))
        data = batch(self.events, accounts, self.events, self.chance.random() < 0.8)
        self.sent.setdefault((number, link), {})[self.events] = data
        self.bench._arrive(number, link, data)

    def disturb(self) -> None:
        bench, chance = self.bench, self.chance
        number = chance.choice([1, 2, 3])
        node = bench.machines[number].node
        what = chance.choice(["transfer", "transfer", "link", "cut", "heal", "kill"])
        if what == "transfer" and node is not None:
            for group in node.groups:
                heirs = [r for r in group.raft.conf.voters if r != node.replica]
                if group.raft.role is Role.LEADER and heirs:
                    group.raft.transfer(bench.now_ns, chance.choice(heirs))
                    node._wake()
        elif what == "link" and bench.machines[number].other_end:
            bench._hang_up(number, chance.choice(sorted(bench.machines[number].other_end)))
        elif what == "cut":
            bench.cuts |= {(number, number % 3 + 1)} if chance.random() < 0.5 else {(number % 3 + 1, number)}
        elif what == "heal":
            heal(bench)
        elif what == "kill" and node is not None:
            for key in [key for key in self.sent if key[0] == number]:
                answered = {request_id for request_id, _, _ in self.check_once(*key)}
                self.lost += [data for request_id, data in self.sent.pop(key).items() if request_id not in answered]
            bench.kill(number)
            bench.start(number)

    def check_once(self, number: int, link: int) -> list[tuple[int, int, int]]:
        """No request has two answers. What was not taken for good is kept for another try."""
        found = answers(self.bench, number, link)
        ids = [request_id for request_id, _, _ in found]
        assert len(ids) == len(set(ids)), "a request was answered twice"
        for request_id, status, _ in found:
            assert status == 0 or status in MAY_BE_SENT_AGAIN
            if status:
                self.lost.append(self.sent[number, link][request_id])
        return found


@pytest.mark.parametrize("seed", range(3))
def test_every_request_is_answered_once_and_counts_once_whatever_happens(bench: ClusterBench, seed: int) -> None:
    storm = Storm(bench, seed)
    for _ in range(60):
        storm.send()
        if storm.chance.random() < 0.25:
            storm.disturb()
        bench.run(storm.chance.choice([0, 0, 1, 1, 5, 60]))
    heal(bench)
    wanted = {key: set(requests) for key, requests in storm.sent.items()}
    bench.run(DECIDED, lambda: all({i for i, _, _ in answers(bench, *key)} == ids for key, ids in wanted.items()))
    bench.run(500)
    for key in wanted:
        storm.check_once(*key)
    clients = Clients(bench)
    for data in storm.lost:
        status, payload = clients.anywhere(data, storm.chance.choice([1, 2, 3]))
        assert status == 0, payload
    assert [clients.count(account) for account in range(8)] == [storm.events] * 8
    bench.run(1000)
    for group in range(GROUPS):
        assert len({node.groups[group].state.meta().digest for node in bench.nodes()}) == 1


def test_a_bundle_is_taken_by_whoever_leads_when_it_arrives(bench: ClusterBench) -> None:
    """The leader hands over between the sending and the arrival, again and again."""
    clients = Clients(bench)
    for turn in range(9):
        group = turn % GROUPS
        old = bench.leader(group)
        sender = next(n for n in bench.machines if n != old and len({bench.leader(g) for g in range(GROUPS)} - {n}) > 1)
        link = bench.client(sender)
        operate(bench, old, op="transfer", group=group, to=old % 3 + 1)
        bench._arrive(sender, link, batch(turn + 1, list(range(GROUPS)), 7))
        bench.run(2000)
        assert [status for _, status, _ in answers(bench, sender, link)] == [0]
    assert [clients.count(account) for account in range(GROUPS)] == [9] * GROUPS


@pytest.mark.parametrize("groups", [1, 2, GROUPS])
def test_after_all_were_killed_nobody_forwards_before_it_knows_every_metric_again(
    groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the simulator (power_fails_everywhere, seed 5839): the leader of group 0 was elected, and had said as a
    follower that it knew of no metric; it had not applied yet what it had from before."""
    bench = ready(3, groups)
    assert Clients(bench).raw(1, v1_metric("calls"), 2000)[0] == 0
    for number in bench.machines:
        bench.kill(number)
    forwarding = 0
    step = bench.step

    def looked_at(number: int, event: Input) -> None:
        nonlocal forwarding
        step(number, event)
        node = bench.machines[number].node
        if node is not None and node.serving is not None and node.serving.cluster.may_forward():
            forwarding += 1
            assert any(group.catalog.version for group in node.groups), "it would say that the metric is unknown"

    monkeypatch.setattr(bench, "step", looked_at)
    bench.start()
    bench.run(3000)
    assert forwarding > 100

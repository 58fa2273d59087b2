"""Claims about several nodes, on the hand-driven cluster of tests/cluster_bench.py."""

from __future__ import annotations

import struct
from dataclasses import replace

import msgpack
import pytest

from tests.cluster_bench import ClusterBench, Machine
from tests.harness import JAN_1, v1, v1_event, v1_ingest, v1_metric, v1_usage
from unimeter.config import Member
from unimeter.core.front_v2 import encode as encode_v2
from unimeter.core.inputs import StopRequested
from unimeter.kernels import layout
from unimeter.kernels import protocol as wire

HOUR = 3_600_000_000_000
DAY = 24 * HOUR


def answer_v1(data: bytes) -> tuple[int, bytes]:
    """The first v1 answer in what was sent."""
    status, _, length = wire.V1_RESPONSE_HEADER.unpack_from(data)
    return status, data[12 : 12 + length]


class Clients:
    """A v1 connection to every node; `ingest` and `count` follow redirects as a client does."""

    def __init__(self, bench: ClusterBench) -> None:
        self.bench = bench
        self.links = {number: bench.client(number) for number in bench.machines}

    def raw(self, number: int, data: bytes, milliseconds: int = 50) -> tuple[int, bytes]:
        answer = self.bench.ask(number, self.links[number], data)
        for _ in range(milliseconds):
            if answer:
                break
            answer = self.bench.ask(number, self.links[number], b"", 1)
        assert answer, f"node {number} does not answer"
        return answer_v1(answer)

    def anywhere(self, data: bytes, first: int = 1) -> tuple[int, bytes]:
        number = first
        for _ in range(400):
            machine = self.bench.machines[number]
            if machine.node is not None:
                if self.links.get(number) not in machine.framers:
                    self.links[number] = self.bench.client(number)
                status, payload = self.raw(number, data, 4000)
                if status == wire.V1_STATUS_REDIRECT:
                    number = int(payload.split(b":")[0].rsplit(b".", 1)[1])
                    continue
                if status not in (wire.V1_STATUS_NOT_LEADER, wire.V1_STATUS_BACKPRESSURE):
                    return status, payload
            number = number % len(self.bench.machines) + 1
            self.bench.run(10)
        raise AssertionError("nobody serves this")

    def count(self, account: int, code: str = "calls", first: int = 1) -> int:
        status, payload = self.anywhere(v1_usage(account, code, JAN_1, JAN_1 + 28 * DAY), first)
        assert status == 0, payload
        return int(wire.V1_AGGREGATE.unpack(payload)[2])


def ready(nodes: int = 3, groups: int = 4, known: int = 0) -> ClusterBench:
    bench = ClusterBench(nodes, groups, known=known)
    bench.start()
    bench.run(5000, bench.ready)
    bench.run(4000)
    return bench


@pytest.fixture
def bench() -> ClusterBench:
    return ready()


def test_leaders_are_spread_within_one(bench: ClusterBench) -> None:
    leaders = [bench.leader(group) for group in range(4)]
    counts = [leaders.count(number) for number in (1, 2, 3)]
    assert max(counts) - min(counts) <= 1


def test_a_metric_is_known_to_every_node_when_it_is_created(bench: ClusterBench) -> None:
    clients = Clients(bench)
    assert clients.raw(2, v1_metric("calls"))[0] == 0
    for number in (1, 2, 3):
        assert bench.machines[number].node.serving.service.catalog.version == 1
        for account in range(4):
            status, _ = clients.anywhere(v1_ingest(v1_event("calls", account, 1, JAN_1 + number)), number)
            assert status == 0
    assert [clients.count(account) for account in range(4)] == [3] * 4


def test_a_batch_over_all_groups_is_answered_once_from_any_node(bench: ClusterBench) -> None:
    clients = Clients(bench)
    clients.raw(1, v1_metric("calls"))
    for number in (1, 2, 3):
        events = [v1_event("calls", account, 1, JAN_1 + number) for account in range(40)]
        status, payload = clients.raw(number, v1_ingest(*events))
        assert status == 0 and struct.unpack_from("<II", payload) == (40, 0)
        status, payload = clients.raw(number % 3 + 1, v1_ingest(*events))  # again, elsewhere
        assert status == 0 and struct.unpack_from("<II", payload) == (0, 40)
    assert {clients.count(account) for account in range(40)} == {3}


def test_a_request_for_one_other_leader_is_redirected(bench: ClusterBench) -> None:
    clients = Clients(bench)
    clients.raw(1, v1_metric("calls"))
    for account in range(4):
        leader = bench.leader(account)
        other = leader % 3 + 1
        status, payload = clients.raw(other, v1_ingest(v1_event("calls", account)))
        assert status == wire.V1_STATUS_REDIRECT
        assert payload.rstrip(b"\0").decode() == f"10.0.0.{leader}:7001"
        assert clients.raw(leader, v1_ingest(v1_event("calls", account)))[0] == 0


def test_nothing_acknowledged_is_lost_with_any_leader(bench: ClusterBench) -> None:
    clients = Clients(bench)
    clients.raw(1, v1_metric("calls"))
    written = 0
    for victim in (1, 2, 3, 1):
        for round_ in range(5):
            events = [v1_event("calls", account, 1, JAN_1 + written * 1000 + account) for account in range(8)]
            assert clients.anywhere(v1_ingest(*events), 1 + round_ % 3)[0] == 0
            written += 1
        bench.kill(victim)
        events = [v1_event("calls", account, 1, JAN_1 + written * 1000 + account) for account in range(8)]
        for event in events:  # one by one: each finds its leader
            assert clients.anywhere(v1_ingest(event), victim % 3 + 1)[0] == 0
        written += 1
        bench.start(victim)
        bench.run(3000, bench.ready)
    assert {clients.count(account) for account in range(8)} == {written}


def test_replicas_have_equal_digests_at_equal_indexes(bench: ClusterBench) -> None:
    clients = Clients(bench)
    clients.raw(1, v1_metric("calls"))
    for n in range(20):
        clients.anywhere(v1_ingest(*[v1_event("calls", account, 1, JAN_1 + n) for account in range(16)]))
    bench.run(1000)
    for group in range(4):
        found = {(n.groups[group].applied_index, n.groups[group].state.meta().digest) for n in bench.nodes()}
        assert len(found) == 1
    assert sum(node.counters()["digests_compared"] for node in bench.nodes()) > 0


def test_a_flipped_bit_in_one_replica_halts_that_replica(bench: ClusterBench) -> None:
    clients = Clients(bench)
    clients.raw(1, v1_metric("calls"))
    assert clients.anywhere(v1_ingest(v1_event("calls", 0, 1, JAN_1)))[0] == 0
    bench.run(500)
    odd = bench.leader(0) % 3 + 1
    bench.machines[odd].node.groups[0].state.flip(layout.UM_R_BUCKETS, 16, 3)
    assert clients.anywhere(v1_ingest(v1_event("calls", 0, 1, JAN_1 + 1)))[0] == 0
    bench.run(2000, lambda: bench.machines[odd].halted is not None)
    assert "divergence" in (bench.machines[odd].halted or "")
    assert len(bench.nodes()) == 2
    bench.kill(odd)
    bench.start(odd)  # comes back with nothing, and gets everything anew
    bench.run(20_000, lambda: bench.ready() and len({n.groups[0].state.meta().digest for n in bench.nodes()}) == 1)
    assert clients.count(0) == 2


def test_a_flipped_bit_in_the_leader_halts_the_leader(bench: ClusterBench) -> None:
    clients = Clients(bench)
    clients.raw(1, v1_metric("calls"))
    assert clients.anywhere(v1_ingest(v1_event("calls", 0, 1, JAN_1)))[0] == 0
    bench.run(500)
    odd = bench.leader(0)
    bench.machines[odd].node.groups[0].state.flip(layout.UM_R_BUCKETS, 16, 3)
    assert clients.anywhere(v1_ingest(v1_event("calls", 0, 1, JAN_1 + 1)))[0] == 0
    bench.run(2000, lambda: bench.machines[odd].halted is not None)
    assert "divergence" in (bench.machines[odd].halted or "")
    bench.kill(odd)
    assert clients.count(0, first=odd % 3 + 1) == 2


def test_a_wiped_node_comes_back_as_a_new_replica_and_has_everything(bench: ClusterBench) -> None:
    clients = Clients(bench)
    clients.raw(1, v1_metric("calls"))
    for n in range(30):
        clients.anywhere(v1_ingest(*[v1_event("calls", account, 1, JAN_1 + n) for account in range(16)]))
    for victim in (1, 2, 3):  # one after the other: in the end nobody has its first disk
        before = bench.machines[victim].node.replica
        bench.wipe(victim)
        bench.run(1500)
        bench.start(victim)
        bench.run(30_000, lambda victim=victim: bench.ready() and _is_voter(bench, victim))
        assert bench.machines[victim].node.replica != before
        bench.run(2000)
    assert {clients.count(account) for account in range(16)} == {30}
    for group in range(4):
        assert len({n.groups[group].state.meta().digest for n in bench.nodes()}) == 1


def _is_voter(bench: ClusterBench, number: int) -> bool:
    node = bench.machines[number].node
    return all(
        g.raft.conf.voters
        and node.replica in g.raft.conf.voters
        and not g.raft.conf.joint
        and len(g.raft.conf.voters) == 3
        for g in node.groups
    )


def test_a_fresh_node_never_founds_a_second_cluster() -> None:
    bench = ready()
    cluster_id = bench.machines[2].node.serving.cluster_id
    bench.wipe(1)
    bench.kill(2)
    bench.kill(3)
    bench.start(1)
    bench.run(3000)
    assert not bench.machines[1].node.ready
    bench.start(2)
    bench.start(3)
    bench.run(20_000, bench.ready)
    assert bench.machines[1].node.serving.cluster_id == cluster_id


def test_rot_in_a_replica_makes_it_begin_anew_once_the_others_do_without(bench: ClusterBench) -> None:
    clients = Clients(bench)
    clients.raw(1, v1_metric("calls"))
    for n in range(20):
        clients.anywhere(v1_ingest(*[v1_event("calls", account, 1, JAN_1 + n) for account in range(16)]))
    bench.kill(2)
    rotten = bench.machines[2].files["journal/0000000001.seg"]
    rotten[4096 + 600] ^= 0x40
    bench.start(2)
    assert not bench.machines[2].node.ready and "cannot be believed" in bench.machines[2].node.progress
    bench.run(30_000, lambda: bench.ready() and _is_voter(bench, 2))
    assert {clients.count(account, first=2) for account in range(16)} == {20}


def test_rot_found_while_reading_old_entries_hands_over_and_begins_anew(bench: ClusterBench) -> None:
    clients = Clients(bench)
    clients.raw(1, v1_metric("calls"))
    for n in range(40):
        clients.anywhere(v1_ingest(*[v1_event("calls", account, 1, JAN_1 + n * 1000) for account in range(16)]))
    number = bench.leader(0)
    before = bench.machines[number].node.replica
    segment = bench.machines[number].files["journal/0000000001.seg"]
    for offset in range(4096 + 9000, 4096 + 10_000, 8):  # more than one record, and not only the padding of one
        segment[offset] ^= 0x40
    clients.raw(number, v1_usage(0, "calls", JAN_1 + 500, JAN_1 + 39_500), 3000)  # cuts an hour: reads the journal
    bench.run(
        40_000, lambda: bench.ready() and bench.machines[number].node.replica != before and _is_voter(bench, number)
    )
    assert {clients.count(account) for account in range(16)} == {40}


def test_damaged_data_is_kept_while_the_others_cannot_do_without_it(bench: ClusterBench) -> None:
    clients = Clients(bench)
    clients.raw(1, v1_metric("calls"))
    clients.anywhere(v1_ingest(v1_event("calls", 0, 1, JAN_1)))
    bench.run(500)
    bench.kill(2)
    bench.machines[2].files["journal/0000000001.seg"][4096 + 600] ^= 0x40
    bench.kill(3)
    kept = bytes(bench.machines[2].files["journal/0000000001.seg"])
    bench.start(2)
    bench.run(10_000)
    assert bytes(bench.machines[2].files["journal/0000000001.seg"]) == kept
    assert bench.leader(0) in (0, 1, 2, 3) and not bench.machines[2].node.ready
    bench.start(3)
    bench.run(30_000, lambda: bench.ready() and _is_voter(bench, 2))
    assert clients.count(0) == 1


def operate(bench: ClusterBench, number: int, **body: object) -> dict[str, object]:
    """A `cluster` request of protocol v2."""
    link = bench.client(number)
    data = bytearray(encode_v2(bench.kernels, wire.V2_TYPE_CLUSTER, 0, 9, body))
    answer = b""
    for _ in range(100):
        answer = bench.ask(number, link, bytes(data) if not answer else b"", 20)
        data.clear()
        if answer:
            break
    payload = answer[32:]
    status = answer[6]
    found: dict[str, object] = msgpack.unpackb(payload)
    assert status == 0, found
    return found


def test_a_fourth_node_takes_its_share_and_gives_it_back() -> None:
    bench = ClusterBench(3, 8)
    bench.start()
    bench.run(5000, bench.ready)
    bench.run(3000)
    clients = Clients(bench)
    clients.raw(1, v1_metric("calls"))
    for n in range(10):
        clients.anywhere(v1_ingest(*[v1_event("calls", account, 1, JAN_1 + n) for account in range(16)]))
    operate(bench, 2, op="add", id=4, address="10.0.0.4:7001", peer="10.0.0.4:7101")
    bench.members = (*bench.members, Member(4, "10.0.0.4:7001", "10.0.0.4:7101"))
    bench.config = replace(bench.config, members=bench.members)
    bench.machines[4] = Machine(4)
    bench.start(4)

    def shares() -> list[tuple[int, int]]:
        status = operate(bench, 1, op="status")
        return [(node["holds"], node["leads"]) for node in status["nodes"]]  # type: ignore[index,union-attr]

    def balanced() -> bool:
        holds, leads = zip(*shares(), strict=True)
        return len(holds) == 4 and max(holds) - min(holds) <= 1 and max(leads) - min(leads) <= 1 and sum(holds) == 24

    for _ in range(100):
        bench.run(500)
        if balanced():
            break
    assert balanced(), shares()
    assert {clients.count(account) for account in range(16)} == {10}
    operate(bench, 3, op="remove", id=4)
    for _ in range(100):
        bench.run(500)
        if len(shares()) == 3:
            break
    assert [holds for holds, _ in shares()] == [8, 8, 8]
    bench.kill(4)
    assert {clients.count(account) for account in range(16)} == {10}


def test_a_cluster_of_one_that_grows_to_three_is_replicated() -> None:
    bench = ClusterBench(1, 2)
    bench.start()
    bench.run(3000, bench.ready)
    clients = Clients(bench)
    clients.raw(1, v1_metric("calls"))
    for n in range(10):
        assert clients.anywhere(v1_ingest(*[v1_event("calls", account, 1, JAN_1 + n) for account in range(4)]))[0] == 0
    for number in (2, 3):
        address, peer = f"10.0.0.{number}:7001", f"10.0.0.{number}:7101"
        operate(bench, 1, op="add", id=number, address=address, peer=peer)
        bench.members = (*bench.members, Member(number, address, peer))
        bench.config = replace(bench.config, members=bench.members)
        bench.machines[number] = Machine(number)
        bench.start(number)
        bench.run(3000)
    bench.run(30_000, lambda: bench.ready() and all(_is_voter(bench, number) for number in (1, 2, 3)))
    bench.kill(1)
    clients.links = {number: bench.client(number) for number in (2, 3)}
    assert {clients.count(account, first=2) for account in range(4)} == {10}


def test_a_stopping_node_hands_over_what_it_leads(bench: ClusterBench) -> None:
    clients = Clients(bench)
    clients.raw(1, v1_metric("calls"))
    stopping = bench.leader(0)
    bench.step(stopping, StopRequested())
    bench.settle()
    bench.run(200)
    assert bench.leader(0) != stopping
    bench.run(3000, lambda: bench.machines[stopping].node.halted)
    assert bench.machines[stopping].halted is None


def test_the_partition_map_is_pushed_when_a_leader_changes(bench: ClusterBench) -> None:
    clients = Clients(bench)
    watcher = bench.leader(0) % 3 + 1
    status, payload = clients.raw(watcher, v1(wire.V1_TYPE_PARTITION_MAP))
    assert status == 0 and len(payload) == 256 * 96
    first = payload[:24].rstrip(b"\0").decode()
    assert first == f"10.0.0.{bench.leader(0)}:7001"
    bench.machines[watcher].answers.clear()
    bench.kill(bench.leader(0))
    bench.run(3000, lambda: bench.leader(0) != 0 and bench.ready())
    bench.run(100)
    pushed = bench.machines[watcher].answers[clients.links[watcher]]
    assert pushed[0] == wire.V1_TYPE_PARTITION_MAP_PUSH
    newest = pushed[-256 * 96 :]
    assert newest[:24].rstrip(b"\0").decode() == f"10.0.0.{bench.leader(0)}:7001"

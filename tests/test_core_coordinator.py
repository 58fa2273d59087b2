"""What the coordinator decides from what it is told, and that its moves end well whoever dies in between."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from tests.cluster_bench import ClusterBench, Machine
from tests.harness import JAN_1, SMALL, v1_event, v1_ingest, v1_metric
from tests.test_core_cluster import Clients, operate, ready
from unimeter.config import Member
from unimeter.core.cluster import GroupReport
from unimeter.core.coordinator import LEVEL_ELECTIONS, LEVEL_ENTRIES, MOVES_MAX, Coordinator
from unimeter.core.moves import CAUGHT_UP_ENTRIES, Moves
from unimeter.core.peers import Peer
from unimeter.core.registry import ACTIVE, DRAINING, REMOVED, NodeRecord, Registry

NOW = 10**12


class Around:
    """A cluster as the coordinator on node 1 sees it: nothing behind it. Node n has replica 10 n."""

    def __init__(self, nodes: int, replicas: int = 3) -> None:
        self.topology = self
        self.peers = self
        self.registry = Registry(
            1,
            replicas,
            {
                n: NodeRecord(n, SMALL.advertise if n == 1 else f"c{n}", f"p{n}", 10 * n, ACTIVE)
                for n in range(1, nodes + 1)
            },
        )
        self.there = {n: Peer(n, 0, NOW, n, 10 * n, 1) for n in range(2, nodes + 1)}
        self.reports: dict[int, GroupReport] = {}
        self.group_count = 0
        self.unfit: set[int] = set()
        self.asked: list[tuple[int, str, dict[str, Any]]] = []
        self.coordinator = Coordinator(SMALL, None, self, self._ask, lambda _: None)  # type: ignore[arg-type]

    def _ask(self, group: int, what: str, body: dict[str, Any], done: object) -> None:  # noqa: ARG002
        self.asked.append((group, what, body))

    def of_node(self, number: int) -> Peer | None:
        return self.there.get(number)

    def may_lead(self, number: int) -> bool:
        return (number == 1 or number in self.there) and number not in self.unfit

    def group(self, leader: int, voters: list[int], learners: tuple[int, ...] = (), **more: Any) -> None:
        """Voters and learners are replica ids."""
        behind = dict.fromkeys(voters, 0)
        fields = {
            "outgoing": (), "settled": True, "commit": 9, "index": 9, "heard_ns": NOW, "conf_index": 0, "behind": behind, **more
        }  # fmt: skip
        known = {name: fields[name] for name in GroupReport.__dataclass_fields__ if name in fields}
        self.reports[self.group_count] = GroupReport(
            term=1, node_id=leader, voters=tuple(sorted(voters)), learners=learners, **known
        )
        self.group_count += 1

    def state(self, number: int, state: str) -> None:
        self.registry = self.registry.with_node(replace(self.registry.nodes[number], state=state))

    def moves(self) -> list[tuple[int, int, int]]:
        """(group, remove, add) that it orders now."""
        self.asked.clear()
        self.coordinator._move()
        return [(group, body["remove"], body["add"]) for group, what, body in self.asked if what == "move"]

    def transfers(self, now_ns: int = NOW) -> list[tuple[int, int]]:
        self.asked.clear()
        self.coordinator._transfers.clear()
        self.coordinator._note_who_is_behind(now_ns)
        self.coordinator._balance_leaders(now_ns)
        return [(group, body["to"]) for group, what, body in self.asked if what == "transfer"]


def test_a_cluster_in_shape_is_left_alone() -> None:
    around = Around(3)
    for leader in (1, 2, 3):
        around.group(leader, [10, 20, 30])
    assert around.moves() == [] and around.transfers() == []


def test_a_ghost_is_replaced_by_the_node_s_new_replica() -> None:
    around = Around(3)
    around.there[3].replica = 31
    around.registry = around.registry.with_node(replace(around.registry.nodes[3], replica=31))
    around.group(1, [10, 20, 30])
    assert around.moves() == [(0, 30, 31)]


def test_the_new_replica_of_a_node_is_taken_into_the_registry_first() -> None:
    around = Around(3)
    around.there[3].replica = 31
    corrected = around.coordinator._corrected(NOW)
    assert corrected is not None and corrected.nodes[3].replica == 31 and corrected.version == 2


def test_a_voter_whose_node_is_merely_away_is_kept() -> None:
    around = Around(4)
    del around.there[3]
    around.group(1, [10, 20, 30])
    assert around.moves() == []


def test_a_draining_node_gives_its_replicas_to_whoever_holds_least() -> None:
    around = Around(5)
    around.state(2, DRAINING)
    around.group(1, [10, 20, 30])
    around.group(1, [10, 30, 40])
    assert around.moves() == [(0, 20, 50)]


def test_a_draining_node_keeps_what_nobody_can_take() -> None:
    around = Around(3)
    around.state(2, DRAINING)
    around.group(1, [10, 20, 30])
    assert around.moves() == []


def test_a_group_that_is_short_gets_one_more_and_loses_none() -> None:
    around = Around(3)
    around.group(1, [10, 20])
    assert around.moves() == [(0, 0, 30)]


@pytest.mark.parametrize(("nodes", "voters", "goes"), [(3, [10, 20, 30, 999], 999), (4, [10, 20, 30, 40], 40)])
def test_of_voters_too_many_one_goes_and_none_comes(nodes: int, voters: list[int], goes: int) -> None:
    around = Around(nodes)
    around.group(1, voters)
    assert around.moves() == [(0, goes, 0)]


def test_no_more_groups_move_at_a_time_than_allowed() -> None:
    around = Around(4)
    around.state(2, DRAINING)
    for _ in range(6):
        around.group(1, [10, 20, 30])
    assert len(around.moves()) == MOVES_MAX
    around.reports[0].settled = False
    assert len(around.moves()) == MOVES_MAX - 1 and all(group != 0 for group, _, _ in around.moves())


def test_one_replica_moves_from_the_fullest_node_to_the_emptiest_rather_than_the_leader_s() -> None:
    around = Around(4)
    around.group(3, [10, 20, 30])
    around.group(1, [10, 20, 30])
    assert around.moves() == [(1, 30, 40)], "node 3 does not lead group 1"


def test_a_learner_of_nobody_is_dropped() -> None:
    around = Around(3)
    around.group(1, [10, 20, 30], (77,))
    assert around.moves() == [(0, 77, 0)]


def test_a_half_done_balancing_move_is_finished_or_undone() -> None:
    around = Around(4)
    around.group(1, [10, 20, 30], (40,))
    around.group(1, [10, 20, 30])
    (group, remove, add), *rest = around.moves()
    assert (group, add, rest) == (0, 40, []) and remove in (10, 20, 30)
    full = Around(4)
    full.group(1, [10, 20, 30], (40,))
    for _ in range(2):
        full.group(1, [10, 20, 40])
    for _ in range(2):
        full.group(1, [30, 20, 40])
    for group, remove, add in full.moves():
        assert (group, add) != (0, 40) or remove, "never more voters than wanted"


def test_leaders_move_from_who_leads_two_more_and_from_who_is_drained() -> None:
    around = Around(3)
    for leader in (1, 1, 1, 2, 3):
        around.group(leader, [10, 20, 30])
    assert around.transfers() == [(0, 20)]
    around = Around(3)
    around.state(2, DRAINING)
    for leader in (1, 2, 3):
        around.group(leader, [10, 20, 30])
    assert [group for group, _ in around.transfers()] == [1]


def test_nobody_who_is_unfit_or_away_is_made_leader() -> None:
    around = Around(3)
    for _ in range(3):
        around.group(1, [10, 20, 30])
    around.unfit = {2}
    assert around.transfers() == [(0, 30)]
    del around.there[3]
    assert around.transfers() == []


def test_who_catches_up_leads_nothing_until_it_has_been_level_for_a_while() -> None:
    """While a follower fetches what it missed, nothing could be written in a group that is handed to it."""
    around = Around(3)
    for leader in (1, 1, 2, 2):
        around.group(leader, [10, 20, 30])
    assert around.transfers() == [(0, 30)]
    around.reports[3].behind[30] = LEVEL_ENTRIES + 1  # in a group that would stay where it is
    assert around.transfers() == []
    around.reports[3].behind[30] = LEVEL_ENTRIES
    assert around.transfers(NOW + LEVEL_ELECTIONS * SMALL.election_max_ns - 1) == []
    assert around.transfers(NOW + LEVEL_ELECTIONS * SMALL.election_max_ns) == [(0, 30)]
    del around.reports[3].behind[30]  # its leader has not heard from it
    assert around.transfers(NOW + 9 * LEVEL_ELECTIONS * SMALL.election_max_ns) == []


def test_a_node_that_is_drained_gives_leadership_to_whoever_can_take_it() -> None:
    around = Around(3)
    around.state(2, DRAINING)
    for leader in (1, 2, 3):
        around.group(leader, [10, 20, 30])
    for report in around.reports.values():
        report.behind.update({10: LEVEL_ENTRIES + 1, 30: CAUGHT_UP_ENTRIES})
    assert [group for group, _ in around.transfers()] == [1]


def test_a_removed_node_is_forgotten_once_it_holds_nothing() -> None:
    around = Around(4)
    around.state(4, REMOVED)
    around.group(1, [10, 20, 40])
    assert around.coordinator._corrected(NOW) is None
    around.reports.clear()
    around.group_count = 0
    around.group(1, [10, 20, 30])
    corrected = around.coordinator._corrected(NOW)
    assert corrected is not None and 4 not in corrected.nodes


def test_a_removed_node_is_not_forgotten_before_all_groups_have_reported() -> None:
    around = Around(4)
    around.state(4, REMOVED)
    around.group_count = 3
    assert around.coordinator._corrected(NOW) is None


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_reports_no_order_leaves_a_group_short_and_orders_come_to_an_end(seed: int) -> None:
    """Orders are carried out at once; after enough of them there are none, and everything is in balance."""
    chance = random.Random(seed)
    around = Around(chance.randrange(3, 7))
    ids = [10 * n for n in around.registry.nodes]
    for n in chance.sample(list(around.registry.nodes), chance.randrange(0, len(ids) - 2)):
        around.state(n, chance.choice([DRAINING, REMOVED]))
    for _ in range(chance.randrange(1, 10)):
        pool = [*ids, 999] if chance.random() < 0.3 else ids
        voters = chance.sample(pool, min(len(pool), chance.choice([3, 3, 3, 4])))
        learners = [one for one in ids if one not in voters and chance.random() < 0.15]
        around.group(chance.choice(list(around.registry.nodes)), voters, tuple(learners))
    for _ in range(200):
        orders = around.moves()
        if not orders:
            break
        assert len(orders) <= MOVES_MAX
        for group, remove, add in orders:
            report = around.reports[group]
            voters = {*report.voters, add} - {remove, 0}
            assert len(voters) >= 3, (report, remove, add)
            report.voters = tuple(sorted(voters))
            report.learners = tuple(one for one in report.learners if one not in (remove, add))
    else:
        raise AssertionError("it never comes to rest")
    active = [10 * n.node_id for n in around.registry.nodes.values() if n.state == ACTIVE]
    held = [sum(one in report.voters for report in around.reports.values()) for one in active]
    assert max(held) - min(held) <= 1
    for report in around.reports.values():
        assert len(report.voters) == 3 and not report.learners and all(one in active for one in report.voters)


def test_an_order_that_comes_late_adds_nobody() -> None:
    """It follows from a report of before: the replica that is to go is gone, another has its place."""
    bench = ready()
    node = bench.machines[bench.leader(1)].node
    assert node is not None
    group = node.groups[1]
    before = group.raft.conf
    moves = Moves([group], 10**9)
    moves.order(group, 999, 777, lambda _: None)
    moves.turn(group)
    bench.run(100)
    assert group.raft.conf == before
    moves.order(group, 0, 777, lambda _: None)  # as one that is in time is carried out
    moves.turn(group)
    bench.run(100)
    assert group.raft.conf.learners == (777,)


@pytest.mark.parametrize("every", [20, 90, 250])
def test_moves_interrupted_by_deaths_again_and_again_end_balanced(every: int) -> None:
    bench = ready(3, 4)
    clients = Clients(bench)
    assert clients.raw(1, v1_metric("calls"), 2000)[0] == 0
    for n in range(3):
        clients.anywhere(v1_ingest(*[v1_event("calls", account, 1, JAN_1 + n) for account in range(8)]))
    operate(bench, 2, op="add", id=4, address="10.0.0.4:7001", peer="10.0.0.4:7101")
    bench.members = (*bench.members, Member(4, "10.0.0.4:7001", "10.0.0.4:7101"))
    bench.config = replace(bench.config, members=bench.members)
    bench.machines[4] = Machine(4)
    bench.start(4)
    for turn in range(10):
        bench.run(every * (1 + turn % 3))
        victim = bench.leader(turn % 4) or 1
        bench.kill(victim)
        bench.run(every)
        bench.start(victim)
    bench.run(30_000, lambda: bench.ready() and _balanced(bench))
    assert [clients.count(account) for account in range(8)] == [3] * 8


def _balanced(bench: ClusterBench) -> bool:
    confs = []
    for group in range(4):
        leader = bench.leader(group)
        if not leader or bench.machines[leader].node is None:
            return False
        confs.append(bench.machines[leader].node.groups[group].raft.conf)
    held = [sum(node.replica in conf.voters for conf in confs) for node in bench.nodes()]
    quiet = all(not conf.joint and not conf.learners and len(conf.voters) == 3 for conf in confs)
    return quiet and len(held) == 4 and max(held) - min(held) <= 1

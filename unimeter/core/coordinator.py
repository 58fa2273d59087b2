"""The coordinator: whoever leads group 0 keeps the cluster in shape.

It owns the registry, and looks at what the groups' leaders report, again and again. From that it derives, one small step
after the other, what ought to be different, and tells the leader concerned:

- a node came back with another replica id (its disk was wiped): the registry is corrected, the old replica is a ghost
- a voter is a ghost, or its node is being drained: another replica takes its place
- a group has a voter too many (two coordinators had ordered one each): a ghost goes, or the one of the greatest id
- one node holds two replicas more than another: one of them moves
- one node leads two groups more than another, or is being drained: leadership is transferred. A node that has come back is
  given none before it has caught up with all its groups and kept up for a while: whoever is handed a group must have all of
  it before anything can be written there

It remembers nothing that matters: every decision follows from the registry and the newest reports, so the next coordinator
goes on where this one died. At most MOVES_MAX groups change their members at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from unimeter.config import NodeConfig
from unimeter.core.calls import Answer, Done
from unimeter.core.cluster import Cluster, GroupReport
from unimeter.core.group import Group
from unimeter.core.moves import CAUGHT_UP_ENTRIES
from unimeter.core.operating import Operating
from unimeter.core.peers import NEVER_NS
from unimeter.core.raft.state import Role
from unimeter.core.refusal import Refused
from unimeter.core.registry import ACTIVE, REMOVED, NodeRecord, Registry
from unimeter.core.sealed import Outcome
from unimeter.kernels import layout

MOVES_MAX: Final = 2
VAIN_TRANSFER_ELECTIONS: Final = 10  # election timeouts until a leader that did not hand over is asked again
HELD_ELECTIONS: Final = 30  # ... until leaders are balanced again after an operator moved one
LEVEL_ENTRIES: Final = 64  # a follower that lacks no more than this, of any group, keeps up ...
LEVEL_ELECTIONS: Final = 2  # ... and may lead once it has for so many election timeouts
FRESH_GOSSIPS: Final = 5  # a report older than so many gossip intervals says nothing

Ask = Callable[[int, str, dict[str, Any], Done], None]


class Coordinator:
    def __init__(
        self, config: NodeConfig, group: Group, cluster: Cluster, ask: Ask, notice: Callable[[str], None]
    ) -> None:
        """`group`: group 0."""
        self._config = config
        self._group = group
        self._cluster = cluster
        self._ask = ask
        self._notice = notice
        self._next_ns = 0
        self._proposing = False
        self._transfer_again_ns = 0
        self._transfers: dict[
            int, tuple[int, int]
        ] = {}  # group -> (term of the leader that was asked, not again before)
        self._behind_ns: dict[int, int] = {}  # node id -> when it was not there, or behind, last
        self._term = 0
        self._operating = Operating(config, cluster, self.change, ask)

    def operate(self, now_ns: int, body: dict[str, Any], done: Done) -> None:
        """A request of an operator. May raise Refused."""
        if body.get("op") == "transfer":
            self.hold(now_ns)
        self._operating.serve(body, done)

    @property
    def registry(self) -> Registry:
        return self._cluster.topology.registry

    def change(self, registry: Registry, done: Callable[[Refused | None], None]) -> None:
        """Put a new registry into the log. Raises Refused."""
        if self._proposing:
            raise Refused("overloaded", "another change of the cluster is under way", "try again shortly")

        def applied(outcome: Outcome) -> None:
            self._proposing = False
            self._next_ns = 0
            if not isinstance(outcome, Refused):
                self._cluster.learn_registry(self._group.cluster)
            done(outcome if isinstance(outcome, Refused) else None)

        self._group.propose(layout.UM_ENTRY_CLUSTER, registry.encode(), applied)
        self._proposing = True

    def turn(self, now_ns: int) -> int:
        """Returns when to come again."""
        raft = self._group.raft
        if not raft.accepting:
            self._next_ns = 0
            self._proposing = self._proposing and raft.role is Role.LEADER
            return NEVER_NS
        if now_ns < self._next_ns:
            return self._next_ns
        if self._term != raft.term:  # first of all, let what happened settle
            self._term, self._transfer_again_ns = raft.term, now_ns + 2 * self._config.election_max_ns
        self._next_ns = now_ns + self._config.gossip_ns
        if self._group.leading and not self._proposing:  # so the registry is the newest that was ever committed
            corrected = self._corrected(now_ns)
            if corrected is not None:
                self.change(corrected, lambda _: None)
            elif len(self.registry.nodes) < 2:
                self._next_ns = NEVER_NS  # until this node is the coordinator again
            elif self._all_reported(now_ns):
                self._note_who_is_behind(now_ns)
                moving = self._move()
                if not moving and now_ns >= self._transfer_again_ns:
                    self._balance_leaders(now_ns)
        return self._next_ns

    # ---- the registry ----

    def _corrected(self, now_ns: int) -> Registry | None:
        """With the replica ids that the nodes have now, and without nodes that are removed and hold nothing."""
        for node in self.registry.nodes.values():
            peer = self._cluster.peers.of_node(node.node_id)
            moved = self._addresses(node)
            if moved != (node.client_address, node.peer_address):
                self._notice(f"node {node.node_id} is at {moved[0]} (for nodes: {moved[1]}) now")
                return self.registry.with_node(replace(node, client_address=moved[0], peer_address=moved[1]))
            if peer is not None and peer.cluster_id and not peer.damaged and peer.replica != node.replica:
                self._notice(f"node {node.node_id} is a new replica: {peer.replica:016x}")
                return self.registry.with_node(replace(node, replica=peer.replica))
            held = any(self._has(report, node.replica) for report in self._reports())
            if node.state == REMOVED and not held and self._all_reported(now_ns):
                self._notice(f"node {node.node_id} holds nothing any more: it is removed")
                return self.registry.without(node.node_id)
        return None

    def _addresses(self, node: NodeRecord) -> tuple[str, str]:
        """(for clients, for nodes): where it says that it is, if it is there to say so."""
        if node.node_id == self._config.node_id:
            own = self._config
            return own.client_address or node.client_address, own.peer_address or node.peer_address
        peer = self._cluster.peers.of_node(node.node_id)
        if peer is None:
            return node.client_address, node.peer_address
        return peer.client_address or node.client_address, peer.peer_address or node.peer_address

    @staticmethod
    def _has(report: GroupReport, replica: int) -> bool:
        return replica in report.voters or replica in report.learners or replica in report.outgoing

    # ---- reports ----

    def _reports(self) -> list[GroupReport]:
        return list(self._cluster.reports.values())

    def _all_reported(self, now_ns: int) -> bool:
        oldest_ns = now_ns - FRESH_GOSSIPS * self._config.gossip_ns
        count = self._cluster.topology.group_count
        reports = self._cluster.reports
        return all(group in reports and reports[group].heard_ns >= oldest_ns for group in range(count))

    def _usable(self) -> list[NodeRecord]:
        """Nodes that may be given replicas: active, known, and there."""
        own = self._config.node_id
        usable = []
        for node in self.registry.nodes.values():
            peer = self._cluster.peers.of_node(node.node_id)
            here = node.node_id == own or (peer is not None and peer.replica == node.replica and not peer.damaged)
            if node.state == ACTIVE and node.replica and here:
                usable.append(node)
        return usable

    def _stays(self, replica: int) -> bool:
        """Is it a replica of a node that is meant to hold some?"""
        node = self.registry.nodes.get(self.registry.node_of(replica))
        return node is not None and node.state == ACTIVE

    # ---- replicas ----

    def _move(self) -> bool:
        """Order what is next. True: members are changing somewhere."""
        usable = self._usable()
        holds = {node.replica: 0 for node in usable}
        for report in self._reports():
            for replica in (*report.voters, *report.learners):
                if replica in holds:
                    holds[replica] += 1
        busy = [n for n, report in self._cluster.reports.items() if not report.settled or report.outgoing]
        orders: list[tuple[int, int, int]] = []
        for number in sorted(self._cluster.reports):
            report = self._cluster.reports[number]
            if number in busy:
                continue
            order = self._repair(report, holds)
            if order is not None:
                orders.append((number, *order))
                if order[1]:
                    holds[order[1]] += 1
        if not orders and not busy:
            balanced = self._balance(holds)
            if balanced is not None:
                orders.append(balanced)
        for number, remove, add in orders[: max(0, MOVES_MAX - len(busy))]:
            self._ask(number, "move", {"remove": remove, "add": add}, _ignore)
        return bool(orders or busy)

    def _repair(self, report: GroupReport, holds: dict[int, int]) -> tuple[int, int] | None:
        """(replica to remove, replica to add) for a group that is not as it should be; 0: none."""
        waiting = [replica for replica in report.learners if replica in holds]
        lost = [replica for replica in report.learners if replica not in holds and not self._stays(replica)]
        if lost:
            return lost[0], 0
        bad = [replica for replica in report.voters if not self._stays(replica)]
        if len(report.voters) > self.registry.replicas:
            return max(bad or report.voters), 0  # from an old report the same one, so that it is not two that go
        short = len(report.voters) < self.registry.replicas <= len(holds)
        if not bad and not short:
            if not waiting:
                return None
            # a balancing move whose leader died: finish it
            full = [replica for replica in report.voters if replica in holds]
            over = max(full, key=lambda replica: (holds[replica], replica), default=0)
            return (over, waiting[0]) if over and holds[over] >= holds[waiting[0]] else (waiting[0], 0)
        free = [replica for replica in holds if replica not in report.voters]
        free.sort(key=lambda replica: (replica not in waiting, holds[replica], replica))
        if not free:
            return None  # nobody can take its place
        return (bad[0] if bad else 0, free[0])

    def _balance(self, holds: dict[int, int]) -> tuple[int, int, int] | None:
        """(group, remove, add) when one node holds two replicas more than another."""
        if len(holds) < 2:
            return None
        most = max(holds, key=lambda replica: (holds[replica], replica))
        least = min(holds, key=lambda replica: (holds[replica], replica))
        if holds[most] - holds[least] < 2:
            return None
        for number in sorted(self._cluster.reports):
            report = self._cluster.reports[number]
            if most in report.voters and least not in report.voters and self._leads(report) != most:
                return number, most, least
        for number in sorted(self._cluster.reports):
            report = self._cluster.reports[number]
            if most in report.voters and least not in report.voters:
                return number, most, least
        return None

    def _leads(self, report: GroupReport) -> int:
        node = self.registry.nodes.get(report.node_id)
        return node.replica if node else 0

    # ---- leaders ----

    def _note_who_is_behind(self, now_ns: int) -> None:
        here = {node.node_id for node in self._usable()}
        for node in self.registry.nodes.values():
            behind = any(
                node.replica in report.voters
                and node.node_id != report.node_id
                and report.behind.get(node.replica, LEVEL_ENTRIES + 1) > LEVEL_ENTRIES
                for report in self._reports()
            )
            if behind or node.node_id not in here:
                self._behind_ns[node.node_id] = now_ns

    def _keeps_up(self, now_ns: int, node: NodeRecord) -> bool:
        since_ns = self._behind_ns.get(node.node_id)
        return since_ns is None or now_ns - since_ns >= LEVEL_ELECTIONS * self._config.election_max_ns

    def _balance_leaders(self, now_ns: int) -> None:
        usable = self._usable()
        leads = {node.node_id: 0 for node in usable}
        for report in self._reports():
            if report.node_id in leads:
                leads[report.node_id] += 1
        for number in sorted(self._cluster.reports):
            report = self._cluster.reports[number]
            if self._asked_in_vain(now_ns, number, report):
                continue
            heirs = [
                node
                for node in usable
                if node.replica in report.voters
                and node.node_id != report.node_id
                and self._cluster.may_lead(node.node_id)
                and report.behind.get(node.replica, CAUGHT_UP_ENTRIES + 1) <= CAUGHT_UP_ENTRIES
            ]
            drained = report.node_id not in leads
            heirs = [node for node in heirs if self._keeps_up(now_ns, node)] or (heirs if drained else [])
            if not heirs:
                continue
            heir = min(heirs, key=lambda node: (leads[node.node_id], node.node_id))
            if drained or leads[report.node_id] - leads[heir.node_id] >= 2:
                self._transfer_again_ns = now_ns + self._config.election_max_ns
                self._transfers[number] = (report.term, now_ns + VAIN_TRANSFER_ELECTIONS * self._config.election_max_ns)
                self._ask(number, "transfer", {"to": heir.replica}, _ignore)
                return

    def _asked_in_vain(self, now_ns: int, number: int, report: GroupReport) -> bool:
        """Was that leader told to hand over a short while ago, and leads on?"""
        term, until_ns = self._transfers.get(number, (0, 0))
        return term == report.term and now_ns < until_ns

    def hold(self, now_ns: int) -> None:
        """An operator moved a leader: do not move it back at once."""
        self._transfer_again_ns = now_ns + HELD_ELECTIONS * self._config.election_max_ns


def _ignore(_: Answer | Refused) -> None:
    """What it was asked for will show in the reports, or be asked for again."""

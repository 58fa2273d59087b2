"""Everything between this node and the others: who is there, who leads what, and frames from peers to where they belong.

Each node tells every other what it leads and knows (GOSSIP), at every change and every `gossip_ns`. Nothing of it is
trusted further than it must be: a leader that is none any more refuses or redirects, an older registry loses to a
newer one, and who may commit what is Raft's business alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from unimeter.config import SECOND_NS, NodeConfig
from unimeter.core import peer_bodies, peer_wire, registry
from unimeter.core.bundles import Bundles
from unimeter.core.calls import Calls
from unimeter.core.catalog_sync import CatalogSync
from unimeter.core.divergence import Divergence
from unimeter.core.group import Group
from unimeter.core.peer_wire import BadFrame
from unimeter.core.peers import NEVER_NS, Peer, Peers
from unimeter.core.raft.state import Role
from unimeter.core.replication import Replication
from unimeter.core.topology import Topology

# between two gossips: what changes shortly after one waits for others to change, too
GOSSIP_PAUSE_NS: Final = SECOND_NS // 100


@dataclass
class GroupReport:
    """What a group's leader says of it."""

    term: int
    node_id: int
    voters: tuple[int, ...]  # replica ids
    learners: tuple[int, ...]
    outgoing: tuple[int, ...]
    settled: bool  # its configuration is committed
    conf_index: int
    commit: int
    index: int
    behind: dict[int, int] = field(default_factory=dict)  # entries that each replica lacks that its leader hears from
    heard_ns: int = 0


class Seen:
    """What Raft knew of a group's leader at the last look."""

    __slots__ = ("conf_index", "leader", "role", "settled", "term")

    def __init__(self, term: int, role: Role, leader: int, conf_index: int, settled: bool) -> None:
        self.term = term
        self.role = role
        self.leader = leader
        self.conf_index = conf_index
        self.settled = settled  # that configuration is committed


class Cluster:
    def __init__(
        self,
        cluster_id: int,
        config: NodeConfig,
        groups: list[Group],
        topology: Topology,
        peers: Peers,
        replication: Replication,
        bundles: Bundles,
        calls: Calls,
        catalogs: CatalogSync,
        divergence: Divergence,
    ) -> None:
        self.cluster_id = cluster_id
        self._config = config
        self._groups = groups
        self.topology = topology
        self.peers = peers
        self._replication = replication
        self._bundles = bundles
        self._calls = calls
        self._catalogs = catalogs
        self._divergence = divergence
        self.reports: dict[int, GroupReport] = {}  # of groups, by number
        self._versions: dict[int, int] = {}  # node id -> its newest catalog
        self._knowing: dict[int, int] = {}  # node id -> term in which it says that it leads group 0 and knows all of it
        self._coordinates_ns = -(2**62)  # since when this node is the coordinator
        # node id -> its catalog when its link broke, and until when it counts
        self._absent: dict[int, tuple[int, int]] = {}
        self.mute = False  # this node's replicas must not vote, or be elected
        self._left: dict[int, int] = {}  # group -> index of a committed configuration without this node's replica
        self.unfit = False  # this node should not lead: its disk is full, or it cannot read its journal
        self.unfit_nodes: set[int] = set()  # those that say so of themselves
        self._next_gossip_ns = 0
        self._gossiped_ns = -GOSSIP_PAUSE_NS  # when the others were told last
        self._now_ns = 0  # of the present turn
        self._told: tuple[Any, ...] = ()  # what the last gossip was made of
        self._seen = [Seen(0, Role.FOLLOWER, 0, 0, True)] * len(groups)
        self._changes = 0  # of what was seen
        self._looked_changes = self._looked_epoch = 0  # at the last look
        self._registry_seen = b""
        self.notice: Callable[[str], None] = lambda _line: None
        catalogs.seen = self._least_catalog
        catalogs.newest_heard = lambda: max(self._versions.values(), default=0)
        catalogs.newest_here = self._catalog_version
        self.spare_version = 0  # of a catalog that this node has though none of its groups does

    # ---- frames ----

    def frame(self, now_ns: int, peer: Peer, type_: int, payload: bytes) -> None:
        """Any frame but HELLO, of a peer that has said hello. Raises BadFrame."""
        self._now_ns = now_ns
        try:
            if type_ == peer_wire.RAFT:
                self._replication.received(now_ns, peer, payload)
            elif type_ == peer_wire.BUNDLE:
                self._bundles.arrived(peer, payload)
            elif type_ == peer_wire.BUNDLE_DONE:
                self._bundles.done(peer, payload)
            elif type_ == peer_wire.GOSSIP:
                self._gossiped(now_ns, peer, peer_bodies.unpack(type_, payload))
            elif type_ == peer_wire.CALL:
                self._calls.called(peer, peer_bodies.unpack(type_, payload))
            elif type_ == peer_wire.RETURN:
                self._calls.returned(peer_bodies.unpack(type_, payload))
            elif type_ == peer_wire.DIGESTS:
                self._divergence.asked(peer, peer_bodies.unpack(type_, payload))
            elif type_ == peer_wire.DIGESTS_SAID:
                self._divergence.said(peer, peer_bodies.unpack(type_, payload))
            elif type_ == peer_wire.DIVERGED:
                self._divergence.told(peer_bodies.unpack(type_, payload))
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise BadFrame(f"a frame of type 0x{type_:02x} that says too little: {error}") from error

    # ---- who is there ----

    def peer_up(self, now_ns: int, peer: Peer) -> None:
        self._absent.pop(peer.node_id, None)
        self._replication.peer_up(now_ns, peer.replica)
        self._next_gossip_ns = 0  # soon, to everybody

    def peer_down(self, now_ns: int, peer: Peer) -> None:
        self._calls.link_lost(peer.link)
        self._bundles.link_lost(peer.link)
        if peer.node_id and self.peers.of_node(peer.node_id) is None:
            version, until_ns = self._versions.pop(peer.node_id, 0), now_ns + 2 * self._config.election_min_ns
            if peer.cluster_id == self.cluster_id and not peer.damaged:
                self._absent[peer.node_id] = version, until_ns
            self.unfit_nodes.discard(peer.node_id)
            self.topology.lost(peer.node_id)
            self._replication.peer_down(now_ns, peer.replica)

    def may_lead(self, node_id: int) -> bool:
        """Is it there, and fit to lead?"""
        if node_id == self._config.node_id:
            return not self.unfit
        return self.peers.of_node(node_id) is not None and node_id not in self.unfit_nodes

    def may_forward(self) -> bool:
        """Does this node know every metric that anybody was told of? So it must when it takes events for groups that others
        lead: it hears from the coordinator, and knows all that that one spoke of. One that was elected a moment ago may not
        have applied what was committed before, and what it said as a follower says nothing."""
        coordinator = self.topology.leader(0)
        if coordinator == self._config.node_id:
            return self._groups[0].leading
        if self._knowing.get(coordinator, 0) != self.topology.term(0):
            return False
        peer, version = self.peers.of_node(coordinator), self._versions.get(coordinator)
        if peer is None or version is None or self._catalog_version() < version:
            return False
        return self._now_ns - peer.heard_ns <= self._config.election_min_ns

    def node_of(self, replica: int) -> int:
        """Node id of a replica, 0 if it is nowhere to be found."""
        if replica == self._groups[0].raft.replica:
            return self._config.node_id
        peer = self.peers.of_replica(replica)
        return peer.node_id if peer else self.topology.registry.node_of(replica)

    # ---- once per turn ----

    def look(self, now_ns: int) -> bool:
        """Look at who leads what. True: something is new, and `turn` is due."""
        self._now_ns = now_ns
        for group in self._groups:
            self._look(group)
        if self._groups[0].cluster is not self._registry_seen:
            self._registry_seen = self._groups[0].cluster
            self.learn_registry(self._registry_seen)
        if self._changes == self._looked_changes and self.topology.epoch == self._looked_epoch:
            return False
        self._looked_changes, self._looked_epoch = self._changes, self.topology.epoch
        return True

    def answer(self) -> None:
        """Say what others want to know of what is applied now."""
        self._divergence.turn()

    def turn(self, now_ns: int) -> int:
        """Tell the others what is new, and everything from time to time. Returns when to come again."""
        if not len(self.peers):
            return NEVER_NS
        changed = (
            self.topology.epoch, self._catalog_version(), self.topology.registry.version, self._changes, self.unfit,
            self._coordinates(),
        )  # fmt: skip
        due = now_ns >= self._next_gossip_ns
        if changed != self._told and not due and now_ns < self._gossiped_ns + GOSSIP_PAUSE_NS:
            return self._gossiped_ns + GOSSIP_PAUSE_NS
        if changed != self._told or due:
            self._told, self._gossiped_ns = changed, now_ns
            if due:
                self._next_gossip_ns = now_ns + self._config.gossip_ns
                self._divergence.ask()
            body = self._body(now_ns)
            for peer in self.peers:
                self.peers.send_map(peer, peer_wire.GOSSIP, body)
        return self._next_gossip_ns

    def _look(self, group: Group) -> None:
        """What Raft knows of the group's leader."""
        raft = group.raft
        conf_index = raft.conf_index
        # a replica that was taken out may not have heard of it, and would ask to be elected for ever
        raft.mute = self.mute or (bool(self._left) and conf_index < self._left.get(group.number, 0))
        before = self._seen[group.number]
        if (
            before.term == raft.term
            and before.role is raft.role
            and before.leader == raft.leader
            and before.conf_index == conf_index
            and before.settled == (conf_index <= raft.commit)
        ):
            return
        self._seen[group.number] = Seen(raft.term, raft.role, raft.leader, conf_index, conf_index <= raft.commit)
        self._changes += 1
        own = self._config.node_id
        if raft.role is Role.LEADER:
            if group.number == 0 and (before.term != raft.term or before.role is not Role.LEADER):
                self._coordinates_ns = self._now_ns
            self.topology.learn_leader(group.number, raft.term, own)
            if before.role is not Role.LEADER and len(raft.conf.members()) > 1:
                self.notice(f"group {group.number}: this node leads in term {raft.term}")
        elif raft.leader:
            node_id = self.node_of(raft.leader)
            if node_id:
                self.topology.learn_leader(group.number, raft.term, node_id)
        elif self.topology.leader(group.number) == own:
            self.topology.learn_leader(group.number, raft.term, 0)

    def learn_registry(self, data: bytes) -> None:
        if self.topology.learn_registry(registry.decode(data)):
            self.peers.learn_registry(self.topology.registry)

    # ---- gossip ----

    def _catalog_version(self) -> int:
        version = self.spare_version
        for group in self._groups:
            version = max(version, group.catalog.version)
        return version

    def _coordinates(self) -> int:
        """The term in which this node leads group 0 and knows all that is committed there, 0 if it does not."""
        return self._groups[0].raft.term if self._groups[0].leading else 0

    def _least_catalog(self) -> int:
        fellows = [peer for peer in self.peers if peer.cluster_id == self.cluster_id and not peer.damaged]
        known = [self._versions.get(peer.node_id, 0) for peer in fellows]
        if self._now_ns < self._coordinates_ns + 2 * self._config.election_min_ns:
            there = {peer.node_id for peer in fellows}  # others may still follow the coordinator before this one
            known += [0 for node in self.topology.registry.nodes if node not in there and node != self._config.node_id]
        # a node whose link broke here may not know that yet, and forward for as long as `may_forward` lets it
        known += [version for version, until_ns in self._absent.values() if until_ns > self._now_ns]
        return min(known, default=2**63)

    def _body(self, now_ns: int) -> dict[str, Any]:
        leads = []
        for group in self._groups:
            raft = group.raft
            if raft.role is not Role.LEADER:
                continue
            behind = {
                replica: raft.log.last_index - progress.match
                for replica, progress in raft.progress.items()
                if now_ns - progress.heard_ns < self._config.election_min_ns
            }
            conf = raft.conf
            report = GroupReport(
                raft.term,
                self._config.node_id,
                conf.voters,
                conf.learners,
                conf.outgoing,
                raft.conf_index <= raft.commit,
                raft.conf_index,
                raft.commit,
                raft.log.last_index,
                behind,
                now_ns,
            )
            self._report(group.number, report)
            leads.append(
                [
                    group.number,
                    raft.term,
                    list(conf.voters),
                    list(conf.learners),
                    list(conf.outgoing),
                    report.settled,
                    raft.conf_index,
                    raft.commit,
                    raft.log.last_index,
                    behind,
                    group.catalog.version,
                ]
            )
        body: dict[str, Any] = {"catalog": self._catalog_version(), "leads": leads, "unfit": self.unfit}
        if coordinates := self._coordinates():
            body["coordinates"] = coordinates
        known = self.topology.registry
        if known.version:
            body["registry"] = known.encode()
        return body

    def refresh(self) -> None:
        """Make the reports of the groups that this node leads new."""
        self._body(self._now_ns)

    def _report(self, number: int, report: GroupReport) -> None:
        known = self.reports.get(number)
        if known is None or report.term >= known.term:
            self.reports[number] = report

    def _gossiped(self, now_ns: int, peer: Peer, body: dict[str, Any]) -> None:
        self._versions[peer.node_id] = body["catalog"]
        self._knowing[peer.node_id] = body.get("coordinates", 0)
        (self.unfit_nodes.add if body.get("unfit") else self.unfit_nodes.discard)(peer.node_id)
        if "registry" in body:
            self.learn_registry(body["registry"])
        for number, term, voters, learners, outgoing, settled, conf_index, commit, index, behind, catalog in body[
            "leads"
        ]:
            if number >= len(self._groups):
                raise BadFrame(f"group {number} does not exist")
            self.topology.learn_leader(number, term, peer.node_id)
            self._catalogs.learn(number, catalog)
            report = GroupReport(
                term, peer.node_id, tuple(voters), tuple(learners), tuple(outgoing), settled, conf_index, commit, index,
                behind, now_ns,
            )  # fmt: skip
            self._report(number, report)
            raft = self._groups[number].raft
            if settled and not outgoing and raft.replica not in voters and raft.replica not in learners:
                self._left[number] = max(conf_index, self._left.get(number, 0))

    def figures(self) -> list[dict[str, Any]]:
        """For operators: one map per group."""
        names = ("follower", "pre-candidate", "candidate", "leader")
        return [
            {
                "group": group.number,
                "role": names[group.raft.role],
                "leader": self.topology.leader(group.number),
                "term": group.raft.term,
                "commit": group.raft.commit,
                "applied": group.applied_index,
                "last": group.raft.log.last_index,
                "behind": self._behind(group),
                "lag": {self.node_of(r): group.raft.log.last_index - p.match for r, p in group.raft.progress.items()},
            }
            for group in self._groups
        ]

    def _behind(self, group: Group) -> int | None:
        """Entries that this node's replica lacks, as the group's leader said last; None: it has not said."""
        if group.raft.replica not in group.raft.conf.members():
            return 0
        report = self.reports.get(group.number)
        return None if report is None else report.behind.get(group.raft.replica)

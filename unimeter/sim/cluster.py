"""The machines of a run: how many there are, who founds the cluster, and how much of it may be damaged.

    node1 .. nodeN     founders, started together on empty disks
    nodeN+1 ..         spares: started when the operator has added them

A majority of every group's voters always keeps its data, whatever is wiped, rots or lands in the wrong place: that is the
bound of what replication promises. `may_damage` keeps the count: a replica that lost something is damaged until the group
has replaced it, which means until its old name is no voter any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from unimeter.config import MIB, Member, NodeConfig
from unimeter.core.group import Group
from unimeter.core.node import Node
from unimeter.core.raft.raft import Raft
from unimeter.core.raft.state import Role
from unimeter.sim.clock import WallClock
from unimeter.sim.host import Host, NodeSetup, Watcher
from unimeter.sim.prng import Prng

if TYPE_CHECKING:
    from unimeter.kernels.api import Kernels, Limits
    from unimeter.sim.network import Network
    from unimeter.sim.world import World


@dataclass(frozen=True)
class Shape:
    """How large a cluster is. In a scenario each number may be a list: the seed chooses."""

    nodes: int = 1
    groups: int = 1
    replicas: int = 0  # of each group; 0: as many as there are founders
    spares: int = 0  # nodes that can join during the run

    def budget(self, requests: int) -> int:
        """How many of its requests a client may make: one costs the more, the more nodes and groups there are."""
        if self.nodes + self.spares >= 5 or self.groups >= 4:
            return -(-requests // 2)
        return requests if self.nodes == 1 else -(-requests * 3 // 4)


def member(number: int) -> Member:
    return Member(number, f"10.0.0.{number}:7001", f"10.0.1.{number}:7101")


def configs(base: NodeConfig, shape: Shape) -> list[NodeConfig]:
    """One for each machine, spares last. A cluster of one has no members, as when it is started without any."""
    founders = tuple(member(number) for number in range(1, shape.nodes + 1))
    alone = shape.nodes == 1 and not shape.spares
    found = []
    for number in range(1, shape.nodes + shape.spares + 1):
        members = founders if number <= shape.nodes else (*founders, member(number))
        found.append(
            replace(
                base,
                node_id=number,
                advertise=member(number).client_address,
                members=() if alone else members,
                group_count=shape.groups,
                replicas=shape.replicas,
                catchup_bytes_per_second=CATCHUP_BYTES_PER_SECOND,
            )
        )
    return found


class Cluster:
    """All machines of one run."""

    def __init__(
        self,
        shape: Shape,
        base: NodeConfig,
        limits: Limits,
        kernels: Kernels,
        world: World,
        network: Network,
        start_ns: int,
        prng: Prng,
    ) -> None:
        self.shape = shape
        self.hosts: list[Host] = []
        for config in configs(base, shape):
            luck = prng.stream(f"host{config.node_id}") if config.node_id > 1 else prng.stream("host")
            skew_ns = 0 if config.node_id == 1 else luck.stream("skew").between(-SKEW_NS, SKEW_NS)
            wall = WallClock(world, start_ns + skew_ns)
            setup = NodeSetup(config, limits, kernels)
            self.hosts.append(Host(world, network, f"node{config.node_id}", setup, wall, luck))
        self.founders = self.hosts[: shape.nodes]
        self.spares = self.hosts[shape.nodes :]
        self.members: list[Host] = list(self.founders)  # who should be up, spares once they are added
        self.moved_by_hand = False  # the operator moved a leader, and the cluster leaves it there for a while
        self.drained: list[Host] = []  # members that the operator has told to hold nothing
        self.group_count = shape.groups

    def watched_by(self, watcher: Watcher) -> None:
        for host in self.hosts:
            host.watcher = watcher

    @property
    def replicated(self) -> bool:
        return len(self.hosts) > 1

    def addresses(self) -> list[str]:
        """Where clients find the founders."""
        return [host.setup.config.advertise for host in self.founders]

    def by_replica(self, replica: int) -> Host | None:
        """The machine whose directory has this name now."""
        for host in self.hosts:
            if host.replica == replica:
                return host
        return None

    # ---- what the nodes think ----

    def leader(self, group: int) -> Host | None:
        """Who leads a group: of those that think so, the one with the highest term."""
        found, term = None, -1
        for host in self.members:
            raft = raft_of(host, group)
            if raft is not None and is_leader(raft) and raft.term > term:
                found, term = host, raft.term
        return found

    def led(self) -> Iterator[tuple[int, Host | None]]:
        for group in range(self.group_count):
            yield group, self.leader(group)

    def _confs(self, group: int) -> list[Any]:
        """The configurations that may be in force: of whoever knows most, and every later one that somebody holds."""
        known = []
        for host in self.members:
            raft = raft_of(host, group)
            if raft is not None:
                known += [(index, conf) for index, conf in raft.confs if index >= 0]
        if not known:
            return []
        committed = max(self._committed_conf(group), default=-1)
        return [conf for index, conf in known if index >= committed]

    def _committed_conf(self, group: int) -> Iterator[int]:
        for host in self.members:
            raft = raft_of(host, group)
            if raft is not None:
                yield from (index for index, _ in raft.confs if index <= raft.commit)

    def may_damage(self, victim: Host) -> bool:
        """Would every group keep a majority of voters with all of their data, if this machine lost its own?"""
        if not self.replicated:
            return True
        healthy: dict[int, bool] = {}
        for host in self.members:
            if host.replica:
                healthy[host.replica] = host is not victim and host.sound
        for group in range(self.group_count):
            confs = self._confs(group)
            if not confs:
                return False  # nobody can tell now
            for conf in confs:
                for voters in (conf.voters, conf.outgoing):
                    good = sum(healthy.get(voter, False) for voter in voters)
                    if voters and 2 * good <= len(voters):
                        return False
        return True

    def ready(self) -> bool:
        return all(host.up and host.node.ready for host in self.members)

    def settled(self) -> bool:
        """Every machine that should serve does, every group has a leader, and each leads its share."""
        if not self.ready():
            return False
        if not self.replicated:
            return True
        leads = {host.name: 0 for host in self.members}
        holders = 0
        for group, leader in self.led():
            if leader is None:
                return False
            leads[leader.name] += 1
            raft = raft_of(leader, group)
            assert raft is not None, "it leads"
            holders = max(holders, len(raft.conf.voters))
            if raft.conf.outgoing or raft.conf.learners or raft.commit < raft.log.last_index:
                return False
            holding = [self.by_replica(voter) for voter in raft.conf.voters]
            if any(holder not in self.members or holder in self.drained for holder in holding):
                return False  # it still counts on somebody who is gone, or is to be
        return self.moved_by_hand or holders < len(self.members) or max(leads.values()) - min(leads.values()) <= 1

    def describe(self) -> list[str]:
        found = []
        for host in self.members:
            node = host.node
            if node is None:
                found.append(f"{host.name}: down")
                continue
            parts = [f"{host.name}: {'ready' if node.ready else f'starting ({node.progress})'}"]
            for group in range(self.group_count if self.replicated else 0):
                raft = raft_of(host, group)
                if raft is not None:
                    parts.append(f"g{group} {raft.role.name} t{raft.term} c{raft.commit}/{raft.log.last_index}")
            found.append(" ".join(parts))
        return found


CATCHUP_BYTES_PER_SECOND: Final = 6 * MIB  # the pace of catching up in these worlds, whose clients write little
SKEW_NS: Final = 300_000_000  # how wrong the wall clocks of the machines stand, against the first one's


def raft_of(host: Host, group: int) -> Raft | None:
    """A running node's Raft of a group, for looking only; None while there is none."""
    node: Node | None = host.node
    if node is None:
        return None
    groups: list[Group] = node.groups
    return groups[group].raft if group < len(groups) else None


def is_leader(raft: Raft) -> bool:
    """Does it believe that it leads?"""
    return raft.role is Role.LEADER

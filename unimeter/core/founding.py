"""How a cluster begins, and how a fresh node tells that it already has.

A node with an empty directory cannot know whether its cluster is new, or lives and this disk was wiped. So it asks: on
every link, the first thing each side says is who it is and to which cluster it belongs (HELLO).

- All members of the command line are there, and every one is fresh: the one with the lowest number founds the
  cluster. It draws the cluster's id, writes down everybody's replica id, and tells the others.
- Someone belongs to a cluster: so does this node. If that cluster's founding names this very replica, it is a
  founder whom the news had not reached; else it is a new replica, which has promised nothing and holds nothing, and waits
  until the cluster takes it in.

Replica ids are durable before they are told, so a founder that crashes meanwhile is still the one that was written down. A
founder that is wiped before its news reached anybody founds another cluster; nothing was acknowledged in the first. Once
any other node has adopted a founding, every fresh node hears of it before it can hear from all that they are fresh.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unimeter.config import FOUNDERS, NodeConfig
from unimeter.core.raft.conf import Conf
from unimeter.core.registry import NodeRecord, Registry
from unimeter.kernels import layout
from unimeter.kernels.api import Limits


@dataclass(frozen=True)
class Founding:
    """What every member of a cluster agrees on from the start; the same on all of them."""

    cluster_id: int
    group_count: int
    replicas: int  # of each group
    limits: Limits  # of a group's fresh state: it is a function of these and of the log
    nodes: tuple[NodeRecord, ...]  # ascending

    def conf(self, group: int) -> Conf:
        """The members that a group begins with: spread over the founders, a different first one for each group."""
        count = len(self.nodes)
        chosen = [self.nodes[(group + n) % count].replica for n in range(self.replicas)]
        return Conf(tuple(sorted(chosen)))

    def registry(self) -> Registry:
        return Registry(0, self.replicas, {node.node_id: node for node in self.nodes})

    def names(self, node_id: int, replica: int) -> bool:
        return any((node.node_id, node.replica) == (node_id, replica) for node in self.nodes)

    def body(self) -> dict[str, Any]:
        return {
            "cluster": self.cluster_id,
            "groups": self.group_count,
            "replicas": self.replicas,
            "limits": layout.encode_limits(self.limits),
            "nodes": [[n.node_id, n.client_address, n.peer_address, n.replica] for n in self.nodes],
        }


def from_body(body: Mapping[str, Any]) -> Founding:
    """Raises KeyError, TypeError or ValueError for what is no founding."""
    return Founding(
        body["cluster"],
        body["groups"],
        body["replicas"],
        layout.decode_limits(body["limits"]),
        tuple(NodeRecord(*fields) for fields in body["nodes"]),
    )


def alone(config: NodeConfig, limits: Limits, cluster_id: int, replica: int) -> Founding:
    """A cluster of one."""
    if config.members:
        member = next((one for one in config.members if one.node_id == config.node_id), config.members[0])
        record = NodeRecord(member.node_id, member.client_address, member.peer_address, replica)
    else:
        record = NodeRecord(config.node_id, config.advertise, "", replica)
    return Founding(cluster_id, config.group_count, 1, limits, (record,))


class Newcomer:
    """A fresh node that finds out where it belongs. `heard` gets what every peer says of itself."""

    def __init__(self, config: NodeConfig, limits: Limits, cluster_id: int, replica: int) -> None:
        """`cluster_id`: drawn at random, for the case that this node founds."""
        self._config = config
        self._limits = limits
        self._cluster_id = cluster_id
        self.replica = replica
        self._fresh: dict[int, int] = {}  # node id -> replica, of those that are fresh and connected now

    @property
    def _member_ids(self) -> list[int]:
        return sorted(member.node_id for member in self._config.members)

    def missing(self) -> list[int]:
        """Whom this node has not heard of yet."""
        own = self._config.node_id
        return [number for number in self._member_ids if number != own and number not in self._fresh]

    def gone(self, node_id: int) -> None:
        """The link to a peer is lost: what it said may not be true any more."""
        self._fresh.pop(node_id, None)

    def heard(self, node_id: int, replica: int, founding: Founding | None) -> Founding | None:
        """A peer's hello. Returns the founding of the cluster that this node belongs to, once that is known."""
        if founding is not None:
            return founding
        self._fresh[node_id] = replica
        own = self._config.node_id
        if self.missing() or own != min(self._member_ids) or len(self._member_ids) not in FOUNDERS:
            return None
        nodes = tuple(
            NodeRecord(
                member.node_id,
                member.client_address,
                member.peer_address,
                self.replica if member.node_id == own else self._fresh[member.node_id],
            )
            for member in sorted(self._config.members, key=lambda member: member.node_id)
        )
        wanted = self._config.replicas or len(nodes)
        return Founding(self._cluster_id, self._config.group_count, min(wanted, len(nodes)), self._limits, nodes)

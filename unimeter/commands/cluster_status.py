"""What a cluster says of itself (the answer to {"op": "status"}), and what can be read from it: is a node's move done?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unimeter.client.protocol import Fields
from unimeter.errors import ProtocolError

if TYPE_CHECKING:
    from rich.table import Table

ACTIVE = "active"
REMOVED = "removed"


@dataclass(frozen=True)
class NodeStatus:
    id: int
    address: str
    peer: str
    replica: str
    up: bool
    state: str  # active, joining, draining or removed
    leads: int  # groups
    holds: int


@dataclass(frozen=True)
class GroupStatus:
    group: int
    leader: int  # a node's id; 0: none is known
    term: int
    commit: int
    voters: tuple[int, ...]
    learners: tuple[int, ...]
    moving: bool


@dataclass(frozen=True)
class ClusterStatus:
    cluster: str
    coordinator: int
    nodes: tuple[NodeStatus, ...]
    groups: tuple[GroupStatus, ...]

    def node(self, node_id: int) -> NodeStatus | None:
        return next((node for node in self.nodes if node.id == node_id), None)

    def members(self) -> tuple[NodeStatus, ...]:
        return tuple(node for node in self.nodes if node.state != REMOVED)

    def share(self) -> int:
        """How many groups each node at least holds when they are spread evenly over the active ones."""
        takers = [node for node in self.members() if node.state == ACTIVE]
        replicas = sum(len(group.voters) for group in self.groups)
        return min(replicas // len(takers), len(self.groups)) if takers else 0

    def joined(self, node_id: int) -> bool:
        node = self.node(node_id)
        return node is not None and node.state == ACTIVE and node.holds > 0 and node.holds >= self.share()

    def emptied(self, node_id: int) -> bool:
        """The node holds nothing, in anybody's eyes."""
        node = self.node(node_id)
        if node is not None and (node.leads or node.holds):
            return False
        return not any(node_id in group.voters or node_id in group.learners for group in self.groups)

    def gone(self, node_id: int) -> bool:
        node = self.node(node_id)
        return (node is None or node.state == REMOVED) and self.emptied(node_id)


def decode_status(body: dict[str, Any]) -> ClusterStatus:
    """ProtocolError when it is something else."""
    fields = Fields(body)
    nodes = (
        NodeStatus(
            id=node.number("id"),
            address=node.text("address", ""),
            peer=node.text("peer", ""),
            replica=node.text("replica", ""),
            up=node.flag("up", False),
            state=node.text("state", ""),
            leads=node.number("leads", 0),
            holds=node.number("holds", 0),
        )
        for node in fields.maps("nodes")
    )
    groups = (
        GroupStatus(
            group=group.number("group"),
            leader=group.number("leader", 0),
            term=group.number("term", 0),
            commit=group.number("commit", 0),
            voters=_numbers(group, "voters"),
            learners=_numbers(group, "learners"),
            moving=group.flag("moving", False),
        )
        for group in fields.maps("groups")
    )
    return ClusterStatus(
        cluster=fields.text("cluster", ""),
        coordinator=fields.number("coordinator", 0),
        nodes=tuple(sorted(nodes, key=lambda node: node.id)),
        groups=tuple(sorted(groups, key=lambda group: group.group)),
    )


def _numbers(fields: Fields, key: str) -> tuple[int, ...]:
    value = fields.body.get(key, [])
    if not isinstance(value, list) or not all(type(number) is int for number in value):
        raise ProtocolError(f"an answer without a proper {key!r} (list of numbers): {value!r:.80}")
    return tuple(value)


def tables(status: ClusterStatus) -> Iterator[Table]:
    """The nodes, then the groups."""
    from rich.table import Table

    nodes = Table("node", "clients", "peers", "up", "state", box=None, pad_edge=False)
    nodes.add_column("leads", justify="right")
    nodes.add_column("holds", justify="right")
    for node in status.nodes:
        name = f"{node.id} coordinator" if node.id == status.coordinator else str(node.id)
        up = "yes" if node.up else "NO"
        nodes.add_row(name, node.address, node.peer, up, node.state, str(node.leads), str(node.holds))
    yield nodes
    groups = Table("group", "leader", box=None, pad_edge=False)
    for name in ("term", "index"):
        groups.add_column(name, justify="right")
    for name in ("voters", "learners", ""):
        groups.add_column(name)
    for group in status.groups:
        groups.add_row(
            str(group.group),
            str(group.leader) if group.leader else "NONE",
            str(group.term),
            str(group.commit),
            " ".join(map(str, group.voters)),
            " ".join(map(str, group.learners)),
            "moving" if group.moving else "",
        )
    yield groups


def start_command(status: ClusterStatus, node_id: int) -> str:
    """How a registered node is started, for its operator to copy."""
    members = " ".join(f"--member {node.id}={node.address},{node.peer}" for node in status.members())
    return f"unimeter node --id {node_id} --data-dir DIR {members}"

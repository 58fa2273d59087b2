"""The registry: which nodes belong to the cluster, where they are, and which replica lives on each.

It is state of group 0, changed by CLUSTER entries that carry it whole; every node hears of it by gossip, and the
greatest version wins. Version 0 is what the founders agreed on.

A node is named by a number that its operator gave it. Its replica id is drawn when a data directory is laid out, and lost
with it: a node whose disk was wiped is the same node with another replica id, and nothing that the old one
promised is believed of the new one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgpack

ACTIVE: Final = "active"
DRAINING: Final = "draining"  # holds no replicas, if that can be helped
REMOVED: Final = "removed"  # on its way out: forgotten once it holds nothing


@dataclass(frozen=True)
class NodeRecord:
    node_id: int
    client_address: str
    peer_address: str
    replica: int  # 0: not heard of yet
    state: str = ACTIVE


@dataclass(frozen=True)
class Registry:
    version: int = 0
    replicas: int = 1  # wanted of each group
    nodes: dict[int, NodeRecord] = field(default_factory=dict)  # by node id, ascending

    def with_node(self, node: NodeRecord) -> Registry:
        nodes = {**self.nodes, node.node_id: node}
        return replace(self, version=self.version + 1, nodes=dict(sorted(nodes.items())))

    def without(self, node_id: int) -> Registry:
        return replace(
            self, version=self.version + 1, nodes={n: record for n, record in self.nodes.items() if n != node_id}
        )

    def node_of(self, replica: int) -> int:
        """On which node a replica lives; 0: on none (any more)."""
        return next((node.node_id for node in self.nodes.values() if node.replica == replica), 0)

    def body(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "replicas": self.replicas,
            "nodes": [
                [node.node_id, node.client_address, node.peer_address, node.replica, node.state]
                for node in self.nodes.values()
            ],
        }

    def encode(self) -> bytes:
        packed: bytes = msgpack.packb(self.body())
        return packed


def from_body(body: dict[str, Any]) -> Registry:
    nodes = [NodeRecord(*fields) for fields in body["nodes"]]
    return Registry(body["version"], body["replicas"], {node.node_id: node for node in nodes})


def decode(data: bytes) -> Registry:
    return from_body(msgpack.unpackb(data))

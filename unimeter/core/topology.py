"""What this node knows of the cluster: the nodes, and who leads each group.

Leaders are known by gossip and by Raft itself; of two claims the one of the later term is true. Every change counts
`epoch` up, so that clients can be told.
"""

from __future__ import annotations

from typing import NamedTuple

from unimeter.core.registry import Registry


class Leadership(NamedTuple):
    term: int
    node_id: int  # 0: nobody, as far as is known


class Topology:
    def __init__(self, node_id: int, group_count: int, registry: Registry) -> None:
        self.node_id = node_id
        self.group_count = group_count
        self.registry = registry
        self.epoch = 1
        self._leaders = [Leadership(0, 0)] * group_count

    def learn_registry(self, registry: Registry) -> bool:
        """Take the registry if it is newer than the one known."""
        if registry.version <= self.registry.version:
            return False
        self.registry = registry
        self.epoch += 1
        return True

    def learn_leader(self, group: int, term: int, node_id: int) -> bool:
        """`node_id` leads the group in that term; 0: nobody leads it any more, as far as this node knows."""
        known = self._leaders[group]
        if term < known.term or known == (term, node_id):
            return False
        self._leaders[group] = Leadership(term, node_id)
        if known.node_id != node_id:
            self.epoch += 1
        return True

    def doubt(self, group: int, node_id: int) -> None:
        """That node says that it does not lead the group."""
        if self.leader(group) == node_id:
            self.learn_leader(group, self.term(group), 0)

    def lost(self, node_id: int) -> None:
        """That node is not to be reached: it leads nothing that anybody here could use."""
        for group, known in enumerate(self._leaders):
            if known.node_id == node_id and node_id != self.node_id:
                self.learn_leader(group, known.term, 0)

    def leader(self, group: int) -> int:
        """Node id, 0 when nobody is known to lead."""
        return self._leaders[group].node_id

    def term(self, group: int) -> int:
        return self._leaders[group].term

    def address(self, node_id: int) -> str:
        """Where clients find a node; "" when it is not known."""
        node = self.registry.nodes.get(node_id)
        return node.client_address if node else ""

    def leader_address(self, group: int) -> str:
        return self.address(self.leader(group))

    def complete(self) -> bool:
        """Is there a leader for every group?"""
        return all(known.node_id for known in self._leaders)

"""What operators ask of a cluster (`unimeter cluster ...`), served by the coordinator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from unimeter.config import ADDRESS_BYTES_MAX, NodeConfig
from unimeter.core.calls import Done
from unimeter.core.cluster import Cluster
from unimeter.core.refusal import Refused
from unimeter.core.registry import ACTIVE, DRAINING, REMOVED, NodeRecord, Registry

NODE_ID_MAX: Final = 255
REPLICAS_GROWN: Final = 3  # of each group, once a cluster that began smaller has as many nodes

Change = Callable[[Registry, Callable[[Refused | None], None]], None]
Ask = Callable[[int, str, dict[str, Any], Done], None]


class Operating:
    def __init__(self, config: NodeConfig, cluster: Cluster, change: Change, ask: Ask) -> None:
        self._config = config
        self._cluster = cluster
        self._change = change
        self._ask = ask

    def serve(self, body: dict[str, Any], done: Done) -> None:
        """Raises Refused."""
        op = body.get("op")
        if op == "status":
            done(self._status())
        elif op == "add":
            self._add(body, done)
        elif op == "remove":
            self._leave(body, REMOVED, done)
        elif op == "drain":
            self._leave(body, DRAINING, done)
        elif op == "transfer":
            self._transfer(body, done)
        else:
            raise Refused("bad_request", f"op {op!r} is unknown", "use status, add, remove, drain or transfer")

    def _commit(self, registry: Registry, done: Done) -> None:
        self._change(registry, lambda refused: done({} if refused is None else refused))

    def _add(self, body: dict[str, Any], done: Done) -> None:
        number, registry = _number(body, "id"), self._cluster.topology.registry
        address, peer = body.get("address"), body.get("peer")
        if not 1 <= number <= NODE_ID_MAX:
            raise Refused("bad_request", f"{number} is no node number", f"use 1 to {NODE_ID_MAX}")
        if not isinstance(address, str) or not isinstance(peer, str) or not address or not peer:
            raise Refused("bad_request", "a node has two addresses", 'add {"address": "ip:port", "peer": "ip:port"}')
        if len(address.encode()) > ADDRESS_BYTES_MAX:
            raise Refused(
                "bad_request", f"{address} is too long", f"use an ip:port of at most {ADDRESS_BYTES_MAX} bytes"
            )
        known = registry.nodes.get(number)
        if (
            known is not None
            and (known.client_address, known.peer_address) == (address, peer)
            and known.state == ACTIVE
        ):
            done({})
            return
        taken = [n.node_id for n in registry.nodes.values() if n.node_id != number and n.client_address == address]
        if taken:
            raise Refused("bad_request", f"node {taken[0]} has the address {address}", "give each node its own")
        unreachable = [n.node_id for n in registry.nodes.values() if not n.peer_address]
        if unreachable:
            raise Refused(
                "bad_request",
                f"node {unreachable[0]} has no address for other nodes",
                f"restart it with --member {unreachable[0]}=CLIENT_ADDRESS,PEER_ADDRESS first",
            )
        moved = known is not None and (known.client_address, known.peer_address) != (address, peer)
        if known is not None and moved and self._cluster.peers.of_node(number) is not None:
            raise Refused(
                "bad_request",
                f"node {number} is there, at {known.client_address} and {known.peer_address}",
                "give the new node a number of its own",
            )
        replica = 0 if known is None else known.replica
        changed = registry.with_node(NodeRecord(number, address, peer, replica, ACTIVE))
        active = sum(node.state == ACTIVE for node in changed.nodes.values())
        if registry.replicas < REPLICAS_GROWN <= active:
            changed = replace(changed, replicas=REPLICAS_GROWN)  # a cluster of one that has grown is replicated
        self._commit(changed, done)

    def _leave(self, body: dict[str, Any], state: str, done: Done) -> None:
        number, registry = _number(body, "id"), self._cluster.topology.registry
        node = registry.nodes.get(number)
        if node is None:
            if state == REMOVED:
                done({})  # it is gone already
                return
            raise _unknown(number)
        left = [n for n in registry.nodes.values() if n.state == ACTIVE and n.node_id != number]
        if len(left) < registry.replicas:
            raise Refused(
                "bad_request",
                f"without node {number} there are {len(left)} nodes for {registry.replicas} replicas of each group",
                "add another node first: unimeter cluster add",
            )
        if node.state == state:
            done({})
            return
        self._commit(registry.with_node(replace(node, state=state)), done)

    def _transfer(self, body: dict[str, Any], done: Done) -> None:
        group, number = _number(body, "group"), _number(body, "to")
        node = self._cluster.topology.registry.nodes.get(number)
        if node is None:
            raise _unknown(number)
        if not 0 <= group < self._cluster.topology.group_count:
            raise Refused("bad_request", f"there is no group {group}", "see unimeter cluster status")
        if self._cluster.topology.leader(group) == number:
            done({})
            return
        self._ask(group, "transfer", {"to": node.replica}, done)

    def _status(self) -> dict[str, Any]:
        self._cluster.refresh()
        topology, reports, peers = self._cluster.topology, self._cluster.reports, self._cluster.peers
        own = self._config.node_id
        nodes = []
        for node in topology.registry.nodes.values():
            peer = peers.of_node(node.node_id)
            up = node.node_id == own or (peer is not None and peer.replica == node.replica and not peer.damaged)
            held = sum(node.replica in report.voters for report in reports.values())
            state = "joining" if node.state == ACTIVE and not held else node.state
            nodes.append(
                {
                    "id": node.node_id,
                    "address": node.client_address,
                    "peer": node.peer_address,
                    "replica": f"{node.replica:016x}",
                    "up": up,
                    "state": state,
                    "leads": sum(topology.leader(g) == node.node_id for g in range(topology.group_count)),
                    "holds": held,
                }
            )
        groups = []
        for number in sorted(reports):
            report = reports[number]
            groups.append(
                {
                    "group": number,
                    "leader": topology.leader(number),
                    "term": report.term,
                    "commit": report.commit,
                    "index": report.index,
                    "voters": [self._cluster.node_of(replica) for replica in report.voters],
                    "learners": [self._cluster.node_of(replica) for replica in report.learners],
                    "moving": bool(report.outgoing or report.learners or not report.settled),
                    "behind": {str(self._cluster.node_of(replica)): lag for replica, lag in report.behind.items()},
                }
            )
        return {"cluster": f"{self._cluster.cluster_id:016x}", "coordinator": own, "nodes": nodes, "groups": groups}


def _number(body: dict[str, Any], key: str) -> int:
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused("bad_request", f"{key!r} must be a whole number", f"add it: {{{key!r}: ...}}")
    return value


def _unknown(number: int) -> Refused:
    return Refused("not_member", f"there is no node {number}", "see unimeter cluster status")

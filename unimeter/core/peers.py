"""Links to the other nodes: one for each, over which everything between two nodes goes.

The node with the lower number dials the one with the higher, again and again, until a link stands. Each side says HELLO first;
a link counts once the other's hello is here. A link on which nothing came for `SILENCE` election timeouts is closed:
its peer is gone, or cannot be heard, and a new connection may do better.

Where a peer is to be found: the command line knows best (this node may see it under another address than the rest
of the cluster does), then the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from unimeter.config import NodeConfig
from unimeter.core import peer_wire
from unimeter.core.outbox import Outbox
from unimeter.core.peer_wire import BadFrame
from unimeter.core.registry import Registry
from unimeter.kernels.api import Bytes, Kernels

SILENCE: Final = 3  # election timeouts
NEVER_NS: Final = 2**63 - 1


@dataclass
class Peer:
    """An open link to another node. `node_id` 0: it has not said who it is."""

    link: int
    dialled: int  # the node id that was dialled, 0: it came in
    heard_ns: int
    node_id: int = 0
    replica: int = 0
    cluster_id: int = 0  # 0: fresh
    client_address: str = ""  # where it says that it is to be found
    peer_address: str = ""
    damaged: bool = False  # it says that its data cannot be believed


class Peers:
    def __init__(self, out: Outbox, config: NodeConfig, kernels: Kernels) -> None:
        self._out = out
        self._config = config
        self._kernels = kernels
        self._addresses = {member.node_id: member.peer_address for member in config.members}
        self._given = dict(self._addresses)  # by the command line
        self._rumoured: dict[int, str] = {}
        self._links: dict[int, Peer] = {}
        self._by_node: dict[int, Peer] = {}
        self._by_replica: dict[int, Peer] = {}
        self._dialling: dict[int, int] = {}  # ref -> node id
        self._again_ns: dict[int, int] = {}  # node id -> when to dial it again
        self._refs = 0
        self._next_ns = 0  # when the next turn has something to do
        self._hello: Callable[[], dict[str, Any]] | None = None  # None: this node does not know itself yet
        self.on_gone: Callable[[Peer], None] = lambda _peer: None  # a link, greeted or not, is no more

    # ---- who is there ----

    def __len__(self) -> int:
        return len(self._by_node)

    def __iter__(self) -> Iterator[Peer]:
        """Every peer that has said hello, by node id."""
        return iter([self._by_node[number] for number in sorted(self._by_node)])

    def holds(self, link: int) -> bool:
        return link in self._links

    def of_link(self, link: int) -> Peer:
        return self._links[link]

    def of_node(self, node_id: int) -> Peer | None:
        return self._by_node.get(node_id)

    def of_replica(self, replica: int) -> Peer | None:
        return self._by_replica.get(replica)

    def learn_registry(self, registry: Registry) -> None:
        """Nodes may have come, moved or gone."""
        self._next_ns = 0
        addresses = {node.node_id: node.peer_address for node in registry.nodes.values()}
        self._addresses = {**self._rumoured, **addresses, **self._given}

    def hear_of(self, registry: Registry) -> None:
        """A registry that may or may not be in force: who is in it may be needed to find out. Before `learn_registry`."""
        self._rumoured = {node.node_id: node.peer_address for node in registry.nodes.values()}

    # ---- links come and go ----

    def introduce(self, hello: Callable[[], dict[str, Any]]) -> None:
        """What this node says first on a link, from now on also on those that stand."""
        self._hello = hello
        for link in self._links:
            self._say_hello(link)

    def _say_hello(self, link: int) -> None:
        if self._hello is not None:
            self._out.send(link, peer_wire.pack_map(self._kernels, peer_wire.HELLO, self._hello()))

    def turn(self, now_ns: int) -> int:
        """Dial who is missing, close what is silent. Returns when to come again."""
        if now_ns < self._next_ns:
            return self._next_ns  # nothing came or went, and nothing is due
        next_ns = NEVER_NS
        own = self._config.node_id
        for node_id, address in sorted(self._addresses.items()):
            if node_id <= own or not address or node_id in self._by_node or node_id in self._dialling.values():
                continue
            if any(peer.dialled == node_id for peer in self._links.values()):
                continue  # it has yet to say hello
            due_ns = self._again_ns.get(node_id, now_ns)
            if due_ns <= now_ns:
                self._refs += 1
                self._dialling[self._refs] = node_id
                self._again_ns[node_id] = now_ns + self._config.dial_again_ns
                self._out.dial(self._refs, address)
            else:
                next_ns = min(next_ns, due_ns)
        for peer in list(self._links.values()):
            silent_ns = peer.heard_ns + SILENCE * self._config.election_max_ns
            if silent_ns <= now_ns:
                self.close(peer.link)
                next_ns = now_ns  # its node is dialled again
            else:
                next_ns = min(next_ns, silent_ns)
        self._next_ns = next_ns
        return next_ns

    def opened(self, now_ns: int, link: int, dialled_ref: int) -> None:
        self._next_ns = 0
        self._links[link] = Peer(link, self._dialling.pop(dialled_ref, 0), now_ns)
        self._say_hello(link)

    def dial_failed(self, ref: int) -> None:
        self._next_ns = 0
        self._dialling.pop(ref, None)

    def close(self, link: int) -> None:
        """Hang up."""
        self._out.close(link)
        self.closed(link)

    def closed(self, link: int) -> None:
        """A link is no more."""
        self._next_ns = 0
        peer = self._links.pop(link)
        if self._by_node.get(peer.node_id) is peer:
            del self._by_node[peer.node_id]
            if self._by_replica.get(peer.replica) is peer:
                del self._by_replica[peer.replica]
        self.on_gone(peer)

    def heard(self, now_ns: int, link: int) -> None:
        self._links[link].heard_ns = now_ns

    def greeted(self, link: int, body: dict[str, Any]) -> Peer:
        """A peer's hello; it may say it again when something changed. Raises BadFrame for one that cannot be talked to."""
        peer = self._links[link]
        node_id, replica, version = body.get("node"), body.get("replica"), body.get("v")
        if version != peer_wire.VERSION:
            raise BadFrame(f"it speaks version {version} of the protocol between nodes, this node {peer_wire.VERSION}")
        if not isinstance(node_id, int) or not isinstance(replica, int) or node_id == self._config.node_id:
            raise BadFrame(f"it says that it is node {node_id}")
        if peer.dialled not in (0, node_id):
            raise BadFrame(f"node {peer.dialled} was dialled, node {node_id} answered: check the peer addresses")
        before = self._by_node.get(node_id)
        if before is not None and before is not peer:
            self.close(before.link)  # it has connected anew: the older link is dead, or soon will be
        if self._by_replica.get(peer.replica) is peer:
            del self._by_replica[peer.replica]
        peer.node_id, peer.replica, peer.cluster_id = node_id, replica, body.get("cluster", 0)
        peer.damaged = bool(body.get("damaged"))
        peer.client_address, peer.peer_address = str(body.get("client", "")), str(body.get("peer", ""))
        self._by_node[node_id] = self._by_replica[replica] = peer
        return peer

    # ---- saying something ----

    def send(self, peer: Peer, type_: int, payload: Bytes) -> None:
        self._out.send(peer.link, peer_wire.frame(self._kernels, type_, payload))

    def send_map(self, peer: Peer, type_: int, body: dict[str, Any]) -> None:
        self._out.send(peer.link, peer_wire.pack_map(self._kernels, type_, body))

"""Replicas compare what they computed: the running digest of each group's state, at equal log indexes, all the time.

The leader names an index and its digest; each follower answers with its own digest there, at once or when it has
applied so far. Digests that a majority of the voters share are right; whoever has another one is told so and halts:
a flipped bit in memory, or a bug, must not reach an invoice. The leader itself may be the odd one. While no majority
agrees (a voter is down), nobody can tell who is right: it is said loudly, and asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unimeter.core import peer_wire
from unimeter.core.group import Group
from unimeter.core.peers import Peer, Peers
from unimeter.core.raft.state import Role


class Divergence:
    def __init__(self, groups: list[Group], peers: Peers) -> None:
        self._groups = groups
        self._peers = peers
        self._asked: dict[int, tuple[int, dict[int, int]]] = {}  # leader: group -> (index, replica -> digest)
        self._wanted: dict[int, tuple[int, int]] = {}  # follower: group -> (link that asked, index)
        self.halt: Callable[[str], None] = lambda _why: None
        self.notice: Callable[[str], None] = lambda _line: None
        self.compared = 0

    def ask(self) -> None:
        """Now and then: the leader's side."""
        told: list[list[int]] = []
        for group in self._groups:
            if group.raft.role is not Role.LEADER or not group.digests or len(group.raft.conf.members()) < 2:
                continue
            index, digest = group.digests[-1]
            if self._asked.get(group.number, (0, {}))[0] != index:
                self._asked[group.number] = (index, {group.raft.replica: digest})
            told.append([group.number, index])
        if told:
            for peer in self._peers:
                self._peers.send_map(peer, peer_wire.DIGESTS, {"at": told})

    def asked(self, peer: Peer, body: dict[str, Any]) -> None:
        """DIGESTS: a leader wants to know."""
        for number, index in body["at"]:
            if number < len(self._groups):
                self._wanted[number] = (peer.link, index)

    def turn(self) -> None:
        """Once per turn: answer for what is applied now."""
        if not self._wanted:
            return
        said: dict[int, list[list[int]]] = {}
        for number, (link, index) in list(self._wanted.items()):
            group = self._groups[number]
            if group.applied_index < index:
                continue
            del self._wanted[number]
            digest = next((digest for at, digest in reversed(group.digests) if at == index), None)
            if digest is not None and self._peers.holds(link):
                said.setdefault(link, []).append([number, index, digest])
        for link, digests in said.items():
            self._peers.send_map(self._peers.of_link(link), peer_wire.DIGESTS_SAID, {"said": digests})

    def said(self, peer: Peer, body: dict[str, Any]) -> None:
        """DIGESTS_SAID: a replica's digests."""
        for number, index, digest in body["said"]:
            at, votes = self._asked.get(number, (0, {}))
            group = self._groups[number]
            if at != index or group.raft.role is not Role.LEADER:
                continue
            votes[peer.replica] = digest
            self.compared += 1
            if any(other != digest for other in votes.values()):
                self._judge(group, index, votes)

    def _judge(self, group: Group, index: int, votes: dict[int, int]) -> None:
        conf = group.raft.conf
        for right in dict.fromkeys(votes.values()):
            if conf.quorum(lambda replica, right=right: votes.get(replica) == right):  # type: ignore[misc]
                break
        else:
            self.notice(f"group {group.number}: replicas differ at index {index}, and no majority agrees: {votes}")
            return
        for replica, digest in votes.items():
            if digest == right:
                continue
            if replica == group.raft.replica:
                self.diverged(group.number, index, digest, right)
                return
            peer = self._peers.of_replica(replica)
            self.notice(f"group {group.number}: replica {replica:016x} differs from the others at index {index}")
            if peer is not None:
                told = {"group": group.number, "index": index, "mine": digest, "theirs": right}
                self._peers.send_map(peer, peer_wire.DIVERGED, told)

    def told(self, body: dict[str, Any]) -> None:
        """DIVERGED: this node is the odd one."""
        self.diverged(body["group"], body["index"], body["mine"], body["theirs"])

    def diverged(self, group: int, index: int, mine: int, theirs: int) -> None:
        self.halt(
            f"divergence: group {group} at log index {index}: this replica's state has the digest {mine:016x}, a majority "
            f"has {theirs:016x}. Memory or a disk of this machine is faulty, or there is a bug: look at the hardware; after a "
            "restart this node throws its data away and gets it anew from the others"
        )

"""The Raft traffic of all groups of a node: messages to the peers and from them, timers, and entries read back from the
journal for followers that are far behind.

Messages of all groups for one peer leave in one frame (of at most FRAME_BYTES, so that none blocks a link for long).
A message to a replica that no link leads to is lost, which Raft stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from unimeter.config import MIB, NodeConfig
from unimeter.core import peer_wire
from unimeter.core.flow import Corrupt, Flow, ReadFailed
from unimeter.core.group import Group
from unimeter.core.journal import Journal, Position
from unimeter.core.log_marks import LogMarks
from unimeter.core.log_read import read_entries
from unimeter.core.pace import Pace
from unimeter.core.peers import NEVER_NS, Peer, Peers
from unimeter.core.raft.messages import Entry
from unimeter.core.raft.state import Role
from unimeter.kernels.api import Bytes, Kernels

FRAME_BYTES: Final = 4 * MIB


class Replication:
    def __init__(
        self,
        kernels: Kernels,
        config: NodeConfig,
        groups: list[Group],
        peers: Peers,
        journal: Journal,
        marks: LogMarks,
    ) -> None:
        self._kernels = kernels
        self._config = config
        self._groups = groups
        self._peers = peers
        self._journal = journal
        self._marks = marks
        self._cursors: dict[tuple[int, int], tuple[int, Position]] = {}  # (group, peer) -> where the next fetch begins
        self.start_flow: Callable[[Flow[None]], None] = lambda _flow: None  # the node has a turn when it ends
        self.unreadable: Callable[[str], None] = lambda _why: None
        self.fetches = 0
        self._now_ns = 0
        self._pace = Pace(config.catchup_bytes_per_second)
        self._wanted: deque[tuple[Group, int, int, int]] = deque()  # (group, peer, first index, bytes_max) to be read
        self._fetch_again_ns = NEVER_NS

    # ---- time ----

    def tick(self, now_ns: int) -> None:
        self._now_ns = now_ns
        for group in self._groups:
            if now_ns >= group.raft.deadline_ns and group.raft.conf.members():
                group.raft.tick(now_ns)

    def deadline_ns(self) -> int:
        """When the next timer of any group is due. A group that this node has no part in has no timers."""
        next_ns = self._fetch_again_ns
        for group in self._groups:
            if self._ticks(group) and group.raft.deadline_ns < next_ns:
                next_ns = group.raft.deadline_ns
        return next_ns

    @staticmethod
    def _ticks(group: Group) -> bool:
        raft = group.raft
        members = raft.conf.members()
        return len(members) > 1 or (len(members) == 1 and not raft.accepting)  # alone: nobody to send heartbeats to

    # ---- messages ----

    def received(self, now_ns: int, peer: Peer, payload: Bytes) -> None:
        """A RAFT frame. Raises BadFrame."""
        for number, message in peer_wire.unpack_messages(self._kernels, payload):
            if number >= len(self._groups) or message.sender != peer.replica:
                raise peer_wire.BadFrame(f"a message of replica {message.sender} for group {number}")
            raft = self._groups[number].raft
            if message.to == raft.replica:  # else: for the replica that this node was before its disk was wiped
                raft.receive(now_ns, message)

    def send(self) -> None:
        """Send what all groups have to say."""
        waiting: dict[int, list[Bytes]] = {}  # by link
        sizes: dict[int, int] = {}
        for group in self._groups:
            if not group.raft.messages:
                continue
            for message in group.raft.take_messages():
                peer = self._peers.of_replica(message.to)
                if peer is None:
                    continue
                link, size = peer.link, peer_wire.message_bytes(message)
                pieces = waiting.get(link)
                if pieces is None:
                    pieces = waiting[link] = []
                    sizes[link] = 0
                elif sizes[link] + size > FRAME_BYTES:
                    self._send(peer, pieces)
                    pieces.clear()
                    sizes[link] = 0
                peer_wire.pack_message(pieces, group.number, message)
                sizes[link] += size
        for link, pieces in waiting.items():
            self._send(self._peers.of_link(link), pieces)

    def _send(self, peer: Peer, pieces: list[Bytes]) -> None:
        self._peers.send(peer, peer_wire.RAFT, b"".join(pieces))

    def peer_up(self, now_ns: int, replica: int) -> None:
        for group in self._groups:
            group.raft.peer_back(now_ns, replica)

    def peer_down(self, now_ns: int, replica: int) -> None:
        for group in self._groups:
            group.raft.peer_lost(now_ns, replica)

    # ---- far behind ----

    @property
    def waits(self) -> bool:
        """Is there something to be read that may not be read yet?"""
        return bool(self._wanted)

    def fetch(self) -> None:
        """Begin the reading that followers need, as fast as it may be done now."""
        for group in self._groups:
            if group.raft.fetches:
                self._wanted += [(group, *wanted) for wanted in group.raft.take_fetches()]
        self._fetch_again_ns = NEVER_NS
        while self._wanted:
            led_bytes = sum(group.sealed_bytes for group in self._groups)
            wait_ns = self._pace.wait_ns(self._now_ns, self._journal.bytes_written, led_bytes)
            if wait_ns:
                self._fetch_again_ns = self._now_ns + wait_ns
                return
            group, peer, first, bytes_max = self._wanted.popleft()
            if group.raft.role is not Role.LEADER:
                continue
            self.fetches += 1
            self._pace.took(bytes_max)
            self.start_flow(self._fetch(group, peer, first, bytes_max))

    def _fetch(self, group: Group, peer: int, first: int, bytes_max: int) -> Flow[None]:
        key = (group.number, peer)
        known, at = self._cursors.pop(key, (0, None))
        if known != first or at is None:
            at = self._marks.find(group.number, first)
        raft, term = group.raft, group.raft.term
        entries: list[Entry] = []
        try:
            for place in (at, self._marks.start()):  # the second: should the first have been too far
                entries, at = yield from read_entries(
                    self._kernels, self._config, place, self._journal.position.seq, group.number, first, bytes_max, raft.log.term
                )  # fmt: skip
                if entries:
                    break
        except (Corrupt, ReadFailed) as error:
            self.unreadable(str(error))
        if raft.term == term:  # else: its followers are somebody else's now
            self._cursors[key] = (first + len(entries), at)
            raft.supply(self._now_ns, peer, entries)

"""Parts of ingest requests for groups that another node leads.

A client should send an account's events to the leader of its group, and one whose whole request belongs to one other
node is redirected. A request that holds events for several leaders is split where it arrives: what this node does not
lead is forwarded as it stands in the open entry (a bundle), takes its place in the leader's open entry, and is
answered when the leader has applied it. So the client gets one answer, and each part is as exactly-once as the
request: a retry through any node is safe.

The leader may refuse a bundle, or lose its leadership before it is committed: then nothing of it is stored, and it is
forwarded again, to whoever leads by then, for at most RETRY_NS. The same is done with what this node sealed as leader
and another leader's entries replaced. Only when a link breaks while a bundle is under way can nobody tell what became
of it; then its requests are answered so.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import msgpack

from unimeter.config import SECOND_NS, NodeConfig
from unimeter.core import peer_wire
from unimeter.core.group import Group
from unimeter.core.links import Links
from unimeter.core.once import Once
from unimeter.core.peer_wire import BadFrame
from unimeter.core.peers import NEVER_NS, Peer, Peers
from unimeter.core.refusal import Refused
from unimeter.core.sealed import Bundled, Sealed
from unimeter.core.topology import Topology
from unimeter.kernels import protocol as wire
from unimeter.kernels.api import Applied, Bytes, Intake, Kernels

RETRY_NS: Final = 10 * SECOND_NS
OWN: Final = 0  # stands for a link: the bundle is in this node's own open entry
NEVER: Final = 2**63  # above all tokens
NOT_TAKEN, TAKEN, UNKNOWN = 0, 1, 2  # what became of a bundle

OUTCOME_UNKNOWN: Final = Refused(
    "outcome_unknown",
    "the group's leader could not be asked in time whether the events, or some of them, are stored",
    "send it again only if it has a session's number, or all its events have ids",
)


@dataclass
class Part:
    """A bundle without an answer."""

    group: Group
    intake: Intake
    body: Bytes  # the intake's memory
    batches: int
    rows: int
    relayed: list[Bundled]  # parts of it that came from other nodes
    until_ns: int
    link: int | None = None  # where it is; None: to be forwarded (again)
    again: bool = False  # it was sealed here before, and got its token only then
    try_: int = 0  # number of its latest try, which its answer repeats


class Bundles:
    def __init__(
        self,
        kernels: Kernels,
        config: NodeConfig,
        groups: list[Group],
        peers: Peers,
        topology: Topology,
        links: Links,
    ) -> None:
        self._kernels = kernels
        self._config = config
        self._groups = groups
        self._peers = peers
        self._topology = topology
        self._links = links
        self._parts: dict[int, Part] = {}  # by token, oldest first
        self._next_token = 1
        self._tries: dict[int, int] = {}  # number of a try under way -> token
        self._next_try = 1
        self._once = Once()
        self._now_ns = 0
        self.sent = 0
        for group in groups:
            group.on_bundle = self._applied
            group.on_superseded = self._superseded

    @property
    def newest(self) -> int:
        """Token of the newest bundle."""
        return self._next_token - 1

    @property
    def oldest(self) -> int:
        """Least token without an answer, 0 for a part that is older than its token; NEVER when there is none."""
        return min((0 if part.again else token for token, part in self._parts.items()), default=NEVER)

    # ---- where the request arrived ----

    def turn(self, now_ns: int) -> int:
        """Send what stands in the open entries of groups that this node does not lead, and what came back. Returns when
        to come again."""
        self._now_ns = now_ns
        for group in self._groups:
            if not group.raft.accepting and group.open_batches:
                intake, relayed = group.take_open()
                self._add(Part(group, intake, *intake.bundle(), relayed, now_ns + RETRY_NS))
        next_ns = NEVER_NS
        for token, part in list(self._parts.items()):
            if part.link is not None:
                continue
            if now_ns >= part.until_ns:
                self._end_unknown(token)
            elif not self._send(token, part):
                next_ns = min(next_ns, part.until_ns)
        return next_ns

    def _add(self, part: Part) -> None:
        token, self._next_token = self._next_token, self._next_token + 1
        self._parts[token] = part
        waiting = sum(other.group is part.group for other in self._parts.values())
        if waiting > self._config.bundles_waiting_max:
            self._end_unknown(token)

    def _send(self, token: int, part: Part) -> bool:
        """Bring a bundle to the group's leader, if there is one to be reached."""
        group = part.group
        if group.leading:
            place = group.open.add_bundle(part.body, part.batches, part.rows)
            if place is None:
                return False
            group.noted()
            group.open_bundles.append(Bundled(OWN, token, place[0], part.batches, part.rows))
            part.link = OWN
            return True
        leader = self._topology.leader(group.number)
        peer = self._peers.of_node(leader) if leader not in (0, self._topology.node_id) else None
        if peer is None:
            return False
        part.try_, self._next_try = self._next_try, self._next_try + 1
        self._tries[part.try_] = token
        head = peer_wire.BUNDLE_HEAD.pack(part.try_, group.number, 0, part.batches, part.rows)
        self._peers.send(peer, peer_wire.BUNDLE, head + bytes(part.body))
        part.link = peer.link
        self.sent += 1
        return True

    def done(self, peer: Peer, payload: bytes) -> None:
        """A BUNDLE_DONE frame. Raises BadFrame."""
        try:
            number, _, outcome, batches, rows, stamp_ns = peer_wire.DONE_HEAD.unpack_from(payload)
            token = self._tries.pop(number, 0)
            part = self._parts.get(token)
            if part is None or part.link != peer.link:
                return  # its requests were answered when another link broke
            if outcome == NOT_TAKEN:
                part.link = None
                # whoever refuses it does not lead: this node heard of an older leader, or that one is about to lead
                self._topology.doubt(part.group.number, peer.node_id)
                return
            if outcome == UNKNOWN:
                self._end_unknown(token)
                return
            if (batches, rows) != (part.batches, part.rows):
                raise BadFrame("an answer for another bundle")
            rest = payload[peer_wire.DONE_HEAD.size :]
            applied = self._kernels.remote_applied(rest, batches, rows, stamp_ns)
        except (struct.error, ValueError) as error:
            raise BadFrame(str(error)) from error
        self._end(token, applied, stamp_ns)

    def link_lost(self, link: int) -> None:
        self._once.forget(link)
        for token in [token for token, part in self._parts.items() if part.link == link]:
            self._tries.pop(self._parts[token].try_, None)
            self._end_unknown(token)

    def _end(self, token: int, applied: Applied, stamp_ns: int) -> None:
        part = self._parts.pop(token)
        for bundled in part.relayed:
            self._applied(part.group, bundled, applied, stamp_ns)
        self._links.answer(part.intake.answers(applied))
        part.group.give_back(part.intake)

    def _end_unknown(self, token: int) -> None:
        part = self._parts.pop(token)
        for bundled in part.relayed:
            self._tell(bundled.link, bundled.token, part.group.number, UNKNOWN)
        body = {"code": OUTCOME_UNKNOWN.code, "message": OUTCOME_UNKNOWN.message, "fix": OUTCOME_UNKNOWN.fix}
        self._links.answer(
            part.intake.fail(
                wire.V1_STATUS_ERROR,
                str(OUTCOME_UNKNOWN).encode(),
                wire.V2_STATUS_BACKPRESSURE,
                msgpack.packb(body),
            )
        )
        part.group.give_back(part.intake)

    # ---- at the leader ----

    def arrived(self, peer: Peer, payload: bytes) -> None:
        """A BUNDLE frame. Raises BadFrame."""
        try:
            token, number, _, batches, rows = peer_wire.BUNDLE_HEAD.unpack_from(payload)
            if number >= len(self._groups):
                raise BadFrame(f"a bundle for group {number}")
            if not self._once.is_new(peer.link, token):
                return
            group = self._groups[number]
            place = None
            if group.leading:
                body = payload[peer_wire.BUNDLE_HEAD.size :]
                place = group.open.add_bundle(body, batches, rows)
        except (struct.error, ValueError) as error:
            raise BadFrame(str(error)) from error
        if place is None:
            self._tell(peer.link, token, number, NOT_TAKEN)
        else:
            group.noted()
            group.open_bundles.append(Bundled(peer.link, token, place[0], batches, rows))

    def _applied(self, group: Group, bundled: Bundled, applied: Applied, stamp_ns: int) -> None:
        """A bundle is counted: tell the node that it came from."""
        data = applied.extract(bundled.first_batch, bundled.batches)
        if bundled.link == OWN:
            own = self._kernels.remote_applied(data, bundled.batches, bundled.rows, stamp_ns)
            self._end(bundled.token, own, stamp_ns)
        elif self._peers.holds(bundled.link):
            head = peer_wire.DONE_HEAD.pack(
                bundled.token, group.number, TAKEN, bundled.batches, bundled.rows, stamp_ns
            )  # fmt: skip
            self._peers.send(self._peers.of_link(bundled.link), peer_wire.BUNDLE_DONE, head + data)

    def _tell(self, link: int, token: int, group: int, outcome: int) -> None:
        if link == OWN:
            if outcome == UNKNOWN:
                self._end_unknown(token)
            else:
                self._parts[token].link = None
        elif self._peers.holds(link):
            head = peer_wire.DONE_HEAD.pack(token, group, outcome, 0, 0, 0)
            self._peers.send(self._peers.of_link(link), peer_wire.BUNDLE_DONE, head)

    def _superseded(self, group: Group, sealed: Sealed) -> None:
        """An entry that this node sealed as leader can never be committed: its requests go to the new leader."""
        assert sealed.intake is not None
        until_ns = self._now_ns + RETRY_NS
        self._add(
            Part(group, sealed.intake, sealed.body, sealed.batches, sealed.rows, sealed.bundles, until_ns, again=True)
        )

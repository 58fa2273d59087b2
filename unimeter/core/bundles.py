"""Parts of ingest requests for groups that another node leads.

A client should send an account's events to the leader of its group, and one whose whole request belongs to one other
node is redirected. A request that holds events for several leaders is split where it arrives: what this node does not
lead is forwarded as it stands in the open entry (a bundle), takes its place in the leader's open entry, and is
answered when the leader has applied it. So the client gets one answer, and each part is as exactly-once as the
request: a retry through any node is safe.

A bundle has one of three ends: applied (the answers are those of the leader's apply); not taken, or superseded (nothing
of it is stored: the client may send again); its link broke (unknown: only what can be recognised may be sent again).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import msgpack

from unimeter.config import NodeConfig
from unimeter.core import peer_wire
from unimeter.core.front_v1 import address_field
from unimeter.core.group import Bundled, Group, Sealed
from unimeter.core.links import Links
from unimeter.core.peer_wire import BadFrame
from unimeter.core.peers import Peer, Peers
from unimeter.core.refusal import Elsewhere, Refused
from unimeter.core.topology import Topology
from unimeter.kernels import protocol as wire
from unimeter.kernels.api import Applied, Intake, Kernels, Reply

OUTCOME_UNKNOWN = Refused(
    "outcome_unknown",
    "the connection to the group's leader broke before its answer came: the events may be stored or not",
    "send it again only if it has a session's number, or all its events have ids",
)


@dataclass
class Forwarded:
    """A bundle that the leader has not answered yet."""

    link: int
    group: Group
    intake: Intake
    batches: int
    rows: int
    relayed: list[Bundled]  # parts of it that came from other nodes


class Bundles:
    def __init__(
        self,
        kernels: Kernels,
        config: NodeConfig,
        groups: Sequence[Group],
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
        self._forwarded: dict[int, Forwarded] = {}  # by token
        self._next_token = 1
        self.sent = 0
        for group in groups:
            group.on_bundle = self._applied
            group.on_failed = self._superseded

    @property
    def newest(self) -> int:
        """Token of the newest bundle."""
        return self._next_token - 1

    @property
    def oldest(self) -> int:
        """Least token without an answer; above all tokens when there is none."""
        return min(self._forwarded, default=self._next_token)

    def waiting(self, group: int) -> int:
        return sum(item.group.number == group for item in self._forwarded.values())

    # ---- where the request arrived ----

    def forward(self) -> None:
        """Once per turn: send what stands in the open entries of groups that this node does not lead."""
        for group in self._groups:
            if group.leading or not group.open.batch_count:
                continue
            leader = self._topology.leader(group.number)
            peer = self._peers.of_node(leader) if leader else None
            if leader == self._topology.node_id:
                continue  # on its way to lead, or to hand over: soon decided
            intake, relayed = group.take_open()
            if peer is None or self.waiting(group.number) >= self._config.bundles_waiting_max:
                self._not_stored(group, intake, relayed)
                continue
            body, batches, rows = intake.bundle()
            token, self._next_token = self._next_token, self._next_token + 1
            self._forwarded[token] = Forwarded(peer.link, group, intake, batches, rows, relayed)
            head = peer_wire.BUNDLE_HEAD.pack(token, group.number, 0, batches, rows)
            self._peers.send(peer, peer_wire.BUNDLE, head + body)
            self.sent += 1

    def done(self, payload: bytes) -> None:
        """A BUNDLE_DONE frame. Raises BadFrame."""
        try:
            token, _, taken, batches, rows, stamp_ns = peer_wire.DONE_HEAD.unpack_from(payload)
            item = self._forwarded.pop(token, None)
            if item is None:
                return  # its requests were answered when the link broke
            if not taken:
                self._not_stored(item.group, item.intake, item.relayed)
                return
            if (batches, rows) != (item.batches, item.rows):
                raise BadFrame("an answer for another bundle")
            rest = payload[peer_wire.DONE_HEAD.size :]
            applied = self._kernels.remote_applied(rest, batches, rows, stamp_ns)
        except (struct.error, ValueError) as error:
            raise BadFrame(str(error)) from error
        for bundled in item.relayed:
            self._applied(item.group, bundled, applied, stamp_ns)
        self._links.answer(item.intake.answers(applied))
        item.group.give_back(item.intake)

    def link_lost(self, link: int) -> None:
        for token in [token for token, item in self._forwarded.items() if item.link == link]:
            item = self._forwarded.pop(token)
            self._links.answer(fail(item.intake, OUTCOME_UNKNOWN))
            for bundled in item.relayed:
                if self._peers.holds(bundled.link):
                    self._peers.close(bundled.link)  # its sender must not think that it was not stored
            item.group.give_back(item.intake)

    # ---- at the leader ----

    def arrived(self, peer: Peer, payload: bytes) -> None:
        """A BUNDLE frame. Raises BadFrame."""
        try:
            token, number, _, batches, rows = peer_wire.BUNDLE_HEAD.unpack_from(payload)
            if number >= len(self._groups):
                raise BadFrame(f"a bundle for group {number}")
            group = self._groups[number]
            place = None
            if group.leading:
                body = payload[peer_wire.BUNDLE_HEAD.size :]
                place = group.open.add_bundle(body, batches, rows)
        except (struct.error, ValueError) as error:
            raise BadFrame(str(error)) from error
        if place is None:
            self._not_taken(peer.link, token, number)
        else:
            group.open_bundles.append(Bundled(peer.link, token, place[0], batches, rows))

    def _applied(self, group: Group, bundled: Bundled, applied: Applied, stamp_ns: int) -> None:
        if not self._peers.holds(bundled.link):
            return
        head = peer_wire.DONE_HEAD.pack(
            bundled.token, group.number, 1, bundled.batches, bundled.rows, stamp_ns
        )  # fmt: skip
        data = applied.extract(bundled.first_batch, bundled.batches)
        self._peers.send(self._peers.of_link(bundled.link), peer_wire.BUNDLE_DONE, head + data)

    def _not_taken(self, link: int, token: int, group: int) -> None:
        if self._peers.holds(link):
            head = peer_wire.DONE_HEAD.pack(token, group, 0, 0, 0, 0)
            self._peers.send(self._peers.of_link(link), peer_wire.BUNDLE_DONE, head)

    def _superseded(self, group: Group, sealed: Sealed) -> list[Reply]:
        """An entry that this node sealed as leader can never be committed."""
        for bundled in sealed.bundles:
            self._not_taken(bundled.link, bundled.token, group.number)
        assert sealed.intake is not None
        return fail(sealed.intake, self.where(group.number))

    # ---- nothing of it is stored ----

    def _not_stored(self, group: Group, intake: Intake, relayed: list[Bundled]) -> None:
        for bundled in relayed:
            self._not_taken(bundled.link, bundled.token, group.number)
        self._links.answer(fail(intake, self.where(group.number)))
        group.give_back(intake)

    def where(self, group: int) -> Refused:
        """Where to send it again."""
        leader = self._topology.leader(group)
        address = self._topology.address(leader)
        if leader != self._topology.node_id and address:
            return Elsewhere(group, address)
        return Refused(
            "leader_changed", f"the leader of group {group} changed", "send it again: nothing of it is stored"
        )


def fail(intake: Intake, refusal: Refused) -> list[Reply]:
    """Answers for every request of an intake that has none."""
    if isinstance(refusal, Elsewhere):
        body: dict[str, object] = {"address": refusal.address, "group": refusal.group}
        return intake.fail(
            wire.V1_STATUS_REDIRECT, address_field(refusal.address), wire.V2_STATUS_REDIRECT, msgpack.packb(body)
        )
    v1 = wire.V1_STATUS_ERROR if refusal.code == OUTCOME_UNKNOWN.code else wire.V1_STATUS_NOT_LEADER
    body = {"code": refusal.code, "message": refusal.message, "fix": refusal.fix}
    return intake.fail(v1, str(refusal).encode(), wire.V2_STATUS_BACKPRESSURE, msgpack.packb(body))

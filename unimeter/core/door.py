"""What clients send, up to the point where it is in an open entry, in a queue of reads, or refused.

Ingest frames in a row are taken by one call of the kernel, which puts every event into the open entry of its group. A
request that needs a group which another node leads stops the kernel, and is decided here: redirected, if that node
leads all groups of it; else split, the foreign parts to be forwarded (bundles.py). Control frames go to the front end of
their protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from unimeter.core import front_v1, front_v2
from unimeter.core.front_v1 import FrontV1
from unimeter.core.front_v2 import FrontV2
from unimeter.core.group import Group
from unimeter.core.inputs import FramesArrived
from unimeter.core.links import Links
from unimeter.core.refusal import Elsewhere, Refused, no_leader
from unimeter.core.service import Service
from unimeter.core.topology import Topology
from unimeter.kernels import layout
from unimeter.kernels import protocol as wire
from unimeter.kernels.api import Alert, Kernels
from unimeter.kernels.frame import Frame

STARTING: Final = Refused("starting", "the node is still recovering", "try again shortly")
GLANCE_BYTES: Final = wire.V1_REQUEST_HEADER.size + wire.V1_USAGE_QUERY.size  # a v1 usage query without filters
ENTRY_FULL: Final = Refused(
    "overloaded", "more arrives than the disk can take", "try again shortly, with fewer requests at once"
)

_ALONE: Final = b"\1"  # one group, led here

_SCAN_ERRORS: Final = {
    layout.UM_SCAN_BAD_MAGIC: "these bytes are not a frame (bad magic)",
    layout.UM_SCAN_BAD_VERSION: "this protocol version is unknown",
    layout.UM_SCAN_TOO_LARGE: "the frame is larger than frame_bytes_max",
    layout.UM_SCAN_BAD_CRC: "the frame's checksum is wrong",
}


def refuse(kernels: Kernels, links: Links, link: int, frame: Frame, refusal: Refused) -> None:
    if frame.protocol == 2:
        links.send(link, front_v2.encode_error(kernels, frame.type, frame.request_id, refusal))
    else:
        links.send(link, front_v1.encode_error(frame.request_id, refusal))


def refuse_all(kernels: Kernels, links: Links, event: FramesArrived, refusal: Refused) -> None:
    """A node that is not ready refuses whatever comes."""
    for at in range(len(event.frames)):
        refuse(kernels, links, event.link, event.frames[at], refusal)


def answer_broken(kernels: Kernels, links: Links, event: FramesArrived) -> None:
    """The bytes behind the frames are no protocol: say so; the link is to be closed."""
    frames = event.frames
    bad = Refused("bad_request", _SCAN_ERRORS[frames.error], "speak protocol v1 or v2; this connection is closed")
    if frames.error_protocol == 2:
        links.send(event.link, front_v2.encode_error(kernels, 0, frames.error_request_id, bad))
    else:
        links.send(event.link, front_v1.encode_error(frames.error_request_id, bad))


class Door:
    def __init__(
        self,
        kernels: Kernels,
        groups: list[Group],
        topology: Topology,
        links: Links,
        service: Service,
        fronts: tuple[FrontV1, FrontV2],
    ) -> None:
        self._kernels = kernels
        self._groups = groups
        self._topology = topology
        self._links = links
        self._service = service
        self._front_v1, self._front_v2 = fronts
        self.may_forward: Callable[[], bool] = lambda: True
        self._splitter = kernels.splitter(len(groups))
        self._whose_known = b""  # what `_whose` said last, and of what
        self._whose_led, self._whose_epoch, self._whose_forward = -1, 0, False
        self.write_refusal: Callable[[int], Refused | None] = lambda _bytes: None
        self.refused = 0
        self.redirected = 0

    def arrived(self, wall_ns: int, event: FramesArrived) -> bool:
        """Take the frames of one link. False: the link is to be closed once it has its answers."""
        link, data, frames = event.link, event.data, event.frames
        self._service.wall_ns = wall_ns
        refusal = self.write_refusal(len(data))
        catalog = self._service.catalog.compiled
        opened = [group.open for group in self._groups]
        whose = self._whose()
        count = len(frames)
        at = 0
        while at < count:
            trouble: Refused | None = refusal
            if refusal is None:
                stop, at = self._splitter.take(catalog, data, frames, at, link, opened, whose)
                for group in self._groups:
                    group.noted()
                if stop == layout.UM_STOP_END:
                    break
                if stop == layout.UM_STOP_MALFORMED:
                    self._answer_now()
                    return False
                trouble = self._elsewhere() if stop == layout.UM_STOP_ELSEWHERE else ENTRY_FULL
            frame = frames[at]
            at += 1
            if _is_ingest(frame):
                assert trouble is not None
                self.refused += 1
                refuse(self._kernels, self._links, link, frame, trouble)
            elif not self._control(link, frame, data[frame.payload_off : frame.payload_off + frame.payload_len]):
                return False
        if frames.error:
            answer_broken(self._kernels, self._links, event)
            return False
        return True

    def _whose(self) -> bytes:
        """For each group 1: led here; 0: nobody that is known leads it; else a number for each node that leads."""
        if len(self._groups) == 1 and self._groups[0].leading:
            return _ALONE
        topology, own = self._topology, self._topology.node_id
        forward = self.may_forward()
        led = 0
        for group in self._groups:
            led = led << 1 | group.leading
        if led == self._whose_led and topology.epoch == self._whose_epoch and forward == self._whose_forward:
            return self._whose_known
        nodes = [own, *topology.registry.nodes]
        labels = bytearray()
        self._splitter.unknown_waits = not forward
        for group in self._groups:
            leader = topology.leader(group.number)
            if group.leading:
                labels.append(1)
            elif leader == own or not topology.address(leader) or not forward:
                labels.append(0)
            else:
                labels.append(1 + nodes.index(leader))
        self._whose_known = bytes(labels)
        self._whose_led, self._whose_epoch, self._whose_forward = led, topology.epoch, forward
        return self._whose_known

    def _elsewhere(self) -> Refused:
        """Why the request at which the kernel stopped is not for this node: all of it belongs to one other, or somebody
        is missing."""
        wanted = [group.number for group in self._groups if self._splitter.groups_wanted >> group.number & 1]
        own, leader = self._topology.node_id, 0
        for group in wanted:
            leader = self._topology.leader(group)
            if (leader == own and not self._groups[group].leading) or not self._topology.address(leader):
                return no_leader(group)
            if leader != self._topology.leader(wanted[0]):
                return no_leader(group)  # it would have to be split, which this node must not do now
        if not wanted or leader == own:
            return no_leader(0)  # metrics that it does not know, and that may be there all the same
        self.redirected += 1
        return Elsewhere(wanted[0], self._topology.leader_address(wanted[0]))

    def _answer_now(self) -> None:
        for group in self._groups:
            self._links.answer(group.ordered_replies())

    def _control(self, link: int, frame: Frame, payload: bytes) -> bool:
        """Serve one control frame; False: it is malformed, close the link."""
        links = self._links

        def send(data: bytes) -> None:
            links.answer_asked(link, data)

        links.asked(link)
        if frame.protocol == 2:

            def push_v2(group: int, alert: Alert) -> bytes:
                body = self._front_v2.alert_body(group, alert)
                return front_v2.encode(self._kernels, wire.V2_TYPE_ALERT_PUSH, 0, 0, body)

            self._front_v2.on_topology_asked = lambda: links.watch(link, 2)
            self._front_v2.handle(
                frame, payload, send, lambda since: links.subscriptions.add(link, since, push_v2)
            )  # fmt: skip
            return True
        self._front_v1.on_map_asked = lambda: links.watch(link, 1)

        def subscribe_v1() -> None:
            newest = {group.number: group.alert_next - 1 for group in self._groups}
            links.subscriptions.add(link, newest, self._front_v1.alert_push)

        return self._front_v1.handle(frame, payload, send, subscribe_v1)

    def push_of(self, protocol: int) -> bytes:
        """What watchers of the topology are told."""
        return self._front_v2.topology_push() if protocol == 2 else self._front_v1.partition_map_push()


def _is_ingest(frame: Frame) -> bool:
    if frame.protocol == 2:
        return frame.type == wire.V2_TYPE_INGEST
    return frame.type in (wire.V1_TYPE_INGEST_ASYNC, wire.V1_TYPE_INGEST_SYNC)

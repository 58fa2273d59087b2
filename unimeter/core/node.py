"""The node: a pure function of what happens to it.

    step(now, input) -> effects

Nothing here waits, reads a clock or touches a file. A node is `fold(step, inputs)`: the production server and the
simulator run this very class, through the same driver.

An event's way through `step`:

    FramesArrived   ingest frames go into the open entries of their groups (door.py); at the end of the turn (TimePassed,
                    because deadline_ns is now) the open entries of the groups that this node leads are sealed: Raft
                    sends them to the other replicas, and one journal record takes what all groups have to save; async
                    requests are answered: their place in the log is known
    WriteDone       the record is durable here: Raft is told, followers acknowledge, leaders count. The next record,
                    gathered meanwhile, is written; then what is committed is applied and the sync requests answered

A node's life: its directory is read (recovery.py); a fresh one finds out to which cluster it belongs (founding.py), one
whose data cannot be believed waits until it may begin anew (rejoin.py); then it serves (`_begin`). It is `ready` when it
knows a leader of every group.
"""

from __future__ import annotations

from typing import Any, Final

from unimeter.config import NodeConfig, state_limits
from unimeter.core import door, founding, peer_bodies, peer_wire
from unimeter.core.effects import Effect
from unimeter.core.flow import NoSpace, ReadFailed
from unimeter.core.flows import Flows
from unimeter.core.founding import Founding, Newcomer
from unimeter.core.inputs import (
    ApplyDone,
    Booted,
    DialFailed,
    DiskError,
    FramesArrived,
    Input,
    LinkClosed,
    LinkEnded,
    LinkOpened,
    Now,
    ReadDone,
    StopRequested,
    TimePassed,
    WriteDone,
)
from unimeter.core.links import Links, Mark
from unimeter.core.outbox import Outbox
from unimeter.core.peer_wire import BadFrame
from unimeter.core.peers import Peer, Peers
from unimeter.core.prng import Prng
from unimeter.core.recovery import Fresh, Recovered, Recovery, Unusable
from unimeter.core.rejoin import Rejoin
from unimeter.core.serving import Serving
from unimeter.core.upkeep import NEVER_NS
from unimeter.kernels.api import Kernels, Limits

NOTICES_MAX: Final = 100  # that nobody has taken yet; the newest are kept
DISK_FAILED: Final = (
    "a write to the disk failed: the file's content is unknown, so this node stops; check the disk, then restart"
)


class Node:
    """One node. `deadline_ns`: when it next wants TimePassed (monotonic ns)."""

    def __init__(self, config: NodeConfig, kernels: Kernels, limits: Limits | None, seed: int = 0) -> None:
        """`limits`: of every group's state; None: its share of config.memory_max_bytes. `seed`: 64 bits from which all chance of this process is drawn."""
        self.config = config
        self.deadline_ns = NEVER_NS
        self.ready = False
        self.halted = False
        self.serving: Serving | None = None
        self.marks: dict[str, int] = {}  # situation -> how often it was reached
        self._kernels = kernels
        self._limits = limits
        self._prng = Prng(seed)
        self._now = Now(0, 0)
        self._next_ns = NEVER_NS
        self._turn_pending = False
        self._arrivals = 0  # since the last turn, or since nothing was left to do
        self._crowded = False  # the last turn had more than one
        self._out = Outbox()
        self._links = Links(self._out, config.alerts_list_max)
        self._flows = Flows(self._out, self._halt)
        self._peers = Peers(self._out, config, kernels)
        self._peers.on_gone = self._peer_gone
        self._recovery: Recovery | None = None
        self._newcomer: Newcomer | None = None
        self._rejoin: Rejoin | None = None
        self._founding: Founding | None = None
        self._replica = 0
        self._notices: list[str] = []
        self._frames = 0  # from clients
        self._newest_link = 0  # that brought some
        self._in_a_row = 0  # so often
        self._counts = {"requests_refused": 0, "links_opened": 0}

    # ---- the contract ----

    def step(self, now: Now, event: Input) -> list[Effect]:
        """Let one thing happen. The effects are unordered."""
        assert not self.halted, "a halted node takes no input"
        self._now = now
        serving = self.serving
        if serving is not None:
            serving.now = now
        if isinstance(event, FramesArrived):
            if self._peers.holds(event.link):
                self._peer_frames(event)
            else:
                self._client_frames(event)
        elif isinstance(event, TimePassed):
            self._turn_pending = False
            self._end_turn()
        elif isinstance(event, WriteDone) and serving is not None and event.op == serving.records.op:
            self._journal_written(serving, event.error)
        elif isinstance(event, ApplyDone):
            if serving is not None:
                serving.applied(event.op)
        else:
            self._seldom(now, event)
        self.deadline_ns = now.monotonic_ns if self._turn_pending else self._next_ns
        return self._out.take()

    def glance(self, link: int, data: bytes) -> bytes | None:
        """A lone read that is answered from memory: no time passes, nothing is decided. None: let `step` see to it."""
        serving = self.serving
        if (
            len(data) != door.GLANCE_BYTES
            or serving is None
            or not self.ready
            or self.halted
            or not self._links.listening(link)
        ):
            return None
        answer = serving.glance(data)
        if answer is not None:
            self._frames += 1
        return answer

    def _seldom(self, now: Now, event: Input) -> None:
        """What does not happen all the time; the next turn looks at everything."""
        if self.serving is not None:
            self.serving.look_round()
        match event:
            case WriteDone(op, error):
                self._write_done(op, error)
            case ReadDone(op, data, error):
                self._flows.resume(op, data, ReadFailed("the disk could not read") if error else None)
            case LinkOpened(link, _, inner, dialled):
                if inner:
                    self._peers.opened(now.monotonic_ns, link, dialled)
                else:
                    self._links.opened(link)
                    self._counts["links_opened"] += 1
            case DialFailed(ref):
                self._peers.dial_failed(ref)
                self._wake()
            case LinkEnded(link):
                if self._peers.holds(link):
                    self._peers.close(link)
                elif self._links.listening(link):
                    self._hang_up(link)
            case LinkClosed(link):
                if self._peers.holds(link):
                    self._peers.closed(link)
                else:
                    self._links.dropped(link)
            case Booted(files):
                self._started_ns = now.monotonic_ns
                limits = self._limits_of(self.config.group_count)
                self._recovery = Recovery(self._kernels, self.config, limits, self._prng, files)
                self._flows.start(self._recovery.run(), self._found, self._no_room_to_start)
            case StopRequested():
                if self.serving is None:
                    self._halt(None)
                else:
                    self.serving.stop()
                self._wake()

    # ---- to look at ----

    @property
    def progress(self) -> str:
        """What the node is waiting for, in words."""
        if self.ready:
            return "ready"
        if self._rejoin is not None:
            return self._rejoin.progress
        if self._newcomer is not None:
            missing = ", ".join(map(str, self._newcomer.missing()))
            return f"waiting for node {missing} to found the cluster" if missing else "waiting to hear of the cluster"
        if self.serving is not None:
            waiting = [str(g.number) for g in self.serving.groups if not self.serving.topology.leader(g.number)]
            return f"waiting for a leader of group {', '.join(waiting)}"
        return "ready" if self._recovery is None else self._recovery.progress

    @property
    def replica(self) -> int:
        """This node's replica id, 0 while it has none."""
        return self._replica

    @property
    def groups(self) -> Any:
        """The groups, once the node serves: list[Group]."""
        return [] if self.serving is None else self.serving.groups

    @property
    def topology(self) -> Any:
        return None if self.serving is None else self.serving.topology

    @property
    def journal(self) -> Any:
        return None if self.serving is None else self.serving.journal

    @property
    def recovered(self) -> Recovered:
        assert self.serving is not None
        return self.serving.recovered

    def take_notices(self) -> list[str]:
        """Lines for the operator, oldest first; each is given once."""
        notices, self._notices = self._notices, []
        return notices

    def counters(self) -> dict[str, int]:
        """Figures for operators, by name with the unit last; few before the node serves."""
        counts = {"frames": self._frames, **self._counts, "links": len(self._links), "peers": len(self._peers)}
        return counts if self.serving is None else {**self.serving.counters(), **counts}

    def group_figures(self) -> list[dict[str, Any]]:
        return [] if self.serving is None else self.serving.cluster.figures()

    # ---- start-up ----

    def _limits_of(self, group_count: int) -> Limits:
        return self._limits or state_limits(self.config.memory_max_bytes // group_count)

    def _found(self, found: Recovered | Unusable | Fresh) -> None:
        if isinstance(found, Recovered):
            self._begin(found)
            return
        if isinstance(found, Unusable):
            self._await_rejoin(found)
        else:
            limits = self._limits_of(self.config.group_count)
            self._newcomer = Newcomer(self.config, limits, found.cluster_id, found.replica)
            self._replica = found.replica
        self._peers.introduce(self._hello)
        self._wake()

    def _begin_anew(self, founding: Founding, replica: int) -> None:
        """The directory is empty (again): lay it out as a replica of that cluster."""
        assert self._recovery is not None
        self._newcomer = None
        self._flows.start(self._recovery.lay_out(founding, replica), self._begin, self._no_room_to_start)

    def _begin(self, found: Recovered) -> None:
        """Serve."""
        self._newcomer, self._rejoin = None, None
        self._replica, self._founding = found.identity.replica, found.founding
        for line in found.notices:
            self._notice(line)
        self.serving = Serving(
            self._kernels, self.config, self._limits_of(found.founding.group_count), found, self._prng, self._out, self._links, self._flows, self._peers,
            self._now, self._wake, self._halt, self._notice, self.marks,
        )  # fmt: skip
        self._peers.introduce(self._hello)
        for peer in list(self._peers):
            if peer.cluster_id == found.founding.cluster_id:
                self.serving.cluster.peer_up(self._now.monotonic_ns, peer)
        self._wake()

    def _await_rejoin(self, found: Unusable) -> None:
        self._rejoin = Rejoin(
            self._kernels, self.config, found, self._flows, self._prng, self._notice, self._begin_anew
        )  # fmt: skip
        self._replica, self._founding = found.identity.replica, found.founding
        self._peers.learn_registry(found.founding.registry())

    def _retire(self, serving: Serving) -> None:
        """The node has found, while serving, that it cannot read what it has; the others do without it now."""
        found = serving.recovered
        self.serving, self.ready = None, False
        self._links.close_all()
        self._await_rejoin(Unusable(found.identity, found.founding, serving.files(), serving.fitness.retired, False))
        self._peers.introduce(self._hello)
        self._wake()

    def _no_room_to_start(self) -> None:
        self._halt("the disk is full: there is no room for the first journal segment; free space, then start again")

    # ---- peers ----

    def _hello(self) -> dict[str, Any]:
        known = self._founding
        return {
            "v": peer_wire.VERSION,
            "node": self.config.node_id,
            "replica": self._replica,
            "cluster": 0 if known is None else known.cluster_id,
            "founding": None if known is None else known.body(),
            "damaged": self._rejoin is not None,
            "client": self.config.client_address,
            "peer": self.config.peer_address,
        }

    def _peer_frames(self, event: FramesArrived) -> None:
        link, frames = event.link, event.frames
        now_ns = self._now.monotonic_ns
        self._peers.heard(now_ns, link)
        traffic = True  # and nothing else
        try:
            for at in range(len(frames)):
                frame = frames[at]
                payload = event.data[frame.payload_off : frame.payload_off + frame.payload_len]
                peer = self._peers.of_link(link)
                if frame.type == peer_wire.HELLO:
                    self._greeted(link, peer_bodies.unpack(frame.type, payload))
                elif peer.node_id and self.serving is not None and peer.cluster_id == self.serving.cluster_id:
                    self.serving.cluster.frame(now_ns, peer, frame.type, payload)
                    if frame.type not in peer_wire.TRAFFIC:
                        traffic = False
                        self.serving.look_round()
                elif self.serving is not None:
                    raise BadFrame("it has not said hello as a member of this cluster")  # then it will, on a new link
                elif self._rejoin is not None and frame.type == peer_wire.GOSSIP:
                    self._rejoin.gossiped(peer, peer_bodies.unpack(frame.type, payload))
                if self.halted or not self._peers.holds(link):
                    return
            if frames.error:
                raise BadFrame("what it sends is not the protocol between nodes")
        except BadFrame as error:
            traffic = False
            self._notice(f"hung up on a peer: {error}")
            if self._peers.holds(link):
                self._peers.close(link)
        if traffic and self.serving is not None:
            self._look_into(self.serving)
        else:
            self._wake()

    def _greeted(self, link: int, body: dict[str, Any]) -> None:
        try:
            told = founding.from_body(body["founding"]) if body.get("founding") else None
        except (KeyError, TypeError, ValueError) as error:
            raise BadFrame(f"its founding is none: {error}") from error
        known = self._founding
        if known is not None and told is not None and told.cluster_id != known.cluster_id:
            raise BadFrame(
                f"node {body.get('node')} belongs to another cluster ({told.cluster_id:016x}, this one is "
                f"{known.cluster_id:016x}): one of the two data directories is not where it should be"
            )
        peer = self._peers.greeted(link, body)
        if self._newcomer is not None:
            found = self._newcomer.heard(peer.node_id, peer.replica, told)
            if found is not None:
                self._begin_anew(found, self._replica)
        elif self.serving is not None and peer.cluster_id == self.serving.cluster_id:
            self.serving.cluster.peer_up(self._now.monotonic_ns, peer)
            self.serving.look_round()

    def _peer_gone(self, peer: Peer) -> None:
        if self._newcomer is not None and peer.node_id and self._peers.of_node(peer.node_id) is None:
            self._newcomer.gone(peer.node_id)
        if self.serving is not None:
            self.serving.cluster.peer_down(self._now.monotonic_ns, peer)
            self.serving.look_round()
        self._wake()

    # ---- clients ----

    def _client_frames(self, event: FramesArrived) -> None:
        link = event.link
        if not self._links.listening(link):
            return
        self._frames += len(event.frames)
        serving = self.serving
        if serving is not None and self.ready:
            self._in_a_row = self._in_a_row + 1 if link == self._newest_link else 0
            self._newest_link = link
            serving.records.one_client = self._in_a_row >= self.config.lone_arrivals
            if serving.door.arrived(self._now.wall_ns, event):
                self._look_into(serving)
            else:
                self._hang_up(link)
            return
        self._counts["requests_refused"] += len(event.frames)
        door.refuse_all(self._kernels, self._links, event, door.STARTING)
        if event.frames.error:
            door.answer_broken(self._kernels, self._links, event)
            self._hang_up(link)
        self._wake()

    def _hang_up(self, link: int) -> None:
        """Close the link once what it asked before is answered."""
        self._links.hang_up(link, Mark((), 0) if self.serving is None else self.serving.mark())
        self._wake()

    # ---- turns ----

    def _wake(self) -> None:
        """Ask for TimePassed at the end of this turn."""
        self._turn_pending = True

    def _look_into(self, serving: Serving) -> None:
        """Something has arrived. When little does, it is seen to at once; when much does, the end of the turn sees to all of
        it together: a step costs about the same for one request and for twenty."""
        self._arrivals += 1
        if self._turn_pending or self._crowded:
            serving.seal_many()
            self._wake()
            return
        serving.hurry()
        if not self._turn_pending:
            self._arrivals = 0

    def _end_turn(self) -> None:
        now_ns = self._now.monotonic_ns
        self._crowded = self._arrivals > 1
        self._arrivals = 0
        self._next_ns = self._peers.turn(now_ns)
        if self.serving is not None:
            self._next_ns = min(self._next_ns, self.serving.turn())
            if self.serving.fitness.retired:
                self._retire(self.serving)
                return
            if not self.ready and self.serving.ready():
                self.ready = True
            self._links.close_leaving(self.serving.past)
        else:
            self._links.close_leaving(lambda _mark: True)
            if self._rejoin is not None:
                self._next_ns = min(self._next_ns, self._rejoin.turn(now_ns))

    def _journal_written(self, serving: Serving, error: DiskError | None) -> None:
        if error is not None:
            self._halt(DISK_FAILED)
        else:
            serving.written()

    def _write_done(self, op: int, error: DiskError | None) -> None:
        """Of a flow."""
        if error is DiskError.FAILED:
            self._halt(DISK_FAILED)
        else:
            self._flows.resume(op, b"", NoSpace() if error is DiskError.NO_SPACE else None)

    # ---- the rest ----

    def _notice(self, line: str) -> None:
        self._notices = [*self._notices, line][-NOTICES_MAX:]

    def _halt(self, reason: str | None) -> None:
        self.halted = True
        self._out.halt(reason)

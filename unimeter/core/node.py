"""The node: a pure function of what happens to it.

    step(now, input) -> effects

Nothing here waits, reads a clock or touches a file. A node is `fold(step, inputs)`: the production server and the
simulator run this very class, through the same driver.

An event's way through `step`:

    FramesArrived   ingest frames go into the open entry of their group (a kernel), control frames to a front end;
                    at the end of the turn (TimePassed, because deadline_ns is now) the open entry is sealed and one
                    journal record is written; async requests are answered: their place in the log is known
    WriteDone       the record is durable, hence committed: the next record, gathered meanwhile, is written; then
                    the committed entries are applied and the sync requests answered

Long work (recovery, checkpoints, new segments, scans for queries) runs as flows, one disk operation at a time.
"""

from __future__ import annotations

from unimeter.config import NodeConfig
from unimeter.core.effects import Effect
from unimeter.core.flow import NoSpace, ReadFailed
from unimeter.core.flows import Flows
from unimeter.core.front_v1 import FrontV1
from unimeter.core.front_v1 import encode_error as encode_error_v1
from unimeter.core.front_v2 import FrontV2
from unimeter.core.front_v2 import encode as encode_v2
from unimeter.core.front_v2 import encode_error as encode_error_v2
from unimeter.core.group import ENTRY_BYTES, Group
from unimeter.core.inputs import (
    Booted,
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
from unimeter.core.journal import Journal
from unimeter.core.links import Links
from unimeter.core.outbox import Outbox
from unimeter.core.queries import Reads
from unimeter.core.recovery import Recovered, Recovery
from unimeter.core.refusal import Refused
from unimeter.core.service import Service, Status
from unimeter.core.upkeep import NEVER_NS, Upkeep
from unimeter.kernels import layout
from unimeter.kernels import protocol as wire
from unimeter.kernels.api import Alert, Frame, Kernels, Limits

STARTING = Refused("starting", "the node is still recovering", "try again shortly")
STOPPING = Refused("overloaded", "the node is stopping", "try again when it is back")
DISK_FULL = Refused(
    "disk_full", "the node's disk is full", "free space on the data directory's disk; it goes on by itself"
)
ENTRY_FULL = Refused(
    "overloaded", "more arrives than the disk can take", "try again shortly, with fewer requests at once"
)


class Node:
    """One node. `deadline_ns`: when it next wants TimePassed (monotonic ns)."""

    def __init__(self, config: NodeConfig, kernels: Kernels, limits: Limits, seed: int = 0) -> None:
        """`limits`: of every group's state. `seed`: 64 bits that make a new directory's cluster id unique."""
        if config.group_count != 1:
            raise ValueError("group_count must be 1: a batch is not yet split over groups")
        self.config = config
        self.deadline_ns = NEVER_NS
        self.ready = False
        self.halted = False
        self._kernels = kernels
        self._limits = limits
        self._seed = seed
        self._now = Now(0, 0)
        self._started_ns = 0
        self._turn_pending = False
        self._out = Outbox()
        self._links = Links(self._out, config.alerts_list_max)
        self._flows = Flows(self._out, self._halt)
        self._recovery: Recovery | None = None
        self._journal_op = 0
        self._stopping = False
        self._counts = {"frames": 0, "requests_refused": 0, "links_opened": 0, "scans": 0}

    # ---- the contract ----

    def step(self, now: Now, event: Input) -> list[Effect]:
        """Let one thing happen. The effects are unordered."""
        assert not self.halted, "a halted node takes no input"
        self._now = now
        match event:
            case FramesArrived():
                self._frames_arrived(event)
            case WriteDone(op, error):
                self._write_done(op, error)
            case TimePassed():
                self._turn_pending = False
                self._end_turn()
            case ReadDone(op, data, error):
                self._flows.resume(op, data, ReadFailed("the disk could not read") if error else None)
            case LinkOpened(link):
                self._links.opened(link)
                self._counts["links_opened"] += 1
            case LinkEnded(link):
                if self._links.listening(link):
                    self._hang_up(link)
            case LinkClosed(link):
                self._links.dropped(link)
            case Booted(files):
                self._started_ns = now.monotonic_ns
                self._recovery = Recovery(self._kernels, self.config, self._limits, self._seed, files)
                self._flows.start(self._recovery.run(), self._recovered, self._no_room_to_start)
            case StopRequested():
                self._stopping = True
                self._wake()
        retry_ns = self._upkeep.retry_ns if self.ready else NEVER_NS
        self.deadline_ns = now.monotonic_ns if self._turn_pending else retry_ns
        return self._out.take()

    @property
    def progress(self) -> str:
        """How far recovery is, in words."""
        return "ready" if self.ready or self._recovery is None else self._recovery.progress

    def counters(self) -> dict[str, int]:
        """Figures for operators, by name with the unit last; all zero before the node is ready."""
        if not self.ready:
            return dict(self._counts)
        metas = [group.state.meta() for group in self.groups]
        return {
            **self._counts,
            "events_stored": sum(meta.stored for meta in metas),
            "events_duplicate": sum(meta.duplicates for meta in metas),
            "events_conflict": sum(meta.conflicts for meta in metas),
            "events_refused": sum(meta.refused for meta in metas),
            "alerts_fired": sum(meta.alert_next - 1 for meta in metas),
            "fingerprint_rotations": sum(meta.fps_rotations for meta in metas),
            "sessions_opened": sum(meta.sessions_opened for meta in metas),
            "sessions_evicted": sum(meta.sessions_evicted for meta in metas),
            "series": sum(group.state.region_counts()[layout.UM_R_SERIES] for group in self.groups),
            "state_bytes": sum(group.state.memory_bytes() for group in self.groups),
            "applied_index": metas[0].applied_index,
            "journal_records": self.journal.records_written,
            "journal_bytes": self.journal.bytes_written,
            "journal_segment": self.journal.position.segment,
            "links": len(self._links),
            "checkpoints": self._upkeep.checkpoints_written,
            "disk_full": int(self._upkeep.disk_full),
            "disk_full_events": self._upkeep.no_space_count,
        }

    # ---- start-up ----

    def _recovered(self, found: Recovered) -> None:
        self.groups: list[Group] = found.groups
        self.journal = Journal(self._kernels, self.config, found.identity.cluster_id, found.position, found.tail)
        self.journal.next_segment_ready = found.next_segment_ready
        self.recovered = found
        self._upkeep = Upkeep(
            self._kernels,
            self.config,
            self.journal,
            self.groups,
            found,
            self._flows,
            self._wake,
        )
        self.reads = [Reads(group, self._kernels, self.config) for group in self.groups]
        self.service = Service(self.groups, self.reads, self._kernels, self.config)
        self.service.status = self._status
        self.service.refuse_writes = self._write_refusal
        self._front_v1 = FrontV1(self.service)
        self._front_v2 = FrontV2(self.service, self._kernels, found.identity.cluster_id)
        for group in self.groups:
            if group.state.limits() != self._limits:
                group.propose(layout.UM_ENTRY_LIMITS, layout.encode_limits(self._limits), lambda _: None)
        self.ready = True
        self._wake()

    def _no_room_to_start(self) -> None:
        self._halt("the disk is full: there is no room for the first journal segment; free space, then start again")

    # ---- frames ----

    def _frames_arrived(self, event: FramesArrived) -> None:
        link, data, frames = event.link, event.data, event.frames
        if not self._links.listening(link):
            return
        count = len(frames)
        self._counts["frames"] += count
        refusal = self._write_refusal(len(data)) if self.ready else STARTING
        at = 0
        while at < count:
            if refusal is None:
                group = self.groups[0]
                stop, at = group.open.take(group.catalog.compiled, data, frames, at, link)
                if stop == layout.UM_STOP_END:
                    break
                if stop == layout.UM_STOP_MALFORMED:
                    self._links.answer(group.ordered_replies())
                    self._hang_up(link)
                    break
            frame = frames[at]
            at += 1
            if not self.ready or _is_ingest(frame):
                self._counts["requests_refused"] += 1
                self._refuse(link, frame, refusal or ENTRY_FULL)
            elif not self._control(link, frame, data[frame.payload_off : frame.payload_off + frame.payload_len]):
                self._hang_up(link)
                break
        if frames.error and self._links.listening(link):
            bad = Refused(
                "bad_request", _SCAN_ERRORS[frames.error], "speak protocol v1 or v2; this connection is closed"
            )
            if frames.error_protocol == 2:
                self._links.send(link, encode_error_v2(self._kernels, 0, frames.error_request_id, bad))
            else:
                self._links.send(link, encode_error_v1(frames.error_request_id, bad))
            self._hang_up(link)
        self._wake()

    def _control(self, link: int, frame: Frame, payload: bytes) -> bool:
        """Serve one control frame; False: it is malformed, close the link."""
        self.service.wall_ns = self._now.wall_ns

        def send(data: bytes) -> None:
            self._links.answer_asked(link, data)

        self._links.asked(link)

        if frame.protocol == 2:

            def push_v2(alert: Alert) -> bytes:
                return encode_v2(self._kernels, wire.V2_TYPE_ALERT_PUSH, 0, 0, self._front_v2.alert_body(alert))

            self._front_v2.handle(
                frame, payload, send, lambda since: self._links.subscriptions.add(link, since, push_v2)
            )
            return True
        push_v1 = self._front_v1.alert_push
        newest = self.groups[0].alert_next - 1
        return self._front_v1.handle(frame, payload, send, lambda: self._links.subscriptions.add(link, newest, push_v1))

    def _refuse(self, link: int, frame: Frame, refusal: Refused) -> None:
        if frame.protocol == 2:
            self._links.send(link, encode_error_v2(self._kernels, frame.type, frame.request_id, refusal))
        else:
            self._links.send(link, encode_error_v1(frame.request_id, refusal))

    def _write_refusal(self, size_bytes: int) -> Refused | None:
        """Why nothing of `size_bytes` can be taken into the log now, if so."""
        if self._stopping:
            return STOPPING
        if self._upkeep.disk_full and not self.journal.next_segment_ready:
            waiting = sum(group.waiting_bytes() for group in self.groups)
            if waiting + size_bytes + 2 * ENTRY_BYTES > self.journal.room_bytes():
                return DISK_FULL
        return None

    def _hang_up(self, link: int) -> None:
        """Close the link once what it asked before is answered."""
        group = self.groups[0] if self.ready else None
        self._links.hang_up(link, 0 if group is None else group.index_of_newest())
        self._wake()

    # ---- the log ----

    def _wake(self) -> None:
        """Ask for TimePassed at the end of this turn."""
        self._turn_pending = True

    def _end_turn(self) -> None:
        if not self.ready:
            self._links.close_leaving(0)
            return
        self._apply()
        self._upkeep.turn(self._now.monotonic_ns)
        if not self._flush():
            for group in self.groups:
                group.seal_for_async(self._now.wall_ns)
                self._links.answer(group.ordered_replies())
        self._serve_reads()
        self._links.close_leaving(self.groups[0].applied_index)
        if self._stopping:
            self._drain()

    def _flush(self) -> bool:
        """Write the next record if there is something to write and the journal is free."""
        journal = self.journal
        if journal.flying is not None or not any(group.has_work() for group in self.groups):
            return False
        if not journal.fits(sum(group.waiting_bytes() for group in self.groups)):
            if not journal.next_segment_ready:
                return False  # goes on when the segment is there
            journal.roll()
            self._upkeep.want_segment(self._now.monotonic_ns)
        for group in self.groups:
            group.seal(self._now.wall_ns)
        entries = [entry for group in self.groups for entry in group.take_sealed()]
        write = journal.append(entries, max(group.stamp_ns for group in self.groups))
        self._journal_op = self._out.write_journal(write.file, write.offset, write.data)
        for group in self.groups:
            self._links.answer(group.ordered_replies())
        return True

    def _write_done(self, op: int, error: DiskError | None) -> None:
        if error is DiskError.FAILED or (error is not None and op == self._journal_op):
            self._halt(
                "a write to the disk failed: the file's content is unknown, so this node stops; check the disk, then restart"
            )
        elif op == self._journal_op:
            self._journal_op = 0
            began = self.journal.written()
            length = self.journal.position.offset - began.offset
            for group in self.groups:
                group.commit(began, length)
            if self._flush():
                self._wake()  # the disk is busy again: apply in its shadow
            else:
                self._apply()
                self._serve_reads()
                self._links.close_leaving(self.groups[0].applied_index)
                if self._stopping or self._upkeep.bytes_since_checkpoint() >= self.config.checkpoint_after_bytes:
                    self._wake()
        else:
            self._flows.resume(op, b"", NoSpace() if error is DiskError.NO_SPACE else None)

    def _apply(self) -> None:
        for group in self.groups:
            self._links.answer(group.apply_committed())
            if self._links.push_alerts(group.state, group.alert_next):
                self._wake()

    def _serve_reads(self) -> None:
        for reads in self.reads:
            for scan in reads.due():
                self._counts["scans"] += 1

                def ended(_: None, reads: Reads = reads) -> None:
                    reads.scan_ended()
                    self._wake()

                self._flows.start(scan, ended, lambda: None)

    def _drain(self) -> None:
        """Stopping: once nothing is under way, write a last checkpoint, then halt cleanly."""
        if (
            self.journal.flying is not None
            or any(group.has_work() for group in self.groups)
            or self._upkeep.checkpointing
        ):
            return
        if self._upkeep.bytes_since_checkpoint() > 0 and not self._upkeep.disk_full:
            self._upkeep.begin_checkpoint(self._now.monotonic_ns)
        else:
            self._halt(None)

    # ---- the rest ----

    def _halt(self, reason: str | None) -> None:
        self.halted = True
        self._out.halt(reason)

    def _status(self) -> Status:
        meta = self.groups[0].state.meta()
        return Status(
            node_id=self.config.node_id,
            journal_bytes=(self.journal.position.segment - 1) * self.config.segment_bytes
            + self.journal.position.offset,
            segments=self.journal.position.segment,
            series=self.groups[0].state.region_counts()[layout.UM_R_SERIES],
            uptime_ns=self._now.monotonic_ns - self._started_ns,
            term=self.groups[0].term,
            applied_index=meta.applied_index,
            events=meta.stored,
        )


_SCAN_ERRORS = {
    layout.UM_SCAN_BAD_MAGIC: "these bytes are not a frame (bad magic)",
    layout.UM_SCAN_BAD_VERSION: "this protocol version is unknown",
    layout.UM_SCAN_TOO_LARGE: "the frame is larger than frame_bytes_max",
    layout.UM_SCAN_BAD_CRC: "the frame's checksum is wrong",
}


def _is_ingest(frame: Frame) -> bool:
    if frame.protocol == 2:
        return frame.type == wire.V2_TYPE_INGEST
    return frame.type in (wire.V1_TYPE_INGEST_ASYNC, wire.V1_TYPE_INGEST_SYNC)

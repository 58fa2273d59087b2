"""The end of a group's log: requests gather in the open entry, and sealing gives them their place.

    requests -> open entry -> [sealed: leader gives it its place] -> Raft

The open entry gathers every request until the journal is free; so batches grow under load by themselves, and a
lone event waits for nobody. Async requests are answered when their entry is sealed, so an entry that holds some is
sealed at the end of the turn even while the journal is busy; while somebody reads, only within a bound, for what was
answered must be waited for. Changes of the catalog and of the cluster are entries of their own, ahead of the open one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from unimeter.config import NodeConfig
from unimeter.core.entry import ENTRY_BYTES, Head, head_in, head_of, raft_entry
from unimeter.core.machine import StateMachine
from unimeter.core.raft.messages import Entry, bytes_of
from unimeter.core.raft.raft import Raft
from unimeter.core.refusal import Refused
from unimeter.core.sealed import LEADER_CHANGED, Bundled, ControlEntry, Outcome, Sealed
from unimeter.kernels import layout
from unimeter.kernels.api import Bytes, Intake, Kernels, Limits
from unimeter.kernels.frame import Reply

# entries of events on their way to a majority; measured on three nodes: 1 costs a quarter of the throughput, 2 a tenth
UNCOMMITTED_MAX: Final = 16
CONTROL_WAITING_MAX: Final = 1024  # entries of their own that wait to be sealed


class LogEnd(StateMachine):
    """A replica's state, and what stands before and at the end of its log. Not thread-safe."""

    raft: Raft  # set by attach(), before anything else but recovery

    def __init__(self, number: int, kernels: Kernels, config: NodeConfig, limits: Limits) -> None:
        super().__init__(number, kernels, config, limits)
        self.answered_index = 0  # greatest index that a client was told of: reads must include it
        self.next_row = 1  # leader: sequence number of the next row to be sealed
        self.stamp_ns = 0  # leader: of the newest entry
        self.open = self._intake()
        self.open_batches = self.open_immediate = 0  # what is in it, see `noted`
        self._open_held = 0  # of those `immediate` the ones that are known to wait for their place
        self.open_bundles: list[Bundled] = []
        self._spare: list[Intake] = []
        self.pending_control: list[ControlEntry] = []
        self._sealed: dict[int, Sealed] = {}  # by index
        self.unsaved_bytes = 0  # sealed and not yet given to the journal
        self._unsaved = 0
        self.sealed_bytes = 0  # of all entries that this process made as leader
        self.hasty = False  # the newest entry holds requests that are answered before it is durable
        self._ordered: list[Reply] = []  # answers to async requests that were sealed
        self.leading_term = 0  # the term in which next_row and stamp_ns were taken from the log's end
        self.asked = 0  # a read had to wait, and so many jobs have not begun since: the next is not to wait long

    def _intake(self) -> Intake:
        return self.kernels.intake(self.number, self.config.entry_bytes_max, self.config.batch_events_max)

    def attach(self, raft: Raft) -> None:
        """The replica is complete: from now on its log is Raft's."""
        self.raft = raft

    # ---- who leads ----

    @property
    def leading(self) -> bool:
        """May requests go into the open entry? Only once an entry of its own term is applied here: then this node knows
        every metric that anybody was told of."""
        return self.raft.accepting and self.applied_term == self.raft.term

    def _begin_leading(self) -> None:
        """Go on numbering where the log ends."""
        raft = self.raft
        self.leading_term = raft.term
        last = raft.log.entry(raft.log.last_index)
        if last is not None:
            head = head_in(last)
            self.next_row, self.stamp_ns = head.first_seq + head.row_count, head.stamp_ns
        else:
            assert raft.log.last_index == self.applied_index, "entries that are not applied are in memory"
            meta = self.state.meta()
            self.next_row, self.stamp_ns = meta.next_seq, meta.stamp_ns

    # ---- before the log ----

    def waiting_bytes(self) -> int:
        """Size of the entries that the next record would carry from here."""
        control = sum(ENTRY_BYTES + len(entry.body) for entry in self.pending_control)
        opened = ENTRY_BYTES + self.open.used_bytes if self.open_batches else 0
        return self.unsaved_bytes + control + opened

    def unanswered_bytes(self) -> int:
        """Size of what clients wait for, written or not; 0 where some have their answers already."""
        if self.hasty:
            return 0
        return sum([len(sealed.body) for sealed in self._sealed.values()], self.open.used_bytes)

    def has_work(self) -> bool:
        return self.open_batches > 0 or bool(self.pending_control)

    def may_seal(self) -> bool:
        """Leader: is there something that should get its place in the log now? While the followers are far behind, events
        whose clients wait for a majority anyway gather in one large entry."""
        if self.pending_control or self.raft.needs_noop:
            return True
        if not self.open_batches:
            return False
        if self.open_immediate:
            return not self._reader_would_wait()
        return not self.replicated or self.raft.log.last_index - self.raft.commit < UNCOMMITTED_MAX

    def waits(self) -> bool:
        """Does anybody wait for an entry that is not applied yet?"""
        return bool(self._sealed)

    def index_of_newest(self) -> int:
        """The log index that the newest request has, or will have once it is sealed."""
        return self.raft.log.last_index + len(self.pending_control) + (self.open_batches > 0)

    def propose(self, kind: int, body: bytes, done: Callable[[Outcome], None]) -> None:
        """Leader only. Raises Refused when too many wait."""
        if not self.raft.accepting:
            raise LEADER_CHANGED.with_traceback(None)  # it is shared: it must not hold on to who raised it before
        if len(self.pending_control) >= CONTROL_WAITING_MAX:
            raise Refused("overloaded", "too many changes are waiting", "try again shortly")
        self.pending_control.append(ControlEntry(kind, body, done))

    def may_seal_for_async(self) -> bool:
        """While the journal is busy: is there something async to be ordered, within the bounds of what may wait?"""
        return self.open_immediate > 0 and self._may_wait() and not self._reader_would_wait()

    def may_seal_for_followers(self) -> bool:
        """While the journal is busy: is there something for followers that have nothing of this group to do? What comes while they
        have shares the next entry."""
        idle = self.raft.log.last_index == self.raft.commit
        return self.open_batches > 0 and idle and self.replicated and not self._reader_would_wait()

    def may_seal_many(self) -> bool:
        """While the journal is busy: are there so many rows that they are worth an entry, of which a record can take one
        and leave the next? Where entries are replicated each costs too much."""
        many = self.open.row_count >= self.config.apply_aside_rows and not self.replicated and self._may_wait()
        return many and not self._reader_would_wait()

    def _reader_would_wait(self) -> bool:
        """A read must see what async clients were told is ordered. While somebody reads, only so much of that is on its
        way; the rest of it, and whoever sent it, waits for its place."""
        if not self.asked or not self.open_immediate:
            return False
        return self.next_row - self.applied_row >= self.config.ordered_rows_asked_max

    def _may_wait(self) -> bool:
        """Within bounds: may there be another sealed entry that waits for the journal?"""
        return (
            self._unsaved < self.config.entries_waiting_max and self.waiting_bytes() <= self.config.entry_bytes_max // 2
        )

    def seal(self, now_ns: int, wall_ns: int) -> None:
        """Leader only: give everything that waits its place in the log."""
        raft = self.raft
        if raft.term != self.leading_term:
            self._begin_leading()
        entries: list[Entry] = []
        if raft.needs_noop:
            entries.append(self._seal_control(ControlEntry(layout.UM_ENTRY_NOOP, b"", lambda _: None), wall_ns, 0))
        for waiting in self.pending_control:
            entries.append(self._seal_control(waiting, wall_ns, len(entries)))
        self.pending_control.clear()
        intake, rows = self.open, self.open.row_count
        assert self.open_batches == intake.batch_count, "whoever fills the open entry says so"
        if self.open_batches:
            index, stamp_ns = raft.log.last_index + 1 + len(entries), self._next_stamp(wall_ns)
            view = intake.seal(self.number, index, raft.term, stamp_ns, self.next_row)
            data: Bytes = bytes(view) if self.replicated else view
            head = Head(
                len(view) - ENTRY_BYTES, self.number, layout.UM_ENTRY_BATCHES, intake.batch_count, raft.term, index, stamp_ns,
                self.next_row, rows,
            )  # fmt: skip
            self.next_row += rows
            entries.append(Entry(index, raft.term, data, None, head))
            self._sealed[index] = Sealed(
                raft.term, stamp_ns, intake, None, view[ENTRY_BYTES:], intake.batch_count, rows, self.open_bundles
            )  # fmt: skip
            self.hasty = self.open_immediate > 0
            self._open_anew()
            if self.hasty:
                self._ordered += intake.immediate()
                self.answered_index = index
        if entries:
            self._unsaved += len(entries)
            for entry in entries:
                self.unsaved_bytes += entry.size
                self.sealed_bytes += entry.size
            raft.append(now_ns, entries)

    @property
    def replicated(self) -> bool:
        """Will entries be wanted after they are applied here?"""
        return len(self.raft.conf.members()) > 1

    def _seal_control(self, control: ControlEntry, wall_ns: int, before: int) -> Entry:
        raft = self.raft
        index, stamp_ns = raft.log.last_index + 1 + before, self._next_stamp(wall_ns)
        data = self.kernels.entry(
            control.kind, self.number, index, raft.term, stamp_ns, self.next_row, control.body
        )  # fmt: skip
        self._sealed[index] = Sealed(raft.term, stamp_ns, control=control)
        return raft_entry(data, head_of(data))

    def noted(self) -> None:
        """Something was put into the open entry, or answered from it. (What is in it is asked all the time.)"""
        self.open_batches, self.open_immediate = self.open.batch_count, self.open.immediate_count

    def _open_anew(self) -> None:
        self.open = self._spare.pop() if self._spare else self._intake()
        self.open_bundles = []
        self.open_batches = self.open_immediate = self._open_held = 0

    def take_open(self) -> tuple[Intake, list[Bundled]]:
        """The open entry as it is, for somebody else to deal with (this node does not lead)."""
        taken = self.open, self.open_bundles
        self._open_anew()
        return taken

    def give_back(self, intake: Intake) -> None:
        """An intake whose requests all have their answer."""
        intake.clear()
        self._spare.append(intake)

    def take_control(self) -> list[ControlEntry]:
        """Not leading any more: what will not be sealed here."""
        taken, self.pending_control = self.pending_control, []
        return taken

    def saved(self, entries: Sequence[Entry]) -> None:
        """These were given to the journal, the oldest that were not."""
        if not entries or entries[-1].index == self.raft.log.last_index:
            self._unsaved = self.unsaved_bytes = 0
        else:
            self._unsaved = max(0, self._unsaved - len(entries))
            self.unsaved_bytes = max(0, self.unsaved_bytes - bytes_of(entries))

    def has_ordered(self) -> bool:
        """Is there an answer that need not wait for the disk?"""
        return self.open_immediate > self._open_held or bool(self._ordered)

    def ordered_replies(self) -> list[Reply]:
        """Answers that need not wait for the disk: async requests of sealed entries, and refusals."""
        replies, self._ordered = self._ordered, []
        if self.open_immediate:
            replies += self.open.immediate()
            if not self.open_batches:
                self.open.clear()  # refusals alone must not fill the entry
            self.noted()
            self._open_held = self.open_immediate
        return replies

    def _next_stamp(self, wall_ns: int) -> int:
        self.stamp_ns = max(self.stamp_ns + 1, wall_ns)
        return self.stamp_ns

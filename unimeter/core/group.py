"""A group: one replicated log, as this node holds it, and the state that is a function of it.

    requests -> open entry -> [sealed: leader gives it its place] -> Raft: journal here, sent to the others -> committed
             -> applied -> answered

The open entry gathers every request until the journal is free; so batches grow under load by themselves, and a
lone event waits for nobody. Async requests are answered when their entry is sealed, so an entry that holds some is
sealed at the end of the turn even while the journal is busy; while somebody reads, only within a bound, for what was
answered must be waited for. Changes of the catalog and of the cluster are entries of their own, ahead of the open one.

Committed entries are applied at once when they are few; many rows are applied aside, in another thread, while this one goes on
taking requests. Until they are done nobody may ask the state (`aside`), and who must know waits (`settle`). Where this node
is the group's only replica, what it seals can never be superseded: many rows are applied while the disk still writes
them. Nobody sees anything of that before they are durable (`tentative`).

What becomes of a sealed entry when its leader is deposed is not guessed: whoever waits for it is told once this
replica has applied something that decides it. Its own index with its own term: stored. Any entry of a later term
at or below that index: it can never be committed, nothing of it is stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from unimeter.config import NodeConfig
from unimeter.core.entry import ENTRY_BYTES, Head, head_in, head_of, raft_entry
from unimeter.core.machine import StateMachine
from unimeter.core.raft.messages import Entry, bytes_of
from unimeter.core.raft.raft import Raft
from unimeter.core.refusal import Refused
from unimeter.core.sealed import LEADER_CHANGED, Aside, Bundled, ControlEntry, Outcome, Sealed
from unimeter.kernels import layout
from unimeter.kernels.api import Applied, Bytes, GroupState, Intake, Job, Kernels, Limits, Meta
from unimeter.kernels.frame import Reply

DIGESTS_KEPT: Final = 512  # of the newest applied entries, to be compared with other replicas
# entries of events on their way to a majority; measured on three nodes: 1 costs a quarter of the throughput, 2 a tenth
UNCOMMITTED_MAX: Final = 16
GROW_ROWS: Final = 256  # an entry of so many rows is worth asking what memory comes next
CONTROL_WAITING_MAX: Final = 1024  # entries of their own that wait to be sealed


class Group(StateMachine):
    """State and log end of one group. Not thread-safe; `Node` calls it."""

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
        self.digests: deque[tuple[int, int]] = deque(maxlen=DIGESTS_KEPT)  # (index, running digest)
        self.leading_term = 0  # the term in which next_row and stamp_ns were taken from the log's end
        self._aside: Aside | None = None
        self.asked = 0  # a read had to wait, and so many jobs have not begun since: the next is not to wait long
        self.may_run_ahead: Callable[[], bool] = lambda: True  # may rows be applied before they are durable?
        self.on_settled: Callable[[Group], None] = lambda _group: None  # the state may be asked, for a moment
        # have it done by another thread; returns the number that applied_aside is told
        self.work: Callable[[Job], int] = _no_work
        self.touch: Callable[[list[tuple[int, int]]], None] = lambda _stretches: None  # have these pages made
        self.on_superseded: Callable[[Group, Sealed], None] = lambda _group, _sealed: None
        self.on_bundle: Callable[[Group, Bundled, Applied, int], None] = lambda *_: None

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
                self.unsaved_bytes += len(entry.data)
                self.sealed_bytes += len(entry.data)
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

    # ---- after the log ----

    @property
    def aside(self) -> bool:
        """Are entries being applied aside? Then nothing may be asked of the state that depends on them."""
        return self._aside is not None

    @property
    def aside_op(self) -> int:
        """The number by which the end of that will be told; 0: nothing is being applied."""
        return 0 if self._aside is None else self._aside.op

    @property
    def tentative(self) -> bool:
        """Is something applied, or being applied, that is not durable yet?"""
        return self._aside is not None and self._aside.last_index > self._durable_index()

    def _durable_index(self) -> int:
        return min(self.raft.commit, self.raft.stable_index)

    def runs_ahead(self) -> bool:
        """Are there many rows that are not durable yet, and can be applied all the same?"""
        raft = self.raft
        many = self.next_row - self.applied_row >= self.config.apply_aside_rows
        if not many or self._aside is not None or (self.asked and not self.hasty):
            return False  # who reads what is durable would wait for the disk; who reads what is ordered does anyway
        return raft.accepting and self.leading_term == raft.term and not self.replicated and self.may_run_ahead()

    def apply_committed(self) -> list[Reply]:
        """Apply what is committed and durable here, in order. Returns the answers. Many rows at once are applied aside, and
        answered by `applied_aside`."""
        replies: list[Reply] = []
        end = self._durable_index()
        aside = self._aside
        if aside is not None:
            if aside.last_index > end or (
                not aside.done and self._rows_behind(aside, end) <= self.config.apply_behind_rows_max
            ):
                return replies
            # if it is not done: whoever takes in more than it keeps up with waits for it
            replies += self._conclude_aside()
        while self.applied_index < end:
            several = self._next_entries(end)
            if self._begin_aside(several):
                break
            for entry, head in several:
                if head.row_count >= GROW_ROWS:
                    self._grow_ahead()
                applied, outcome = self._apply_now(head, entry.data)
                replies += self._conclude(entry, head, applied, outcome)
        if self.runs_ahead():
            # those who wait for an answer would wait for the disk's next write, too, if more were begun with
            self._begin_aside(self._next_entries(self.raft.log.last_index if self.hasty else self.raft.saving_index))
        self._trim()
        return replies

    def _begin_aside(self, several: list[tuple[Entry, Head]]) -> bool:
        """Have them applied by another thread, if they are many."""
        rows = sum([head.row_count for _, head in several])
        if rows < self.config.apply_busy_rows or rows < self._rows_worth_a_job(several):  # none is worth one for less
            return False
        self.asked -= self.asked > 0
        self._grow_ahead()
        before = self.state.meta()
        job = self.state.begin(self.catalog.compiled, [entry.data for entry, _ in several])
        self._aside = Aside(self.work(job), job, several, before)
        return True

    def _rows_worth_a_job(self, several: list[tuple[Entry, Head]]) -> int:
        """Another thread costs its wake-up and a step that hears of its end. Where entries are replicated a step has more
        to do than applying, and nobody's disk waits for it: there fewer rows are not worth that."""
        if self.replicated:
            return self.config.apply_replicated_rows
        busy = several and self.raft.saving_index > several[-1][0].index
        return self.config.apply_busy_rows if busy else self.config.apply_aside_rows

    def _grow_ahead(self) -> None:
        """Have the state's next memory made by somebody else."""
        stretches = self.state.ahead()
        if stretches:
            self.touch(stretches)

    def _next_entries(self, end: int) -> list[tuple[Entry, Head]]:
        """Entries of events that can be applied in one go; or a single one of another kind."""
        several: list[tuple[Entry, Head]] = []
        rows = 0
        for index in range(self.applied_index + 1, end + 1):
            entry = self.raft.log.entry(index)
            assert entry is not None, "entries that are not applied are in memory"
            head = head_in(entry)
            rows += head.row_count
            special = head.kind != layout.UM_ENTRY_BATCHES
            if several and (special or rows > self.config.apply_aside_rows_max):
                break
            several.append((entry, head))
            if special:
                break
        return several

    def _rows_behind(self, aside: Aside, end: int) -> int:
        """How many rows are committed beyond those that are being applied aside?"""
        newest, (entry, head) = self.raft.log.entry(end), aside.entries[-1]
        assert newest is not None, "entries that are not applied are in memory"
        if newest.index <= entry.index:
            return 0
        last = head_in(newest)
        return last.first_seq + last.row_count - head.first_seq - head.row_count

    def applied_aside(self, op: int) -> list[Reply]:
        """What `work` was asked to do by that number is done: the answers. Nothing if it was waited for meanwhile, or is not
        durable yet."""
        aside = self._aside
        if aside is None or aside.op != op:
            return []
        aside.done = True
        return [] if self.tentative else self._conclude_aside()

    def adopt(self, state: GroupState) -> None:
        super().adopt(state)
        self.answered_index = self.applied_index

    def settle(self) -> bool:
        """Wait for what is being applied aside: nobody else is at the state now. False: it has what is not durable yet."""
        aside = self._aside
        if aside is None:
            return True
        if self.tentative:
            aside.job.wait()
            return False
        self._ordered += self._conclude_aside()
        return True

    def meta(self) -> Meta:
        """Of the state with all that is applied and durable, once it is settled."""
        return self._aside.before if self._aside is not None else self.state.meta()

    def _conclude_aside(self) -> list[Reply]:
        aside, self._aside = self._aside, None
        assert aside is not None
        replies: list[Reply] = []
        for (entry, head), applied in zip(aside.entries, aside.job.finish(), strict=True):
            replies += self._conclude(entry, head, applied, None)
        self._trim()
        self.on_settled(self)
        return replies

    def _trim(self) -> None:
        self.raft.log.trim(self.applied_index, self.config.log_cache_bytes if self.replicated else 0)

    def _conclude(self, entry: Entry, head: Head, applied: Applied, outcome: Outcome) -> list[Reply]:
        """The entry is applied: note it, and answer whoever waited for it."""
        sealed = self._sealed.pop(entry.index, None)
        if entry.term > self.applied_term:
            self._drop_older(entry)
        if sealed is not None and sealed.term != entry.term:
            self._drop(sealed)
            sealed = None
        self._note(head, applied)
        if self.replicated:
            self.digests.append((entry.index, applied.digest))
        return [] if sealed is None else self._answer(sealed, applied, outcome)

    def _answer(self, sealed: Sealed, applied: Applied, outcome: Outcome) -> list[Reply]:
        self.answered_index = max(self.answered_index, self.applied_index)
        if sealed.control is not None:
            sealed.control.done(outcome)
        if sealed.intake is None:
            return []
        for bundled in sealed.bundles:
            self.on_bundle(self, bundled, applied, sealed.stamp_ns)
        replies = sealed.intake.answers(applied)
        self.give_back(sealed.intake)
        return replies

    def _drop_older(self, entry: Entry) -> None:
        """An entry of a later term is committed: what was sealed in earlier terms from its index on never will be."""
        for index in [i for i, item in self._sealed.items() if i >= entry.index and item.term < entry.term]:
            self._drop(self._sealed.pop(index))

    def _drop(self, sealed: Sealed) -> None:
        if sealed.control is not None:
            sealed.control.done(LEADER_CHANGED)
        if sealed.intake is not None:
            self.on_superseded(self, sealed)


def _no_work(_job: Job) -> int:
    raise AssertionError("the node sets this before it serves")

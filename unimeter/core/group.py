"""A group: one replicated log, as this node holds it, and the state that is a function of it.

    requests -> [the log's end: log_end.py] -> Raft: journal here, sent to the others -> committed -> applied -> answered

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
from collections.abc import Callable
from typing import Final

from unimeter.config import NodeConfig
from unimeter.core.entry import Head, head_in
from unimeter.core.log_end import LogEnd
from unimeter.core.raft.messages import Entry
from unimeter.core.sealed import LEADER_CHANGED, Aside, Bundled, Outcome, Sealed
from unimeter.kernels import layout
from unimeter.kernels.api import Applied, GroupState, Job, Kernels, Limits, Meta
from unimeter.kernels.frame import Reply

DIGESTS_KEPT: Final = 512  # of the newest applied entries, to be compared with other replicas
GROW_ROWS: Final = 256  # an entry of so many rows is worth asking what memory comes next


class Group(LogEnd):
    """State and log end of one group. Not thread-safe; `Node` calls it."""

    def __init__(self, number: int, kernels: Kernels, config: NodeConfig, limits: Limits) -> None:
        super().__init__(number, kernels, config, limits)
        self.digests: deque[tuple[int, int]] = deque(maxlen=DIGESTS_KEPT)  # (index, running digest)
        self._aside: Aside | None = None
        self.may_run_ahead: Callable[[], bool] = lambda: True  # may rows be applied before they are durable?
        self.on_settled: Callable[[Group], None] = lambda _group: None  # the state may be asked, for a moment
        # have it done by another thread; returns the number that applied_aside is told
        self.work: Callable[[Job], int] = _no_work
        # have these pages made; they stay mapped as long as somebody holds that object
        self.touch: Callable[[list[tuple[int, int]], object], None] = lambda *_: None
        self.on_superseded: Callable[[Group, Sealed], None] = lambda _group, _sealed: None
        self.on_bundle: Callable[[Group, Bundled, Applied, int], None] = lambda *_: None

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
        rows = 0
        for _, head in several:
            rows += head.row_count
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
            self.touch(stretches, self.state.memory)

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

"""A group: one log and the state that is a function of it.

    requests -> open entry -> [sealed: has an index] -> [in a record] -> [durable: committed] -> applied -> answered

The open entry gathers every request until the journal is free; so batches grow under load by themselves, and a
lone event waits for nobody. Async requests are answered when their entry is sealed, so an entry that holds some is
sealed at the end of the turn even while the journal is busy, and waits for the next record. Changes of the catalog are entries of their own, ahead of the open one. With one
voter, durable is committed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unimeter.config import NodeConfig
from unimeter.core.archive import Archive
from unimeter.core.catalog import Catalog, Metric, apply_entry
from unimeter.core.journal import Position
from unimeter.core.refusal import Refused
from unimeter.kernels import layout
from unimeter.kernels.api import Applied, Bytes, GroupState, Intake, Kernels, Limits, Reply

Outcome = tuple[Metric, bool] | Refused | None
ENTRY_BYTES = 64


@dataclass
class ControlEntry:
    """A catalog or limits entry on its way through the log; `done` is told what applying it said."""

    kind: int
    body: bytes
    done: Callable[[Outcome], None]


@dataclass
class Sealed:
    """One sealed entry: waiting for a record, in flight, or durable and not applied yet."""

    index: int
    entry: Bytes
    intake: Intake | None = None
    control: ControlEntry | None = None


class Group:
    """State and log end of one group. Not thread-safe; `Node` calls it."""

    def __init__(self, number: int, kernels: Kernels, config: NodeConfig, limits: Limits) -> None:
        self.number = number
        self.kernels = kernels
        self.config = config
        self.state: GroupState = kernels.state(limits)
        self.catalog = Catalog(kernels)
        self.archive = Archive(config.stripe_bytes)
        self.term = 1
        self.ordered_index = 0  # of the last sealed entry
        self.applied_index = 0
        self.answered_index = 0  # greatest index that a client was told of: reads must include it
        self.next_row = 1  # sequence number of the next row to be sealed
        self.stamp_ns = 0
        self.open = self._intake()
        self._spare: list[Intake] = []
        self.pending_control: list[ControlEntry] = []
        self._sealed: list[Sealed] = []  # waiting for a record
        self._sealed_bytes = 0
        self._flying: list[Sealed] = []  # in the record in flight
        self._ordered: list[Reply] = []  # answers to async requests that were sealed
        self._committed: list[tuple[Sealed, Position, int]] = []  # with the record's place and length
        self.alert_next = 1

    def _intake(self) -> Intake:
        return self.kernels.intake(self.number, self.config.entry_bytes_max, self.config.batch_events_max)

    # ---- before the log ----

    def waiting_bytes(self) -> int:
        """Size of the entries that the next record would carry."""
        control = sum(ENTRY_BYTES + len(entry.body) for entry in self.pending_control)
        opened = ENTRY_BYTES + self.open.used_bytes if self.open.batch_count else 0
        return self._sealed_bytes + control + opened

    def has_work(self) -> bool:
        return self.open.batch_count > 0 or bool(self.pending_control) or bool(self._sealed)

    def index_of_newest(self) -> int:
        """The log index that the newest request has, or will have once it is sealed."""
        return self.ordered_index + len(self.pending_control) + (self.open.batch_count > 0)

    def in_log(self) -> bool:
        """Is any entry ordered and not applied yet?"""
        return self.applied_index < self.ordered_index

    def propose(self, kind: int, body: bytes, done: Callable[[Outcome], None]) -> None:
        self.pending_control.append(ControlEntry(kind, body, done))

    def seal_for_async(self, wall_ns: int) -> None:
        """While the journal is busy: order what has async requests in it, within the bounds of what may wait."""
        config = self.config
        if (
            self.open.immediate_count
            and len(self._sealed) < config.entries_waiting_max
            and self.waiting_bytes() <= config.entry_bytes_max // 2
        ):
            self.seal(wall_ns)

    def seal(self, wall_ns: int) -> None:
        """Give everything that waits its place in the log."""
        for waiting in self.pending_control:
            stamp = self._next_stamp(wall_ns)
            self.ordered_index += 1
            entry = self.kernels.entry(
                waiting.kind, self.number, self.ordered_index, self.term, stamp, self.next_row, waiting.body
            )
            self._add_sealed(Sealed(self.ordered_index, entry, control=waiting))
        self.pending_control.clear()
        intake = self.open
        if intake.batch_count:
            rows = intake.row_count
            self.ordered_index += 1
            sealed = intake.seal(self.number, self.ordered_index, self.term, self._next_stamp(wall_ns), self.next_row)
            self.next_row += rows
            self._add_sealed(Sealed(self.ordered_index, sealed, intake=intake))
            self.open = self._spare.pop() if self._spare else self._intake()
            self._ordered += intake.immediate()
            if self._ordered:
                self.answered_index = self.ordered_index

    def _add_sealed(self, sealed: Sealed) -> None:
        self._sealed.append(sealed)
        self._sealed_bytes += len(sealed.entry)

    def take_sealed(self) -> list[Bytes]:
        """The entries for the next record, in order; they are in flight from now on."""
        assert not self._flying, "one record in flight at a time"
        self._flying, self._sealed, self._sealed_bytes = self._sealed, [], 0
        return [sealed.entry for sealed in self._flying]

    def ordered_replies(self) -> list[Reply]:
        """Answers that need not wait for the disk: async requests of sealed entries, and refusals."""
        replies, self._ordered = self._ordered, []
        if self.open.immediate_count:
            replies += self.open.immediate()
            if not self.open.batch_count:
                self.open.clear()  # refusals alone must not fill the entry
        return replies

    def _next_stamp(self, wall_ns: int) -> int:
        self.stamp_ns = max(self.stamp_ns + 1, wall_ns)
        return self.stamp_ns

    # ---- after the log ----

    def commit(self, began: Position, length: int) -> None:
        """The record in flight is durable."""
        self._committed += [(sealed, began, length) for sealed in self._flying]
        self._flying = []

    def apply_committed(self) -> list[Reply]:
        """Apply what is committed, in order. Returns the answers."""
        replies: list[Reply] = []
        if not self._committed:
            return replies
        committed, self._committed = self._committed, []
        for item, began, length in committed:
            applied, outcome = self._apply(item.entry, began, length)
            self.answered_index = max(self.answered_index, item.index)
            if item.control is not None:
                item.control.done(outcome)
            if item.intake is not None:
                replies += item.intake.answers(applied)
                item.intake.clear()
                self._spare.append(item.intake)
        return replies

    def replay(self, entry: Bytes, began: Position, length: int) -> None:
        """Recovery: apply an entry that was found in the journal."""
        head = layout.EntryHead._make(layout.ENTRY.unpack_from(entry))
        assert head.index == self.applied_index + 1, (
            f"group {self.number}: entry {head.index} after {self.applied_index}"
        )
        self._apply(entry, began, length)
        meta = self.state.meta()
        self.ordered_index = self.answered_index = self.applied_index
        self.next_row, self.stamp_ns = meta.next_seq, meta.stamp_ns

    def adopt(self, state: GroupState) -> None:
        """Recovery: go on from a checkpoint's state."""
        meta = state.meta()
        self.state = state
        self.applied_index = self.ordered_index = self.answered_index = meta.applied_index
        self.next_row, self.stamp_ns, self.term = meta.next_seq, meta.stamp_ns, max(1, meta.applied_term)
        self.alert_next = meta.alert_next

    def _apply(self, entry: Bytes, began: Position, length: int) -> tuple[Applied, Outcome]:
        head = layout.EntryHead._make(layout.ENTRY.unpack_from(entry))
        outcome: Outcome = None
        if head.kind == layout.UM_ENTRY_CATALOG:
            try:
                outcome = apply_entry(self.catalog, bytes(entry[ENTRY_BYTES:]))
            except Refused as refusal:
                outcome = refusal.with_traceback(None)  # it is an answer now: its frames would hold it, and it them
        applied = self.state.apply(self.catalog.compiled, entry)
        self.applied_index = head.index
        self.alert_next = applied.alerts_after
        if applied.row_count and applied.min_ts <= applied.max_ts:
            self.archive.add(
                began, length, head.first_seq, head.first_seq + applied.row_count, applied.min_ts, applied.max_ts
            )
        return applied, outcome

"""The replicated state machine of a group: what the applied part of its log amounts to.

Every replica that has applied the same entries has the same totals, metrics and cluster registry, whoever made them and
however often it was restarted meanwhile (Schneider, "Implementing fault-tolerant services using the state machine
approach", 1990). Recovery needs no more of a group than this; what is not applied yet is the business of `Group`.
"""

from __future__ import annotations

from collections.abc import Callable

from unimeter.config import NodeConfig
from unimeter.core.archive import Archive
from unimeter.core.catalog import Catalog, apply_entry
from unimeter.core.entry import ENTRY_BYTES, Head, head_of
from unimeter.core.journal import Position
from unimeter.core.places import Places
from unimeter.core.refusal import Refused
from unimeter.core.sealed import Outcome
from unimeter.kernels import layout
from unimeter.kernels.api import Applied, Bytes, GroupState, Kernels, Limits


class StateMachine:
    """Not thread-safe."""

    def __init__(self, number: int, kernels: Kernels, config: NodeConfig, limits: Limits) -> None:
        self.number = number
        self.kernels = kernels
        self.config = config
        self.state: GroupState = kernels.state(limits)
        self.catalog = Catalog(kernels)
        self.archive = Archive(config.stripe_bytes)
        self.places = Places()
        self.cluster = b""  # body of the newest CLUSTER entry that is applied
        self.applied_index = 0
        self.applied_term = 0
        self.applied_row = 0  # sequence number of the next row to be applied
        self.alert_next = 1
        self.on_special: Callable[[], None] = lambda: None  # an entry that is not of events was applied

    def adopt(self, state: GroupState) -> None:
        """Recovery: go on from a checkpoint's state."""
        meta = state.meta()
        self.state = state
        self.applied_index = meta.applied_index
        self.applied_term = meta.applied_term
        self.alert_next = meta.alert_next
        self.applied_row = meta.next_seq

    def apply(self, entry: Bytes) -> None:
        """Recovery: apply the next entry of the log, whoever made it."""
        head = head_of(entry)
        applied, _ = self._apply_now(head, entry)
        self._note(head, applied)

    def oldest_unapplied(self) -> Position | None:
        """Where the record of the next entry began, if that is durable."""
        return self.places.began(self.applied_index + 1)

    def _apply_now(self, head: Head, entry: Bytes) -> tuple[Applied, Outcome]:
        outcome = None if head.kind == layout.UM_ENTRY_BATCHES else self._apply_special(head.kind, entry)
        return self.state.apply(self.catalog.compiled, entry), outcome

    def _note(self, head: Head, applied: Applied) -> None:
        """The next entry of the log is applied."""
        assert head.index == self.applied_index + 1, (
            f"group {self.number}: entry {head.index} after {self.applied_index}"
        )
        self.applied_index, self.applied_term = head.index, head.term
        self.applied_row = head.first_seq + head.row_count
        self.alert_next = applied.alerts_after
        self.places.applied(self.archive, head, applied)

    def _apply_special(self, kind: int, entry: Bytes) -> Outcome:
        """What an entry means that holds no events."""
        self.on_special()
        if kind == layout.UM_ENTRY_CATALOG:
            try:
                return apply_entry(self.catalog, bytes(entry[ENTRY_BYTES:]))
            except Refused as refusal:
                return refusal.with_traceback(None)  # it is an answer now: its frames would hold it, and it them
        if kind == layout.UM_ENTRY_CLUSTER:
            self.cluster = bytes(entry[ENTRY_BYTES:])
        return None

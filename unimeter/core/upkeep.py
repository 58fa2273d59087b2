"""Keeping house: the next segment ready before it is needed, checkpoints when they are due, and what a full disk means.

A full disk is no failure. Segments are allocated ahead, so it is noticed while there is still room for what was
accepted; from then on writes are refused with a clear error (never accepted and then lost), reads go on, and
making the segment is tried again every `no_space_retry_ns`, so service resumes by itself once there is room.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from unimeter.config import NodeConfig
from unimeter.core import checkpoint, identity
from unimeter.core.flow import CreateFile, Flow, WriteFile
from unimeter.core.flows import Flows
from unimeter.core.group import Group
from unimeter.core.journal import Journal, Position, segment_file, segment_header
from unimeter.core.log_marks import LogMarks
from unimeter.core.recovery import Recovered
from unimeter.kernels.api import Kernels

NEVER_NS: Final = 2**63 - 1


class Upkeep:
    """Background work of a node that is serving. `wake`: ask for another turn."""

    def __init__(
        self,
        kernels: Kernels,
        config: NodeConfig,
        journal: Journal,
        groups: list[Group],
        marks: LogMarks,
        recovered: Recovered,
        flows: Flows,
        wake: Callable[[], None],
    ) -> None:
        self._kernels = kernels
        self._config = config
        self._journal = journal
        self._groups = groups
        self._marks = marks
        self._flows = flows
        self._wake = wake
        self._checkpoints = recovered.checkpoints
        self._stale = recovered.stale
        self._checkpointed_bytes = -recovered.replayed_bytes  # what was replayed counts towards the next one
        self._creating = False
        self._checkpoint_due_bytes = config.checkpoint_after_bytes
        self.checkpointing = False
        self.disk_full = False
        self.retry_ns = NEVER_NS  # monotonic; when to try again after the disk was full
        self.checkpoints_written = 0
        self.no_space_count = 0

    @property
    def busy(self) -> bool:
        """Is it writing or deleting files?"""
        return self.checkpointing or self._creating

    def files(self) -> list[str]:
        """Every file of the journal, and every checkpoint."""
        segments = self._journal.position.segment + 1  # the next one may be there already; deleting it does no harm
        return [*(segment_file(n) for n in range(1, segments + 1)), *self._checkpoints, *self._stale]

    def bytes_since_checkpoint(self) -> int:
        return self._journal.bytes_written - self._checkpointed_bytes

    @property
    def newest_checkpoint(self) -> str:
        """Its file, "" while there is none that is finished."""
        return self._checkpoints[-1] if self._checkpoints else ""

    def due(self, now_ns: int) -> bool:
        """Is there something for `turn` to do that no flow will tell of? Asked in every turn."""
        return now_ns >= self.retry_ns or (self.checkpoint_due and not any(group.tentative for group in self._groups))

    @property
    def checkpoint_due(self) -> bool:
        return self.bytes_since_checkpoint() >= self._checkpoint_due_bytes and not self.checkpointing

    def turn(self, now_ns: int) -> None:
        """Begin what is due."""
        if now_ns >= self.retry_ns:
            self.retry_ns = NEVER_NS
        if self.retry_ns == NEVER_NS:
            self.want_segment(now_ns)
            if self.bytes_since_checkpoint() >= self._checkpoint_due_bytes:
                self.begin_checkpoint(now_ns)

    def want_segment(self, now_ns: int) -> None:
        if self._journal.next_segment_ready or self._creating:
            return
        number = self._journal.position.segment + 1

        def make() -> Flow[None]:
            yield CreateFile(segment_file(number), self._config.segment_bytes)
            yield WriteFile(segment_file(number), 0, segment_header(self._kernels, self._journal.cluster_id, number))

        def made(_: None) -> None:
            self._creating = False
            self.disk_full = False
            self._journal.next_segment_ready = True
            self._wake()

        def full() -> None:
            self._creating = False
            self._found_full(now_ns)

        self._creating = True
        self._flows.start(make(), made, full)

    def _replay_from(self) -> Position:
        """Behind everything that the groups' states hold: where the oldest durable entry stands that is not applied."""
        places = [place for group in self._groups if (place := group.oldest_unapplied()) is not None]
        return min([self._journal.position, *places], key=lambda place: place.seq)

    def begin_checkpoint(self, now_ns: int) -> bool:
        """Write the state as it is now. False: a checkpoint is under way, or it would begin no later than the last, or the
        state holds what is not durable yet."""
        for group in self._groups:
            if group.aside:
                if not group.settle():
                    return False
                self._wake()  # for the answers
        position, mark = self._replay_from(), self._journal.bytes_written
        if self.checkpointing or checkpoint.checkpoint_file(position.seq) in self._checkpoints:
            return False
        self.checkpointing = True
        state_bytes = sum(group.state.memory_bytes() for group in self._groups)
        self._checkpoint_due_bytes = max(
            self._config.checkpoint_after_bytes, state_bytes * self._config.checkpoint_after_state_percent // 100
        )

        def written(file: str) -> None:
            self.checkpointing = False
            self._checkpointed_bytes = mark
            self._checkpoints = [*self._checkpoints, file][-checkpoint.KEPT_MAX :]
            self._stale = []
            self.checkpoints_written += 1
            self._wake()

        def full() -> None:
            self._found_full(now_ns)
            self._flows.start(checkpoint.abandon(self._groups, position), abandoned, lambda: abandoned(None))

        def abandoned(_: None) -> None:
            self.checkpointing = False
            self._wake()

        kept = self._checkpoints[-checkpoint.KEPT_MAX :]
        useless = (
            self._stale + self._checkpoints[: -checkpoint.KEPT_MAX]
        )  # a crash may have left more than were to be kept
        old = kept[: 1 - checkpoint.KEPT_MAX]
        cluster_id = self._journal.cluster_id
        flow = checkpoint.write(
            self._kernels, self._config, cluster_id, position, self._groups, self._marks, useless, old
        )
        self._flows.start(flow, written, full)
        return True

    def condemn(self, found: Recovered) -> Flow[None]:
        """Write down that this directory's data must not be believed: what the next start finds."""
        marked = replace(found.identity, state=identity.DAMAGED)
        yield WriteFile(identity.FILE, 0, marked.encode(self._kernels))

    def _found_full(self, now_ns: int) -> None:
        self.disk_full = True
        self.no_space_count += 1
        self.retry_ns = now_ns + self._config.no_space_retry_ns
        self._wake()

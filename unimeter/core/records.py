"""The next record of the journal: what all groups of this node have to save, in one write.

    seal what waits > take from every group what it must save > one record > written: Raft is told

Exactly one record is in flight. What a record may hold is bounded by half a segment; what does not fit is in the next one,
beginning with another group, so that none starves. A record that does not fit its segment is held until the next segment is
there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from unimeter.config import KIB, NodeConfig
from unimeter.core.entry import hard_entry, head_in, padded_bytes
from unimeter.core.group import Group
from unimeter.core.inputs import Now
from unimeter.core.journal import Journal
from unimeter.core.lockstep import Lockstep
from unimeter.core.log_marks import LogMarks
from unimeter.core.outbox import Outbox
from unimeter.core.raft.messages import Save
from unimeter.kernels.api import Bytes, Kernels

LONE_BYTES: Final = 8 * KIB  # a record of no more is written about as fast as a thread is woken, and answers
SLACK_BYTES: Final = 64 * KIB  # headers and hard states of a record


class Saving:
    """What one group has in a record."""

    __slots__ = ("group", "save")

    def __init__(self, group: Group, save: Save) -> None:
        self.group = group
        self.save = save


class Records:
    def __init__(
        self,
        kernels: Kernels,
        config: NodeConfig,
        groups: list[Group],
        journal: Journal,
        marks: LogMarks,
        out: Outbox,
    ) -> None:
        self._kernels = kernels
        self._groups = groups
        self._journal = journal
        self._marks = marks
        self._out = out
        self._bytes_max = config.segment_bytes // 2 - min(SLACK_BYTES, config.segment_bytes // 8)
        self._first = 0  # the group whose turn it is to be first in a record
        self._saving: list[Saving] = []  # what the record in flight, or held, consists of
        self._held: list[Bytes] | None = None  # entries of a record that waits for the next segment
        self._held_bytes = 0
        self._stamp_ns = 0
        # with several groups one request is many entries, and its client waits for all of them
        self._lockstep = Lockstep(config) if len(groups) == 1 else None
        self.held_back_until_ns = 0  # what waits is held back for more to come, at the latest until then; 0: it is not
        self.one_client = True  # nobody else has asked for a while
        self.lone = False  # the newest record is short, and there is nobody that could be served while it is written
        self.op = 0  # the disk operation that writes the record in flight
        self.rolled: Callable[[], None] = lambda: None  # the last segment that was ready is in use

    @property
    def idle(self) -> bool:
        """Is no record in flight, and none held?"""
        return self._journal.flying is None and self._held is None

    def flush(self, now: Now) -> bool:
        """Write the next record if there is something to write and the journal is free."""
        journal = self._journal
        if journal.flying is not None:
            return False
        if self._held is None:
            if self._lockstep is not None:
                group, until_ns = self._groups[0], self.held_back_until_ns
                waits = group.open_batches or group.unsaved_bytes
                self.held_back_until_ns = self._lockstep.hold_until(now.monotonic_ns, group, until_ns) if waits else 0
            if self.held_back_until_ns or not self._gather(now):
                return False
        assert self._held is not None
        if not journal.fits(self._held_bytes):
            if not journal.next_segment_ready:
                return False  # goes on when the segment is there
            journal.roll()
            self.rolled()
        write = journal.append(self._held, self._stamp_ns)
        self._held = None
        self.lone = self._is_lone()
        self.op = self._out.write_journal(write.file, write.offset, write.data, self.lone)
        return True

    def _is_lone(self) -> bool:
        short = self._held_bytes <= LONE_BYTES
        if not short or not self.one_client or any(item.group.hasty for item in self._saving):
            return False
        # many requests that are spread over several groups: others of that client, and of other nodes, come meanwhile
        return len(self._groups) == 1 or self._batch_count() <= 1

    def _batch_count(self) -> int:
        """Of the requests in the record."""
        return sum([head_in(entry).batch_count for item in self._saving for entry in item.save.entries])

    def _gather(self, now: Now) -> bool:
        """Seal what waits, and take from every group what it has to save. False: there is nothing."""
        whole = room = self._room_bytes()
        entries: list[Bytes] = []
        count = len(self._groups)
        for turn in range(count):
            group = self._groups[(self._first + turn) % count]
            if room <= 0:
                self._first = group.number
                break
            if group.raft.accepting and group.may_seal() and group.unsaved_bytes < room:
                group.seal(now.monotonic_ns, now.wall_ns)
            save = group.raft.take_save(room)
            if save is None:
                continue
            group.saved(save.entries)
            self._saving.append(Saving(group, save))
            for entry in save.entries:
                room -= padded_bytes(entry.data)
                entries.append(entry.data)
            if save.hard is not None:
                hard = hard_entry(self._kernels, group.number, save.hard)
                room -= padded_bytes(hard)
                entries.append(hard)
        if not self._saving:
            return False
        self._held, self._held_bytes, self._stamp_ns = entries, whole - room, max(1, now.wall_ns)
        return True

    def _room_bytes(self) -> int:
        return (
            self._bytes_max if self._lockstep is None else self._lockstep.record_bytes(self._groups[0], self._bytes_max)
        )

    def written(self, now_ns: int) -> None:
        """The record in flight is durable: what it holds has its place, and promises that waited for it are made."""
        self.op = 0
        began = self._journal.written()
        length = self._journal.position.offset - began.offset
        saving, self._saving = self._saving, []
        ends: list[tuple[int, int]] = []
        for item in saving:
            entries = item.save.entries
            if entries:
                ends.append((item.group.number, entries[-1].index))
                for entry in entries:
                    item.group.places.placed(entry.index, began, length)
        self._marks.record(began, ends)
        for item in saving:
            item.group.raft.persisted(now_ns, item.save.token)

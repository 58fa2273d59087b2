"""One group while its node recovers: records go in, what Raft begins with comes out.

Entries up to the commit index that the journal knows of are applied at once, so the memory that replaying needs is that of
what was under way. The others stay in memory: Raft will find out what becomes of them. An entry with an index that is
there already supersedes it and everything behind it, just as when it was written.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from unimeter.core.entry import Head, hard_state, raft_entry
from unimeter.core.group import Group
from unimeter.core.journal import Position
from unimeter.core.raft.conf import Conf
from unimeter.core.raft.log import RaftLog
from unimeter.core.raft.messages import Entry, HardState
from unimeter.kernels import layout
from unimeter.kernels.api import Bytes

ALL_COMMITTED: Final = 2**63 - 1


class Replay:
    def __init__(self, group: Group, founded: Conf | None, alone: bool) -> None:
        """`founded`: the configuration that the group began with, if this replica was there. `alone`: written before there
        were replicas; everything in the journal is committed."""
        self.group = group
        self.hard = HardState(0, 0, ALL_COMMITTED if alone else 0)
        self._alone = alone
        self._epochs: list[tuple[int, int]] = []
        self._confs: list[tuple[int, Conf]] = [] if founded is None else [(0, founded)]
        self._tail: deque[Entry] = deque()
        self._from_checkpoint = False
        self.gap = ""  # an entry that follows nothing, and that nothing has superseded so far
        self.rows = 0

    @property
    def last_index(self) -> int:
        return self.group.applied_index + len(self._tail)

    def take(self, data: Bytes, head: Head, began: Position, length: int) -> None:
        """The next entry of this group in the journal; its record began there. Raises ValueError for what cannot be."""
        if head.kind == layout.UM_ENTRY_HARD:
            found = hard_state(head)
            if found.term >= self.hard.term:
                known = 0 if self._alone else self.hard.commit
                self.hard = HardState(found.term, found.vote, max(found.commit, known))
                self._alone = False
        elif head.index <= self.group.applied_index:
            self._cut(self.group.applied_index + 1)  # the checkpoint has it; what was read before is older than it
            self.gap = ""
            return
        elif head.index > self.last_index + 1:
            self.gap = f"entry {head.index} after {self.last_index}"
            if not self._from_checkpoint:
                raise ValueError(self.gap)
            return  # superseded before the checkpoint, or the journal's end will show that it was not
        else:
            self.gap = ""
            self._cut(head.index)
            entry = raft_entry(data, head)  # a view: most are applied before the next piece of the journal is read
            self._tail.append(entry)
            self.group.places.placed(head.index, began, length)
            if not self._epochs or head.term > self._epochs[-1][1]:
                self._epochs.append((head.index, head.term))
            if entry.conf is not None:
                self._confs.append((entry.index, entry.conf))
            self.rows += head.row_count
        self._apply()

    def _cut(self, first: int) -> None:
        while self.last_index >= first and self._tail:
            self._tail.pop()
        while self._epochs and self._epochs[-1][0] >= first:
            self._epochs.pop()
        while self._confs and self._confs[-1][0] >= first:
            self._confs.pop()

    def _apply(self) -> None:
        while self._tail and self._tail[0].index <= self.hard.commit:
            self.group.apply(self._tail.popleft().data)

    def raft_parts(self) -> tuple[RaftLog, HardState, list[tuple[int, Conf]]]:
        """What Raft is made of, once the journal ends."""
        tail = [  # lets go of what was read
            Entry(entry.index, entry.term, bytes(entry.data), entry.conf, entry.head) for entry in self._tail
        ]
        log = RaftLog(self._epochs, self.last_index, tail)
        term = max(self.hard.term, log.last_term)
        vote = self.hard.vote if term == self.hard.term else 0
        commit = max(self.group.applied_index, min(self.hard.commit, self.last_index))
        return log, HardState(term, vote, commit), self._confs

    def refound(self, founded: Conf) -> None:
        """The configuration that the group began with is this one, after all."""
        self._confs = [(0, founded), *((index, conf) for index, conf in self._confs if index > 0)]

    # ---- in checkpoints ----

    def restore(self, fields: dict[str, Any]) -> None:
        """From a checkpoint's section. The group has its state already."""
        self._epochs = [(first, term) for first, term in fields["epochs"]]
        self._confs = [(index, Conf.decode(data)) for index, data in fields["confs"]]
        self.hard = HardState(*fields["hard"])
        self._alone = False
        self._from_checkpoint = True


def raft_section(group: Group) -> dict[str, Any]:
    """What a checkpoint keeps of a group's Raft: as of the last applied entry, and its hard state (which may be newer:
    what the journal says behind the checkpoint's place is read again)."""
    raft, applied = group.raft, group.applied_index
    hard = raft.stable.hard
    return {
        "epochs": [(first, term) for first, term in raft.log.epochs if first <= applied],
        "confs": [(index, conf.encode()) for index, conf in raft.confs if index <= applied],
        "hard": [hard.term, hard.vote, min(hard.commit, applied)],
    }

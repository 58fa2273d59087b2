"""Entries as the core handles them: one log index of one group, header and body, as bytes.

What is journalled is what is sent to followers; nothing is encoded twice. Two kinds never leave their node or never
change the state: HARD carries a group's Raft hard state into the journal, CONF the members of the group.

A HARD entry uses the header's fields: term = current term, index = commit index, first_seq = whom the vote went to (0: nobody).
"""

from __future__ import annotations

from typing import Final

from unimeter.core.raft.conf import Conf
from unimeter.core.raft.messages import Entry, HardState
from unimeter.kernels import layout
from unimeter.kernels.api import Bytes, Kernels

ENTRY_BYTES: Final = layout.ENTRY.size
_ALIGN: Final = 8


class Head:
    """What an entry's header says (`layout.EntryHead` without what only checks look at)."""

    __slots__ = ("batch_count", "body_len", "first_seq", "group", "index", "kind", "row_count", "stamp_ns", "term")

    def __init__(
        self,
        body_len: int,
        group: int,
        kind: int,
        batch_count: int,
        term: int,
        index: int,
        stamp_ns: int,
        first_seq: int,
        row_count: int,
    ) -> None:
        self.body_len = body_len
        self.group = group
        self.kind = kind
        self.batch_count = batch_count
        self.term = term
        self.index = index
        self.stamp_ns = stamp_ns
        self.first_seq = first_seq
        self.row_count = row_count


def head_of(data: Bytes, at: int = 0) -> Head:
    """The header of the entry that stands there."""
    (_, body_len, group, kind, batches, term, index, stamp_ns, first_seq, rows, _, _) = layout.ENTRY.unpack_from(
        data, at
    )
    return Head(body_len, group, kind, batches, term, index, stamp_ns, first_seq, rows)


def raft_entry(data: Bytes, head: Head) -> Entry:
    """As Raft sees it. Raises ValueError for a CONF entry whose body is none."""
    conf = Conf.decode(bytes(data[ENTRY_BYTES:])) if head.kind == layout.UM_ENTRY_CONF else None
    return Entry(head.index, head.term, data, conf, head)


def head_in(entry: Entry) -> Head:
    """The header of an entry that `raft_entry` made, or whoever sealed it."""
    head: Head = entry.head
    return head


def hard_entry(kernels: Kernels, group: int, hard: HardState) -> bytes:
    return kernels.entry(layout.UM_ENTRY_HARD, group, hard.commit, hard.term, 0, hard.vote, b"")


def hard_state(head: Head) -> HardState:
    return HardState(head.term, head.first_seq, head.index)


def padded_bytes(entry: Bytes) -> int:
    """What an entry takes in a record."""
    return (len(entry) + _ALIGN - 1) & -_ALIGN

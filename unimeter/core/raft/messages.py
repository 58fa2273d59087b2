"""The words that replicas exchange, and what they keep on disk.

    PREVOTE, VOTE            index, log_term: the candidate's last entry; context 1: a leader asked for it (transfer)
    PREVOTE_REPLY            a grant repeats the term that was asked for, a refusal (reject) tells the voter's own
    VOTE_REPLY               reject or not
    APPEND                   index, log_term: the entry before `entries`; commit: the leader's
    APPEND_REPLY             index: the log matches and is durable up to here; or, with reject, the APPEND's index that
                             did not match, and hint, hint_term: a place further down where it may
    HEARTBEAT                commit: what the leader knows both to be committed and to be there; context: read round
    HEARTBEAT_REPLY          context: as asked
    TIMEOUT_NOW              the leader asks its heir to campaign at once

A message is flat, its numbers unsigned 64-bit, so that it packs into a fixed struct in front of its entries.
Delivery may lose, duplicate, delay and reorder: every message is judged by its term and indexes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from unimeter.core.raft.conf import Conf

Bytes = bytes | bytearray | memoryview


class Kind(IntEnum):
    PREVOTE = 1
    PREVOTE_REPLY = 2
    VOTE = 3
    VOTE_REPLY = 4
    APPEND = 5
    APPEND_REPLY = 6
    HEARTBEAT = 7
    HEARTBEAT_REPLY = 8
    TIMEOUT_NOW = 9


class Entry:
    """One place in the log. `data` is opaque and whole, `size` its bytes; `conf` is what it says when it is a configuration
    entry. `head`: what else its maker knows about it without looking into it; Raft does not ask."""

    __slots__ = ("conf", "data", "head", "index", "size", "term")

    def __init__(self, index: int, term: int, data: Bytes, conf: Conf | None = None, head: Any = None) -> None:
        self.index = index
        self.term = term
        self.data = data
        self.size = len(data)
        self.conf = conf
        self.head = head

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entry):
            return NotImplemented
        return (self.index, self.term, self.data, self.conf) == (other.index, other.term, other.data, other.conf)

    def __repr__(self) -> str:
        return f"Entry({self.index}, {self.term}, {bytes(self.data)!r}, {self.conf!r})"


def bytes_of(entries: Sequence[Entry]) -> int:
    """What their data takes together."""
    size = 0
    for entry in entries:
        size += entry.size
    return size


class HardState:
    """What must survive a crash besides the entries. `vote` 0: none in this term. `commit` is a hint that may lag. Not changed
    once it is made."""

    __slots__ = ("commit", "term", "vote")

    def __init__(self, term: int, vote: int, commit: int) -> None:
        self.term = term
        self.vote = vote
        self.commit = commit

    def fields(self) -> list[int]:
        """What __init__ wants."""
        return [self.term, self.vote, self.commit]

    def said(self, term: int, vote: int) -> bool:
        """Does it have this vote in this term?"""
        return self.term == term and self.vote == vote

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HardState) and self.fields() == other.fields()

    def __repr__(self) -> str:
        return f"HardState{tuple(self.fields())}"


class Message:
    """What one replica says to another, see above. Not changed once it is made."""

    __slots__ = (
        "commit", "context", "entries", "hint", "hint_term", "index", "kind", "log_term", "reject", "sender", "term", "to",
    )  # fmt: skip

    def __init__(
        self,
        kind: Kind,
        to: int,
        sender: int,
        term: int,
        index: int = 0,
        log_term: int = 0,
        commit: int = 0,
        reject: bool = False,
        hint: int = 0,
        hint_term: int = 0,
        context: int = 0,
        entries: Sequence[Entry] = (),
    ) -> None:
        self.kind = kind
        self.to = to
        self.sender = sender
        self.term = term
        self.index = index
        self.log_term = log_term
        self.commit = commit
        self.reject = reject
        self.hint = hint
        self.hint_term = hint_term
        self.context = context
        self.entries = entries

    def _fields(self) -> tuple[object, ...]:
        numbers = self.index, self.log_term, self.commit, self.reject, self.hint, self.hint_term, self.context
        return self.kind, self.to, self.sender, self.term, *numbers, tuple(self.entries)

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, Message) else NotImplemented

    def __repr__(self) -> str:
        return f"Message{self._fields()!r}"


class Save:
    """To be made durable as one, in order; `entries` replace everything from `entries[0].index` on."""

    __slots__ = ("entries", "hard", "token")

    def __init__(self, hard: HardState | None, entries: list[Entry], token: int) -> None:
        self.hard = hard
        self.entries = entries
        self.token = token

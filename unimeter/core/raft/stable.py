"""What of a replica is durable, what is on its way to the disk, and which messages wait for it.

    state in memory  --take_save-->  flying (one)  --persisted-->  durable
                                        |                            |
                                   messages that depend on it wait here, and leave now

A promise must be on disk before it is made: a vote, a candidacy (a vote for oneself), an acknowledgement of entries.
Everything else (refusals, probes, heartbeats, the leader's own APPENDs) promises nothing and leaves at once.

Two things can make a waiting promise void. A higher term: whoever waited for it has moved on, and the entries may
be overwritten, so the caller drops all that waits. A truncation: entries that are on their way to the disk are no
longer the log's; they count for nothing when the disk reports them.
"""

from __future__ import annotations

from typing import Final

from unimeter.core.raft.log import RaftLog
from unimeter.core.raft.messages import HardState, Kind, Message, Save, bytes_of

COMMITS_UNSAVED_MAX: Final = 64  # entries that a restart finds beyond the saved commit index, if they are small
COMMIT_RIDES_FROM_BYTES: Final = 4096  # of entries in one save: beside these the commit index costs nothing


class Flying:
    __slots__ = ("hard", "last_index", "token")

    def __init__(self, token: int, hard: HardState, last_index: int) -> None:
        self.token = token
        self.hard = hard
        self.last_index = last_index  # all up to here will be durable, unless truncated meanwhile


class Waiting:
    __slots__ = ("index", "message", "token")

    def __init__(self, token: int, index: int, message: Message) -> None:
        self.token = token  # of the save that brings the hard state
        self.index = index
        self.message = message


class Stable:
    def __init__(self, log: RaftLog, hard: HardState) -> None:
        self._log = log
        self.index = log.last_index  # everything up to here is durable, as the log has it now
        self.hard = hard  # as it is on disk
        self.flying: Flying | None = None
        self._token = 0  # of the newest save
        self._waiting: list[Waiting] = []  # in order of their making

    def hard_token(self, term: int, vote: int) -> int:
        """The save that makes this vote in this term durable: 0 if it is, perhaps the one that comes next."""
        if self.hard.said(term, vote):
            return 0
        flying = self.flying
        if flying is not None and flying.hard.said(term, vote):
            return flying.token
        return self._token + 1

    def hold(self, token: int, index: int, message: Message) -> None:
        """Keep a message until that save, and the entries up to `index`, are durable."""
        self._waiting.append(Waiting(token, index, message))

    def drop_waiting(self) -> None:
        self._waiting.clear()

    def truncated(self, first: int) -> None:
        """The log forgot its entries from `first` on."""
        self.index = min(self.index, first - 1)
        if self.flying is not None:
            self.flying.last_index = min(self.flying.last_index, first - 1)

    def take_save(self, term: int, vote: int, commit: int, bytes_max: int) -> Save | None:
        """What is not durable yet: the hard state, and as many entries as fit, but one at least. A commit index alone
        is not worth a write; it rides along where it costs little beside the entries, and else now and then."""
        assert self.flying is None, "one save at a time"
        log = self._log
        told = self.hard.said(term, vote)
        if told and self.index >= log.last_index:
            return None
        entries = log.slice(self.index + 1, log.last_index + 1, bytes_max)
        assert entries is not None, "entries that are not durable stay in memory"
        self._token += 1
        last_index = self.index + len(entries)
        hard = self.hard
        commit = min(commit, last_index)
        if told and commit < hard.commit + COMMITS_UNSAVED_MAX and bytes_of(entries) < COMMIT_RIDES_FROM_BYTES:
            commit = hard.commit
        if not told or commit != hard.commit:
            hard = HardState(term, vote, commit)
        self.flying = Flying(self._token, hard, last_index)
        return Save(None if hard is self.hard else hard, entries, self._token)

    def persisted(self, token: int) -> list[Message]:
        """That save is durable: the messages that may leave now. Of acknowledgements, the greatest says all."""
        flying = self.flying
        assert flying is not None and flying.token == token, "saves complete one by one"
        self.flying = None
        self.hard = flying.hard
        self.index = max(self.index, flying.last_index)
        waiting, self._waiting = self._waiting, []
        released: list[Message] = []
        acknowledgement: Message | None = None  # all that wait go to one replica, the leader of this term
        for one in waiting:
            if one.token > token or one.index > self.index:
                self._waiting.append(one)
            elif one.message.kind is not Kind.APPEND_REPLY:
                released.append(one.message)
            elif acknowledgement is None or one.index > acknowledgement.index:
                acknowledgement = one.message
        return released if acknowledgement is None else [*released, acknowledgement]

"""A replica's state, and the few changes that every part of the protocol shares.

                     +---------------- a higher term, or a leader of this one ----------------+
                     v                                                                        |
      start --> FOLLOWER --timeout--> PRE_CANDIDATE --quorum would--> CANDIDATE --quorum--> LEADER
                     ^                     |                              |                   |
                     +----- refused -------+----------- refused ----------+                   |
                     +----------------------- no contact to a quorum -------------------------+

The parts (`election`, `follower`, `replication`, `membership`, `transfer`) are functions over this state; `Raft`
decides which of them a message concerns. Nothing here reads a clock: time is an argument, `deadline_ns` an output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Final, Protocol

from unimeter.core.raft.conf import NOBODY, Conf
from unimeter.core.raft.log import RaftLog
from unimeter.core.raft.messages import Entry, HardState, Kind, Message
from unimeter.core.raft.progress import Progress
from unimeter.core.raft.reads import Reads
from unimeter.core.raft.stable import Stable

CONFS_MAX: Final = 64  # old configurations that are remembered; more if they are not committed


class Role(IntEnum):
    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


class Chance(Protocol):
    def below(self, limit: int, /) -> int:
        """A number in [0, limit)."""
        ...


@dataclass(frozen=True)
class Settings:
    election_min_ns: int  # a live leader is not doubted for so long
    election_max_ns: int  # a leader without a quorum gives up after so long
    heartbeat_ns: int
    append_bytes_max: int  # of entries in one APPEND, which carries at least one
    inflight_bytes_max: int  # of entries on their way to one follower
    inflight_messages_max: int

    def __post_init__(self) -> None:
        assert 0 < self.heartbeat_ns < self.election_min_ns < self.election_max_ns
        assert self.append_bytes_max > 0 and self.inflight_bytes_max > 0 and self.inflight_messages_max > 0


class RaftState:
    """Look at it freely; only this package changes it (but for `mute`)."""

    def __init__(
        self,
        replica: int,
        settings: Settings,
        prng: Chance,
        log: RaftLog,
        hard: HardState,
        confs: Sequence[tuple[int, Conf]],
        now_ns: int,
    ) -> None:
        assert replica > 0
        assert hard.commit <= log.last_index, "a commit index is saved after the entries it speaks of"
        assert hard.term >= log.last_term, "a term is saved no later than its entries"
        assert all(low[0] < high[0] for low, high in pairwise(confs))
        self.replica = replica
        self.settings = settings
        self.prng = prng
        self.log = log
        self.stable = Stable(log, hard)
        self.term = hard.term
        self.vote = hard.vote
        self.commit = hard.commit
        self.confs: list[tuple[int, Conf]] = list(confs)  # ascending; the last is in force
        self.mute = False  # it neither votes nor campaigns: there is data that it cannot read
        self.role = Role.FOLLOWER
        self.leader = 0  # 0: not known
        self.heard_ns = now_ns  # when the leader was last heard of
        self.election_at_ns = self.timeout_ns = 0
        self.votes: dict[int, bool] = {}  # answers to the candidacy
        self.progress: dict[int, Progress] = {}  # leader: of every other member, ascending
        self.heartbeat_at_ns = 0
        self.heir = 0  # leader: to whom leadership is being handed over
        self.heir_until_ns = 0
        self.reads = Reads()
        self.messages: list[Message] = []
        self.fetches: list[tuple[int, int, int]] = []
        self.rearm(now_ns)

    # ---- what can be read off ----

    @property
    def conf(self) -> Conf:
        return self.confs[-1][1] if self.confs else NOBODY

    @property
    def conf_index(self) -> int:
        return self.confs[-1][0] if self.confs else 0

    @property
    def saving_index(self) -> int:
        """Everything up to here is durable, or on its way to the disk."""
        flying = self.stable.flying
        return self.stable.index if flying is None else flying.last_index

    @property
    def stable_index(self) -> int:
        """Entries up to here are durable."""
        return self.stable.index

    @property
    def accepting(self) -> bool:
        """It leads, and may take new entries."""
        return self.role is Role.LEADER and not self.heir

    @property
    def needs_noop(self) -> bool:
        """It leads, and has no entry of its own term yet: nothing can be committed, nothing read before it has."""
        return self.role is Role.LEADER and self.log.last_term != self.term

    @property
    def own_term_committed(self) -> bool:
        return self.log.term(self.commit) == self.term

    def has_live_leader(self, now_ns: int) -> bool:
        """It leads itself, or heard of a leader so recently that nobody should be elected."""
        if self.role is Role.LEADER:
            return True
        return self.leader != 0 and now_ns - self.heard_ns < self.settings.election_min_ns

    def may_campaign(self) -> bool:
        """Voters may; and who is not one any more, until it knows that to be committed: it may be the only one who
        has that entry, and the others cannot be elected without its vote (the thesis, 4.2.2)."""
        if self.mute or self.role is Role.LEADER:
            return False
        for index, conf in reversed(self.confs):
            if conf.is_voter(self.replica):
                return True
            if index <= self.commit:
                break
        return False

    # ---- changes that all parts share ----

    def rearm(self, now_ns: int) -> None:
        """A whole election timeout from now, drawn anew, so that rivals part."""
        low, high = self.settings.election_min_ns, self.settings.election_max_ns
        self.timeout_ns = low + self.prng.below(high - low + 1)
        self.election_at_ns = now_ns + self.timeout_ns

    def follow(self, now_ns: int, term: int, leader: int) -> None:
        """Become a follower in that term (not a lower one); `leader` 0: of nobody yet."""
        assert term >= self.term
        if term > self.term:
            self.enter(term, 0)
        self.abdicate()
        self.role = Role.FOLLOWER
        self.leader = leader
        self.heard_ns = now_ns
        self.rearm(now_ns)

    def enter(self, term: int, vote: int) -> None:
        """A new term: promises of earlier ones that are not made yet are not made any more."""
        assert term > self.term, "terms only rise"
        self.term = term
        self.vote = vote
        self.stable.drop_waiting()

    def abdicate(self) -> None:
        """Forget what only a candidate or leader knows."""
        self.votes = {}
        self.progress = {}
        self.heir = 0
        self.fetches = []
        self.reads.fail()

    def add(self, entry: Entry) -> None:
        """Append to the log. A configuration is in force from here on, committed or not (the paper, section 6)."""
        self.log.append(entry)
        if entry.conf is not None:
            self.confs.append((entry.index, entry.conf))
            while len(self.confs) > CONFS_MAX and self.confs[1][0] <= self.commit:
                del self.confs[0]

    def truncate(self, first: int) -> None:
        """Forget entries that the leader does not have. The configuration before them is in force again."""
        assert first > self.commit, "what is committed stays"
        assert self.role is Role.FOLLOWER, "a leader only appends"
        self.log.truncate(first)
        self.stable.truncated(first)
        while self.confs and self.confs[-1][0] >= first:
            self.confs.pop()

    def commit_to(self, index: int) -> None:
        assert index <= self.log.last_index, "a committed entry that was here is gone: the disk has lost durable data"
        self.commit = max(self.commit, index)

    # ---- messages ----

    def send(self, message: Message) -> None:
        """For what promises nothing."""
        self.messages.append(message)

    def send_durable(self, message: Message, index: int = 0) -> None:
        """For a promise: it leaves when this term, this vote, and the entries up to `index` are durable."""
        token = self.stable.hard_token(self.term, self.vote)
        if token or index > self.stable.index:
            self.stable.hold(token, index, message)
        elif message.to != self.replica:
            self.messages.append(message)

    def answer(self, message: Message, kind: Kind, reject: bool = False) -> Message:
        return Message(kind, message.sender, self.replica, self.term, reject=reject)

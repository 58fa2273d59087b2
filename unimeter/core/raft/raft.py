"""One replica of one replicated log: Raft as a function from inputs to things to do.

    inputs                                      to do
      tick, receive, campaign                     take_messages   may be sent now, in any order
      append, read, transfer      -- Raft -->     take_save       make this durable, then say `persisted`
      persisted                                   take_fetches    read these entries, then `supply` them
      supply, peer_lost, peer_back                take_reads      reads that may be served, or not
                                                  deadline_ns     call `tick` then
                                                  and: entries up to min(commit, stable_index) may be applied

It makes no entries itself. A caller that finds `needs_noop` appends an entry of the new term; one that finds
`next_conf()` appends that configuration. Entries are opaque; storage, network and clock are somebody else's.

References: D. Ongaro, J. Ousterhout, "In Search of an Understandable Consensus Algorithm" (the paper); D. Ongaro,
"Consensus: Bridging Theory and Practice" (the thesis).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from unimeter.core.raft import election, follower, membership, replication, transfer
from unimeter.core.raft.conf import Conf
from unimeter.core.raft.membership import Refusal
from unimeter.core.raft.messages import Entry, Kind, Message, Save
from unimeter.core.raft.state import RaftState, Role
from unimeter.core.raft.status import Status, status

UNBOUNDED: Final = 1 << 62
_FROM_LEADER: Final = (Kind.APPEND, Kind.HEARTBEAT, Kind.TIMEOUT_NOW)
_HANDLERS: Final[dict[Kind, Callable[[RaftState, int, Message], None]]] = {
    Kind.PREVOTE: election.on_prevote,
    Kind.PREVOTE_REPLY: election.on_prevote_reply,
    Kind.VOTE: election.on_vote,
    Kind.VOTE_REPLY: election.on_vote_reply,
    Kind.APPEND: follower.on_append,
    Kind.APPEND_REPLY: replication.on_append_reply,
    Kind.HEARTBEAT: follower.on_heartbeat,
    Kind.HEARTBEAT_REPLY: replication.on_heartbeat_reply,
    Kind.TIMEOUT_NOW: follower.on_timeout_now,
}


class Raft(RaftState):
    """Everything in `log` and `hard` is durable when it is made. `confs`: (entry's index, configuration), ascending;
    index 0 is a founding configuration that no entry holds; none at all: this replica belongs nowhere yet."""

    # ---- time and messages ----

    @property
    def deadline_ns(self) -> int:
        if self.role is not Role.LEADER:
            return self.election_at_ns
        return min(self.heartbeat_at_ns, self.heir_until_ns) if self.heir else self.heartbeat_at_ns

    def tick(self, now_ns: int) -> None:
        if self.role is Role.LEADER:
            replication.tick(self, now_ns)
        elif now_ns >= self.election_at_ns:
            election.timed_out(self, now_ns)

    def receive(self, now_ns: int, message: Message) -> None:
        assert message.to == self.replica, "a message for somebody else"
        if message.term > self.term:
            if not self._enter_term_of(now_ns, message):
                return
        elif message.term < self.term:
            self._correct(message)
            return
        _HANDLERS[message.kind](self, now_ns, message)

    def _enter_term_of(self, now_ns: int, message: Message) -> bool:
        """A message of a later term. False: it is to be ignored."""
        kind = message.kind
        if kind is Kind.PREVOTE or (kind is Kind.PREVOTE_REPLY and not message.reject):
            return True  # about a term that nobody is in yet
        if kind is Kind.VOTE and message.context != election.TRANSFER and self.has_live_leader(now_ns):
            return False  # a candidate that does not hear the leader that others hear
        self.follow(now_ns, message.term, message.sender if kind in _FROM_LEADER else 0)
        return True

    def _correct(self, message: Message) -> None:
        """A message of an earlier term. Who leads or would lead in it is told the term, so that it gives up (a
        replica whose term ran ahead could not join its leader otherwise); answers are no longer of interest."""
        if message.kind in (Kind.APPEND, Kind.HEARTBEAT):
            self.send(self.answer(message, Kind.APPEND_REPLY, reject=True))
        elif message.kind is Kind.VOTE:
            self.send(self.answer(message, Kind.VOTE_REPLY, reject=True))
        elif message.kind is Kind.PREVOTE:
            self.send(self.answer(message, Kind.PREVOTE_REPLY, reject=True))

    def campaign(self, now_ns: int) -> None:
        """Do not wait for the election timeout. A lone voter leads as soon as its vote is durable."""
        election.campaign(self, now_ns)

    def peer_lost(self, now_ns: int, peer: int) -> None:
        """The link to it broke: what was in flight is lost; if it led, it probably died, so do not wait long."""
        progress = self.progress.get(peer)
        if progress is not None:
            progress.probe()
            progress.waits = True  # until it answers again
        elif peer == self.leader and self.role is Role.FOLLOWER:
            self.leader = 0
            soon_ns = now_ns + 1 + self.prng.below(self.settings.heartbeat_ns)
            self.election_at_ns = min(self.election_at_ns, soon_ns)

    def peer_back(self, now_ns: int, peer: int) -> None:  # noqa: ARG002
        """The link to it is up: whatever was said to it meanwhile is said again."""
        progress = self.progress.get(peer)
        if progress is not None:
            progress.probe()
            replication.replicate(self, peer)
        elif peer not in self.votes and self.conf.is_voter(peer):
            election.ask(self, peer)

    # ---- a leader's work ----

    def append(self, now_ns: int, entries: Sequence[Entry]) -> None:
        """Entries of this term, at the log's end. They leave for the followers before they are on this disk."""
        assert self.accepting, "only a leader appends, and not while it hands over"
        for entry in entries:
            assert entry.term == self.term and entry.index == self.log.last_index + 1
            if entry.conf is not None:
                refused = membership.refusal(self, entry.conf)
                assert refused is None, f"this configuration may not be appended now: {refused}"
            self.add(entry)
            if entry.conf is not None:
                replication.meet_members(self, now_ns)
                replication.confirm_reads(self)  # fewer voices may be enough now
        replication.replicate_to_all(self)

    def propose_conf(self, conf: Conf) -> Refusal | None:
        """May an entry with this configuration be appended now?"""
        return membership.refusal(self, conf)

    def next_conf(self) -> Conf | None:
        """The configuration that leaves the joint one, when it is time: append an entry of it."""
        return membership.next_conf(self)

    @property
    def alone(self) -> bool:
        """Does it lead, and is there nobody who could depose it or must be asked? Then it knows what is committed."""
        conf = self.conf
        return (
            self.role is Role.LEADER
            and self.own_term_committed
            and conf.voters == (self.replica,)
            and not conf.outgoing
        )

    def read(self, now_ns: int, token: int) -> None:  # noqa: ARG002
        """Ask for an index at which a read is linearizable; `take_reads` tells."""
        if self.role is not Role.LEADER:
            self.reads.failed.append(token)
            return
        self.reads.waiting.append(token)
        replication.begin_reads(self)

    def transfer(self, now_ns: int, to: int) -> bool:
        """Hand leadership over. False: not possible now. `accepting` is False while it is under way."""
        if self.heir or not transfer.may_inherit(self, to):
            return self.heir == to != 0
        transfer.begin(self, now_ns, to)
        return True

    def supply(self, now_ns: int, peer: int, entries: Sequence[Entry]) -> None:  # noqa: ARG002
        """What a fetch found; nothing: it could not be read."""
        replication.supply(self, peer, entries)

    # ---- the disk ----

    def take_save(self, bytes_max: int = UNBOUNDED) -> Save | None:
        """What must be made durable next: of entries as many as fit bytes_max, but one at least. One save at a time:
        not before the last one is `persisted`."""
        return self.stable.take_save(self.term, self.vote, self.commit, bytes_max)

    def persisted(self, now_ns: int, token: int) -> None:
        """That save is durable: promises that waited for it are made."""
        for message in self.stable.persisted(token):
            if message.to == self.replica:
                self.receive(now_ns, message)
            else:
                self.messages.append(message)
        if self.role is Role.LEADER:
            replication.advance(self, now_ns)

    # ---- what came of it ----

    def take_messages(self) -> list[Message]:
        messages, self.messages = self.messages, []
        return messages

    def take_fetches(self) -> list[tuple[int, int, int]]:
        """(peer, first index, bytes_max): entries to be read from storage and supplied."""
        fetches, self.fetches = self.fetches, []
        return fetches

    def take_reads(self) -> tuple[list[tuple[int, int]], list[int]]:
        """(token, index): to be served when that index is applied; and the tokens that failed."""
        return self.reads.take()

    def status(self, now_ns: int) -> Status:
        return status(self, now_ns)

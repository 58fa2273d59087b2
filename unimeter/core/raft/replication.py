"""What a leader does: send the log to everybody, find out what a quorum has, commit it (the paper, 5.3 and 5.4.2).

- Each follower has a `Progress`: probed until the place is known where the logs agree, then fed ahead of its answers
  within a window. Entries that are no longer in memory are fetched from storage, one fetch at a time for a follower.
- An entry is committed when a quorum has it durably *and it is of the leader's own term*; all before it are with it
  (figure 8). The leader is one of the quorum, and like all others only for what is on its own disk.
- The commit index travels with the next APPEND or heartbeat: nobody waits for it but the followers' memory.
- A leader that heard of no quorum for `election_max_ns` gives up: somebody else may lead by now.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from unimeter.core.raft import transfer
from unimeter.core.raft.messages import Entry, Kind, Message, bytes_of
from unimeter.core.raft.progress import Pace, Progress
from unimeter.core.raft.state import RaftState, Role

_REPLICATE: Final = Pace.REPLICATE


def lead(state: RaftState, now_ns: int) -> None:
    """Elected. Says so with its first entry, which the caller appends now (`needs_noop`), or the next heartbeat."""
    state.abdicate()
    state.role = Role.LEADER
    state.leader = state.replica
    state.heartbeat_at_ns = next_heartbeat_ns(state, now_ns)
    meet_members(state, now_ns)


def next_heartbeat_ns(state: RaftState, now_ns: int) -> int:
    """At whole multiples of the interval, so that all groups that a node leads have theirs in one turn."""
    interval_ns = state.settings.heartbeat_ns
    return (now_ns // interval_ns + 1) * interval_ns


def meet_members(state: RaftState, now_ns: int) -> None:
    """The configuration changed: follow the progress of all members, and of nobody else."""
    known, next_index = state.progress, state.log.last_index + 1
    state.progress = {
        peer: known.get(peer) or Progress(next_index, now_ns) for peer in state.conf.members() if peer != state.replica
    }


# ---- to the followers ----


def replicate_to_all(state: RaftState) -> None:
    for peer in state.progress:
        replicate(state, peer)


def replicate(state: RaftState, peer: int) -> None:
    """Send one follower what its window has room for; while probing, one message in any case."""
    progress, log, settings = state.progress[peer], state.log, state.settings
    while progress.has_room(settings.inflight_messages_max, settings.inflight_bytes_max):
        if progress.pace is _REPLICATE and progress.next > log.last_index:
            return
        entries = log.slice(progress.next, log.last_index + 1, settings.append_bytes_max)
        if entries is None:
            if progress.pace is _REPLICATE:
                _fetch(state, peer, progress)
                return
            entries = []  # a probe needs none: where the logs agree, epochs alone can tell
        _append(state, peer, progress, entries)


def _append(state: RaftState, peer: int, progress: Progress, entries: Sequence[Entry]) -> None:
    before = progress.next - 1
    state.send(
        Message(
            Kind.APPEND, peer, state.replica, state.term, before, state.log.term(before), state.commit,
            entries=entries,
        )
    )  # fmt: skip
    progress.sent(before + len(entries), bytes_of(entries))


def _fetch(state: RaftState, peer: int, progress: Progress) -> None:
    if not progress.fetching:
        progress.fetching = True
        state.fetches.append((peer, progress.next, state.settings.append_bytes_max))


def supply(state: RaftState, peer: int, entries: Sequence[Entry]) -> None:
    """Entries read from storage. Meanwhile the follower, the leader or the log may have changed."""
    progress = state.progress.get(peer)
    if progress is None or not progress.fetching:
        return
    progress.fetching = False
    if not entries:
        return  # could not be read; the next answer to a heartbeat tries again
    log, settings = state.log, state.settings
    wanted = (
        progress.pace is _REPLICATE
        and progress.has_room(settings.inflight_messages_max, settings.inflight_bytes_max)
        and all(
            (entry.index, entry.term) == (progress.next + at, log.term(progress.next + at))
            for at, entry in enumerate(entries)
        )
    )
    if wanted:
        _append(state, peer, progress, entries)
    replicate(state, peer)


def heartbeat(state: RaftState) -> None:
    """To everybody, with the read round that is on its way."""
    for peer, progress in state.progress.items():
        known = min(progress.match, state.commit)
        state.send(Message(Kind.HEARTBEAT, peer, state.replica, state.term, commit=known, context=state.reads.round))


def tick(state: RaftState, now_ns: int) -> None:
    if state.heir and now_ns >= state.heir_until_ns:
        state.heir = 0  # it did not take over in time: lead on
    if now_ns < state.heartbeat_at_ns:
        return
    limit_ns = state.settings.election_max_ns
    progress = state.progress
    alive = state.conf.quorum(
        lambda replica: replica == state.replica or now_ns - progress[replica].heard_ns <= limit_ns
    )
    if state.mute or not alive:
        state.follow(now_ns, state.term, 0)
        return
    state.heartbeat_at_ns = next_heartbeat_ns(state, now_ns)
    heartbeat(state)


# ---- from the followers ----


def on_append_reply(state: RaftState, now_ns: int, message: Message) -> None:
    progress = state.progress.get(message.sender)
    if progress is None:
        return
    progress.heard_ns = now_ns
    if message.reject:
        retry = message.hint
        if message.hint_term:
            retry = state.log.last_not_above(message.hint, message.hint_term)
        if progress.rejected(message.index, retry):
            replicate(state, message.sender)
        return
    assert message.index <= state.log.last_index, "a follower acknowledged what this leader never sent"
    if progress.matched(message.index):
        advance(state, now_ns)
        if state.role is not Role.LEADER:
            return
        transfer.hand_over(state, message.sender)
    replicate(state, message.sender)


def on_heartbeat_reply(state: RaftState, now_ns: int, message: Message) -> None:
    """It is there. If it has not all, and nothing of what was sent is answered, then that was lost."""
    progress = state.progress.get(message.sender)
    if progress is None:
        return
    progress.heard_ns = now_ns
    progress.waits = False
    if progress.match < state.log.last_index:
        if progress.pace is _REPLICATE and progress.inflight and not progress.acked:
            _poke(state, message.sender, progress)
        else:
            replicate(state, message.sender)
    progress.acked = False
    transfer.hand_over(state, message.sender)
    progress.read_round = max(progress.read_round, message.context)
    confirm_reads(state)


def _poke(state: RaftState, peer: int, progress: Progress) -> None:
    """An APPEND without entries, after all that was sent: if something is missing, it will be refused."""
    before = progress.next - 1
    state.send(Message(Kind.APPEND, peer, state.replica, state.term, before, state.log.term(before), state.commit))


# ---- commit ----


def advance(state: RaftState, now_ns: int) -> None:
    """Commit what a quorum has."""
    if state.commit == state.log.last_index:
        return  # everything is committed already: the slowest replicas' answers change nothing
    progress = state.progress
    match = {state.replica: state.stable_index}
    for peer, of_peer in progress.items():
        match[peer] = of_peer.match
    index = state.conf.quorum_index(match)
    if index <= state.commit or state.log.term(index) != state.term:
        return
    state.commit = index
    begin_reads(state)
    if state.conf_index <= index and not state.conf.joint and not state.conf.is_voter(state.replica):
        # it has led the others to a configuration without it: now one of them must lead, best who has the most
        heartbeat(state)
        heir = max(state.conf.voters, key=lambda replica: progress[replica].match)
        state.send(Message(Kind.TIMEOUT_NOW, heir, state.replica, state.term))
        state.follow(now_ns, state.term, 0)


# ---- reads ----


def begin_reads(state: RaftState) -> None:
    """Begin a round for the reads that wait. Before an entry of its own term is committed, a leader does not know
    what is."""
    if state.own_term_committed and state.reads.begin(state.commit):
        if not _confirmed(state):
            heartbeat(state)
        else:
            state.reads.confirm()


def confirm_reads(state: RaftState) -> None:
    while state.reads.asked and _confirmed(state):
        state.reads.confirm()
        begin_reads(state)


def _confirmed(state: RaftState) -> bool:
    progress, number = state.progress, state.reads.round
    return state.conf.quorum(lambda replica: replica == state.replica or progress[replica].read_round >= number)

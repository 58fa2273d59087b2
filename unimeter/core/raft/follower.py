"""What a follower does with what its leader sends (the paper, 5.3).

    the entry before the new ones is here, of the same term?   no: say so, and where the logs may agree
                                                               yes: all before it is equal (log matching)
    then every new entry: here already, equal                  skip it
                          another one in its place             forget that and all behind it, then append
                          nothing there                        append

What is committed is never touched: a leader has every committed entry, so a conflict there is a bug, not a message.
"""

from __future__ import annotations

from collections.abc import Sequence

from unimeter.core.raft.election import campaign
from unimeter.core.raft.messages import Entry, Kind, Message
from unimeter.core.raft.state import RaftState, Role


def obey(state: RaftState, now_ns: int, leader: int) -> None:
    """This term's leader was heard of."""
    assert state.role is not Role.LEADER, "two leaders in one term"
    assert state.leader in (0, leader), "two leaders in one term"
    if state.role is not Role.FOLLOWER or state.leader != leader:
        state.follow(now_ns, state.term, leader)
    else:
        state.heard_ns = now_ns
        state.election_at_ns = now_ns + state.timeout_ns


def on_append(state: RaftState, now_ns: int, message: Message) -> None:
    obey(state, now_ns, message.sender)
    log = state.log
    last_new = message.index + len(message.entries)
    if message.index >= state.commit:
        if log.term(message.index) != message.log_term:
            _reject(state, message)
            return
        _take(state, message.entries)
    elif last_new > state.commit:
        _take(state, message.entries[state.commit - message.index :])  # the rest is an old story
    else:
        last_new = state.commit  # all of it is
    state.commit_to(min(message.commit, last_new))
    reply = Message(Kind.APPEND_REPLY, message.sender, state.replica, state.term, last_new)
    state.send_durable(reply, last_new)


def _reject(state: RaftState, message: Message) -> None:
    """The leader's entry before the new ones is not here. Where it may be: not above this log's end, and not in a
    term that is higher than the leader's was there, for terms never fall along a log."""
    hint = state.log.last_not_above(message.index, message.log_term)
    state.send(
        Message(
            Kind.APPEND_REPLY, message.sender, state.replica, state.term, message.index,
            reject=True, hint=hint, hint_term=state.log.term(hint),
        )
    )  # fmt: skip


def _take(state: RaftState, entries: Sequence[Entry]) -> None:
    log = state.log
    for entry in entries:
        if entry.index <= log.last_index:
            if log.term(entry.index) == entry.term:
                continue
            state.truncate(entry.index)
        state.add(entry)


def on_heartbeat(state: RaftState, now_ns: int, message: Message) -> None:
    obey(state, now_ns, message.sender)
    state.commit_to(message.commit)
    state.send(Message(Kind.HEARTBEAT_REPLY, message.sender, state.replica, state.term, context=message.context))


def on_timeout_now(state: RaftState, now_ns: int, message: Message) -> None:
    """The leader wants this replica in its place."""
    if state.role is Role.FOLLOWER and state.leader in (0, message.sender):
        campaign(state, now_ns, transfer=True)

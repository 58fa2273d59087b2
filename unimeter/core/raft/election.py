"""How leaders are made: pre-vote, vote, and who gets one (the paper, 5.2 and 5.4.1; Ongaro's thesis, 9.6).

A replica that hears of no leader first asks whether it *would* be elected (pre-vote). That changes nobody's term, so
a replica that was cut off and comes back disturbs nobody. With a quorum's consent it enters a new term, votes for
itself, and asks in earnest. A vote goes

- once in a term (durably),
- only to a candidate whose log is at least as up-to-date as the voter's, so every leader has every committed entry,
- not while the voter hears of a live leader, unless that leader itself asked for the election,
- and to whoever asks: the voter's configuration may be behind the candidate's. Only members' answers are counted.

The candidate's vote for itself counts, like any other, when it is durable.
"""

from __future__ import annotations

from typing import Final

from unimeter.core.raft import replication
from unimeter.core.raft.messages import Kind, Message
from unimeter.core.raft.state import RaftState, Role

TRANSFER: Final = 1  # `context` of a request that a leader asked for


def campaign(state: RaftState, now_ns: int, transfer: bool = False) -> None:
    """Try to become leader, if it may. `transfer`: the leader said so, there is nobody to be asked first."""
    if not state.may_campaign():
        return
    if transfer:
        _stand(state, now_ns, TRANSFER)
        return
    state.abdicate()
    state.role = Role.PRE_CANDIDATE
    state.leader = 0
    state.votes[state.replica] = True
    state.rearm(now_ns)
    if state.conf.quorum(lambda replica: replica == state.replica):
        _stand(state, now_ns, 0)
    else:
        for peer in state.conf.electorate():
            ask(state, peer)


def timed_out(state: RaftState, now_ns: int) -> None:
    """No leader was heard of for a whole election timeout."""
    if state.role is Role.CANDIDATE and state.replica not in state.votes:
        state.rearm(now_ns)  # its own vote is not on disk yet: asking anew would only make the disk busier
    elif state.may_campaign():
        campaign(state, now_ns)
    else:
        state.follow(now_ns, state.term, 0)


def _stand(state: RaftState, now_ns: int, context: int) -> None:
    state.abdicate()
    state.enter(state.term + 1, state.replica)
    state.role = Role.CANDIDATE
    state.leader = 0
    state.rearm(now_ns)
    state.send_durable(Message(Kind.VOTE_REPLY, state.replica, state.replica, state.term))
    for peer in state.conf.electorate():
        ask(state, peer, context)


def ask(state: RaftState, peer: int, context: int = 0) -> None:
    """Ask one peer for what the replica's role wants: its vote, or whether it would give it."""
    if peer == state.replica:
        return
    log = state.log
    if state.role is Role.PRE_CANDIDATE:
        state.send(Message(Kind.PREVOTE, peer, state.replica, state.term + 1, log.last_index, log.last_term))
    elif state.role is Role.CANDIDATE:
        request = Message(Kind.VOTE, peer, state.replica, state.term, log.last_index, log.last_term, context=context)
        state.send_durable(request)


def _is_up_to_date(state: RaftState, message: Message) -> bool:
    """Is the candidate's log at least as up-to-date as this one?"""
    return (message.log_term, message.index) >= (state.log.last_term, state.log.last_index)


def on_prevote(state: RaftState, now_ns: int, message: Message) -> None:
    free = message.term > state.term or state.vote == message.sender or (state.vote == 0 and state.leader == 0)
    grant = free and not state.mute and not state.has_live_leader(now_ns) and _is_up_to_date(state, message)
    # a refusal must not carry a term below the candidate's own, or it would be taken for an old one
    term = message.term if grant else max(state.term, message.term - 1)
    state.send(Message(Kind.PREVOTE_REPLY, message.sender, state.replica, term, reject=not grant))


def on_vote(state: RaftState, now_ns: int, message: Message) -> None:
    free = state.vote == message.sender or (state.vote == 0 and state.leader == 0)
    if free and not state.mute and _is_up_to_date(state, message):
        state.vote = message.sender
        state.rearm(now_ns)
        state.send_durable(state.answer(message, Kind.VOTE_REPLY))
    else:
        state.send(state.answer(message, Kind.VOTE_REPLY, reject=True))


def on_prevote_reply(state: RaftState, now_ns: int, message: Message) -> None:
    if state.role is Role.PRE_CANDIDATE and message.term == state.term + (not message.reject):
        _count(state, now_ns, message)


def on_vote_reply(state: RaftState, now_ns: int, message: Message) -> None:
    if state.role is Role.CANDIDATE and message.term == state.term:
        _count(state, now_ns, message)


def _count(state: RaftState, now_ns: int, message: Message) -> None:
    state.votes[message.sender] = not message.reject
    votes = state.votes
    if state.conf.quorum(lambda replica: votes.get(replica, False)):
        if state.role is Role.PRE_CANDIDATE:
            _stand(state, now_ns, 0)
        else:
            replication.lead(state, now_ns)
    elif not state.conf.quorum(lambda replica: votes.get(replica, True)):
        state.follow(now_ns, state.term, 0)  # too many refused

"""Which configurations may follow which (the paper, section 6; Ongaro's thesis, 4.3).

    simple  -- other learners -->  simple                 voters stay: no majority changes
    simple  -- other voters   -->  joint (outgoing = the old voters)
    joint   -- as it is       -->  simple (the outgoing leave; voters and learners as the joint one had them)

One change at a time: the one before must be committed. And a leader must have committed an entry of its own term,
or two changes of two leaders could meet.
"""

from __future__ import annotations

from enum import StrEnum

from unimeter.core.raft.conf import Conf
from unimeter.core.raft.state import RaftState, Role


class Refusal(StrEnum):
    NOT_LEADER = "not_leader"
    TRANSFERRING = "transferring"
    PENDING = "pending"  # the change before is not committed
    TOO_EARLY = "too_early"  # nothing of the leader's own term is committed
    ILLEGAL = "illegal"  # that configuration cannot follow this one


def is_legal(old: Conf, new: Conf) -> bool:
    if old.joint:
        return new == old.left()
    if new.joint:
        return new.outgoing == old.voters
    return new.voters == old.voters


def refusal(state: RaftState, conf: Conf) -> Refusal | None:
    """Why that configuration may not be appended now."""
    if state.role is not Role.LEADER:
        return Refusal.NOT_LEADER
    if not state.accepting:
        return Refusal.TRANSFERRING
    if state.conf_index > state.commit:
        return Refusal.PENDING
    if not state.own_term_committed:
        return Refusal.TOO_EARLY
    return None if is_legal(state.conf, conf) else Refusal.ILLEGAL


def next_conf(state: RaftState) -> Conf | None:
    """The configuration that ends the joint one in force, if it is time for it."""
    if state.conf.joint:
        conf = state.conf.left()
        if refusal(state, conf) is None:
            return conf
    return None

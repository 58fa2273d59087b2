"""Leadership transfer (Ongaro's thesis, 3.10): the leader picks its heir.

    transfer -> no new entries -> the heir has the whole log -> TIMEOUT_NOW -> it campaigns at once, without pre-vote

The heir's requests say that the leader wants this (`election.TRANSFER`), so nobody refuses them for the leader's sake.
If nothing came of it after `election_max_ns`, the leader leads on. A transfer moves comfort, never safety: the heir
is elected like anybody else.
"""

from __future__ import annotations

from unimeter.core.raft.messages import Kind, Message
from unimeter.core.raft.state import RaftState, Role


def may_inherit(state: RaftState, heir: int) -> bool:
    return state.role is Role.LEADER and heir != state.replica and heir in state.conf.voters


def begin(state: RaftState, now_ns: int, heir: int) -> None:
    assert may_inherit(state, heir) and not state.heir
    state.heir = heir
    state.heir_until_ns = now_ns + state.settings.election_max_ns
    hand_over(state, heir)


def hand_over(state: RaftState, peer: int) -> None:
    """If that is the heir and it has everything: its turn. Repeated until it takes over, for messages get lost."""
    if peer == state.heir and state.progress[peer].match == state.log.last_index:
        state.send(Message(Kind.TIMEOUT_NOW, peer, state.replica, state.term))

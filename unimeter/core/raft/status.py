"""A replica as operators see it."""

from __future__ import annotations

from typing import NamedTuple

from unimeter.core.raft.conf import Conf
from unimeter.core.raft.progress import Pace
from unimeter.core.raft.state import RaftState, Role


class FollowerStatus(NamedTuple):
    replica: int
    match: int
    next: int
    pace: Pace
    inflight_messages: int
    inflight_bytes: int
    fetching: bool
    active: bool  # heard of within election_max_ns


class Status(NamedTuple):
    replica: int
    role: Role
    term: int
    vote: int
    leader: int
    commit: int
    stable_index: int
    last_index: int
    conf: Conf
    heir: int  # leader: leadership is on its way to that one
    followers: tuple[FollowerStatus, ...]  # leader: of every other member


def status(state: RaftState, now_ns: int) -> Status:
    limit_ns = state.settings.election_max_ns
    followers = tuple(
        FollowerStatus(
            peer, seen.match, seen.next, seen.pace, len(seen.inflight), seen.inflight_bytes, seen.fetching,
            now_ns - seen.heard_ns <= limit_ns,
        )
        for peer, seen in state.progress.items()
    )  # fmt: skip
    return Status(
        state.replica, state.role, state.term, state.vote, state.leader, state.commit, state.stable_index,
        state.log.last_index, state.conf, state.heir, followers,
    )  # fmt: skip

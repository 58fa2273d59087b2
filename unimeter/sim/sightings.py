"""What can be seen of a replica from outside, by comparing it with what it was one step before: elections, truncations,
changes of members. Each is a mark of the run, and a place at which a fault can strike (`on = "election_won"`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

PLACES = (
    "election_begun", "election_won", "leader_deposed", "log_truncated", "entry_appended", "learner_added", "joint_conf_entered",
    "joint_conf_left", "handover_begun",
)  # fmt: skip
CANDIDATES = ("PRE_CANDIDATE", "CANDIDATE")


class Sight(NamedTuple):
    """A replica, as it is looked at after each step (`Watch` compares plain tuples of the same fields)."""

    incarnation: int
    replica: int
    term: int
    role: Any
    vote: int
    commit: int
    stable_index: int
    last_index: int
    last_term: int
    confs: int
    heir: int


def sightings(raft: Any, before: Sight, now: Sight) -> Iterator[str]:
    """What happened between the two, in one process."""
    if now.role is not before.role:
        role = now.role.name
        if role == "LEADER":
            yield "election_won"
        elif role in CANDIDATES and before.role.name not in CANDIDATES:
            yield "election_begun"
        if before.role.name == "LEADER":
            yield "leader_deposed"
    if now.last_index < before.last_index or (
        now.last_index == before.last_index and now.last_term != before.last_term
    ):
        yield "log_truncated"
    elif now.last_index > before.last_index:
        yield "entry_appended"
    if now.confs > before.confs and len(raft.confs) > 1:
        old, new = raft.confs[-2][1], raft.confs[-1][1]
        if new.outgoing:
            yield "joint_conf_entered"
        elif old.outgoing:
            yield "joint_conf_left"
        elif len(new.learners) > len(old.learners):
            yield "learner_added"
    if now.heir and not before.heir:
        yield "handover_begun"

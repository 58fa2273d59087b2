"""What can be seen of a replica from outside, by comparing it with what it was one step before: elections, truncations,
changes of members. Each is a mark of the run, and a place at which a fault can strike (`on = "election_won"`)."""

from __future__ import annotations

from typing import Any, Final

from unimeter.core.raft.raft import Raft

PLACES: Final = (
    "election_begun", "election_won", "leader_deposed", "log_truncated", "entry_appended", "learner_added", "joint_conf_entered",
    "joint_conf_left", "handover_begun",
)  # fmt: skip
CANDIDATES: Final = ("PRE_CANDIDATE", "CANDIDATE")


Sight = tuple[int, int, int, Any, int, int, int, int, int, int, int]
"""A replica, as it is looked at after each step: incarnation, replica, term, role, vote, commit, stable index, last index, term of
the last entry, number of configurations, heir. A plain tuple, because there are thousands."""


def sightings(raft: Raft, before: Sight, now: Sight) -> list[str]:
    """What happened between the two, in one process."""
    _, _, _, old_role, _, _, _, old_index, old_term, old_confs, old_heir = before
    _, _, _, new_role, _, _, _, index, term, confs, heir = now
    found = []
    if new_role is not old_role:
        role = new_role.name
        if role == "LEADER":
            found.append("election_won")
        elif role in CANDIDATES and old_role.name not in CANDIDATES:
            found.append("election_begun")
        if old_role.name == "LEADER":
            found.append("leader_deposed")
    if index < old_index or (index == old_index and term != old_term):
        found.append("log_truncated")
    elif index > old_index:
        found.append("entry_appended")
    if confs > old_confs and len(raft.confs) > 1:
        old, new = raft.confs[-2][1], raft.confs[-1][1]
        if new.outgoing:
            found.append("joint_conf_entered")
        elif old.outgoing:
            found.append("joint_conf_left")
        elif len(new.learners) > len(old.learners):
            found.append("learner_added")
    if heir and not old_heir:
        found.append("handover_begun")
    return found

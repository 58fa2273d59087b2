"""A leader changes the members of its group: one replica out, one in, step by step, whatever happens in between.

    ordered > learner (gets the whole log) > caught up > joint configuration > the new one

The coordinator repeats an order until the group's configuration is what it wants, so an order that is lost with its
leader is given again to the next one; one that follows from an old report, and removes who is no member any more, is dropped.
Each step is an entry of the log; the next one waits until it is committed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from unimeter.core.calls import Done
from unimeter.core.group import Group
from unimeter.core.raft import Conf, Role
from unimeter.core.refusal import Refused
from unimeter.kernels import layout

CAUGHT_UP_ENTRIES: Final = 256  # a learner that lacks no more than this becomes a voter


class Order(NamedTuple):
    term: int  # of the leader that was told
    remove: int  # replica, 0: none
    add: int


class Moves:
    def __init__(self, groups: list[Group], silence_ns: int) -> None:
        """A follower that was silent for `silence_ns` is not given leadership."""
        self._silence_ns = silence_ns
        self._orders: dict[int, Order] = {}
        self._groups = groups

    def order(self, group: Group, remove: int, add: int, done: Done) -> None:
        """From the coordinator. Answered at once: its report will tell when it is done."""
        self._orders[group.number] = Order(group.raft.term, remove, add)
        done({})

    def turn(self, group: Group) -> None:
        """Leader: take the next step, if the last one is committed."""
        raft = group.raft
        if group.number not in self._orders and not raft.conf.joint:
            return
        if any(control.kind == layout.UM_ENTRY_CONF for control in group.pending_control):
            return
        wanted = raft.next_conf() or self._next(group)
        if wanted is not None and raft.propose_conf(wanted) is None:
            group.propose(layout.UM_ENTRY_CONF, wanted.encode(), lambda _: None)

    def _next(self, group: Group) -> Conf | None:
        raft, conf = group.raft, group.raft.conf
        order = self._orders.get(group.number)
        if order is None or conf.joint or raft.conf_index > raft.commit:
            return None
        _, remove, add = order
        there = add == 0 or add in conf.voters
        gone = remove == 0 or remove not in conf.members()
        done = there and gone
        late = remove != 0 and gone and not there  # somebody took its place already: one more would be one too many
        if order.term != raft.term or done or late:
            del self._orders[group.number]
            return None
        if not there and add not in conf.learners:
            return Conf(conf.voters, tuple(sorted((*conf.learners, add))))
        if remove in conf.learners and there:
            return Conf(conf.voters, _without(conf.learners, remove))
        if not there:
            progress = raft.progress.get(add)
            if progress is None or raft.log.last_index - progress.match > CAUGHT_UP_ENTRIES:
                return None
        voters = _without(conf.voters, remove)
        if add and add not in voters:
            voters = tuple(sorted((*voters, add)))
        if not voters:
            return None
        learners = _without(_without(conf.learners, add), remove)
        return Conf(voters, learners, conf.voters)

    def transfer(self, now_ns: int, group: Group, to: int, done: Done) -> None:
        """Hand leadership to a replica. Raises Refused when it cannot have it."""
        if not self._fit(now_ns, group, to) or not group.raft.transfer(now_ns, to):
            raise Refused(
                "bad_request", f"that replica cannot lead group {group.number} now", "choose a voter that has caught up"
            )
        done({})

    def _fit(self, now_ns: int, group: Group, replica: int) -> bool:
        """Would it take over at once? While a transfer is under way nothing can be written."""
        progress = group.raft.progress.get(replica)
        return (
            progress is not None
            and now_ns - progress.heard_ns < self._silence_ns
            and group.raft.log.last_index - progress.match <= CAUGHT_UP_ENTRIES
        )

    def heir(self, now_ns: int, group: Group, fit_to_lead: Callable[[int], bool]) -> int:
        """The follower that had best lead, of those that are fit; 0 when there is none, or when this node does not lead."""
        raft = group.raft
        if raft.role is not Role.LEADER:
            return 0
        fit = [
            (progress.match, replica)
            for replica, progress in raft.progress.items()
            if replica in raft.conf.voters and fit_to_lead(replica) and self._fit(now_ns, group, replica)
        ]
        return max(fit, default=(0, 0))[1]


def _without(replicas: tuple[int, ...], replica: int) -> tuple[int, ...]:
    return tuple(other for other in replicas if other != replica)

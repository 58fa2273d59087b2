"""Changes of metrics: ordered in group 0, followed by every other group, seen by every node, then answered.

The leader of group 0 (the coordinator) puts a change into its log. Once it is applied there, it has a number, and the
coordinator sees to it that the leader of each other group puts it into its own log, in order. The client gets its
answer when all groups have applied it and all nodes that can be reached know of it: an ingest right after it works,
wherever it goes. (A node that cannot be reached is not waited for: it does not forward to others' groups while it does not
hear from the coordinator, and in the groups that it leads the change is there.) A coordinator that dies half-way is followed by one that finds the groups behind and goes on.

A node that hears of a newer catalog than any of its groups has, and does not get it from a log soon (it may hold no
replica at all), asks the coordinator for it: it must know the metrics of what it splits and forwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from unimeter.config import SECOND_NS
from unimeter.core.calls import Answer, Done
from unimeter.core.catalog import check_change, numbered
from unimeter.core.group import Group
from unimeter.core.peers import NEVER_NS
from unimeter.core.refusal import Refused
from unimeter.core.sealed import LEADER_CHANGED, Outcome
from unimeter.kernels import layout

AGAIN_NS: Final = SECOND_NS // 20  # before a group that refused a change is asked again

Ask = Callable[[int, str, dict[str, Any], Done], None]


@dataclass
class Waiter:
    version: int
    answer: Answer
    done: Done


class CatalogSync:
    def __init__(self, groups: list[Group], ask: Ask, gossip_ns: int) -> None:
        self._groups = groups
        self._gossip_ns = gossip_ns
        self._behind_since_ns: int | None = None
        self._fetching = False
        self._ask = ask  # have a group's leader do something
        self._known = [0] * len(groups)  # catalog version of each group, as its leader last said
        self._asked: dict[int, None] = {}  # groups with a change on its way
        self._again_ns: dict[int, int] = {}
        self._waiters: list[Waiter] = []
        self.newest_heard: Callable[[], int] = lambda: 0  # the greatest version that any node speaks of
        self.newest_here: Callable[[], int] = lambda: 0
        self.got: Callable[[bytes], None] = lambda _dump: None  # a catalog that no log brought
        self.seen: Callable[[], int] = lambda: 0  # the least catalog version of all nodes that can be reached

    def learn(self, group: int, version: int) -> None:
        """A group's leader has applied so many changes."""
        self._known[group] = max(self._known[group], version)

    def change(self, body: bytes, done: Done) -> None:
        """Coordinator: put a change into group 0's log. Raises Refused."""
        check_change(body)
        group = self._groups[0]

        def applied(outcome: Outcome) -> None:
            if isinstance(outcome, Refused):
                done(outcome)
                return
            answer: Answer = {"id": outcome[0].id, "created": outcome[1]} if outcome else {}
            self._waiters.append(Waiter(group.catalog.version, answer, done))

        group.propose(layout.UM_ENTRY_CATALOG, body, applied)

    def follow(self, number: int, body: bytes, done: Done) -> None:
        """Leader of another group: put a numbered change into its log. Raises Refused."""
        check_change(body)
        group = self._groups[number]

        def applied(outcome: Outcome) -> None:
            done(outcome if outcome is LEADER_CHANGED else {"version": group.catalog.version})

        group.propose(layout.UM_ENTRY_CATALOG, body, applied)

    def turn(self, now_ns: int) -> int:
        """Bring groups up to date that are behind, answer who has waited enough. Returns when to come again."""
        first = self._groups[0]
        if not first.leading:
            self._stop()
            return self._catch_up(now_ns)
        catalog = first.catalog
        next_ns = NEVER_NS
        for group in self._groups[1:]:
            number = group.number
            if group.leading:
                self.learn(number, group.catalog.version)
            if self._known[number] >= catalog.version or number in self._asked:
                continue
            again_ns = self._again_ns.get(number, now_ns)
            if again_ns > now_ns:
                next_ns = min(next_ns, again_ns)
                continue
            version = self._known[number] + 1
            self._asked[number] = None
            self._again_ns[number] = now_ns + AGAIN_NS
            change = {"body": numbered(catalog.changes[version - 1], version)}
            self._ask(number, "follow", change, self._followed(number))
            next_ns = min(next_ns, now_ns + AGAIN_NS)
        self._answer()
        return next_ns

    def _catch_up(self, now_ns: int) -> int:
        """Not the coordinator: ask it for the catalog when no log brings it. Returns when to come again."""
        if self._fetching or self.newest_heard() <= self.newest_here():
            self._behind_since_ns = None
            return NEVER_NS
        if self._behind_since_ns is None:
            self._behind_since_ns = now_ns
        due_ns = self._behind_since_ns + self._gossip_ns
        if now_ns < due_ns:
            return due_ns
        self._behind_since_ns, self._fetching = None, True

        def done(answer: Answer | Refused) -> None:
            self._fetching = False
            if not isinstance(answer, Refused):
                self.got(answer["catalog"])

        self._ask(0, "metrics", {}, done)
        return now_ns + self._gossip_ns

    def _followed(self, number: int) -> Done:
        def done(answer: Answer | Refused) -> None:
            self._asked.pop(number, None)
            if not isinstance(answer, Refused):
                self._again_ns.pop(number, None)
                self._known[number] = answer["version"]

        return done

    def _answer(self) -> None:
        if not self._waiters:
            return
        known = min([self._groups[0].catalog.version, *self._known[1:], self.seen()])
        ripe = [waiter for waiter in self._waiters if waiter.version <= known]
        self._waiters = [waiter for waiter in self._waiters if waiter.version > known]
        for waiter in ripe:
            waiter.done(waiter.answer)

    def _stop(self) -> None:
        """Another node coordinates now."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.done(LEADER_CHANGED)
        self._known = [0] * len(self._groups)

"""A candidacy, a vote and an acknowledgement leave a node only when its disk has what they speak of, and a restart finds
it there. Otherwise a power cut would make a replica vote twice in one term, or forget entries that count as stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unimeter.core import peer_wire
from unimeter.core.effects import Effect, Send, Write
from unimeter.core.group import Group
from unimeter.core.inputs import Input, WriteDone
from unimeter.core.raft.messages import Kind
from unimeter.core.raft.raft import Raft
from unimeter.sim.host import Host
from unimeter.sim.invariant import Invariant
from unimeter.sim.raft_facts import Promise, promises

if TYPE_CHECKING:
    from unimeter.sim.runner import Run

Hard = tuple[int, int, int]  # term, vote, last index


class Check(Invariant):
    sentence = "For all votes and acknowledgements, always the disk has them before anybody else does, and after a restart too."
    canary = "promises_before_it_is_durable"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._durable: dict[tuple[str, int], Hard] = {}  # (host, group) -> at the most
        self._flying: dict[
            str, tuple[int, list[Hard]]
        ] = {}  # host -> journal write, and what it may hold of each group
        self._voted: dict[tuple[int, int], tuple[int, int]] = {}  # (replica, group) -> term, candidate
        self._acknowledged: dict[tuple[int, int], tuple[int, int]] = {}  # (replica, group) -> term, index

    def moved(self, host: Host, group: int, raft: Raft, fresh: bool) -> None:
        if not fresh:
            return
        hard, last = raft.stable.hard, raft.stable.index
        self._durable[host.name, group] = (hard.term, hard.vote, last)
        self._flying.pop(host.name, None)
        key = (raft.replica, group)
        term, candidate = self._voted.get(key, (0, 0))
        if term:
            self.check(
                hard.term > term or (hard.term == term and hard.vote == candidate),
                f"group {group}: {host.name} voted for {candidate:016x} in term {term}; started again it knows of term "
                f"{hard.term} and a vote for {hard.vote:016x}",
            )
        term, index = self._acknowledged.get(key, (0, 0))
        if term == hard.term and index:
            self.check(
                last >= index,
                f"group {group}: {host.name} acknowledged index {index} in term {term}; started again its log ends at {last}",
            )

    def acted(self, host: Host, event: Input, effects: list[Effect]) -> None:
        if isinstance(event, WriteDone):
            op, saved = self._flying.get(host.name, (0, []))
            if op == event.op and event.error is None:
                for group, hard in enumerate(saved):
                    self._durable[host.name, group] = hard
        for effect in effects:
            if isinstance(effect, Send):
                data = effect.data
                if len(data) > 40 and data[5] == peer_wire.RAFT:
                    for promise in promises(data):
                        self._promised(host, promise)
            elif isinstance(effect, Write) and not effect.bulk:
                groups: list[Group] = host.node.groups
                rafts = [group.raft for group in groups]
                self._flying[host.name] = (effect.op, [(raft.term, raft.vote, raft.log.last_index) for raft in rafts])

    def _promised(self, host: Host, promise: Promise) -> None:
        term, vote, last = self._durable[host.name, promise.group]
        if promise.kind == Kind.APPEND_REPLY:
            if not self.holds(last >= promise.last and term >= promise.term):
                self.fail(
                    f"group {promise.group}: {host.name} acknowledges index {promise.last} in term {promise.term}; its disk has "
                    f"at most index {last} and term {term}"
                )
            if promise.last:
                self._acknowledged[promise.sender, promise.group] = (promise.term, promise.last)
            return
        candidate = promise.sender if promise.kind == Kind.VOTE else promise.to
        if not self.holds(term > promise.term or (term == promise.term and vote == candidate)):
            self.fail(
                f"group {promise.group}: {host.name} votes for {candidate:016x} in term {promise.term}; its disk has at most "
                f"term {term} and a vote for {vote:016x}"
            )
        self._voted[promise.sender, promise.group] = (promise.term, candidate)

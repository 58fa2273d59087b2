"""Those who look on: what the world reports goes to the ledger and to every invariant that has a hook for it.

A step of a node is looked at once, here. Most steps change nothing of interest; where a log, a term or a commit index
moved, or entries were applied, the invariants that ask for that are told (`moved`, `applied`).
"""

from __future__ import annotations

import traceback
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from unimeter.core.effects import Effect
from unimeter.core.group import Group
from unimeter.core.inputs import Input
from unimeter.core.node import Node
from unimeter.core.raft.raft import Raft
from unimeter.invariants import ALL
from unimeter.sim.host import Host
from unimeter.sim.invariant import Broken, Invariant
from unimeter.sim.line import AnyResponse
from unimeter.sim.marks import mark_death, mark_process
from unimeter.sim.requests import Request
from unimeter.sim.sightings import Sight, sightings
from unimeter.sim.world import Livelock

if TYPE_CHECKING:
    from unimeter.sim.runner import Run

HOOKS: Final = (
    "booted", "stepped", "acted", "moved", "applied", "died", "ending", "halted", "broke", "sent", "settled", "answered_again", "stray", "garbled", "accepted",
    "calmed", "finished",
)  # fmt: skip


class Watch:
    """The `Watcher` of all hosts and the `Witness` of all clients of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.invariants: list[Invariant] = [kind(run) for kind in ALL]
        self._hooks = {name: self._overriders(name) for name in HOOKS}
        self._stepped = self._hooks["stepped"]
        self._logs: dict[str, list[Sight | None]] = defaultdict(list)  # host -> of each group
        self._applied: dict[
            str, tuple[tuple[int, ...], list[int]]
        ] = {}  # host -> process and replica; index of each group
        self._acted = self._hooks["acted"]
        self._replicated = run.cluster.replicated

    def _overriders(self, name: str) -> list[Any]:
        base = getattr(Invariant, name)
        return [getattr(each, name) for each in self.invariants if getattr(type(each), name) is not base]

    def each(self, hook: str, *args: Any) -> None:
        for call in self._hooks[hook]:
            call(*args)

    def tell(self, name: str, *args: Any) -> None:
        """Hooks that only some invariants have."""
        for invariant in self.invariants:
            call = getattr(invariant, name, None)
            if call is not None:
                call(*args)

    def finish(self, canary: str | None) -> list[str]:
        """Let every invariant judge the facts; the first that is broken is raised, the others are named in `also`."""
        broken: list[Broken] = []
        for call in self._hooks["finished"]:
            try:
                call()
            except Broken as found:
                broken.append(found)
        if broken:
            own = {kind.name() for kind in ALL if kind.canary == canary}
            broken.sort(key=lambda found: found.invariant not in own)  # a canary's own invariant speaks first
            self._run.also_broken = [found.invariant for found in broken[1:]]
            raise broken[0]
        return []

    # ---- hosts ----

    def booted(self, host: Host) -> None:
        self.each("booted", host)

    def stepped(self, host: Host, event: Input, effects: list[Effect]) -> None:
        node: Node | None = host.node
        if node is None:
            return
        if self._replicated:
            replica = node.replica
            if replica:
                if replica != host.replica:
                    self._run.mark("new replica")
                    host.replica = replica
                    host.renewed()
                self._look_at_logs(host, node.groups)
                for call in self._acted:
                    call(host, event, effects)
        if not node.ready:
            return
        for call in self._stepped:
            call(host, event, effects)
        self._look_at_states(host, node.groups)

    def _look_at_logs(self, host: Host, groups: list[Group]) -> None:
        sights, incarnation = self._logs[host.name], host.incarnations
        if len(sights) < len(groups):
            sights += [None] * (len(groups) - len(sights))
        for number, group in enumerate(groups):
            raft = group.raft
            log = raft.log
            now: Sight = (
                incarnation, raft.replica, raft.term, raft.role, raft.vote, raft.commit, raft.stable.index, log.last_index,
                log.last_term, len(raft.confs), raft.heir,
            )  # fmt: skip
            before = sights[number]
            if now != before:
                sights[number] = now
                self._moved(host, number, raft, before, now)

    def _moved(self, host: Host, number: int, raft: Raft, before: Sight | None, now: Sight) -> None:
        fresh = before is None or before[:2] != now[:2]
        if before is not None and not fresh:
            for place in sightings(raft, before, now):
                self._run.mark(place)
                self._run.faults.reached(place, host)
        for call in self._hooks["moved"]:
            call(host, number, raft, fresh)

    def _look_at_states(self, host: Host, groups: list[Group]) -> None:
        born, indexes = self._applied.get(host.name, ((), []))
        if born != (host.incarnations, host.node.replica):
            born, indexes = (host.incarnations, host.node.replica), [-1] * len(groups)
            self._applied[host.name] = (born, indexes)
        for number, group in enumerate(groups):
            index, before = group.applied_index, indexes[number]
            if index != before:
                indexes[number] = index
                digest = group.meta().digest
                for call in self._hooks["applied"]:
                    call(host, number, index, digest, before < 0)

    def died(self, host: Host, how: str) -> None:
        mark_process(self._run, host)
        mark_death(self._run, host)
        self.each("died", host, how)

    def ending(self, host: Host) -> None:
        mark_process(self._run, host)
        self.each("ending", host)

    def halted(self, host: Host, reason: str | None) -> None:
        """It is started again by whoever looks after it; what is broken beyond its own means is replaced first."""
        run = self._run
        self.each("halted", host, reason)
        if reason is not None and any(name in reason for name in host.disk.image.tainted()):
            self._repair(host)
        run.faults.restart_later(host)

    def _repair(self, host: Host) -> None:
        """From a backup when there is only one node; by the other nodes when there are several."""
        if self._replicated:
            host.wipe()
        else:
            self._run.world.note("damaged files restored")
            host.disk.image.repair()

    def broke(self, host: Host, error: Exception) -> None:
        if not isinstance(error, Broken | Livelock):
            text = "".join(traceback.format_exception(error)[-6:])
            self.each("broke", host, RuntimeError(f"{host.name}: {text}"))

    # ---- clients ----

    def made(self, request: Request) -> None:
        for metric in request.metrics:
            metric.outstanding += 1

    def sent(self, request: Request) -> None:
        self._run.ledger.sent(request)
        self.each("sent", request)

    def settled(self, request: Request) -> None:
        for metric in request.metrics:
            metric.outstanding -= 1
            metric.unsettled = metric.unsettled or request.state == "unknown"
        self.each("settled", request)

    def answered_again(self, request: Request, response: AnyResponse) -> None:
        self.each("answered_again", request, response)

    def put_off(self, request: Request, code: str) -> None:
        marks = self._run.marks
        marks[f"put off: {code}"] = marks.get(f"put off: {code}", 0) + 1

    def stray(self, client: str, response: AnyResponse) -> None:
        self.each("stray", client, response)

    def garbled(self, client: str, why: str) -> None:
        self.each("garbled", client, why)

    def accepted(self, client: str, data: bytes) -> None:
        self.each("accepted", client, data)

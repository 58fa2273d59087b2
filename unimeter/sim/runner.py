"""One seed: build a world, make it bad, make it good again, and see whether every promise was kept.

chaos    clients work while faults fire
calm     everything is healed; all clients must finish within the scenario's bound of virtual time
audit    the node lists every event; the log is known; every total is asked for and compared
again    the process is restarted once more, and must say the same
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from time import process_time
from typing import Any, TextIO

from unimeter.core.effects import Effect
from unimeter.core.inputs import Input
from unimeter.invariants import ALL
from unimeter.kernels.api import Kernels
from unimeter.sim import canaries
from unimeter.sim.auditor import Auditor
from unimeter.sim.cast import Cast, make_client
from unimeter.sim.client import AnyResponse, Manners
from unimeter.sim.clock import WallClock
from unimeter.sim.disk import KILL
from unimeter.sim.faults import Faults
from unimeter.sim.host import Host, NodeSetup
from unimeter.sim.invariant import Broken, Invariant
from unimeter.sim.ledger import Ledger
from unimeter.sim.marks import mark_process, situations
from unimeter.sim.network import Network
from unimeter.sim.prng import Prng
from unimeter.sim.requests import Request
from unimeter.sim.scenario import Scenario
from unimeter.sim.space import Space, make_metrics
from unimeter.sim.trace import Trace
from unimeter.sim.world import MS, SECOND, Livelock, World

YEAR_2024_NS = 1_704_067_200 * SECOND
QUIET_NS = 500 * MS
AUDIT_MANNERS = Manners(window=64, think_ns=1, timeout_ns=20 * SECOND)


@dataclass
class Failure:
    invariant: str
    sentence: str
    detail: str
    step: int
    virtual_ns: int
    tail: list[str] = field(default_factory=list)
    also: list[str] = field(default_factory=list)  # other invariants that the same facts break


@dataclass
class RunResult:
    scenario: str
    seed: int
    digest: str
    steps: int
    virtual_ns: int
    cpu_s: float
    events_stored: int
    requests: int
    fired: dict[str, int]
    marks: dict[str, int]
    evaluated: dict[str, int]
    failure: Failure | None = None


class Run:
    """Everything of one run. Invariants look at it; nobody else holds it."""

    def __init__(
        self, scenario: Scenario, seed: int, kernels: Kernels, canary: str | None = None, sink: TextIO | None = None
    ) -> None:
        prng = Prng(seed, scenario.name)
        self.scenario = scenario
        self.seed = seed
        self.canary = canary
        self.trace = Trace(sink)
        self.world = World(self.trace)
        self.network = Network(self.world, prng.stream("network"))
        self.kernels = kernels
        wall_ns = start_of_time(prng.stream("wall"))
        self.setup = NodeSetup(scenario.node, scenario.limits, kernels)
        self.host = Host(
            self.world, self.network, "node1", self.setup, WallClock(self.world, wall_ns), prng.stream("host"), self
        )
        self.hosts = [self.host]
        self._places: dict[str, tuple[int, int]] = {}  # host -> incarnation and index last seen
        self.ledger = Ledger()
        self.calm = False
        self.tables_filled = False  # some table came near its limit
        self.also_broken: list[str] = []
        self.marks: dict[str, int] = {}  # situation -> how often it was reached
        self._numbers = 0
        self.metrics = make_metrics(prng.stream("metrics"))
        self.space = Space(prng.stream("space"), wall_ns, self.metrics, scenario.space)
        self.faults = Faults(self.world, self.network, self.hosts, list(scenario.faults), prng.stream("faults"))
        self.cast = Cast(self, prng.stream("clients"))
        self._auditor = Auditor("auditor", self.space, prng.stream("auditor"), self.number, 0, ledger=self.ledger)
        self._audit_client = make_client(self, self._auditor, prng.stream("audit"), AUDIT_MANNERS)
        self.invariants: list[Invariant] = [kind(self) for kind in ALL]
        self._hooks = {name: self._overriders(name) for name in HOOKS}
        canaries.plant(canary, self)

    def dates(self) -> tuple[int, int]:
        """The least and the greatest date that any node ever saw."""
        shown = [date for host in self.hosts for date in host.wall.dates(0, self.world.now_ns)]
        return min(shown), max(shown)

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    # ---- phases ----

    def execute(self) -> RunResult:
        started = process_time()
        failure = None
        try:
            self._phases()
        except Broken as broken:
            failure = self._failure(broken.invariant, broken.sentence, broken.detail)
        except Livelock as error:
            failure = self._failure("it_becomes_calm", "For all runs, time always goes on.", str(error))
        return RunResult(
            scenario=self.scenario.name,
            seed=self.seed,
            digest=self.trace.digest(),
            steps=self.world.steps,
            virtual_ns=self.world.now_ns,
            cpu_s=process_time() - started,
            events_stored=len(self.ledger.log),
            requests=len(self.ledger.requests),
            fired=dict(self.faults.fired),
            marks=situations(self),
            evaluated={invariant.name(): invariant.evaluated for invariant in self.invariants},
            failure=failure,
        )

    def _failure(self, invariant: str, sentence: str, detail: str) -> Failure:
        return Failure(
            invariant, sentence, detail, self.world.steps, self.world.now_ns, self.trace.tail(), self.also_broken
        )

    def _phases(self) -> None:
        self.host.boot()
        for client in [*self.cast.clients, *self.cast.subscribers]:
            client.start()
        self.faults.start()
        self.world.run(self.scenario.chaos_ms * MS)
        for writer in self.cast.behaviours:
            writer.hurry(self.scenario.clients.requests // 3)
        self._become_calm()
        self._audit(in_detail=True)
        self._restart()
        self._audit(in_detail=False)
        newest = len(self.ledger.alerts)
        self._wait(lambda: all(subscriber.seen >= newest for subscriber in self.cast.subscribers))
        self._finish()

    def _finish(self) -> None:
        """Let every invariant judge the facts; the first that is broken is reported, the others are named."""
        broken: list[Broken] = []
        for call in self._hooks["finished"]:
            try:
                call()
            except Broken as found:
                broken.append(found)
        if broken:
            own = {kind.name() for kind in ALL if kind.canary == self.canary}
            broken.sort(key=lambda found: found.invariant not in own)  # a canary's own invariant speaks first
            self.also_broken = [found.invariant for found in broken[1:]]
            raise broken[0]

    def _become_calm(self) -> None:
        self.faults.heal()
        self.calm = True
        self._each_call("healed")
        for host in self.hosts:
            if not host.up:
                self.faults.restart_later(host)
        self._wait(lambda: all(client.finished for client in self.cast.clients) and self._ready())
        self.world.run(self.world.now_ns + QUIET_NS)  # what clients had given up may still be on its way

    def _restart(self) -> None:
        for host in self.hosts:
            if host.disk.fragile:
                host.disk.image.repair()
                host.disk.fragile = False
            self._each_call("about_to_restart", host)
            host.crash(KILL)
            self.faults.restart_later(host)
        self._wait(self._ready)

    def _audit(self, in_detail: bool) -> None:
        auditor = self._auditor
        auditor.ask_for_lists()
        self._ask()
        self.ledger.set_log(auditor.listed)
        auditor.ask_for_totals(in_detail)
        self._ask()

    def _ask(self) -> None:
        """Let the auditor get all of its answers; damage that reading finds is repaired, and the question repeated."""
        for _ in range(3):
            self._audit_client.start()
            self._wait(lambda: self._audit_client.finished)
            refused, self._auditor.refusals = self._auditor.refusals, []
            if not refused:
                return
            self._each_call("unanswered", refused)
            for host in self.hosts:
                host.disk.image.repair()
            for request in refused:
                request.state = "open"
            self._auditor.todo += refused
        raise AssertionError("the auditor's questions are refused on a sound disk")

    def _ready(self) -> bool:
        return all(host.up and host.node.ready for host in self.hosts)

    def _wait(self, done: Callable[[], bool]) -> None:
        in_time = self.world.run(self.world.now_ns + self.scenario.calm_ms * MS, done)
        waiting = [client.waiting_for() for client in [*self.cast.clients, self._audit_client] if not client.finished]
        self._each("calmed", in_time, waiting)

    # ---- those who look on ----

    def _overriders(self, name: str) -> list[Any]:
        base = getattr(Invariant, name)
        return [getattr(each, name) for each in self.invariants if getattr(type(each), name) is not base]

    def _each(self, hook: str, *args: Any) -> None:
        for call in self._hooks[hook]:
            call(*args)

    def _each_call(self, name: str, *args: Any) -> None:
        """Hooks that only some invariants have."""
        for invariant in self.invariants:
            call = getattr(invariant, name, None)
            if call is not None:
                call(*args)

    def booted(self, host: Host) -> None:
        self._each("booted", host)

    def stepped(self, host: Host, event: Input, effects: list[Effect]) -> None:
        node = host.node
        if node is None or not node.ready:
            return
        for call in self._hooks["stepped"]:
            call(host, event, effects)
        place = (host.incarnations, node.groups[0].applied_index)
        before = self._places.get(host.name, (0, 0))
        if place != before:
            self._places[host.name] = place
            for call in self._hooks["applied"]:
                call(host, place[1], place[0] != before[0])

    def died(self, host: Host, how: str) -> None:
        mark_process(self, host)
        self._each("died", host, how)

    def halted(self, host: Host, reason: str | None) -> None:
        self._each("halted", host, reason)
        if reason is not None and any(name in reason for name in host.disk.image.tainted()):
            self.world.note("damaged files restored")
            host.disk.image.repair()
        self.faults.restart_later(host)

    def broke(self, host: Host, error: Exception) -> None:
        if not isinstance(error, Broken | Livelock):
            text = "".join(traceback.format_exception(error)[-6:])
            self._each("broke", host, RuntimeError(text))

    def sent(self, request: Request) -> None:
        self.ledger.sent(request)
        for metric in request.metrics:
            metric.outstanding += 1

    def settled(self, request: Request) -> None:
        for metric in request.metrics:
            metric.outstanding -= 1
            metric.unsettled = metric.unsettled or request.state == "unknown"
        self._each("settled", request)

    def answered_again(self, request: Request, response: AnyResponse) -> None:
        self._each("answered_again", request, response)

    def put_off(self, request: Request, code: str) -> None:
        self.marks[f"put off: {code}"] = self.marks.get(f"put off: {code}", 0) + 1

    def stray(self, client: str, response: AnyResponse) -> None:
        self._each("stray", client, response)

    def garbled(self, client: str, why: str) -> None:
        self._each("garbled", client, why)

    def accepted(self, client: str, data: bytes) -> None:
        self._each("accepted", client, data)


HOOKS = (
    "booted", "stepped", "applied", "died", "halted", "broke", "settled", "answered_again", "stray", "garbled", "accepted", "calmed",
    "finished",
)  # fmt: skip


def start_of_time(prng: Prng) -> int:
    """A date for the run to begin: often just before an hour, a day or a month ends."""
    day = prng.below(700)
    edges = [
        day * 86_400 + prng.below(86_400),
        day * 86_400,
        31 * 86_400,
        60 * 86_400,
        day * 86_400 + 3600 * prng.below(24),
    ]
    return YEAR_2024_NS + prng.choice(edges) * SECOND - prng.choice([0, 200 * MS, 5 * SECOND])


def run_seed(
    scenario: Scenario, seed: int, kernels: Kernels, canary: str | None = None, sink: TextIO | None = None
) -> RunResult:
    """One run, start to end."""
    return Run(scenario, seed, kernels, canary, sink).execute()

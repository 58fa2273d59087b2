"""One seed: build a world, make it bad, make it good again, and see whether every promise was kept.

chaos    clients work while faults fire
calm     everything is healed; all clients must finish within the scenario's bound of virtual time
audit    the cluster lists every event; the logs are known; every total is asked for and compared
again    all processes are restarted once more, and must say the same (a cluster in every third run)
"""

from __future__ import annotations

from collections.abc import Callable
from time import process_time
from typing import Final, TextIO

from unimeter.kernels.api import Kernels
from unimeter.sim import canaries
from unimeter.sim.auditor import Auditor
from unimeter.sim.behaviours import Part
from unimeter.sim.cast import Cast, make_client
from unimeter.sim.client import Manners
from unimeter.sim.cluster import Cluster
from unimeter.sim.disk import KILL
from unimeter.sim.faults import Faults
from unimeter.sim.invariant import Broken
from unimeter.sim.ledger import Ledger
from unimeter.sim.marks import situations
from unimeter.sim.network import Network
from unimeter.sim.places import Places
from unimeter.sim.prng import Prng
from unimeter.sim.result import Failure, RunResult
from unimeter.sim.scenario import Scenario
from unimeter.sim.shared import sharing
from unimeter.sim.space import Space, make_metrics
from unimeter.sim.trace import Trace
from unimeter.sim.watch import Watch
from unimeter.sim.world import MS, SECOND, Livelock, World

YEAR_2024_NS: Final = 1_704_067_200 * SECOND
NOTICED_GOSSIPS: Final = 3  # a replica that differs is found out within so many
QUIET_NS: Final = 80 * MS
AGAIN: Final = 0.35  # how often a cluster is restarted at the end: it costs as much as a quarter of a run
FOUNDING_NS: Final = 40 * MS  # founders are started within so long
AUDIT_MANNERS: Final = Manners(window=48, think_ns=1, burst=48, timeout_ns=20 * SECOND)


class Run:
    """Everything of one run. Invariants look at it; nobody else holds it."""

    def __init__(
        self, scenario: Scenario, seed: int, kernels: Kernels, canary: str | None = None, sink: TextIO | None = None
    ) -> None:
        prng = Prng(seed, scenario.name)
        self.scenario = scenario
        self.seed = seed
        self.canary = canary
        self.kernels = kernels = sharing(kernels)
        self.trace = Trace(sink)
        self.world = World(self.trace)
        self.network = Network(self.world, prng.stream("network"))
        self.calm = False
        self.tables_filled = False  # some table came near its limit
        self.also_broken: list[str] = []
        self.marks: dict[str, int] = {}  # situation -> how often it was reached
        self._numbers = 0
        wall_ns = start_of_time(prng.stream("wall"))
        self.config = scenario.node
        shape = scenario.shape(prng.stream("shape"))
        self.cluster = Cluster(shape, scenario.node, scenario.limits, kernels, self.world, self.network, wall_ns, prng)
        self.places = Places(self.cluster.addresses(), shape.groups, kernels)
        self.ledger = Ledger(self.places)
        self.metrics = make_metrics(prng.stream("metrics"))
        self.space = Space(prng.stream("space"), wall_ns, self.metrics, scenario.space)
        self.faults = Faults(self.world, self.network, self.cluster, list(scenario.faults), prng.stream("faults"))
        self.watch = Watch(self)
        self.cluster.watched_by(self.watch)
        self.cast = Cast(self, prng.stream("clients"))
        self.faults.cluster_faults.operator = self.cast.operator
        self._prng = prng
        self._auditor = Auditor(Part("auditor", self.space, prng.stream("auditor"), self.number, 0), self.ledger)
        self._audit_client = make_client(self, self._auditor, prng.stream("audit"), AUDIT_MANNERS)
        canaries.plant(canary, self)

    def dates(self) -> tuple[int, int]:
        """The least and the greatest date that any node ever saw."""
        shown = [date for host in self.cluster.hosts for date in host.wall.dates(0, self.world.now_ns)]
        return min(shown), max(shown)

    def misled(self, since_ns: int, until_ns: int) -> bool:
        """Could an answer of this stretch come from a node whose memory is wrong, and that nobody has noticed yet?"""
        return any(host.misled(since_ns, until_ns) for host in self.cluster.hosts)

    def mark(self, situation: str) -> None:
        self.marks[situation] = self.marks.get(situation, 0) + 1

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
            evaluated={invariant.name(): invariant.evaluated for invariant in self.watch.invariants},
            failure=failure,
        )

    def _failure(self, invariant: str, sentence: str, detail: str) -> Failure:
        return Failure(
            invariant, sentence, detail, self.world.steps, self.world.now_ns, self.trace.tail(), self.also_broken
        )

    def _phases(self) -> None:
        self._boot()
        for client in [*self.cast.clients, *self.cast.subscribers]:
            client.start()
        self.faults.start()
        self.world.run(self.world.now_ns + self.scenario.chaos_ms * MS)
        for writer in self.cast.behaviours:
            writer.hurry(self.scenario.clients.requests // 3)
        for vandal in self.cast.vandals:
            vandal.hurry()
        self._become_calm()
        self._audit(in_detail=True)
        if not self.cluster.replicated or self._prng.stream("again").chance(AGAIN):
            self._restart()
            self._audit(in_detail=False)
        newest = len(self.ledger.alerts)
        if not self.misled(0, self.world.now_ns):
            self._wait(lambda: all(sum(subscriber.seen) >= newest for subscriber in self.cast.subscribers))
        else:  # what was computed last is compared, too
            gossip_ns = max(host.setup.config.gossip_ns for host in self.cluster.hosts)
            self.world.run(self.world.now_ns + NOTICED_GOSSIPS * gossip_ns)
        self.watch.finish(self.canary)

    def _boot(self) -> None:
        luck = self._prng.stream("boot")
        for host in self.cluster.members:
            if self.cluster.replicated:
                self.world.after(luck.below(FOUNDING_NS), host.boot)
            else:
                host.boot()
        if self.cluster.replicated and luck.chance(0.8):  # faults during the founding are rarer than later
            self.world.run(self.scenario.calm_ms * MS, self.cluster.ready)

    def _become_calm(self) -> None:
        self.faults.heal()
        self.calm = True
        self.watch.tell("healed")
        for host in self.cluster.members:
            if not host.up:
                self.faults.restart_later(host)
        self._wait(lambda: self._served() and self.cluster.settled())
        self.world.run(self.world.now_ns + QUIET_NS)  # what clients had given up may still be on its way

    def _served(self) -> bool:
        return all(client.finished for client in self.cast.clients)

    def _restart(self) -> None:
        for host in self.cluster.members:
            if host.disk.fragile:
                host.disk.image.repair()
                host.disk.fragile = False
            self.watch.tell("about_to_restart", host)
        for host in self.cluster.members:
            host.crash(KILL)
            self.faults.restart_later(host)
        self._wait(self.cluster.settled)

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
            self.watch.tell("unanswered", refused)
            for host in self.cluster.hosts:
                host.disk.image.repair()
            for request in refused:
                request.state = "open"
            self._auditor.todo += refused
        raise AssertionError(f"the auditor's questions are refused on a sound disk: {refused[0].error}")

    def _wait(self, done: Callable[[], bool]) -> None:
        in_time = self.world.run(self.world.now_ns + self.scenario.calm_ms * MS, done)
        waiting = [client.waiting_for() for client in [*self.cast.clients, self._audit_client] if not client.finished]
        self.watch.each("calmed", in_time, waiting)


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

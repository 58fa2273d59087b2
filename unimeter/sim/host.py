"""A machine and the processes that live and die on it.

A `Host` has what outlives a process: a disk, a wall clock, an address. Each start of the node is an
`Incarnation`: a fresh `Node` and a fresh `Driver` (both the real ones) with ports to the fake world. Whatever
reaches an incarnation goes through `enter`, which drops it when the process is dead, holds it while the process
is paused, and turns an exception into a failed run: a node has no business breaking.

    world event -> Incarnation.enter -> Driver -> Shuffled(Node).step -> effects, shuffled -> Driver -> ports
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from unimeter.config import NodeConfig
from unimeter.core.effects import Apply, Effect, Touch, Write
from unimeter.core.inputs import ApplyDone, Input, Now
from unimeter.core.node import Node
from unimeter.io.driver import Driver
from unimeter.kernels import layout
from unimeter.kernels.api import Bytes, Kernels, Limits
from unimeter.sim.clock import ProcessClock, WallClock
from unimeter.sim.disk import KILL, POWER_CUT, SimDisk
from unimeter.sim.network import End, Network
from unimeter.sim.prng import Prng
from unimeter.sim.world import MS, World

BUCKET_SUM_OFFSET: Final = layout.LAYOUTS["um_bucket"][1]["sum_lo"]
DIGEST_OFFSET: Final = layout.LAYOUTS["um_meta"][1]["digest"]
NEVER_NS: Final = 1 << 62
WORK_MAX_NS: Final = 2 * MS  # that a thread may take to apply what it was given


@dataclass(frozen=True)
class NodeSetup:
    """What a process is started with."""

    config: NodeConfig
    limits: Limits
    kernels: Kernels


class Watcher(Protocol):
    """Whoever looks on (the invariants)."""

    def booted(self, host: Host) -> None: ...
    def stepped(self, host: Host, event: Input, effects: list[Effect]) -> None: ...
    def died(self, host: Host, how: str) -> None:
        """It is about to be killed."""

    def ending(self, host: Host) -> None:
        """It is about to end by itself."""

    def halted(self, host: Host, reason: str | None) -> None: ...
    def broke(self, host: Host, error: Exception) -> None: ...


class Shuffled:
    """A node whose effects come in any order that the contract allows: only Writes of one lane keep theirs."""

    def __init__(self, host: Host, node: Any, prng: Prng) -> None:
        self._host = host
        self._node = node
        self._prng = prng
        self.halted: bool = node.halted  # these two are asked for at every step, where __getattr__ is slow
        self.deadline_ns: int = node.deadline_ns
        self._presuming = False  # the next step is of something that has not happened yet
        self._told: tuple[Input, list[Effect]] | None = None  # to those who look on, if that comes true
        self._believable = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def presumes(self) -> None:
        self._presuming = True

    def presumed(self, came_true: bool) -> None:
        told, self._told = self._told, None
        if not came_true:
            self._believable = False  # what it goes on with is not so; it ends without having told anybody
        elif told is not None:
            self._host.watcher.stepped(self._host, *told)

    def step(self, now: Now, event: Input) -> list[Effect]:
        node, host = self._node, self._host
        effects: list[Effect] = node.step(now, event)
        self.halted, self.deadline_ns = node.halted, node.deadline_ns
        if len(effects) > 1:
            effects = shuffled(effects, self._prng)
        if self._presuming:
            self._presuming, self._told = False, (event, effects)
        elif self._believable:
            host.watcher.stepped(host, event, effects)
        return effects


def shuffled(effects: list[Effect], prng: Prng) -> list[Effect]:
    lanes: dict[bool, list[Write]] = {False: [], True: []}
    for effect in effects:
        if isinstance(effect, Write):
            lanes[effect.bulk].append(effect)
    result = list(effects)
    prng.shuffle(result)
    for number, effect in enumerate(result):
        if isinstance(effect, Write):
            result[number] = lanes[effect.bulk].pop(0)
    return result


class Host:
    """One machine of the simulated cluster."""

    def __init__(
        self, world: World, network: Network, name: str, setup: NodeSetup, wall: WallClock, prng: Prng
    ) -> None:
        self.world = world
        self.network = network
        self.name = name
        self.setup = setup
        self.wall = wall
        self.watcher: Watcher  # set before anything happens
        self.disk = SimDisk(world, prng.stream("disk"))
        self.process: Incarnation | None = None
        self.incarnations = 0
        self.wipes = 0
        self.replica = 0  # the name of its directory in the cluster, as the node last said; 0: it has none
        self.flipped = False  # a bit of its memory is wrong: its state is nobody's measure
        self.flips: list[list[int]] = []  # from when to when that was so
        self.paused_until_ns = 0
        self.stop_asked = False  # of the present process
        self.peer_address = ""
        self.make_node: Callable[[NodeSetup], Any] = self._make_node
        self._prng = prng
        network.listen(setup.config.advertise, self)
        for member in setup.config.members:
            if member.node_id == setup.config.node_id:
                self.peer_address = member.peer_address
                network.listen(member.peer_address, self, inner=True)

    def _make_node(self, setup: NodeSetup) -> Any:
        """The chance that it is given is new each time: a directory that is laid out again is another replica."""
        luck = self._prng.stream(f"node{self.incarnations}").u64()
        return Node(setup.config, setup.kernels, setup.limits, luck)

    @property
    def up(self) -> bool:
        return self.process is not None

    @property
    def sound(self) -> bool:
        """Does its disk hold what was written, and its memory what was computed?"""
        disk = self.disk
        return not (self.flipped or disk.fragile or disk.lying or disk.image.tainted())

    @property
    def node(self) -> Any:
        """The running node, for looking only."""
        return None if self.process is None else self.process.node

    def boot(self) -> None:
        assert self.process is None
        self.incarnations += 1
        self.stop_asked = False
        self.world.note(f"host {self.name} boots #{self.incarnations}")
        self.process = Incarnation(self, self._prng.stream(f"process{self.incarnations}"))
        self.watcher.booted(self)
        self.process.enter(self.process.driver.boot)

    def crash(self, kind: str) -> None:
        """Kill the process (KILL) or the machine (POWER_CUT)."""
        if self.process is not None:
            self.world.note(f"host {self.name} {kind}")
            self.watcher.died(self, kind)
            self._bury(kind)

    def stop(self) -> None:
        """Ask for a clean stop (SIGTERM)."""
        if self.process is not None:
            self.world.note(f"host {self.name} asked to stop")
            self.stop_asked = True
            self.process.enter(self.process.driver.stop)

    def wipe(self) -> None:
        """The machine is lost, and replaced by one with an empty disk."""
        self.crash(POWER_CUT)
        self.disk.erase()
        self.wipes += 1
        self.replica = 0
        self.renewed()
        self.world.note(f"host {self.name} wiped")

    def pause(self, duration_ns: int) -> None:
        self.paused_until_ns = self.world.now_ns + duration_ns

    def flip(self, state: Any, luck: Prng) -> bool:
        """One bit changes in the memory of the process: of a bucket's sum, which shows when the bucket is touched next, or of
        the running digest, which shows at once. False: there is no bucket yet."""
        buckets = state.region_counts()[layout.UM_R_BUCKETS]
        if buckets == 0:
            return False
        bit = luck.below(8)
        if luck.chance(0.5):
            state.flip(layout.UM_R_META, DIGEST_OFFSET + luck.below(8), bit)
        else:
            state.flip(
                layout.UM_R_BUCKETS, luck.below(buckets) * layout.BUCKET.size + BUCKET_SUM_OFFSET + luck.below(8), bit
            )
        self.flipped = True
        self.flips.append([self.world.now_ns, NEVER_NS])
        return True

    def renewed(self) -> None:
        """Its directory is another one, and so is what it computes."""
        if self.flipped:
            self.flipped = False
            self.flips[-1][1] = self.world.now_ns

    def misled(self, since_ns: int, until_ns: int) -> bool:
        """Was its memory wrong at some time of this stretch?"""
        return any(start <= until_ns and since_ns <= end for start, end in self.flips)

    def accept(self, end: End, peer: str, inner: bool) -> bool:
        return self.process is not None and self.process.accept(end, peer, inner)

    def ended(self, reason: str | None) -> None:
        """The process ended itself."""
        self.world.note(f"host {self.name} halts: {reason}")
        self.watcher.ending(self)
        self._bury(KILL)
        self.watcher.halted(self, reason)

    def _bury(self, kind: str) -> None:
        process, self.process = self.process, None
        assert process is not None
        process.die(kind)
        self.disk.crash(kind)


class Incarnation:
    """One process. Also the `Network` and the `Process` that its driver sees."""

    def __init__(self, host: Host, prng: Prng) -> None:
        self._host = host
        self._ends: dict[int, End] = {}
        self._depth = 0
        self._held: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._halt: tuple[str | None] | None = None
        self.alive = True
        setup = host.setup
        self._luck = prng.stream("work")
        self.clock = ProcessClock(host.world, host.wall, prng.stream("clock"), self.enter)
        self.node = host.make_node(setup)
        seen = Shuffled(host, self.node, prng.stream("shuffle"))
        self.driver = Driver(
            seen,
            self.clock,
            host.disk.port(self.enter, seen),
            self,
            self,
            setup.kernels,
            setup.config,
        )

    def enter(self, call: Callable[..., None], *args: Any) -> None:
        """Run something inside the process."""
        host = self._host
        if not self.alive:
            return
        if self._held or host.world.now_ns < host.paused_until_ns:
            if not self._held:
                host.world.at(host.paused_until_ns, self._resume)
            self._held.append((call, args))
            return
        self._run(call, args)

    def _resume(self) -> None:
        """The pause is over: everything that came meanwhile happens now, in the order in which it came."""
        host = self._host
        if host.world.now_ns < host.paused_until_ns:
            host.world.at(host.paused_until_ns, self._resume)
            return
        held, self._held = self._held, []
        for call, args in held:
            if self.alive:
                self._run(call, args)

    def _run(self, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        host = self._host
        assert self._depth == 0, "the world called into a process from inside the process"
        self._depth = 1
        try:
            call(*args)
        except Exception as error:
            host.watcher.broke(host, error)
            raise
        finally:
            self._depth = 0
        if self._halt is not None and self.alive:
            host.ended(self._halt[0])

    def die(self, kind: str) -> None:
        self.alive = False
        self.clock.stop()
        for end in list(self._ends.values()):
            if kind == POWER_CUT:
                self._host.network.abandon(end)
            else:
                self._host.network.reset(end)
        self._ends.clear()

    # ---- connections ----

    def accept(self, end: End, peer: str, inner: bool) -> bool:
        if not self.alive:
            return False
        self._own(end)
        self._host.world.after(0, self.enter, self.driver.link_opened, end.link, peer, inner)
        return True

    def dial(self, ref: int, address: str) -> None:
        def opened(end: End) -> None:
            if not self.alive:
                self._host.network.reset(end)
                return
            self._own(end)
            self.enter(self.driver.link_opened, end.link, address, True, ref)

        def refused() -> None:
            self.enter(self.driver.dial_failed, ref)

        host = self._host
        host.network.connect(address, host.name, opened, refused, host.name)

    def _own(self, end: End) -> None:
        self._ends[end.link] = end
        end.on_bytes = self._on_bytes
        end.on_close = self._on_close

    def _on_bytes(self, end: End, data: bytes) -> None:
        self.enter(self.driver.bytes_arrived, end.link, data)

    def _on_close(self, end: End) -> None:
        self._ends.pop(end.link, None)
        self.enter(self.driver.link_closed, end.link)

    def work(self, effect: Apply) -> None:
        """Either it is done at once, or nobody works on it and what is not finished is not done: whoever looks at the state
        too early sees too much, or too little. When it could be finished is a matter of chance."""
        if self._luck.chance(0.5):
            effect.job.wait()
        delay_ns = self._luck.below(WORK_MAX_NS) if self._luck.chance(0.7) else 0
        self._host.world.after(delay_ns, self.enter, self.driver.completed, ApplyDone(effect.op))

    def answer(self, link: int, data: Bytes) -> None:
        self.send(link, data)

    def touch(self, effect: Touch) -> None:
        """Nothing: memory has no time here."""

    def send(self, link: int, data: Bytes) -> None:
        end = self._ends.get(link)
        if end is not None:
            self._host.network.send(end, data)

    def close(self, link: int) -> None:
        end = self._ends.get(link)
        if end is not None:
            self._host.network.close(end)

    # ---- the process itself ----

    def halt(self, reason: str | None) -> None:
        self._halt = (reason,)

"""What goes wrong, and when.

Two coins decide about each kind of fault: one, thrown once, whether it is in this run at all; one, thrown again
and again, whether it fires now. So every seed is a different kind of bad day, and some days have only one trouble
(which a uniform mixture would never show). A fault fires at random times (`every_ms` apart on average), or at an
operation of the disk (`on`, with a `chance`): a crash half-way through a checkpoint is a matter of the second sort.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unimeter.core.effects import Create, Delete, Read, Write
from unimeter.core.inputs import DiskError
from unimeter.sim.disk import KILL, POWER_CUT, Operation
from unimeter.sim.host import Host
from unimeter.sim.network import Network
from unimeter.sim.prng import Prng
from unimeter.sim.world import MS, SECOND, World

DAY_NS = 86_400 * SECOND


@dataclass(frozen=True)
class FaultSpec:
    """One kind of fault in a scenario (a [faults.KIND] table)."""

    kind: str
    in_run: float = 1.0
    every_ms: int = 0  # mean time between two; 0: not by time
    on: str = ""  # a place: journal_write, checkpoint_write, create, delete, read, recovery
    chance: float = 0.0  # at that place
    most: int = 1_000  # times in one run


class Faults:
    """The fault engine of one run."""

    def __init__(self, world: World, network: Network, hosts: list[Host], specs: list[FaultSpec], prng: Prng) -> None:
        self._world = world
        self._network = network
        self._hosts = hosts
        self._prng = prng
        self._actions: dict[str, Callable[[Host, Prng], bool]] = {
            "kill": lambda host, luck: self._crash(host, KILL, luck),
            "power_cut": lambda host, luck: self._crash(host, POWER_CUT, luck),
            "stop": self._stop,
            "pause": self._pause,
            "cut": self._cut,
            "half_open": self._half_open,
            "slow_network": self._slow_network,
            "fragment": self._fragment,
            "slow_disk": self._slow_disk,
            "full_disk": self._full_disk,
            "failed_sync": self._failed_sync,
            "rot": self._rot,
            "misdirect": self._misdirect,
            "clock_jump": self._clock_jump,
        }
        self.fired: dict[str, int] = {}
        self.specs = [spec for spec in specs if prng.stream(f"in-run/{spec.kind}").chance(spec.in_run)]
        self.active = False
        self._next_verdict: dict[str, DiskError] = {}
        self._misdirect_next = False
        self._most = {spec.kind: spec.most for spec in specs}

    @staticmethod
    def kinds() -> list[str]:
        return [
            "kill", "power_cut", "stop", "pause", "cut", "half_open", "slow_network", "fragment", "slow_disk", "full_disk",
            "failed_sync", "rot", "misdirect", "clock_jump",
        ]  # fmt: skip

    def start(self) -> None:
        self.active = True
        for spec in self.specs:
            luck = self._prng.stream(f"fire/{spec.kind}")
            if spec.every_ms:
                self._schedule(spec, luck)
            if spec.on:
                for host in self._hosts:
                    self._hook(host, spec, luck)
        for host in self._hosts:
            self._install(host)

    def heal(self) -> None:
        """The world is good from now on. Damage that is already on a platter stays."""
        self.active = False
        self._misdirect_next = False
        self._next_verdict.clear()
        self._network.settings = type(self._network.settings)()
        for host in self._hosts:
            settings = host.disk.settings
            settings.slow_factor = 1
            settings.capacity_bytes = 1 << 40
            host.paused_until_ns = min(host.paused_until_ns, self._world.now_ns)
        self._world.note("faults healed")

    # ---- when ----

    def _schedule(self, spec: FaultSpec, luck: Prng) -> None:
        self._world.after(luck.between(1, 2 * spec.every_ms * MS), self._by_time, spec, luck)

    def _by_time(self, spec: FaultSpec, luck: Prng) -> None:
        if self.active:
            self._fire(spec.kind, luck.choice(self._hosts), luck)
            self._schedule(spec, luck)

    def _hook(self, host: Host, spec: FaultSpec, luck: Prng) -> None:
        earlier = host.disk.faults.on_submit

        def on_submit(operation: Operation) -> None:
            if earlier is not None:
                earlier(operation)
            if self.active and self._is_at(host, spec.on, operation) and luck.chance(spec.chance):
                if spec.kind in ("failed_sync", "misdirect", "full_disk"):
                    self._fire(spec.kind, host, luck)  # strikes this very operation
                else:
                    self._world.after(luck.below(MS // 5), self._late, spec.kind, host, luck)

        host.disk.faults.on_submit = on_submit

    def _late(self, kind: str, host: Host, luck: Prng) -> None:
        if self.active:
            self._fire(kind, host, luck)

    def _is_at(self, host: Host, place: str, operation: Operation) -> bool:
        if place == "journal_write":
            return isinstance(operation, Write) and not operation.bulk
        if place == "checkpoint_write":
            return isinstance(operation, Write) and operation.bulk and operation.file.startswith("checkpoint")
        if place == "recovery":
            return host.node is not None and not host.node.ready
        return isinstance(operation, {"create": Create, "delete": Delete, "read": Read}[place])

    def _fire(self, kind: str, host: Host, luck: Prng) -> None:
        if self.fired.get(kind, 0) < self._most[kind] and self._actions[kind](host, luck):
            self.fired[kind] = self.fired.get(kind, 0) + 1
            self._world.note(f"fault {kind} on {host.name}")

    def _install(self, host: Host) -> None:
        def verdict(operation: Operation) -> DiskError | None:
            if isinstance(operation, Read) or host.disk.fragile:
                return None
            return self._next_verdict.pop(host.name, None)

        def misdirect(operation: Write) -> bool:
            # never the last write before a stop: nothing would follow it, and nobody could tell it from a torn tail
            if self._misdirect_next and not host.disk.fragile and not host.stop_asked and host.disk.newest:
                self._misdirect_next = False
                return True
            return False

        host.disk.faults.verdict = verdict
        host.disk.faults.misdirect = misdirect

    # ---- what ----

    def _crash(self, host: Host, kind: str, luck: Prng) -> bool:
        if not host.up or host.disk.fragile or any(pending.misdirected for pending in host.disk.pending):
            return False
        host.crash(kind)
        self.restart_later(host, luck)
        return True

    def restart_later(self, host: Host, luck: Prng | None = None) -> None:
        delay_ns = (luck or self._prng).between(MS, 60 * MS)
        self._world.after(delay_ns, self._boot, host)

    def _boot(self, host: Host) -> None:
        if not host.up:
            host.boot()

    def _stop(self, host: Host, luck: Prng) -> bool:
        if not host.up or host.disk.fragile or any(pending.misdirected for pending in host.disk.pending):
            return False
        host.stop()
        return True

    def _pause(self, host: Host, luck: Prng) -> bool:
        host.pause(luck.between(5 * MS, 400 * MS))
        return host.up

    def _cut(self, host: Host, luck: Prng) -> bool:
        links = sorted(self._network.ends)
        if not links:
            return False
        self._network.cut(self._network.ends[luck.choice(links)])
        return True

    def _half_open(self, host: Host, luck: Prng) -> bool:
        links = sorted(self._network.ends)
        if not links:
            return False
        end = self._network.ends[luck.choice(links)]
        self._network.half_open(end if luck.chance(0.5) else end.peer)
        return True

    def _slow_network(self, host: Host, luck: Prng) -> bool:
        self._network.settings.delay_max_ns = luck.between(2 * MS, 60 * MS)
        self._world.after(luck.between(50 * MS, 400 * MS), self._fast_network)
        return True

    def _fast_network(self) -> None:
        self._network.settings.delay_max_ns = type(self._network.settings)().delay_max_ns

    def _fragment(self, host: Host, luck: Prng) -> bool:
        settings = self._network.settings
        settings.fragment_chance = luck.choice([0.05, 0.3, 1.0])
        settings.fragment_bytes_max = luck.choice([7, 64, 1024])
        return True

    def _slow_disk(self, host: Host, luck: Prng) -> bool:
        host.disk.settings.slow_factor = luck.choice([5, 30, 200])
        self._world.after(luck.between(20 * MS, 500 * MS), self._fast_disk, host)
        return True

    def _fast_disk(self, host: Host) -> None:
        host.disk.settings.slow_factor = 1

    def _full_disk(self, host: Host, luck: Prng) -> bool:
        host.disk.settings.capacity_bytes = host.disk.image.used_bytes() + luck.choice([0, 4096, 65536])
        self._world.after(luck.between(20 * MS, 900 * MS), self._room, host)
        return True

    def _room(self, host: Host) -> None:
        host.disk.settings.capacity_bytes = 1 << 40

    def _failed_sync(self, host: Host, luck: Prng) -> bool:
        self._next_verdict[host.name] = DiskError.FAILED
        return True

    def _rot(self, host: Host, luck: Prng) -> bool:
        where = host.disk.rot()
        if where is not None:
            self._world.note(f"rot in {where}")
        return where is not None

    def _misdirect(self, host: Host, luck: Prng) -> bool:
        self._misdirect_next = True
        return True

    def _clock_jump(self, host: Host, luck: Prng) -> bool:
        size = luck.choice([MS, SECOND, 60 * SECOND, 3600 * SECOND, 3 * DAY_NS])
        host.wall.jump(luck.between(-size, size))
        return True

"""What goes wrong, and when.

Two coins decide about each kind of fault: one, thrown once, whether it is in this run at all; one, thrown again
and again, whether it fires now. So every seed is a different kind of bad day, and some days have only one trouble
(which a uniform mixture would never show). A fault fires at random times (`every_ms` apart on average), or at a place
(`on`, with a `chance`): at an operation of the disk, or where something
is seen of a replica ("election_won"); a crash
half-way through a checkpoint is a matter of the second sort. A name that ends in _leader or _follower aims it: at a
machine that leads some group now, or at another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from unimeter.core.effects import Create, Delete, Read, Write
from unimeter.sim import sightings
from unimeter.sim.cluster import Cluster
from unimeter.sim.disk import Operation
from unimeter.sim.fault_base import Action, FaultKinds, Stage
from unimeter.sim.fault_cluster import ClusterFaults
from unimeter.sim.fault_disk import AT_ONCE, DiskFaults
from unimeter.sim.fault_network import NetworkFaults
from unimeter.sim.fault_process import ProcessFaults
from unimeter.sim.host import Host
from unimeter.sim.network import Network
from unimeter.sim.prng import Prng
from unimeter.sim.world import MS, World

PLACES: Final = ("journal_write", "checkpoint_write", "recovery", "create", "delete", "read")  # of the disk
EVERYWHERE: Final = (*PLACES, *sightings.PLACES)
LEADER, FOLLOWER = "_leader", "_follower"
SOON_NS: Final = MS // 5  # a fault at a place strikes so soon after


@dataclass(frozen=True)
class FaultSpec:
    """One fault in a scenario (a [faults.NAME] table)."""

    name: str  # kill, kill_leader, ...
    in_run: float = 1.0
    every_ms: int = 0  # mean time between two; 0: not by time
    on: str = ""  # a place: one of PLACES, or of those in sightings.py
    chance: float = 0.0  # at that place
    most: int = 1_000  # times in one run

    def __post_init__(self) -> None:
        if self.kind not in Faults.kinds():
            raise ValueError(f"unknown fault {self.kind!r}: use one of {', '.join(Faults.kinds())}")
        if self.on and self.on not in EVERYWHERE:
            raise ValueError(f"unknown place {self.on!r}: use one of {', '.join(EVERYWHERE)}")

    @property
    def kind(self) -> str:
        return self.name.removesuffix(LEADER).removesuffix(FOLLOWER)

    @property
    def aimed(self) -> bool:
        return self.kind != self.name

    @property
    def at_leader(self) -> bool:
        return self.name.endswith(LEADER)


class Faults:
    """The fault engine of one run."""

    families: ClassVar[tuple[type[FaultKinds], ...]] = (ProcessFaults, NetworkFaults, DiskFaults, ClusterFaults)

    def __init__(self, world: World, network: Network, cluster: Cluster, specs: list[FaultSpec], prng: Prng) -> None:
        self.stage = Stage(world, network, cluster, prng)
        self._world = world
        self._cluster = cluster
        self._prng = prng
        self._disk = DiskFaults(self.stage)
        self.cluster_faults = ClusterFaults(self.stage)
        self._families = (ProcessFaults(self.stage), NetworkFaults(self.stage), self._disk, self.cluster_faults)
        self._actions: dict[str, Action] = {}
        for family in self._families:
            self._actions |= family.actions()
        self.fired: dict[str, int] = {}
        self.specs = [spec for spec in specs if prng.stream(f"in-run/{spec.name}").chance(spec.in_run)]
        self._at_sightings = [spec for spec in self.specs if spec.on in sightings.PLACES]
        self._sight_luck = {spec.name: prng.stream(f"sight/{spec.name}") for spec in self._at_sightings}

    @staticmethod
    def kinds() -> list[str]:
        return [kind for family in Faults.families for kind in family.kinds]

    @property
    def active(self) -> bool:
        return self.stage.active

    def start(self) -> None:
        self.stage.active = True
        for spec in self.specs:
            luck = self._prng.stream(f"fire/{spec.name}")
            if spec.every_ms:
                self._schedule(spec, luck)
            if spec.on in PLACES:
                for host in self._cluster.hosts:
                    self._hook(host, spec, luck)
        for host in self._cluster.hosts:
            self._disk.install(host)

    def heal(self) -> None:
        """The world is good from now on. Damage that is already on a platter stays."""
        self.stage.active = False
        for family in self._families:
            family.heal()
        self._world.note("faults healed")

    def restart_later(self, host: Host) -> None:
        self.stage.restart_later(host)

    # ---- when ----

    def _schedule(self, spec: FaultSpec, luck: Prng) -> None:
        self._world.after(luck.between(1, 2 * spec.every_ms * MS), self._by_time, spec, luck)

    def _by_time(self, spec: FaultSpec, luck: Prng) -> None:
        if self.stage.active:
            host = self._victim(spec, luck)
            if host is not None:
                self._fire(spec, host, luck)
            self._schedule(spec, luck)

    def _victim(self, spec: FaultSpec, luck: Prng) -> Host | None:
        members = self._cluster.members
        if not spec.aimed:
            return luck.choice(members) if len(members) > 1 else members[0]
        leader = self._cluster.leader(luck.below(self._cluster.group_count))
        if spec.at_leader or leader is None:
            return leader
        rest = [host for host in members if host is not leader]
        return luck.choice(rest) if rest else None

    def _hook(self, host: Host, spec: FaultSpec, luck: Prng) -> None:
        earlier = host.disk.faults.on_submit

        def on_submit(operation: Operation) -> None:
            if earlier is not None:
                earlier(operation)
            if not self.stage.active or not _is_at(host, spec.on, operation) or not luck.chance(spec.chance):
                return
            if spec.aimed and self._leads(host) != spec.at_leader:
                return
            if spec.kind in AT_ONCE:
                self._fire(spec, host, luck)
            else:
                self._world.after(luck.below(SOON_NS), self._late, spec, host, luck)

        host.disk.faults.on_submit = on_submit

    def _leads(self, host: Host) -> bool:
        return any(leader is host for _, leader in self._cluster.led())

    def _late(self, spec: FaultSpec, host: Host, luck: Prng) -> None:
        if self.stage.active:
            self._fire(spec, host, luck)

    def reached(self, place: str, host: Host) -> None:
        """Something was seen of a replica: is anything to happen there?"""
        if not self.stage.active:
            return
        for spec in self._at_sightings:
            if spec.on == place and self._sight_luck[spec.name].chance(spec.chance):
                luck = self._sight_luck[spec.name]
                victim = self._victim(spec, luck) if spec.aimed else host
                if victim is not None:
                    self._world.after(luck.below(SOON_NS), self._late, spec, victim, luck)

    def _fire(self, spec: FaultSpec, host: Host, luck: Prng) -> None:
        name = spec.name
        if self.fired.get(name, 0) < spec.most and self._actions[spec.kind](host, luck):
            self.fired[name] = self.fired.get(name, 0) + 1
            self._world.note(f"fault {name} on {host.name}")


def _is_at(host: Host, place: str, operation: Operation) -> bool:
    if place == "journal_write":
        return isinstance(operation, Write) and not operation.bulk
    if place == "checkpoint_write":
        return isinstance(operation, Write) and operation.bulk and operation.file.startswith("checkpoint")
    if place == "recovery":
        return host.node is not None and not host.node.ready
    return isinstance(operation, {"create": Create, "delete": Delete, "read": Read}[place])

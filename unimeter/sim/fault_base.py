"""What all faults share: the world that they spoil, and the machine that they hit.

A fault is a method of one of the classes in `fault_*.py`, named like its kind. It says whether it struck: a machine that is
down cannot be killed, and one whose loss would take the last majority from a group's data may not lose it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from unimeter.sim.cluster import Cluster
from unimeter.sim.host import Host
from unimeter.sim.network import Network
from unimeter.sim.prng import Prng
from unimeter.sim.world import MS, World

Action = Callable[[Host, Prng], bool]


@dataclass
class Stage:
    """Where faults happen."""

    world: World
    network: Network
    cluster: Cluster
    prng: Prng
    active: bool = False  # faults fire; after healing they do not any more

    def restart_later(self, host: Host, luck: Prng | None = None, most_ns: int = 60 * MS) -> None:
        self.world.after((luck or self.prng).between(MS, most_ns), self._boot, host)

    def _boot(self, host: Host) -> None:
        if not host.up and host in self.cluster.members:
            host.boot()


class FaultKinds:
    """Some kinds of faults."""

    kinds: ClassVar[tuple[str, ...]] = ()

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.world, self.network, self.cluster = stage.world, stage.network, stage.cluster

    def actions(self) -> dict[str, Action]:
        return {kind: getattr(self, kind) for kind in self.kinds}

    def heal(self) -> None:
        """The world is good from now on."""

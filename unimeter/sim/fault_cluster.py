"""What operators do: they add nodes and remove them, and move leadership. Not a fault, but trouble all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unimeter.sim.fault_base import FaultKinds, Stage
from unimeter.sim.host import Host
from unimeter.sim.prng import Prng

if TYPE_CHECKING:
    from unimeter.sim.operator import Operator


class ClusterFaults(FaultKinds):
    kinds = ("join", "leave", "transfer", "drain")

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.operator: Operator | None = None  # set by the run

    def join(self, host: Host, luck: Prng) -> bool:
        waiting = [spare for spare in self.cluster.spares if spare not in self.cluster.members]
        return self.operator is not None and bool(waiting) and self.operator.add(waiting[0])

    def leave(self, host: Host, luck: Prng) -> bool:
        members = self.cluster.members
        enough = len(members) > max(len(self.cluster.founders), self.cluster.shape.replicas, 1)
        return self.operator is not None and enough and self.operator.remove(luck.choice(members))

    def drain(self, host: Host, luck: Prng) -> bool:
        enough = len(self.cluster.members) > len(self.cluster.founders)
        return self.operator is not None and enough and self.operator.drain(host)

    def transfer(self, host: Host, luck: Prng) -> bool:
        if self.operator is None or len(self.cluster.members) < 2:
            return False
        return self.operator.transfer(luck.below(self.cluster.group_count), luck.choice(self.cluster.members))

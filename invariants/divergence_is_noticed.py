"""A replica whose state differs from what the others computed must not serve it for long. Once its digest differs at an
index that a majority has reached, it halts and says so, within the few gossip intervals for which a run with a flipped bit goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unimeter.sim.host import Host
from unimeter.sim.invariant import Invariant

if TYPE_CHECKING:
    from unimeter.sim.runner import Run


class Check(Invariant):
    sentence = "For all replicas whose state differs from the others', always they halt with a report that says so."
    canary = "is_blind_to_divergence"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._right: dict[tuple[int, int], int] = {}  # (group, index) -> digest of a sound replica
        self._odd: dict[str, tuple[int, int, int]] = {}  # host -> replica, group and index at which it differed

    def applied(self, host: Host, group: int, index: int, digest: int, fresh: bool) -> None:
        if not self.run.cluster.replicated:
            return
        if not host.flipped:
            self._right.setdefault((group, index), digest)
        elif self._right.get((group, index), digest) != digest:
            self._odd.setdefault(host.name, (host.replica, group, index))

    def halted(self, host: Host, reason: str | None) -> None:
        if reason is not None and "divergence" in reason:
            self.check(host.flipped, f"{host.name} halted with {reason!r}, but its memory is as it was computed")
            self._odd.pop(host.name, None)

    def finished(self) -> None:
        for name, (replica, group, index) in self._odd.items():
            host = next(host for host in self.run.cluster.hosts if host.name == name)
            self.check(
                host.replica != replica,
                f"{name} differs from the others in group {group} since index {index}, and still serves",
            )

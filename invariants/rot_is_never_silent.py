"""A disk that lies: bits flip, writes land elsewhere. A node may refuse to start or to answer, and must then name
a file that is really damaged; what it may not do is to go on with less than it had, or with something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unimeter.sim.host import Host
from unimeter.sim.invariant import Invariant
from unimeter.sim.requests import REFUSED, Request

if TYPE_CHECKING:
    from unimeter.sim.runner import Run


class Check(Invariant):
    sentence = "For all damage to durable bytes, the node always names the damaged file or is not affected by it."
    canary = "takes_rot_for_a_torn_tail"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._highest: dict[tuple[str, int], int] = {}
        self._damaged_at_boot: dict[str, bool] = {}

    def booted(self, host: Host) -> None:
        self._damaged_at_boot[host.name] = bool(host.disk.image.tainted())

    def applied(self, host: Host, group: int, index: int, digest: int, fresh: bool) -> None:
        highest = self._highest.get((host.name, group), 0)
        if fresh and self._damaged_at_boot[host.name] and not self.run.cluster.replicated:
            last = host.node.groups[group].raft.stable_index
            self.check(
                last >= highest,
                f"started on damaged files {host.disk.image.tainted()} at index {last}, but {highest} had been applied",
            )
        self._highest[host.name, group] = max(highest, index)

    def halted(self, host: Host, reason: str | None) -> None:
        damaged = host.disk.image.tainted()
        if reason is not None and damaged and "disk failed" not in reason and "disk is full" not in reason:
            self.check(
                any(name in reason for name in damaged) or "divergence" in reason,
                f"the node stopped with {reason!r}; damaged are {damaged}",
            )

    def settled(self, request: Request) -> None:
        if request.state == REFUSED and request.error == "internal":
            met = any(host.disk.tainted_read_ns >= request.sent_ns for host in self.run.cluster.hosts)
            self.check(met, f"{request.describe()} was refused as internal, but no read had met damage")

"""State is a function of the log: replicas of a group that have applied the same entries have the same state, bit for bit
(their running digests are compared at every index that two of them reach)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unimeter.sim.host import Host
from unimeter.sim.invariant import Invariant

if TYPE_CHECKING:
    from unimeter.sim.runner import Run


class Check(Invariant):
    sentence = "For all replicas of a group, at equal applied indexes their states always have equal digests."
    canary = "one_node_computes_otherwise"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._digests: dict[tuple[int, int], tuple[int, str]] = {}  # (group, index) -> digest, and who was there first

    def applied(self, host: Host, group: int, index: int, digest: int, fresh: bool) -> None:
        if host.flipped or not self.run.cluster.replicated:
            return
        known, who = self._digests.setdefault((group, index), (digest, host.name))
        if who != host.name and not self.holds(known == digest):
            self.fail(f"group {group}, index {index}: {host.name} computed {digest:016x}, {who} {known:016x}")

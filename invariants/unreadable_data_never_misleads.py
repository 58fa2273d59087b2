"""A replica that started on a damaged disk either has everything that it ever had on it, or stays out: it neither votes
nor leads nor acknowledges under its old name. What it promised may be in what it cannot read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unimeter.core.raft.raft import Raft
from unimeter.sim.host import Host
from unimeter.sim.invariant import Invariant

if TYPE_CHECKING:
    from unimeter.sim.runner import Run


class Check(Invariant):
    sentence = "For all replicas started on damaged files, always their whole log is there, or they take no part in it."
    canary = "believes_what_it_can_read"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._had: dict[
            tuple[int, int], tuple[int, int]
        ] = {}  # (replica, group) -> durable end of its log: index, term
        self._damaged_at_boot: dict[str, bool] = {}

    def booted(self, host: Host) -> None:
        self._damaged_at_boot[host.name] = bool(host.disk.image.tainted())

    def moved(self, host: Host, group: int, raft: Raft, fresh: bool) -> None:
        key = (raft.replica, group)
        if fresh and self._damaged_at_boot.get(host.name) and not raft.mute:
            index, term = self._had.get(key, (0, 0))
            found = raft.log.term(index) if raft.log.last_index >= index else None
            self.check(
                not index or found == term,
                f"group {group}: {host.name} had index {index} of term {term} on its disk; started on damaged files "
                f"{host.disk.image.tainted()} it takes part with a log that ends at {raft.log.last_index}",
            )
        stable = raft.stable_index
        self._had[key] = stable, raft.log.term(stable)

    def halted(self, host: Host, reason: str | None) -> None:
        if reason is not None and self._damaged_at_boot.get(host.name):
            self.evaluated += 1  # it stays out

"""Election safety (the Raft paper, figure 3): at most one replica leads a group in a given term, and it has the votes of a
quorum of the configuration that it then has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unimeter.core.raft.raft import Raft
from unimeter.sim.cluster import is_leader
from unimeter.sim.host import Host
from unimeter.sim.invariant import Invariant

if TYPE_CHECKING:
    from unimeter.sim.runner import Run


class Check(Invariant):
    sentence = "For all groups and terms, always at most one replica ever leads."
    canary = "leads_without_votes"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._leaders: dict[tuple[int, int], int] = {}  # (group, term) -> replica

    def moved(self, host: Host, group: int, raft: Raft, fresh: bool) -> None:
        if is_leader(raft):
            known = self._leaders.setdefault((group, raft.term), raft.replica)
            if not self.holds(known == raft.replica):
                self.fail(
                    f"group {group}, term {raft.term}: {known:016x} led, and now {raft.replica:016x} ({host.name}) does"
                )

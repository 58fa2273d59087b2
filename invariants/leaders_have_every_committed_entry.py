"""Leader completeness (the Raft paper, figure 3): what is committed in a term stands in the log of every leader of every
later term. By log matching it is enough to look at the newest entry that was committed before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unimeter.core.raft.raft import Raft
from unimeter.sim.cluster import is_leader
from unimeter.sim.host import Host
from unimeter.sim.invariant import Invariant

if TYPE_CHECKING:
    from unimeter.sim.runner import Run


class Check(Invariant):
    sentence = "For all committed entries, they always stand in the logs of all later leaders, and no other entry commits there."
    canary = "commits_alone"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._committed: dict[
            int, dict[int, int]
        ] = {}  # group -> index -> term of the entry, of all that somebody committed
        self._newest: dict[int, int] = {}  # group -> greatest committed index
        self._commits: dict[
            tuple[str, int, int], int
        ] = {}  # (host, incarnation, group) -> commit index, as last looked at
        self._elected: dict[tuple[int, int], None] = {}  # (group, term) that were looked at

    def moved(self, host: Host, group: int, raft: Raft, fresh: bool) -> None:
        committed, newest = self._committed.setdefault(group, {}), self._newest.get(group, 0)
        if is_leader(raft) and (group, raft.term) not in self._elected:
            self._elected[group, raft.term] = None
            if (
                newest and committed[newest] <= raft.term
            ):  # one that wakes up as the leader of an earlier term is no later one
                found = raft.log.term(newest) if raft.log.last_index >= newest else None
                self.check(
                    found == committed[newest],
                    f"group {group}: index {newest} was committed in an entry of term {committed[newest]}; {host.name} leads in "
                    f"term {raft.term} and has there {found} (its log ends at {raft.log.last_index})",
                )
        key = (host.name, host.incarnations, group)
        before = self._commits.get(key, 0)
        if raft.commit <= before:
            return
        self._commits[key] = raft.commit
        for index in range(before + 1, min(raft.commit, raft.log.last_index) + 1):
            term = raft.log.term(index)
            if committed.setdefault(index, term) != term:
                self.fail(
                    f"group {group}, index {index}: an entry of term {committed[index]} was committed, and {host.name} "
                    f"commits one of term {term}"
                )
        self.evaluated += 1
        self._newest[group] = max(newest, min(raft.commit, raft.log.last_index))

"""Within a process the commit index only rises. Over restarts, and for as long as a replica keeps its name, its log holds
whatever it once knew to be committed and had on its disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unimeter.core.raft.raft import Raft
from unimeter.sim.host import Host
from unimeter.sim.invariant import Invariant

if TYPE_CHECKING:
    from unimeter.sim.runner import Run


class Check(Invariant):
    sentence = "For all replicas, what they know to be committed always stays in their log, over all restarts."
    canary = "loses_the_newest_record"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._commit: dict[tuple[int, int], int] = {}  # (replica, group), of the present process
        self._reach: dict[tuple[int, int], tuple[int, int]] = {}  # (replica, group) -> index and term

    def moved(self, host: Host, group: int, raft: Raft, fresh: bool) -> None:
        key, log = (raft.replica, group), raft.log
        if fresh:
            index, term = self._reach.get(key, (0, 0))
            if index and host.sound:  # damage is the affair of unreadable_data_never_misleads
                found = log.term(index) if log.last_index >= index else None
                self.check(
                    found == term,
                    f"group {group}: {host.name} had committed and saved index {index} of term {term}; started again, its log "
                    f"ends at {log.last_index} and has there {found}",
                )
        elif raft.commit < self._commit[key]:
            self.fail(f"group {group}: the commit index of {host.name} fell from {self._commit[key]} to {raft.commit}")
        self._commit[key] = raft.commit
        reach = min(raft.commit, raft.stable_index)
        if reach > self._reach.get(key, (0, 0))[0]:
            self._reach[key] = reach, log.term(reach)

"""A configuration takes effect as soon as it stands in a log. So that no two majorities decide apart from each other, every
quorum of one configuration meets every quorum of the next; and whoever leads was elected by its own configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unimeter.core.raft.raft import Raft
from unimeter.sim.host import Host
from unimeter.sim.invariant import Invariant
from unimeter.sim.raft_facts import share_a_voter

if TYPE_CHECKING:
    from unimeter.sim.runner import Run


class Check(Invariant):
    sentence = "For all changes of a group's members, any quorum before and any quorum after always share a voter."
    canary = "changes_voters_at_once"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._known: dict[tuple[str, int], tuple[int, int, int]] = {}  # (host, group) -> what was looked at

    def moved(self, host: Host, group: int, raft: Raft, fresh: bool) -> None:
        state = (host.incarnations, len(raft.confs), raft.confs[-1][0] if raft.confs else 0)
        if self._known.get((host.name, group)) == state:
            return
        self._known[host.name, group] = state
        for (_, old), (index, new) in zip(raft.confs, raft.confs[1:], strict=False):
            if not self.holds(share_a_voter(old, new)):
                self.fail(
                    f"group {group}: at index {index} {host.name} goes from {old} to {new}: two quorums need not meet"
                )

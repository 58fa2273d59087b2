"""State is a pure function of the log. So at every log index there is one digest, whether the state got there by
living through it, from a checkpoint, or by replaying the journal; and recovery never ends before what had been applied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unimeter.sim.host import Host
from unimeter.sim.invariant import Invariant

if TYPE_CHECKING:
    from unimeter.sim.runner import Run


class Check(Invariant):
    sentence = "For all restarts, the state recovered at a log index always has the digest that it had there before."
    canary = "skips_an_entry_in_recovery"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._digests: dict[tuple[int, int], int] = {}  # (group, index): whichever node was there first
        self._full: dict[tuple[int, int], int] = {}
        self._highest: dict[tuple[str, int, int], int] = {}  # (host, its disk, group)
        self._lost: list[str] = []

    def applied(self, host: Host, group: int, index: int, digest: int, fresh: bool) -> None:
        held = host.node.groups[group]
        here, disk = (group, index), (host.name, host.node.replica, group)
        highest = self._highest.get(disk, 0)
        if fresh:
            last = host.node.groups[group].raft.stable_index
            if host.sound:  # damage is the affair of rot_is_never_silent
                self.evaluated += 1
                if last < highest:  # said at the end: then it is known what was lost
                    self._lost.append(f"{host.name} recovered up to index {last}, but {highest} had been applied")
                    for other in range(last + 1, highest + 1):
                        self._digests.pop((group, other), None)  # whatever stands there next is something else
            if here in self._digests and not host.flipped:
                self.evaluated += 1
                if self._digests[here] != digest:
                    self._lost.append(
                        f"group {group}, index {index}: recovered digest {digest:016x}, it had been {self._digests[here]:016x}"
                    )
            if here in self._full and not host.flipped and not held.aside:
                self.check(
                    self._full[here] == held.state.digest(),
                    f"group {group}, index {index}: the full digest differs after recovery",
                )
        if not host.flipped:
            self._digests[here] = digest
        self._highest[disk] = max(highest, index)

    def finished(self) -> None:
        if self._lost:
            self.fail(self._lost[0])

    def about_to_restart(self, host: Host) -> None:
        """The last restart of a run: compare every byte of the state, not only the running digest."""
        if host.node is None or not host.node.ready or host.flipped:
            return
        for number, group in enumerate(host.node.groups):
            if group.aside:
                continue  # the state is on its way to a later index
            self._full[number, group.applied_index] = group.state.digest()
            broken = group.state.check(group.catalog.compiled)
            self.check(
                broken == 0,
                f"group {number}: structural rule {broken} of the state is broken at index {group.applied_index}",
            )

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
        self._digests: dict[int, int] = {}
        self._full: dict[int, int] = {}
        self._highest = 0
        self._lost: list[str] = []

    def applied(self, host: Host, index: int, fresh: bool) -> None:
        group = host.node.groups[0]
        digest = group.state.meta().digest
        if fresh:
            if not host.disk.image.tainted():  # otherwise rot_is_never_silent speaks
                self.evaluated += 1
                if index < self._highest:  # said at the end: then it is known what was lost
                    self._lost.append(f"recovered up to index {index}, but {self._highest} had been applied")
            if index in self._digests:
                self.check(
                    self._digests[index] == digest,
                    f"index {index}: recovered digest {digest:016x}, it had been {self._digests[index]:016x}",
                )
            if index in self._full:
                self.check(
                    self._full[index] == group.state.digest(), f"index {index}: the full digest differs after recovery"
                )
        self._digests[index] = digest
        self._highest = max(self._highest, index)

    def finished(self) -> None:
        if self._lost:
            self.fail(self._lost[0])

    def about_to_restart(self, host: Host) -> None:
        """The last restart of a run: compare every byte of the state, not only the running digest."""
        group = host.node.groups[0]
        self._full[group.applied_index] = group.state.digest()
        broken = group.state.check(group.catalog.compiled)
        self.check(broken == 0, f"structural rule {broken} of the state is broken at index {group.applied_index}")

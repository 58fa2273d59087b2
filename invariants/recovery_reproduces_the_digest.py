"""State is a pure function of the log. So at every log index there is one digest, whether the state got there by
living through it, from a checkpoint, or by replaying the journal; and recovery never ends before what had been applied."""

from __future__ import annotations

from unimeter.core.effects import Effect
from unimeter.core.inputs import Input
from unimeter.sim.host import Host
from unimeter.sim.invariant import Invariant


class Check(Invariant):
    sentence = "For all restarts, the state recovered at a log index always has the digest that it had there before."
    canary = "skips_an_entry_in_recovery"

    def __init__(self, run: object) -> None:
        super().__init__(run)  # type: ignore[arg-type]
        self._digests: dict[int, int] = {}
        self._full: dict[int, int] = {}
        self._highest = 0
        self._seen: tuple[int, int] = (0, -1)  # incarnation, index
        self._lost: list[str] = []

    def stepped(self, host: Host, event: Input, effects: list[Effect]) -> None:
        node = host.node
        if node is None or not node.ready:
            return
        group = node.groups[0]
        now = (host.incarnations, group.applied_index)
        if now == self._seen:
            return
        fresh = now[0] != self._seen[0]
        self._seen = now
        digest = group.state.meta().digest
        index = group.applied_index
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

    def died(self, host: Host, how: str) -> None:
        self._seen = (self._seen[0], -1)

    def finished(self) -> None:
        if self._lost:
            self.fail(self._lost[0])

    def about_to_restart(self, host: Host) -> None:
        """The last restart of a run: compare every byte of the state, not only the running digest."""
        group = host.node.groups[0]
        self._full[group.applied_index] = group.state.digest()
        broken = group.state.check(group.catalog.compiled)
        self.check(broken == 0, f"structural rule {broken} of the state is broken at index {group.applied_index}")

"""What an invariant is: a sentence, a way to look, a count of how often it really looked, and a canary.

Each lives in a file of its own in `invariants/` whose name is the claim. A check counts only when the situation
that it speaks of was there; an invariant that was never evaluated in a whole fleet run fails that run, because a
check that cannot fail proves nothing. For the same reason each names its canary: a planted bug
(`unimeter sim --canary NAME`) that it must catch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from unimeter.core.effects import Effect
from unimeter.core.inputs import Input
from unimeter.core.raft.raft import Raft
from unimeter.sim.line import AnyResponse
from unimeter.sim.requests import Request

if TYPE_CHECKING:
    from unimeter.sim.host import Host
    from unimeter.sim.runner import Run


class Broken(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: str, sentence: str, detail: str) -> None:
        super().__init__(f"{invariant}: {sentence}\n{detail}")
        self.invariant = invariant
        self.sentence = sentence
        self.detail = detail


class Invariant:
    """Base of all invariants: hooks that do nothing, and `check`."""

    sentence: ClassVar[str] = ""
    canary: ClassVar[str] = ""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.evaluated = 0

    @classmethod
    def name(cls) -> str:
        module: str = vars(cls)["__module__"]  # mypyc knows no cls.__module__
        return module.rpartition(".")[2]

    def check(self, holds: bool, detail: str) -> None:
        """One true evaluation. The detail is made in any case: where there are thousands, use holds()."""
        self.evaluated += 1
        if not holds:
            self.fail(detail)

    def holds(self, holds: bool) -> bool:
        """One true evaluation whose detail is made only when it is needed: `if not self.holds(...): self.fail(...)`."""
        self.evaluated += 1
        return holds

    def fail(self, detail: str) -> None:
        raise Broken(self.name(), self.sentence, detail)

    # ---- what it may look at ----

    def booted(self, host: Host) -> None:
        """A process was started."""

    def stepped(self, host: Host, event: Input, effects: list[Effect]) -> None:
        """A node that is ready made a step."""

    def acted(self, host: Host, event: Input, effects: list[Effect]) -> None:
        """A node of a cluster made a step, ready or not."""

    def moved(self, host: Host, group: int, raft: Raft, fresh: bool) -> None:
        """A replica's term, vote, role or log has changed; `fresh`: for the first time in this process."""

    def applied(self, host: Host, group: int, index: int, digest: int, fresh: bool) -> None:
        """A node has applied a group's log up to an index, and its state has this running digest; `fresh`: it has just become ready, and recovered that far."""

    def died(self, host: Host, how: str) -> None:
        """A process was killed."""

    def ending(self, host: Host) -> None:
        """A process is about to end by itself: it can be looked at for the last time."""

    def halted(self, host: Host, reason: str | None) -> None:
        """A process ended itself."""

    def broke(self, host: Host, error: Exception) -> None:
        """A process raised."""

    def sent(self, request: Request) -> None:
        """A request is sent for the first time."""

    def settled(self, request: Request) -> None:
        """A request was answered for good, or given up."""

    def answered_again(self, request: Request, response: AnyResponse) -> None:
        """A further attempt of a request that was answered already was answered."""

    def stray(self, client: str, response: AnyResponse) -> None:
        """An answer came that nobody waits for."""

    def garbled(self, client: str, why: str) -> None:
        """Bytes came that are no answer."""

    def accepted(self, client: str, data: bytes) -> None:
        """The node said ok to a malformed request."""

    def calmed(self, in_time: bool, waiting: list[str]) -> None:
        """Everything was healed; did everybody finish within the bound?"""

    def finished(self) -> None:
        """All facts are known: `run.ledger` has the log."""

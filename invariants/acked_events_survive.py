"""A `sync` answer is a promise: whatever crashes, tears or fails afterwards, the events are there at the end.

An `async` answer promises less: the batch has its place in the log, and is lost only when the process dies before
the record is durable. So an async batch may be missing if a process died around its answer, and for no other reason
(it is answered before it is applied, so where tables are small its events may still be refused).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from unimeter.sim.events import Ident
from unimeter.sim.host import Host
from unimeter.sim.invariant import Invariant
from unimeter.sim.requests import ACKED, Ingest
from unimeter.sim.world import SECOND

if TYPE_CHECKING:
    from unimeter.sim.runner import Run

UNDER_WAY_NS: Final = SECOND  # longer than any journal write of the simulator takes


class Check(Invariant):
    sentence = (
        "For all ingest requests answered ok, every event that was said to be stored is in the log at the end, always."
    )
    canary = "acknowledges_before_durable"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._deaths: list[int] = []  # of any process: when

    def died(self, host: Host, how: str) -> None:
        self._deaths.append(self.run.world.now_ns)

    def halted(self, host: Host, reason: str | None) -> None:
        self._deaths.append(self.run.world.now_ns)

    def finished(self) -> None:
        present = {event.ident for event in self.run.ledger.log}
        at = {event.seq: event.ident for event in self.run.ledger.log}
        for request in self.run.ledger.ingests:
            if request.state != ACKED or request.result is None or request.opens:
                continue
            if request.sync and self.run.places.groups == 1:
                self._sync(request, at, present)
            elif request.sync or self._spared(request):
                self._all_there(request, present)

    def _spared(self, request: Ingest) -> bool:
        """An async answer is no promise, but without a reason nothing gets lost. In a cluster a leader that is deposed is one."""
        alone = not self.run.cluster.replicated
        return alone and self.run.scenario.roomy and not self._died_around(request)

    def _died_around(self, request: Ingest) -> bool:
        return any(request.first_sent_ns <= death <= request.answered_ns + UNDER_WAY_NS for death in self._deaths)

    def _sync(self, request: Ingest, at: dict[int, Ident], present: set[Ident]) -> None:
        assert request.result is not None
        low, high = self.run.ledger.span(request)
        idents = {event.ident for event in request.events}
        found = sum(at.get(seq) in idents for seq in range(low + 1, high + 1))
        if request.result.session_verdict in (0, 1) and not self.holds(found == request.result.stored):
            self.fail(
                f"{request.describe()} was told {request.result.stored} stored up to offset {high}; {found} are in the log"
            )
        if request.result.refused == request.result.conflicts == 0:
            self._all_there(request, present)

    def _all_there(self, request: Ingest, present: set[Ident]) -> None:
        assert request.result is not None
        if request.result.refused or request.result.conflicts:
            return
        missing = [event.ident for event in request.events if event.ident not in present and not event.ident.id]
        if not self.holds(not missing):
            self.fail(f"{request.describe()} answered at {request.answered_ns} ns: not in the log: {missing[:3]}")

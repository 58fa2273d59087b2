"""Each answer belongs to one request on its connection, and a request is answered once. A batch of a session that is
sent again gets the first answer again; an event with an id that was stored is a duplicate from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from unimeter.sim import codec
from unimeter.sim.invariant import Invariant
from unimeter.sim.line import AnyResponse
from unimeter.sim.requests import ACKED, Ingest, Request

if TYPE_CHECKING:
    from unimeter.sim.runner import Run

CHANGING_VERDICTS: Final = (6, 8, 9)  # session unknown (evicted since), number settled since, no room for a session


class Check(Invariant):
    sentence = (
        "For all answers, always exactly one request waits for them, and a retry is told what the first was told."
    )
    canary = "answers_twice"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._misfits: list[str] = []

    def stray(self, client: str, response: AnyResponse) -> None:
        self.fail(f"{client} got an answer that it does not wait for: {response}")

    def garbled(self, client: str, why: str) -> None:
        self.fail(f"{client} got bytes that are no answer: {why}")

    def settled(self, request: Request) -> None:
        if request.state == ACKED:
            self.evaluated += 1
        if isinstance(request, Ingest) and request.state == ACKED and request.result is not None:
            told = request.result
            total = told.stored + told.duplicates + told.conflicts + told.refused
            if total != len(request.events):
                self.fail(
                    f"{request.describe()} has {len(request.events)} events, the answer speaks of {total}: {told}"
                )

    def answered_again(self, request: Request, response: AnyResponse) -> None:
        if (
            not isinstance(request, Ingest)
            or request.state != ACKED
            or request.result is None
            or codec.refusal(response)
        ):
            return
        again, first = codec.ingested(request, response), request.result
        if (
            not request.sync
            or request.opens
            or first.session_verdict in CHANGING_VERDICTS
            or again.session_verdict in CHANGING_VERDICTS
        ):
            return
        self.evaluated += 1
        if request.in_session:
            counts = (
                5 if self.run.places.groups == 1 else 4
            )  # with several groups the offset is the stamp of the latest entry
            fits = again[:counts] == first[:counts]
        else:  # two attempts may be answered in either order, but only one of them can have stored anything
            forgotten = request.protocol == 1 and not self.run.scenario.roomy  # beyond a short dedup horizon
            fits = again.stored == 0 or first.stored == 0 or bool(first.refused) or forgotten
        if not fits:  # said at the end: then it is known whether it counted twice, too
            self._misfits.append(f"{request.describe()} was told {first} first, then {again}")

    def finished(self) -> None:
        if self._misfits:
            self.fail(self._misfits[0])

"""Each answer belongs to one request on its connection, and a request is answered once. A batch of a session that is
sent again gets the first answer again; an event with an id that was stored is a duplicate from then on."""

from __future__ import annotations

from unimeter.sim import codec
from unimeter.sim.client import AnyResponse
from unimeter.sim.invariant import Invariant
from unimeter.sim.requests import ACKED, Ingest, Request

CHANGING_VERDICTS = (6, 8, 9)  # session unknown (evicted since), number settled since, no room for a session


class Check(Invariant):
    sentence = (
        "For all answers, always exactly one request waits for them, and a retry is told what the first was told."
    )
    canary = "answers_twice"

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
        if not request.sync or first.session_verdict in CHANGING_VERDICTS or again.session_verdict in CHANGING_VERDICTS:
            return
        if request.in_session:
            same = again[:5] == first[:5]
            self.check(same, f"{request.describe()} was told {first} first, then {again}")
        else:
            late = min(again.last_offset, first.last_offset)  # two attempts may be answered in either order
            self.check(
                again.stored == 0 or first.stored == 0 or late == 0 or bool(first.refused),
                f"{request.describe()} was stored twice: {first}, then {again}",
            )

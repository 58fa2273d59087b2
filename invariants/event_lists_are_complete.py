"""An event list is a stretch of the log: everything of the account in the range, in order, nothing left out up to
what was known when it was asked for, and cut off only at its limit."""

from __future__ import annotations

from unimeter.sim.invariant import Invariant
from unimeter.sim.places import place
from unimeter.sim.requests import ACKED


class Check(Invariant):
    sentence = (
        "For all event lists, they are always the log's events of that account and range, in order, without gaps."
    )
    canary = "lists_leave_out_an_event"

    def finished(self) -> None:
        ledger = self.run.ledger
        order = ledger.order()
        for request in ledger.event_lists:
            if request.final or request.state != ACKED:
                continue
            after = place(ledger.places.group_of(request.account), request.after)
            wanted = [
                event
                for event in ledger.log
                if event.ident.account == request.account
                and request.since <= event.timestamp_ns <= request.until
                and event.seq > after
                and request.metric_code in (None, event.ident.metric)
            ]
            found = [ledger.stored(row) for row in request.body["events"]]
            what = (
                f"{request.describe()} of {request.account!r} [{request.since}, {request.until}] limit {request.limit}"
            )
            if not self.holds(found == wanted[: len(found)]):
                self.fail(f"{what}: {found[:3]}... is not the log's {wanted[:3]}...")
            if len(found) < min(request.limit, self.run.config.events_list_max):
                floor = order.floor(ledger.places.group_of(request.account), request.sent_ns)
                missing = [event for event in wanted[len(found) :] if event.seq <= floor]
                self.check(not missing, f"{what}: left out {missing[:3]}, known up to {floor}")

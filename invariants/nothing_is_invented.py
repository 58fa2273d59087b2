"""The log holds only what somebody sent: same account, metric, value, operation, id, properties and time."""

from __future__ import annotations

from unimeter.sim.invariant import Invariant


class Check(Invariant):
    sentence = "For all events in the log, always some client sent exactly that event."
    canary = "alters_a_value"

    def finished(self) -> None:
        ledger = self.run.ledger
        seen = 0
        for event in ledger.log:
            if not self.holds(event.seq > seen):
                self.fail(f"offset {event.seq} stands twice in the event lists")
            seen = event.seq
            if event.ident in ledger.forbidden:
                continue  # malformed_requests_change_nothing speaks of these
            times = [
                sent.timestamp_ns
                for request in ledger.by_ident.get(event.ident, [])
                for sent in request.events
                if sent.ident == event.ident
            ]
            if not self.holds(bool(times)):
                self.fail(f"nobody sent {event}")
            if not self.holds(event.timestamp_ns in times or 0 in times):
                self.fail(f"{event} was sent with another time: {sorted(times)[:3]}")

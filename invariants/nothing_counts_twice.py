"""Whatever is retried, duplicated on the wire or sent again after a crash: it adds nothing.

How often an event may be in the log follows from what makes it recognisable: an id counts once per account, a
batch of a session once per number, a v1 event with a time once per ordinal within its request (inside the dedup
horizon). An event with nothing of that is sent once by our clients, so it may be there once.
"""

from __future__ import annotations

from unimeter.sim.events import Stored
from unimeter.sim.invariant import Invariant
from unimeter.sim.ledger import may_be_stored


class Check(Invariant):
    sentence = (
        "For all events, however often they were sent, the log holds them at most as often as they happened, always."
    )
    canary = "forgets_sessions"

    def finished(self) -> None:
        ledger = self.run.ledger
        copies: dict[object, list[Stored]] = {}
        for event in ledger.log:
            copies.setdefault(event.ident, []).append(event)
            if event.ident.id:
                copies.setdefault((event.ident.account, event.ident.id), []).append(event)
        for key, events in copies.items():
            named = events[0].ident
            most = 1 if named.id else may_be_stored(ledger, named)
            sent = sum(request.attempts for request in ledger.by_ident.get(named, []))
            if sent <= 1 and len(events) <= 1:
                continue
            if not self.holds(len(events) <= most or self._forgotten(events, most)):
                self.fail(
                    f"{key} is in the log {len(events)} times, at offsets {[e.seq for e in events]}; at most {most} are right"
                )

    def _forgotten(self, events: list[Stored], most: int) -> bool:
        """Copies of a v1 event further apart than the dedup horizon are other events."""
        horizon = self.run.scenario.limits.fingerprints_per_generation
        owners = [self.run.ledger.owner.get(event.seq) for event in events]
        if any(owner is None or owner.protocol != 1 for owner in owners):
            return False
        return all(late.seq - early.seq >= horizon for early, late in zip(events, events[most:], strict=False))

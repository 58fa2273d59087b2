"""Bytes that are no request get a refusal at most; none of the events in them is ever stored, and nobody else's
connection notices (the other invariants would)."""

from __future__ import annotations

from unimeter.sim.invariant import Invariant
from unimeter.sim.vandal import Vandal


class Check(Invariant):
    sentence = "For all malformed requests, nothing of them is ever stored and none is ever answered ok, always."
    canary = "believes_anything"

    def accepted(self, client: str, data: bytes) -> None:
        self.fail(f"{client} sent a malformed request and was told ok: {data[:64].hex()}")

    def finished(self) -> None:
        stored = {event.ident for event in self.run.ledger.log}
        for client in self.run.cast.clients:
            if isinstance(client, Vandal):
                self.evaluated += client.sent
                believed = [ident for ident in client.tags if ident in stored]
                if believed:
                    self.fail(f"events of malformed requests were stored: {believed[:3]}")

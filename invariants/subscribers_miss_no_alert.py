"""At-least-once: who subscribes with the last number it saw, and comes back with it after every break, is told of
every alert, in order and as it is recorded."""

from __future__ import annotations

from unimeter.sim.invariant import Invariant


class Check(Invariant):
    sentence = "For all subscribers, every recorded alert is always pushed to them, in order and unchanged."
    canary = "pushes_get_lost"

    def finished(self) -> None:
        if self.run.misled(0, self.run.world.now_ns):
            return  # a wrong total may have crossed a threshold
        recorded = {(alert.get("group", 0), alert["number"]): alert for alert in self.run.ledger.alerts}
        for name, pushed in self.run.ledger.pushed.items():
            for alert in pushed:
                named = (alert.get("group", 0), alert["number"])
                self.check(alert == recorded.get(named), f"{name} was told {alert}, recorded is {recorded.get(named)}")
            missing = sorted(set(recorded) - {(alert.get("group", 0), alert["number"]) for alert in pushed})
            self.check(not missing, f"{name} was never told of alerts {missing[:10]}")

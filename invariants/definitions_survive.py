"""What was answered to the creation or change of a metric holds for good: the metric lists given at the end, also
after a restart, show every definition as it was last told."""

from __future__ import annotations

from unimeter.sim.invariant import Invariant


class Check(Invariant):
    sentence = "For all metrics, the definition listed at the end is always the one that was last answered ok."
    canary = "forgets_a_definition"

    def finished(self) -> None:
        for listed in self.run.ledger.definitions:
            found = {body["code"]: body for body in listed}
            for metric in self.run.metrics:
                if metric.known and metric.alive and not metric.changing:
                    body = dict(found.get(metric.code, {}))
                    body.pop("id", None)
                    self.check(body == metric.body(), f"{metric.code} is listed as {body}, it was made {metric.body()}")
            known = {metric.code for metric in self.run.metrics if metric.known and metric.alive}
            self.check(set(found) == known, f"listed are {sorted(found)}, created were {sorted(known)}")

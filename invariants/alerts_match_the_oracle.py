"""Alerts are part of the replicated state: each crossing is recorded once, in log order, numbered without gaps, and
survives every crash."""

from __future__ import annotations

from collections import Counter

from unimeter.sim import oracle
from unimeter.sim.invariant import Invariant
from unimeter.sim.ledger import series_of


class Check(Invariant):
    sentence = "For all thresholds, the recorded alerts are always those that the oracle finds in the log, once each."
    canary = "drops_a_threshold"

    def finished(self) -> None:
        ledger = self.run.ledger
        metrics = {metric.code: metric for metric in self.run.metrics}
        numbers = [alert["number"] for alert in ledger.alerts]
        self.check(numbers == list(range(1, len(numbers) + 1)), f"alert numbers have gaps or repeats: {numbers[:20]}")
        found = Counter(
            oracle.Alarm(a["metric"], str(a["account"]), a["threshold"], a["period_start"], a["value"])
            for a in ledger.alerts
        )
        for (account, code), events in series_of(ledger.log).items():
            metric = metrics[code]
            if not metric.thresholds:
                continue
            certain, possible = oracle.alarms(metric, account, events, self.run.wall_span_ns)
            wanted = Counter(certain)
            here = Counter(
                {alarm: n for alarm, n in found.items() if (alarm.metric, alarm.account) == (code, str(account))}
            )
            missing, excess = wanted - here, here - wanted - Counter(possible)
            self.check(
                not missing and not excess,
                f"{account!r} {code}: missing {list(missing)[:3]}, unexpected {list(excess)[:3]}",
            )

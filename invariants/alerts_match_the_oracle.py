"""Alerts are part of the replicated state: each crossing is recorded once, in log order, numbered without gaps, and
survives every crash. Answers name the thresholds that fired in the period that they begin in."""

from __future__ import annotations

from collections import Counter

from unimeter.sim import periods
from unimeter.sim.alarms import Alarm, Found, InForce, alarms
from unimeter.sim.events import Account, Metric
from unimeter.sim.invariant import Invariant
from unimeter.sim.ledger import NEVER_NS, Series, place_of
from unimeter.sim.requests import ACKED


class Check(Invariant):
    sentence = "For all thresholds, the recorded alerts are always those that the oracle finds in the log, once each."
    canary = "drops_a_threshold"

    def finished(self) -> None:
        if self.run.misled(0, self.run.world.now_ns):
            return  # a wrong total may have crossed a threshold
        ledger = self.run.ledger
        for group in range(ledger.places.groups):
            numbers = [alert["number"] for alert in ledger.alerts if alert.get("group", 0) == group]
            self.check(
                numbers == list(range(1, len(numbers) + 1)), f"group {group}: gaps or repeats in alerts: {numbers[:20]}"
            )
        recorded = Counter(
            Alarm(a["metric"], str(a["account"]), a["threshold"], a["period_start"], a["value"]) for a in ledger.alerts
        )
        series = Series(ledger, self.run.metrics)
        expected: dict[tuple[Account, int], Found] = {}
        for account, metric in series.keys:
            if metric.slots:
                found = alarms(
                    metric, account, series.of(account, metric), self._slots(metric, account), self.run.dates()
                )
                expected[account, id(metric)] = found
                self._compare(account, metric, found, recorded)
        self._answers(expected)

    def _slots(self, metric: Metric, account: Account) -> list[InForce]:
        ledger = self.run.ledger
        group = ledger.places.group_of(account)
        return [
            InForce(
                slot.threshold,
                place_of(metric, slot.since_ns, ledger, group),
                NEVER_NS if slot.until_ns is None else place_of(metric, slot.until_ns, ledger, group),
            )
            for slot in metric.slots
        ]

    def _compare(self, account: Account, metric: Metric, found: Found, recorded: Counter[Alarm]) -> None:
        wanted = Counter(found.certain)
        mine = (metric.code, str(account))
        here = Counter({alarm: n for alarm, n in recorded.items() if (alarm.metric, alarm.account) == mine})
        missing, excess = wanted - here, here - wanted - Counter(found.possible)
        self.check(
            not missing and not excess,
            f"{account!r} {metric.code}: missing {list(missing)[:3]}, unexpected {list(excess)[:3]}",
        )

    def _answers(self, expected: dict[tuple[Account, int], Found]) -> None:
        for query in self.run.ledger.queries:
            found = expected.get((query.account, id(query.metric)))
            if not query.final or query.state != ACKED or query.group_by or query.start is None or found is None:
                continue
            start, _ = periods.bounds(query.metric.period, query.metric.billing_day, query.start)
            wanted = found.fired.get(start, [])
            self.check(
                query.rows[0]["alerts"] == wanted,
                f"{query.account!r} {query.metric.code} from {query.start}: fired {query.rows[0]['alerts']}, the oracle says {wanted}",
            )

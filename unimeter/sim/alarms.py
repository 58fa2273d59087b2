"""The alerts of a series, recomputed event by event in log order.

A threshold compares the metric's total of the current period. It fires when the total rises to it: once per period,
and, if it is recurring and the period is not over yet, each time that it rises again. Seats look at every member
that was ever added, so an event also moves the total of later periods that have begun to be counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from unimeter.sim import periods
from unimeter.sim.events import LATEST, MAX, UNIQUE, Account, Metric, Stored, Threshold
from unimeter.sim.oracle import Total

I64_MIN, I64_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True, order=True)
class Alarm:
    """An alert as the oracle expects it."""

    metric: str
    account: str
    threshold: str
    period_start: int
    value: int


@dataclass(frozen=True)
class InForce:
    """A threshold with the sequence numbers of the events that it sees: [since, until)."""

    threshold: Threshold
    since: int
    until: int


@dataclass
class Found:
    certain: list[Alarm] = field(default_factory=list)  # must be there, once each
    possible: list[Alarm] = field(
        default_factory=list
    )  # may be there besides: it depends on when exactly they were stamped
    fired: dict[int, list[str]] = field(
        default_factory=dict
    )  # start of a period -> names of the thresholds that fired in it


@dataclass
class _Period:
    start: int
    end: int
    total: Total = field(default_factory=Total)
    above: dict[int, bool] = field(default_factory=dict)  # by slot
    fired: dict[int, bool] = field(default_factory=dict)


def alarms(
    metric: Metric, account: Account, events: Sequence[Stored], slots: Sequence[InForce], dates: tuple[int, int]
) -> Found:
    """`dates`: the least and the greatest at which anything of this run can have been stamped."""
    found = Found()
    known: dict[int, _Period] = {}
    for number, event in enumerate(events):
        active = [slot for slot, it in enumerate(slots) if it.since <= event.seq < it.until]
        start, end = periods.bounds(metric.period, metric.billing_day, event.timestamp_ns)
        if start not in known and active:
            known[start] = _begin(metric, start, end, events[:number])
        for period in known.values():
            if not _moves(metric, period, event):
                continue
            if period.start <= event.timestamp_ns:
                period.total.add(event)
            if metric.aggregation == UNIQUE:
                period.total.operate(event)
            for slot in active:
                _look(metric, account, period, slot, slots[slot].threshold, found, dates)
    for period in known.values():
        found.fired[period.start] = [slots[slot].threshold.name for slot in sorted(period.fired)]
    return found


def _moves(metric: Metric, period: _Period, event: Stored) -> bool:
    return event.timestamp_ns < period.end and (metric.recurring or period.start <= event.timestamp_ns)


def _begin(metric: Metric, start: int, end: int, past: Sequence[Stored]) -> _Period:
    """A period is counted from its first event on that comes while a threshold is in force; what was there counts too."""
    period = _Period(start, end)
    for event in past:
        if _moves(metric, period, event):
            if start <= event.timestamp_ns:
                period.total.add(event)
            if metric.aggregation == UNIQUE:
                period.total.operate(event)
    return period


def _look(
    metric: Metric,
    account: Account,
    period: _Period,
    slot: int,
    threshold: Threshold,
    found: Found,
    dates: tuple[int, int],
) -> None:
    reached = period.total.of(metric.aggregation)
    if metric.aggregation in (MAX, LATEST) and period.total.count == 0:
        reached = I64_MIN - 1
    rises = reached >= threshold.value and not period.above.get(slot, False)
    period.above[slot] = reached >= threshold.value
    if not rises:
        return
    value = max(I64_MIN, min(I64_MAX, reached))
    alarm = Alarm(metric.code, str(account), threshold.name, period.start, value)
    if slot not in period.fired:
        period.fired[slot] = True
        found.certain.append(alarm)
    elif threshold.recurring and dates[1] < period.end:
        found.certain.append(alarm)
    elif threshold.recurring and dates[0] < period.end:
        found.possible.append(alarm)

"""Thresholds: the running total of each period of a series, and the alerts of its crossings.

A period's record is made by the first event that falls into the period while the metric has an active
threshold, from the buckets that are there already; from then on every event of the period updates it. For
seats (recurring count-unique) an event also updates every later period: its members are present there too.

An alert fires when the total rises to a threshold's value: once per period, or, if the threshold is recurring
and the period is not over, every time. Buckets are whole hours and so are periods: an hour lies inside or outside.
"""

from __future__ import annotations

from collections.abc import Iterator

from unimeter.kernels import layout as lay
from unimeter.kernels.layout import MetricDef
from unimeter.kernels.reference.periods import period_bounds
from unimeter.kernels.reference.records import I64_MAX, I64_MIN, Alert, Bucket, Member, Period, PeriodMember
from unimeter.kernels.reference.rows import RowView
from unimeter.kernels.reference.state import State


class Thresholds:
    """The thresholds of one metric in one series, for one row at `ts`. series None: the row will create it."""

    def __init__(self, state: State, metric: MetricDef, series: int | None, row: RowView, ts: int) -> None:
        self.state, self.metric, self.series, self.row = state, metric, series, row
        self.ts = ts
        self.hour_ns = ts // lay.UM_HOUR_NS * lay.UM_HOUR_NS
        self.unique = metric.aggregation == lay.UM_AGG_UNIQUE
        self.seats = self.unique and metric.recurring
        self.start, self.end = period_bounds(metric.period_type, metric.billing_day, self.hour_ns)
        self.active = [slot for slot, threshold in enumerate(metric.thresholds) if threshold is not None]
        existing = [] if series is None else list(state.periods_of(series))
        self.affected = [period for period in existing if self._affects(period)]
        self.creates = bool(self.active) and all(period.start != self.start for period in existing)

    def _affects(self, period: Period) -> bool:
        return self.hour_ns < period.end and (self.seats or period.start <= self.hour_ns)

    # ---- room ----

    def has_room(self) -> bool:
        room = self.state.room
        members = sum(
            (period.number, self.row.value) not in self.state.period_member_numbers
            for period in self.affected
            if self.unique
        )
        if self.creates and self.unique:
            members += 1 + sum(1 for _ in self._members_to_read())
        return (
            room(lay.UM_R_PERIODS, int(self.creates))
            and room(lay.UM_R_PMEMBERS, members)
            and room(lay.UM_R_ALERTS, len(self.active) * (len(self.affected) + self.creates))
        )

    # ---- reading buckets ----

    def _buckets(self) -> Iterator[Bucket]:
        if self.series is None:
            return
        for cell in self.state.cells_of(self.series):
            yield from self.state.buckets_of(cell)

    def _inside(self, bucket: Bucket) -> bool:
        return self.start <= bucket.hour * lay.UM_HOUR_NS < self.end

    def _members_to_read(self) -> Iterator[Member]:
        for bucket in self._buckets():
            if self._inside(bucket) or (self.seats and bucket.hour * lay.UM_HOUR_NS < self.end):
                yield from self.state.members_of(bucket)

    # ---- after the row was stored ----

    def stored(self, series: int, seq: int, stamp_ns: int) -> list[Period]:
        """Bring all periods up to date with the row just stored; the records that changed."""
        self.series = series
        changed: list[Period] = []
        if self.creates:
            period = self._create()
            self._evaluate(period, seq, stamp_ns)
            changed.append(period)
        for period in self.affected:
            if period.start <= self.hour_ns:
                period.totals.add_event(self.row.value, self.ts, seq)
            if self.unique:
                self._operate(period, self.row.value, self.row.operation or lay.UM_OP_ADD, self.ts, seq)
            self._evaluate(period, seq, stamp_ns)
            changed.append(period)
        return changed

    def _create(self) -> Period:
        assert self.series is not None
        series = self.state.series[self.series]
        period = Period(len(self.state.periods), self.series, series.first_period, self.start, self.end)
        self.state.periods.append(period)
        series.first_period = period.number
        for bucket in self._buckets():
            if self._inside(bucket):
                period.totals.add(bucket.totals)
        if self.unique:
            for member in self._members_to_read():
                self._operate(period, member.member, member.operation, member.last_ts, member.last_seq)
        return period

    def _operate(self, period: Period, member: int, operation: int, ts: int, seq: int) -> None:
        """The last operation on a member decides whether the period counts it."""
        state = self.state
        key = period.number, member
        if key not in state.period_member_numbers:
            state.period_member_numbers[key] = len(state.period_members)
            state.period_members.append(PeriodMember(period.number, operation, member, ts, seq))
            period.unique += operation == lay.UM_OP_ADD
            return
        known = state.period_members[state.period_member_numbers[key]]
        if (ts, seq) > (known.last_ts, known.last_seq):
            period.unique += (operation == lay.UM_OP_ADD) - (known.operation == lay.UM_OP_ADD)
            known.operation, known.last_ts, known.last_seq = operation, ts, seq

    def _total(self, period: Period) -> int | None:
        """None: there is no largest or latest value yet."""
        totals = period.totals
        if self.metric.aggregation == lay.UM_AGG_COUNT:
            return totals.count
        if self.metric.aggregation == lay.UM_AGG_SUM:
            return totals.sum
        if self.unique:
            return period.unique
        if totals.count == 0:
            return None
        return totals.max if self.metric.aggregation == lay.UM_AGG_MAX else totals.last_value

    def _evaluate(self, period: Period, seq: int, stamp_ns: int) -> None:
        total = self._total(period)
        for slot in self.active:
            threshold = self.metric.thresholds[slot]
            assert threshold is not None
            value, recurring = threshold
            bit = 1 << slot
            if total is None or total < value:
                period.above &= ~bit
                continue
            rising = not period.above & bit
            period.above |= bit
            if rising and (not period.fired & bit or (recurring and stamp_ns < period.end)):
                period.fired |= bit
                self._alert(period, slot, total, seq, stamp_ns)

    def _alert(self, period: Period, slot: int, total: int, seq: int, stamp_ns: int) -> None:
        state = self.state
        series = state.series[period.series]
        state.alerts.append(
            Alert(
                state.meta.alert_next,
                series.account,
                series.metric,
                slot,
                series.text,
                max(I64_MIN, min(I64_MAX, total)),
                stamp_ns,
                period.start,
                seq,
            )
        )
        state.meta.alert_next += 1

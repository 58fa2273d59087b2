"""A meter small enough to hold in one's head: kernels, one group's state and its journal, for claims about totals.

Also the definition of a total as metering.md gives it, over a plain list of stored events: no buckets, no cells,
nothing remembered.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.twin_strategies import BASE, I64_MAX, Event, Metric, v1_batch, v1_frame, v2_batch, v2_frame
from unimeter.kernels import layout as lay
from unimeter.kernels import load
from unimeter.kernels.api import Alert, Kernels, Limits, QuerySpec, Row, Summary
from unimeter.kernels.api import Event as Listed

ROOM = (1, 1 << 20, *([5000] * 15))


class Meter:
    def __init__(
        self,
        *metrics: Metric,
        records_max: tuple[int, ...] = ROOM,
        fingerprints: int = 5000,
        cells_max: int = 1000,
        idle_ns: int = 0,
        kernels: str = "reference",
    ) -> None:
        self.kernels: Kernels = load(kernels)
        self.metrics = metrics
        self.change_metrics(*metrics)
        self.state = self.kernels.state(Limits(records_max, fingerprints, cells_max, idle_ns))
        self.now = BASE
        self.index = 0
        self.journal = b""
        self.chain = 0

    def change_metrics(self, *metrics: Metric) -> None:
        self.metrics = metrics
        self.catalog = self.kernels.catalog([metric.pack(number) for number, metric in enumerate(metrics)])

    def frames(self, *frames: bytes) -> list[Summary]:
        """One entry of these requests; a summary for each that made a batch."""
        intake = self.kernels.intake(0, 1 << 22, 1 << 16)
        data = b"".join(frames)
        intake.take(self.catalog, data, self.kernels.frame_scan(data, 1 << 22), 0, 1)
        self.index += 1
        self.now += 1
        entry = intake.seal(0, self.index, 1, self.now, self.state.meta().next_seq)
        out = bytearray(len(entry) + 200)
        length, self.chain = self.kernels.record(
            memoryview(out), [entry], lay.UM_RECORD_ENTRIES, self.index, self.chain, self.now
        )
        self.journal += out[:length]
        applied = self.state.apply(self.catalog, entry)
        return [applied.summary(batch) for batch in range(applied.batch_count)]

    def send(
        self, *events: Event, session: tuple[int, int] = (0, 0), number: int = 0, settled_below: int = 0
    ) -> Summary:
        """One v2 request."""
        (summary,) = self.frames(v2_frame(2, 1, v2_batch([*events], session, number, settled_below)))
        return summary

    def send_v1(self, *events: Event) -> Summary:
        (summary,) = self.frames(v1_frame(1, 1, v1_batch([*events])))
        return summary

    def open(self, session: tuple[int, int]) -> Summary:
        (summary,) = self.frames(v2_frame(2, 1, v2_batch([], session, 0, 0, 1)))
        return summary

    def rows(
        self,
        account: int | bytes = 1,
        metric: int = 0,
        start: int = 0,
        end: int = I64_MAX,
        group_by: tuple[int, ...] = (),
        filters: tuple[tuple[int, tuple[bytes, ...]], ...] = (),
    ) -> list[Row]:
        query = self.state.query(self.catalog, QuerySpec(account, metric, start, end, group_by, filters), 100_000)
        if query.needs_scan:
            query.scan(self.journal)
        return query.rows()

    def total(self, account: int | bytes = 1, metric: int = 0, start: int = 0, end: int = I64_MAX) -> Row:
        (row,) = self.rows(account, metric, start, end)
        return row

    def unique(self, start: int = 0, end: int = I64_MAX) -> int:
        return self.total(start=start, end=end).unique

    def alerts(self) -> list[Alert]:
        return self.state.alerts(0, None, 1000)

    def stored(self, account: int | bytes = 1) -> list[Listed]:
        """Every stored event of the account, from the journal."""
        return self.state.events(account, 0, I64_MAX, 0, self.state.meta().next_seq, None).scan(self.journal, 1 << 20)


# ---- the definition ----


@dataclass(frozen=True)
class Total:
    count: int
    sum: int
    min: int | None
    max: int | None
    last: tuple[int, int] | None  # (timestamp, value)
    unique: int


def total_of(events: list[Listed], metric: Metric, start: int, end: int) -> Total:
    """Of the stored events of one account and metric that pass the filters."""
    inside = [event for event in events if start <= event.timestamp_ns < end]
    latest = max(inside, key=lambda event: (event.timestamp_ns, event.seq), default=None)
    values = [event.value for event in inside]
    return Total(
        len(inside),
        sum(values),
        min(values, default=None),
        max(values, default=None),
        None if latest is None else (latest.timestamp_ns, latest.value),
        members_of(events, metric, start, end) if metric.aggregation == lay.UM_AGG_UNIQUE else 0,
    )


def members_of(events: list[Listed], metric: Metric, start: int, end: int) -> int:
    history = [event for event in events if (0 if metric.recurring else start) <= event.timestamp_ns < end]
    last = {event.value: event.operation for event in sorted(history, key=lambda e: (e.timestamp_ns, e.seq))}
    return sum(operation != lay.UM_OP_REMOVE for operation in last.values())


def as_total(row: Row) -> Total:
    some = row.count > 0
    return Total(
        row.count,
        row.sum,
        row.min if some else None,
        row.max if some else None,
        (row.last_ts, row.last_value) if some else None,
        row.unique,
    )


def dimension(event: Listed, key: bytes) -> bytes:
    return dict(event.properties).get(key, b"")


def breakdown_of(
    events: list[Listed],
    metric: Metric,
    start: int,
    end: int,
    group_by: tuple[int, ...],
    filters: tuple[tuple[int, tuple[bytes, ...]], ...],
) -> dict[tuple[bytes, ...], Total]:
    """The total of every combination of values that has one."""
    kept = [e for e in events if all(dimension(e, metric.dimensions[d]) in wanted for d, wanted in filters)]
    groups: dict[tuple[bytes, ...], list[Listed]] = {} if group_by else {(): []}
    for event in kept:
        groups.setdefault(tuple(dimension(event, metric.dimensions[d]) for d in group_by), []).append(event)
    totals = {key: total_of(found, metric, start, end) for key, found in groups.items()}
    return {key: total for key, total in totals.items() if not group_by or total.count or total.unique}

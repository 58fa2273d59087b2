"""One query: whole buckets from the state, the hours that the range cuts through from the journal.

A bucket is taken from state when all its events lie inside the range. Only the hour that `start` cuts and the
hour that `end` cuts can hold buckets that are partly in. If one of them does, the hour is scanned: none of its
buckets is taken, every row of it is read from the journal (all or nothing, so that no row counts twice).

COUNT_UNIQUE keeps the last operation per member. Seats (recurring) look at all history before `end`, so they
have a member range [0, end) beside the range of everything else, and the hour of `end` is scanned from its beginning.

A row logged before a dimension was added was stored without it, whatever its properties say: its cell is the
longest prefix of its dimension values whose bucket existed by then.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from unimeter.kernels import layout as lay
from unimeter.kernels.api import ROWS_END, Bytes, QuerySpec, Row, TooManyGroups
from unimeter.kernels.layout import MetricDef
from unimeter.kernels.reference import journal
from unimeter.kernels.reference.catalog import ReferenceCatalog
from unimeter.kernels.reference.records import I64_MAX, Bucket, Cell, Totals
from unimeter.kernels.reference.rows import RowView
from unimeter.kernels.reference.skips import is_skipped
from unimeter.kernels.reference.state import State

HOUR = lay.UM_HOUR_NS


@dataclass
class _Range:
    """[start, end)"""

    start: int
    end: int

    def __contains__(self, ts: int) -> bool:
        return self.start <= ts < self.end

    def touches(self, bucket: Bucket) -> bool:
        """Can the bucket have an event inside?"""
        return self.start < self.end and bucket.totals.last_ts >= self.start and bucket.first_ts < self.end

    def holds(self, bucket: Bucket) -> bool:
        """Are all its events inside?"""
        return bucket.first_ts in self and bucket.totals.last_ts in self


@dataclass
class _Edge:
    """An hour that the range cuts through, and the part of it that is asked for."""

    hour: int
    part: _Range
    scan: bool = False
    buckets: list[Bucket] = field(default_factory=list)  # the selected ones that are asked for

    def reported(self) -> tuple[int, int]:
        """Where events can lie."""
        return (
            max(self.part.start, min(bucket.first_ts for bucket in self.buckets)),
            min(self.part.end, max(bucket.totals.last_ts for bucket in self.buckets) + 1),
        )


@dataclass
class _Group:
    totals: Totals = field(default_factory=Totals)
    members: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # member -> last (ts, seq, operation)

    def operate(self, member: int, ts: int, seq: int, operation: int) -> None:
        known = self.members.get(member)
        if known is None or (ts, seq) > known[:2]:
            self.members[member] = ts, seq, operation

    def unique(self) -> int:
        return sum(operation != lay.UM_OP_REMOVE for _, _, operation in self.members.values())


def _metric(catalog: ReferenceCatalog, spec: QuerySpec) -> MetricDef:
    if spec.metric >= len(catalog.metrics):
        raise ValueError("the query names a metric that the catalog does not have")
    metric = catalog.metrics[spec.metric]
    if any(number >= len(metric.dimensions) for number in (*spec.group_by, *(number for number, _ in spec.filters))):
        raise ValueError("the query names a dimension that the metric does not have")
    return metric


class ReferenceQuery:
    def __init__(
        self, state: State, catalog: ReferenceCatalog, group_number: int, spec: QuerySpec, groups_max: int
    ) -> None:
        self.state, self.spec, self.groups_max, self.group_number = state, spec, groups_max, group_number
        self.metric = _metric(catalog, spec)
        self.range = _Range(*(min(max(at, 0), I64_MAX) for at in (spec.start, spec.end)))
        self.unique = self.metric.aggregation == lay.UM_AGG_UNIQUE
        self.seats = self.unique and self.metric.recurring
        self.member_range = _Range(0 if self.seats else self.range.start, self.range.end)
        account = state.find_account(spec.account)
        self.series = None if account is None else state.series_numbers.get((*account, spec.metric))
        self.groups: dict[tuple[bytes, ...], _Group] = {}
        if not spec.group_by:
            self.groups[()] = _Group()
        self.fired = 0
        self.low, self.high = self._edges()
        self.end_seq = state.meta.next_seq
        if self.series is not None:
            self._look_at_edges()
            self._take_buckets()
            self._look_up_fired(self.series)
        scanned = [edge for edge in (self.low, self.high) if edge is not None and edge.scan]
        self.needs_scan = bool(scanned)
        self.edges = tuple(edge.reported() for edge in scanned)
        self.first_seq = min((bucket.first_seq for edge in scanned for bucket in edge.buckets), default=self.end_seq)

    # ---- from state ----

    def _edges(self) -> tuple[_Edge | None, _Edge | None]:
        """The hours that start and end cut. One hour that both cut is the edge of the end."""
        low = high = None
        start, end = self.range.start, self.range.end
        empty = start >= end
        if end % HOUR and (not empty or self.seats):
            hour_start = end - end % HOUR
            high = _Edge(end // HOUR, _Range(hour_start if self.seats else max(start, hour_start), end))
        if start % HOUR and not empty and (high is None or start // HOUR != high.hour):
            low = _Edge(start // HOUR, _Range(start, start - start % HOUR + HOUR))
        return low, high

    def _values(self, cell: Cell, dimensions: tuple[int, ...]) -> tuple[bytes, ...]:
        """The cell's values of these dimensions."""
        values = self.state.values
        return tuple(values[cell.dims[d]].text if d < len(cell.dims) else b"" for d in dimensions)

    def _selected(self, cell: Cell) -> bool:
        return all(self._values(cell, (dimension,))[0] in wanted for dimension, wanted in self.spec.filters)

    def _selected_cells(self) -> list[Cell]:
        assert self.series is not None
        return [cell for cell in self.state.cells_of(self.series) if self._selected(cell)]

    def _group(self, cell: Cell) -> _Group:
        """The group that a cell falls into. A cell gets one when it has something to say."""
        key = self._values(cell, self.spec.group_by)
        if key not in self.groups:
            if len(self.groups) == self.groups_max:
                raise TooManyGroups
            self.groups[key] = _Group()
        return self.groups[key]

    def _asked_for(self, bucket: Bucket) -> bool:
        return self.range.touches(bucket) or (self.unique and self.member_range.touches(bucket))

    def _look_at_edges(self) -> None:
        for cell in self._selected_cells():
            for bucket in self.state.buckets_of(cell):
                for edge in (self.low, self.high):
                    if edge is None or bucket.hour != edge.hour or not self._asked_for(bucket):
                        continue
                    edge.buckets.append(bucket)
                    ranges = [self.range, self.member_range] if self.seats else [self.range]
                    if any(part.touches(bucket) and not part.holds(bucket) for part in ranges):
                        edge.scan = True

    def _scanned(self, edge: _Edge | None, bucket: Bucket) -> bool:
        return edge is not None and edge.scan and bucket.hour == edge.hour

    def _take_buckets(self) -> None:
        for cell in self._selected_cells():
            for bucket in self.state.buckets_of(cell):
                if self._asked_for(bucket):
                    self._take(self._group(cell), bucket)

    def _take(self, group: _Group, bucket: Bucket) -> None:
        scanned_high = self._scanned(self.high, bucket)
        scanned = scanned_high or self._scanned(self.low, bucket)
        if not scanned and self.range.touches(bucket):
            group.totals.add(bucket.totals)
        members_scanned = scanned_high if self.seats else scanned
        if self.unique and not members_scanned and self.member_range.touches(bucket):
            for member in self.state.members_of(bucket):
                group.operate(member.member, member.last_ts, member.last_seq, member.operation)

    def _look_up_fired(self, series: int) -> None:
        """Alert bits of the period that `start` lies in: of the whole series only."""
        if self.spec.group_by or self.spec.filters:
            return
        for period in self.state.periods_of(series):
            if period.start <= self.spec.start < period.end:
                self.fired = period.fired
                return

    # ---- from the journal ----

    def scan(self, records: Bytes, first_row: int = 0, end_row: int = ROWS_END) -> None:
        """Feed verified journal records (each record exactly once, in log order, whole records only); rows that
        they hold outside of [first_row, end_row) are passed over."""
        if self.series is None:
            return
        first, end = max(self.first_seq, first_row), min(self.end_seq, end_row)
        for seq, ts, row in journal.log_rows(records, self.group_number, first, end):
            in_high = self.high is not None and self.high.scan and ts in self.high.part
            in_low = self.low is not None and self.low.scan and ts in self.low.part
            if not (in_high or in_low) or row.metric != self.spec.metric or row.key != self.spec.account:
                continue
            if is_skipped(self.state, seq):
                continue
            cell = self._cell_of(row, ts // HOUR, seq)
            if cell is None or not self._selected(cell):
                continue
            group = self._group(cell)
            if ts in self.range:
                group.totals.add_event(row.value, ts, seq)
            if self.unique and (in_high or not self.seats):
                group.operate(row.value, ts, seq, row.operation)

    def _cell_of(self, row: RowView, hour: int, seq: int) -> Cell | None:
        assert self.series is not None
        found = dict(row.properties)
        texts = [found.get(key, b"") for key in self.metric.dimensions]
        for length in range(len(texts), -1, -1):
            dims = [self.state.value_numbers.get(text, lay.UM_NONE) for text in texts[:length]]
            while dims and dims[-1] == 0:
                dims.pop()
            number = self.state.cell_numbers.get((self.series, tuple(dims)))
            bucket = None if number is None else self.state.bucket_numbers.get((number, hour))
            if number is not None and bucket is not None and self.state.buckets[bucket].first_seq <= seq:
                return self.state.cells[number]
        return None

    # ---- the answer ----

    def rows(self) -> list[Row]:
        rows: list[Row] = []
        for key in sorted(self.groups):
            group = self.groups[key]
            totals, unique = group.totals, group.unique()
            if self.spec.group_by and not totals.count and not unique:
                continue
            rows.append(
                Row(
                    key,
                    totals.count,
                    totals.sum,
                    totals.min,
                    totals.max,
                    totals.last_value,
                    totals.last_ts,
                    unique,
                    self.fired,
                )
            )
        return rows

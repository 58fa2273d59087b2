"""apply: one entry of the log into the state. Total: whatever cannot be stored is a verdict.

Per batch: is it a retry of its session (sessions.py)? Then per row, in this order: does the metric exist; was
the event counted already (dedup.py); may the series have another cell; is there room for everything the row
could need. Only then is it stored: the account, the values, series, cell, bucket and member that are missing are created, the
bucket is updated, its id or fingerprint remembered, the thresholds evaluated (thresholds.py).

A row that is not stored leaves no trace but the counters and its place in SKIPS.
"""

from __future__ import annotations

from dataclasses import dataclass

from unimeter.kernels import layout as lay
from unimeter.kernels.api import Bytes, Summary
from unimeter.kernels.layout import BatchHead, EntryHead, MetricDef
from unimeter.kernels.reference import dedup, digest, journal, sessions
from unimeter.kernels.reference.catalog import ReferenceCatalog
from unimeter.kernels.reference.records import I64_MAX, I64_MIN, NONE, Bucket, Cell, Member, Record, Result, Series
from unimeter.kernels.reference.rows import RowView
from unimeter.kernels.reference.skips import skip
from unimeter.kernels.reference.state import State
from unimeter.kernels.reference.thresholds import Thresholds


class ReferenceApplied:
    """What applying one entry did."""

    def __init__(self, head: EntryHead, alerts_before: int) -> None:
        self.batch_count = head.batch_count
        self.row_count = head.row_count
        self.min_ts = I64_MAX
        self.max_ts = I64_MIN
        self.alerts_before = alerts_before
        self.alerts_after = alerts_before
        self.summaries: list[Summary] = []
        self.verdicts = bytearray()  # one byte per row
        self.digest = 0
        self.stamp_ns = 0  # of an entry that was applied elsewhere

    @classmethod
    def remote(cls, data: Bytes, batch_count: int, row_count: int, stamp_ns: int) -> ReferenceApplied:
        """What extract() said elsewhere."""
        size = batch_count * lay.SUMMARY.size
        if len(data) != size + row_count:
            raise ValueError("these are not the summaries and verdicts of so many batches and rows")
        head = EntryHead(0, 0, 0, lay.UM_ENTRY_BATCHES, batch_count, 0, 0, stamp_ns, 0, row_count)
        made = cls(head, 0)
        made.summaries = [Summary._make(fields) for fields in lay.SUMMARY.iter_unpack(memoryview(data)[:size])]
        made.verdicts += memoryview(data)[size:]
        made.stamp_ns = stamp_ns
        return made

    def summary(self, batch: int) -> Summary:
        return self.summaries[batch]

    def extract(self, first_batch: int, batch_count: int) -> bytes:
        """What remote() reads."""
        end = first_batch + batch_count
        if not 0 <= first_batch <= end <= self.batch_count:
            raise IndexError(first_batch)
        if not batch_count:
            return b""
        base = self.summaries[first_batch].row_base
        past = self.summaries[end].row_base if end < self.batch_count else self.row_count
        rebased = (each._replace(row_base=each.row_base - base) for each in self.summaries[first_batch:end])
        return b"".join(lay.SUMMARY.pack(*each) for each in rebased) + bytes(self.verdicts[base:past])


@dataclass
class _Counts:
    stored: int = 0
    duplicates: int = 0
    conflicts: int = 0
    refused: int = 0
    first_bad: int = NONE
    first_verdict: int = 0

    def add(self, position: int, verdict: int) -> None:
        if verdict == lay.UM_V_STORED:
            self.stored += 1
        elif verdict == lay.UM_V_DUPLICATE:
            self.duplicates += 1
        else:
            if verdict == lay.UM_V_CONFLICT:
                self.conflicts += 1
            else:
                self.refused += 1
            if self.first_bad == NONE:
                self.first_bad, self.first_verdict = position, verdict


def apply(state: State, catalog: ReferenceCatalog, entry: Bytes) -> ReferenceApplied:
    head = journal.entry_head(entry)
    applied = ReferenceApplied(head, state.meta.alert_next)
    if head.kind == lay.UM_ENTRY_BATCHES:
        dedup.rotate(state, head.row_count)
        seq = head.first_seq
        for batch, batch_rows in journal.batches(entry):
            _Batch(state, catalog, head, batch, batch_rows, seq, applied).run()
            seq += batch.row_count
        state.meta.next_seq = head.first_seq + head.row_count
    elif head.kind == lay.UM_ENTRY_LIMITS and head.body_len >= lay.LIMITS.size:
        state.limits = lay.decode_limits(memoryview(entry)[lay.ENTRY.size :])
    state.meta.applied_index = head.index
    state.meta.applied_term = head.term
    state.meta.stamp_ns = head.stamp_ns
    applied.alerts_after = state.meta.alert_next
    applied.digest = state.meta.digest
    return applied


class _Batch:
    """One request's rows on their way into the state."""

    def __init__(
        self,
        state: State,
        catalog: ReferenceCatalog,
        entry: EntryHead,
        batch: BatchHead,
        batch_rows: list[RowView],
        seq: int,
        applied: ReferenceApplied,
    ) -> None:
        self.state, self.catalog, self.entry, self.batch = state, catalog, entry, batch
        self.rows, self.seq, self.applied = batch_rows, seq, applied
        self.row_base = len(applied.verdicts)

    def run(self) -> None:
        for row in self.rows:
            ts = row.timestamp_ns or self.entry.stamp_ns
            self.applied.min_ts = min(self.applied.min_ts, ts)
            self.applied.max_ts = max(self.applied.max_ts, ts)
        if self.batch.flags & lay.UM_BATCH_OPEN_SESSION:
            self._not_now(sessions.open_session(self.state, self.batch, self.entry.stamp_ns))
        elif self.batch.session_hi or self.batch.session_lo:
            numbered = sessions.Numbered(self.state, self.batch, self.entry.stamp_ns)
            if numbered.first is not None:
                self._retry(numbered.first)
            elif numbered.verdict:
                self._not_now(numbered.verdict)
            else:
                counts = self._apply_rows()
                numbered.remember(Result(self.batch.number, **vars(counts), last_offset=self._last_seq()))
        else:
            self._apply_rows()

    # ---- the batch as a whole ----

    def _last_seq(self) -> int:
        return self.seq + self.batch.row_count - 1

    def _summarize(self, counts: _Counts, session_verdict: int, last_offset: int) -> None:
        self.applied.summaries.append(
            Summary(**vars(counts), session_verdict=session_verdict, row_base=self.row_base, last_offset=last_offset)
        )

    def _skip_all(self, verdict: int) -> None:
        self.applied.verdicts += bytes([verdict]) * self.batch.row_count
        skip(self.state, self.seq, self.batch.row_count)

    def _retry(self, first: Result) -> None:
        """The first answer again; nothing is applied."""
        self.state.meta.duplicates += self.batch.row_count
        self._skip_all(lay.UM_V_DUPLICATE)
        counts = _Counts(
            first.stored, first.duplicates, first.conflicts, first.refused, first.first_bad, first.first_verdict
        )
        self._summarize(counts, lay.UM_V_DUPLICATE, first.last_offset)

    def _not_now(self, verdict: int) -> None:
        """A batch none of whose rows is applied: settled long ago, refused, or the opening of a session."""
        row_count = self.batch.row_count
        counts = _Counts()
        if verdict == lay.UM_V_SESSION_SETTLED:
            counts.duplicates = row_count
            self.state.meta.duplicates += row_count
        else:
            counts.refused = row_count
            self.state.meta.refused += row_count
            if row_count:
                counts.first_bad, counts.first_verdict = 0, verdict
        self._skip_all(verdict)
        self._summarize(counts, verdict, self._last_seq())

    def _apply_rows(self) -> _Counts:
        counts = _Counts()
        judge = dedup.Dedup(self.state, bool(self.batch.flags & lay.UM_BATCH_V1))
        for position, row in enumerate(self.rows):
            verdict = self._apply_row(row, judge, self.seq + position)
            judge.settle(row, verdict)
            counts.add(position, verdict)
            self.applied.verdicts.append(verdict)
            if verdict != lay.UM_V_STORED:
                skip(self.state, self.seq + position)
        meta = self.state.meta
        meta.stored += counts.stored
        meta.duplicates += counts.duplicates
        meta.conflicts += counts.conflicts
        meta.refused += counts.refused
        self._summarize(counts, 0, self._last_seq())
        return counts

    # ---- one row ----

    def _apply_row(self, row: RowView, judge: dedup.Dedup, seq: int) -> int:
        metric = self.catalog.alive(row.metric)
        if metric is None:
            return lay.UM_V_UNKNOWN_METRIC
        verdict, claim = judge.judge(row)
        if verdict != lay.UM_V_STORED:
            return verdict
        place = _Place(self.state, metric, row, row.timestamp_ns or self.entry.stamp_ns)
        if place.cell is None and place.cell_count >= self.state.limits.cells_per_series_max:
            return lay.UM_V_CARDINALITY
        thresholds = Thresholds(self.state, metric, place.series, row, place.ts)
        if not (self.state.room(lay.UM_R_SKIPS) and place.has_room() and claim.has_room() and thresholds.has_room()):
            return lay.UM_V_FULL
        series, bucket, member = place.store(seq)
        claim.remember(seq)
        periods = thresholds.stored(series, seq, self.entry.stamp_ns)
        changed: list[Record] = [bucket, *([] if member is None else [member]), *periods]
        digest.add_row(self.state, seq, [record.pack() for record in changed])
        return lay.UM_V_STORED


class _Place:
    """Where a row belongs: what of its account, values, series, cell, bucket and member exists already."""

    def __init__(self, state: State, metric: MetricDef, row: RowView, ts: int) -> None:
        self.state, self.metric, self.row, self.ts = state, metric, row, ts
        self.hour = ts // lay.UM_HOUR_NS
        found = dict(row.properties)
        self.texts = [found.get(key, b"") for key in metric.dimensions]
        while self.texts and not self.texts[-1]:
            self.texts.pop()
        self.account = state.find_account(row.key)
        self.series = None if self.account is None else state.series_numbers.get((*self.account, metric.id))
        self.cell_count = 0 if self.series is None else state.series[self.series].cell_count
        self.cell = self._find_cell()
        self.bucket = None if self.cell is None else state.bucket_numbers.get((self.cell, self.hour))
        self.member = None if self.bucket is None else state.member_numbers.get((self.bucket, row.value))

    def _find_cell(self) -> int | None:
        dims = tuple(self.state.value_numbers.get(text, NONE) for text in self.texts)
        return None if self.series is None else self.state.cell_numbers.get((self.series, dims))

    @property
    def unique(self) -> bool:
        return self.metric.aggregation == lay.UM_AGG_UNIQUE

    def has_room(self) -> bool:
        room = self.state.room
        new_values = [text for text in self.texts if text not in self.state.value_numbers]
        heap_bytes = sum(len(text) for text in new_values)
        if self.account is None:
            assert self.row.text is not None
            heap_bytes += len(self.row.text)
        return (
            room(lay.UM_R_ACCOUNTS, int(self.account is None))
            and room(lay.UM_R_VALUES, len(new_values))
            and room(lay.UM_R_HEAP, heap_bytes)
            and room(lay.UM_R_SERIES, int(self.series is None))
            and room(lay.UM_R_CELLS, int(self.cell is None))
            and room(lay.UM_R_DIMS, len(self.texts) if self.cell is None else 0)
            and room(lay.UM_R_BUCKETS, int(self.bucket is None))
            and room(lay.UM_R_MEMBERS, int(self.unique and self.member is None))
        )

    def store(self, seq: int) -> tuple[int, Bucket, Member | None]:
        """Create what is missing and count the row. Returns the series and the records that changed."""
        account, text = self.state.intern_account(self.row.key)
        dims = tuple(self.state.intern_value(value) for value in self.texts)
        series = self._series(account, text)
        bucket_number = self._bucket(self._cell(series, dims), seq)
        bucket = self.state.buckets[bucket_number]
        bucket.totals.add_event(self.row.value, self.ts, seq)
        bucket.first_ts = min(bucket.first_ts, self.ts)
        return series, bucket, self._member(bucket_number, seq) if self.unique else None

    def _series(self, account: int, text: int) -> int:
        if self.series is None:
            self.series = len(self.state.series)
            self.state.series.append(Series(account, self.metric.id, text))
            self.state.series_numbers[account, text, self.metric.id] = self.series
        return self.series

    def _cell(self, series_number: int, dims: tuple[int, ...]) -> int:
        if self.cell is None:
            self.cell = len(self.state.cells)
            self.state.cells.append(Cell(series_number, len(self.state.dims), dims))
            self.state.dims += dims
            self.state.cell_numbers[series_number, dims] = self.cell
            series = self.state.series[series_number]
            if series.last_cell == NONE:
                series.first_cell = self.cell
            else:
                self.state.cells[series.last_cell].next = self.cell
            series.last_cell = self.cell
            series.cell_count += 1
        return self.cell

    def _bucket(self, cell_number: int, seq: int) -> int:
        cell = self.state.cells[cell_number]
        if self.bucket is None:
            self.bucket = len(self.state.buckets)
            self.state.buckets.append(Bucket(cell_number, self.hour, cell.first_bucket, self.ts, seq))
            self.state.bucket_numbers[cell_number, self.hour] = self.bucket
            cell.first_bucket = self.bucket
            cell.bucket_count += 1
        cell.hot_bucket = self.bucket
        if not cell.dims:
            self.state.series[cell.series].plain_bucket = self.bucket
        return self.bucket

    def _member(self, bucket_number: int, seq: int) -> Member:
        operation = self.row.operation or lay.UM_OP_ADD
        if self.member is None:
            bucket = self.state.buckets[bucket_number]
            member = Member(bucket_number, bucket.first_member, self.row.value, self.ts, seq, operation)
            bucket.first_member = len(self.state.members)
            self.state.member_numbers[bucket_number, self.row.value] = bucket.first_member
            self.state.members.append(member)
            return member
        member = self.state.members[self.member]
        if self.ts >= member.last_ts:
            member.last_ts, member.last_seq, member.operation = self.ts, seq, operation
        return member

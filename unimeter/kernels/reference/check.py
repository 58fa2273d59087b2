"""The structural rules of a state, each with its number: what holds after every entry, whatever was in it. O(state).

 1  META: rows accounted for (stored + duplicates + conflicts + refused == rows logged)
 2  every region within its limit of 2^32 - 1 records
 3  every dictionary finds every record of its pool, exactly once
 4  VALUES: record 0 is "", bytes are in HEAP, the hash is theirs         5  ACCOUNTS: the same, none empty
 6  SERIES: account and metric exist; the chain of cells is whole; the plain bucket is the hot one of the cell without
    dimension values
 7  CELLS: words in DIMS, values exist, no trailing ""; the chain of buckets is whole and holds the hot one
 8  BUCKETS: none empty, least <= greatest, times inside the hour, counts add up to meta.stored
 9  MEMBERS: reached through their bucket, times inside the bucket's, a real operation
10  IDS: of rows that were stored                                        11  SESSIONS: result n in slot n % 64
12  PERIODS: reached through their series, count equals that of the buckets
13  PMEMBERS: those present add up to the periods' `unique`
14  ALERTS: numbered 1, 2, ...                                           15  SKIPS: sorted, apart, rows add up
16  HEAP and DIMS: nothing unaccounted for
"""

from __future__ import annotations

from collections.abc import Callable

from unimeter.kernels import layout as lay
from unimeter.kernels.reference.catalog import ReferenceCatalog
from unimeter.kernels.reference.checksum import hash64
from unimeter.kernels.reference.records import NONE, Bucket, Cell, Series
from unimeter.kernels.reference.skips import is_skipped
from unimeter.kernels.reference.state import State

HOUR = lay.UM_HOUR_NS


def check(state: State, catalog: ReferenceCatalog) -> int:
    """0, or the number of the first broken structural rule."""
    rules: tuple[Callable[[State, ReferenceCatalog], int], ...] = (
        _meta,
        _dictionaries,
        _texts,
        _series,
        _cells,
        _buckets,
        _memory,
        _periods,
        _logs,
        _accounted,
    )
    return next((broken for rule in rules if (broken := rule(state, catalog))), 0)


def _meta(state: State, _: ReferenceCatalog) -> int:
    meta = state.meta
    rows = meta.stored + meta.duplicates + meta.conflicts + meta.refused
    if meta.version != 1 or meta.fps_current > 1 or rows != meta.next_seq - 1:
        return 1
    return 2 if max(state.counts()) >= lay.UM_NONE else 0


def _dictionaries(state: State, _: ReferenceCatalog) -> int:
    series, cells, buckets, members = state.series, state.cells, state.buckets, state.members
    exact = (
        [state.value_numbers.get(record.text) for record in state.values] == [*range(len(state.values))]
        and [state.account_numbers.get(record.text) for record in state.accounts] == [*range(len(state.accounts))]
        and [state.series_numbers.get((s.account, s.text, s.metric)) for s in series] == [*range(len(series))]
        and [state.cell_numbers.get((cell.series, cell.dims)) for cell in cells] == [*range(len(cells))]
        and [state.bucket_numbers.get((b.cell, b.hour)) for b in buckets] == [*range(len(buckets))]
        and [state.member_numbers.get((m.bucket, m.member)) for m in members] == [*range(len(members))]
        and [state.id_numbers.get(record.key) for record in state.ids] == [*range(len(state.ids))]
        and [state.session_numbers.get((s.id_hi, s.id_lo)) for s in state.sessions] == [*range(len(state.sessions))]
        and [state.period_member_numbers.get((m.period, m.member)) for m in state.period_members]
        == [*range(len(state.period_members))]
    )
    return 0 if exact else 3


def _texts(state: State, _: ReferenceCatalog) -> int:
    for rule, records in ((4, state.values), (5, state.accounts)):
        for number, record in enumerate(records):
            end = record.heap_off + len(record.text)
            if state.heap[record.heap_off : end] != record.text or record.hash != hash64(record.text):
                return rule
            if (not record.text) != (rule == 4 and number == 0):
                return rule
    return 0


def _series(state: State, catalog: ReferenceCatalog) -> int:
    reached = 0
    for number, series in enumerate(state.series):
        if series.metric >= len(catalog.metrics) or (series.text and series.account >= len(state.accounts)):
            return 6
        chain: list[Cell] = list(state.cells_of(number))
        if not chain or len(chain) != series.cell_count or state.cells[series.last_cell] is not chain[-1]:
            return 6
        if any(cell.series != number for cell in chain):
            return 6
        if next((cell.hot_bucket for cell in chain if not cell.dims), NONE) != series.plain_bucket:
            return 6
        reached += len(chain)
    return 0 if reached == len(state.cells) else 6


def _cells(state: State, catalog: ReferenceCatalog) -> int:
    reached = 0
    for number, cell in enumerate(state.cells):
        declared = len(catalog.metrics[state.series[cell.series].metric].dimensions)
        in_dims = tuple(state.dims[cell.dims_off : cell.dims_off + len(cell.dims)])
        if len(cell.dims) > declared or cell.dims != in_dims or max(cell.dims, default=0) >= len(state.values):
            return 7
        if cell.dims and cell.dims[-1] == 0:
            return 7
        chain: list[Bucket] = list(state.buckets_of(cell))
        if not chain or len(chain) != cell.bucket_count or any(bucket.cell != number for bucket in chain):
            return 7
        if state.buckets[cell.hot_bucket].cell != number:
            return 7
        reached += len(chain)
    return 0 if reached == len(state.buckets) else 7


def _bucket_sound(state: State, bucket: Bucket) -> bool:
    totals = bucket.totals
    return (
        totals.count > 0
        and totals.min <= totals.last_value <= totals.max
        and bucket.first_ts <= totals.last_ts
        and bucket.first_ts // HOUR == bucket.hour == totals.last_ts // HOUR
        and 0 < bucket.first_seq <= totals.last_seq < state.meta.next_seq
    )


def _buckets(state: State, _: ReferenceCatalog) -> int:
    stored = reached = 0
    for number, bucket in enumerate(state.buckets):
        if not _bucket_sound(state, bucket):
            return 8
        stored += bucket.totals.count
        for member in state.members_of(bucket):
            reached += 1
            if member.bucket != number or not bucket.first_ts <= member.last_ts <= bucket.totals.last_ts:
                return 9
            if member.operation not in (lay.UM_OP_ADD, lay.UM_OP_REMOVE):
                return 9
    if stored != state.meta.stored:
        return 8
    return 0 if reached == len(state.members) else 9


def _memory(state: State, _: ReferenceCatalog) -> int:
    for record in state.ids:
        if not 0 < record.seq < state.meta.next_seq or is_skipped(state, record.seq):
            return 10
    for session in state.sessions:
        for slot, result in enumerate(session.results):
            if result.number and (result.number % lay.UM_SESSION_WINDOW != slot or result.number > session.highest):
                return 11
    return 0


def _count_in_buckets(state: State, series: Series, start: int, end: int) -> int:
    cells = state.cells_of(state.series_numbers[series.account, series.text, series.metric])
    return sum(
        bucket.totals.count for cell in cells for bucket in state.buckets_of(cell) if start <= bucket.hour * HOUR < end
    )


def _periods(state: State, _: ReferenceCatalog) -> int:
    reached = present = 0
    for number, series in enumerate(state.series):
        for period in state.periods_of(number):
            reached += 1
            if period.series != number or period.start >= period.end:
                return 12
            if period.totals.count != _count_in_buckets(state, series, period.start, period.end):
                return 12
            present += period.unique
    if reached != len(state.periods):
        return 12
    return 0 if present == sum(member.operation == lay.UM_OP_ADD for member in state.period_members) else 13


def _logs(state: State, _: ReferenceCatalog) -> int:
    meta = state.meta
    numbers = [alert.number for alert in state.alerts]
    if numbers != [*range(1, meta.alert_next)]:
        return 14
    past = skipped = 0
    for run in state.skips:
        if run.count == 0 or run.first_seq <= past or run.first_seq + run.count > meta.next_seq:
            return 15
        past = run.first_seq + run.count
        skipped += run.count
    return 0 if skipped == meta.duplicates + meta.conflicts + meta.refused else 15


def _accounted(state: State, _: ReferenceCatalog) -> int:
    heap_bytes = sum(len(record.text) for record in (*state.values, *state.accounts))
    words = sum(len(cell.dims) for cell in state.cells)
    return 0 if (heap_bytes, words) == (len(state.heap), len(state.dims)) else 16

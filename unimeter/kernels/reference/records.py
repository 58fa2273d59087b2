"""The records of a group's state, one class per struct of the layout, each with the bytes it is worth.

A region is a list of these in creation order; a record's number is its position, and records name each other
by number. NONE means "no record". Nothing here decides anything: the rules are in apply and its parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from unimeter.kernels import layout as lay
from unimeter.kernels.api import Limits
from unimeter.kernels.reference.checksum import MASK64, MASK128

NONE = lay.UM_NONE
I64_MAX = (1 << 63) - 1
I64_MIN = -(1 << 63)


def split128(value: int) -> tuple[int, int]:
    """A 128-bit two's complement number as (low u64, high i64); what does not fit wraps."""
    value &= MASK128
    high = value >> 64
    return value & MASK64, high - (1 << 64) if high >> 63 else high


def wrap128(value: int) -> int:
    low, high = split128(value)
    return high << 64 | low


class Record(Protocol):
    def pack(self) -> bytes: ...


@dataclass(slots=True)
class Meta:
    version: int = 1
    applied_index: int = 0
    applied_term: int = 0
    stamp_ns: int = 0
    next_seq: int = 1
    stored: int = 0
    duplicates: int = 0
    conflicts: int = 0
    refused: int = 0
    digest: int = 0
    alert_next: int = 1
    fps_current: int = 0
    fps_rotations: int = 0
    sessions_opened: int = 0
    sessions_evicted: int = 0

    def pack(self, limits: Limits) -> bytes:
        return lay.META.pack(
            self.version,
            self.applied_index,
            self.applied_term,
            self.stamp_ns,
            self.next_seq,
            self.stored,
            self.duplicates,
            self.conflicts,
            self.refused,
            self.digest,
            self.alert_next,
            self.fps_current,
            self.fps_rotations,
            self.sessions_opened,
            self.sessions_evicted,
            lay.encode_limits(limits),
            *(0,) * 25,
        )


@dataclass(slots=True)
class Text:
    """An interned string, in VALUES or ACCOUNTS."""

    heap_off: int
    hash: int
    text: bytes

    def pack(self) -> bytes:
        return lay.VALUE.pack(self.heap_off, self.hash, len(self.text), 0)


@dataclass(slots=True)
class Series:
    account: int  # numeric, or a record number in ACCOUNTS when text
    metric: int
    text: int
    first_cell: int = NONE
    last_cell: int = NONE
    cell_count: int = 0
    first_period: int = NONE
    plain_bucket: int = NONE  # the hot bucket of its cell without dimension values

    def pack(self) -> bytes:
        return lay.SERIES.pack(
            self.account,
            self.metric,
            self.text,
            self.first_cell,
            self.last_cell,
            self.cell_count,
            self.first_period,
            self.plain_bucket,
        )


@dataclass(slots=True)
class Cell:
    series: int
    dims_off: int
    dims: tuple[int, ...]  # value numbers, trailing 0 dropped
    next: int = NONE
    first_bucket: int = NONE
    hot_bucket: int = NONE
    bucket_count: int = 0

    def pack(self) -> bytes:
        return lay.CELL.pack(
            self.series,
            self.next,
            self.dims_off,
            len(self.dims),
            self.first_bucket,
            self.hot_bucket,
            self.bucket_count,
            0,
        )


@dataclass(slots=True)
class Totals:
    """What a stretch of events adds up to. min, max and last mean something when count > 0."""

    count: int = 0
    sum: int = 0  # wraps at 128 bits
    min: int = 0
    max: int = 0
    last_value: int = 0
    last_ts: int = 0
    last_seq: int = 0

    def add_event(self, value: int, ts: int, seq: int) -> None:
        self.add(Totals(1, value, value, value, value, ts, seq))

    def add(self, other: Totals) -> None:
        """LATEST ties: the greater timestamp wins, among equals the one later in the log."""
        if other.count == 0:
            return
        if self.count == 0:
            self.min, self.max = other.min, other.max
        else:
            self.min, self.max = min(self.min, other.min), max(self.max, other.max)
        if self.count == 0 or (other.last_ts, other.last_seq) > (self.last_ts, self.last_seq):
            self.last_value, self.last_ts, self.last_seq = other.last_value, other.last_ts, other.last_seq
        self.count += other.count
        self.sum = wrap128(self.sum + other.sum)


@dataclass(slots=True)
class Bucket:
    cell: int
    hour: int
    next: int
    first_ts: int
    first_seq: int
    first_member: int = NONE
    totals: Totals = field(default_factory=Totals)  # its last_ts is also the bucket's greatest event time

    def pack(self) -> bytes:
        totals = self.totals
        return lay.BUCKET.pack(
            self.cell,
            self.next,
            self.hour,
            self.first_member,
            totals.count,
            *split128(totals.sum),
            totals.min,
            totals.max,
            totals.last_value,
            self.first_ts,
            totals.last_ts,
            totals.last_seq,
            self.first_seq,
        )


@dataclass(slots=True)
class Member:
    """The last operation on one member of a count-unique metric within a bucket."""

    bucket: int
    next: int
    member: int
    last_ts: int
    last_seq: int
    operation: int

    def pack(self) -> bytes:
        return lay.MEMBER.pack(self.bucket, self.next, self.member, self.last_ts, self.last_seq, self.operation, 0)


@dataclass(slots=True)
class Identity:
    """An event id that was seen: its 128-bit name, what it said, where it stands in the log."""

    key: int
    content: int
    seq: int

    def pack(self) -> bytes:
        return lay.ID.pack(self.key & MASK64, self.key >> 64, self.content, self.seq)


@dataclass(slots=True)
class Result:
    """The first answer to one numbered batch."""

    number: int = 0
    stored: int = 0
    duplicates: int = 0
    conflicts: int = 0
    refused: int = 0
    first_bad: int = 0
    first_verdict: int = 0
    last_offset: int = 0

    def pack(self) -> bytes:
        return lay.RESULT.pack(
            self.number,
            self.stored,
            self.duplicates,
            self.conflicts,
            self.refused,
            self.first_bad,
            self.first_verdict,
            self.last_offset,
        )


@dataclass(slots=True)
class Session:
    id_hi: int
    id_lo: int
    settled_below: int = 0
    highest: int = 0
    last_stamp_ns: int = 0
    results: list[Result] = field(default_factory=lambda: [Result() for _ in range(lay.UM_SESSION_WINDOW)])

    def pack(self) -> bytes:
        return lay.SESSION.pack(
            self.id_hi,
            self.id_lo,
            self.settled_below,
            self.highest,
            self.last_stamp_ns,
            0,
            b"".join(result.pack() for result in self.results),
        )


@dataclass(slots=True)
class Period:
    """The running total of a series that has thresholds, over one of its metric's periods."""

    number: int  # its own; not packed
    series: int
    next: int
    start: int
    end: int
    totals: Totals = field(default_factory=Totals)
    unique: int = 0
    fired: int = 0
    above: int = 0

    def pack(self) -> bytes:
        totals = self.totals
        return lay.PERIOD.pack(
            self.series,
            self.next,
            self.start,
            self.end,
            totals.count,
            *split128(totals.sum),
            totals.min,
            totals.max,
            totals.last_value,
            totals.last_ts,
            totals.last_seq,
            self.unique,
            self.fired,
            self.above,
        )


@dataclass(slots=True)
class PeriodMember:
    """The last operation on one member, as far as a period counts it."""

    period: int
    operation: int
    member: int
    last_ts: int
    last_seq: int

    def pack(self) -> bytes:
        return lay.PMEMBER.pack(self.period, self.operation, self.member, self.last_ts, self.last_seq)


@dataclass(slots=True)
class Alert:
    number: int
    account: int
    metric: int
    slot: int
    text: int
    value: int
    stamp_ns: int
    period_start: int
    seq: int

    def pack(self) -> bytes:
        return lay.ALERT.pack(
            self.number,
            self.account,
            self.metric,
            self.slot,
            self.text,
            0,
            self.value,
            self.stamp_ns,
            self.period_start,
            self.seq,
        )


@dataclass(slots=True)
class Skip:
    """A run of rows that were logged but not stored."""

    first_seq: int
    count: int

    def pack(self) -> bytes:
        return lay.SKIP.pack(self.first_seq, self.count)

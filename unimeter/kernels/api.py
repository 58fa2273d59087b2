"""What the kernels offer to the rest of the node, as types.

Two implementations satisfy these protocols and must answer alike, byte for byte:
`unimeter.kernels.native` (C through cffi, what production runs) and `unimeter.kernels.reference`
(plain Python, the oracle). `unimeter.kernels.load()` picks one: the environment variable
UNIMETER_KERNELS=native|reference decides, native when unset.

Byte layouts (records, entries, batches, rows, summaries, ...) are the structs of csrc/kernels/um_layout.h;
`unimeter.kernels.layout` holds their `struct` formats, sizes and constants, and a test checks the two
against each other.

Units: `_ns` nanoseconds since 1970 UTC, `_bytes` bytes, `seq` a row's position in its group's log (from 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Bytes = bytes | bytearray | memoryview


class Frame(NamedTuple):
    """One whole frame in a receive buffer; offsets count from the start of that buffer."""

    offset: int
    payload_off: int
    payload_len: int
    request_id: int
    protocol: int  # 1 or 2
    type: int
    flags: int
    status: int  # responses only
    partition: int  # v1 only, advisory
    deadline_ms: int  # v2 only, 0 = none


class FrameTable(Protocol):
    """The frames of one buffer, kept in C until somebody asks for one."""

    consumed: int  # bytes of the buffer that belong to whole frames
    error: int  # UM_SCAN_*: what is wrong with the bytes at `consumed`; 0 = nothing, or an incomplete frame
    error_request_id: int
    error_protocol: int

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Frame: ...


class Reply(NamedTuple):
    link: int
    data: bytes


class Applied(Protocol):
    """What applying one entry did. Valid until the next apply on the same state."""

    batch_count: int
    row_count: int
    min_ts: int
    max_ts: int  # min_ts > max_ts when the entry has no row
    alerts_before: int
    alerts_after: int

    def summary(self, batch: int) -> Summary: ...


class Summary(NamedTuple):
    """um_summary, field by field."""

    stored: int
    duplicates: int
    conflicts: int
    refused: int
    first_bad: int
    first_verdict: int
    session_verdict: int
    row_base: int
    last_offset: int


class Intake(Protocol):
    """An open entry: ingest frames go in, an entry body and request records come out. Bounded by `bytes_max`.

    Life: take()* -> seal() -> immediate() -> [entry is durable, committed, applied] -> answers() -> clear().
    Two of these alternate in a node: one open, one on its way to disk.
    """

    @property
    def batch_count(self) -> int: ...
    @property
    def row_count(self) -> int: ...
    @property
    def used_bytes(self) -> int:
        """Bytes of the entry's body so far."""

    @property
    def immediate_count(self) -> int:
        """Requests that immediate() has not answered yet; after a call before seal(): those that wait for the seal."""

    def take(self, catalog: Catalog, data: Bytes, frames: FrameTable, first: int, link: int) -> tuple[int, int]:
        """Take ingest frames from `first` on. Returns (UM_STOP_*, index of the first frame not taken)."""

    def immediate(self) -> list[Reply]:
        """Answers that wait for nothing (refused requests; async requests, once sealed); each is given once."""

    def seal(self, group: int, index: int, term: int, stamp_ns: int, first_seq: int) -> memoryview:
        """Close the body and return the entry (header + body). The memory is this object's, until clear()."""

    def answers(self, applied: Applied) -> list[Reply]:
        """Answers to the waiting (sync) requests, from what apply said; runs on one link are joined."""

    def clear(self) -> None: ...


class Catalog(Protocol):
    """The kernels' view of the metric definitions (um_catalog)."""

    def find(self, code: bytes) -> int:
        """Metric id, or -1."""


class JournalScan(NamedTuple):
    consumed: int
    seq: int  # of the last good record
    chain: int
    stop: int  # UM_J_*
    offsets: Sequence[int]  # where each good record begins


class QuerySpec(NamedTuple):
    account: int | bytes  # numeric, or the text key
    metric: int  # id
    start: int  # ns, inclusive
    end: int  # ns, exclusive
    group_by: tuple[int, ...]  # dimension numbers of the metric
    filters: tuple[tuple[int, tuple[bytes, ...]], ...]  # (dimension number, any of these values)


class Row(NamedTuple):
    """One answer row. `min`, `max`, `last_value`, `last_ts` mean something when count > 0."""

    dimensions: tuple[bytes, ...]
    count: int  # type: ignore[assignment]  # tuple.count is not missed here
    sum: int
    min: int
    max: int
    last_value: int
    last_ts: int
    unique: int
    fired: int


class Query(Protocol):
    """A query under way. `needs_scan` False: rows() may be called at once."""

    needs_scan: bool
    first_seq: int  # rows to scan lie in [first_seq, end_seq)
    end_seq: int
    edges: tuple[tuple[int, int], ...]  # non-empty time ranges to scan, [start, end)

    def scan(self, records: Bytes) -> None:
        """Feed verified journal records (each record exactly once, in log order, whole records only)."""

    def rows(self) -> list[Row]: ...


class TooManyGroups(Exception):
    """The answer would have more rows than `groups_max`."""


class Alert(NamedTuple):
    number: int
    account: int | bytes
    metric: int
    slot: int
    value: int
    stamp_ns: int
    period_start: int
    seq: int


class Event(NamedTuple):
    seq: int
    timestamp_ns: int
    account: int | bytes
    metric: int
    value: int
    operation: int
    id: bytes
    properties: tuple[tuple[bytes, bytes], ...]


class Meta(NamedTuple):
    """Counters of um_meta."""

    applied_index: int
    applied_term: int
    stamp_ns: int
    next_seq: int
    stored: int
    duplicates: int
    conflicts: int
    refused: int
    digest: int
    alert_next: int
    fps_current: int
    fps_rotations: int
    sessions_opened: int
    sessions_evicted: int


@dataclass(frozen=True)
class Limits:
    """um_limits. `records_max` per region in the order of UM_R_*."""

    records_max: tuple[int, ...]
    fingerprints_per_generation: int
    cells_per_series_max: int
    session_idle_ns: int

    # encode() -> bytes and decode(bytes) are functions of kernels.layout: encode_limits, decode_limits


class GroupState(Protocol):
    """One group's replicated state: a pure function of its log."""

    def apply(self, catalog: Catalog, entry: Bytes) -> Applied:
        """Apply one whole entry (any kind). Total: whatever cannot be stored is a verdict."""

    def meta(self) -> Meta: ...
    def limits(self) -> Limits: ...
    def region_counts(self) -> tuple[int, ...]:
        """Records in use per region, in the order of UM_R_*."""

    def memory_bytes(self) -> int:
        """Bytes in use by regions and indexes."""

    def query(self, catalog: Catalog, spec: QuerySpec, groups_max: int) -> Query: ...
    def alerts(self, since: int, account: int | bytes | None, limit: int) -> list[Alert]:
        """Alerts with number > since, oldest first; account None = all."""

    def events(
        self, account: int | bytes, since: int, until: int, after_seq: int, end_seq: int, metric: int | None
    ) -> EventScan:
        """List stored events with since <= timestamp <= until and after_seq < seq < end_seq."""

    def digest(self) -> int:
        """Full digest of all regions, O(state)."""

    def check(self, catalog: Catalog) -> int:
        """0, or the number of the first broken structural rule."""

    def checkpoint_begin(self) -> int:
        """Freeze an image; returns its length in bytes. One at a time."""

    def checkpoint_read(self, bytes_max: int) -> bytes:
        """The image's next bytes; b"" when complete."""

    def checkpoint_end(self) -> None: ...


class StateLoader(Protocol):
    def feed(self, data: Bytes) -> None:
        """The image's next bytes, in order. Raises ValueError when they are not an image."""

    def finish(self) -> GroupState: ...


class EventScan(Protocol):
    def scan(self, records: Bytes, limit: int) -> list[Event]: ...


class Kernels(Protocol):
    name: str

    def crc32c(self, data: Bytes, crc: int = 0) -> int: ...
    def hash64(self, data: Bytes, seed: int = 0) -> int: ...
    def hash128(self, data: Bytes, seed: int = 0) -> int:
        """hi << 64 | lo."""

    def frame_scan(self, data: Bytes, payload_max: int) -> FrameTable: ...
    def response_scan(self, data: Bytes, protocol: int, payload_max: int) -> FrameTable: ...
    def catalog(self, metrics: Sequence[bytes]) -> Catalog:
        """`metrics[i]` is the packed um_metric of id i."""

    def intake(self, group: int, bytes_max: int, batch_events_max: int) -> Intake: ...
    def entry(self, kind: int, group: int, index: int, term: int, stamp_ns: int, first_seq: int, body: Bytes) -> bytes:
        """An entry without batches (catalog, limits, noop)."""

    def entry_verify(self, entry: Bytes) -> bool: ...
    def record(
        self, out: memoryview, entries: Sequence[Bytes], kind: int, seq: int, prev_chain: int, stamp_ns: int
    ) -> tuple[int, int]:
        """Build a journal record at out[0:]. Returns (total length incl. padding, chain)."""

    def journal_verify(self, data: Bytes, seq: int, chain: int) -> JournalScan:
        """`seq`, `chain`: those of the record before data[0] (0, seed chain at the very start)."""

    def journal_find_later(self, data: Bytes, seq: int) -> int: ...
    def record_entries(self, record: Bytes) -> list[memoryview]:
        """The entries of one verified record."""

    def state(self, limits: Limits) -> GroupState: ...
    def state_loader(self, image_bytes: int) -> StateLoader: ...
    def period_bounds(self, period_type: int, billing_day: int, timestamp_ns: int) -> tuple[int, int]: ...

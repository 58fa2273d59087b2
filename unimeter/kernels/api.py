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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from unimeter.kernels.frame import Frame, Reply

Bytes = bytes | bytearray | memoryview


ROWS_END = 2**63  # beyond every row's sequence number


class FrameTable(Protocol):
    """The frames of one buffer, kept in C until somebody asks for one."""

    consumed: int  # bytes of the buffer that belong to whole frames
    error: int  # UM_SCAN_*: what is wrong with the bytes at `consumed`; 0 = nothing, or an incomplete frame
    error_request_id: int
    error_protocol: int

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Frame: ...


class Applied(Protocol):
    """What applying one entry did. Valid until the next apply on the same state."""

    batch_count: int
    row_count: int
    min_ts: int
    max_ts: int  # min_ts > max_ts when the entry has no row
    alerts_before: int
    alerts_after: int
    digest: int  # the running digest after the entry

    def summary(self, batch: int) -> Summary: ...
    def extract(self, first_batch: int, batch_count: int) -> bytes:
        """The part of the answer that is about these batches: their summaries (row_base counts from the first of them)
        and a verdict byte per row. What `Kernels.remote_applied` reads."""


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

    Life, where the group is led: take()* -> seal() -> immediate() -> [entry is durable, committed, applied] ->
    answers() -> clear(). Two of these alternate in a node: one open, one on its way to disk.
    Life, where another node leads the group: take()* -> bundle() -> [sent there, add_bundle() there, applied there,
    extract() there] -> answers(remote_applied()) -> clear().
    At any time: fail() -> clear(), or clear() alone (then nobody gets an answer).
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

    @property
    def pending_count(self) -> int:
        """Requests without an answer, those that wait for nothing included."""

    def seal(self, group: int, index: int, term: int, stamp_ns: int, first_seq: int) -> memoryview:
        """Close the body and return the entry (header + body). The memory is this object's, until clear()."""

    def bundle(self) -> tuple[Bytes, int, int]:
        """For the leader of the group, elsewhere: (the batches, how many, rows in them). Freezes like seal(): nothing
        more is taken. From now on async requests wait for answers() like the sync ones. The memory is this object's,
        until clear()."""

    def add_bundle(self, body: Bytes, batch_count: int, row_count: int) -> tuple[int, int] | None:
        """Another node's batches into this open entry, without requests: whoever made the bundle answers them.
        Returns (number of the first batch, rows before it), None when there is no room. Raises ValueError when the
        body is not exactly these batches, well-formed to the last row."""

    def answers(self, applied: Applied) -> list[Reply]:
        """Answers to the waiting (sync) requests, from what apply said; runs on one link are joined."""

    def fail(self, v1_status: int, v1_payload: bytes, v2_status: int, v2_payload: bytes) -> list[Reply]:
        """Answer every request that has no answer yet with this instead. A span (api.Splitter) is answered at once,
        and not again when its other parts are."""

    def clear(self) -> None:
        """Forget everything and begin anew; requests that have no answer yet never get one."""


class Splitter(Protocol):
    """Ingest frames into the open entries of their groups.

    The group of a row: (account mod 256) mod group_count; of a text account, hash64 of the text in place of the number.
    A request with rows in several groups becomes a span: in each of them a batch of its own (the same session, number
    and flags), and one answer, with the last part's: counts added up, the gravest session verdict, events by their
    index as sent. A batch that opens a session goes to every group, with a group hint (v2 header) to that group alone;
    a numbered batch without rows to the hinted group or group 0. What stores nothing is answered through intakes[0].

    With more than one group `last_offset` of an answer is the stamp_ns of the entry (of a span: the greatest), which
    grows from batch to batch whatever their groups.
    """

    unknown_waits: bool  # the catalog may be behind: stop (UM_STOP_ELSEWHERE) at a request with metrics that it lacks

    @property
    def groups_wanted(self) -> int:
        """After UM_STOP_ELSEWHERE and UM_STOP_FULL: bit g is set when the stopped request has a part in group g."""

    @property
    def spans_open(self) -> int:
        """Spans without an answer, or with parts that their intakes have not let go yet."""

    def take(
        self,
        catalog: Catalog,
        data: Bytes,
        frames: FrameTable,
        first: int,
        link: int,
        intakes: Sequence[Intake],
        local: bytes,
    ) -> tuple[int, int]:
        """As Intake.take, but rows go to intakes[group], all of them or none. local[g] says who leads group g: 0,
        nobody that this node could ask; 1, this node (or whoever it forwards anything to); another label, another
        node, the same label for the same node. A request that needs a group of label 0, or only groups of one other
        node, is left alone: UM_STOP_ELSEWHERE and its index. What needs several nodes is taken; the parts for others
        are theirs as bundles."""


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

    def scan(self, records: Bytes, first_row: int = 0, end_row: int = ROWS_END) -> None:
        """Feed verified journal records (each record exactly once, in log order, whole records only). Only rows of the
        group with first_row <= seq < end_row count: a record may hold an entry that a later one replaced, whose row
        numbers were given out again."""

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


class Job(Protocol):
    """Entries that are being applied (GroupState.begin)."""

    @property
    def call(self) -> tuple[int, int]:
        """Addresses of a C function and of its argument: to call it does the work, in any thread, once. (0, 0): only
        finish() does."""

    def wait(self) -> None:
        """Do, or wait for, what is not done yet: afterwards no other thread is at the state."""

    def finish(self) -> Iterator[Applied]:
        """What became of the entries, in order, each valid until the next is asked for; does, or waits for, what is not
        done yet. Once, and to its end."""


class GroupState(Protocol):
    """One group's replicated state: a pure function of its log."""

    def apply(self, catalog: Catalog, entry: Bytes) -> Applied:
        """Apply one whole entry (any kind). Total: whatever cannot be stored is a verdict."""

    def begin(self, catalog: Catalog, entries: Sequence[Bytes]) -> Job:
        """Apply these entries of events, one after another, when the job is finished or before. Until then nothing else
        may be asked of the state that depends on them, or changes it; figures may be read, of before or of meanwhile."""

    def ahead(self) -> list[tuple[int, int]]:
        """(address, bytes): memory that is soon written to for the first time, each stretch once. Whoever has its pages made
        in time saves the next entries waiting for them; nothing depends on it."""

    @property
    def memory(self) -> object:
        """Where that is, mapped as long as somebody holds this. (The state may move to another.)"""

    def meta(self) -> Meta: ...
    def limits(self) -> Limits: ...
    def region_counts(self) -> tuple[int, ...]:
        """Records in use per region, in the order of UM_R_*."""

    def memory_bytes(self) -> int:
        """Bytes in use by regions and indexes."""

    def glance(self, newest: Catalog, catalog: Catalog, data: Bytes) -> bytes | None:
        """The frame that answers `data`, if that is one whole v1 usage query without filters which this state answers by
        itself; None: it is something else. `newest`: knows the metrics' codes; `catalog`: the state's own."""

    def query(self, catalog: Catalog, spec: QuerySpec, groups_max: int, group: int = 0) -> Query:
        """`group`: whose rows the records hold that are fed to the query."""

    def alerts(self, since: int, account: int | bytes | None, limit: int) -> list[Alert]:
        """Alerts with number > since, oldest first; account None = all."""

    def events(
        self,
        account: int | bytes,
        since: int,
        until: int,
        after_seq: int,
        end_seq: int,
        metric: int | None,
        group: int = 0,
    ) -> EventScan:
        """List stored events with since <= timestamp <= until and after_seq < seq < end_seq."""

    def digest(self) -> int:
        """Full digest of all regions, O(state)."""

    def flip(self, region: int, byte: int, bit: int) -> None:
        """A hook for tests of divergence: flip one bit of what a region has in use, as a broken memory cell would."""

    def check(self, catalog: Catalog) -> int:
        """0, or the number of the first broken structural rule."""

    def checkpoint_begin(self) -> int:
        """Freeze an image; returns its length in bytes. One at a time."""

    def checkpoint_read(self, out: memoryview) -> int:
        """Put the image's next bytes there, as many as fit. Returns how many; 0 when it is complete."""

    def checkpoint_end(self) -> None: ...


class StateLoader(Protocol):
    def feed(self, data: Bytes) -> None:
        """The image's next bytes, in order. Raises ValueError when they are not an image."""

    def finish(self) -> GroupState: ...


class EventScan(Protocol):
    def scan(self, records: Bytes, limit: int, first_row: int = 0, end_row: int = ROWS_END) -> list[Event]:
        """The next events, at most `limit`; the rows that count as with Query.scan."""


class Kernels(Protocol):
    name: str

    def crc32c(self, data: Bytes, crc: int = 0) -> int: ...
    def hash64(self, data: Bytes, seed: int = 0) -> int: ...
    def hash128(self, data: Bytes, seed: int = 0) -> int:
        """hi << 64 | lo."""

    def frame_scan(self, data: Bytes, payload_max: int) -> FrameTable: ...
    def v2_head(self, type_: int, status: int, request_id: int, payload: Bytes) -> bytes:
        """The header of a v2 frame that the node sends, without flags, deadline and hint; the payload goes behind it."""

    def response_scan(self, data: Bytes, protocol: int, payload_max: int) -> FrameTable: ...
    def catalog(self, metrics: Sequence[bytes]) -> Catalog:
        """`metrics[i]` is the packed um_metric of id i."""

    def intake(self, group: int, bytes_max: int, batch_events_max: int) -> Intake: ...
    def splitter(self, group_count: int) -> Splitter:
        """For 1..64 groups."""

    def remote_applied(self, data: Bytes, batch_count: int, row_count: int, stamp_ns: int) -> Applied:
        """What the leader's extract() said of a bundle of this node, for Intake.answers(); `stamp_ns`: of the entry
        that the bundle went into. Raises ValueError when it cannot be about so many batches and rows."""

    def entry(self, kind: int, group: int, index: int, term: int, stamp_ns: int, first_seq: int, body: Bytes) -> bytes:
        """An entry without batches (any kind but UM_ENTRY_BATCHES); first_seq is at least 1 for every kind."""

    def entry_verify(self, entry: Bytes) -> bool: ...
    def block_memory(self, size: int, block_bytes: int) -> memoryview:
        """Zeroed memory of so many bytes for what goes to the disk in blocks. Where it can, it begins on a block's boundary: then the disk
        takes it as it is, and otherwise a copy."""

    def record(
        self,
        out: memoryview,
        entries: Sequence[Bytes],
        kind: int,
        seq: int,
        prev_chain: int,
        stamp_ns: int,
        at: int = 0,
        block_bytes: int = 1,
    ) -> tuple[int, int]:
        """Build a journal record at out[at:], with zeroes behind it up to a multiple of block_bytes in `out`. Returns (length
        of the record incl. its own padding, chain). Raises ValueError when there is no room for it."""

    def journal_verify(self, data: Bytes, seq: int, chain: int) -> JournalScan:
        """`seq`, `chain`: those of the record before data[0] (0, seed chain at the very start)."""

    def journal_find_later(self, data: Bytes, seq: int) -> int: ...
    def record_entries(self, record: Bytes) -> list[memoryview]:
        """The entries of one verified record."""

    def state(self, limits: Limits) -> GroupState: ...
    def state_loader(self, image_bytes: int) -> StateLoader: ...
    def period_bounds(self, period_type: int, billing_day: int, timestamp_ns: int) -> tuple[int, int]: ...

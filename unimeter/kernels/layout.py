"""The byte layouts of csrc/kernels/um_layout.h, as Python sees them.

Everything here mirrors that header (and the UM_J_* codes of um_kernels.h) by name: a constant keeps its
name, a struct `um_row` is the `struct.Struct` ROW with the fields listed in order. tests/test_layout.py
compares every constant, field, offset and size with what the C compiler says, so the two cannot drift.

Structs with a NamedTuple beside them (ENTRY and EntryHead, ...) are the ones that Python takes apart
outside of hot paths: `EntryHead._make(ENTRY.unpack_from(data))`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final, NamedTuple

from unimeter.kernels.api import Bytes, Limits

# ---- constants ----

UM_NONE: Final = 4_294_967_295

UM_GLANCE_BYTES: Final = 68
UM_METRICS_MAX: Final = 4096
UM_DIMENSIONS_MAX: Final = 16
UM_THRESHOLDS_MAX: Final = 64
UM_PROPERTIES_MAX: Final = 16
UM_CODE_BYTES_MAX: Final = 63
UM_KEY_BYTES_MAX: Final = 31
UM_VALUE_BYTES_MAX: Final = 255
UM_ACCOUNT_BYTES_MAX: Final = 128
UM_ID_BYTES_MAX: Final = 64
UM_SESSION_WINDOW: Final = 64
UM_PARTITIONS: Final = 256
UM_COW_CHUNK_BYTES: Final = 4096
UM_HOUR_NS: Final = 3_600_000_000_000

UM_RECORD_MAGIC: Final = 827_149_653
UM_RECORD_ALIGN: Final = 64
UM_RECORD_ENTRIES: Final = 0
UM_RECORD_SEGMENT_END: Final = 1

UM_ENTRY_BATCHES: Final = 0
UM_ENTRY_CATALOG: Final = 1
UM_ENTRY_LIMITS: Final = 2
UM_ENTRY_NOOP: Final = 3
UM_ENTRY_CONF: Final = 4
UM_ENTRY_CLUSTER: Final = 5
UM_ENTRY_HARD: Final = 6

UM_BATCH_V1: Final = 1
UM_BATCH_OPEN_SESSION: Final = 2

UM_ROW_TEXT: Final = 1
UM_ROW_ID: Final = 2
UM_OP_NONE: Final = 0
UM_OP_ADD: Final = 1
UM_OP_REMOVE: Final = 2

UM_R_META: Final = 0
UM_R_HEAP: Final = 1
UM_R_VALUES: Final = 2
UM_R_ACCOUNTS: Final = 3
UM_R_SERIES: Final = 4
UM_R_CELLS: Final = 5
UM_R_DIMS: Final = 6
UM_R_BUCKETS: Final = 7
UM_R_MEMBERS: Final = 8
UM_R_FPS0: Final = 9
UM_R_FPS1: Final = 10
UM_R_IDS: Final = 11
UM_R_SESSIONS: Final = 12
UM_R_PERIODS: Final = 13
UM_R_PMEMBERS: Final = 14
UM_R_ALERTS: Final = 15
UM_R_SKIPS: Final = 16
UM_REGIONS: Final = 17

UM_X_VALUES: Final = 0
UM_X_ACCOUNTS: Final = 1
UM_X_SERIES: Final = 2
UM_X_CELLS: Final = 3
UM_X_BUCKETS: Final = 4
UM_X_MEMBERS: Final = 5
UM_X_FPS0: Final = 6
UM_X_FPS1: Final = 7
UM_X_IDS: Final = 8
UM_X_SESSIONS: Final = 9
UM_X_PMEMBERS: Final = 10
UM_FPS_PAGE_BYTES: Final = 4096
UM_FPS_LEAF_RECORDS: Final = 448
UM_INDEXES: Final = 11

UM_AGG_COUNT: Final = 0
UM_AGG_SUM: Final = 1
UM_AGG_MAX: Final = 2
UM_AGG_LATEST: Final = 3
UM_AGG_UNIQUE: Final = 4
UM_PERIOD_FIXED30: Final = 0
UM_PERIOD_MONTH: Final = 1
UM_PERIOD_DAY: Final = 2
UM_PERIOD_WEEK: Final = 3
UM_CODE_SLOTS: Final = 8192

UM_SCAN_OK: Final = 0
UM_SCAN_BAD_MAGIC: Final = 1
UM_SCAN_BAD_VERSION: Final = 2
UM_SCAN_TOO_LARGE: Final = 3
UM_SCAN_BAD_CRC: Final = 4

UM_REQ_SYNC: Final = 1
UM_REQ_V2: Final = 2
UM_REQ_WANTS_VERDICTS: Final = 4
UM_REQ_STAMPED: Final = 8
UM_REQ_OK: Final = 0
UM_REQ_MALFORMED: Final = 1
UM_REQ_VALUE_RANGE: Final = 2
UM_REQ_TOO_MANY_EVENTS: Final = 3
UM_REQ_BAD_ROW: Final = 4

UM_STOP_END: Final = 0
UM_STOP_CONTROL: Final = 1
UM_STOP_FULL: Final = 2
UM_STOP_MALFORMED: Final = 3
UM_STOP_ELSEWHERE: Final = 4

UM_GROUPS_MAX: Final = 64
UM_SPANS_MAX: Final = 4096
UM_NO_GROUP: Final = 255

UM_V_STORED: Final = 0
UM_V_DUPLICATE: Final = 1
UM_V_CONFLICT: Final = 2
UM_V_UNKNOWN_METRIC: Final = 3
UM_V_CARDINALITY: Final = 4
UM_V_FULL: Final = 5
UM_V_SESSION_UNKNOWN: Final = 6
UM_V_SESSION_WINDOW: Final = 7
UM_V_SESSION_SETTLED: Final = 8
UM_V_SESSIONS_FULL: Final = 9

UM_Q_DONE: Final = 0
UM_Q_SCAN: Final = 1
UM_Q_SCRATCH: Final = 2
UM_Q_GROUPS: Final = 3
UM_Q_MALFORMED: Final = 4

UM_J_END: Final = 0
UM_J_ZERO: Final = 1
UM_J_BAD: Final = 2
UM_J_SEGMENT_END: Final = 3

# ---- structs ----

LAYOUTS: dict[str, tuple[Struct, dict[str, int]]] = {}  # name in C -> (struct, offset of each field)


def _layout(name: str, *fields: str) -> Struct:
    """A struct from "field:code" words; a code may carry a count ("17Q") or be pad bytes ("6x")."""
    codes = [field.partition(":")[2] for field in fields]
    packed = Struct("<" + "".join(codes))
    offsets: dict[str, int] = {}
    for number, field in enumerate(fields):
        offsets[field.partition(":")[0]] = Struct("<" + "".join(codes[:number])).size
    LAYOUTS[name] = (packed, offsets)
    return packed


RECORD: Final = _layout(
    "um_record", "magic:I", "header_crc:I", "body_crc:I", "body_len:I", "version:H", "kind:H", "entry_count:I",
    "seq:Q", "prev_chain:Q", "chain:Q", "stamp_ns:q", "reserved:Q",
)  # fmt: skip
ENTRY: Final = _layout(
    "um_entry", "crc:I", "body_len:I", "group:H", "kind:H", "batch_count:I", "term:Q", "index:Q", "stamp_ns:q",
    "first_seq:Q", "row_count:I", "reserved0:I", "reserved1:Q",
)  # fmt: skip
BATCH: Final = _layout(
    "um_batch", "session_hi:Q", "session_lo:Q", "number:Q", "settled_below:Q", "row_count:I", "rows_len:I", "flags:I",
    "reserved:I",
)  # fmt: skip
ROW: Final = _layout(
    "um_row", "account:Q", "timestamp_ns:q", "value:q", "metric:H", "operation:B", "flags:B", "prop_count:B",
    "reserved:B", "tail_len:H",
)  # fmt: skip
LIMITS: Final = _layout(
    "um_limits", "records_max:17Q", "fingerprints_per_generation:Q", "cells_per_series_max:Q", "session_idle_ns:q",
    "reserved:4Q",
)  # fmt: skip
META: Final = _layout(
    "um_meta", "version:Q", "applied_index:Q", "applied_term:Q", "stamp_ns:q", "next_seq:Q", "stored:Q",
    "duplicates:Q", "conflicts:Q", "refused:Q", "digest:Q", "alert_next:Q", "fps_current:Q", "fps_rotations:Q",
    "sessions_opened:Q", "sessions_evicted:Q", "limits:192s", "reserved:25Q",
)  # fmt: skip
VALUE: Final = _layout("um_value", "heap_off:Q", "hash:Q", "len:I", "reserved:I")
ACCOUNT: Final = _layout("um_account", "heap_off:Q", "hash:Q", "len:I", "reserved:I")
SERIES: Final = _layout(
    "um_series", "account:Q", "metric:H", "text:H", "first_cell:I", "last_cell:I", "cell_count:I", "first_period:I",
    "plain_bucket:I",
)  # fmt: skip
CELL: Final = _layout(
    "um_cell", "series:I", "next:I", "dims_off:I", "dims_len:I", "first_bucket:I", "hot_bucket:I", "bucket_count:I",
    "reserved:I",
)  # fmt: skip
BUCKET: Final = _layout(
    "um_bucket", "cell:I", "next:I", "hour:I", "first_member:I", "count:Q", "sum_lo:Q", "sum_hi:q", "min:q", "max:q",
    "last_value:q", "first_ts:q", "last_ts:q", "last_seq:Q", "first_seq:Q",
)  # fmt: skip
MEMBER: Final = _layout(
    "um_member", "bucket:I", "next:I", "member:q", "last_ts:q", "last_seq:Q", "operation:I", "reserved:I"
)
FP: Final = _layout("um_fp", "lo:Q", "hi:Q")
ID: Final = _layout("um_id", "lo:Q", "hi:Q", "content:Q", "seq:Q")
RESULT: Final = _layout(
    "um_result", "number:Q", "stored:I", "duplicates:I", "conflicts:I", "refused:I", "first_bad:I", "first_verdict:I",
    "last_offset:Q",
)  # fmt: skip
SESSION: Final = _layout(
    "um_session", "id_hi:Q", "id_lo:Q", "settled_below:Q", "highest:Q", "last_stamp_ns:q", "reserved:Q",
    "results:2560s",
)  # fmt: skip
PERIOD: Final = _layout(
    "um_period", "series:I", "next:I", "start:q", "end:q", "count:Q", "sum_lo:Q", "sum_hi:q", "min:q", "max:q",
    "last_value:q", "last_ts:q", "last_seq:Q", "unique:q", "fired:Q", "above:Q",
)  # fmt: skip
PMEMBER: Final = _layout("um_pmember", "period:I", "operation:I", "member:q", "last_ts:q", "last_seq:Q")
ALERT: Final = _layout(
    "um_alert", "number:Q", "account:Q", "metric:I", "slot:I", "text:I", "reserved:I", "value:q", "stamp_ns:q",
    "period_start:q", "seq:Q",
)  # fmt: skip
SKIP: Final = _layout("um_skip", "first_seq:Q", "count:Q")
DIMENSION: Final = _layout("um_dimension", "len:B", "key:31s")
THRESHOLD: Final = _layout("um_threshold", "value:q", "active:B", "recurring:B", "pad:6x")
METRIC: Final = _layout(
    "um_metric", "id:H", "alive:B", "aggregation:B", "recurring:B", "dimension_count:B", "threshold_slots:B",
    "period_type:B", "billing_day:B", "code_len:B", "pad:6x", "code:64s", "dimensions:512s", "thresholds:1024s",
)  # fmt: skip
FRAME: Final = _layout(
    "um_frame", "offset:I", "payload_off:I", "payload_len:I", "request_id:I", "protocol:B", "type:B", "flags:B",
    "status:B", "partition:H", "reserved:H", "deadline_ms:I", "reserved2:I",
)  # fmt: skip
SCAN: Final = _layout("um_scan", "consumed:Q", "count:I", "error:I", "error_request_id:I", "error_protocol:I")
REQUEST: Final = _layout(
    "um_request", "link:I", "request_id:I", "flags:I", "status:I", "batch:I", "events:I", "unknown:I", "notes_off:I",
    "notes_count:I", "row_base:I", "row_count:I", "span:I", "first_seq:Q",
)  # fmt: skip
SUMMARY: Final = _layout(
    "um_summary", "stored:I", "duplicates:I", "conflicts:I", "refused:I", "first_bad:I", "first_verdict:I",
    "session_verdict:I", "row_base:I", "last_offset:Q",
)  # fmt: skip
APPLIED: Final = _layout(
    "um_applied", "batch_count:I", "row_count:I", "min_ts:q", "max_ts:q", "alerts_before:Q", "alerts_after:Q", "digest:Q",
)  # fmt: skip
QUERY_SPEC: Final = _layout(
    "um_query_spec", "account:Q", "start:q", "end:q", "metric:I", "text_len:H", "group_by_count:B", "filter_count:B"
)
QUERY_INFO: Final = _layout(
    "um_query_info", "scratch_needed:Q", "first_seq:Q", "end_seq:Q", "lo_start:q", "lo_end:q", "hi_start:q",
    "hi_end:q", "groups:Q", "groups_max:Q",
)  # fmt: skip
QUERY_ROW: Final = _layout(
    "um_query_row", "count:Q", "sum_lo:Q", "sum_hi:q", "min:q", "max:q", "last_value:q", "last_ts:q", "unique:Q",
    "fired:Q", "dims_len:I", "reserved:I",
)  # fmt: skip
EVENTS_SPEC: Final = _layout(
    "um_events_spec", "account:Q", "since:q", "until:q", "after_seq:Q", "end_seq:Q", "text_len:I", "metric:I"
)
STRETCH: Final = _layout("um_stretch", "address:Q", "bytes:Q")
EVENT_HEAD: Final = _layout("um_event_head", "seq:Q", "timestamp_ns:q")


class RecordHead(NamedTuple):
    magic: int
    header_crc: int
    body_crc: int
    body_len: int
    version: int
    kind: int
    entry_count: int
    seq: int
    prev_chain: int
    chain: int
    stamp_ns: int
    reserved: int = 0


class EntryHead(NamedTuple):
    crc: int
    body_len: int
    group: int
    kind: int
    batch_count: int
    term: int
    index: int  # type: ignore[assignment]  # tuple.index is not missed here
    stamp_ns: int
    first_seq: int
    row_count: int
    reserved0: int = 0
    reserved1: int = 0


class BatchHead(NamedTuple):
    session_hi: int
    session_lo: int
    number: int
    settled_below: int
    row_count: int
    rows_len: int
    flags: int
    reserved: int = 0


class RowHead(NamedTuple):
    account: int
    timestamp_ns: int
    value: int
    metric: int
    operation: int
    flags: int
    prop_count: int
    reserved: int
    tail_len: int


class MetricDef(NamedTuple):
    """What the kernels know of a metric (um_metric)."""

    id: int
    code: bytes
    aggregation: int
    recurring: bool = False
    dimensions: tuple[bytes, ...] = ()
    thresholds: tuple[tuple[int, bool] | None, ...] = ()  # (value, recurring) per slot; None: slot not in use
    period_type: int = UM_PERIOD_MONTH
    billing_day: int = 1
    alive: bool = True


# ---- encoders and decoders ----


def encode_row(
    account: int | bytes,
    timestamp_ns: int,
    value: int,
    metric: int,
    operation: int = UM_OP_NONE,
    id: bytes = b"",
    properties: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """One row as it is logged (or sent, with the dictionary index as `metric`). Sorts the properties."""
    flags = 0
    tail = bytearray()
    if isinstance(account, bytes):
        flags |= UM_ROW_TEXT
        tail += bytes((len(account),)) + account
        account = 0
    if id:
        flags |= UM_ROW_ID
        tail += bytes((len(id),)) + id
    pairs = sorted(properties)
    for key, text in pairs:
        tail += bytes((len(key), len(text))) + key + text
    tail += bytes(-len(tail) % 8)
    return ROW.pack(account, timestamp_ns, value, metric, operation, flags, len(pairs), 0, len(tail)) + tail


def encode_limits(limits: Limits) -> bytes:
    return LIMITS.pack(
        *limits.records_max,
        limits.fingerprints_per_generation,
        limits.cells_per_series_max,
        limits.session_idle_ns,
        0, 0, 0, 0,
    )  # fmt: skip


def decode_limits(data: Bytes) -> Limits:
    values = LIMITS.unpack_from(data)
    return Limits(tuple(values[:UM_REGIONS]), values[UM_REGIONS], values[UM_REGIONS + 1], values[UM_REGIONS + 2])


def pack_metric(
    id: int,
    code: bytes,
    aggregation: int,
    recurring: bool = False,
    dimensions: Sequence[bytes] = (),
    thresholds: Sequence[tuple[int, bool] | None] = (),
    period_type: int = UM_PERIOD_MONTH,
    billing_day: int = 1,
    alive: bool = True,
) -> bytes:
    """um_metric. Raises ValueError for what does not fit; the arguments are the fields of MetricDef."""
    if not 0 < len(code) <= UM_CODE_BYTES_MAX or b"\0" in code:
        raise ValueError("a metric code has 1..63 bytes and no NUL")
    if len(dimensions) > UM_DIMENSIONS_MAX or len(thresholds) > UM_THRESHOLDS_MAX:
        raise ValueError("at most 16 dimensions and 64 thresholds")
    if any(not 0 < len(key) <= UM_KEY_BYTES_MAX for key in dimensions):
        raise ValueError("a dimension key has 1..31 bytes")
    return METRIC.pack(
        id, alive, aggregation, recurring, len(dimensions), len(thresholds), period_type, billing_day, len(code), code,
        b"".join(DIMENSION.pack(len(key), key) for key in dimensions),
        b"".join(THRESHOLD.pack(slot[0], 1, slot[1]) if slot else THRESHOLD.pack(0, 0, 0) for slot in thresholds),
    )  # fmt: skip


def unpack_metric(data: Bytes) -> MetricDef:
    """What pack_metric packed."""
    (id, alive, aggregation, recurring, dimension_count, slots, period_type, billing_day, code_len, code, dimensions,
     thresholds) = METRIC.unpack_from(data)  # fmt: skip
    keys = (DIMENSION.unpack_from(dimensions, n * DIMENSION.size) for n in range(dimension_count))
    values = (THRESHOLD.unpack_from(thresholds, n * THRESHOLD.size) for n in range(slots))
    return MetricDef(
        id=id,
        code=code[:code_len],
        aggregation=aggregation,
        recurring=bool(recurring),
        dimensions=tuple(key[:length] for length, key in keys),
        thresholds=tuple((value, bool(again)) if active else None for value, active, again in values),
        period_type=period_type,
        billing_day=billing_day,
        alive=bool(alive),
    )

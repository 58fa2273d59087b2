"""Queries and event lists, through csrc/kernels/{query*,events}.c.

A query is a spec as bytes, a scratch arena in which C keeps everything between begin, scan and rows, and a
buffer for the answer. The three live in a workspace. Most queries are answered by begin alone: they take a
workspace from a small pool, read their rows at once and give it back, so that such a query allocates no
memory. One that must scan the journal keeps its workspace until its rows are read.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from unimeter.kernels.api import ROWS_END, Bytes, Catalog, Event, QuerySpec, Row, TooManyGroups
from unimeter.kernels.layout import (
    EVENT_HEAD,
    EVENTS_SPEC,
    QUERY_INFO,
    QUERY_ROW,
    QUERY_SPEC,
    ROW,
    UM_GLANCE_BYTES,
    UM_NONE,
    UM_Q_DONE,
    UM_Q_GROUPS,
    UM_Q_MALFORMED,
    UM_Q_SCAN,
    UM_Q_SCRATCH,
    UM_ROW_ID,
    UM_ROW_TEXT,
)
from unimeter.kernels.native._um import ffi, lib
from unimeter.kernels.native.arena import Arena
from unimeter.kernels.native.lent import lent

SCRATCH_BYTES: Final = 256 * 1024  # what a workspace begins with
SCRATCH_POOLED_BYTES_MAX: Final = 4 * 1024 * 1024  # a larger one is not kept
POOLED_MAX: Final = 4
OUT_BYTES: Final = 64 * 1024  # more than any answer row
_I64_MAX: Final = 2**63 - 1


class _Workspace:
    __slots__ = ("arena", "cursor", "info", "info_view", "out", "out_view", "scratch")

    def __init__(self) -> None:
        self.arena = Arena(SCRATCH_BYTES)
        self.scratch: Any = ffi.new("um_arena *")
        self.arena.fill(self.scratch)
        self.info: Any = ffi.new("um_query_info *")
        self.info_view = memoryview(ffi.buffer(self.info))
        self.cursor: Any = ffi.new("uint64_t *")
        self.out: Any = ffi.new("uint8_t[]", OUT_BYTES)
        self.out_view = memoryview(ffi.buffer(self.out))

    def grow(self, scratch_bytes: int) -> None:
        self.arena = Arena(scratch_bytes)
        self.arena.fill(self.scratch)


_pool: list[_Workspace] = []


def _give_back(workspace: _Workspace) -> None:
    if len(_pool) < POOLED_MAX and workspace.arena.reserved_bytes <= SCRATCH_POOLED_BYTES_MAX:
        _pool.append(workspace)


class NativeAnswer:
    """A query that was answered at once (api.Query)."""

    __slots__ = ("_rows", "end_seq", "first_seq")
    needs_scan = False
    edges: tuple[tuple[int, int], ...] = ()

    def __init__(self, rows: list[Row], end_seq: int) -> None:
        self._rows = rows
        self.first_seq = self.end_seq = end_seq

    def scan(self, records: Bytes, first_row: int = 0, end_row: int = ROWS_END) -> None:
        """Nothing that a record says is missing."""

    def rows(self) -> list[Row]:
        return self._rows


class NativeScan:
    """A query that needs the journal (api.Query). Holds the state's struct, not its memory: the state must
    outlive it."""

    __slots__ = ("_catalog", "_group", "_group_by_count", "_groups", "_rows", "_state", "_workspace",
                 "edges", "end_seq", "first_seq")  # fmt: skip
    needs_scan = True

    def __init__(self, state: Any, catalog: Catalog, group: int, workspace: _Workspace, group_by_count: int) -> None:
        values = QUERY_INFO.unpack_from(workspace.info_view)
        _, self.first_seq, self.end_seq, lo_start, lo_end, hi_start, hi_end, self._groups, _ = values
        edges = ((lo_start, lo_end), (hi_start, hi_end))
        self.edges: tuple[tuple[int, int], ...] = tuple(edge for edge in edges if edge[0] < edge[1])
        self._state, self._catalog, self._group = state, catalog, group  # the catalog object owns its memory
        self._group_by_count = group_by_count
        self._workspace: _Workspace | None = workspace
        self._rows: list[Row] = []

    def scan(self, records: Bytes, first_row: int = 0, end_row: int = ROWS_END) -> None:
        assert self._workspace is not None, "rows() was called: the query is over"
        data = ffi.from_buffer(records)
        catalog_cdata: Any = self._catalog.cdata  # type: ignore[attr-defined]
        scratch, group = self._workspace.scratch, self._group
        lib.um_query_scan(self._state, catalog_cdata, scratch, group, data, len(data), first_row, end_row)

    def rows(self) -> list[Row]:
        if self._workspace is not None:
            self._rows = _read_rows(self._state, self._workspace, self._groups, self._group_by_count)
            _give_back(self._workspace)
            self._workspace = None
        return self._rows


def begin_query(
    state_cdata: Any, catalog: Catalog, spec: QuerySpec, groups_max: int, group: int = 0
) -> NativeAnswer | NativeScan:
    """Answer from state what can be answered from it. Raises TooManyGroups, and ValueError for a spec that does
    not fit the catalog."""
    packed = _pack_spec(spec)
    workspace = _pool.pop() if _pool else _Workspace()
    info = workspace.info
    info.groups_max = groups_max
    catalog_cdata: Any = catalog.cdata  # type: ignore[attr-defined]  # only native catalogs come here
    code = lib.um_query_begin(state_cdata, catalog_cdata, packed, len(packed), workspace.scratch, info)
    while code == UM_Q_SCRATCH:
        workspace.grow(info.scratch_needed)
        code = lib.um_query_begin(state_cdata, catalog_cdata, packed, len(packed), workspace.scratch, info)
    if code == UM_Q_SCAN:
        return NativeScan(state_cdata, catalog, group, workspace, len(spec.group_by))
    rows = _read_rows(state_cdata, workspace, info.groups, len(spec.group_by)) if code == UM_Q_DONE else []
    end_seq = info.end_seq
    _give_back(workspace)
    if code == UM_Q_GROUPS:
        raise TooManyGroups
    if code == UM_Q_MALFORMED:
        raise ValueError("the query names a metric or dimension that the catalog does not have")
    return NativeAnswer(rows, end_seq)


_um_glance: Final = lib.um_glance
_glance_workspace: Final = _Workspace()
_glance_out: Final = ffi.new("uint8_t[]", UM_GLANCE_BYTES)
_glance_answer: Final = ffi.buffer(_glance_out)


def glance(state_cdata: Any, newest: Catalog, catalog: Catalog, data: Bytes) -> bytes | None:
    """See csrc/kernels/glance.c."""
    newest_c: Any = newest.cdata  # type: ignore[attr-defined]  # only native catalogs come here
    catalog_c: Any = catalog.cdata  # type: ignore[attr-defined]
    used = _um_glance(state_cdata, newest_c, catalog_c, lent(data), len(data), _glance_workspace.scratch, _glance_out)
    return _glance_answer[:] if used else None


def _pack_spec(spec: QuerySpec) -> bytes:
    account, metric, start, end, group_by, filters = spec
    number, text = (0, account) if isinstance(account, bytes) else (account, b"")
    try:
        head = QUERY_SPEC.pack(number, start, end, metric, len(text), len(group_by), len(filters))
    except struct.error:  # instants that no event can have
        start, end = (min(max(at, 0), _I64_MAX) for at in (start, end))
        head = QUERY_SPEC.pack(number, start, end, metric, len(text), len(group_by), len(filters))
    if not (text or group_by or filters):
        return head
    parts = [head, text, bytes(group_by)]
    for dimension, values in filters:
        parts.append(bytes((dimension, len(values))))
        for value in values:
            parts += (bytes((len(value),)), value)
    return b"".join(parts)


def _read_rows(state: Any, workspace: _Workspace, groups: int, group_by_count: int) -> list[Row]:
    view, cursor = workspace.out_view, workspace.cursor
    cursor[0] = 0
    if not group_by_count:
        lib.um_query_rows(state, workspace.scratch, cursor, workspace.out, OUT_BYTES)
        return [_row((), view, 0)]
    rows: list[Row] = []
    while cursor[0] < groups:
        used = lib.um_query_rows(state, workspace.scratch, cursor, workspace.out, OUT_BYTES)
        at = 0
        while at < used:
            dimensions, end = _read_dimensions(view, at + QUERY_ROW.size, group_by_count)
            rows.append(_row(dimensions, view, at))
            at = (end + 7) & ~7
    return rows


def _row(dimensions: tuple[bytes, ...], view: memoryview, at: int) -> Row:
    count, sum_lo, sum_hi, least, largest, last, last_ts, unique, fired, _, _ = QUERY_ROW.unpack_from(view, at)
    return Row(dimensions, count, (sum_hi << 64) + sum_lo, least, largest, last, last_ts, unique, fired)


def _read_dimensions(view: memoryview, at: int, count: int) -> tuple[tuple[bytes, ...], int]:
    """Values, and where they end."""
    values = []
    for _ in range(count):
        end = at + 2 + view[at] + (view[at + 1] << 8)
        values.append(bytes(view[at + 2 : end]))
        at = end
    return tuple(values), at


class NativeEventScan:
    """A list of one account's stored events under way (api.EventScan): records in log order go in."""

    __slots__ = ("_account", "_group", "_out", "_spec", "_state")

    def __init__(
        self, state: Any, account: int | bytes, since: int, until: int, after_seq: int, end_seq: int,
        metric: int | None, group: int,
    ) -> None:  # fmt: skip
        number, text = (0, account) if isinstance(account, bytes) else (account, b"")
        since, until = (min(max(at, 0), _I64_MAX) if at >= 0 else -1 for at in (since, until))
        which = UM_NONE if metric is None else metric
        self._spec = EVENTS_SPEC.pack(number, since, until, after_seq, end_seq, len(text), which) + text
        self._state, self._account, self._group = state, account, group
        self._out = bytearray()

    def scan(self, records: Bytes, limit: int, first_row: int = 0, end_row: int = ROWS_END) -> list[Event]:
        data = ffi.from_buffer(records)
        room = len(data) * 3 // 2 + EVENT_HEAD.size  # a row has at least 32 bytes, its head in the list 16
        if len(self._out) < room:
            self._out = bytearray(room)
        out = ffi.new("um_arena *")
        hold = ffi.from_buffer(self._out)
        out.base, out.reserved = ffi.cast("uint8_t *", hold), room
        spec = self._spec
        rows = (max(limit, 0), first_row, end_row)
        found = lib.um_events_scan(self._state, spec, len(spec), self._group, data, len(data), *rows, out)
        return self._read(found)

    def _read(self, found: int) -> list[Event]:
        events: list[Event] = []
        view = memoryview(self._out)
        at = 0
        for _ in range(found):
            seq, timestamp_ns = EVENT_HEAD.unpack_from(view, at)
            at += EVENT_HEAD.size
            _, _, value, metric, operation, flags, prop_count, _, tail_len = ROW.unpack_from(view, at)
            at += ROW.size
            event_id, properties = _read_tail(view[at : at + tail_len], flags, prop_count)
            at += tail_len
            events.append(Event(seq, timestamp_ns, self._account, metric, value, operation, event_id, properties))
        return events


def _read_tail(tail: memoryview, flags: int, prop_count: int) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]]:
    at = 1 + tail[0] if flags & UM_ROW_TEXT else 0
    event_id = b""
    if flags & UM_ROW_ID:
        end = at + 1 + tail[at]
        event_id = bytes(tail[at + 1 : end])
        at = end
    properties = []
    for _ in range(prop_count):
        middle = at + 2 + tail[at]
        end = middle + tail[at + 1]
        properties.append((bytes(tail[at + 2 : middle]), bytes(tail[middle:end])))
        at = end
    return event_id, tuple(properties)


def begin_events(
    state_cdata: Any,
    account: int | bytes,
    since: int,
    until: int,
    after_seq: int,
    end_seq: int,
    metric: int | None = None,
    group: int = 0,
) -> NativeEventScan:
    """List stored events with since <= timestamp <= until and after_seq < seq < end_seq."""
    return NativeEventScan(state_cdata, account, since, until, after_seq, end_seq, metric, group)

"""Random stimuli for the twin tests: small pools of everything, so that collisions are the rule.

A `Play` is a list of turns; a turn is a list of requests that become one entry. Requests are wire frames,
built here with nothing but `struct`, so that neither implementation can lend the other its mistakes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from unimeter.kernels.reference.checksum import crc32c

HOUR = 3_600_000_000_000
DAY = 24 * HOUR
BASE = 20_000 * DAY  # 2024-10-04, a Friday
I64_MAX = 2**63 - 1
I64_MIN = -(2**63)
U64_MAX = 2**64 - 1

# ---- wire frames ----


def v1_frame(kind: int, request_id: int, payload: bytes, partition: int = 0xFFFF) -> bytes:
    return struct.pack("<IBBHII", 0xC0FFEE01, 1, kind, partition, len(payload), request_id) + payload


def v2_frame(
    kind: int, request_id: int, payload: bytes, flags: int = 0, deadline_ms: int = 0, status: int = 0
) -> bytes:
    head = struct.pack(
        "<IBBBBIIIII", 0xC0FFEE02, 2, kind, status, flags, len(payload), request_id, deadline_ms, 0, crc32c(payload)
    )
    return head + struct.pack("<I", crc32c(head)) + payload


@dataclass(frozen=True)
class Event:
    account: int | bytes
    metric: bytes
    value: int
    timestamp: int = 0
    operation: int = 0
    properties: tuple[tuple[bytes, bytes], ...] = ()
    id: bytes = b""


def v1_batch(events: list[Event]) -> bytes:
    heads, props = b"", b""
    for event in events:
        assert isinstance(event.account, int)
        heads += struct.pack(
            "<64sQqQBB6x",
            event.metric,
            event.account,
            event.timestamp,
            event.value & U64_MAX,
            event.operation,
            len(event.properties),
        )
        for key, value in event.properties:
            props += struct.pack("<32s64s", key, value)
    return struct.pack("<II", len(events), len(props) // 96) + heads + props


def row(event: Event, metric: int, timestamp: int | None = None) -> bytes:
    text = isinstance(event.account, bytes)
    tail = b""
    if isinstance(event.account, bytes):
        tail += bytes([len(event.account)]) + event.account
    if event.id:
        tail += bytes([len(event.id)]) + event.id
    for key, value in event.properties:
        tail += bytes([len(key), len(value)]) + key + value
    tail += bytes(-len(tail) % 8)
    head = struct.pack(
        "<QqqHBBBBH",
        0 if isinstance(event.account, bytes) else event.account,
        event.timestamp if timestamp is None else timestamp,
        event.value,
        metric,
        event.operation,
        (1 if text else 0) | (2 if event.id else 0),
        len(event.properties),
        0,
        len(tail),
    )
    return head + tail


def v2_batch(
    events: list[Event],
    session: tuple[int, int] = (0, 0),
    number: int = 0,
    settled_below: int = 0,
    flags: int = 0,
) -> bytes:
    codes: list[bytes] = []
    rows = b""
    for event in events:
        if event.metric not in codes:
            codes.append(event.metric)
        rows += row(event, codes.index(event.metric))
    dictionary = b"".join(bytes([len(code)]) + code for code in codes)
    dictionary += bytes(-len(dictionary) % 8)
    head = struct.pack(
        "<QQQQIHHII", *session, number, settled_below, len(events), len(codes), flags, len(rows), len(dictionary)
    )
    return head + dictionary + rows


# ---- metrics ----


@dataclass(frozen=True)
class Metric:
    code: bytes
    aggregation: int
    recurring: bool = False
    dimensions: tuple[bytes, ...] = ()
    thresholds: tuple[tuple[int, bool, bool], ...] = ()  # value, active, recurring
    period: int = 1
    billing_day: int = 1
    alive: bool = True

    def pack(self, number: int) -> bytes:
        """um_metric"""
        head = struct.pack(
            "<HBBBBBBBB6x64s",
            number,
            self.alive,
            self.aggregation,
            self.recurring,
            len(self.dimensions),
            len(self.thresholds),
            self.period,
            self.billing_day,
            len(self.code),
            self.code,
        )
        dimensions = b"".join(struct.pack("<B31s", len(key), key) for key in self.dimensions).ljust(16 * 32, b"\0")
        thresholds = b"".join(struct.pack("<qBB6x", *threshold) for threshold in self.thresholds)
        return head + dimensions + thresholds.ljust(64 * 16, b"\0")


METRICS = (
    Metric(b"calls", 0, dimensions=(b"region",), thresholds=((2, True, False), (3, True, True)), period=2),
    Metric(b"bytes", 1, dimensions=(b"region", b"plan"), thresholds=((5, True, True), (-2, True, False)), period=3),
    Metric(b"peak", 2, thresholds=((3, True, True),), period=1, billing_day=5),
    Metric(b"level", 3, dimensions=(b"plan",), thresholds=((1, True, True), (9, False, True)), period=0),
    Metric(b"users", 4, dimensions=(b"region",), thresholds=((2, True, True), (1, True, False)), period=2),
    Metric(b"seats", 4, recurring=True, dimensions=(b"plan",), thresholds=((2, True, True),), period=1),
    Metric(b"gone", 1, alive=False),
    Metric(b"plain", 1),
)
# The same metrics some time later: dimensions and thresholds were added, one was deleted, one is new.
LATER = (
    replace(METRICS[0], dimensions=(b"region", b"x")),
    replace(METRICS[1], dimensions=(b"region", b"plan", b"x"), thresholds=((5, False, True), (-2, True, False))),
    replace(METRICS[2], alive=False),
    METRICS[3],
    replace(METRICS[4], dimensions=(b"region", b"plan"), thresholds=((3, True, True), (1, True, False))),
    METRICS[5],
    METRICS[6],
    replace(METRICS[7], thresholds=((1, True, True), (4, True, False)), period=2),
    Metric(b"fresh", 0),
)
CODES = tuple(metric.code for metric in METRICS)

# ---- strategies ----

accounts_numeric = st.sampled_from([1, 2, 258, U64_MAX])
accounts = st.one_of(accounts_numeric, st.sampled_from([b"a", b"acme", b"z" * 128]))
values = st.one_of(st.integers(-4, 6), st.sampled_from([I64_MAX, I64_MIN, I64_MAX - 1, 2**62]))
timestamps = st.one_of(
    st.just(0),
    st.builds(lambda hour, rest: BASE + hour * HOUR + rest, st.integers(-3, 3), st.sampled_from([0, 1, 7, HOUR - 1])),
    st.builds(lambda day, rest: BASE + day * DAY + rest, st.integers(-70, 70), st.sampled_from([0, 1, HOUR])),
)
keys = (b"plan", b"region", b"x")
dimension_values = st.sampled_from([b"", b"eu", b"us", b"\xc3\xa9" * 20])
properties = st.dictionaries(st.sampled_from(keys), dimension_values, max_size=3).map(
    lambda found: tuple(sorted(found.items()))
)


def _event(draw: st.DrawFn, v1: bool) -> Event:
    return Event(
        account=draw(accounts_numeric if v1 else accounts),
        metric=draw(st.sampled_from((*CODES, b"nosuch"))),
        value=draw(st.integers(0, 6)) if v1 and draw(st.integers(0, 9)) else draw(values),
        timestamp=draw(timestamps),
        operation=draw(st.integers(0, 2)),
        properties=draw(properties),
        id=b"" if v1 else draw(st.sampled_from([b"", b"", b"", b"i1", b"i2", b"i3" * 32])),
    )


@st.composite
def v1_events(draw: st.DrawFn) -> Event:
    return _event(draw, True)


@st.composite
def v2_events(draw: st.DrawFn) -> Event:
    return _event(draw, False)


sessions = st.sampled_from([(0, 0), (1, 0), (0, 1), (7, 7), (9, U64_MAX)])


@dataclass(frozen=True)
class Request:
    link: int
    frame: bytes


@st.composite
def requests(draw: st.DrawFn, events_max: int = 6) -> Request:
    link = draw(st.integers(1, 3))
    request_id = draw(st.integers(0, 2**32 - 1))
    if draw(st.booleans()):
        batch = draw(st.lists(v1_events(), max_size=events_max))
        return Request(link, v1_frame(draw(st.integers(0, 1)), request_id, v1_batch(batch)))
    session = draw(sessions)
    flags = draw(st.integers(0, 3))
    if session != (0, 0) and draw(st.integers(0, 3)) == 0:
        settled = draw(st.integers(0, 4))
        return Request(link, v2_frame(2, request_id, v2_batch([], session, 0, settled, 1), flags))
    batch = draw(st.lists(v2_events(), max_size=events_max))
    number, settled = 0, 0
    if session != (0, 0):
        number = draw(st.one_of(st.integers(1, 6), st.integers(60, 140)))
        settled = draw(st.integers(0, number))
    return Request(link, v2_frame(2, request_id, v2_batch(batch, session, number, settled), flags))


@dataclass(frozen=True)
class Turn:
    requests: list[Request]
    elapsed_ns: int


turns = st.builds(
    Turn,
    st.lists(requests(), min_size=1, max_size=5),
    st.sampled_from([1, 1_000, HOUR, 40 * DAY]),
)


@dataclass(frozen=True)
class Play:
    records_max: tuple[int, ...]
    fingerprints_per_generation: int
    cells_per_series_max: int
    session_idle_ns: int
    turns: list[Turn] = field(default_factory=list)


ROOMY = (1, 4096, 64, 64, 64, 64, 256, 256, 256, 256, 256, 256, 8, 64, 64, 256, 256)
TIGHT = (1, 80, 3, 2, 6, 6, 8, 12, 5, 6, 6, 4, 2, 3, 4, 5, 4)


@st.composite
def plays(draw: st.DrawFn, turns_max: int = 8) -> Play:
    records = list(ROOMY)
    for region in draw(st.lists(st.integers(1, 16), max_size=17)):
        records[region] = draw(st.integers(max(1, TIGHT[region] // 2), TIGHT[region] * 2))
    return Play(
        tuple(records),
        min(records[9], records[10], draw(st.integers(1, 300))),
        draw(st.sampled_from([1, 2, 100])),
        draw(st.sampled_from([0, 1, HOUR])),
        draw(st.lists(turns, min_size=1, max_size=turns_max)),
    )

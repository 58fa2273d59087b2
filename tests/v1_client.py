"""A v1 client in plain Python, written from the published protocol alone: blocking socket, struct, nothing of ours.

It stands for the clients that already exist, so it shares no code, no constants and no layouts with the
node. `request` sends one frame and waits for its answer; `send` and `receive` allow many in flight, in which
case answers may come in any order. Pushes that come meanwhile are kept in `pushes`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MAGIC = 0xC0FFEE01
OK, DUPLICATE, ERROR, UNKNOWN_METRIC, REDIRECT, NOT_LEADER, BACKPRESSURE = range(7)
INGEST_ASYNC, INGEST_SYNC = 0x00, 0x01
PARTITION_MAP, METRIC_PUT, METRIC_DELETE, METRIC_LIST = 0x10, 0x20, 0x21, 0x22
QUERY, REALTIME, EVENTS, ALERTS, ALERT_ENABLE, ALERT_PUSH, BREAKDOWN = 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36
CLUSTER_STATUS = 0x40
COUNT, SUM, MAX, LATEST, COUNT_UNIQUE = range(5)
FIXED30, MONTH, DAY, WEEK = range(4)
NONE, ADD, REMOVE = range(3)


class Event(NamedTuple):
    code: str
    account: int
    timestamp_ns: int = 0
    value: int = 1
    operation: int = NONE
    properties: tuple[tuple[str, str], ...] = ()


class Stored(NamedTuple):
    status: int
    stored: int
    duplicates: int
    last_offset: int


@dataclass(frozen=True)
class Aggregate:
    sum: int
    count: int
    max: int
    last_value: int
    last_timestamp_ns: int
    alert_bits: int


class EventRecord(NamedTuple):
    offset: int
    timestamp_ns: int
    account: int
    code: str
    value: int
    operation: int


class AlertRecord(NamedTuple):
    offset: int
    account: int
    code: str
    threshold: str
    value: int
    triggered_at_ns: int


class Metric(NamedTuple):
    code: str
    aggregation: int
    recurring: bool
    dimensions: tuple[str, ...]
    thresholds: tuple[tuple[str, int, bool], ...]
    period_type: int
    billing_day: int


class ClusterStatus(NamedTuple):
    node_id: int
    node_count: int
    journal_offset: int
    segments: int
    aggregate_keys: int
    uptime_ns: int
    partitions: tuple[tuple[int, int, int, int], ...]  # term, commit, role, leader


class Answer(NamedTuple):
    status: int
    request_id: int
    payload: bytes


class ConnectionGone(Exception):
    """The node closed the connection."""


class Refused(Exception):
    """The node answered with a status that the caller did not expect."""


def padded(text: str, width: int) -> bytes:
    raw = text.encode()
    assert len(raw) < width
    return raw.ljust(width, b"\0")


def unpadded(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode()


def frame(packet_type: int, payload: bytes, request_id: int, partition: int = 0xFFFF) -> bytes:
    return struct.pack("<IBBHII", MAGIC, 1, packet_type, partition, len(payload), request_id) + payload


def ingest_payload(events: Sequence[Event]) -> bytes:
    properties = [pair for event in events for pair in event.properties]
    parts = [struct.pack("<II", len(events), len(properties))]
    for event in events:
        head = struct.pack("<64sQqQBB6x", padded(event.code, 64), event.account, event.timestamp_ns, event.value,
                           event.operation, len(event.properties))  # fmt: skip
        parts.append(head)
    parts += [padded(key, 32) + padded(value, 64) for key, value in properties]
    return b"".join(parts)


def dimension_filter(key: str, values: Sequence[str]) -> bytes:
    slots = b"".join(padded(value, 32) for value in values).ljust(256, b"\0")
    return padded(key, 32) + struct.pack("<B3x", len(values)) + slots


def parse_aggregate(raw: bytes) -> Aggregate:
    low, high, count, largest, last, last_ts, bits = struct.unpack("<QQQQQqQ", raw)
    total = high << 64 | low
    return Aggregate(total - (1 << 128) if high >> 63 else total, count, largest, last, last_ts, bits)


def parse_alert(raw: bytes) -> AlertRecord:
    offset, account, code, threshold, value, at = struct.unpack("<QQ64s32sQq8x", raw)
    return AlertRecord(offset, account, unpadded(code), unpadded(threshold), value, at)


def parse_metrics(raw: bytes) -> list[Metric]:
    (count,) = struct.unpack_from("<I4x", raw)
    at, metrics = 8, []
    for _ in range(count):
        code, aggregation, recurring, filters = struct.unpack_from("<64sBBBx64x", raw, at)
        at += 132
        keys = tuple(unpadded(raw[at + i * 292 : at + i * 292 + 32]) for i in range(filters))
        at += filters * 292
        (threshold_count,) = struct.unpack_from("<B7x", raw, at)
        at += 8
        thresholds = []
        for _ in range(threshold_count):
            name, value, again = struct.unpack_from("<32sQB7x", raw, at)
            thresholds.append((unpadded(name), value, bool(again)))
            at += 48
        period, day = struct.unpack_from("<BB6x", raw, at)
        at += 8
        metrics.append(Metric(unpadded(code), aggregation, bool(recurring), keys, tuple(thresholds), period, day))
    assert at == len(raw)
    return metrics


class V1Client:
    def __init__(self, host: str, port: int, timeout_s: float = 20.0) -> None:
        self.socket = socket.create_connection((host, port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.answers: dict[int, Answer] = {}
        self.pushes: list[bytes] = []
        self.last_request_id = 0

    def __enter__(self) -> V1Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    # ---- frames ----

    def send(self, packet_type: int, payload: bytes = b"") -> int:
        self.last_request_id += 1
        self.send_raw(frame(packet_type, payload, self.last_request_id))
        return self.last_request_id

    def send_raw(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ConnectionGone from error

    def receive(self, request_id: int) -> Answer:
        while request_id not in self.answers:
            self.read_one()
        return self.answers.pop(request_id)

    def read_one(self) -> None:
        """Wait for one more frame and file it."""
        head = self.take(12)
        status, request_id, payload_len = struct.unpack("<B3xII", head)
        payload = self.take(payload_len)
        if request_id == 0 and status in (0x11, ALERT_PUSH):
            self.pushes.append(payload)
        else:
            self.answers[request_id] = Answer(status, request_id, payload)

    def read_to_end(self) -> list[int]:
        """Everything until the node closes the connection: the statuses of the answers, in order of arrival."""
        while True:
            try:
                self.read_one()
            except ConnectionGone:
                return [answer.status for answer in self.answers.values()]

    def take(self, length: int) -> bytes:
        while len(self.received) < length:
            try:
                part = self.socket.recv(1 << 18)
            except ConnectionResetError as error:
                raise ConnectionGone from error
            if not part:
                raise ConnectionGone
            self.received += part
        taken = bytes(self.received[:length])
        del self.received[:length]
        return taken

    def request(self, packet_type: int, payload: bytes = b"", expected: Iterable[int] = (OK,)) -> bytes:
        answer = self.receive(self.send(packet_type, payload))
        if answer.status not in tuple(expected):
            raise Refused(f"type {packet_type:#x}: status {answer.status}, {answer.payload!r}")
        return answer.payload

    # ---- metrics ----

    def metric_put(
        self,
        code: str,
        aggregation: int,
        *,
        recurring: bool = False,
        dimensions: Sequence[str] = (),
        thresholds: Sequence[tuple[str, int, bool]] | None = None,
        period: tuple[int, int] | None = None,
    ) -> None:
        payload = struct.pack("<64sBBBx64x", padded(code, 64), aggregation, recurring, len(dimensions))
        payload += b"".join(dimension_filter(key, ()) for key in dimensions)
        if thresholds is not None or period is not None:
            rows = thresholds or ()
            payload += struct.pack("<B7x", len(rows))
            payload += b"".join(struct.pack("<32sQB7x", padded(n, 32), v, again) for n, v, again in rows)
        if period is not None:
            payload += struct.pack("<BB6x", *period)
        self.request(METRIC_PUT, payload)

    def metric_delete(self, code: str) -> None:
        self.request(METRIC_DELETE, padded(code, 64))

    def metric_list(self) -> list[Metric]:
        return parse_metrics(self.request(METRIC_LIST))

    # ---- events ----

    def ingest(self, events: Sequence[Event], *, sync: bool = True) -> Stored:
        return self.ingested(self.send(INGEST_SYNC if sync else INGEST_ASYNC, ingest_payload(events)))

    def ingested(self, request_id: int) -> Stored:
        answer = self.receive(request_id)
        if len(answer.payload) != 16:
            return Stored(answer.status, 0, 0, 0)
        return Stored(answer.status, *struct.unpack("<IIQ", answer.payload))

    # ---- questions ----

    def query(
        self, account: int, code: str, start: int, end: int, filters: dict[str, Sequence[str]] | None = None
    ) -> Aggregate:
        chosen = filters or {}
        payload = struct.pack("<Qqq64sB7x", account, start, end, padded(code, 64), len(chosen))
        payload += b"".join(dimension_filter(key, values) for key, values in chosen.items())
        return parse_aggregate(self.request(QUERY, payload))

    def realtime(self, account: int, code: str) -> Aggregate:
        return parse_aggregate(self.request(REALTIME, struct.pack("<Q64s", account, padded(code, 64))))

    def breakdown(
        self, account: int, code: str, start: int, end: int, keys: Sequence[str]
    ) -> dict[tuple[str, ...], Aggregate]:
        payload = struct.pack("<Qqq64sB7x", account, start, end, padded(code, 64), len(keys))
        raw = self.request(BREAKDOWN, payload + b"".join(padded(key, 32) for key in keys))
        assert len(raw) % 320 == 0
        rows = {}
        for at in range(0, len(raw), 320):
            count = raw[at]
            assert [unpadded(raw[at + 8 + i * 32 : at + 40 + i * 32]) for i in range(count)] == list(keys)
            values = tuple(unpadded(raw[at + 136 + i * 32 : at + 168 + i * 32]) for i in range(count))
            assert values not in rows
            rows[values] = parse_aggregate(raw[at + 264 : at + 320])
        return rows

    def events(self, account: int, since: int, until: int) -> list[EventRecord]:
        raw = self.request(EVENTS, struct.pack("<Qqq", account, since, until))
        (count,) = struct.unpack_from("<I4x", raw)
        assert len(raw) == 8 + 104 * count
        records = []
        for offset, at, who, code, value, operation in struct.iter_unpack("<QqQ64sQB7x", raw[8:]):
            records.append(EventRecord(offset, at, who, unpadded(code), value, operation))
        return records

    def alerts(self, account: int = 0, since_offset: int = 0) -> list[AlertRecord]:
        raw = self.request(ALERTS, struct.pack("<QQ", account, since_offset))
        (count,) = struct.unpack_from("<I4x", raw)
        assert len(raw) == 8 + 136 * count
        return [parse_alert(raw[at : at + 136]) for at in range(8, len(raw), 136)]

    def alert_enable(self) -> None:
        self.request(ALERT_ENABLE)

    def next_alert_push(self) -> tuple[AlertRecord, int]:
        while not self.pushes:
            self.read_one()
        raw = self.pushes.pop(0)
        assert len(raw) == 144
        return parse_alert(raw[:136]), raw[136]

    # ---- the cluster ----

    def partition_map(self) -> list[tuple[str, str]]:
        """(leader, first replica) per partition."""
        raw = self.request(PARTITION_MAP)
        assert len(raw) == 256 * 96
        return [(unpadded(raw[at : at + 24]), unpadded(raw[at + 24 : at + 48])) for at in range(0, len(raw), 96)]

    def cluster_status(self) -> ClusterStatus:
        raw = self.request(CLUSTER_STATUS)
        assert len(raw) == 40 + 256 * 8
        node_id, node_count = raw[0], raw[1]
        offset, segments, keys, uptime = struct.unpack_from("<QQQQ", raw, 8)
        partitions = tuple(struct.iter_unpack("<IHBB", raw[40:]))
        return ClusterStatus(node_id, node_count, offset, segments, keys, uptime, partitions)

"""Protocol v1 as the published clients speak it (protocol-v1): fixed-size records, 16 B requests, 12 B responses."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from unimeter.sim.events import Event, Metric

MAGIC: Final = 0xC0FFEE01
INGEST_ASYNC, INGEST_SYNC, PARTITION_MAP, METRIC_PUT, METRIC_DELETE, METRIC_LIST = 0, 1, 0x10, 0x20, 0x21, 0x22
USAGE, REALTIME, EVENTS_LIST, ALERTS_LIST, ALERTS_ENABLE, ALERT_PUSH, BREAKDOWN, STATUS = (
    0x30,
    0x31,
    0x32,
    0x33,
    0x34,
    0x35,
    0x36,
    0x40,
)
OK, DUPLICATE, ERROR, UNKNOWN_METRIC, REDIRECT, NOT_LEADER, BACKPRESSURE = range(7)
VALUE_MAX: Final = 2**63 - 1

_RESPONSE: Final = struct.Struct("<B3xII")
_AGGREGATE: Final = struct.Struct("<QqQQQqQ")


class Response(NamedTuple):
    status: int
    request_id: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Aggregate:
    sum: int
    count: int
    max: int
    last: int
    last_timestamp: int
    alerts: int


def frame(type_: int, request_id: int, payload: bytes, partition: int = 0xFFFF) -> bytes:
    return struct.pack("<IBBHII", MAGIC, 1, type_, partition, len(payload), request_id) + payload


def ingest_payload(events: Sequence[Event]) -> bytes:
    head, tail = [], []
    for event in events:
        ident = event.ident
        assert isinstance(ident.account, int)
        head.append(
            struct.pack(
                "<64sQqQBB6x",
                ident.metric.encode(),
                ident.account,
                event.timestamp_ns,
                ident.value,
                ident.operation,
                len(ident.properties),
            )
        )
        tail += [struct.pack("<32s64s", key.encode(), value.encode()) for key, value in ident.properties]
    return struct.pack("<II", len(head), len(tail)) + b"".join(head) + b"".join(tail)


def metric_payload(metric: Metric) -> bytes:
    body = struct.pack(
        "<64sBBB1x64s", metric.code.encode(), metric.aggregation, metric.recurring, len(metric.dimensions), b"value"
    )
    body += b"".join(_filter(key, ()) for key in metric.dimensions)
    body += struct.pack("<B7x", len(metric.thresholds))
    body += b"".join(struct.pack("<32sQB7x", t.name.encode(), t.value, t.recurring) for t in metric.thresholds)
    return body + struct.pack("<BB6x", metric.period, metric.billing_day)


def code_payload(code: str) -> bytes:
    return struct.pack("<64s", code.encode())


def usage_payload(account: int, code: str, start: int, end: int, filters: Mapping[str, Sequence[str]]) -> bytes:
    body = struct.pack("<Qqq64sB7x", account, start, end, code.encode(), len(filters))
    return body + b"".join(_filter(key, values) for key, values in sorted(filters.items()))


def realtime_payload(account: int, code: str) -> bytes:
    return struct.pack("<Q64s", account, code.encode())


def breakdown_payload(account: int, code: str, start: int, end: int, keys: Sequence[str]) -> bytes:
    body = struct.pack("<Qqq64sB7x", account, start, end, code.encode(), len(keys))
    return body + b"".join(struct.pack("<32s", key.encode()) for key in keys)


def _filter(key: str, values: Sequence[str]) -> bytes:
    padded = [value.encode() for value in values] + [b""] * (8 - len(values))
    return struct.pack("<32sB3x", key.encode(), len(values)) + b"".join(struct.pack("<32s", value) for value in padded)


def ingested(payload: bytes) -> tuple[int, int, int]:
    """stored, duplicates, last_offset"""
    stored, duplicates, last_offset = struct.unpack("<IIQ", payload)
    return stored, duplicates, last_offset


def aggregate(payload: bytes) -> Aggregate:
    low, high, count, most, last, last_ts, alerts = _AGGREGATE.unpack(payload)
    return Aggregate((high << 64) + low, count, most, last, last_ts, alerts)


def breakdown(payload: bytes) -> dict[tuple[str, ...], Aggregate]:
    rows = {}
    for at in range(0, len(payload), 320):
        count = payload[at]
        values = tuple(payload[at + 136 + 32 * i : at + 168 + 32 * i].rstrip(b"\0").decode() for i in range(count))
        rows[values] = aggregate(payload[at + 264 : at + 320])
    return rows


def responses(buffer: bytearray) -> Iterator[Response]:
    """Take whole responses off the front of a receive buffer."""
    while len(buffer) >= _RESPONSE.size:
        status, request_id, length = _RESPONSE.unpack_from(buffer)
        if len(buffer) < _RESPONSE.size + length:
            return
        payload = bytes(buffer[_RESPONSE.size : _RESPONSE.size + length])
        del buffer[: _RESPONSE.size + length]
        yield Response(status, request_id, payload)

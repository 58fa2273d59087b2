"""Protocol v2 as the simulated clients speak it: written from docs/protocol.md, sharing nothing with the node.

header 32 B: magic, version, type, status, flags, payload_len, request_id, deadline_ms, 0, payload crc, header crc
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgpack

from unimeter.kernels.api import Kernels
from unimeter.sim.events import Event

MAGIC: Final = 0xC0FFEE02
HEADER: Final = struct.Struct("<IBBBBIIIII")
HEADER_BYTES: Final = 32
HELLO, INGEST, QUERY, METRIC_CREATE, METRIC_DELETE, METRIC_LIST = 1, 2, 3, 4, 5, 6
EVENTS_LIST, ALERTS_LIST, STATUS, ALERTS_SUBSCRIBE, TOPOLOGY, CLUSTER, ALERT_PUSH = 8, 9, 10, 11, 12, 14, 0x8B
OK, ERROR, REDIRECT, BACKPRESSURE = range(4)
ASYNC, VERDICTS = 1, 2
OPEN_SESSION: Final = 1

_INGEST: Final = struct.Struct("<QQQQIHHII")
_ROW: Final = struct.Struct("<QqqHBBBBH")
_RESULT: Final = struct.Struct("<IIIIQII")
TEXT, ID = 1, 2


class Response(NamedTuple):
    type: int
    status: int
    request_id: int
    payload: bytes


class Result(NamedTuple):
    """An answered ingest."""

    stored: int
    duplicates: int
    conflicts: int
    refused: int
    last_offset: int
    session_verdict: int
    exceptions: tuple[tuple[int, int], ...]


def frame(kernels: Kernels, type_: int, request_id: int, payload: bytes, flags: int = 0, deadline_ms: int = 0) -> bytes:
    head = HEADER.pack(MAGIC, 2, type_, 0, flags, len(payload), request_id, deadline_ms, 0, kernels.crc32c(payload))
    return head + struct.pack("<I", kernels.crc32c(head)) + payload


def control(kernels: Kernels, type_: int, request_id: int, body: dict[str, Any]) -> bytes:
    return frame(kernels, type_, request_id, msgpack.packb(body))


def row(event: Event, metric_index: int) -> bytes:
    ident = event.ident
    flags, tail, account = 0, b"", ident.account
    if isinstance(account, str):
        raw = account.encode()
        flags, tail, account = TEXT, bytes([len(raw)]) + raw, 0
    if ident.id:
        raw = ident.id.encode()
        flags |= ID
        tail += bytes([len(raw)]) + raw
    for key, value in ident.properties:
        raw_key, raw_value = key.encode(), value.encode()
        tail += bytes([len(raw_key), len(raw_value)]) + raw_key + raw_value
    tail += bytes(-len(tail) % 8)
    head = _ROW.pack(
        account,
        event.timestamp_ns,
        ident.value,
        metric_index,
        ident.operation,
        flags,
        len(ident.properties),
        0,
        len(tail),
    )
    return head + tail


def ingest_payload(
    events: Sequence[Event], session: tuple[int, int] = (0, 0), number: int = 0, settled_below: int = 0, flags: int = 0
) -> bytes:
    codes = sorted({event.ident.metric for event in events})
    dictionary = b"".join(bytes([len(code.encode())]) + code.encode() for code in codes)
    dictionary += bytes(-len(dictionary) % 8)
    rows = b"".join(row(event, codes.index(event.ident.metric)) for event in events)
    head = _INGEST.pack(*session, number, settled_below, len(events), len(codes), flags, len(rows), len(dictionary))
    return head + dictionary + rows


def result(payload: bytes) -> Result:
    stored, duplicates, conflicts, refused, last_offset, session_verdict, count = _RESULT.unpack_from(payload)
    exceptions = tuple(struct.iter_unpack("<II", payload[_RESULT.size :]))
    if len(exceptions) != count:
        raise ValueError(f"{count} exceptions announced, {len(exceptions)} given")
    return Result(stored, duplicates, conflicts, refused, last_offset, session_verdict, exceptions)


def responses(kernels: Kernels, buffer: bytearray) -> Iterator[Response]:
    """Take whole responses off the front of a receive buffer. Raises ValueError for what is not one."""
    while len(buffer) >= HEADER_BYTES:
        magic, version, type_, status, _, length, request_id, _, _, crc = HEADER.unpack_from(buffer)
        (head_crc,) = struct.unpack_from("<I", buffer, HEADER.size)
        if magic != MAGIC or version != 2 or head_crc != kernels.crc32c(bytes(buffer[: HEADER.size])):
            raise ValueError(f"not a v2 response header: {bytes(buffer[:HEADER_BYTES]).hex()}")
        if len(buffer) < HEADER_BYTES + length:
            return
        payload = bytes(buffer[HEADER_BYTES : HEADER_BYTES + length])
        if kernels.crc32c(payload) != crc:
            raise ValueError(f"response {request_id} has a wrong payload checksum")
        del buffer[: HEADER_BYTES + length]
        yield Response(type_, status, request_id, payload)

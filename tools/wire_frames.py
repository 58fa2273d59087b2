"""Frames by the book: plain encoders over the layouts of protocol.toml, for byte vectors and tests.

Nothing here checks anything: a caller may build a frame that no node accepts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from unimeter.kernels import protocol as p
from unimeter.kernels.api import Kernels


class V1Event(NamedTuple):
    code: bytes
    account: int
    timestamp_ns: int = 0
    value: int = 1
    operation: int = 0
    properties: tuple[tuple[bytes, bytes], ...] = ()
    prop_count: int | None = None  # None: as many as there are

    def encode(self) -> bytes:
        count = len(self.properties) if self.prop_count is None else self.prop_count
        return p.V1_EVENT.pack(self.code, self.account, self.timestamp_ns, self.value, self.operation, count)


class V2Event(NamedTuple):
    """One event; `metric` is the index into the batch's dictionary."""

    metric: int
    account: int | bytes
    timestamp_ns: int = 0
    value: int = 1
    operation: int = 0
    id: bytes = b""
    properties: tuple[tuple[bytes, bytes], ...] = ()

    def encode(self) -> bytes:
        flags, account, tail = 0, self.account, b""
        if isinstance(account, bytes):
            flags |= p.V2_ROW_FLAG_TEXT
            tail += bytes([len(account)]) + account
            account = 0
        if self.id:
            flags |= p.V2_ROW_FLAG_ID
            tail += bytes([len(self.id)]) + self.id
        tail += b"".join(bytes([len(key), len(value)]) + key + value for key, value in self.properties)
        tail = padded(tail)
        head = p.V2_ROW.pack(
            account,
            self.timestamp_ns,
            self.value,
            self.metric,
            self.operation,
            flags,
            len(self.properties),
            0,
            len(tail),
        )
        return head + tail


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


# ---- v1 ----


def v1_request(type: int, payload: bytes, request_id: int = 1, partition: int = 0xFFFF) -> bytes:
    head = p.V1_REQUEST_HEADER.pack(p.V1_MAGIC, p.V1_VERSION, type, partition, len(payload), request_id)
    return head + payload


def v1_response(status: int, payload: bytes, request_id: int = 1) -> bytes:
    return p.V1_RESPONSE_HEADER.pack(status, request_id, len(payload)) + payload


def v1_ingest_payload(events: Sequence[V1Event], prop_count: int | None = None) -> bytes:
    properties = [pair for event in events for pair in event.properties]
    count = len(properties) if prop_count is None else prop_count
    return b"".join(
        (
            p.V1_INGEST_HEAD.pack(len(events), count),
            *(event.encode() for event in events),
            *(p.V1_PROPERTY.pack(key, value) for key, value in properties),
        )
    )


def v1_ingest(events: Sequence[V1Event], request_id: int = 1, sync: bool = True) -> bytes:
    type = p.V1_TYPE_INGEST_SYNC if sync else p.V1_TYPE_INGEST_ASYNC
    return v1_request(type, v1_ingest_payload(events), request_id)


# ---- v2 ----


def v2_frame(
    kernels: Kernels,
    type: int,
    payload: bytes,
    request_id: int = 1,
    flags: int = 0,
    status: int = 0,
    deadline_ms: int = 0,
    group_hint: int = 0,
) -> bytes:
    crc = kernels.crc32c(payload)
    head = p.V2_HEADER.pack(
        p.V2_MAGIC, p.V2_VERSION, type, status, flags, len(payload), request_id, deadline_ms, group_hint, crc, 0
    )
    head = head[:-4]
    return head + kernels.crc32c(head).to_bytes(4, "little") + payload


def v2_ingest_payload(
    codes: Sequence[bytes],
    events: Iterable[V2Event],
    session: tuple[int, int] = (0, 0),
    number: int = 0,
    settled_below: int = 0,
    batch_flags: int = 0,
) -> bytes:
    rows = [event.encode() for event in events]
    dictionary = padded(b"".join(bytes([len(code)]) + code for code in codes))
    rows_len = sum(map(len, rows))
    head = p.V2_INGEST_HEAD.pack(
        *session, number, settled_below, len(rows), len(codes), batch_flags, rows_len, len(dictionary)
    )
    return b"".join((head, dictionary, *rows))


def v2_ingest(
    kernels: Kernels, payload: bytes, request_id: int = 1, sync: bool = True, verdicts: bool = False
) -> bytes:
    flags = (0 if sync else p.V2_FLAG_INGEST_ASYNC) | (p.V2_FLAG_INGEST_VERDICTS if verdicts else 0)
    return v2_frame(kernels, p.V2_TYPE_INGEST, payload, request_id, flags)

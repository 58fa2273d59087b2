"""Protocol version 2 as bytes, without a socket: requests are encoded, what arrives becomes responses.

    header, 32 B   magic u32, version u8, type u8, status u8, flags u8, payload_len u32, request_id u32,
                   deadline_ms u32, group_hint u32, payload crc32c u32, header crc32c u32
    payload        ingest: a batch; everything else: a msgpack map with text keys

Whatever arrives, `receive` and the decoders either return or raise ProtocolError.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import Any, NamedTuple, NoReturn

import msgpack

from unimeter.client.batch import Batch
from unimeter.errors import ProtocolError, ServerError, server_error
from unimeter.kernels import layout as lay
from unimeter.kernels import protocol as wire
from unimeter.kernels.api import Kernels

HEADER_BYTES = wire.V2_HEADER.size
CHECKSUM = Struct("<I")  # the header's own checksum, its last field
PAYLOAD_BYTES_MAX = 64 * 1024 * 1024  # of a response; more is not the protocol
_U64 = 0xFFFF_FFFF_FFFF_FFFF


class Type(IntEnum):
    HELLO = wire.V2_TYPE_HELLO
    INGEST = wire.V2_TYPE_INGEST
    QUERY = wire.V2_TYPE_QUERY
    METRIC_CREATE = wire.V2_TYPE_METRIC_CREATE
    METRIC_DELETE = wire.V2_TYPE_METRIC_DELETE
    METRIC_LIST = wire.V2_TYPE_METRIC_LIST
    EVENTS_LIST = wire.V2_TYPE_EVENTS_LIST
    ALERTS_LIST = wire.V2_TYPE_ALERTS_LIST
    STATUS = wire.V2_TYPE_STATUS
    ALERTS_SUBSCRIBE = wire.V2_TYPE_ALERTS_SUBSCRIBE
    TOPOLOGY = wire.V2_TYPE_TOPOLOGY
    CLUSTER = wire.V2_TYPE_CLUSTER
    ALERT_PUSH = wire.V2_TYPE_ALERT_PUSH
    TOPOLOGY_PUSH = wire.V2_TYPE_TOPOLOGY_PUSH


class Status(IntEnum):
    OK = wire.V2_STATUS_OK
    ERROR = wire.V2_STATUS_ERROR
    REDIRECT = wire.V2_STATUS_REDIRECT
    BACKPRESSURE = wire.V2_STATUS_BACKPRESSURE  # an error that may be over soon


class Response(NamedTuple):
    request_id: int  # 0: a push
    type: int
    status: int
    payload: bytes


class IngestAnswer(NamedTuple):
    stored: int
    duplicates: int
    conflicts: int
    refused: int
    last_offset: int
    session_verdict: int
    exceptions: tuple[tuple[int, int], ...]  # (place in the batch, verdict) of events that were not stored


_SCAN_ERRORS = {
    lay.UM_SCAN_BAD_MAGIC: "this is not a Unimeter server (or not this protocol)",
    lay.UM_SCAN_BAD_VERSION: "the server speaks another version of the protocol",
    lay.UM_SCAN_TOO_LARGE: "an answer of impossible size",
    lay.UM_SCAN_BAD_CRC: "a damaged answer (checksum)",
}


class Protocol:
    """One connection's bytes."""

    def __init__(self, kernels: Kernels, payload_bytes_max: int = PAYLOAD_BYTES_MAX) -> None:
        self._kernels = kernels
        self._payload_bytes_max = payload_bytes_max
        self._rest = b""  # the beginning of an answer whose end is still to come
        self._chunks: list[bytes] = []
        self._wanted = 0  # bytes without which scanning again is pointless

    def receive(self, data: bytes) -> list[Response]:
        """Whole answers among the bytes so far. After a ProtocolError the connection is of no use."""
        if self._chunks or self._rest:
            self._chunks.append(data)
            have = len(self._rest) + sum(map(len, self._chunks))
            if have < self._wanted:
                return []
            data = b"".join((self._rest, *self._chunks))
            self._chunks.clear()
        responses: list[Response] = []
        at = 0
        while at < len(data):
            table = self._kernels.response_scan(memoryview(data)[at:] if at else data, 2, self._payload_bytes_max)
            for index in range(len(table)):
                frame = table[index]
                start = at + frame.payload_off
                payload = data[start : start + frame.payload_len]
                responses.append(Response(frame.request_id, frame.type, frame.status, payload))
            at += table.consumed
            if table.error:
                raise ProtocolError(_SCAN_ERRORS.get(table.error, f"unreadable bytes ({table.error})"))
            if not table.consumed:
                break
        self._rest = data[at:]
        self._wanted = 0
        if len(self._rest) >= HEADER_BYTES:
            self._wanted = HEADER_BYTES + int.from_bytes(self._rest[8:12], "little")
        return responses


def encode_request(
    kernels: Kernels,
    type: int,
    request_id: int,
    payload: bytes,
    flags: int = 0,
    deadline_ms: int = 0,
    group: int | None = None,
) -> bytes:
    """One request frame. `group`: the one that an ingest request is for, as a hint; None: unsaid."""
    hint = 0 if group is None else group + 1
    crc = kernels.crc32c(payload)
    fields = (wire.V2_MAGIC, wire.V2_VERSION, type, 0, flags, len(payload), request_id, deadline_ms, hint, crc, 0)
    head = wire.V2_HEADER.pack(*fields)[: -CHECKSUM.size]
    return head + CHECKSUM.pack(kernels.crc32c(head)) + payload


def encode_map(body: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(body, use_bin_type=True)
    return packed


def encode_batch(batch: Batch, session: int, settled_below: int) -> bytes:
    """The payload of an ingest request."""
    head = wire.V2_INGEST_HEAD.pack(
        session >> 64, session & _U64, batch.number, settled_below, batch.count,
        batch.dictionary_count, 0, len(batch.rows), len(batch.dictionary),
    )  # fmt: skip
    return head + batch.dictionary + batch.rows


def encode_open_session(session: int) -> bytes:
    flags = wire.V2_BATCH_FLAG_OPEN_SESSION
    return wire.V2_INGEST_HEAD.pack(session >> 64, session & _U64, 0, 0, 0, 0, flags, 0, 0)


def decode_ingest(payload: bytes, event_count: int) -> IngestAnswer:
    """The answer to a batch of so many events."""
    if len(payload) < wire.V2_INGEST_RESULT.size:
        raise ProtocolError("an ingest answer that is too short")
    head = wire.V2_INGEST_RESULT.unpack_from(payload)
    exception_count = head[-1]
    if len(payload) != wire.V2_INGEST_RESULT.size + exception_count * wire.V2_EXCEPTION.size:
        raise ProtocolError("an ingest answer of the wrong length")
    exceptions: tuple[tuple[int, int], ...] = ()
    if exception_count:
        exceptions = tuple(wire.V2_EXCEPTION.iter_unpack(payload[wire.V2_INGEST_RESULT.size :]))
        if any(place >= event_count for place, _ in exceptions):
            raise ProtocolError("an ingest answer about an event that was not sent")
    answer = IngestAnswer._make((*head[:-1], exceptions))
    told = answer.stored + answer.duplicates + answer.conflicts + answer.refused
    if told != event_count:
        raise ProtocolError(f"an ingest answer about {told} events, where {event_count} were sent")
    return answer


def decode_map(payload: bytes) -> dict[str, Any]:
    try:
        body = msgpack.unpackb(payload, raw=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        raise ProtocolError(f"an answer that cannot be read: {error}") from None
    if not isinstance(body, dict) or not all(isinstance(key, str) for key in body):
        raise ProtocolError("an answer that is no map")
    return body


def decode_error(payload: bytes) -> ServerError:
    body = Fields(decode_map(payload))
    return server_error(body.text("code"), body.text("message"), body.text("fix", ""))


def decode_redirect(payload: bytes) -> tuple[str, int | None]:
    """Where to ask instead, and for which group that is so."""
    body = Fields(decode_map(payload))
    return body.text("address"), body.number_or_none("group")


class Fields:
    """Typed access to a decoded map; what is missing or of another type raises ProtocolError."""

    def __init__(self, body: object) -> None:
        if not isinstance(body, dict):
            raise ProtocolError("an answer with something else where a map belongs")
        self.body = body

    def _bad(self, key: str, expected: str) -> NoReturn:
        raise ProtocolError(f"an answer without a proper {key!r} ({expected}): {self.body.get(key)!r:.80}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self.body.get(key, default)
        if not isinstance(value, str):
            self._bad(key, "text")
        return value

    def number(self, key: str, default: int | None = None) -> int:
        value = self.body.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            self._bad(key, "number")
        return value

    def number_or_none(self, key: str) -> int | None:
        return None if self.body.get(key) is None else self.number(key)

    def wide_number(self, key: str) -> int:
        """A number that is decimal text when it does not fit 64 bits."""
        value = self.body.get(key)
        if isinstance(value, str):
            try:
                return int(value)
            except ValueError:
                self._bad(key, "number")
        return self.number(key)

    def flag(self, key: str, default: bool) -> bool:
        value = self.body.get(key, default)
        if not isinstance(value, bool):
            self._bad(key, "true or false")
        return value

    def account(self, key: str) -> int | str:
        value = self.body.get(key)
        return value if isinstance(value, str) else self.number(key)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.body.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._bad(key, "list of text")
        return tuple(value)

    def text_map(self, key: str) -> dict[str, str]:
        value = self.body.get(key)
        if not isinstance(value, dict) or not all(isinstance(v, str) for pair in value.items() for v in pair):
            self._bad(key, "map of text")
        return value

    def maps(self, key: str) -> Iterator[Fields]:
        value = self.body.get(key)
        if not isinstance(value, list):
            self._bad(key, "list")
        return (Fields(item) for item in value)

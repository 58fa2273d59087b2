"""Splitting a receive buffer into whole frames.

    v1 request, 16 B    magic u32 = 0xC0FFEE01, version u8 = 1, type u8, partition u16, payload_len u32, request_id u32
    v1 response, 12 B   status u8, 3 pad, request_id u32, payload_len u32
    v2 either, 32 B     magic u32 = 0xC0FFEE02, version u8 = 2, type u8, status u8, flags u8, payload_len u32,
                        request_id u32, deadline_ms u32, group_hint u32, payload crc32c u32, header crc32c u32

A scan takes frames from the front until the bytes run out (not an error: more will come) or are not a frame
(an error: nothing after them can be trusted). A header is judged as soon as the bytes that it takes are there.
"""

from __future__ import annotations

import struct

from unimeter.kernels import layout as lay
from unimeter.kernels.api import Bytes
from unimeter.kernels.frame import Frame
from unimeter.kernels.protocol import V2_HEADER, V2_MAGIC, V2_VERSION
from unimeter.kernels.reference.checksum import crc32c

MAGIC_V1 = 0xC0FFEE01
MAGIC_V2 = 0xC0FFEE02
_V1_REQUEST = struct.Struct("<IBBHII")
_V1_RESPONSE = struct.Struct("<B3xII")
_V2_HEADER = struct.Struct("<IBBBBIIIIII")


class _Refused(Exception):
    """These bytes are not a frame."""

    def __init__(self, error: int, request_id: int, protocol: int) -> None:
        self.error, self.request_id, self.protocol = error, request_id, protocol


class ReferenceFrameTable:
    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.consumed = 0
        self.error = lay.UM_SCAN_OK
        self.error_request_id = 0
        self.error_protocol = 0

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:
        return self.frames[index]


def _v1_request(view: memoryview, at: int, payload_max: int) -> Frame | None:
    if len(view) - at < _V1_REQUEST.size:
        return None
    _, version, kind, partition, payload_len, request_id = _V1_REQUEST.unpack_from(view, at)
    if version != 1:
        raise _Refused(lay.UM_SCAN_BAD_VERSION, request_id, 1)
    if payload_len > payload_max:
        raise _Refused(lay.UM_SCAN_TOO_LARGE, request_id, 1)
    return Frame(at, at + _V1_REQUEST.size, payload_len, request_id, 1, kind, 0, 0, partition, 0)


def _v1_response(view: memoryview, at: int, payload_max: int) -> Frame | None:
    if len(view) - at < _V1_RESPONSE.size:
        return None
    status, request_id, payload_len = _V1_RESPONSE.unpack_from(view, at)
    if payload_len > payload_max:
        raise _Refused(lay.UM_SCAN_TOO_LARGE, request_id, 1)
    kind = status if request_id == 0 else 0  # a push: the status byte carries its type
    return Frame(at, at + _V1_RESPONSE.size, payload_len, request_id, 1, kind, 0, status, 0, 0)


def _v2(view: memoryview, at: int, payload_max: int) -> Frame | None:
    if len(view) - at < _V2_HEADER.size:
        return None
    _, version, kind, status, flags, payload_len, request_id, deadline_ms, hint, payload_crc, header_crc = (
        _V2_HEADER.unpack_from(view, at)
    )
    if crc32c(view[at : at + 28]) != header_crc:
        raise _Refused(lay.UM_SCAN_BAD_CRC, 0, 2)  # no field of it can be believed
    if version != 2:
        raise _Refused(lay.UM_SCAN_BAD_VERSION, request_id, 2)
    if payload_len > payload_max:
        raise _Refused(lay.UM_SCAN_TOO_LARGE, request_id, 2)
    start = at + _V2_HEADER.size
    if len(view) - start >= payload_len and crc32c(view[start : start + payload_len]) != payload_crc:
        raise _Refused(lay.UM_SCAN_BAD_CRC, request_id, 2)
    return Frame(at, start, payload_len, request_id, 2, kind, flags, status, min(hint, 0xFFFF), deadline_ms)


def _request(view: memoryview, at: int, payload_max: int) -> Frame | None:
    if len(view) - at < 4:
        return None
    magic = int.from_bytes(view[at : at + 4], "little")
    if magic == MAGIC_V1:
        return _v1_request(view, at, payload_max)
    if magic == MAGIC_V2:
        return _v2(view, at, payload_max)
    raise _Refused(lay.UM_SCAN_BAD_MAGIC, 0, 0)


def _v2_response(view: memoryview, at: int, payload_max: int) -> Frame | None:
    if len(view) - at >= 4 and int.from_bytes(view[at : at + 4], "little") != MAGIC_V2:
        raise _Refused(lay.UM_SCAN_BAD_MAGIC, 0, 0)
    return _v2(view, at, payload_max)


def _scan(data: Bytes, payload_max: int, kind: str) -> ReferenceFrameTable:
    one = {"request": _request, "v1": _v1_response, "v2": _v2_response}[kind]
    view = memoryview(data).cast("B")
    table = ReferenceFrameTable()
    try:
        while True:
            frame = one(view, table.consumed, payload_max)
            if frame is None or frame.payload_off + frame.payload_len > len(view):
                break
            table.frames.append(frame)
            table.consumed = frame.payload_off + frame.payload_len
    except _Refused as refused:
        table.error = refused.error
        table.error_request_id = refused.request_id
        table.error_protocol = refused.protocol
    return table


def frame_scan(data: Bytes, payload_max: int) -> ReferenceFrameTable:
    """Request frames of either protocol, as a server receives them."""
    return _scan(data, payload_max, "request")


def response_scan(data: Bytes, protocol: int, payload_max: int) -> ReferenceFrameTable:
    """Response frames of one protocol, as a client receives them."""
    return _scan(data, payload_max, "v1" if protocol == 1 else "v2")


def v2_head(type_: int, status: int, request_id: int, payload: Bytes) -> bytes:
    """See api.Kernels.v2_head."""
    crc = crc32c(payload)
    head = V2_HEADER.pack(V2_MAGIC, V2_VERSION, type_, status, 0, len(payload), request_id, 0, 0, crc, 0)
    return bytes(head[:-4] + crc32c(head[:-4]).to_bytes(4, "little"))

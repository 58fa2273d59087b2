"""Frames and the catalog through csrc/kernels/{frames,catalog}.c."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from unimeter.kernels.api import Bytes
from unimeter.kernels.frame import Frame
from unimeter.kernels.layout import FRAME, METRIC, SCAN, UM_METRICS_MAX, UM_NONE
from unimeter.kernels.native._um import ffi, lib
from unimeter.kernels.native.arena import Arena
from unimeter.kernels.native.lent import lent

# looked up once: what every request needs
_um_frames: Final = lib.um_frames
_um_v2_head: Final = lib.um_v2_head
_unzeroed: Final = ffi.new_allocator(should_clear_after_alloc=False)
_FRAMES_FIRST: Final = 512  # a table is made for so many frames, and again for the worst case if they were not enough
_REQUEST_BYTES_MIN: Final = 16  # a v1 header
_SCAN: Final = ffi.typeof("um_scan *")
_NOT_PLAIN: Final = 2**64 - 1  # of um_frames
_FRAMES: Final = ffi.typeof("um_frame[]")
_HEAD_BYTES: Final = 32
_FRAME_BYTES: Final = FRAME.size
_head_out: Final = ffi.new("uint8_t[]", _HEAD_BYTES)
_head: Final = ffi.buffer(_head_out)


class NativeFrameTable:
    """The frames of one buffer, as C left them; a Frame is made when somebody asks."""

    __slots__ = ("_count", "_view", "cdata", "consumed", "error", "error_protocol", "error_request_id")

    def __init__(
        self, cdata: Any, consumed: int, count: int, error: int, error_request_id: int, error_protocol: int
    ) -> None:
        self.cdata = cdata  # um_frame[]
        self._view: Any = None
        self._count = count
        self.consumed = consumed
        self.error = error
        self.error_request_id = error_request_id
        self.error_protocol = error_protocol

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Frame:
        if not 0 <= index < self._count:
            raise IndexError(index)
        if self._view is None:
            self._view = ffi.buffer(self.cdata)
        (offset, payload_off, payload_len, request_id, protocol, type, flags, status, partition, _, deadline_ms, _) = (
            FRAME.unpack_from(self._view, index * _FRAME_BYTES)
        )
        return Frame(
            offset, payload_off, payload_len, request_id, protocol, type, flags, status, partition, deadline_ms
        )


def frame_scan(data: Bytes, payload_max: int) -> NativeFrameTable:
    size = len(data)
    room = min(size // _REQUEST_BYTES_MIN + 2, _FRAMES_FIRST)
    frames = _unzeroed(_FRAMES, room)
    found: int = _um_frames(lent(data), size, payload_max, frames, room)
    if found != _NOT_PLAIN:
        return NativeFrameTable(frames, found >> 32, found & 0xFFFFFFFF, 0, 0, 0)  # nearly always
    return _scan(lib.um_frame_scan, (payload_max,), data, _REQUEST_BYTES_MIN)


def v2_head(type_: int, status: int, request_id: int, payload: Bytes) -> bytes:
    _um_v2_head(_head_out, type_, status, request_id, lent(payload), len(payload))
    head: bytes = _head[:]
    return head


def response_scan(data: Bytes, protocol: int, payload_max: int) -> NativeFrameTable:
    return _scan(lib.um_response_scan, (protocol, payload_max), data, 12)


def _scan(function: Any, arguments: tuple[int, ...], data: Bytes, header_bytes_min: int) -> NativeFrameTable:
    size = len(data)
    worst = size // header_bytes_min + 1
    room = min(worst, _FRAMES_FIRST)
    scan = _unzeroed(_SCAN)
    pointer = ffi.from_buffer(data)
    while True:
        frames = _unzeroed(_FRAMES, room)
        function(pointer, size, *arguments, frames, room, scan)
        table = NativeFrameTable(frames, *SCAN.unpack(ffi.buffer(scan)))
        if len(table) < room or room == worst:
            return table
        room = worst


class NativeCatalog:
    """um_catalog in its own mapping. Immutable: a change of the metrics makes a new one."""

    def __init__(self, metrics: Sequence[bytes]) -> None:
        if len(metrics) > UM_METRICS_MAX:
            raise ValueError(f"at most {UM_METRICS_MAX} metrics, deleted ones included")
        self._arena = Arena(ffi.sizeof("um_catalog"))
        self.cdata: Any = ffi.cast("um_catalog *", self._arena.base)
        self.cdata.metric_count = len(metrics)
        at = ffi.offsetof("um_catalog", "metrics")
        for packed in metrics:
            self._arena.view[at : at + METRIC.size] = packed
            at += METRIC.size
        lib.um_catalog_index(self.cdata)

    def find(self, code: bytes) -> int:
        number = int(lib.um_catalog_find(self.cdata, ffi.from_buffer(code), len(code)))
        return -1 if number == UM_NONE else number

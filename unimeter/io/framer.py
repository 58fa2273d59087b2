"""Bytes of one link into whole frames, whatever pieces the network cuts them into.

The kernel scans for frames; this keeps what is left of the last piece, and does not scan again before the frame
that is under way can be complete, so a large frame in small pieces costs its bytes once.
"""

from __future__ import annotations

import struct
from typing import Final

from unimeter.kernels.api import FrameTable, Kernels

_LENGTH: Final = struct.Struct("<4xB3xI")  # version and payload_len stand at the same place in v1 and v2
_HEADER_BYTES: Final = {1: 16, 2: 32}


class Framer:
    """One link's receive buffer: at most one incomplete frame, so bounded by frame_bytes_max."""

    def __init__(self, kernels: Kernels, frame_bytes_max: int) -> None:
        self._kernels = kernels
        self._frame_bytes_max = frame_bytes_max
        self._pending = bytearray()
        self._need = 0  # bytes that pending must have before a scan can find anything
        self._broken = False
        self.counted_bytes = 0  # of pending_bytes, in the driver's total

    @property
    def pending_bytes(self) -> int:
        """Bytes of the frame under way that are here already."""
        return len(self._pending)

    @property
    def idle(self) -> bool:
        """Does a frame begin with the next byte?"""
        return not self._pending and not self._broken

    def feed(self, data: bytes) -> list[tuple[bytes, FrameTable]]:
        """Take the link's next bytes; returns buffers with their whole frames. After a frame error nothing more."""
        found: list[tuple[bytes, FrameTable]] = []
        if self._broken:
            return found
        if self._pending:
            self._pending += data
            if len(self._pending) < self._need:
                return found
            data = bytes(self._pending)
            self._pending.clear()
        while data and not self._broken:
            frames = self._kernels.frame_scan(data, self._frame_bytes_max)
            count, consumed = len(frames), frames.consumed
            if count or frames.error:
                found.append((data, frames))
            if frames.error:
                self._broken = True
            elif consumed == len(data):
                break  # nearly always
            elif count:
                data = data[consumed:]
            else:
                self._pending += data
                self._need = self._wanted(data)
                break
        return found

    @staticmethod
    def _wanted(data: bytes) -> int:
        if len(data) >= _LENGTH.size:
            version, payload_len = _LENGTH.unpack_from(data)
            return int(_HEADER_BYTES.get(version, 0) + payload_len)
        return len(data) + 1

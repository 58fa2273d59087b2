"""Bytes lent to a kernel for the time of a call."""

from __future__ import annotations

from typing import Any, Final

from unimeter.kernels.api import Bytes
from unimeter.kernels.native._um import ffi

_from_buffer: Final = ffi.from_buffer


def lent(data: Bytes) -> Any:
    """What a call's `const uint8_t *` is given. cffi takes `bytes` as they are; a buffer object around them would cost as much
    as a short kernel."""
    return data if type(data) is bytes else _from_buffer(data)

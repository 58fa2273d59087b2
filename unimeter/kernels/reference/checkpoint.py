"""The image of a state: a header with the length of every region, then the regions' bytes in order.

    u32 magic "UMCK", u32 version 1, u32 region count, u32 0, 17 x u64 bytes in use, then the regions, no padding

The image is taken at once, at `begin`; so whatever is applied while it is being read is not in it.
"""

from __future__ import annotations

import struct

from unimeter.kernels import layout as lay
from unimeter.kernels.reference.checksum import MASK64
from unimeter.kernels.reference.state import State

_MAGIC = 0x4B434D55
_VERSION = 1
HEADER = struct.Struct(f"<4I{lay.UM_REGIONS}Q")


def regions(state: State) -> list[bytes]:
    """The packed bytes of every region, in the order of UM_R_*."""
    return [
        state.meta.pack(state.limits),
        bytes(state.heap),
        b"".join(record.pack() for record in state.values),
        b"".join(record.pack() for record in state.accounts),
        b"".join(record.pack() for record in state.series),
        b"".join(record.pack() for record in state.cells),
        struct.pack(f"<{len(state.dims)}I", *state.dims),
        b"".join(record.pack() for record in state.buckets),
        b"".join(record.pack() for record in state.members),
        b"".join(lay.FP.pack(key & MASK64, key >> 64) for key in state.fingerprints[0]),
        b"".join(lay.FP.pack(key & MASK64, key >> 64) for key in state.fingerprints[1]),
        b"".join(record.pack() for record in state.ids),
        b"".join(record.pack() for record in state.sessions),
        b"".join(record.pack() for record in state.periods),
        b"".join(record.pack() for record in state.period_members),
        b"".join(record.pack() for record in state.alerts),
        b"".join(record.pack() for record in state.skips),
    ]


def image(state: State) -> bytes:
    packed = regions(state)
    return HEADER.pack(_MAGIC, _VERSION, lay.UM_REGIONS, 0, *(len(region) for region in packed)) + b"".join(packed)

"""The identity file: who this node is, and what may never change under a data directory.

One block; everything in its first 512-byte sector, so that writing it is atomic on any disk:

    0   magic  b"UMIDENT1"
    8   crc32c of bytes 12.. (u32)
    12  payload length (u32)
    16  payload: msgpack map

The initial table limits are in it because the state is a function of them and of the log: a restart with
another memory budget must replay to the same state (a change of limits is an entry in the log).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import msgpack

from unimeter.config import BLOCK_BYTES
from unimeter.core.flow import Corrupt
from unimeter.kernels import layout
from unimeter.kernels.api import Kernels, Limits

FILE = "identity"
MAGIC = b"UMIDENT1"
VERSION = 1
SECTOR_BYTES = 512


@dataclass(frozen=True)
class Identity:
    cluster_id: int  # u64
    node_id: int
    group_count: int
    limits: Limits  # of a fresh state

    def encode(self, kernels: Kernels) -> bytes:
        payload: bytes = msgpack.packb(
            {
                "version": VERSION,
                "cluster": self.cluster_id,
                "node": self.node_id,
                "groups": self.group_count,
                "limits": layout.encode_limits(self.limits),
            }
        )
        rest = struct.pack("<I", len(payload)) + payload
        block = MAGIC + struct.pack("<I", kernels.crc32c(rest)) + rest
        assert len(block) <= SECTOR_BYTES, "the identity must fit one sector to be written atomically"
        return block.ljust(BLOCK_BYTES, b"\0")


def decode(block: bytes, kernels: Kernels) -> Identity | None:
    """The identity in the file's first block; None when it was never written. Raises Corrupt."""
    if not any(block):
        return None
    magic, crc, length = struct.unpack_from("<8sII", block)
    if magic != MAGIC or length > SECTOR_BYTES - 16 or kernels.crc32c(block[12 : 16 + length]) != crc:
        raise Corrupt(f"file {FILE}: not a valid identity (checksum); restore this file from a backup of the directory")
    fields: dict[str, Any] = msgpack.unpackb(block[16 : 16 + length])
    if fields["version"] != VERSION:
        raise Corrupt(f"file {FILE}: written by format {fields['version']}, this program reads format {VERSION}")
    return Identity(fields["cluster"], fields["node"], fields["groups"], layout.decode_limits(fields["limits"]))

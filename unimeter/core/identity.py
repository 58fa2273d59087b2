"""The identity file: who this node is, and what may never change under a data directory.

One block; everything in its first 512-byte sector, so that writing it is atomic on any disk:

    0   magic  b"UMIDENT1"
    8   crc32c of bytes 12.. (u32)
    12  payload length (u32)
    16  payload: msgpack map

Beside it stands the file `founding`: what all members of the cluster agreed on when it began.

The initial table limits are in it because the state is a function of them and of the log: a restart with
another memory budget must replay to the same state (a change of limits is an entry in the log).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from unimeter.config import BLOCK_BYTES
from unimeter.core import founding
from unimeter.core.flow import Corrupt
from unimeter.core.founding import Founding
from unimeter.kernels import layout
from unimeter.kernels.api import Kernels, Limits

FILE: Final = "identity"
FOUNDING_FILE: Final = "founding"
MAGIC: Final = b"UMIDENT1"
FOUNDING_MAGIC: Final = b"UMFOUND1"
VERSION: Final = 2
VERSION_ALONE: Final = 1  # of a node that never was a replica: its whole log is committed

SOUND: Final = ""
FRESH: Final = "fresh"  # it has a replica id, and belongs to no cluster yet
# durable data cannot be read, or was found to differ from the other replicas': it must not serve
DAMAGED: Final = "damaged"
EMPTYING: Final = "emptying"  # its data is being deleted, to come back as a new replica
SECTOR_BYTES: Final = 512


@dataclass(frozen=True)
class Identity:
    cluster_id: int  # u64
    node_id: int
    group_count: int
    limits: Limits  # of a fresh state
    replica: int = 0  # u64, drawn when the directory was laid out; 0: from before there were replicas
    state: str = SOUND

    def encode(self, kernels: Kernels) -> bytes:
        fields = {
            "version": VERSION,
            "cluster": self.cluster_id,
            "node": self.node_id,
            "groups": self.group_count,
            "limits": layout.encode_limits(self.limits),
            "replica": self.replica,
            "state": self.state,
        }
        block = _seal(kernels, MAGIC, fields)
        assert not any(block[SECTOR_BYTES:]), "the identity must fit one sector to be written atomically"
        return block


def _seal(kernels: Kernels, magic: bytes, fields: dict[str, Any]) -> bytes:
    payload: bytes = msgpack.packb(fields)
    rest = struct.pack("<I", len(payload)) + payload
    block = magic + struct.pack("<I", kernels.crc32c(rest)) + rest
    assert len(block) <= BLOCK_BYTES
    return block.ljust(BLOCK_BYTES, b"\0")


def _unseal(kernels: Kernels, magic: bytes, file: str, block: bytes) -> dict[str, Any]:
    found, crc, length = struct.unpack_from("<8sII", block)
    if found != magic or length > BLOCK_BYTES - 16 or kernels.crc32c(block[12 : 16 + length]) != crc:
        raise Corrupt(f"file {file}: not valid (checksum); restore this file from a backup of the directory")
    fields: dict[str, Any] = msgpack.unpackb(block[16 : 16 + length])
    return fields


def decode(block: bytes, kernels: Kernels) -> Identity | None:
    """The identity in the file's first block; None when it was never written. Raises Corrupt."""
    if not any(block):
        return None
    fields = _unseal(kernels, MAGIC, FILE, block)
    if fields["version"] not in (VERSION_ALONE, VERSION):
        raise Corrupt(f"file {FILE}: written by format {fields['version']}, this program reads format {VERSION}")
    return Identity(
        fields["cluster"],
        fields["node"],
        fields["groups"],
        layout.decode_limits(fields["limits"]),
        fields.get("replica", 0),
        fields.get("state", SOUND),
    )


def encode_founding(kernels: Kernels, made: Founding) -> bytes:
    return _seal(kernels, FOUNDING_MAGIC, made.body())


def decode_founding(kernels: Kernels, block: bytes) -> Founding:
    """Raises Corrupt."""
    return founding.from_body(_unseal(kernels, FOUNDING_MAGIC, FOUNDING_FILE, block))

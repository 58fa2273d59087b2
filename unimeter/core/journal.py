"""The journal: one append-only log per node, shared by its groups, in preallocated segment files.

    journal/0000000001.seg   [ header block 4096 B | record | record | ... | zeroes ]
    journal/0000000002.seg   [ header block        | record ... ]

A record is one write and holds one entry of each group that has something to say; one sync covers all.
Exactly one record is on its way to the disk at a time (whatever arrives meanwhile goes into the next), so:

- a record that is followed by a later valid one was durable: if it is unreadable, that is rot;
- an unreadable record with nothing after it was never acknowledged: a torn tail, cut off quietly.

Beside entries of the groups' logs a record holds their hard states (term, vote, commit index), behind a group's entries.

Disk offsets and lengths are multiples of a block. A record starts right behind the one before, so its write
begins with the bytes already in its first block, unchanged: tearing that write cannot hurt them.
A record that does not fit the segment goes to the next one; sequence numbers and the hash chain run on, so no
closing mark is needed: recovery looks for the chain's next link there.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from unimeter.config import BLOCK_BYTES, NodeConfig
from unimeter.core.entry import padded_bytes
from unimeter.kernels import layout
from unimeter.kernels.api import Bytes, Kernels

SEGMENT_MAGIC: Final = b"UMSEGM01"
_HEADER: Final = struct.Struct("<8sIIQQ")  # magic, crc of the rest, version, cluster id, segment number
_VERSION: Final = 1
RECORD_HEADER_BYTES: Final = 64


class Position:
    """A place between two records: the next one goes to `offset` of `segment`; `seq` and `chain` are those of
    the record before (0 and the seed at the very beginning). Not changed once it is made."""

    __slots__ = ("chain", "offset", "segment", "seq")

    def __init__(self, segment: int, offset: int, seq: int, chain: int) -> None:
        self.segment = segment
        self.offset = offset
        self.seq = seq
        self.chain = chain

    def fields(self) -> list[int]:
        """What __init__ wants."""
        return [self.segment, self.offset, self.seq, self.chain]

    def next_segment(self) -> Position:
        """Where the next record goes if it does not fit here."""
        return Position(self.segment + 1, BLOCK_BYTES, self.seq, self.chain)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Position) and self.fields() == other.fields()

    def __repr__(self) -> str:
        return f"Position({self.segment}, {self.offset}, {self.seq}, {self.chain:#x})"


class JournalWrite:
    __slots__ = ("data", "file", "offset")

    def __init__(self, file: str, offset: int, data: Bytes) -> None:
        self.file = file
        self.offset = offset
        self.data = data  # whole blocks; unchanged until the next append


@lru_cache(maxsize=1024)
def segment_file(number: int) -> str:
    return f"journal/{number:010d}.seg"


def segment_number(file: str) -> int | None:
    """The number in a segment's file name, or None for another file."""
    stem = file.removeprefix("journal/").removesuffix(".seg")
    return int(stem) if file == f"journal/{stem}.seg" and stem.isdigit() else None


def start(kernels: Kernels, cluster_id: int) -> Position:
    """The journal's very beginning. The chain is seeded with the cluster's id: a foreign segment never fits."""
    return Position(1, BLOCK_BYTES, 0, kernels.hash64(struct.pack("<Q", cluster_id)))


def segment_header(kernels: Kernels, cluster_id: int, number: int) -> bytes:
    rest = struct.pack("<IQQ", _VERSION, cluster_id, number)
    return (SEGMENT_MAGIC + struct.pack("<I", kernels.crc32c(rest)) + rest).ljust(BLOCK_BYTES, b"\0")


def is_segment_header(kernels: Kernels, block: bytes, cluster_id: int, number: int) -> bool:
    return (
        len(block) >= _HEADER.size
        and block[: _HEADER.size] == segment_header(kernels, cluster_id, number)[: _HEADER.size]
    )


def block_floor(offset: int) -> int:
    return offset & -BLOCK_BYTES


def block_ceil(offset: int) -> int:
    return (offset + BLOCK_BYTES - 1) & -BLOCK_BYTES


class Journal:
    """The writing end. Answers what to write where; `Node` writes it and reports back with `written`."""

    def __init__(self, kernels: Kernels, config: NodeConfig, cluster_id: int, position: Position, tail: bytes) -> None:
        """`tail`: the bytes of position's block before it."""
        assert len(tail) == position.offset % BLOCK_BYTES
        self._kernels = kernels
        self._segment_bytes = config.segment_bytes
        self.cluster_id = cluster_id
        self.position = position  # of the next record, once what is flying has landed
        self.flying: Position | None = None  # position after the record in flight
        self.next_segment_ready = False
        self.records_written = 0
        self.bytes_written = 0
        self._staging = kernels.block_memory(2 * BLOCK_BYTES + RECORD_HEADER_BYTES, BLOCK_BYTES)
        self._staging[: len(tail)] = tail
        self._tail_at, self._tail_bytes = 0, len(tail)  # where in it the newest block stands, as far as it is written

    def room_bytes(self) -> int:
        """Bytes of entries that the next record can still bring into the current segment."""
        return self._segment_bytes - (self.flying or self.position).offset - 2 * RECORD_HEADER_BYTES

    def fits(self, entries_bytes: int) -> bool:
        return entries_bytes <= self.room_bytes()

    def roll(self) -> None:
        """Go on in the next segment, which must have been created with its header."""
        assert self.next_segment_ready and self.flying is None
        self.position = self.position.next_segment()
        self._tail_at = self._tail_bytes = 0
        self.next_segment_ready = False

    def append(self, entries: Sequence[Bytes], stamp_ns: int) -> JournalWrite:
        """Build the next record. Must fit; nothing else may be in flight."""
        assert self.flying is None, "one record in flight at a time: torn tails rely on it"
        body = 0
        for entry in entries:
            body += padded_bytes(entry)
        assert self.fits(body)
        at, lead = self.position, self._tail_bytes
        self._make_room(block_ceil(lead + RECORD_HEADER_BYTES + body + layout.UM_RECORD_ALIGN))
        view = self._staging
        length, chain = self._kernels.record(
            view, entries, layout.UM_RECORD_ENTRIES, at.seq + 1, at.chain, stamp_ns, lead, BLOCK_BYTES
        )
        end = lead + length
        self.flying = Position(at.segment, at.offset + length, at.seq + 1, chain)
        self._tail_at = block_floor(end)
        self._tail_bytes = end - self._tail_at
        self.records_written += 1
        self.bytes_written += length
        return JournalWrite(segment_file(at.segment), at.offset - lead, view[: block_ceil(end)].toreadonly())

    def _make_room(self, need_bytes: int) -> None:
        """Staging of so many bytes at least, which begins with what the newest block holds already."""
        old, at, size = self._staging, self._tail_at, self._tail_bytes
        if len(old) < need_bytes:
            self._staging = self._kernels.block_memory(2 * need_bytes, BLOCK_BYTES)
        elif at == 0:
            return
        self._staging[:size] = old[at : at + size]
        self._tail_at = 0

    def written(self) -> Position:
        """The record in flight is durable; returns where it began."""
        assert self.flying is not None
        began, self.position, self.flying = self.position, self.flying, None
        return began

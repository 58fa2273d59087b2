"""Checkpoints: the state written out, so that recovery starts there and not at the beginning of time.

    checkpoint/00000000000000000042.ckpt       the number is the journal record behind which replaying begins
    [ header block: magic, crc, msgpack (position in the journal, sections and their lengths) ]
    [ chunk | chunk | ... ]     each: crc32c u32, length u32, chunk number u64, then data; one disk write each
    [ footer block: magic, crc, number of chunks, number ]      written last: with it the checkpoint is complete

Sections, in order: `meta` (of every group its catalog, its archive index, its Raft; the marks of the log), and for each group
its state image. Replaying begins at the oldest entry that was durable and not applied. The image is frozen when the
checkpoint begins (the kernels copy on write), so the world goes on meanwhile. One chunk is written at a time, read from the
state in a moment in which nobody else is at it. The
journal is never deleted, so a checkpoint that is incomplete or unreadable costs time, never data: recovery takes
the one before, or the whole journal.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgpack

from unimeter.config import BLOCK_BYTES, NodeConfig
from unimeter.core.flow import CreateFile, DeleteFile, Flow, ReadFailed, ReadFile, Settled, WriteFile
from unimeter.core.group import Group
from unimeter.core.journal import Position, block_ceil
from unimeter.core.log_marks import LogMarks
from unimeter.core.replay import raft_section
from unimeter.kernels.api import Kernels

HEADER_MAGIC: Final = b"UMCKPT01"
FOOTER_MAGIC: Final = b"UMCKEND1"
VERSION: Final = 3  # that of the image of a state, too (csrc/kernels/checkpoint.c)
KEPT_MAX: Final = 2
_CHUNK: Final = struct.Struct("<IIQ")
_CRC: Final = struct.Struct("<I")
_BLOCK: Final = struct.Struct("<8sII")

Sink = Callable[[str, int, memoryview], None]  # a section's name, its length, its next bytes


class Unusable(Exception):
    """This checkpoint cannot be used: it is incomplete or damaged."""


class Header(NamedTuple):
    position: Position
    cluster_id: int
    sections: tuple[tuple[str, int], ...]  # name, bytes


def checkpoint_file(seq: int) -> str:
    return f"checkpoint/{seq:020d}.ckpt"


def checkpoint_number(file: str) -> int | None:
    stem = file.removeprefix("checkpoint/").removesuffix(".ckpt")
    return int(stem) if file == f"checkpoint/{stem}.ckpt" and stem.isdigit() else None


def _block(kernels: Kernels, magic: bytes, fields: dict[str, Any]) -> bytes:
    payload: bytes = msgpack.packb(fields)
    block = _BLOCK.pack(magic, kernels.crc32c(payload), len(payload)) + payload
    assert len(block) <= BLOCK_BYTES, "a checkpoint header must fit one block"
    return block.ljust(BLOCK_BYTES, b"\0")


def _unblock(kernels: Kernels, magic: bytes, block: bytes) -> dict[str, Any]:
    found, crc, length = _BLOCK.unpack_from(block.ljust(_BLOCK.size, b"\0"))
    payload = block[_BLOCK.size : _BLOCK.size + length]
    if found != magic or len(payload) != length or kernels.crc32c(payload) != crc:
        raise Unusable("its first or last block is missing or damaged")
    fields: dict[str, Any] = msgpack.unpackb(payload)
    return fields


class _Chunks:
    """Sections end to end, cut into chunks. All chunks have the same memory: one is durable before the next is begun."""

    def __init__(self, kernels: Kernels, file: str, chunk_bytes: int) -> None:
        self._kernels = kernels
        self._file = file
        self._memory = kernels.block_memory(block_ceil(chunk_bytes), BLOCK_BYTES)
        self._size = chunk_bytes
        self._used = _CHUNK.size
        self.number = 0  # of chunks taken
        self.offset = BLOCK_BYTES  # where the next one begins in the file

    @property
    def full(self) -> bool:
        return self._used == self._size

    @property
    def empty(self) -> bool:
        return self._used == _CHUNK.size

    @property
    def room(self) -> memoryview:
        """Where the next bytes belong; `fill` says how many they were."""
        return self._memory[self._used : self._size]

    def fill(self, count: int) -> None:
        self._used += count

    def put(self, data: memoryview) -> int:
        """Copy as many bytes as there is room for; returns how many."""
        count = min(len(data), self._size - self._used)
        self._memory[self._used : self._used + count] = data[:count]
        self._used += count
        return count

    def take(self) -> WriteFile:
        """Write the chunk; nothing may be put into the next one before that is done."""
        used, end = self._used, block_ceil(self._used)
        self._memory[used:end] = bytes(end - used)
        _CHUNK.pack_into(self._memory, 0, 0, used - _CHUNK.size, self.number)
        _CRC.pack_into(self._memory, 0, self._kernels.crc32c(self._memory[_CRC.size : used]))
        request = WriteFile(self._file, self.offset, self._memory[:end])
        self.offset += end
        self.number += 1
        self._used = _CHUNK.size
        return request


def write(
    kernels: Kernels,
    config: NodeConfig,
    cluster_id: int,
    position: Position,
    groups: list[Group],
    marks: LogMarks,
    useless: list[str],
    old: list[str],
) -> Flow[str]:
    """Write a checkpoint of the groups as they are now; `position`: from where on the journal is to be replayed. Before,
    delete the `useless` files (incomplete ones: they only take room); after, the `old` ones. Returns the new file's name;
    on NoSpace the caller calls abandon()."""
    described = [
        {
            "catalog": group.catalog.dump(),
            "archive": group.archive.dump(),
            "raft": raft_section(group),
            "cluster": group.cluster,
        }
        for group in groups
    ]
    meta: bytes = msgpack.packb({"groups": described, "marks": marks.dump()})
    sections: list[tuple[str, int]] = [("meta", len(meta))]
    sections += [(f"state:{group.number}", group.state.checkpoint_begin()) for group in groups]
    file = checkpoint_file(position.seq)
    for name in useless:
        yield DeleteFile(name)
    yield CreateFile(file, 0)
    fields = {
        "version": VERSION,
        "position": position.fields(),
        "cluster": cluster_id,
        "sections": [list(section) for section in sections],
        "chunk_bytes": config.checkpoint_chunk_bytes,
    }
    yield WriteFile(file, 0, _block(kernels, HEADER_MAGIC, fields))
    chunks = _Chunks(kernels, file, config.checkpoint_chunk_bytes)
    left = memoryview(meta)
    while left:
        count = chunks.put(left)  # on a line of its own: mypyc would call it twice within the slice
        left = left[count:]
        if chunks.full:
            yield chunks.take()
    for group, (name, length) in zip(groups, sections[1:], strict=True):
        while length:
            yield Settled(group.number)
            produced = group.state.checkpoint_read(chunks.room)
            assert 0 < produced <= length, f"section {name} has another length than was announced"
            chunks.fill(produced)
            length -= produced
            if chunks.full:
                yield chunks.take()
    if not chunks.empty:
        yield chunks.take()
    footer = _block(kernels, FOOTER_MAGIC, {"chunks": chunks.number, "seq": position.seq})
    yield WriteFile(file, chunks.offset, footer)
    for group in groups:
        yield Settled(group.number)
        group.state.checkpoint_end()
    for name in old:
        yield DeleteFile(name)
    return file


def abandon(groups: list[Group], position: Position) -> Flow[None]:
    """There was no room for the checkpoint: give back what it took."""
    for group in groups:
        yield Settled(group.number)
        group.state.checkpoint_end()
    yield DeleteFile(checkpoint_file(position.seq))


def read(kernels: Kernels, file: str, size_bytes: int, sink: Sink) -> Flow[Header]:
    """Verify a checkpoint from end to end, giving each section's bytes in order to sink(section, length, data).
    Raises Unusable (the sink may have been fed then: throw away what it built)."""
    try:
        if size_bytes % BLOCK_BYTES or size_bytes < 2 * BLOCK_BYTES:
            raise Unusable("it is incomplete")
        header = _unblock(kernels, HEADER_MAGIC, (yield ReadFile(file, 0, BLOCK_BYTES)))
        footer = _unblock(kernels, FOOTER_MAGIC, (yield ReadFile(file, size_bytes - BLOCK_BYTES, BLOCK_BYTES)))
        if header["version"] != VERSION:
            raise Unusable(f"written by format {header['version']}, this program reads {VERSION}")
        position = Position(*header["position"])
        if footer["seq"] != position.seq or checkpoint_number(file) != position.seq:
            raise Unusable("header, footer and file name belong to different checkpoints")
        sections = tuple((str(name), int(length)) for name, length in header["sections"])
        left = list(sections)
        missing = left[0][1] if left else 0
        offset = BLOCK_BYTES
        for number in range(footer["chunks"]):
            block = memoryview((yield ReadFile(file, offset, header["chunk_bytes"])))
            crc, length, found = _CHUNK.unpack_from(block) if len(block) >= _CHUNK.size else (0, 0, -1)
            if (
                found != number
                or len(block) < _CHUNK.size + length
                or kernels.crc32c(block[4 : _CHUNK.size + length]) != crc
            ):
                raise Unusable(f"chunk {number} at offset {offset} is damaged")
            offset += block_ceil(_CHUNK.size + length)
            data = block[_CHUNK.size : _CHUNK.size + length]
            while data and left:
                name, total = left[0]
                piece, data = data[:missing], data[missing:]
                sink(name, total, piece)
                missing -= len(piece)
                if missing == 0:
                    left.pop(0)
                    missing = left[0][1] if left else 0
        if left:
            raise Unusable("it ends too early")
        return Header(position, header["cluster"], sections)
    except ReadFailed as error:
        raise Unusable(f"cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, msgpack.UnpackException) as error:
        raise Unusable(f"malformed: {error}") from error

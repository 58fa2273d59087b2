"""Checkpoints: the state written out, so that recovery starts there and not at the beginning of time.

    checkpoint/00000000000000000042.ckpt       the number is the journal record behind which replaying begins
    [ header block: magic, crc, msgpack (position in the journal, sections and their lengths) ]
    [ chunk | chunk | ... ]     each: crc32c u32, length u32, chunk number u64, then data; one disk write each
    [ footer block: magic, crc, number of chunks, number ]      written last: with it the checkpoint is complete

Sections, in order: `meta` (of every group its catalog, its archive index, its Raft; the marks of the log), and for each group
its state image. Replaying begins at the oldest entry that was durable and not applied. The image is frozen when the
checkpoint begins (the kernels copy on write), so the world goes on meanwhile. One chunk is written at a time. The
journal is never deleted, so a checkpoint that is incomplete or unreadable costs time, never data: recovery takes
the one before, or the whole journal.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgpack

from unimeter.config import BLOCK_BYTES, NodeConfig
from unimeter.core.flow import CreateFile, DeleteFile, Flow, ReadFailed, ReadFile, WriteFile
from unimeter.core.group import Group
from unimeter.core.journal import Position, block_ceil
from unimeter.core.log_marks import LogMarks
from unimeter.core.replay import raft_section
from unimeter.kernels.api import Kernels

HEADER_MAGIC = b"UMCKPT01"
FOOTER_MAGIC = b"UMCKEND1"
VERSION = 2
KEPT_MAX = 2
_CHUNK = struct.Struct("<IIQ")
_BLOCK = struct.Struct("<8sII")

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
        raise Unusable("no valid block")
    fields: dict[str, Any] = msgpack.unpackb(payload)
    return fields


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
    parts: list[tuple[str, int, Iterator[bytes]]] = [("meta", len(meta), iter([meta]))]
    for group in groups:
        image = group.state.checkpoint_begin()
        parts.append((f"state:{group.number}", image, _image(group, config.checkpoint_chunk_bytes)))
    file = checkpoint_file(position.seq)
    for name in useless:
        yield DeleteFile(name)
    yield CreateFile(file, 0)
    fields = {
        "version": VERSION,
        "position": list(position),
        "cluster": cluster_id,
        "sections": [[n, s] for n, s, _ in parts],
        "chunk_bytes": config.checkpoint_chunk_bytes,
    }
    yield WriteFile(file, 0, _block(kernels, HEADER_MAGIC, fields))
    offset = BLOCK_BYTES
    number = 0
    for chunk in _chunks(parts, config.checkpoint_chunk_bytes - _CHUNK.size):
        rest = struct.pack("<IQ", len(chunk), number) + chunk
        data = struct.pack("<I", kernels.crc32c(rest)) + rest
        yield WriteFile(file, offset, data.ljust(block_ceil(len(data)), b"\0"))
        offset += block_ceil(len(data))
        number += 1
    yield WriteFile(file, offset, _block(kernels, FOOTER_MAGIC, {"chunks": number, "seq": position.seq}))
    end(groups)
    for name in old:
        yield DeleteFile(name)
    return file


def end(groups: list[Group]) -> None:
    for group in groups:
        group.settle()
        group.state.checkpoint_end()


def abandon(groups: list[Group], position: Position) -> Flow[None]:
    """There was no room for the checkpoint: give back what it took."""
    end(groups)
    yield DeleteFile(checkpoint_file(position.seq))


def _image(group: Group, step_bytes: int) -> Iterator[bytes]:
    while True:
        group.settle()
        chunk = group.state.checkpoint_read(step_bytes)
        if not chunk:
            return
        yield chunk


def _chunks(parts: list[tuple[str, int, Iterator[bytes]]], size: int) -> Iterator[bytes]:
    """The sections' bytes end to end, cut into pieces of `size`."""
    pending = bytearray()
    for name, length, pieces in parts:
        seen = 0
        for piece in pieces:
            seen += len(piece)
            pending += piece
            while len(pending) >= size:
                yield bytes(pending[:size])
                del pending[:size]
        assert seen == length, f"section {name} has {seen} bytes, {length} were announced"
    if pending:
        yield bytes(pending)


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

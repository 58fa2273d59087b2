"""Reading journal segments record by record: what recovery and audits share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from unimeter.config import BLOCK_BYTES, NodeConfig
from unimeter.core.flow import Flow, ReadFile
from unimeter.core.journal import Position, block_ceil, block_floor, segment_file
from unimeter.kernels import layout
from unimeter.kernels.api import Kernels

Sink = Callable[[Position, bytes], None]  # where a record begins, and the record


def read_records(
    kernels: Kernels, config: NodeConfig, at: Position, size_bytes: int, sink: Sink
) -> Flow[tuple[Position, int]]:
    """Give every readable record of a segment from `at` on to the sink. Returns (where they end, UM_J_* reason)."""
    read_at = block_floor(at.offset)
    skip = at.offset - read_at
    step = config.recovery_read_bytes
    pending = b""
    stop = layout.UM_J_END
    while read_at < size_bytes:
        data = yield ReadFile(segment_file(at.segment), read_at, min(step, block_ceil(size_bytes - read_at)))
        if not data:
            break
        read_at += len(data)
        pending += data[skip:]
        skip = 0
        scan = kernels.journal_verify(pending, at.seq, at.chain)
        for begin, finish in pairwise([*scan.offsets, scan.consumed]):
            record = pending[begin:finish]
            sink(at, record)
            chain = layout.RecordHead._make(layout.RECORD.unpack_from(record)).chain
            at = Position(at.segment, at.offset + len(record), at.seq + 1, chain)
        pending = pending[scan.consumed :]
        stop = scan.stop
        if stop != layout.UM_J_END:
            break
        # a record longer than one read: read more at once rather than verify it again and again
        step = max(config.recovery_read_bytes, block_ceil(len(pending)))
    return at, stop


def find_later(kernels: Kernels, config: NodeConfig, segment: int, size_bytes: int, at: Position) -> Flow[int | None]:
    """Offset in `segment` of a valid record with a sequence number above at.seq, standing behind `at`: proof that what
    should stand at `at` was once durable. The header at `at` itself does not count: a torn record is not "later"."""
    begin = at.offset + layout.RECORD.size if segment == at.segment else BLOCK_BYTES
    offset = block_floor(begin)
    while offset < size_bytes:
        data = yield ReadFile(segment_file(segment), offset, config.recovery_read_bytes)
        if not data:
            return None
        skip = max(0, begin - offset)
        found = kernels.journal_find_later(data[skip:], at.seq)
        if found >= 0:
            return offset + skip + found
        offset += len(data)
    return None

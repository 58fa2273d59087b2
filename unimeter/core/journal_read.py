"""Reading journal segments record by record: what recovery and audits share.

Nothing is copied: a record is a view of what was read. A record that a read cut off is read again from its beginning,
which costs a little reading and spares moving everything that came before it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from unimeter.config import BLOCK_BYTES, NodeConfig
from unimeter.core.flow import Flow, ReadFile
from unimeter.core.journal import Position, block_ceil, block_floor, segment_file
from unimeter.kernels import layout
from unimeter.kernels.api import Kernels

Sink = Callable[[Position, memoryview], None]  # where a record begins, and the record


def read_records(
    kernels: Kernels, config: NodeConfig, at: Position, size_bytes: int, sink: Sink
) -> Flow[tuple[Position, int]]:
    """Give every readable record of a segment from `at` on to the sink. Returns (where they end, UM_J_* reason)."""
    step = config.recovery_read_bytes
    while True:
        start = block_floor(at.offset)
        length = min(step, block_ceil(size_bytes) - start)
        data = (yield ReadFile(segment_file(at.segment), start, length)) if length > 0 else b""
        records = memoryview(data)[at.offset - start :]
        scan = kernels.journal_verify(records, at.seq, at.chain)
        for begin, finish in pairwise([*scan.offsets, scan.consumed]):
            record = records[begin:finish]
            sink(at, record)
            chain = layout.RecordHead._make(layout.RECORD.unpack_from(record)).chain
            at = Position(at.segment, at.offset + len(record), at.seq + 1, chain)
        if scan.stop != layout.UM_J_END or len(data) < length or start + length >= size_bytes:
            return at, scan.stop
        step = config.recovery_read_bytes if scan.offsets else 2 * step  # a record longer than one read


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

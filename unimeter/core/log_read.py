"""Reading a group's entries back from the journal, for a follower that lacks them and nobody has them in memory.

The journal is never deleted, so this is also how a new replica is brought up: from the first entry on. It is resumable by
its nature: whoever was interrupted asks for the entry after its last.

The index of marks may point too far back, never too far ahead. Of the entries of one group, those are wanted whose term is the one that the log has at their index: others were
superseded.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from unimeter.config import NodeConfig
from unimeter.core.entry import head_of, raft_entry
from unimeter.core.flow import Corrupt, Flow, ReadFile
from unimeter.core.journal import Position, block_ceil, block_floor, segment_file
from unimeter.core.raft.messages import Entry
from unimeter.kernels import layout
from unimeter.kernels.api import Kernels


def read_entries(
    kernels: Kernels,
    config: NodeConfig,
    at: Position,
    end_seq: int,
    group: int,
    first: int,
    bytes_max: int,
    term_of: Callable[[int], int],
) -> Flow[tuple[list[Entry], Position]]:
    """Entries of `group` from index `first` on, at most about bytes_max (one at least, if it is there), read from `at`
    up to record `end_seq`. Returns them and where to go on. Raises Corrupt or ReadFailed (through the yield)."""
    found: list[Entry] = []
    size = 0
    step = config.scan_read_bytes
    broken: Position | None = None  # where the segment before could not be read on: its end, if this one continues it
    while at.seq < end_seq and size < bytes_max:
        start = block_floor(at.offset)
        length = min(step, config.segment_bytes - start)
        data = b""
        if length > 0:
            data = yield ReadFile(segment_file(at.segment), start, block_ceil(length))
        records = memoryview(data)[at.offset - start :]
        scan = kernels.journal_verify(records, at.seq, at.chain)
        for begin, finish in pairwise([*scan.offsets, scan.consumed]):
            record = records[begin:finish]
            for data_of, head in ((entry, head_of(entry)) for entry in kernels.record_entries(record)):
                wanted = first + len(found)
                if head.group != group or head.kind == layout.UM_ENTRY_HARD or head.index != wanted:
                    continue
                if head.term == term_of(wanted):
                    if size >= bytes_max:
                        return found, at  # go on in the middle of this record
                    found.append(raft_entry(bytes(data_of), head))
                    size += len(data_of)
            chain = layout.RecordHead._make(layout.RECORD.unpack_from(record)).chain
            at = Position(at.segment, at.offset + len(record), at.seq + 1, chain)
            if size >= bytes_max or at.seq >= end_seq:
                break
        if scan.offsets:
            step, broken = config.scan_read_bytes, None
        elif scan.stop == layout.UM_J_END and start + length < config.segment_bytes:
            step *= 2  # a record longer than one read
        elif broken is not None:
            raise Corrupt(
                f"file {segment_file(broken.segment)}, offset {broken.offset}: the journal cannot be read there"
            )
        else:
            broken = at if scan.stop == layout.UM_J_BAD else None
            at = at.next_segment()  # the next record did not fit here
    return found, at

"""The kernels in plain Python: the oracle that the C kernels must equal, byte for byte.

What it computes is written down once more here, with lists for regions and dictionaries for lookups, so that
every claim of the C can be read, and tested, without pointers. One module per noun; clarity before speed, though
the simulator runs on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from unimeter.kernels.api import (
    Applied,
    Bytes,
    Catalog,
    FrameTable,
    GroupState,
    Intake,
    JournalScan,
    Limits,
    Splitter,
    StateLoader,
)
from unimeter.kernels.reference import checksum, frames, journal, periods
from unimeter.kernels.reference.apply import ReferenceApplied
from unimeter.kernels.reference.catalog import ReferenceCatalog
from unimeter.kernels.reference.group_state import ReferenceGroupState, ReferenceStateLoader
from unimeter.kernels.reference.intake import ReferenceIntake
from unimeter.kernels.reference.splitter import ReferenceSplitter
from unimeter.kernels.reference.state import State


class ReferenceKernels:
    """api.Kernels, by delegation."""

    name = "reference"

    def block_memory(self, size: int, _block_bytes: int) -> memoryview:
        return memoryview(bytearray(size))

    def crc32c(self, data: Bytes, crc: int = 0) -> int:
        return checksum.crc32c(data, crc)

    def hash64(self, data: Bytes, seed: int = 0) -> int:
        return checksum.hash64(data, seed)

    def hash128(self, data: Bytes, seed: int = 0) -> int:
        return checksum.hash128(data, seed)

    def frame_scan(self, data: Bytes, payload_max: int) -> FrameTable:
        return frames.frame_scan(data, payload_max)

    def v2_head(self, type_: int, status: int, request_id: int, payload: Bytes) -> bytes:
        return frames.v2_head(type_, status, request_id, payload)

    def response_scan(self, data: Bytes, protocol: int, payload_max: int) -> FrameTable:
        return frames.response_scan(data, protocol, payload_max)

    def catalog(self, metrics: Sequence[bytes]) -> Catalog:
        return ReferenceCatalog(metrics)

    def intake(self, group: int, bytes_max: int, batch_events_max: int) -> Intake:
        return ReferenceIntake(group, bytes_max, batch_events_max)

    def splitter(self, group_count: int) -> Splitter:
        return ReferenceSplitter(group_count)

    def remote_applied(self, data: Bytes, batch_count: int, row_count: int, stamp_ns: int) -> Applied:
        return ReferenceApplied.remote(data, batch_count, row_count, stamp_ns)

    def entry(self, kind: int, group: int, index: int, term: int, stamp_ns: int, first_seq: int, body: Bytes) -> bytes:
        return journal.build_entry(kind, group, index, term, stamp_ns, first_seq, body)

    def entry_verify(self, entry: Bytes) -> bool:
        return journal.entry_verify(entry)

    def record(
        self,
        out: memoryview,
        entries: Sequence[Bytes],
        kind: int,
        seq: int,
        prev_chain: int,
        stamp_ns: int,
        at: int = 0,
        block_bytes: int = 1,
    ) -> tuple[int, int]:
        return journal.seal_record(out, entries, kind, seq, prev_chain, stamp_ns, at, block_bytes)

    def journal_verify(self, data: Bytes, seq: int, chain: int) -> JournalScan:
        return journal.journal_verify(data, seq, chain)

    def journal_find_later(self, data: Bytes, seq: int) -> int:
        return journal.journal_find_later(data, seq)

    def record_entries(self, record: Bytes) -> list[memoryview]:
        return journal.record_entries(record)

    def state(self, limits: Limits) -> GroupState:
        return ReferenceGroupState(State(limits))

    def state_loader(self, image_bytes: int) -> StateLoader:
        return ReferenceStateLoader(image_bytes)

    def period_bounds(self, period_type: int, billing_day: int, timestamp_ns: int) -> tuple[int, int]:
        return periods.period_bounds(period_type, billing_day, timestamp_ns)

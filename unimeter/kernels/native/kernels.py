"""All kernels in C as one object (api.Kernels): a module of its own, so that it is compiled."""

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
from unimeter.kernels.native import journal, wire
from unimeter.kernels.native import state as group_state
from unimeter.kernels.native.applied import NativeApplied
from unimeter.kernels.native.intake import NativeIntake
from unimeter.kernels.native.splitter import NativeSplitter
from unimeter.kernels.native.state import NativeGroupState, NativeStateLoader


class NativeKernels:
    """api.Kernels, by delegation."""

    name = "native"

    def block_memory(self, size: int, block_bytes: int) -> memoryview:
        return journal.block_memory(size, block_bytes)

    def crc32c(self, data: Bytes, crc: int = 0) -> int:
        return journal.crc32c(data, crc)

    def hash64(self, data: Bytes, seed: int = 0) -> int:
        return journal.hash64(data, seed)

    def hash128(self, data: Bytes, seed: int = 0) -> int:
        return journal.hash128(data, seed)

    def frame_scan(self, data: Bytes, payload_max: int) -> FrameTable:
        return wire.frame_scan(data, payload_max)

    def v2_head(self, type_: int, status: int, request_id: int, payload: Bytes) -> bytes:
        return wire.v2_head(type_, status, request_id, payload)

    def response_scan(self, data: Bytes, protocol: int, payload_max: int) -> FrameTable:
        return wire.response_scan(data, protocol, payload_max)

    def catalog(self, metrics: Sequence[bytes]) -> Catalog:
        return wire.NativeCatalog(metrics)

    def intake(self, group: int, bytes_max: int, batch_events_max: int) -> Intake:
        return NativeIntake(group, bytes_max, batch_events_max)

    def splitter(self, group_count: int) -> Splitter:
        return NativeSplitter(group_count)

    def remote_applied(self, data: Bytes, batch_count: int, row_count: int, stamp_ns: int) -> Applied:
        return NativeApplied.remote(data, batch_count, row_count, stamp_ns)

    def entry(self, kind: int, group: int, index: int, term: int, stamp_ns: int, first_seq: int, body: Bytes) -> bytes:
        return journal.entry(kind, group, index, term, stamp_ns, first_seq, body)

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
        return journal.record(out, entries, kind, seq, prev_chain, stamp_ns, at, block_bytes)

    def journal_verify(self, data: Bytes, seq: int, chain: int) -> JournalScan:
        return journal.journal_verify(data, seq, chain)

    def journal_find_later(self, data: Bytes, seq: int) -> int:
        return journal.journal_find_later(data, seq)

    def record_entries(self, record: Bytes) -> list[memoryview]:
        return journal.record_entries(record)

    def state(self, limits: Limits) -> GroupState:
        return NativeGroupState(limits)

    def state_loader(self, image_bytes: int) -> StateLoader:
        return NativeStateLoader(image_bytes)

    def period_bounds(self, period_type: int, billing_day: int, timestamp_ns: int) -> tuple[int, int]:
        return group_state.period_bounds(period_type, billing_day, timestamp_ns)

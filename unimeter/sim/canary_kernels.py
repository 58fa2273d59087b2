"""Planted bugs in the kernels: what they are given is changed, or what they answer."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from unimeter.kernels.api import Bytes, Catalog, FrameTable, QuerySpec
from unimeter.kernels.frame import Reply
from unimeter.sim import wire1, wire2
from unimeter.sim.canary_registry import canary
from unimeter.sim.wrapped import WrappedIntake, WrappedKernels, WrappedState

if TYPE_CHECKING:
    from unimeter.sim.runner import Run

THRESHOLD_ACTIVE_OFFSET: Final = 600  # of the first threshold in um_metric


def _kernels(run: Run) -> WrappedKernels:
    """Give the run's nodes wrapped kernels."""
    wrapped = WrappedKernels(run.kernels)
    for host in run.cluster.hosts:
        host.setup = replace(host.setup, kernels=wrapped)
    return wrapped


@canary
def takes_rot_for_a_torn_tail(run: Run) -> None:
    """Recovery never looks for later records behind one that it cannot read."""
    kernels = _kernels(run)
    kernels.journal_find_later = lambda data, seq: -1


@canary
def forgets_sessions(run: Run) -> None:
    """After a restart, batches of a session are taken as if they had none."""

    def rewrite(data: bytearray, frames: FrameTable) -> None:
        if run.cluster.hosts[0].incarnations < 2:
            return
        for frame in frames:  # type: ignore[attr-defined]
            if frame.protocol == 2 and frame.type == wire2.INGEST and frame.payload_len >= 48:
                (flags,) = struct.unpack_from("<H", data, frame.payload_off + 38)
                if not flags:
                    data[frame.payload_off : frame.payload_off + 32] = bytes(32)

    _rewriting(run, rewrite)


@canary
def alters_a_value(run: Run) -> None:
    """The first value of some v1 requests loses a bit on its way in."""

    def rewrite(data: bytearray, frames: FrameTable) -> None:
        for frame in frames:  # type: ignore[attr-defined]
            if (
                frame.protocol == 1
                and frame.type in (wire1.INGEST_SYNC, wire1.INGEST_ASYNC)
                and frame.payload_len >= 104
            ):
                data[frame.payload_off + 8 + 80] ^= 1

    _rewriting(run, rewrite)


def _rewriting(run: Run, rewrite: Callable[[bytearray, FrameTable], None]) -> None:
    kernels = _kernels(run)

    class Rewriting(WrappedIntake):
        def take(self, catalog: Catalog, data: Bytes, frames: FrameTable, first: int, link: int) -> tuple[int, int]:
            changed = bytearray(data)
            rewrite(changed, frames)
            taken: tuple[int, int] = self.inner.take(catalog, bytes(changed), frames, first, link)
            return taken

    kernels.wrap_intake = Rewriting


@canary
def believes_anything(run: Run) -> None:
    """Checksums of frames are not looked at."""
    kernels = _kernels(run)

    def frame_scan(data: Bytes, payload_max: int) -> FrameTable:
        fixed = bytearray(data)
        if len(fixed) >= 32 and struct.unpack_from("<I", fixed)[0] == wire2.MAGIC:
            (length,) = struct.unpack_from("<I", fixed, 8)
            struct.pack_into("<I", fixed, 24, kernels.inner.crc32c(bytes(fixed[32 : 32 + length])))
            struct.pack_into("<I", fixed, 28, kernels.inner.crc32c(bytes(fixed[:28])))
        table: FrameTable = kernels.inner.frame_scan(bytes(fixed), payload_max)
        return table

    kernels.frame_scan = frame_scan


@canary
def skips_an_entry_in_recovery(run: Run) -> None:
    """Recovery leaves out one entry of the journal."""
    kernels = _kernels(run)

    class Nothing:
        batch_count = row_count = alerts_before = alerts_after = max_ts = digest = 0
        min_ts = 1

    class Skipping(WrappedState):
        count = 0

        def apply(self, catalog: Catalog, entry: Bytes) -> Any:
            node = run.cluster.hosts[0].node
            if node is not None and not node.ready:
                self.count += 1
                if self.count == 5:
                    return Nothing()
            return self.inner.apply(catalog, entry)

    kernels.wrap_state = Skipping


@canary
def cannot_load_what_it_saved(run: Run) -> None:
    """A start takes every checkpoint for damaged, and reads the whole journal."""

    def refuse(_: int) -> Any:
        raise ValueError("not a state")

    vars(_kernels(run))["state_loader"] = refuse


@canary
def drops_a_threshold(run: Run) -> None:
    """The kernels do not see the first threshold of a metric."""
    kernels = _kernels(run)

    def catalog(metrics: Any) -> Catalog:
        packed = [bytearray(metric) for metric in metrics]
        for metric in packed:
            metric[THRESHOLD_ACTIVE_OFFSET] = 0
        compiled: Catalog = kernels.inner.catalog([bytes(metric) for metric in packed])
        return compiled

    kernels.catalog = catalog


@canary
def loses_the_last_instant(run: Run) -> None:
    """Ranges end one nanosecond early."""
    kernels = _kernels(run)

    class Short(WrappedState):
        def query(self, catalog: Catalog, spec: QuerySpec, groups_max: int, group: int = 0) -> Any:
            return self.inner.query(catalog, spec._replace(end=max(spec.start, spec.end - 1)), groups_max, group)

    kernels.wrap_state = Short


@canary
def answers_from_the_past(run: Run) -> None:
    """A question that was asked before gets the answer that it got then."""
    kernels = _kernels(run)

    class Remembered:
        needs_scan = False

        def __init__(self, rows: Any) -> None:
            self._rows = rows

        def rows(self) -> Any:
            return self._rows

    class Lazy(WrappedState):
        def __init__(self, inner: Any) -> None:
            super().__init__(inner)
            self.known: dict[QuerySpec, Any] = {}

        def query(self, catalog: Catalog, spec: QuerySpec, groups_max: int, group: int = 0) -> Any:
            if spec in self.known:
                return Remembered(self.known[spec])
            query = self.inner.query(catalog, spec, groups_max, group)
            if query.needs_scan:
                return query
            rows = self.known[spec] = query.rows()
            return Remembered(rows)

    kernels.wrap_state = Lazy


@canary
def lists_leave_out_an_event(run: Run) -> None:
    """Every other stretch of an event list lacks its last event."""
    kernels = _kernels(run)

    class Sloppy:
        count = 0

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def scan(self, records: Bytes, limit: int, *rows: int) -> Any:
            found = self.inner.scan(records, limit, *rows)
            Sloppy.count += 1
            return found[:-1] if Sloppy.count % 2 else found

    class Lists(WrappedState):
        def events(self, *args: Any) -> Any:
            return Sloppy(self.inner.events(*args))

    Sloppy.count = 0
    kernels.wrap_state = Lists


@canary
def calls_events_duplicates(run: Run) -> None:
    """Some answers call a stored event a duplicate."""
    kernels = _kernels(run)

    class Modest(WrappedIntake):
        def answers(self, applied: Any) -> list[Reply]:
            return [Reply(reply.link, self._modest(bytes(reply.data))) for reply in self.inner.answers(applied)]

        def _modest(self, data: bytes) -> bytes:
            if len(data) < 64 or struct.unpack_from("<I", data)[0] != wire2.MAGIC or data[5] != wire2.INGEST or data[6]:
                return data
            changed = bytearray(data)
            stored, duplicates = struct.unpack_from("<II", changed, 32)
            (exceptions,) = struct.unpack_from("<I", changed, 60)
            if not stored or exceptions:
                return data
            struct.pack_into("<II", changed, 32, stored - 1, duplicates + 1)
            (length,) = struct.unpack_from("<I", changed, 8)
            struct.pack_into("<I", changed, 24, kernels.inner.crc32c(bytes(changed[32 : 32 + length])))
            struct.pack_into("<I", changed, 28, kernels.inner.crc32c(bytes(changed[:28])))
            return bytes(changed)

    kernels.wrap_intake = Modest

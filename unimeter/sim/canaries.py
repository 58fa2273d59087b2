"""Planted bugs: `unimeter sim --canary NAME` must fail, or the simulator is blind.

Each invariant names the canary that it must catch. A canary changes the simulated process, never the checks: it
wraps the kernels that the node is given, its disk or its network, or the node itself.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from unimeter.core.effects import Delete, Effect, Halt, Write
from unimeter.core.inputs import Input, Now, WriteDone
from unimeter.kernels.api import Bytes, Catalog, FrameTable, QuerySpec, Reply
from unimeter.sim import wire1, wire2
from unimeter.sim.wrapped import WrappedIntake, WrappedKernels, WrappedState

if TYPE_CHECKING:
    from unimeter.sim.disk import DiskPort, Operation
    from unimeter.sim.host import Host
    from unimeter.sim.runner import Run

CANARIES: dict[str, Callable[[Run], None]] = {}
THRESHOLD_ACTIVE_OFFSET = 600  # of the first threshold in um_metric


def canary(plant_it: Callable[[Run], None]) -> Callable[[Run], None]:
    CANARIES[plant_it.__name__] = plant_it
    return plant_it


def plant(name: str | None, run: Run) -> None:
    if name is not None:
        CANARIES[name](run)


def _kernels(run: Run) -> WrappedKernels:
    """Give the run's nodes wrapped kernels."""
    wrapped = WrappedKernels(run.kernels)
    for host in run.hosts:
        host.setup = replace(host.setup, kernels=wrapped)
    return wrapped


# ---- the disk ----


@canary
def acknowledges_before_durable(run: Run) -> None:
    """A journal write is reported done as soon as it is submitted."""
    for host in run.hosts:
        _early(run, host)


def _early(run: Run, host: Host) -> None:
    submit = host.disk.submit

    def eager(port: DiskPort, effect: Operation) -> None:
        if isinstance(effect, Write) and not effect.bulk:
            submit(_Mute(port), effect._replace(data=bytes(effect.data)))  # type: ignore[arg-type]
            run.world.after(0, port.complete, WriteDone(effect.op))
        else:
            submit(port, effect)

    crash = host.disk.crash

    def forgetful(kind: str) -> None:
        host.disk.pending = [pending for pending in host.disk.pending if not isinstance(pending.port, _Mute)]
        crash(kind)

    host.disk.submit = eager  # type: ignore[method-assign]
    host.disk.crash = forgetful  # type: ignore[method-assign]
    host.disk.sees_all = True  # as a page cache: what is not durable yet can be read all the same


class _Mute:
    def __init__(self, port: DiskPort) -> None:
        self.port = port

    def complete(self, _: object) -> None:
        return None


@canary
def loses_a_completion(run: Run) -> None:
    """Every thirtieth journal write is never reported done."""
    for host in run.hosts:
        _lossy(host)


def _lossy(host: Host) -> None:
    submit, count = host.disk.submit, 0

    def forgetful(port: DiskPort, effect: Operation) -> None:
        nonlocal count
        if isinstance(effect, Write) and not effect.bulk:
            count += 1
            submit(_Mute(port) if count % 30 == 0 else port, effect)  # type: ignore[arg-type]
        else:
            submit(port, effect)

    host.disk.submit = forgetful  # type: ignore[method-assign]


@canary
def keeps_every_checkpoint(run: Run) -> None:
    """Old checkpoints are reported deleted and stay."""
    for host in run.hosts:
        _hoarding(run, host)


def _hoarding(run: Run, host: Host) -> None:
    submit = host.disk.submit

    def hoard(port: DiskPort, effect: Operation) -> None:
        if isinstance(effect, Delete):
            run.world.after(0, port.complete, WriteDone(effect.op))
        else:
            submit(port, effect)

    host.disk.submit = hoard  # type: ignore[method-assign]


@canary
def takes_rot_for_a_torn_tail(run: Run) -> None:
    """Recovery never looks for later records behind one that it cannot read."""
    kernels = _kernels(run)
    kernels.journal_find_later = lambda data, seq: -1


# ---- what goes in ----


@canary
def forgets_sessions(run: Run) -> None:
    """After a restart, batches of a session are taken as if they had none."""

    def rewrite(data: bytearray, frames: FrameTable) -> None:
        if run.host.incarnations < 2:
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


# ---- what happens inside ----


@canary
def skips_an_entry_in_recovery(run: Run) -> None:
    """Recovery leaves out one entry of the journal."""
    kernels = _kernels(run)

    class Nothing:
        batch_count = row_count = alerts_before = alerts_after = max_ts = 0
        min_ts = 1

    class Skipping(WrappedState):
        count = 0

        def apply(self, catalog: Catalog, entry: Bytes) -> Any:
            node = run.host.node
            if node is not None and not node.ready:
                self.count += 1
                if self.count == 5:
                    return Nothing()
            return self.inner.apply(catalog, entry)

    kernels.wrap_state = Skipping


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
def stops_without_a_reason(run: Run) -> None:
    """A process stops after four hundred steps."""
    for host in run.hosts:
        _tired(host)


def _tired(host: Host) -> None:
    make = host.make_node

    def make_tired(setup: Any) -> Any:
        node = make(setup)
        step, count = node.step, 0

        def tired(now: Now, event: Input) -> list[Effect]:
            nonlocal count
            count += 1
            if count == 400:
                node.halted = True
                return [Halt("tired")]
            effects: list[Effect] = step(now, event)
            return effects

        node.step = tired
        return node

    host.make_node = make_tired


# ---- what comes out ----


@canary
def loses_the_last_instant(run: Run) -> None:
    """Ranges end one nanosecond early."""
    kernels = _kernels(run)

    class Short(WrappedState):
        def query(self, catalog: Catalog, spec: QuerySpec, groups_max: int) -> Any:
            return self.inner.query(catalog, spec._replace(end=max(spec.start, spec.end - 1)), groups_max)

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

        def query(self, catalog: Catalog, spec: QuerySpec, groups_max: int) -> Any:
            if spec in self.known:
                return Remembered(self.known[spec])
            query = self.inner.query(catalog, spec, groups_max)
            if query.needs_scan:
                return query
            rows = self.known[spec] = query.rows()
            return Remembered(rows)

    kernels.wrap_state = Lazy


@canary
def forgets_how_far_it_was(run: Run) -> None:
    """Some answers name an earlier place in the log than they reflect."""
    for host in run.hosts:
        _backward(host)


def _backward(host: Host) -> None:
    make = host.make_node

    def make_backward(setup: Any) -> Any:
        node = make(setup)
        finish, count = node._recovered, 0

        def recovered(found: Any) -> None:
            finish(found)
            usage = node.reads[0].usage

            def backward(spec: Any, answer: Any, fail: Any) -> Any:
                def lower(found_answer: Any) -> None:
                    nonlocal count
                    count += 1
                    found_answer.index -= 5 * (count % 4 == 0)
                    answer(found_answer)

                return usage(spec, lower, fail)

            node.reads[0].usage = backward

        node._recovered = recovered
        return node

    host.make_node = make_backward


@canary
def lists_leave_out_an_event(run: Run) -> None:
    """Every other stretch of an event list lacks its last event."""
    kernels = _kernels(run)

    class Sloppy:
        count = 0

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def scan(self, records: Bytes, limit: int) -> Any:
            found = self.inner.scan(records, limit)
            Sloppy.count += 1
            return found[:-1] if Sloppy.count % 2 else found

    class Lists(WrappedState):
        def events(self, *args: Any) -> Any:
            return Sloppy(self.inner.events(*args))

    Sloppy.count = 0
    kernels.wrap_state = Lists


@canary
def forgets_a_definition(run: Run) -> None:
    """A restart from a checkpoint forgets what was changed last in one metric."""
    for host in run.hosts:
        _without_dimensions(host)


def _without_dimensions(host: Host) -> None:
    make = host.make_node

    def make_forgetful(setup: Any) -> Any:
        node = make(setup)
        finish = node._recovered

        def recovered(found: Any) -> None:
            finish(found)
            catalog = node.groups[0].catalog
            if catalog.metrics and found.checkpoints:
                last = catalog.metrics[0]
                catalog.metrics[0] = replace(last, definition=replace(last.definition, thresholds=()))
                catalog._rebuild()

        node._recovered = recovered
        return node

    host.make_node = make_forgetful


@canary
def pushes_get_lost(run: Run) -> None:
    """Every tenth alert is not pushed."""
    send, count = run.network.send, 0

    def leaky(end: Any, data: Bytes) -> None:
        nonlocal count
        if end.link % 2 == 0 and len(data) > 6 and data[5] == wire2.ALERT_PUSH:
            count += 1
            if count % 10 == 0:
                return
        send(end, data)

    run.network.send = leaky  # type: ignore[method-assign]


@canary
def answers_twice(run: Run) -> None:
    """Every fiftieth send of a node is sent twice."""
    send, count = run.network.send, 0

    def stutter(end: Any, data: Bytes) -> None:
        nonlocal count
        send(end, data)
        if end.link % 2 == 0:  # the node's side
            count += 1
            if count % 50 == 0:
                send(end, data)

    run.network.send = stutter  # type: ignore[method-assign]


@canary
def calls_events_duplicates(run: Run) -> None:
    """Some answers call a stored event a duplicate."""
    kernels = _kernels(run)

    class Modest(WrappedIntake):
        def answers(self, applied: Any) -> list[Reply]:
            return [Reply(link, self._modest(bytes(data))) for link, data in self.inner.answers(applied)]

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

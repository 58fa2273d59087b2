"""A node with a plain in-memory disk and hand-driven time: for tests of the core that want to see every step."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from unimeter import kernels
from unimeter.config import MIB, NodeConfig, state_limits
from unimeter.core.effects import Apply, Close, Create, Delete, Effect, Halt, Read, Send, Touch, Write
from unimeter.core.inputs import (
    ApplyDone,
    Booted,
    DiskError,
    FileInfo,
    FramesArrived,
    Input,
    LinkOpened,
    Now,
    ReadDone,
    TimePassed,
    WriteDone,
)
from unimeter.core.node import Node
from unimeter.core.upkeep import NEVER_NS
from unimeter.kernels import protocol as wire
from unimeter.kernels.api import Limits

SMALL = NodeConfig(
    frame_bytes_max=64 * 1024,
    entry_bytes_max=256 * 1024,
    segment_bytes=1 * MIB,
    stripe_bytes=4096,
    checkpoint_after_bytes=256 * MIB,
    checkpoint_chunk_bytes=16 * 1024,
    recovery_read_bytes=64 * 1024,
    scan_read_bytes=16 * 1024,
)
LIMITS = state_limits(64 * MIB)
JAN_1 = 1_767_225_600_000_000_000  # 2026-01-01 00:00 UTC, ns


@dataclass
class Bench:
    """A node, its files, and what it sent. Disk operations wait until `disk()` lets them happen."""

    files: dict[str, bytearray] = field(default_factory=dict)
    config: NodeConfig = SMALL
    limits: Limits = LIMITS
    now_ns: int = 0
    wall_ns: int = JAN_1

    def __post_init__(self) -> None:
        self.kernels = kernels.load()
        self.node = Node(self.config, self.kernels, self.limits, seed=7)
        self.sent: dict[int, bytes] = {}
        self.closed: list[int] = []
        self.pending: list[Write | Create | Delete | Read] = []
        self.halted: Halt | None = None
        self.full = False
        self.step(Booted(tuple(FileInfo(name, len(data)) for name, data in sorted(self.files.items()))))

    def step(self, event: Input) -> None:
        self.now_ns += 1000
        self.wall_ns += 1000
        for effect in self.node.step(Now(self.now_ns, self.wall_ns), event):
            self._take(effect)

    def _take(self, effect: Effect) -> None:
        if isinstance(effect, Send):
            self.sent[effect.link] = self.sent.get(effect.link, b"") + bytes(effect.data)
        elif isinstance(effect, Close):
            self.closed.append(effect.link)
        elif isinstance(effect, Halt):
            self.halted = effect
        elif not isinstance(effect, Touch):
            self.pending.append(effect)

    def disk(self, count: int = 1_000_000) -> None:
        """Let up to `count` waiting operations happen, and the turns in between. Nothing else comes meanwhile."""
        while self.halted is None and count:
            self.turn()
            if not self.pending and not self.no_more():
                return
            if self.pending:
                count -= 1
                self._do(self.pending.pop(0))

    def no_more(self) -> bool:
        """Nothing else comes: what was held back for more goes. False: nothing was."""
        until_ns = 0 if self.node.serving is None else self.node.serving.records.held_back_until_ns
        self.now_ns = max(self.now_ns, until_ns)
        self.turn()
        return until_ns != 0

    def turn(self) -> None:
        for _ in range(100):
            if self.halted or self.node.deadline_ns == NEVER_NS or self.node.deadline_ns > self.now_ns + 1000:
                return
            self.step(TimePassed())

    def _do(self, effect: Write | Create | Delete | Read | Apply) -> None:
        error = None
        if isinstance(effect, Apply):
            self.step(ApplyDone(effect.op))
            return
        if isinstance(effect, Read):
            data = bytes(self.files.get(effect.file, b"")[effect.offset : effect.offset + effect.length])
            self.step(ReadDone(effect.op, data))
            return
        if isinstance(effect, Create):
            if self.full:
                error = DiskError.NO_SPACE
            else:
                self.files[effect.file] = bytearray(effect.size_bytes)
        elif isinstance(effect, Delete):
            self.files.pop(effect.file, None)
        else:
            content = self.files[effect.file]
            end = effect.offset + len(effect.data)
            if end > len(content):
                content.extend(bytes(end - len(content)))
            content[effect.offset : end] = effect.data
        self.step(WriteDone(effect.op, error))

    # ---- clients ----

    def link(self, number: int = 1) -> int:
        self.step(LinkOpened(number, "test"))
        return number

    def feed(self, link: int, data: bytes) -> None:
        self.step(FramesArrived(link, data, self.kernels.frame_scan(data, self.config.frame_bytes_max)))

    def take(self, link: int) -> bytes:
        return self.sent.pop(link, b"")

    def ask(self, link: int, data: bytes) -> tuple[int, bytes]:
        """One v1 request, answered: (status, payload)."""
        self.feed(link, data)
        self.disk()
        answer = self.take(link)
        status, _, length = wire.V1_RESPONSE_HEADER.unpack_from(answer)
        assert len(answer) == 12 + length, answer
        return status, answer[12:]

    def restart(self) -> Bench:
        """What a crash right now leaves, started again."""
        fresh = Bench(
            {name: bytearray(data) for name, data in self.files.items()}, self.config, self.limits, wall_ns=self.wall_ns
        )
        fresh.disk()
        return fresh


def v1(type_: int, payload: bytes = b"", request_id: int = 1) -> bytes:
    return (
        wire.V1_REQUEST_HEADER.pack(wire.V1_MAGIC, wire.V1_VERSION, type_, 0xFFFF, len(payload), request_id) + payload
    )


def v1_event(
    code: str,
    account: int,
    value: int = 1,
    timestamp_ns: int = 0,
    operation: int = 0,
    properties: dict[str, str] | None = None,
) -> tuple[bytes, bytes]:
    pairs = properties or {}
    event = wire.V1_EVENT.pack(code.encode(), account, timestamp_ns, value, operation, len(pairs))
    return event, b"".join(wire.V1_PROPERTY.pack(k.encode(), v.encode()) for k, v in pairs.items())


def v1_ingest(*events: tuple[bytes, bytes], sync: bool = True, request_id: int = 1) -> bytes:
    properties = b"".join(props for _, props in events)
    head = struct.pack("<II", len(events), len(properties) // 96)
    return v1(1 if sync else 0, head + b"".join(event for event, _ in events) + properties, request_id)


def v1_metric(
    code: str, aggregation: int = 0, dimensions: tuple[str, ...] = (), thresholds: tuple[tuple[str, int], ...] = ()
) -> bytes:
    out = wire.V1_METRIC_HEAD.pack(code.encode(), aggregation, 0, len(dimensions), b"")
    out += b"".join(wire.V1_FILTER.pack(key.encode(), 0, b"") for key in dimensions)
    out += wire.V1_THRESHOLD_HEAD.pack(len(thresholds))
    out += b"".join(wire.V1_THRESHOLD.pack(name.encode(), value, 0) for name, value in thresholds)
    return v1(wire.V1_TYPE_METRIC_PUT, out + wire.V1_PERIOD.pack(1, 1))


def v1_usage(account: int, code: str, start: int, end: int) -> bytes:
    return v1(wire.V1_TYPE_USAGE_QUERY, wire.V1_USAGE_QUERY.pack(account, start, end, code.encode(), 0))

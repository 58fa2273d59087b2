"""How much Python happens per request: calls counted, not timed, in a world without a clock.

The real driver, node and kernels run over a disk and a network that are dictionaries. `sys.setprofile` sees every call:
those of functions of this project (frames in unimeter/), and those that such a frame makes into C (kernels, struct,
list methods). The figures are exact and the same on every machine with this Python, so a change of one is a change of the code.

Run with UNIMETER_INTERPRETED=1: compiled modules do not tell a profiler what they do.

    durable_write         one sync v1 event alone: arrival, turn, write, its completion, answer
    batch_1_async/sync    64 v1 requests with one event each that arrive together; per request
    batch_500_sync        one v1 request with 500 events alone; per request: it must not grow with the events
    v2_batch_500_sync     the same over v2
    query                 one v1 usage query over whole hours, alone
    idle_second           a node without clients, a second
    cluster_durable_write a sync v1 event in a group of three: all three nodes together (without drivers)
    cluster_idle_second   three nodes with eight groups, without clients, a second: all three together
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from tests.cluster_bench import ClusterBench
from tests.harness import JAN_1, LIMITS, SMALL, v1_event, v1_ingest, v1_metric, v1_usage
from unimeter import kernels
from unimeter.core.effects import Apply, Create, Delete, Read, Touch, Write
from unimeter.core.inputs import ApplyDone, FileInfo, Now, ReadDone, WriteDone
from unimeter.core.node import Node
from unimeter.io.driver import Driver
from unimeter.kernels import protocol as wire
from unimeter.kernels.api import Bytes
from unimeter.sim.wire2 import frame

PACKAGE = str(Path(__file__).resolve().parent.parent / "unimeter") + "/"
REPEATS = 32
TOGETHER = 64
SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS


class Counter:
    """Counts calls while it is entered."""

    def __init__(self) -> None:
        self.python = self.c = 0

    def __enter__(self) -> Counter:
        sys.setprofile(self._seen)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _seen(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            self.python += frame.f_code.co_filename.startswith(PACKAGE)
        elif event == "c_call":
            self.c += frame.f_code.co_filename.startswith(PACKAGE)

    def per(self, units: int) -> dict[str, float]:
        return {"python": round(self.python / units, 2), "c": round(self.c / units, 2)}


class World:
    """Clock, disk, network and process at once: everything is done when it is told to be."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.files_held: dict[str, bytearray] = {}
        self.pending: list[Write | Create | Delete | Read | Apply] = []
        self.due: tuple[int, Callable[[], None]] | None = None
        self.answers = 0
        loaded = kernels.load()
        node = Node(SMALL, loaded, LIMITS, seed=7)
        self.driver = Driver(node, self, self, self, self, loaded, SMALL)
        self.driver.boot()
        self.settle()
        self.link = 1
        self.driver.link_opened(self.link, "client")
        self.ask(v1_metric("calls"))

    # ---- interface ----

    def now(self) -> Now:
        return Now(self.now_ns, JAN_1 + self.now_ns)

    def call_at(self, monotonic_ns: int, callback: Callable[[], None]) -> None:
        self.due = (monotonic_ns, callback)

    def start(
        self, on_done: Callable[[WriteDone | ReadDone | ApplyDone], None], presume: Callable[[WriteDone], None]
    ) -> None:
        self.on_done, self.presume = on_done, presume

    def files(self) -> tuple[FileInfo, ...]:
        return ()

    def submit(self, effect: Write | Create | Delete | Read) -> None:
        self.pending.append(effect)

    def answer(self, link: int, data: Bytes) -> None:
        self.send(link, data)

    def send(self, link: int, data: Bytes) -> None:
        self.answers += 1

    def close(self, link: int) -> None:
        raise AssertionError("it hung up")

    def dial(self, ref: int, address: str) -> None:
        raise AssertionError("there is nobody to dial")

    def work(self, effect: Apply) -> None:
        self.pending.append(effect)

    def touch(self, effect: Touch) -> None:
        """Memory has no time here."""

    def halt(self, reason: str | None) -> None:
        raise AssertionError(reason)

    # ---- what happens ----

    def settle(self) -> None:
        """Let everything happen that takes no time."""
        while True:
            if self.due is not None and self.due[0] <= self.now_ns:
                callback, self.due = self.due[1], None
                callback()
            elif self.pending:
                self._complete(self.pending.pop(0))
            else:
                return

    def _complete(self, effect: Write | Create | Delete | Read | Apply) -> None:
        held = self.files_held
        if isinstance(effect, Apply):
            self.on_done(ApplyDone(effect.op))
            return
        if isinstance(effect, Read):
            data = bytes(held.get(effect.file, b"")[effect.offset : effect.offset + effect.length])
            self.on_done(ReadDone(effect.op, data))
            return
        if isinstance(effect, Create):
            held[effect.file] = bytearray(effect.size_bytes)
        elif isinstance(effect, Delete):
            held.pop(effect.file, None)
        else:
            held[effect.file][effect.offset : effect.offset + len(effect.data)] = effect.data
        done = WriteDone(effect.op)
        if isinstance(effect, Write) and effect.lone:  # as on a disk: the node works while it writes
            self.presume(done)
        self.on_done(done)

    def ask(self, data: bytes) -> None:
        before = self.answers
        self.now_ns += 1000
        self.driver.bytes_arrived(self.link, data)
        self.settle()
        assert self.answers > before, "no answer"

    def pass_time(self, nanoseconds: int) -> None:
        until = self.now_ns + nanoseconds
        while self.due is not None and self.due[0] <= until:
            self.now_ns = max(self.now_ns, self.due[0])
            self.settle()
        self.now_ns = until


class Events:
    """Requests with events that were never there before."""

    def __init__(self) -> None:
        self._number = 0

    def v1(self, count: int, sync: bool) -> bytes:
        return v1_ingest(*[v1_event("calls", *self._next()) for _ in range(count)], sync=sync)

    def v2(self, count: int) -> bytes:
        dictionary = b"\5calls\0\0"
        rows = b"".join(
            wire.V2_ROW.pack(account, at, value, 0, 0, 0, 0, 0, 0)
            for account, value, at in (self._next() for _ in range(count))
        )
        head = wire.V2_INGEST_HEAD.pack(0, 0, 0, 0, count, 1, 0, len(rows), len(dictionary))
        return frame(kernels.load(), wire.V2_TYPE_INGEST, 1, head + dictionary + rows)

    def _next(self) -> tuple[int, int, int]:
        self._number += 1
        return 1 + self._number % 50, 1, JAN_1 + self._number


def of_requests(world: World, make: Callable[[], bytes], together: int = 1) -> dict[str, float]:
    """Per request: `make` gives one, `together` of them arrive at once."""
    data = [b"".join(make() for _ in range(together)) for _ in range(2 * REPEATS)]
    for warming in data[:REPEATS]:
        world.ask(warming)
    with Counter() as counter:
        for measured in data[REPEATS:]:
            world.ask(measured)
    return counter.per(REPEATS * together)


def of_one_node() -> dict[str, dict[str, float]]:
    world, events = World(), Events()
    counts = {
        "durable_write": of_requests(world, lambda: events.v1(1, True)),
        "batch_1_async": of_requests(world, lambda: events.v1(1, False), TOGETHER),
        "batch_1_sync": of_requests(world, lambda: events.v1(1, True), TOGETHER),
        "batch_500_sync": of_requests(world, lambda: events.v1(500, True)),
        "v2_batch_500_sync": of_requests(world, lambda: events.v2(500)),
        "query": of_requests(world, lambda: v1_usage(1, "calls", JAN_1, JAN_1 + HOUR_NS)),
    }
    world.pass_time(10 * SECOND_NS)
    with Counter() as counter:
        world.pass_time(10 * SECOND_NS)
    counts["idle_second"] = counter.per(10)
    return counts


def of_a_cluster() -> dict[str, dict[str, float]]:
    cluster, events = ClusterBench(nodes=3, groups=8), Events()
    cluster.start()
    cluster.run(10_000, cluster.ready)
    group = 1 % 8  # of account 1
    leader = cluster.leader(group)
    link = cluster.client(leader)
    cluster.ask(leader, link, v1_metric("calls"), 100)

    def write() -> None:
        event = v1_event("calls", 1, 1, JAN_1 + events._next()[2])
        assert cluster.ask(leader, link, v1_ingest(event)), "no answer"

    for _ in range(REPEATS):
        write()
    with Counter() as counter:
        for _ in range(REPEATS):
            write()
    counts = {"cluster_durable_write": counter.per(REPEATS)}
    cluster.run(2_000)
    with Counter() as counter:
        cluster.run(2_000)
    counts["cluster_idle_second"] = counter.per(2)
    return counts


def measure() -> dict[str, dict[str, float]]:
    return {**of_one_node(), **of_a_cluster()}

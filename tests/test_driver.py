"""Claims about the glue between a node and a world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.harness import LIMITS, SMALL, v1_event, v1_ingest, v1_metric
from unimeter import kernels
from unimeter.core.effects import Apply, Create, Delete, Effect, Halt, Read, Send, Touch, Write
from unimeter.core.inputs import DiskError, FileInfo, Input, Now, ReadDone, WriteDone
from unimeter.core.node import DISK_FAILED, Node
from unimeter.io.driver import Driver
from unimeter.kernels.api import Bytes

LOADED = kernels.load()
CONFIG = replace(SMALL, lone_arrivals=0)


class Still:
    """A world in which nothing ever completes: enough for what happens before the node."""

    def __init__(self) -> None:
        self.closed: list[int] = []

    def now(self) -> Now:
        return Now(1, 1)

    def call_at(self, monotonic_ns: int, callback: object) -> None: ...
    def start(self, on_done: object, presume: object) -> None: ...
    def files(self) -> tuple[FileInfo, ...]:
        return ()

    def submit(self, effect: Write | Create | Delete | Read) -> None: ...
    def send(self, link: int, data: Bytes) -> None: ...
    def answer(self, link: int, data: Bytes) -> None: ...
    def close(self, link: int) -> None:
        self.closed.append(link)

    def work(self, effect: Apply) -> None: ...
    def touch(self, effect: Touch) -> None: ...

    def halt(self, reason: str | None) -> None:
        raise AssertionError(reason)

    def done(self, event: WriteDone | ReadDone) -> None: ...


def test_incomplete_frames_of_all_links_together_are_bounded() -> None:
    config = replace(SMALL, receive_pending_bytes_max=100_000)
    loaded = kernels.load()
    world = Still()
    driver = Driver(Node(config, loaded, LIMITS), world, world, world, world, loaded, config)
    driver.boot()
    unfinished = v1_ingest(*[(bytes(96), b"")] * 600)[:40_000]
    for link in (1, 2, 3):
        driver.link_opened(link, "test")
    driver.bytes_arrived(1, unfinished)
    driver.bytes_arrived(2, unfinished)
    assert world.closed == []
    driver.bytes_arrived(3, unfinished)
    assert world.closed == [3], "the link that brings the byte too many is closed"
    driver.link_closed(1)
    driver.link_opened(4, "test")
    driver.bytes_arrived(4, unfinished)
    assert world.closed == [3], "what a closed link held no longer counts"


class Kept(Still):
    """A world that keeps what it is asked for, and completes what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[object] = []
        self.halts: list[str | None] = []
        self.turn: Callable[[], None] | None = None
        self.driver = Driver(Node(CONFIG, LOADED, LIMITS, seed=7), self, self, self, self, LOADED, CONFIG)
        self.driver.boot()
        self.settle()
        self.driver.link_opened(1, "client")
        self.driver.bytes_arrived(1, v1_metric("calls"))
        self.settle()
        self.asked.clear()

    def submit(self, effect: Write | Create | Delete | Read) -> None:
        self.asked.append(effect)

    def send(self, _link: int, data: Bytes) -> None:
        self.asked.append(bytes(data))

    def halt(self, reason: str | None) -> None:
        self.halts.append(reason)

    def call_at(self, monotonic_ns: int, callback: Callable[[], None]) -> None:
        self.turn = callback if monotonic_ns <= self.now().monotonic_ns else None

    def turns(self) -> None:
        while self.turn is not None:
            turn, self.turn = self.turn, None
            turn()

    def settle(self) -> None:
        """All that is asked of the disk goes well."""
        self.turns()
        while waiting := [effect for effect in self.asked if isinstance(effect, Write | Create | Delete | Read)]:
            self.asked.clear()
            for effect in waiting:
                done = ReadDone(effect.op, b"") if isinstance(effect, Read) else WriteDone(effect.op)
                self.driver.completed(done)
            self.turns()

    def lone_write(self) -> Write:
        """A synced event arrives: the write of its record."""
        self.asked.clear()
        self.driver.bytes_arrived(1, v1_ingest(v1_event("calls", 1), sync=True))
        self.turns()
        (write,) = self.asked
        assert isinstance(write, Write)
        assert write.lone
        self.asked.clear()
        return write


def test_what_follows_from_a_write_that_is_presumed_done_happens_when_it_is() -> None:
    world = Kept()
    write = world.lone_write()
    world.driver.presume(WriteDone(write.op))
    assert world.asked == [], "nothing leaves before the disk has it"
    world.driver.completed(WriteDone(write.op))
    (answer,) = world.asked
    assert isinstance(answer, bytes)
    again = world.lone_write()
    world.driver.completed(WriteDone(again.op))
    assert len(world.asked) == 1, "a write of which nothing was presumed is answered all the same"


@pytest.mark.parametrize("error", list(DiskError))
def test_what_follows_from_a_write_that_is_presumed_done_never_happens_when_it_fails(error: DiskError) -> None:
    world = Kept()
    write = world.lone_write()
    world.driver.presume(WriteDone(write.op))
    world.driver.completed(WriteDone(write.op, error))
    assert world.asked == []
    assert world.halts == [DISK_FAILED]
    world.driver.bytes_arrived(1, v1_ingest(v1_event("calls", 2), sync=True))
    assert world.asked == [], "it has halted"


class Ending:
    """A node that ends in its first step, for a reason of its own."""

    halted = False
    deadline_ns = 0

    def step(self, _now: Now, _event: Input) -> list[Effect]:
        self.halted = True
        return [Send(1, b"an answer"), Halt("what was read is damaged")]

    def glance(self, _link: int, _data: bytes) -> None: ...


@pytest.mark.parametrize("error", [None, *DiskError])
def test_a_node_that_ends_in_a_presumed_step_ends_whatever_becomes_of_the_write(error: DiskError | None) -> None:
    world = Kept()
    world.driver.node = Ending()
    world.driver.presume(WriteDone(7))
    assert world.halts == []
    world.driver.completed(WriteDone(7, error))
    assert world.halts == ["what was read is damaged"]
    assert world.asked == ([b"an answer"] if error is None else [])

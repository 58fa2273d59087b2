"""Claims about the glue between a node and a world."""

from __future__ import annotations

from dataclasses import replace

from tests.harness import LIMITS, SMALL, v1_ingest
from unimeter import kernels
from unimeter.core.effects import Apply, Create, Delete, Read, Touch, Write
from unimeter.core.inputs import FileInfo, Now, ReadDone, WriteDone
from unimeter.core.node import Node
from unimeter.io.driver import Driver
from unimeter.kernels.api import Bytes


class Still:
    """A world in which nothing ever completes: enough for what happens before the node."""

    def __init__(self) -> None:
        self.closed: list[int] = []

    def now(self) -> Now:
        return Now(1, 1)

    def call_at(self, monotonic_ns: int, callback: object) -> None: ...
    def start(self, on_done: object) -> None: ...
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

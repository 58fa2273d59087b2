"""A lone write waits for the disk in the event loop's thread: what the same step had to send has left before that, so followers
write while their leader does, and nobody's answer waits for a disk that it does not need."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from tests.disk_conformance import BLOCK, block
from unimeter.config import NodeConfig
from unimeter.core.effects import Create, Write
from unimeter.core.inputs import ApplyDone, ReadDone, WriteDone
from unimeter.io.real.address import bind
from unimeter.io.real.disk import RealDisk
from unimeter.io.real.network import RealNetwork

PATIENCE_SECONDS = 10


class Step:
    """A node whose one step, when bytes arrive on the first link, asks for a lone write and sends on all links, in an order of choice. The
    far ends are read while the disk writes, which is before the event loop does anything else."""

    def __init__(self, directory: Path, inner: bool, write_first: bool) -> None:
        self.loop = uvloop.new_event_loop()
        self.network = RealNetwork(self.loop, NodeConfig())
        self.network.events = self
        self.disk = RealDisk(directory, self.loop)
        self.disk.beside(self.network)
        self.disk.start(self.completed, self.presume)
        self.links: list[int] = []
        self.read: list[bytes] = []
        self.write_first = write_first
        bound = bind("127.0.0.1", 0)
        self.loop.run_until_complete((self.network.listen_peers if inner else self.network.listen)(bound))
        self.ends: list[socket.socket] = []
        for _ in range(3):
            self.ends.append(socket.create_connection(bound.getsockname(), PATIENCE_SECONDS))
            self.until(lambda: len(self.links) == len(self.ends))
        self.disk.submit(Create(1, "a", BLOCK))
        self.until(lambda: not self.disk.pending_count)

    def until(self, condition: Callable[[], object]) -> None:
        async def turns() -> None:
            while not condition():
                await asyncio.sleep(0)

        self.loop.run_until_complete(asyncio.wait_for(turns(), PATIENCE_SECONDS))

    def presume(self, event: WriteDone) -> None:
        assert event == WriteDone(2)
        self.read = [end.recv(100) for end in self.ends]

    def completed(self, completion: WriteDone | ReadDone | ApplyDone) -> None:
        if completion.op == 2:
            assert completion == WriteDone(2)
            assert self.read, "what it was presumed to be comes first"

    def bytes_arrived(self, _link: int, data: bytes) -> None:
        if self.write_first:
            self.disk.submit(Write(2, "a", 0, block(1), lone=True))
        for each in self.links:
            self.network.send(each, data)
        if not self.write_first:
            self.disk.submit(Write(2, "a", 0, block(1), lone=True))

    def link_opened(self, link: int, _peer: str, _inner: bool = False, _dialled: int = 0) -> None:
        self.links.append(link)

    def link_ended(self, link: int) -> None:
        self.network.close(link)

    def link_closed(self, link: int) -> None: ...

    def dial_failed(self, ref: int) -> None: ...

    def close(self) -> None:
        for end in self.ends:
            end.close()
        self.until(lambda: not self.network.link_count)
        self.network.close_all()
        self.disk.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


@pytest.fixture(params=[True, False], ids=["write first", "sends first"])
def write_first(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[True, False], ids=["peers", "clients"])
def step(request: pytest.FixtureRequest, write_first: bool, tmp_path: Path) -> Iterator[Step]:
    made = Step(tmp_path / "data", bool(request.param), write_first)
    yield made
    made.close()


def test_what_a_step_had_to_send_has_left_before_the_loop_waits_for_the_disk(step: Step) -> None:
    for end in step.ends:
        end.settimeout(PATIENCE_SECONDS)
    step.ends[0].sendall(b"go on")
    step.until(lambda: step.disk.figures.lone_writes)
    assert step.read == [b"go on"] * 3
